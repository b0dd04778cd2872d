"""Train a model, score it and draw from it: python train.py model=diffusion data=mnist."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from imagegen.checkpoint import check_resumable, find_checkpoint
    from imagegen.config import build, to_plain, validate
    from imagegen.run import Run, one_line_errors
    from imagegen.scores import collect_scores

    validate(cfg)
    resume = None if cfg.resume is None else find_checkpoint(cfg.resume, "last")
    if resume is not None:
        check_resumable(resume, cfg)

    with one_line_errors(), Run(cfg) as run:
        data = build(cfg.data, "data")
        model = build(cfg.model, "model")
        callbacks = {name: build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node}
        callbacks["checkpoints"].config = to_plain(cfg)
        trainer = build(cfg.trainer, "trainer", callbacks=list(callbacks.values()), logger=run.build_loggers())

        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
        costs = {"images_seen": model.images_seen, "train_seconds": round(run.seconds, 1)}
        trainer.test(model, data, ckpt_path="best", weights_only=True, verbose=False)

        scores = collect_scores(trainer, model, **costs)
        run.finish(scores)
    return scores.get(cfg.optimized_metric)


if __name__ == "__main__":
    main()
