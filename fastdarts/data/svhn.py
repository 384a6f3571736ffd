"""SVHN's cropped digits: train_32x32.mat and test_32x32.mat."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastdarts.data.files import Allowance, Part, Source, check_labels, folder_of, not_found, start
from fastdarts.data.imageset import DataError
from fastdarts.data.mat import read_mat

__all__ = ["SVHN", "read_svhn"]

SVHN = Source(
    "svhn",
    "train_32x32.mat and test_32x32.mat",
    "http://ufldl.stanford.edu/housenumbers",
    10,
    (73257, 26032),
)
_FILES = ("train_32x32.mat", "test_32x32.mat")


def read_svhn(root: str | os.PathLike[str] | None) -> tuple[Part, Part]:
    """Images and labels of the training and the test part; the label 10 of the digit 0 becomes 0.

    Args:
        root: one of the two files, the folder that holds both, or the folder around one called SVHN.

    Returns:
        (images [N, 3, 32, 32] uint8, labels [N]) twice.

    Raises:
        DataError: for files that are missing, pickled, damaged or of another set.

    Source: http://ufldl.stanford.edu/housenumbers, format 2.
    """
    folder = folder_of(start(root, SVHN), SVHN, _FILES)
    for place in (folder, folder / "SVHN", folder / "svhn"):
        missing = [name for name in _FILES if not (place / name).is_file()]
        if not missing:
            allowance = Allowance(SVHN)
            train, test = (_read_part(place / name, allowance) for name in _FILES)
            return train, test
        if len(missing) == 1:
            raise DataError(f"{place} lacks {missing[0]}", " and ".join(_FILES), SVHN.get)
    raise not_found(folder, SVHN, _FILES)


def _read_part(path: Path, allowance: Allowance) -> Part:
    arrays = read_mat(path, ("X", "y"), allowance)
    images, labels = arrays["X"], arrays["y"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise DataError(f"{path}: X is {images.dtype}, {list(images.shape)}", "uint8, [32, 32, 3, N]", SVHN.get)
    if labels.size != images.shape[3] or labels.shape not in ((labels.size, 1), (1, labels.size)):
        raise DataError(f"{path}: y is {list(labels.shape)}", f"[{images.shape[3]}, 1], one an image", SVHN.get)
    labels = labels.reshape(-1)
    check_labels(path, labels, 1, 10, SVHN)
    if not np.array_equal(labels, np.trunc(labels)):
        raise DataError(f"{path}: y holds fractions", "whole numbers, 1 to 10", SVHN.get)
    return images.transpose(3, 2, 0, 1), labels.astype(np.int64) % 10
