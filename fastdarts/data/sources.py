"""The sets that are known by name."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from fastdarts.data.cifar import CIFAR10, CIFAR100, read_cifar
from fastdarts.data.digits import read_digits
from fastdarts.data.files import Array, Part, Source, reading
from fastdarts.data.idx import FASHION_MNIST, MNIST, read_idx
from fastdarts.data.imageset import DataError, ImageSet, channel_statistics
from fastdarts.data.svhn import SVHN, read_svhn
from fastdarts.errors import did_you_mean

__all__ = ["load_images", "names"]

_DIGITS = Source("digits", "Alpaydin and Kaynak 1998", "https://doi.org/10.24432/C50P49", 10, (1437, 360))
_READERS: dict[str, tuple[Source, Callable[[str | os.PathLike[str] | None], tuple[Part, Part]]]] = {
    "digits": (_DIGITS, read_digits),
    "cifar10": (CIFAR10.source, partial(read_cifar, layout=CIFAR10)),
    "cifar100": (CIFAR100.source, partial(read_cifar, layout=CIFAR100)),
    "svhn": (SVHN, read_svhn),
    "mnist": (MNIST.source, partial(read_idx, layout=MNIST)),
    "fashion-mnist": (FASHION_MNIST.source, partial(read_idx, layout=FASHION_MNIST)),
}

_log = logging.getLogger("fastdarts")


def names() -> tuple[str, ...]:
    """The sets that :func:`load_images` knows; the first needs no files."""
    return tuple(_READERS)


def load_images(name: str, root: str | os.PathLike[str] | None = None) -> tuple[ImageSet, ImageSet]:
    """Read a published set from the user's files; nothing is downloaded, unpickled or extracted to disk.

    Args:
        name: one of :func:`names`.
        root: the archive, the folder that holds it, or the folder that torchvision or Keras was given; None for
            `digits`. docs/data.md says which file to get.

    Returns:
        The training and the test part, on the CPU, both with the training part's mean and std.

    Raises:
        DataError: for an unknown name, and for files that are missing, pickled, damaged or of another set; the
            message names the file, what was found, what was expected and what to do.
    """
    if name not in _READERS:
        remedy = did_you_mean(str(name), _READERS) or "use from_dataset for your own"
        raise DataError(f"unknown data set {name!r}", f"one of {', '.join(_READERS)}", remedy)
    source, read = _READERS[name]
    with reading(str(root), source):
        parts = read(root)
    for part, (images, _), published in zip(("training", "test"), parts, source.counts, strict=True):
        if len(images) != published:
            _log.warning("%s: %d %s images; the published set has %d", name, len(images), part, published)
    (train, train_labels), (test, test_labels) = (
        (_tensor(images, np.uint8), _tensor(labels, np.int64)) for images, labels in parts
    )
    mean, std = (source.mean, source.std) if source.mean else channel_statistics(train)
    return (
        ImageSet(name, train, train_labels, source.classes, mean, std),
        ImageSet(name, test, test_labels, source.classes, mean, std),
    )


def _tensor(array: Array, dtype: type[np.generic]) -> torch.Tensor:
    # A file's bytes are read-only and its axes may be in another order; a tensor needs memory that it may write to.
    return torch.from_numpy(np.require(array, dtype, ["C_CONTIGUOUS", "WRITEABLE"]))
