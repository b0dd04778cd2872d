from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from imagegen.callbacks import BestAndLast
from imagegen.checkpoint import check_resumable, find_checkpoint, load_checkpoint, load_weights, restore
from imagegen.config import UserError, build, to_plain
from imagegen.models import VAE, GenerativeModel

CONFIGS = Path(__file__).parents[1] / "configs"


class Trained(NamedTuple):
    folder: Path  # a run folder with checkpoints/best.ckpt
    model: GenerativeModel
    cfg: DictConfig

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A VAE trained for a few steps on digits."""
    overrides = ["model=vae", "model.network.hidden=[16]", "data.batch_size=16", "run_dir=unused"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    lightning.seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("run")
    model = build(cfg.model, "model")
    keep = BestAndLast(str(folder / "checkpoints"), monitor=None, mode="min")
    keep.config = to_plain(cfg)
    options: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = lightning.Trainer(accelerator="cpu", max_steps=4, limit_val_batches=0, callbacks=[keep], **options)
    trainer.fit(model, build(cfg.data, "data"))
    trainer.save_checkpoint(folder / "checkpoints" / "best.ckpt")
    return Trained(folder, model, cfg)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        restore(path)
    message = str(error.value)
    assert message.startswith(f"ckpt: {path} ")
    assert len(message.splitlines()) == 1
    return message


def changed(trained: Trained, path: Path, **changes: Any) -> Path:
    """A copy of a real checkpoint in which some entries are others."""
    torch.save(load_checkpoint(trained.checkpoint) | changes, path)
    return path


def test_a_checkpoint_holds_nothing_but_weights_and_plain_values(trained: Trained) -> None:
    content = torch.load(trained.checkpoint, weights_only=True)
    assert content["images_seen"] == trained.model.images_seen == 64
    assert content["config"] == to_plain(trained.cfg)
    assert load_checkpoint(trained.checkpoint).keys() == content.keys()


def test_restore_gives_the_model_and_the_config_of_its_run(trained: Trained) -> None:
    model, cfg = restore(trained.checkpoint)
    assert isinstance(model, VAE)
    assert model is not trained.model
    assert model.images_seen == 64
    assert cfg.data == trained.cfg.data
    assert model.state_dict().keys() == trained.model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert value.equal(trained.model.state_dict()[name]), name
    assert model.sample(3, seed=5).equal(trained.model.sample(3, seed=5))


def test_a_checkpoint_alone_is_enough(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.ckpt").write_bytes(trained.checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    model, _ = restore(find_checkpoint("model.ckpt"))
    assert model.sample(1, seed=0).equal(trained.model.sample(1, seed=0))


def test_a_run_folder_stands_for_its_checkpoints(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").touch()
    assert find_checkpoint(tmp_path) == folder / "last.ckpt", "where there is no best, the last will do"
    (folder / "best.ckpt").touch()
    assert find_checkpoint(tmp_path) == folder / "best.ckpt"
    assert find_checkpoint(str(tmp_path), "last") == folder / "last.ckpt"
    assert find_checkpoint(folder / "last.ckpt") == folder / "last.ckpt"
    (folder / "last.ckpt").unlink()
    assert find_checkpoint(tmp_path, "last") == folder / "best.ckpt"


@pytest.mark.parametrize("make_folder", [True, False])
def test_a_run_folder_without_a_checkpoint_is_refused(tmp_path: Path, make_folder: bool) -> None:
    if make_folder:
        (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="is no run folder with a checkpoint") as error:
        find_checkpoint(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["missing.ckpt", "missing/folder", ""])
def test_a_missing_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="^ckpt: ") as error:
        find_checkpoint(name)
    assert len(str(error.value).splitlines()) == 1


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.ckpt"
    path.touch()
    assert "is empty" in refusal(path)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(trained: Trained, tmp_path: Path, share: float) -> None:
    path = tmp_path / "truncated.ckpt"
    content = trained.checkpoint.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"hello\n",
        b"name: digits\nseed: 0\n",
        b'{"test/fid": 12.5}\n',
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(1000),
        b"\xff" * 1000,
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("content", [b"epoch,loss\n0,1.5\n", b"state_dict\n", b"a text\n", b".", b"\x80\x02."])
def test_a_file_whose_first_bytes_look_like_a_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.ckpt"
    path.write_bytes(content)
    refusal(path)


def test_another_zip_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"weight": torch.zeros(2)}, "epoch": 3, "pytorch-lightning_version": "2.5.0"},
        {"weight": torch.zeros(2)},
        {"config": {}, "state_dict": {}},
        torch.zeros(3),
        [1, 2, 3],
        None,
    ],
)
def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "foreign.ckpt"
    torch.save(content, path)
    assert "was not written by this project" in refusal(path)


@pytest.mark.parametrize("config", [{}, {"model": {}}, {"model": 1, "data": {}}, "text", ["a"]])
def test_a_checkpoint_without_the_config_of_a_model_is_refused(trained: Trained, tmp_path: Path, config: Any) -> None:
    refusal(changed(trained, tmp_path / "bare.ckpt", config=config))


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("key", ["config", "state_dict", "images_seen", "more"])
def test_code_in_a_checkpoint_is_not_run(trained: Trained, tmp_path: Path, key: str) -> None:
    proof = tmp_path / "proof"
    path = changed(trained, tmp_path / "malicious.ckpt", **{key: Malicious(proof)})
    assert "refused as unsafe" in refusal(path)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists(), "the file was harmful indeed"


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_code_in_a_plain_pickle_is_not_run(tmp_path: Path, protocol: int) -> None:
    path, proof = tmp_path / "malicious.ckpt", tmp_path / "proof"
    path.write_bytes(pickle.dumps(Malicious(proof), protocol))
    refusal(path)
    assert not proof.exists()


def call_of_a_system_function(folder: Path) -> dict[str, Any]:
    return {"_target_": "os.mkdir", "path": str(folder)}


def call_by_a_detour(folder: Path) -> dict[str, Any]:
    init = {"class_path": "os.mkdir", "init_args": {}}
    return {"_target_": "lightning.pytorch.cli.instantiate_class", "args": str(folder), "init": init}


def unpickling_by_a_detour(folder: Path) -> dict[str, Any]:
    path = folder.with_name("inner.ckpt")
    torch.save({"state_dict": Malicious(folder)}, path)
    model = {"_target_": "imagegen.models.VAE", "_partial_": True}
    target = "lightning.pytorch.core.saving._load_from_checkpoint"
    return {"_target_": target, "cls": model, "checkpoint_path": str(path), "weights_only": False}


@pytest.mark.parametrize(
    "harm",
    [
        call_of_a_system_function,
        call_by_a_detour,
        unpickling_by_a_detour,
    ],
)
def test_the_config_of_a_checkpoint_cannot_call_what_it_likes(trained: Trained, tmp_path: Path, harm: Any) -> None:
    proof = tmp_path / "proof"
    config = to_plain(trained.cfg)
    config["model"]["likelihood"] = harm(proof)
    path = changed(trained, tmp_path / "malicious.ckpt", config=config)
    with pytest.raises(UserError, match="is not allowed"):
        restore(path)
    assert not proof.exists()


def test_weights_of_another_size_are_refused(trained: Trained, tmp_path: Path) -> None:
    config = to_plain(trained.cfg)
    config["model"]["network"]["hidden"] = [17]
    message = refusal_of_weights(changed(trained, tmp_path / "other.ckpt", config=config))
    assert "do not fit VAE" in message


def refusal_of_weights(path: Path) -> str:
    with pytest.raises(UserError) as error:
        restore(path)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_missing_weights_are_refused(trained: Trained, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(trained.checkpoint)
    checkpoint["state_dict"].popitem()
    with pytest.raises(UserError, match="do not fit"):
        load_weights(build(trained.cfg.model, "model"), checkpoint, tmp_path / "some.ckpt")


def test_a_model_that_draws_nothing_is_refused(trained: Trained, tmp_path: Path) -> None:
    config = to_plain(trained.cfg)
    config["model"] = config["model"]["likelihood"]
    assert "DiscretizedLogistic, which draws no images" in refusal(changed(trained, tmp_path / "a.ckpt", config=config))


def test_a_run_may_be_resumed_with_other_settings_but_not_as_another_model(trained: Trained) -> None:
    cfg = trained.cfg.copy()
    OmegaConf.update(cfg, "model.lr", 0.5)
    check_resumable(trained.checkpoint, load_checkpoint(trained.checkpoint), cfg)
    for key, value in [
        ("model._target_", "imagegen.models.GAN"),
        ("model.network.hidden", [8]),
        ("data.image_shape", [3, 8, 8]),
    ]:
        other = trained.cfg.copy()
        OmegaConf.update(other, key, value)
        with pytest.raises(UserError, match=r"^resume: .* is of another model") as error:
            check_resumable(trained.checkpoint, load_checkpoint(trained.checkpoint), other)
        assert key.removesuffix(".hidden") in str(error.value)
        assert len(str(error.value).splitlines()) == 1
