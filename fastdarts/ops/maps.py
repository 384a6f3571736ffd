"""Feature maps as the kernels take them: channels last in memory, pixels a fixed number of elements apart.

A map is a tensor [N, C, H, W] with `stride(1) == 1` and one pixel stride P: `x[n, c, h, w]` lies at
`((n * H + h) * W + w) * P + c`. A channels_last tensor is one with P = C, a range of its channels one with P > C.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from fastdarts._backend import backend_for
from fastdarts.errors import UserError
from fastdarts.ops._checks import dtype_name
from fastdarts.ops.constant import constant_when_compiled

__all__ = [
    "MOST_ELEMENTS",
    "MOST_IMAGES",
    "MOST_PIXELS",
    "arithmetic",
    "as_dense_maps",
    "as_maps",
    "cast",
    "check_stored",
    "count_flops",
    "counted",
    "empty",
    "empty_maps",
    "is_maps",
    "keep_if_captured",
    "observed",
    "on_its_device",
    "pixel_stride",
    "plain",
    "stored_dtypes",
    "zeros_maps",
]

_P = ParamSpec("_P")
_R = TypeVar("_R")
_CAPTURED: list[object] = []
_STORED = (torch.float32, torch.bfloat16, torch.float64)

# Of a map on a GPU: blocks in a grid's second row; pixels in int, those of a last tile and of a window's border too;
# elements of an image in int, of a concatenation of up to sixteen such maps.
MOST_IMAGES, MOST_PIXELS, MOST_ELEMENTS = 65535, 2**30, 2**27

_observer: ContextVar[Callable[[Tensor], None] | None] = ContextVar("fastdarts_allocations", default=None)


def pixel_stride(x: Tensor) -> int:
    """P of a map [N, C, H, W], elements; 0 where x is no map."""
    n, channels, height, width = x.shape
    image, channel, row, pixel = x.stride()
    if width > 1 and channel == 1 and pixel >= channels and row == width * pixel and image == height * row:
        return pixel
    if channels > 1 and channel != 1:
        return 0
    # The stride of a side of one pixel says nothing: torch leaves any number there.
    sides = ((width, pixel, 1), (height, row, width), (n, image, height * width))
    strides = [(stride, pixels) for size, stride, pixels in sides if size > 1]
    if not strides:
        return channels
    found = strides[0][0] // strides[0][1]
    if found < channels or any(stride != found * pixels for stride, pixels in strides):
        return 0
    return found


def is_maps(x: Tensor) -> bool:
    """Whether the kernels can take x [N, C, H, W] as it lies in memory."""
    return pixel_stride(x) > 0


def as_maps(x: Tensor) -> Tensor:
    """x [N, C, H, W] itself where the kernels can take it, else a channels_last copy."""
    if is_maps(x):
        return x
    out = empty_maps(*x.shape, like=x)
    return out if x.is_meta else out.copy_(x)


def as_dense_maps(x: Tensor) -> Tensor:
    """x [N, C, H, W] as a map without gaps between its pixels: itself, where it is one, else a copy."""
    if pixel_stride(x) == x.shape[1]:
        return x
    out = empty_maps(*x.shape, like=x)
    return out if x.is_meta else out.copy_(x)


def plain(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x contiguous and of this dtype, as kernels read what is no map: itself, where it is so."""
    if x.dtype == dtype and x.is_contiguous():
        return x
    return x.detach().to(dtype).contiguous()


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), which costs 3 us where there is nothing to do, for each of 168 parameters."""
    return x if x.dtype == dtype else x.to(dtype)


def empty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised contiguous tensor: the one door through which the fused ops allocate."""
    return _seen(torch.empty(shape, dtype=dtype, device=device))


def empty_maps(n: int, channels: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """An uninitialised channels_last map [N, C, H, W] of the dtype and device of `like`."""
    size, row = (n, channels, height, width), width * channels
    return _seen(torch.empty_strided(size, (height * row, 1, row, channels), dtype=like.dtype, device=like.device))


def zeros_maps(n: int, channels: int, height: int, width: int, *, like: Tensor) -> Tensor:
    """A channels_last map [N, C, H, W] of zeros, of the dtype and device of `like`."""
    return empty_maps(n, channels, height, width, like=like).zero_()


def counted(x: Tensor) -> Tensor:
    """x, which one of torch's own operations allocated inside a fused op, made known to who observes allocations."""
    return _seen(x)


def arithmetic(dtype: torch.dtype) -> torch.dtype:
    """The dtype that values stored as `dtype` are computed in, and that weights and coefficients are passed as."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@constant_when_compiled  # dynamo cannot trace a ContextVar; a compiled function keeps its backend
def stored_dtypes(op: str, device: str) -> tuple[torch.dtype, ...]:
    """What an op's maps may be stored as on a device of this type: float16 too where the GPU's kernels run."""
    return (*_STORED[:2], torch.float16, torch.float64) if backend_for(op, device) in ("triton", "cuda") else _STORED


def check_stored(op: str, name: str, x: Tensor) -> None:
    """Refuse a map that the op's kernels do not take: of another dtype, or larger than a GPU's can count.

    Raises:
        TypeError: names the dtype and those that are taken.
        UserError: names the shape and what would fit.
    """
    allowed = stored_dtypes(op, x.device.type)
    if x.dtype not in allowed:
        got, *names = map(dtype_name, (x.dtype, *allowed))
        raise TypeError(f"{op}: {name} is {got}; expected {', '.join(names[:-1])} or {names[-1]}")
    if torch.float16 in allowed and x.dim() == 4:
        images, channels, height, width = x.shape
        pixels = height * width
        if images > MOST_IMAGES or images * pixels > MOST_PIXELS or channels * pixels > MOST_ELEMENTS:
            what = f"{op}: {name} has shape {list(x.shape)}"
            most = f"at most {MOST_IMAGES} images, {MOST_PIXELS} pixels in all and {MOST_ELEMENTS} elements an image"
            raise UserError(what, most, "the kernels of a GPU count these in 32 bits: use a smaller batch or image")


def count_flops() -> None:
    """Make the formulas of :mod:`fastdarts.ops._flops` known where something watches torch's ops, as a counter does."""
    if not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack():
        importlib.import_module("fastdarts.ops._flops").known_to_counter()


def keep_if_captured(constants: object, device: torch.device) -> None:
    """Keep for good what a CUDA graph that is being captured will read at every replay, and a cache may let go."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _CAPTURED.append(constants)


def on_its_device(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """An op's implementation with its first tensor's GPU as the current one, on which kernels are launched."""

    @functools.wraps(function)
    def guarded(*arguments: _P.args, **options: _P.kwargs) -> _R:
        flat = (each for given in arguments for each in (given if isinstance(given, list) else [given]))
        x = next(each for each in flat if isinstance(each, Tensor))
        if x.device.type != "cuda":
            return function(*arguments, **options)
        with torch.cuda.device(x.device):
            return function(*arguments, **options)

    return guarded


@contextmanager
def observed(observer: Callable[[Tensor], None]) -> Iterator[None]:
    """Calls `observer` with every tensor that the fused ops allocate in the block, in this thread."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


def _seen(tensor: Tensor) -> Tensor:
    observer = _observer.get()
    if observer is not None:
        observer(tensor)
    return tensor
