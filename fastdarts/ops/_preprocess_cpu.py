"""The launchers of preprocess (`PreprocessLaunchers`) on a CPU: allocate, and call the native core; no checks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastdarts._backend import native, native_failure
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name
from fastdarts.ops._records import PreprocessBackward, PreprocessForward

__all__ = ["backward", "forward", "normalise_", "reduce"]


def forward(given: PreprocessForward) -> tuple[Tensor, Tensor | None, Tensor | None]:
    x, weights, stride = given.x, given.weights, given.stride
    sizes, outputs = _sizes(x, stride), outputs_of(weights)
    channels = sum(outputs)
    y = maps_out(x, channels, stride)
    mean, var = statistics(channels, x) if given.moments else (None, None)
    core, threads = _core(), torch.get_num_threads()
    scratch = _scratch(
        core.preprocess_forward_scratch(sizes=sizes, outputs=outputs, element=_element(x), threads=threads), x
    )
    if x.is_meta:
        return y, mean, var
    packed = _as_arithmetic(weights, x)
    _kernel(core, "forward", x)(
        sizes=sizes,
        outputs=outputs,
        x=x.data_ptr(),
        x_strides=_strides(x),
        weights=_addresses(packed),
        y=y.data_ptr(),
        mean=_address(mean),
        var=_address(var),
        scratch=scratch.data_ptr(),
        threads=threads,
    )
    return y, mean, var


def normalise_(y: Tensor, mean: Tensor, rstd: Tensor) -> None:
    if y.is_meta:
        return
    mean, rstd = _as_arithmetic((mean, rstd), y)
    _kernel(_core(), "normalise", y)(
        y=y.data_ptr(),
        mean=mean.data_ptr(),
        rstd=rstd.data_ptr(),
        pixels=y.numel() // y.shape[1],
        channels=y.shape[1],
        threads=torch.get_num_threads(),
    )


def reduce(g: Tensor, xhat: Tensor) -> tuple[Tensor, Tensor]:
    channels, pixels = g.shape[1], g.numel() // g.shape[1]
    total, products = statistics(channels, g)
    core = _core()
    scratch = _scratch(core.preprocess_reduce_scratch(pixels=pixels, channels=channels), g)
    if not g.is_meta:
        _kernel(core, "reduce", g)(
            g=g.data_ptr(),
            xhat=xhat.data_ptr(),
            strides=(maps.pixel_stride(g), maps.pixel_stride(xhat)),
            pixels=pixels,
            channels=channels,
            total=total.data_ptr(),
            products=products.data_ptr(),
            scratch=scratch.data_ptr(),
            threads=torch.get_num_threads(),
        )
    return total, products


def backward(given: PreprocessBackward) -> tuple[Tensor | None, list[Tensor] | None]:
    x, weights, g, y, stride, dx = given.x, given.weights, given.g, given.y, given.stride, given.dx
    need_dx, need_weights = given.need_dx, given.need_weights
    sizes, outputs, add = _sizes(x, stride), outputs_of(weights), dx is not None
    if need_dx and dx is None:
        dx = empty_as(x)
        if stride == 2:  # the halves write only the pixels that they read
            dx.zero_()
            add = True
    dtype = maps.arithmetic(x.dtype)
    dweights = [maps.empty(*weight.shape, dtype=dtype, device=x.device) for weight in weights] if need_weights else []
    core, threads = _core(), torch.get_num_threads()
    need = core.preprocess_backward_scratch(
        sizes=sizes, outputs=outputs, weights=need_weights, element=_element(x), threads=threads
    )
    scratch = _scratch(need, x)
    if not x.is_meta and (need_dx or need_weights):
        coefficients, packed = _as_arithmetic((given.alpha, given.beta, given.gamma), x), _as_arithmetic(weights, x)
        _kernel(core, "backward", x)(
            sizes=sizes,
            outputs=outputs,
            x=x.data_ptr(),
            x_strides=_strides(x),
            weights=_addresses(packed),
            gradient=(g.data_ptr(), _address(y)),
            pixels=(maps.pixel_stride(g), 0 if y is None else maps.pixel_stride(y)),
            coefficients=tuple(each.data_ptr() for each in coefficients),
            dx=_address(dx) if need_dx else 0,
            dx_strides=_strides(dx) if need_dx and dx is not None else (0, 0, 0, 0),
            accumulate=add,
            dweights=_addresses(dweights),
            scratch=scratch.data_ptr(),
            threads=threads,
        )
    return (dx if need_dx else None), (dweights if need_weights else None)


def _core() -> ModuleType:
    core = native()
    if core is None:
        raise RuntimeError(f"preprocess: no native core: {native_failure()}; or use_backend('reference')")
    return core


def _kernel(core: ModuleType, what: str, x: Tensor) -> Callable[..., None]:
    kernel: Callable[..., None] = getattr(core, f"preprocess_{what}_{dtype_name(x.dtype)}")
    return kernel


def _scratch(size: int, like: Tensor) -> Tensor:
    return maps.empty(size, dtype=torch.uint8, device=like.device)


def statistics(channels: int, like: Tensor) -> tuple[Tensor, Tensor]:
    first, second = (maps.empty(channels, dtype=torch.float64, device=like.device) for _ in range(2))
    return first, second


def _sizes(x: Tensor, stride: int) -> tuple[int, int, int, int, int]:
    n, channels, height, width = x.shape
    return n, channels, height, width, stride


def maps_out(x: Tensor, channels: int, stride: int) -> Tensor:
    return maps.empty_maps(x.shape[0], channels, -(-x.shape[2] // stride), -(-x.shape[3] // stride), like=x)


def outputs_of(weights: Sequence[Tensor]) -> tuple[int, int]:
    return weights[0].shape[0], weights[1].shape[0] if len(weights) > 1 else 0


def _element(x: Tensor) -> int:
    return maps.arithmetic(x.dtype).itemsize


def _strides(x: Tensor) -> tuple[int, int, int, int]:
    # The stride of a side of one element says nothing, and the kernel's fast paths look at strides.
    pixel = maps.pixel_stride(x)
    if pixel:
        return x.shape[2] * x.shape[3] * pixel, 1, x.shape[3] * pixel, pixel
    image, channel, row, column = x.stride()
    return image, channel, row, column


def empty_as(x: Tensor) -> Tensor:
    if x.shape[1] == 1 or x.stride(1) == 1:
        return maps.empty_maps(*x.shape, like=x)
    return maps.empty(*x.shape, dtype=x.dtype, device=x.device)


def _as_arithmetic(tensors: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    dtype = maps.arithmetic(x.dtype)
    return [tensor.detach().to(dtype).contiguous() for tensor in tensors]


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def _addresses(tensors: Sequence[Tensor]) -> tuple[int, int]:
    first, second, *_ = [*(tensor.data_ptr() for tensor in tensors), 0, 0]
    return first, second
