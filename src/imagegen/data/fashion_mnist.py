"""Fashion-MNIST: 28x28 grey pictures of clothes, 10 classes, in files like MNIST's (Xiao, Rasul and Vollgraf, 2017)."""

from pathlib import Path

from torch import Tensor

from imagegen.data.download import resolve_data_dir
from imagegen.data.mnist import read_files

MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
SHA256 = {
    "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def read(data_dir: Path | None) -> dict[str, tuple[Tensor, Tensor]]:
    """Return 55000 train, 5000 val and 10000 test images: uint8 (N, 1, 28, 28) in 0..255, labels int64 (N,) in 0..9.

    Reads `<data_dir>/fashion_mnist/*.gz` and downloads the files that are missing.

    Raises:
        DataError: a file is damaged, or is missing and cannot be downloaded.

    """
    return read_files(resolve_data_dir(data_dir) / "fashion_mnist", MIRRORS, SHA256)
