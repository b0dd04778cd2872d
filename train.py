"""Train a model, score it and draw from it: python train.py model=diffusion data=mnist."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from imagegen.config import build, to_plain, validate
    from imagegen.preview import preview
    from imagegen.resume import start
    from imagegen.run import Run, one_line_errors
    from imagegen.scores import collect_scores

    beginning = start(cfg)
    cfg = beginning.cfg
    validate(cfg)
    if beginning.scores is not None:
        return beginning.scores.get(cfg.optimized_metric)

    if cfg.dry:
        with one_line_errors():
            preview(cfg)
        return None

    with one_line_errors(), Run(beginning) as run:
        data = build(cfg.data, "data")
        model = build(cfg.model, "model")
        callbacks = {name: build(node, f"callbacks.{name}") for name, node in cfg.callbacks.items() if node}
        checkpoints = callbacks["checkpoints"]
        checkpoints.config, checkpoints.origin = to_plain(cfg), beginning.origin()
        trainer = build(cfg.trainer, "trainer", callbacks=list(callbacks.values()), logger=run.build_loggers())

        trainer.fit(model, data, ckpt_path=beginning.checkpoint, weights_only=True)
        costs = {"images_seen": model.images_seen, "train_seconds": round(checkpoints.seconds, 1)}
        trainer.test(model, data, ckpt_path="best", weights_only=True, verbose=False)

        scores = collect_scores(trainer, model, **costs)
        run.finish(scores)
    return scores.get(cfg.optimized_metric)  # what a sweep gets back


if __name__ == "__main__":
    import sys

    from imagegen.config import share_config_store
    from imagegen.resume import complete

    share_config_store()
    sys.argv[1:] = complete(sys.argv[1:])
    main()
