"""Pictures of one's own: all of a folder, or of one folder for each class, cropped and shrunk to one size."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from imagegen.data.download import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
TEST_SHARE, VAL_SHARE = 0.1, 0.05
MIN_IMAGES = 20
SPLIT_SEED = 0


def read(data_dir: Path | None, image_shape: Sequence[int]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return train, val and test images uint8 (N, C, H, W) in 0..255, grey for one channel, and labels int64 (N,).

    All pictures below `data_dir` are read, whatever the depth, but for hidden ones. Folders right in it are classes, in
    the order of their names; without any there is one class. The middle of each picture is cut out and shrunk
    (Lanczos). A tenth is for the test and a twentieth for validation, chosen by a fixed seed from the sorted names, so
    that the same files are always split alike.

    Raises:
        DataError: no folder, fewer than twenty pictures, pictures both beside and in the folders of classes, or one
            that cannot be read.

    """
    if data_dir is None:
        raise DataError("data=folder needs to know the folder of your pictures: data.data_dir=<folder>")
    root = data_dir.expanduser()
    if not root.is_dir():
        raise DataError(f"data.data_dir: no folder {root}")
    paths = _paths(root)
    if len(paths) < MIN_IMAGES:
        endings = ", ".join(SUFFIXES)
        raise DataError(f"{root} holds {len(paths)} pictures ({endings}); at least {MIN_IMAGES} are needed")
    places = [path.relative_to(root).parts for path in paths]
    beside = [parts[0] for parts in places if len(parts) == 1]
    if beside and len(beside) < len(paths):
        raise DataError(f"{root}: {beside[0]} lies beside the folders of classes; move it into one of them")
    classes = sorted({parts[0] for parts in places if len(parts) > 1})
    labels = torch.tensor([classes.index(parts[0]) if classes else 0 for parts in places])
    images = _all_shrunk(paths, image_shape)
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(SPLIT_SEED))
    sizes = [max(1, round(share * len(paths))) for share in (TEST_SHARE, VAL_SHARE)]
    test, val, train = order.split([*sizes, len(paths) - sum(sizes)])  # type: ignore[no-untyped-call]
    return {name: (images[rows], labels[rows]) for name, rows in (("train", train), ("val", val), ("test", test))}


def read_pictures(path: Path, image_shape: Sequence[int]) -> Tensor:
    """All pictures of a folder in the order of their names, or the one that `path` is: uint8 (N, C, H, W) in 0..255.

    They are cropped, shrunk and made grey as those of `read`. Raises DataError if there is none, or one that cannot be
    read.
    """
    root = path.expanduser()
    if not root.exists():
        raise DataError(f"no picture or folder {root}")
    paths = _paths(root) if root.is_dir() else [root]
    if not paths:
        raise DataError(f"{root} holds no pictures ({', '.join(SUFFIXES)})")
    return _all_shrunk(paths, image_shape)


def _paths(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not _is_hidden(path, root))


def _all_shrunk(paths: Sequence[Path], image_shape: Sequence[int]) -> Tensor:
    with ThreadPoolExecutor() as pool:  # decoding leaves the interpreter free
        rows = pool.map(lambda path: _shrunk(path, image_shape), paths)
        return torch.stack([*tqdm(rows, "reading pictures", len(paths), leave=False, delay=2, disable=None)])


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def _shrunk(path: Path, image_shape: Sequence[int]) -> Tensor:
    channels, height, width = image_shape
    mode = "RGB" if channels == 3 else "L"
    try:
        with Image.open(path) as image:
            image.draft(mode, (2 * width, 2 * height))  # JPEGs are then decoded small, several times faster
            upright = ImageOps.exif_transpose(image)
            if "transparency" in upright.info or upright.mode in ("LA", "RGBA", "PA"):
                rgba = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            small = ImageOps.fit(upright.convert(mode), (width, height), Image.Resampling.LANCZOS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # of damaged PNGs
        raise DataError(f"{path} is no picture that can be read ({error}); mend or move it") from error
    return torch.from_numpy(np.array(small)).view(height, width, channels).permute(2, 0, 1)
