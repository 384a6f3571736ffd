"""The launchers of preprocess: allocation and addresses, no checks; the fused cell calls them past torch's dispatcher.

All tensors are on the CPU, or on meta: then the very same tensors are allocated and no kernel runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from fastdarts._backend import native, native_failure
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name

__all__ = ["backward", "forward", "normalise_", "reduce"]


def forward(
    x: Tensor, weights: Sequence[Tensor], *, stride: int, moments: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The convolution before its batch norm, with its statistics: `y = W relu(x)`.

    Args:
        x: [N, C_in, H, W], float32 | bfloat16 | float64, any strides; read as it lies, fastest as maps.
        weights: one [C_out, C_in, 1, 1], or at stride 2 the two halves' (one where there is one output), floating.
        stride: 1 or 2, pixels.
        moments: whether to take the statistics.

    Returns:
        (y [N, C_out, ceil(H / stride), ceil(W / stride)], the dtype of x, channels_last; its mean [C_out], float64; its
        biased variance [C_out], float64); None for the statistics where not asked.
    """
    sizes, outputs = _sizes(x, stride), outputs_of(weights)
    channels = sum(outputs)
    y = maps_out(x, channels, stride)
    mean, var = statistics(channels, x) if moments else (None, None)
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
    """Normalise in place: `y = (y - mean) * rstd`.

    Args:
        y: [N, C, H, W], float32 | bfloat16 | float64, channels_last.
        mean: [C], floating.
        rstd: [C], floating.
    """
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
    """The two sums of a batch norm's backward pass: `sum g` and `sum g * xhat` over N, H and W.

    Args:
        g: maps [N, C, H, W], float32 | bfloat16 | float64.
        xhat: maps [N, C, H, W], the dtype of g.

    Returns:
        (total [C], products [C]), float64.
    """
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


def backward(
    x: Tensor,
    weights: Sequence[Tensor],
    g: Tensor,
    y: Tensor | None,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    *,
    stride: int,
    dx: Tensor | None = None,
    need_dx: bool = True,
    need_weights: bool = True,
) -> tuple[Tensor | None, list[Tensor] | None]:
    """The gradients of the convolution, the batch norm's applied on the fly: `dy = alpha g + beta y + gamma`.

    `dx = W^T dy` where `x > 0`, else 0; `dW = sum over pixels of dy relu(x)^T`.

    Args:
        x: as in :func:`forward`.
        weights: as in :func:`forward`.
        g: maps [N, C_out, H', W'], the dtype of x.
        y: maps [N, C_out, H', W'], the dtype of x: whatever beta multiplies, y or xhat; None for beta = 0, as in
            evaluation, where an infinite y must not matter.
        alpha: [C_out], floating; so are beta and gamma.
        beta: unread where y is None.
        gamma: the constant part.
        stride: 1 or 2, pixels.
        dx: what to add the input's gradient to, the shape and dtype of x, any strides; None for a fresh tensor in the
            memory format of x.
        need_dx: False leaves the input's gradient out.
        need_weights: False leaves the weights' gradients out.

    Returns:
        (dx or None, the weights' gradients or None): float32, or float64 for float64, in the shapes of the weights.
    """
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
        coefficients, packed = _as_arithmetic((alpha, beta, gamma), x), _as_arithmetic(weights, x)
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
