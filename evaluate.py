"""Score a checkpoint on the test split: python evaluate.py ckpt=<run folder or checkpoint>."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from imagegen.callbacks import GenerationMetrics
    from imagegen.checkpoint import find_checkpoint, restore
    from imagegen.config import build, validate
    from imagegen.run import one_line_errors, quiet_lightning
    from imagegen.scores import collect_scores, summary, write_json

    validate(cfg)
    quiet_lightning()
    with one_line_errors():
        checkpoint = find_checkpoint(cfg.ckpt)
        model, saved = restore(checkpoint)
        if cfg.data_dir is not None:
            saved.data.data_dir = cfg.data_dir
        metrics = GenerationMetrics(cfg.features, cfg.num_samples, cfg.num_samples, cfg.seed)
        trainer = build(cfg.trainer, "trainer", callbacks=[metrics], logger=False)
        trainer.test(model, build(saved.data, "data"), verbose=False)

        scores = collect_scores(trainer, model)
        out = checkpoint.with_name("evaluation.json") if cfg.out is None else Path(cfg.out)
        if trainer.is_global_zero:
            write_json(out, scores)
            print(summary({"checkpoint": str(checkpoint), **scores, "written": str(out)}))


if __name__ == "__main__":
    main()
