"""Image sets: readers of the published archives, device-resident batches, augmentation."""

from __future__ import annotations

from fastdarts.data.augmentation import Augmentation, default_augmentation
from fastdarts.data.batches import Batches, split_levels
from fastdarts.data.dataset import from_dataset
from fastdarts.data.imageset import DataError, ImageSet, channel_statistics
from fastdarts.data.sources import load_images, names

__all__ = [
    "Augmentation",
    "Batches",
    "DataError",
    "ImageSet",
    "channel_statistics",
    "default_augmentation",
    "from_dataset",
    "load_images",
    "names",
    "split_levels",
]
