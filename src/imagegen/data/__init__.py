"""Image data sets in memory: every set is read whole as uint8 tensors and handed out in batches."""

from imagegen.data.download import DataError
from imagegen.data.module import ImageDataModule

__all__ = ["DataError", "ImageDataModule"]
