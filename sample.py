"""Draw images from a checkpoint: python sample.py ckpt=<run folder or checkpoint> num_samples=64 out=grid.png."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="sample")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from imagegen.checkpoint import find_checkpoint, restore
    from imagegen.config import to_plain, validate
    from imagegen.pictures import save_samples
    from imagegen.run import one_line_errors, quiet_lightning

    validate(cfg)
    quiet_lightning()
    with one_line_errors(ValueError, TypeError):
        checkpoint = find_checkpoint(cfg.ckpt)
        model, _ = restore(checkpoint)
        out = checkpoint.with_name(f"samples_seed{cfg.seed}.png") if cfg.out is None else Path(cfg.out)
        options = to_plain(cfg)["options"]
        save_samples(model, out, cfg.num_samples, cfg.seed, cfg.labels, cfg.columns, options)
    print(out)


if __name__ == "__main__":
    main()
