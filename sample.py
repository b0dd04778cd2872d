"""Draw images from a checkpoint: python sample.py ckpt=<run folder or checkpoint> num_samples=64 out=grid.png."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="sample")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from imagegen.checkpoint import find_checkpoint, restore
    from imagegen.config import to_plain, validate
    from imagegen.pictures import save_interpolations, save_samples
    from imagegen.run import one_line_errors, quiet_lightning

    validate(cfg)
    quiet_lightning()
    with one_line_errors(ValueError, TypeError):
        checkpoint = find_checkpoint(cfg.ckpt)
        model, _ = restore(checkpoint)
        out = checkpoint.with_name(f"{cfg.task}_seed{cfg.seed}.png") if cfg.out is None else Path(cfg.out)
        drawing = (cfg.seed, cfg.labels, cfg.columns, to_plain(cfg)["options"])
        if cfg.task == "sample":
            save_samples(model, out, cfg.num_samples, *drawing)
        elif cfg.task == "interpolate":
            save_interpolations(model, out, cfg.num_samples, cfg.num_steps, *drawing)
        else:
            raise ValueError(f"task: {cfg.task} is not one of sample, interpolate")
    print(out)


if __name__ == "__main__":
    main()
