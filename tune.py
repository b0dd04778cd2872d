"""Search for good values: python tune.py search=vae num_trials=30 -- model=vae data=digits."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="configs", config_name="tune")
def main(cfg: DictConfig) -> None:
    from pathlib import Path

    from imagegen.tuning import tune

    tune(cfg, Path(__file__).with_name("train.py"))


if __name__ == "__main__":
    import sys

    from imagegen.config import share_config_store
    from imagegen.tuning import gather

    share_config_store()
    sys.argv[1:] = gather(sys.argv[1:])
    main()
