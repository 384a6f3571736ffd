"""The launchers of the fused stencil: they check what memory depends on, allocate, and call the native core."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts._backend import BackendError, native, native_failure
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.reference.stencil import Conv

__all__ = ["backward", "empty_ys", "forward"]


def forward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    moments: bool = True,
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Launch the forward kernel: :func:`stencil` without dispatch and autograd, on maps; on meta, only allocate.

    Args:
        sources: S maps [N, C, H, W], float32 | bfloat16 | float64, any pixel stride.
        convs: T convolutions.
        depthwise: T weights [C, 1, k, k], floating.
        pointwise: T weights [C, C, 1, 1], floating.
        mean: [S, C], float64; with rstd, or None for sources that are not normalised.
        rstd: [S, C], float64.
        moments: whether means and variances are computed.

    Returns:
        T channels_last maps [N, C, ceil(H / stride), ceil(W / stride)]; their means and biased variances [T, C],
        float64, or None and None where they are not asked.
    """
    call = _Call(sources, convs, depthwise, pointwise, mean, rstd)
    ys = empty_ys(sources, convs)
    shape = (len(convs), call.channels) if moments else (0,)
    moment = [maps.empty(*shape, dtype=torch.float64, device=call.device) for _ in range(2)]
    call.launch("forward", ys=ys, dx=None, g=None, gradients=None, y_mean=moment[0], y_var=moment[1])
    return (ys, moment[0], moment[1]) if moments else (ys, None, None)


def backward(
    sources: Sequence[Tensor],
    convs: Sequence[Conv],
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    g: Sequence[Tensor],
    ys: Sequence[Tensor] | None,
    alpha: Tensor,
    beta: Tensor,
    gamma: Tensor,
    *,
    mean: Tensor | None = None,
    rstd: Tensor | None = None,
    dx: Sequence[Tensor] | None = None,
    weights: bool = True,
) -> tuple[list[Tensor], list[Tensor] | None, list[Tensor] | None, Tensor | None, Tensor | None]:
    """Launch the backward kernel, with the batch norms' backward folded into what it reads; on meta, only allocate.

    `dy_i = alpha_i g_i + beta_i y_i + gamma_i`, then as `fastdarts.reference.stencil.stencil_backward`.

    Args:
        sources: as in :func:`forward`.
        convs: as in :func:`forward`.
        depthwise: as in :func:`forward`.
        pointwise: as in :func:`forward`.
        g: T maps of y's shape and dtype, any pixel stride; one tensor may stand in several places.
        ys: T maps likewise, what :func:`forward` returned; None where beta is 0.
        alpha: [T, C], float64; like beta and gamma.
        beta: [T, C].
        gamma: [T, C].
        mean: as in :func:`forward`.
        rstd: as in :func:`forward`.
        dx: S maps of the sources' shape and dtype to which the gradients are added; None for fresh ones.
        weights: whether the gradients of the weights are computed.

    Returns:
        S maps: dx, or, of normalised sources, the gradient g1 of `(x - mean) * rstd`; T gradients of the depthwise
        and T of the pointwise weights in the arithmetic dtype, None and None unless `weights`; of normalised sources
        `sum g1` and `sum g1 * (x - mean) * rstd`, [S, C] each, float64, else None and None.
    """
    call = _Call(sources, convs, depthwise, pointwise, mean, rstd)
    add = dx is not None
    if add and mean is not None:
        raise UserError("stencil: dx is given with mean", "None: the gradient of a normalised source is a fresh map")
    out = list(dx) if dx is not None else [maps.empty_maps(*x.shape, like=x) for x in sources]
    gradients = None
    if weights:
        dtype = maps.arithmetic(sources[0].dtype)
        gradients = [
            [maps.empty(*weight.shape, dtype=dtype, device=call.device) for weight in given]
            for given in (depthwise, pointwise)
        ]
    shape = (len(sources), call.channels) if mean is not None else (0,)
    sums = [maps.empty(*shape, dtype=torch.float64, device=call.device) for _ in range(2)]
    coefficients = [call.vectors(name, value) for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma))]
    call.launch(
        "backward", ys=ys, dx=out, g=g, gradients=gradients, alpha=coefficients[0], beta=coefficients[1],
        gamma=coefficients[2], sums=sums[0], products=sums[1], weights=weights, add=add,
    )  # fmt: skip
    ddepthwise, dpointwise = gradients if gradients is not None else (None, None)
    totals = (sums[0], sums[1]) if mean is not None else (None, None)
    return out, ddepthwise, dpointwise, *totals


class _Call:
    """The arguments that both launchers share, checked as far as memory is concerned."""

    def __init__(
        self,
        sources: Sequence[Tensor],
        convs: Sequence[Conv],
        depthwise: Sequence[Tensor],
        pointwise: Sequence[Tensor],
        mean: Tensor | None,
        rstd: Tensor | None,
    ) -> None:
        self.sources, self.convs = sources, convs
        self.count, self.channels = sources[0].shape[:2]
        self.dtype, self.device = sources[0].dtype, sources[0].device
        arithmetic = maps.arithmetic(self.dtype)
        self.weights = [[_plain(weight, arithmetic) for weight in given] for given in (depthwise, pointwise)]
        self.statistics = [
            None if given is None else self.vectors(name, given, len(sources))
            for name, given in (("mean", mean), ("rstd", rstd))
        ]
        square = (self.channels, self.channels, 1, 1)
        for conv, spread, mix in zip(convs, *self.weights, strict=True):
            if spread.shape != (self.channels, 1, conv.kernel, conv.kernel) or mix.shape != square:
                what = f"stencil: the weights of {conv} have shapes {list(spread.shape)} and {list(mix.shape)}"
                raise UserError(what, f"[C, 1, k, k] and [C, C, 1, 1] with C = {self.channels}, k = {conv.kernel}")

    def vectors(self, name: str, given: Tensor, rows: int | None = None) -> Tensor:
        """Coefficients a channel, as the kernel reads them."""
        shape = (len(self.convs) if rows is None else rows, self.channels)
        if given.shape != shape or given.dtype != torch.float64:
            raise UserError(f"stencil: {name} has shape {list(given.shape)}, {given.dtype}", f"{list(shape)}, float64")
        return given.detach().contiguous()

    def maps(self, name: str, given: Sequence[Tensor] | None, like: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """The address and the pixel stride of each map, where each must have these heights and widths."""
        if given is None:
            return [(0, 0)] * len(like)
        found: list[tuple[int, int]] = []
        last: tuple[Tensor, tuple[int, int]] | None = None
        for x, size in zip(given, like, strict=True):
            if last is not None and x is last[0] and size == last[1]:  # the gradient of a node, for all its edges
                found.append(found[-1])
                continue
            last = x, size
            whole = x.is_contiguous(memory_format=torch.channels_last)
            stride = self.channels if whole else maps.pixel_stride(x)
            if x.shape != (self.count, self.channels, *size) or x.dtype != self.dtype or stride == 0:
                what = f"stencil: {name} has shape {list(x.shape)}, strides {x.stride()}, {x.dtype}"
                raise UserError(what, f"maps {[self.count, self.channels, *size]}, {self.dtype}")
            found.append((x.data_ptr(), stride))
        return found

    def launch(
        self,
        which: str,
        *,
        ys: Sequence[Tensor] | None,
        dx: Sequence[Tensor] | None,
        g: Sequence[Tensor] | None,
        gradients: list[list[Tensor]] | None,
        **rest: Tensor | bool,
    ) -> None:
        """Fill the native function's tuples (csrc/bindings/stencil.cpp), allocate its scratch and call it."""
        core = native()
        if core is None:
            raise BackendError(native_failure())
        inner = [(x.shape[2], x.shape[3]) for x in self.sources]
        outer = [_output_size(inner[conv.source], conv.stride) for conv in self.convs]
        read, written = self.maps("a source", self.sources, inner), self.maps("dx", dx, inner)
        sources = [(*x, *size, *out) for x, size, out in zip(read, inner, written, strict=True)]
        pairs = [[weight.data_ptr() for weight in pair] for pair in zip(*self.weights, strict=True)]
        outs = [(0, 0)] * len(pairs)
        if gradients is not None:
            outs = [(spread.data_ptr(), mix.data_ptr()) for spread, mix in zip(*gradients, strict=True)]
        each = (self.convs, pairs, self.maps("y", ys, outer), self.maps("g", g, outer), outs)
        convs = [
            (c.source, c.kernel, c.dilation, c.stride, *w, *y, *dy, *out)
            for c, w, y, dy, out in zip(*each, strict=True)
        ]
        sizes = {
            "count": self.count, "channels": self.channels, "sources": sources, "convs": convs,
            "threads": torch.get_num_threads(),
        }  # fmt: skip
        asked = {"weights": rest["weights"]} if which == "backward" else {}
        name = str(self.dtype).removeprefix("torch.")
        needed = getattr(core, f"stencil_{which}_scratch_{name}")(**sizes, **asked)
        scratch = maps.empty(needed, dtype=torch.uint8, device=self.device)
        if self.device.type == "meta":
            return
        addresses = {key: value.data_ptr() if isinstance(value, Tensor) else value for key, value in rest.items()}
        mean, rstd = (0 if given is None else given.data_ptr() for given in self.statistics)
        getattr(core, f"stencil_{which}_{name}")(
            **sizes, **addresses, mean=mean, rstd=rstd, scratch=scratch.data_ptr(), scratch_bytes=needed
        )


def _plain(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if weight.dtype == dtype and weight.is_contiguous():
        return weight
    return weight.detach().to(dtype).contiguous()


def _output_size(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return -(-size[0] // stride), -(-size[1] // stride)


def empty_ys(sources: Sequence[Tensor], convs: Sequence[Conv]) -> list[Tensor]:
    """What the forward kernel writes, uninitialised."""
    ys = []
    for conv in convs:
        x = sources[conv.source]
        height, width = _output_size((x.shape[2], x.shape[3]), conv.stride)
        ys.append(maps.empty_maps(x.shape[0], x.shape[1], height, width, like=x))
    return ys
