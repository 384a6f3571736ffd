"""Around the engine's own arithmetic: autocast's dtype, and the memory format of maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fastdarts.nn.operations import channels_first, computes_on_cpu
from fastdarts.ops.cell import on_reference
from fastdarts.ops.maps import is_maps

__all__ = ["as_laid_out", "cast_once", "for_modules", "laid_out", "stored"]


def _device(x: Tensor) -> str:
    """Whose autocast x is under."""
    return "cpu" if computes_on_cpu(x) else x.device.type


def _casts(device: str) -> bool:
    return torch.is_autocast_enabled(device)


def stored(x: Tensor) -> torch.dtype:
    """The dtype in which autocast would hand x to a convolution."""
    if not _casts(_device(x)) or x.dtype == torch.float64:
        return x.dtype
    return torch.get_autocast_dtype(_device(x))


@contextmanager
def cast_once(x: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """A block in which autocast lets the engine's own arithmetic be; gives what casts inputs and weights instead."""
    if not _casts(_device(x)):
        yield lambda tensor: tensor
        return
    dtype = stored(x)
    with torch.autocast(_device(x), enabled=False):
        yield lambda tensor: tensor.to(dtype)


def as_laid_out(y: Tensor, x: Tensor) -> Tensor:
    """y in the memory format of x."""
    return y if is_maps(x) and not x.is_contiguous() else y.contiguous()


def laid_out(x: Tensor) -> Tensor:
    """x in the memory format in which the cells exchange maps without copies: channels_last where the engine runs."""
    if (
        not isinstance(x, Tensor)
        or x.ndim != 4
        or on_reference(x.device.type)
        or (is_maps(x) and not x.is_contiguous())
    ):
        return x
    return x.contiguous(memory_format=torch.channels_last)


def for_modules(x: Tensor) -> Tensor:
    """Maps as modules outside the cells take them: a stem, an auxiliary head, a classifier.

    On a CPU with the channels first, where torch's batch norm is ten times more exact; elsewhere as the cells do.
    """
    return channels_first(x) if isinstance(x, Tensor) and computes_on_cpu(x) else laid_out(x)
