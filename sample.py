"""Draw from a checkpoint: python sample.py ckpt=<run folder or checkpoint> num_samples=64 out=grid.png."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="sample")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from imagegen.checkpoint import find_checkpoint, restore
    from imagegen.config import build, to_plain, validate
    from imagegen.run import one_line_errors, quiet_lightning
    from imagegen.tasks import ARRAYS, perform

    validate(cfg)
    quiet_lightning()
    with one_line_errors(ValueError, TypeError):
        checkpoint = find_checkpoint(cfg.ckpt)
        model, trained_on = restore(checkpoint)
        suffix = "npz" if cfg.task in ARRAYS else "png"
        out = checkpoint.with_name(f"{cfg.task}_seed{cfg.seed}.{suffix}") if cfg.out is None else Path(cfg.out)
        request = to_plain(cfg)
        for key in ("num_steps", "guidance_scale"):
            if (value := request.pop(key)) is not None:
                request["options"][key] = value
        if cfg.get("sampler"):
            request["options"]["sampler"] = build(cfg.sampler, "sampler")
        perform(model, trained_on, out, request)


if __name__ == "__main__":
    from imagegen.config import share_config_store

    share_config_store()
    main()
