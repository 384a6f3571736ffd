"""Any map-style Dataset of Python, read once into an ImageSet."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from fastdarts.data.imageset import DataError, ImageSet, channel_statistics

__all__ = ["from_dataset"]


def from_dataset(dataset: Any, *, name: str, classes: int, like: ImageSet | None = None) -> ImageSet:
    """Read a map-style data set once and keep it in memory.

    Items are (image, label): the image a tensor [C, H, W] or [H, W], or anything numpy reads as an array (a PIL image,
    an array [H, W], [H, W, C] or [C, H, W]), uint8 or floating; the label an integer. uint8 images are normalised by
    their own mean and standard deviation, or by those of `like`; floating ones are taken as normalised and kept as
    float32. A random transform in the data set would be frozen: leave it out and use :class:`Augmentation`.

    Args:
        dataset: has `len()` and `[i]`: a torch Dataset, or a list of pairs.
        name: of the new set.
        classes: how many.
        like: the training set, when this one is its test set: same size and kind of image, its mean and std.

    Returns:
        The set, on the CPU.

    Raises:
        DataError: for an iterable-only or empty data set, or an item that does not fit; it is named by its number.
        TypeError: for something that is no data set.
    """
    if isinstance(dataset, IterableDataset):
        raise DataError(
            f"{type(dataset).__name__} can only be iterated",
            "a map-style data set, with len() and [i]",
            "pass list(dataset) if it fits in memory",
        )
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise TypeError(f"dataset is a {type(dataset).__name__}; expected a map-style data set, with len() and [i]")
    count = len(dataset)
    if count == 0:
        raise DataError(f"data set {name!r} is empty", "at least one image")
    begin = _item(name, 0, dataset[0])
    first = begin[0]
    if like is not None and (first.shape != like.images.shape[1:] or first.dtype != like.images.dtype):
        raise DataError(
            f"data set {name!r} has images of {_kind(first)}", f"{_kind(like.images[0])} as in {like.name!r}"
        )
    images = torch.empty(count, *first.shape, dtype=first.dtype)
    labels = torch.empty(count, dtype=torch.int64)
    for at in range(count):
        image, label = _item(name, at, dataset[at]) if at else begin
        if image.shape != first.shape or image.dtype != first.dtype:
            raise DataError(
                f"data set {name!r} has an image of {_kind(image)} at {at}",
                f"{_kind(first)} as at 0",
                _alike(image, first),
            )
        if not 0 <= label < classes:
            raise DataError(f"data set {name!r} has the label {label} at {at}", f"0 to {classes - 1}")
        images[at], labels[at] = image, label
    mean, std = (None, None)
    if images.dtype == torch.uint8:
        mean, std = channel_statistics(images) if like is None else (like.mean, like.std)
    return ImageSet(name, images, labels, classes, mean, std)


def _alike(image: Tensor, first: Tensor) -> str:
    """How an image becomes one of the others' kind."""
    if image.shape[0] != first.shape[0]:
        return "make all grey or all coloured in the data set's transform: image.convert('RGB') or convert('L') of PIL"
    if image.shape != first.shape:
        return "resize or crop to one size in the data set's transform"
    return "give all images one type in the data set's transform"


def _kind(image: Tensor) -> str:
    return f"{list(image.shape)} {str(image.dtype).removeprefix('torch.')}"


def _item(name: str, at: int, item: Any) -> tuple[Tensor, int]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise DataError(f"data set {name!r} has a {type(item).__name__} at {at}", "a pair (image, label)")
    image, label = item
    try:
        # operator.index takes every whole number (numpy's and one-element tensors too) and no float.
        label = operator.index(label)
    except TypeError:
        what = f"data set {name!r} has a label of type {type(label).__name__} at {at}"
        raise DataError(what, "an integer, 0 for the first class") from None
    return _image(name, at, image), label


def _image(name: str, at: int, image: Any) -> Tensor:
    where = f"data set {name!r} at {at}"
    if isinstance(image, Tensor):
        tensor, channels_last = image.detach().cpu(), False
        # Read as it stands it would be an image of as many channels as it has rows, 3 pixels wide.
        if tensor.dim() == 3 and tensor.shape[-1] <= 4 < tensor.shape[0]:
            raise DataError(
                f"{where}: a tensor of shape {list(tensor.shape)}, channels first or last?",
                "[C, H, W]",
                "image.movedim(-1, 0) puts the channels first; an ImageSet takes what really has so many",
            )
    else:
        if getattr(image, "mode", None) == "P":
            raise DataError(f"{where}: a palette image", "grey values or colours", "use image.convert('RGB')")
        array = np.asarray(image)
        if array.dtype.kind != "f" and array.dtype != np.uint8:
            what = f"{where}: a {type(image).__name__} of {array.dtype}"
            raise DataError(what, "a tensor, an array or a PIL image, uint8 (0..255) or floating point (normalised)")
        kept = np.array(array, np.float32 if array.dtype.kind == "f" else np.uint8)
        tensor, channels_last = torch.from_numpy(kept), _channels_last(where, array)
    if tensor.dim() == 2:
        tensor = tensor[None]
    if tensor.dim() != 3:
        raise DataError(f"{where}: an image of shape {list(tensor.shape)}", "[C, H, W] or [H, W]")
    if channels_last:
        tensor = tensor.movedim(-1, 0)
    if tensor.dtype == torch.uint8:
        return tensor
    if not tensor.is_floating_point():
        raise DataError(f"{where}: an image of {tensor.dtype}", "uint8 (0..255) or floating point (normalised)")
    return tensor.to(torch.float32)


def _channels_last(where: str, array: np.ndarray[Any, Any]) -> bool:
    """PIL and most numpy code put channels last, torch first: told apart by which end holds 1 to 4."""
    if array.ndim != 3:
        return False
    if array.shape[-1] <= 4:
        return True
    if array.shape[0] <= 4:
        return False
    raise DataError(
        f"{where}: an array of shape {list(array.shape)}, channels first or last?",
        "an array with 1 to 4 channels at either end",
        "pass a torch tensor [C, H, W]",
    )
