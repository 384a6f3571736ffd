"""Which augmentation a set gets; the draws are made by `Batches`, the work is done by `fastdarts.ops.augment`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastdarts.errors import UserError

__all__ = ["Augmentation", "default_augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Random crop, mirror and cutout, in that order, each drawn anew for every image of every batch.

    Args:
        crop: pixels of zero padding on each side (in raw pixel values) before a crop of the original size.
        flip: mirror left to right with probability 1/2.
        cutout: side in pixels of a square set to 0.0 after normalisation; its centre is uniform over the image and
            the square is clipped at the borders. 0 is none.

    Raises:
        UserError: for a negative size.
        TypeError: for a size that is no int, or a flip that is no bool.

    Source: quark0/darts `utils._data_transforms_cifar10` and `utils.Cutout`; DeVries and Taylor 2017. For an odd side
    quark0 cuts one pixel less than it was asked for; here the side is exact.
    """

    crop: int = 0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        for name in ("crop", "cutout"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is a {type(value).__name__}; expected an int, in pixels")
            if value < 0:
                raise UserError(f"{name} is {value}", "pixels, 0 for none")
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip is a {type(self.flip).__name__}; expected a bool")


# Digits and house numbers are not mirrored: a mirrored 2 is no 2.
_DEFAULTS = {
    "cifar10": Augmentation(crop=4, flip=True),
    "cifar100": Augmentation(crop=4, flip=True),
    "svhn": Augmentation(crop=4),
    "mnist": Augmentation(crop=2),
    "fashion-mnist": Augmentation(crop=2, flip=True),
    "digits": Augmentation(crop=1),
}


def default_augmentation(name: str, *, cutout: int = 0) -> Augmentation:
    """The usual augmentation of a published set.

    Args:
        name: of the set; one that is not of :func:`fastdarts.data.names` gets neither crop nor flip, since nothing is
            known of what a shift or a mirror image means there.
        cutout: side of the square in pixels, 0 for none.

    Raises:
        UserError: for a negative cutout.
    """
    return replace(_DEFAULTS.get(name, Augmentation()), cutout=cutout)
