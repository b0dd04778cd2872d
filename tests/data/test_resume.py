"""A run resumed from any checkpoint sees exactly the batches that the uninterrupted run saw after it."""

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from imagegen.data import ImageDataModule

NUM_TRAIN, BATCH_SIZE, NUM_EPOCHS = 22, 4, 3  # 5 full batches per epoch


def read(data_dir: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    labels = torch.arange(NUM_TRAIN)  # the label is the identity of the image
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return {"train": (images, labels), "val": (images[:6], labels[:6]), "test": (images[:6], labels[:6])}


class Recorder(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[tuple[int, ...]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        assert torch.allclose(images[:, 0, 0, 0], labels / 127.5 - 1)  # image and label stay together
        self.batches.append(tuple(labels.tolist()))
        return self.weight * images.mean()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveEverywhere(Callback):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[Path, int]] = []  # checkpoint, number of batches trained until then

    def save(self, trainer: Trainer, module: Recorder, hook: str) -> None:
        path = self.folder / f"{len(self.saved)}-{hook}.ckpt"
        trainer.save_checkpoint(path, weights_only=False)
        self.saved.append((path, len(module.batches)))

    def on_train_batch_end(self, trainer: Trainer, module: Recorder, *_: object) -> None:
        self.save(trainer, module, "batch-end")

    def on_validation_start(self, trainer: Trainer, module: Recorder) -> None:
        self.save(trainer, module, "validation-start")

    def on_validation_end(self, trainer: Trainer, module: Recorder) -> None:
        self.save(trainer, module, "validation-end")

    def on_train_epoch_end(self, trainer: Trainer, module: Recorder) -> None:
        self.save(trainer, module, "epoch-end")


def fit(folder: Path, callback: Callback | None = None, ckpt_path: Path | None = None, **options: object) -> Recorder:
    module = Recorder()
    data = ImageDataModule("toy", read, (1, 2, 2), NUM_TRAIN, 256, BATCH_SIZE, seed=3)
    trainer = Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=NUM_EPOCHS,
        callbacks=callback,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module


@pytest.mark.parametrize(
    ("options", "batches_per_epoch"),
    [({}, 5), ({"val_check_interval": 2}, 5), ({"limit_train_batches": 3}, 3)],
    ids=["whole-epochs", "validation-inside-epoch", "limited-epochs"],
)
def test_resume_gives_the_same_batches(tmp_path: Path, options: dict[str, int], batches_per_epoch: int) -> None:
    saver = SaveEverywhere(tmp_path)
    whole = fit(tmp_path, saver, **options).batches
    assert len(whole) == NUM_EPOCHS * batches_per_epoch
    assert len(set(whole)) == len(whole)  # else a wrong position could go unnoticed
    assert len(saver.saved) >= NUM_EPOCHS * (batches_per_epoch + 3)
    for path, num_trained in saver.saved:
        assert fit(tmp_path, ckpt_path=path, **options).batches == whole[num_trained:], path.name


def test_trainer_changes_the_order_each_epoch_and_shows_every_image_once(tmp_path: Path) -> None:
    batches = fit(tmp_path).batches
    epochs = [sum(batches[5 * epoch : 5 * epoch + 5], ()) for epoch in range(NUM_EPOCHS)]
    assert len({frozenset(enumerate(epoch)) for epoch in epochs}) == NUM_EPOCHS
    assert all(len(set(epoch)) == 20 for epoch in epochs)


def test_overfit_batches_repeats_the_same_batches(tmp_path: Path) -> None:
    batches = fit(tmp_path, overfit_batches=2).batches
    assert batches == NUM_EPOCHS * batches[:2]
