from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imagegen.data import DataError, ImageDataModule
from imagegen.data.module import BatchLoader, from_uint8, to_uint8


def make_loader(
    num_images: int = 23, batch_size: int = 4, shuffle: bool = True, seed: int = 0, **options: int
) -> BatchLoader:
    labels = torch.arange(num_images)
    images = labels.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return BatchLoader(images, labels, batch_size, shuffle, seed, **options)


def order(loader: BatchLoader, epoch: int = 0) -> list[int]:
    loader.set_epoch(epoch)
    return [int(label) for _, labels in loader for label in labels]


def test_range_and_round_trip() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    images = from_uint8(levels)
    assert images.dtype == torch.float32
    assert (images[0], images[255]) == (-1.0, 1.0)
    assert torch.allclose(images[[51, 102]], torch.tensor([-0.6, -0.2]))
    assert torch.equal(to_uint8(images), levels)
    # Neither almost half a level of noise nor the precision of bfloat16 may move a level.
    assert torch.equal(to_uint8(images + 0.9 / 255), levels)
    assert to_uint8(torch.tensor([-7.0, 1.01, 9.0])).tolist() == [0, 255, 255]
    coarse = images.to(torch.bfloat16)
    assert torch.equal(to_uint8(coarse), to_uint8(coarse.double()))
    with pytest.raises(TypeError, match="uint8"):
        from_uint8(images)


def test_images_and_labels_stay_together() -> None:
    for images, labels in make_loader(24):
        assert images.shape == (4, 1, 2, 2)
        assert images.dtype == torch.uint8
        assert torch.equal(images[:, 0, 1, 1].long(), labels)


def test_order_is_a_function_of_seed_and_epoch_only() -> None:
    orders = {(seed, epoch): tuple(order(make_loader(seed=seed), epoch)) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16  # also seed 1, epoch 0 is not seed 0, epoch 1
    torch.manual_seed(5)
    before = torch.get_rng_state()
    loader = make_loader(seed=2)
    assert tuple(order(loader, 3)) == orders[2, 3]
    assert tuple(order(loader, 1)) == orders[2, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_is_equally_likely_at_every_place() -> None:
    loader = make_loader(5, 1)
    counts = torch.zeros(5, 5)
    for epoch in range(2000):
        counts[torch.arange(5), order(loader, epoch)] += 1
    # Chi-squared with 16 degrees of freedom: above 45 with probability 0.0001.
    assert float(((counts - 400) ** 2 / 400).sum()) < 45


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_training_shards(world_size: int) -> None:
    whole = order(make_loader(23, 1), 7)
    ranks = range(world_size)
    shards = [order(make_loader(23, 3, rank=rank, world_size=world_size, drop_last=True), 7) for rank in ranks]
    size = 23 // world_size // 3 * 3
    for rank, shard in enumerate(shards):
        assert shard == whole[rank::world_size][:size]
        sampler = make_loader(23, 3, rank=rank, world_size=world_size, drop_last=True).batch_sampler.sampler
        assert len(list(sampler)) == len(sampler) == 23 // world_size


@pytest.mark.parametrize(("num_images", "world_size"), [(23, 1), (24, 2), (23, 2), (23, 3), (5, 4)])
def test_evaluation_shards_hold_every_image_once(num_images: int, world_size: int) -> None:
    loaders = [make_loader(num_images, 4, False, rank=rank, world_size=world_size) for rank in range(world_size)]
    shards = [order(loader) for loader in loaders]
    assert sorted(chain(*shards)) == list(range(num_images))
    assert all(shard == sorted(shard) for shard in shards)
    assert all(len(list(loader)) == len(loader) for loader in loaders)


def test_last_batch() -> None:
    assert [len(labels) for _, labels in make_loader(10)] == [4, 4, 2]
    assert [len(labels) for _, labels in make_loader(10, drop_last=True)] == [4, 4]
    assert [len(labels) for _, labels in make_loader(8)] == [4, 4]


def test_state() -> None:
    loader = make_loader()
    loader.set_epoch(2)
    batches = [labels.tolist() for _, labels in loader]
    iterator = iter(loader)
    assert loader.state_dict()["epoch"] == 2
    for i in range(3):
        next(iterator)
        assert loader.state_dict() == {"epoch": 2, "batches": i + 1}
    state = loader.state_dict()
    loader.set_epoch(3)
    assert loader.state_dict() == {"epoch": 3, "batches": 0}

    resumed = make_loader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    iter(resumed)  # an iterator that is never used changes nothing
    resumed.set_epoch(2)
    assert [labels.tolist() for _, labels in resumed] == batches[3:]
    assert [labels.tolist() for _, labels in resumed] == batches  # the second pass is whole

    other_epoch = make_loader()
    other_epoch.load_state_dict(state)
    other_epoch.set_epoch(3)
    assert len(list(other_epoch)) == len(other_epoch)


def test_loader_errors() -> None:
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size must be positive, got {batch_size}"):
            make_loader(batch_size=batch_size)
    with pytest.raises(DataError, match="batch_size 8 is more than the 7 images of rank 1"):
        make_loader(15, 8, rank=1, world_size=2, drop_last=True)
    with pytest.raises(DataError, match="no batch"):
        make_loader(2, 8, rank=2, world_size=3)
    with pytest.raises(ValueError, match="rank"):
        make_loader(rank=2, world_size=2)
    with pytest.raises(ValueError, match="cannot resume after batch 7: an epoch has 6 batches"):
        make_loader().load_state_dict({"epoch": 0, "batches": 7})


def make_module(
    image_shape=(1, 2, 2), num_classes: int = 10, batch_size: int = 4, data_dir=None, **options
) -> ImageDataModule:
    def read(folder: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
        calls.append(folder)
        images = torch.arange(10, dtype=torch.uint8)[:, None, None, None].expand(10, 1, 2, 2).contiguous()
        return dict.fromkeys(("train", "val", "test"), (images, torch.arange(10)))

    calls: list[Path | None] = []
    module = ImageDataModule("toy", read, image_shape, num_classes, 256, batch_size, data_dir, **options)
    module.calls = calls
    return module


def test_data_module_reads_once_and_hands_out_loaders() -> None:
    module = make_module([1, 2, 2], data_dir="some/folder")
    assert module.image_shape == (1, 2, 2)
    assert module.calls == []
    module.prepare_data()
    module.setup("fit")
    module.setup("test")
    assert module.calls == [Path("some/folder")]
    assert module.num_train == 10
    assert (len(module.train_dataloader()), len(module.val_dataloader()), len(module.test_dataloader())) == (2, 3, 3)
    assert order(module.val_dataloader()) == order(module.test_dataloader()) == list(range(10))
    assert order(module.train_dataloader()) != sorted(order(module.train_dataloader()))
    images, labels = module.on_after_batch_transfer(next(iter(module.val_dataloader())), 0)
    assert torch.allclose(images[:, 0, 0, 0], torch.arange(4) / 127.5 - 1)
    assert labels.tolist() == [0, 1, 2, 3]


def test_setup_alone_reads_too() -> None:
    module = make_module(data_dir="")
    module.setup()
    assert module.calls == [None]


def test_data_module_errors() -> None:
    with pytest.raises(ValueError, match="batch_size must be positive, got 0"):
        make_module(batch_size=0)
    with pytest.raises(ValueError, match="image_shape must be"):
        make_module((2, 2))
    with pytest.raises(DataError, match=r"toy: image_shape is \(3, 2, 2\), but train has \(1, 2, 2\)"):
        make_module((3, 2, 2)).setup("fit")
    for wrong in (9, 11):
        with pytest.raises(DataError, match=f"toy: num_classes is {wrong}, but the labels have 10"):
            make_module(num_classes=wrong).setup("fit")


def test_few_training_images_are_the_same_ones_in_every_run() -> None:
    few = []
    for seed in (0, 1):
        module = make_module(num_train_images=6, batch_size=2, seed=seed)
        module.setup()
        assert (module.num_train, len(module.train_dataloader())) == (6, 3)
        few.append(module.splits["train"])
        whole = make_module()
        whole.setup()
        assert all(module.splits[name][0].equal(whole.splits[name][0]) for name in ("val", "test"))
        images, labels = whole.splits["train"]
        rows = [next(i for i, row in enumerate(images) if row.equal(image)) for image in module.splits["train"][0]]
        assert len(set(rows)) == 6
        assert labels[rows].equal(module.splits["train"][1])
    assert few[0][0].equal(few[1][0])
    with pytest.raises(DataError, match="num_train_images is 1000, but there are"):
        make_module(num_train_images=1000).setup()


def grey_splits(_: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Half of the pixels a quarter white, the others three quarters."""
    images = torch.tensor([64, 191], dtype=torch.uint8).view(1, 1, 1, 2).expand(400, 1, 10, 2).contiguous()
    return {split: (images, torch.arange(400) % 2) for split in ("train", "val", "test")}


@pytest.mark.parametrize("kind", ["fixed", "dynamic"])
def test_binarised_pixels_are_white_as_often_as_they_are_bright(kind: str) -> None:
    data = ImageDataModule("grey", grey_splits, (1, 10, 2), 2, 2, 50, binarize=kind)  # type: ignore[arg-type]
    data.setup()
    for split in ("test", "val") if kind == "dynamic" else ("test", "val", "train"):
        images = data.splits[split][0]
        assert set(images.unique().tolist()) == {0, 255}
        assert (images.float() / 255).mean((0, 1, 2)).tolist() == pytest.approx([64 / 255, 191 / 255], abs=0.03)
    again = ImageDataModule("grey", grey_splits, (1, 10, 2), 2, 2, 50, seed=7, binarize=kind)  # type: ignore[arg-type]
    again.setup()
    assert again.splits["test"][0].equal(data.splits["test"][0])  # whatever the seed of the run
    assert not data.splits["test"][0].equal(data.splits["val"][0])


@pytest.mark.parametrize(("num_levels", "kind"), [(2, None), (256, "fixed")])
def test_the_number_of_levels_is_that_of_the_pixels(num_levels: int, kind: str | None) -> None:
    with pytest.raises(ValueError, match=f"num_levels is {num_levels}, but pixels have"):
        ImageDataModule("grey", grey_splits, (1, 10, 2), 2, num_levels, 50, binarize=kind)  # type: ignore[arg-type]


class Training:
    """A Trainer, as far as a data module asks."""

    overfit_batches = 0
    global_rank, world_size = 0, 1

    def __init__(self, training: bool = True) -> None:
        self.training = training


def test_half_of_the_training_images_are_mirrored() -> None:
    data = ImageDataModule("grey", grey_splits, (1, 10, 2), 2, 256, 50, random_flip=True)
    data.setup()
    images, labels = batch = data.splits["train"]
    straight = data.on_after_batch_transfer(batch, 0)[0]
    data.trainer = Training()  # type: ignore[assignment]
    first, second = (data.on_after_batch_transfer(batch, 0)[0] for _ in range(2))
    is_straight, is_mirrored = (first.eq(expected).flatten(1).all(1) for expected in (straight, straight.flip(3)))
    assert (is_straight ^ is_mirrored).all()
    assert is_mirrored.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert not first.equal(second)
    data.trainer = Training(training=False)  # type: ignore[assignment]
    assert data.on_after_batch_transfer(batch, 0)[0].equal(straight)


def test_dynamic_binarisation_draws_anew_in_training_only() -> None:
    data = ImageDataModule("grey", grey_splits, (1, 10, 2), 2, 2, 50, binarize="dynamic")
    data.setup()
    assert data.splits["train"][0].unique().tolist() == [64, 191]
    data.trainer = Training()  # type: ignore[assignment]
    batch = data.splits["train"][0], data.splits["train"][1]
    first, second = (data.on_after_batch_transfer(batch, 0)[0] for _ in range(2))
    assert set(first.unique().tolist()) == {-1.0, 1.0}
    assert not first.equal(second)
    assert (first.mean((0, 1, 2)) / 2 + 0.5).tolist() == pytest.approx([64 / 255, 191 / 255], abs=0.03)
    data.trainer = Training(training=False)  # type: ignore[assignment]
    assert data.on_after_batch_transfer((data.splits["val"][0], batch[1]), 0)[0].unique().tolist() == [-1.0, 1.0]
