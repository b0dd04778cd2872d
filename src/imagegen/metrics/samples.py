"""Samples made by anyone, read from a folder of PNGs or from one array file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from imagegen.metrics.generation import SampleError, check_samples

SUFFIXES = (".npy", ".npz", ".safetensors")


def read_samples(path: Path, image_shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Images uint8 (N, C, H, W), and labels (N,) where the file has some.

    A folder holds PNGs only, read in the order of their names. Array files hold `images`, (N, H, W, C) or (N, C, H, W)
    or, grey, (N, H, W): uint8, or floats in [-1, 1] or [0, 1]; and perhaps `labels`.

    Raises:
        SampleError: what is there cannot be scored; in one line, with the file and the reason.

    """
    if path.is_dir():
        images, labels = _read_folder(path), None
    elif path.is_file() and path.suffix in SUFFIXES:
        array, labels = _read_arrays(path)
        images = _to_uint8(array, path)
    elif path.exists():
        raise SampleError(f"samples: {path} is neither a folder of PNGs nor one of {', '.join(SUFFIXES)}")
    else:
        raise SampleError(f"samples: no file or folder {path}")
    images = _channels_first(images, image_shape)
    try:
        check_samples(images, image_shape)
    except SampleError as error:
        raise SampleError(f"samples: {path}: {error}") from None
    if labels is not None and labels.shape != (len(images),):
        raise SampleError(f"samples: {path} has {len(images)} images but labels of shape {tuple(labels.shape)}")
    is_whole = labels is None or not labels.is_floating_point()
    return images.contiguous(), labels.long() if labels is not None and is_whole else labels


def _read_folder(folder: Path) -> Tensor:
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if others := [path.name for path in paths if path.suffix.lower() != ".png"]:
        raise SampleError(
            f"samples: {folder} holds other things than PNGs, as {others[0]}; give a folder of samples only"
        )
    if not paths:
        raise SampleError(f"samples: the folder {folder} is empty")
    arrays = []
    for path in paths:
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):
                    raise SampleError(f"samples: {path} has more than 8 bits per pixel")
                arrays.append(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
        except (UnidentifiedImageError, OSError) as error:
            raise SampleError(f"samples: {path} is no picture that can be read ({error})") from None
        if arrays[-1].shape != arrays[0].shape:
            raise SampleError(f"samples: {path} is {arrays[-1].shape}, {paths[0].name} is {arrays[0].shape}")
    return torch.from_numpy(np.stack(arrays))


def _read_arrays(path: Path) -> tuple[Tensor, Tensor | None]:
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            loaded = np.load(path, allow_pickle=False)
            arrays = {"images": loaded} if path.suffix == ".npy" else {key: loaded[key] for key in loaded.files}
            content = {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}
    except (OSError, ValueError, EOFError, TypeError, SafetensorError) as error:
        raise SampleError(f"samples: {path} cannot be read: {str(error).splitlines()[0]}") from None
    except Exception as error:  # a damaged zip file can fail in any way
        raise SampleError(f"samples: {path} is damaged ({type(error).__name__})") from None
    if "images" not in content and len(content) != 1:
        raise SampleError(f"samples: {path} has no array 'images', but {', '.join(sorted(content)) or 'nothing'}")
    labels = content.get("labels")
    if labels is not None and labels.numel() and labels.max() < 0:  # as sample.py marks the lack of classes
        labels = None
    return content["images"] if "images" in content else next(iter(content.values())), labels


def _to_uint8(images: Tensor, path: Path) -> Tensor:
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise SampleError(f"samples: {path} holds {images.dtype}; give uint8, or floats in [-1, 1] or [0, 1]")
    if not images.isfinite().all():
        raise SampleError(f"samples: {path} holds numbers that are not finite")
    lowest, highest = (float(images.min()), float(images.max())) if images.numel() else (0.0, 0.0)
    if lowest < -1.001 or highest > 1.001:
        raise SampleError(
            f"samples: {path} holds floats from {lowest:.3g} to {highest:.3g};"
            " give uint8, or floats in [-1, 1] or [0, 1]"
        )
    scaled = images.float() * 255 if lowest >= -1e-3 else (images.float() + 1) * 127.5
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _channels_first(images: Tensor, image_shape: tuple[int, ...]) -> Tensor:
    channels, height, width = image_shape
    if tuple(images.shape[1:]) == (height, width) and channels == 1:
        return images[:, None]
    if tuple(images.shape[1:]) == (height, width, channels):
        return images.permute(0, 3, 1, 2)
    if tuple(images.shape[1:]) == (height, width, 3) and channels == 1 and bool((images == images[..., :1]).all()):
        return images[..., 0][:, None]  # grey, written as if it had colours
    return images
