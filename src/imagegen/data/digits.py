"""The 8x8 grey digits that scikit-learn carries: 1797 images, 10 classes, no files and no network needed.

Source: UCI "Optical Recognition of Handwritten Digits", test part (Alpaydin and Kaynak, 1998).
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

NUM_VAL = 300
NUM_TEST = 300


def read(data_dir: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 1197 train, 300 val and 300 test images: uint8 (N, 1, 8, 8) in 0..255, labels int64 (N,) in 0..9.

    The split is one fixed permutation. `data_dir` is not used.
    """
    # Here, because the import takes a second and no other data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    # The levels are whole numbers 0..16.
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    # The images come writer by writer, so consecutive ones are alike: permute before splitting.
    order = torch.from_numpy(np.random.default_rng(0).permutation(len(labels)))
    num_train = len(labels) - NUM_VAL - NUM_TEST
    images, labels = images[order], labels[order]
    bounds = {"train": (0, num_train), "val": (num_train, num_train + NUM_VAL), "test": (len(labels) - NUM_TEST, None)}
    return {split: (images[start:stop], labels[start:stop]) for split, (start, stop) in bounds.items()}
