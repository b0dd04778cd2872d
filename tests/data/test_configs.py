import inspect
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from imagegen.data import ImageDataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_config_matches_the_constructor(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEGEN_DATA_DIR", str(tmp_path))
    config = OmegaConf.create({"seed": 5, "data": OmegaConf.load(path)}).data
    assert list(config)[1:] == list(inspect.signature(ImageDataModule).parameters)
    module = instantiate(config, _convert_="all")
    assert module.name == path.stem
    assert module.seed == 5
    assert module.data_dir == tmp_path
    assert module.read.func.__module__ == f"imagegen.data.{path.stem.removeprefix('binarized_')}"
    monkeypatch.delenv("IMAGEGEN_DATA_DIR")
    assert instantiate(config, _convert_="all").data_dir is None


@pytest.mark.parametrize("name", ["digits", "shapes"])
def test_offline_data_fit_their_config(name: str) -> None:
    config = OmegaConf.create({"seed": 0, "data": OmegaConf.load(CONFIGS / f"{name}.yaml")}).data
    module = instantiate(config, _convert_="all")
    module.setup("fit")  # checks the image shape and the number of classes
    assert len(module.train_dataloader()) == module.num_train // module.batch_size
