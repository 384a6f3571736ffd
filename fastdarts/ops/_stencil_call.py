"""What the stencil's launchers share: the checked arguments, and for the native ones the launch itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import dtype_name
from fastdarts.ops._records import Conv, StencilBackward, StencilForward, StencilGradients

__all__ = ["Arguments", "Call", "empty_ys"]


class Arguments:
    """The arguments that both launchers of a backend share, checked as far as memory is concerned.

    Attributes:
        weights: the depthwise and the pointwise ones, as kernels read them.
        statistics: mean and rstd, or None.
        inner, outer: height and width of each source, and of each convolution's result.
    """

    def __init__(self, given: StencilForward | StencilBackward) -> None:
        sources, convs = given.sources, given.convs
        self.sources, self.convs = sources, convs
        self.count, self.channels = sources[0].shape[:2]
        self.dtype, self.device = sources[0].dtype, sources[0].device
        self.arithmetic = maps.arithmetic(self.dtype)
        self.weights = [
            [maps.plain(weight, self.arithmetic) for weight in each] for each in (given.depthwise, given.pointwise)
        ]
        self.statistics = [
            None if each is None else self.vectors(name, each, len(sources))
            for name, each in (("mean", given.mean), ("rstd", given.rstd))
        ]
        square = (self.channels, self.channels, 1, 1)
        for conv, spread, mix in zip(convs, *self.weights, strict=True):
            if spread.shape != (self.channels, 1, conv.kernel, conv.kernel) or mix.shape != square:
                what = f"stencil: the weights of {conv} have shapes {list(spread.shape)} and {list(mix.shape)}"
                raise UserError(what, f"[C, 1, k, k] and [C, C, 1, 1] with C = {self.channels}, k = {conv.kernel}")
        self.inner = [(x.shape[2], x.shape[3]) for x in sources]
        self.outer = [_output_size(self.inner[conv.source], conv.stride) for conv in convs]

    def vectors(self, name: str, given: Tensor, rows: int | None = None) -> Tensor:
        """Coefficients a channel, as the kernel reads them."""
        shape = (len(self.convs) if rows is None else rows, self.channels)
        if given.shape != shape or given.dtype != torch.float64:
            raise UserError(f"stencil: {name} has shape {list(given.shape)}, {given.dtype}", f"{list(shape)}, float64")
        return given.detach().contiguous()

    def affine(self, given: StencilBackward) -> list[Tensor]:
        """The coefficients of backward."""
        named = (("alpha", given.alpha), ("beta", given.beta), ("gamma", given.gamma))
        return [self.vectors(name, value) for name, value in named]

    def pixel_stride(self, name: str, x: Tensor, size: tuple[int, int]) -> int:
        """That of a map of this height and width; anything else is refused."""
        whole = x.is_contiguous(memory_format=torch.channels_last)
        stride = self.channels if whole else maps.pixel_stride(x)
        if x.shape != (self.count, self.channels, *size) or x.dtype != self.dtype or stride == 0:
            what = f"stencil: {name} has shape {list(x.shape)}, strides {x.stride()}, {x.dtype}"
            raise UserError(what, f"maps {[self.count, self.channels, *size]}, {self.dtype}")
        return stride

    def moments(self, wanted: bool) -> list[Tensor]:
        """Where forward writes means and variances."""
        shape = (len(self.convs), self.channels) if wanted else (0,)
        return [maps.empty(*shape, dtype=torch.float64, device=self.device) for _ in range(2)]

    def gradients(self, dx: Sequence[Tensor] | None) -> list[Tensor]:
        """Where backward writes the sources' gradients: maps that are given are added to."""
        if dx is not None and self.statistics[0] is not None:
            raise UserError(
                "stencil: dx is given with mean", "None: the gradient of a normalised source is a fresh map"
            )
        return list(dx) if dx is not None else [maps.empty_maps(*x.shape, like=x) for x in self.sources]

    def weight_gradients(self) -> list[list[Tensor]]:
        """Where backward writes the gradients of the depthwise and of the pointwise weights."""
        return [
            [maps.empty(*weight.shape, dtype=self.arithmetic, device=self.device) for weight in given]
            for given in self.weights
        ]

    def totals(self) -> list[Tensor]:
        """Where backward writes the sums and products of normalised sources."""
        shape = (len(self.sources), self.channels) if self.statistics[0] is not None else (0,)
        return [maps.empty(*shape, dtype=torch.float64, device=self.device) for _ in range(2)]


class Call(Arguments, ABC):
    """A launch of the native stencil."""

    @abstractmethod
    def scratch(self, which: str, sizes: dict[str, Any], weights: bool | None) -> int:
        """Bytes that `which`, forward or backward, needs."""

    @abstractmethod
    def call(self, which: str, **arguments: Any) -> None:
        """Call the native function of `which`, forward or backward."""

    def function(self, core: ModuleType, name: str) -> Callable[..., Any]:
        """A native function for the sources' dtype."""
        found: Callable[..., Any] = getattr(core, f"{name}_{dtype_name(self.dtype)}")
        return found

    def forward(self, moments: bool) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
        """Launch the forward kernel and return what the launchers do."""
        ys = empty_ys(self.sources, self.convs)
        mean, var = self.moments(moments)
        self.launch("forward", ys=ys, dx=None, g=None, gradients=None, y_mean=mean, y_var=var)
        return (ys, mean, var) if moments else (ys, None, None)

    def backward(self, given: StencilBackward) -> StencilGradients:
        """Launch the backward kernel and return what the launchers do."""
        out = self.gradients(given.dx)
        gradients = self.weight_gradients() if given.weights else None
        sums, products = self.totals()
        alpha, beta, gamma = self.affine(given)
        self.launch(
            "backward", ys=given.ys, dx=out, g=given.g, gradients=gradients, alpha=alpha, beta=beta, gamma=gamma,
            sums=sums, products=products, weights=given.weights, add=given.dx is not None,
        )  # fmt: skip
        ddepthwise, dpointwise = gradients if gradients is not None else (None, None)
        totals = (sums, products) if self.statistics[0] is not None else (None, None)
        return out, ddepthwise, dpointwise, *totals

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
            found.append((x.data_ptr(), self.pixel_stride(name, x, size)))
        return found

    def launch(
        self,
        which: str,
        *,
        ys: Sequence[Tensor] | None,
        dx: Sequence[Tensor] | None,
        g: Sequence[Tensor] | None,
        gradients: list[list[Tensor]] | None,
        **rest: Any,
    ) -> None:
        """Fill the native function's tuples (csrc/bindings/stencil_call.h), allocate its scratch and call it."""
        read, written = self.maps("a source", self.sources, self.inner), self.maps("dx", dx, self.inner)
        sources = [(*x, *size, *out) for x, size, out in zip(read, self.inner, written, strict=True)]
        pairs = [[weight.data_ptr() for weight in pair] for pair in zip(*self.weights, strict=True)]
        outs = [(0, 0)] * len(pairs)
        if gradients is not None:
            outs = [(spread.data_ptr(), mix.data_ptr()) for spread, mix in zip(*gradients, strict=True)]
        each = (self.convs, pairs, self.maps("y", ys, self.outer), self.maps("g", g, self.outer), outs)
        convs = [
            (c.source, c.kernel, c.dilation, c.stride, *w, *y, *dy, *out)
            for c, w, y, dy, out in zip(*each, strict=True)
        ]
        sizes = {"count": self.count, "channels": self.channels, "sources": sources, "convs": convs}
        needed = self.scratch(which, sizes, rest.get("weights"))
        scratch = maps.empty(needed, dtype=torch.uint8, device=self.device)
        if self.device.type == "meta":
            return
        addresses = {key: value.data_ptr() if isinstance(value, Tensor) else value for key, value in rest.items()}
        mean, rstd = (0 if given is None else given.data_ptr() for given in self.statistics)
        self.call(which, **sizes, **addresses, mean=mean, rstd=rstd, scratch=scratch.data_ptr(), scratch_bytes=needed)


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
