"""Score a checkpoint, or samples made by anyone, on the test split: python evaluate.py ckpt=<run folder>."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from imagegen.config import validate
    from imagegen.evaluation import evaluate
    from imagegen.run import one_line_errors, quiet_lightning

    validate(cfg)
    quiet_lightning()
    with one_line_errors():
        evaluate(cfg)


if __name__ == "__main__":
    from imagegen.config import share_config_store

    share_config_store()
    main()
