"""What layers refuse, told before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastdarts.errors import UserError

__all__ = [
    "Probability",
    "at_least_one",
    "check_active",
    "check_maps",
    "check_partial",
    "check_row",
    "check_sampling",
    "check_statistics",
    "check_vector",
    "halved",
]


class Probability:
    """An attribute of a module, a float from 0 to below 1, checked whenever it is set."""

    def __set_name__(self, owner: type, name: str) -> None:
        # Kept under a name of its own: torch 2.11's Dynamo asks the descriptor for what vars() has under its own.
        self._name, self._kept = name, f"_{name}"

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        return self if module is None else getattr(module, self._kept)

    def __set__(self, module: nn.Module, value: float) -> None:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(f"{self._name} is {value!r} of type {type(value).__name__}; expected a float")
        if not 0.0 <= value < 1.0:
            raise UserError(f"{self._name} is {value}", "a probability from 0 to below 1")
        setattr(module, self._kept, float(value))


def at_least_one(name: str, value: int) -> None:
    """Refuse a count that is no integer (TypeError) or below 1 (UserError)."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r} of type {type(value).__name__}; expected an int")
    if value < 1:
        raise UserError(f"{name} is {value}", "at least 1")


def halved(size: int, stride: int) -> int:
    """Pixels of a side after a layer of the given stride: ceil(size / stride)."""
    return -(-size // stride)


def check_partial(channels: int, partial: int) -> None:
    """Refuse K of partial channels that does not divide the channels."""
    at_least_one("channels", channels)
    at_least_one("partial", partial)
    if channels % partial:
        raise UserError(
            f"partial is {partial} and does not divide {channels} channels",
            "channels that are a multiple of partial",
            f"use {-(-channels // partial) * partial} channels or another partial",
        )


def check_sampling(channel_sampling: bool, partial: int) -> None:
    """Refuse the sampling of channels where all are mixed."""
    if channel_sampling and partial == 1:
        raise UserError(
            "channel_sampling with partial 1: all channels are mixed, there is none to choose", "a partial of 2 or more"
        )


def check_maps(x: Tensor, channels: int | None, owner: str) -> None:
    """Refuse what is no batch of feature maps with the given number of channels, None for any.

    Raises:
        TypeError: x is no floating tensor.
        UserError: x is not [N, channels, H, W] with N, H and W at least 1.
    """
    wide = "C" if channels is None else channels
    if not isinstance(x, Tensor):
        raise TypeError(f"{owner}: the input is a {type(x).__name__}; expected a tensor [N, {wide}, H, W]")
    if not x.is_floating_point():
        raise TypeError(f"{owner}: the input is {x.dtype}; expected a floating dtype")
    if x.ndim != 4 or channels not in (None, x.shape[1]):
        raise UserError(f"{owner}: the input has shape {list(x.shape)}", f"[N, {wide}, H, W]")
    if 0 in x.shape:
        raise UserError(f"{owner}: the input is empty, shape {list(x.shape)}", "N, H and W at least 1")


def check_statistics(n: int, height: int, width: int, owner: str) -> None:
    """Refuse a training pass whose smallest map leaves one value per channel, of which there is no variance."""
    if n * height * width == 1:
        raise UserError(
            f"{owner}: one image with a map of 1x1 leaves batch norm one value per channel",
            "at least two values in training",
            "use a larger batch or image, or eval()",
        )


def check_vector(values: Tensor, length: int, owner: str, name: str = "weights") -> None:
    """Refuse weights that are no 1-D tensor of the given length."""
    if not isinstance(values, Tensor):
        raise TypeError(f"{owner}: {name} is a {type(values).__name__}; expected a tensor [{length}]")
    if values.ndim != 1 or len(values) != length:
        raise UserError(f"{owner}: {name} has shape {list(values.shape)}", f"[{length}]")


def check_row(weights: Tensor, count: int, owner: str) -> None:
    """Refuse mixing weights that are no 1-D tensor of at least so many entries."""
    if not isinstance(weights, Tensor):
        raise TypeError(f"{owner}: weights is a {type(weights).__name__}; expected a tensor [{count}]")
    if weights.ndim != 1 or len(weights) < count:
        what = f"{owner}: weights has shape {list(weights.shape)}"
        raise UserError(what, f"[{count}], one for each candidate", "append a column for each operation that was added")


def check_active(active: Sequence[int], count: int, owner: str) -> None:
    """Refuse active indices that are empty, out of range or given twice."""
    if not active or len(set(active)) < len(active) or not all(0 <= k < count for k in active):
        raise UserError(f"{owner}: active is {tuple(active)}", f"distinct indices from 0 to {count - 1}, at least one")
