"""A labelled image set that lives in memory as two tensors."""

from __future__ import annotations

import dataclasses
import functools
import math
import zlib
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from fastdarts.errors import UserError

__all__ = ["DataError", "ImageSet", "channel_statistics"]


class DataError(UserError):
    """A data set, or a file of one, that cannot be used: what was found, what was expected, what to do."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images and their classes, as they are stored before augmentation.

    A batch holds `x = images / 255 * (1 / std) - mean / std` for uint8 images (`images / 255` where mean and std are
    None) and `x = images` for float32 images, which are taken as normalised.

    Args:
        name: of the set, for records and messages.
        images: [N, C, H, W], uint8 | float32, contiguous; each size at least 1; float32 values finite.
        labels: [N], int64, 0 <= label < classes, on the images' device.
        classes: how many, at least 2.
        mean: [C] per channel of images / 255; None for float32 images.
        std: [C] per channel of images / 255, positive; None exactly where mean is None.

    Raises:
        DataError: for a shape, dtype, layout or value that does not fit.
        TypeError: for an argument of another type.
    """

    name: str
    images: Tensor
    labels: Tensor
    classes: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    _copies: WeakValueDictionary[torch.device, ImageSet] = field(
        init=False, repr=False, default_factory=WeakValueDictionary
    )

    def __post_init__(self) -> None:
        _check_types(self)
        _check_images(self.name, self.images)
        _check_labels(self.name, self.labels, self.images, self.classes)
        _check_normalisation(self.name, self.images, self.mean, self.std)

    def __len__(self) -> int:
        return self.images.shape[0]

    @functools.cached_property
    def fingerprint(self) -> int:
        """A 32-bit checksum of images and labels, so that a resumed run notices other data."""
        # With the shape, since a reshaped set holds the same bytes.
        value = zlib.crc32(repr((tuple(self.images.shape), str(self.images.dtype), self.classes)).encode())
        for tensor in (self.images, self.labels):
            value = zlib.crc32(tensor.cpu().contiguous().numpy().data, value)
        return value

    def to(self, device: torch.device | str) -> ImageSet:
        """The same set on a device; sets that are still in use there are shared, not copied again.

        Args:
            device: where to.

        Returns:
            `self` where it is there already.
        """
        device = torch.device(device)
        if self.images.device == device:
            return self
        there = self._copies.get(device)
        if there is None:
            there = dataclasses.replace(self, images=self.images.to(device), labels=self.labels.to(device))
            self._copies[device] = there
        return there


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of `images / 255`, from exact integer sums.

    `mean = S / (255 n)`, `std = sqrt(n Q - S^2) / (255 n)` with `S`, `Q` the sums of values and of squares over the
    `n = N * H * W` pixels: the same numbers on every machine. A constant channel has std 1.

    Args:
        images: [N, C, H, W], uint8.

    Returns:
        mean and std, [C] each.

    Raises:
        TypeError: for another dtype.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}; expected torch.uint8")
    sums = torch.zeros(2, images.shape[1], dtype=torch.int64, device=images.device)
    # A thousand images at a time: the squares need four times the bytes of the images.
    for part in images.split(1024):
        sums[0] += part.sum((0, 2, 3), dtype=torch.int64)
        sums[1] += part.int().square().sum((0, 2, 3), dtype=torch.int64)
    count = images.numel() // images.shape[1]
    totals, squares = sums.tolist()
    mean = tuple(total / (255 * count) for total in totals)
    spread = (math.sqrt(count * square - total * total) for total, square in zip(totals, squares, strict=True))
    return mean, tuple(value / (255 * count) or 1.0 for value in spread)


def _check_types(images: ImageSet) -> None:
    for name in ("images", "labels"):
        value = getattr(images, name)
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is a {type(value).__name__}; expected a torch.Tensor")
    if not isinstance(images.name, str):
        raise TypeError(f"name is a {type(images.name).__name__}; expected a str")
    if not isinstance(images.classes, int) or isinstance(images.classes, bool):
        raise TypeError(f"classes is a {type(images.classes).__name__}; expected an int")
    if images.classes < 2:
        raise DataError(f"image set {images.name!r} has classes={images.classes}", "at least 2")


def _check_images(name: str, images: Tensor) -> None:
    if images.dim() != 4 or min(images.shape) < 1:
        raise DataError(f"image set {name!r} has images of shape {list(images.shape)}", "[N, C, H, W], each at least 1")
    if images.dtype not in (torch.uint8, torch.float32):
        raise DataError(
            f"image set {name!r} has images of {images.dtype}",
            "torch.uint8 (0..255) or torch.float32 (normalised)",
            "convert them with .to(torch.float32) or .to(torch.uint8)",
        )
    if images.requires_grad:
        raise DataError(f"image set {name!r} has images that require gradients", "data", "pass images.detach()")
    if not images.is_contiguous():
        raise DataError(
            f"image set {name!r} has images of strides {list(images.stride())}",
            "a contiguous [N, C, H, W] tensor",
            "pass images.contiguous()",
        )
    if images.dtype == torch.float32 and not images.isfinite().all():
        at = int((~images.isfinite().flatten(1).all(1)).nonzero()[0])
        raise DataError(f"image set {name!r} has a NaN or an infinity in image {at}", "finite values")


def _check_labels(name: str, labels: Tensor, images: Tensor, classes: int) -> None:
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise DataError(
            f"image set {name!r} has labels of shape {list(labels.shape)}, {labels.dtype}",
            f"[{images.shape[0]}], torch.int64: one class index an image",
        )
    if labels.device != images.device:
        raise DataError(f"image set {name!r} has labels on {labels.device}", f"{images.device}, where the images are")
    low, high = (int(bound) for bound in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise DataError(
            f"image set {name!r} has a label {low if low < 0 else high}",
            f"0 to {classes - 1} for {classes} classes",
            "labels count from 0",
        )


def _check_normalisation(
    name: str, images: Tensor, mean: tuple[float, ...] | None, std: tuple[float, ...] | None
) -> None:
    if mean is None and std is None:
        return
    if images.dtype != torch.uint8:
        raise DataError(
            f"image set {name!r} has float32 images with mean and std",
            "float32 images that are normalised already, mean and std None",
            "apply mean and std, or pass uint8 images",
        )
    channels = images.shape[1]
    for what, values in (("mean", mean), ("std", std)):
        if values is None or len(values) != channels or not all(math.isfinite(value) for value in values):
            raise DataError(f"image set {name!r} has {what} {values}", f"{channels} finite numbers, one a channel")
    if std is not None and min(std) <= 0:
        raise DataError(f"image set {name!r} has std {std}", "positive numbers")
