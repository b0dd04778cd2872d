"""One data module for every data set, and a loader that indexes whole batches out of tensors in memory."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from pydantic import PositiveInt
from torch import Tensor
from torch.utils.data import BatchSampler, Sampler

from imagegen.data.download import DataError

Splits = dict[str, tuple[Tensor, Tensor]]


def from_uint8(images: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 in [-1, 1]. The shape stays.

    Raises:
        TypeError: the images are not uint8.

    """
    if images.dtype != torch.uint8:
        raise TypeError(f"expected uint8 images, got {images.dtype}")
    return images.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(images: Tensor) -> Tensor:
    """Map floats in [-1, 1] to the nearest of uint8 0..255; values outside are clamped. Inverse of `from_uint8`."""
    # float32 first: bfloat16 has only 8 bits of precision, so the sum would already be off by a level.
    return images.to(torch.float32).add(1.0).mul_(127.5).round_().clamp_(0.0, 255.0).to(torch.uint8)


class ShardSampler(Sampler[int]):
    """The indices that one of `world_size` processes sees in an epoch.

    Shuffled, they are a pure function of (seed, epoch, rank): nothing depends on a global random state. `drop_last`
    gives every rank the same number of indices; without it the ranks share all of them, and no index is seen twice.
    """

    def __init__(self, num_images: int, shuffle: bool, seed: int, rank: int, world_size: int, drop_last: bool) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0..{world_size - 1}, got {rank}")
        self.num_images, self.shuffle, self.seed = num_images, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.end = num_images - num_images % world_size if drop_last else num_images
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the passes from now on."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(range(self.rank, self.end, self.world_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices().tolist())

    def indices(self) -> Tensor:
        """Return the int64 indices (len(self),) of the current epoch, in order."""
        if not self.shuffle:
            return torch.arange(self.rank, self.end, self.world_size)
        # SeedSequence mixes the two numbers well; seed + epoch would give seed 1 the orders of seed 0, one epoch late.
        mixed = int(np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)[0])
        # manual_seed takes up to 2**64 - 1 by its documentation, but half of that range is sure everywhere.
        order = torch.randperm(self.num_images, generator=torch.Generator().manual_seed(mixed >> 1))
        return order[self.rank : self.end : self.world_size]


class BatchLoader:
    """Batches of (images uint8 (B, C, H, W), labels int64 (B,)), each indexed at once out of tensors in memory.

    Every pass repeats the order of the current epoch until `set_epoch` chooses another.

    `state_dict` holds the epoch and the number of batches already handed out. After `load_state_dict` the next pass
    begins behind those, if the epoch is still the same; both numbers are the same on all ranks. A checkpoint written
    inside a training step counts the batch of that step as handed out, although its update is missing.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        shuffle: bool,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
    ) -> None:
        """Shard the images over the ranks.

        Raises:
            ValueError: the batch size is not positive, or the rank has no image.
            DataError: `drop_last` would leave no batch.

        """
        if batch_size <= 0:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self._shard = ShardSampler(len(images), shuffle, seed, rank, world_size, drop_last)
        # The Trainer sets the epoch of `batch_sampler.sampler`. Under the name `sampler`, which it looks for as well,
        # it would take this object for a DataLoader and ask for more.
        self.batch_sampler = BatchSampler(self._shard, batch_size, drop_last)
        if len(self) == 0:
            raise DataError(
                f"no batch: batch_size {batch_size} is more than the {len(self._shard)} images of rank {rank} "
                f"({len(images)} images for {world_size} processes)"
            )
        self._position = (0, 0)  # epoch, batches handed out in it
        self._resume: tuple[int, int] | None = None  # a position that the next pass has to continue from

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the passes from now on."""
        self._shard.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, so this line runs at the first next(): the Trainer calls iter() before it sets the epoch.
        epoch, resume = self._shard.epoch, self._resume
        self._resume = None
        start = resume[1] if resume is not None and resume[0] == epoch else 0
        indices = self._shard.indices()
        for batch in range(start, len(self)):
            chosen = indices[batch * self.batch_size : (batch + 1) * self.batch_size]
            # Before the yield: a checkpoint written while this batch is in use counts it as handed out.
            self._position = (epoch, batch + 1)
            yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def state_dict(self) -> dict[str, int]:
        """Return the epoch and the number of batches already handed out in it."""
        epoch, batches = self._position
        # Between two epochs the position is still that of the old one.
        return {"epoch": self._shard.epoch, "batches": batches if epoch == self._shard.epoch else 0}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue from a saved position.

        Raises:
            ValueError: the position lies behind the last batch, so the data or the batch size was another.

        """
        if not 0 <= state["batches"] <= len(self):
            raise ValueError(f"cannot resume after batch {state['batches']}: an epoch has {len(self)} batches")
        self._shard.set_epoch(state["epoch"])
        self._position = self._resume = (state["epoch"], state["batches"])


class ImageDataModule(LightningDataModule):
    """A data set in memory, in batches of (images float32 (B, C, H, W) in [-1, 1], labels int64 (B,)).

    `read` takes the data folder and returns uint8 images (N, C, H, W) and int64 labels (N,) for each of "train", "val"
    and "test"; images stay uint8 until they are on the device. `batch_size` counts images per process.

    `binarize` makes each pixel black or white with its grey level as the probability of white (Salakhutdinov & Murray
    2008): `fixed` once, by a seed of its own; `dynamic` anew in each training step, fixed for validation and test.
    `num_levels` says to likelihoods how many values a pixel can then have: 2, and otherwise 256.
    `random_flip` mirrors each training image from left to right with probability 1/2.
    `num_train_images` are used of the training images, the same ones in every run: what can be learned from few?
    """

    BINARIZE_SEED = 0
    CHOICE_SEED = 0

    def __init__(
        self,
        name: str,
        read: Callable[[Path | None], Splits],
        image_shape: Sequence[int],
        num_classes: PositiveInt,
        num_levels: PositiveInt,
        batch_size: PositiveInt,
        data_dir: str | Path | None = None,
        seed: int = 0,
        binarize: Literal["fixed", "dynamic"] | None = None,
        random_flip: bool = False,
        num_train_images: PositiveInt | None = None,
    ) -> None:
        """Store the settings; nothing is read before `prepare_data` or `setup`.

        Raises:
            ValueError: the batch size is not positive, the image shape is not three numbers, or the number of levels
                is not that of the pixels.

        """
        super().__init__()
        if batch_size <= 0:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        if len(image_shape) != 3:
            raise ValueError(f"image_shape must be channels, height, width, got {tuple(image_shape)}")
        if num_levels != (256 if binarize is None else 2):
            raise ValueError(
                f"num_levels is {num_levels}, but pixels have {256 if binarize is None else 2} levels with "
                f"binarize={'null' if binarize is None else binarize}"
            )
        self.name = name
        self.read = read
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.num_classes = num_classes
        self.num_levels = num_levels
        self.batch_size = batch_size
        self.data_dir = Path(data_dir) if data_dir else None
        self.seed = seed
        self.binarize = binarize
        self.random_flip = random_flip
        self.num_train_images = num_train_images
        self.splits: Splits = {}

    @property
    def num_train(self) -> int:
        """Number of training images over all processes."""
        return len(self.splits["train"][0])

    def prepare_data(self) -> None:
        """Read once, so that files are downloaded by one process of each machine only."""
        if not self.splits:
            self.splits = self._read()

    def setup(self, stage: str | None = None) -> None:
        """Read, unless this process has done so.

        Raises:
            DataError: files are missing or damaged, or the data do not have the image shape, the number of classes or
                as many training images as configured.

        """
        if not self.splits:
            self.splits = self._read()

    def _read(self) -> Splits:
        splits = self.read(self.data_dir)
        for split, (images, _) in splits.items():
            if tuple(images.shape[1:]) != self.image_shape:
                raise DataError(
                    f"data {self.name}: image_shape is {self.image_shape}, but {split} has {tuple(images.shape[1:])}"
                )
        num_classes = 1 + max(int(labels.max()) for _, labels in splits.values())
        if num_classes != self.num_classes:
            raise DataError(
                f"data {self.name}: num_classes is {self.num_classes}, but the labels have {num_classes}; "
                f"set data.num_classes={num_classes}"
            )
        if self.num_train_images is not None:
            images, labels = splits["train"]
            if self.num_train_images > len(images):
                raise DataError(
                    f"data {self.name}: num_train_images is {self.num_train_images}, but there are {len(images)}"
                )
            order = torch.randperm(len(images), generator=torch.Generator().manual_seed(self.CHOICE_SEED))
            chosen = order[: self.num_train_images].sort().values
            splits["train"] = images[chosen], labels[chosen]
        if self.binarize is not None:
            generator = torch.Generator().manual_seed(self.BINARIZE_SEED)
            for split in ("test", "val", "train"):
                images, labels = splits[split]
                if split != "train" or self.binarize == "fixed":
                    white = torch.rand(images.shape, generator=generator) < images / 255
                    splits[split] = white.to(torch.uint8) * 255, labels
        return splits

    def train_dataloader(self) -> BatchLoader:
        """Return shuffled full batches, as many on each rank."""
        # The Trainer cannot switch off the shuffling of a loader it does not know, so overfit_batches is done here.
        overfit = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        return self._loader("train", shuffle=not overfit, drop_last=True)

    def val_dataloader(self) -> BatchLoader:
        """Return every validation image once over all ranks, in fixed order."""
        return self._loader("val", shuffle=False, drop_last=False)

    def test_dataloader(self) -> BatchLoader:
        """Return every test image once over all ranks, in fixed order."""
        return self._loader("test", shuffle=False, drop_last=False)

    def on_after_batch_transfer(self, batch: tuple[Tensor, Tensor], dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Turn the images into float32 in [-1, 1] on the device, so that a quarter of the bytes is transferred."""
        images, labels = batch
        is_training = self.trainer is not None and self.trainer.training
        if self.random_flip and is_training:
            mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
        if self.binarize == "dynamic" and is_training:
            return (torch.rand(images.shape, device=images.device) < images / 255).float() * 2 - 1, labels
        return from_uint8(images), labels

    def _loader(self, split: str, shuffle: bool, drop_last: bool) -> BatchLoader:
        images, labels = self.splits[split]
        rank, world_size = (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)
        return BatchLoader(images, labels, self.batch_size, shuffle, self.seed, rank, world_size, drop_last)
