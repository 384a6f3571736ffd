"""The digits that ship with fastdarts: 1797 real handwritten ones of 8x8 pixels, as in scikit-learn."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fastdarts.data.files import Part
from fastdarts.data.imageset import DataError

__all__ = ["read_digits"]


def read_digits(root: str | os.PathLike[str] | None = None) -> tuple[Part, Part]:
    """Images and labels of a training part of 1437 and a test part of 360 images.

    The values 0 .. 16 become 0 .. 255 (`round(v * 255 / 16)`). The test part is every fifth image of the list ordered
    by class, in the order of scanning: stratified, spread evenly over the writers, and free of any random generator,
    so that it is the same in every version and on every machine.

    Args:
        root: must be None.

    Returns:
        (images [N, 1, 8, 8] uint8, labels [N]) twice.

    Raises:
        DataError: where a root is given.

    Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
    """
    if root is not None:
        raise DataError(f"digits with the path {root}", "no path, since fastdarts ships them", "leave the path out")
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as shipped:
        values, labels = shipped["images"], shipped["labels"].astype(np.int64)
    images = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[np.argsort(labels, kind="stable")[::5]] = True
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])
