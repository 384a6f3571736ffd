"""Tensors for a launcher's call, of its shapes, strides and dtype, and the call, which returns what it computed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from fastdarts.ops._records import (
    PreprocessBackward,
    PreprocessForward,
    StencilBackward,
    StencilForward,
    SumBackward,
    SumForward,
    SumReduce,
    conv_of,
    edge_of,
)
from fastdarts.plan._calls import Call
from fastdarts.plan._shapes import Map, PoolShapes, PreprocessShapes, StencilShapes, SumShapes

__all__ = ["prepared"]

Work = Callable[[], list[Tensor]]


def prepared(call: Call, launchers: ModuleType, dtype: torch.dtype, device: torch.device) -> Work:
    """What runs the call on a backend; its tensors are made now, with values of a search's size.

    Args:
        call: of :func:`fastdarts.plan.calls`, with shapes.
        launchers: of the call's op, `fastdarts.ops._engine.launchers(op, backend)`.
        dtype: of the maps.
        device: of all tensors.
    """
    make = _Make(dtype, device)
    _, function = call.op.split(".")
    if isinstance(call.shapes, StencilShapes):
        return getattr(_Stencil(call.shapes, launchers, make), function)
    if isinstance(call.shapes, SumShapes):
        return getattr(_Sum(call.shapes, launchers, make), function)
    if isinstance(call.shapes, PoolShapes):
        shapes = call.shapes
        x = make.map(shapes.source)
        wanted = {"max_pool": shapes.max_pool, "avg_pool": shapes.avg_pool}
        return lambda: list(launchers.pool_moments(x, shapes.stride, **wanted))
    if isinstance(call.shapes, PreprocessShapes):
        return getattr(_Preprocess(call.shapes, launchers, make), function)
    raise TypeError(f"{call.op} has no arguments of its own")


class _Make:
    """Random tensors, the same ones for each engine."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator(device).manual_seed(0)

    def randn(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype)

    def map(self, shape: Map) -> Tensor:
        """Channels last, its pixels as far apart as the shape says."""
        whole = self.randn(shape.n, shape.height, shape.width, shape.pixel).to(self.dtype)
        return whole.permute(0, 3, 1, 2)[:, : shape.channels]

    def vectors(self, *shape: int) -> Tensor:
        """Coefficients around 0, float64."""
        return self.randn(*shape, dtype=torch.float64).mul_(0.1)

    def positive(self, *shape: int) -> Tensor:
        """Reciprocal deviations, float64."""
        return self.vectors(*shape).abs_().add_(0.5)


class _Stencil:
    def __init__(self, shapes: StencilShapes, launchers: ModuleType, make: _Make) -> None:
        self.shapes, self.launchers = shapes, launchers
        self.convs = list(map(conv_of, shapes.convolutions))
        self.sources = [make.map(source) for source in shapes.sources]
        c = shapes.sources[0].channels
        self.weights = (
            [make.randn(c, 1, conv.kernel, conv.kernel) / conv.kernel for conv in self.convs],
            [make.randn(c, c, 1, 1) * c**-0.5 for conv in self.convs],
        )
        self.statistics = {"mean": None, "rstd": None}
        if shapes.normalised:
            self.statistics = {
                "mean": make.vectors(len(shapes.sources), c),
                "rstd": make.positive(len(shapes.sources), c),
            }
        if shapes.inner:
            outputs = [shapes.sources[conv.source].dense(c, conv.stride) for conv in self.convs]
            self.ys = [make.map(y) for y in outputs]
            places = {place: make.map(outputs[0]) for place in dict.fromkeys(shapes.inner)}
            self.g = [places[place] for place in shapes.inner]
            self.coefficients = [make.vectors(len(self.convs), c) for _ in range(3)]
            self.dx = [torch.zeros_like(make.map(source)) for source in shapes.sources] if shapes.add else None

    def forward(self) -> list[Tensor]:
        ys, mean, var = self.launchers.forward(
            StencilForward(self.sources, self.convs, *self.weights, **self.statistics)
        )
        return [*ys, mean, var]

    def backward(self) -> list[Tensor]:
        given = (self.sources, self.convs, *self.weights, self.g, self.ys, *self.coefficients)
        dx, depthwise, pointwise, *sums = self.launchers.backward(
            StencilBackward(*given, **self.statistics, dx=self.dx, weights=self.shapes.weights)
        )
        # What is added up from call to call grows, and says nothing.
        found = [] if self.shapes.add else list(dx)
        return [*found, *(depthwise or ()), *(pointwise or ()), *(each for each in sums if each is not None)]


class _Sum:
    def __init__(self, shapes: SumShapes, launchers: ModuleType, make: _Make) -> None:
        self.shapes, self.launchers = shapes, launchers
        node, count = shapes.node, len(shapes.edges)
        self.edges = list(map(edge_of, shapes.edges))
        mixed = node.channels // shapes.partial
        self.ys = [make.map(node.dense(mixed)) for _ in range(shapes.terms)]
        self.sources = [make.map(source) for source in shapes.sources]
        self.dx = [torch.zeros_like(source) for source in self.sources]
        self.out, self.g = make.map(node), make.map(node)
        self.unshuffled = self.g if shapes.partial == 1 else make.map(node.dense(node.channels))
        self.mean, self.rstd = make.vectors(shapes.terms, mixed), make.positive(shapes.terms, mixed)
        self.free = [make.vectors(count, 3, mixed) for _ in range(3)]
        self.pools = make.vectors(count, 2, mixed), make.positive(count, 2, mixed)
        self.bypass = make.positive(count) if shapes.partial > 1 else None

    def forward(self) -> list[Tensor]:
        given = (self.out, self.ys, self.rstd, None, self.sources, self.edges, self.free[0], self.bypass)
        self.launchers.forward(SumForward(*given, self.shapes.partial, mean=self.mean, pool_mean=self.pools[0]))
        return [self.out]

    def reduce(self) -> list[Tensor]:
        given = (self.g, self.ys, self.mean, self.rstd, self.sources, self.edges, *self.pools)
        found = self.launchers.reduce(SumReduce(*given, self.shapes.partial))
        bypass = [] if found.bypass is None else [found.bypass]
        return [found.total, found.products, found.free, *bypass]

    def backward(self) -> list[Tensor]:
        given = (self.unshuffled, self.sources, self.edges, *self.free, self.bypass, self.dx)
        self.launchers.backward(SumBackward(*given, self.shapes.partial, pool_mean=self.pools[0]))
        return []


class _Preprocess:
    def __init__(self, shapes: PreprocessShapes, launchers: ModuleType, make: _Make) -> None:
        self.shapes, self.launchers = shapes, launchers
        self.x = make.map(shapes.x)
        self.weights = [make.randn(c, shapes.x.channels, 1, 1) * shapes.x.channels**-0.5 for c in shapes.outputs]
        self.y, self.g = make.map(shapes.y), make.map(shapes.y)
        channels = shapes.y.channels
        # Normalised in place from call to call, y must neither vanish nor grow.
        self.mean, self.rstd, self.gamma = (0.01 * make.vectors(channels) + start for start in (0.0, 1.0, 0.0))
        self.dx = torch.zeros_like(self.x) if shapes.add else None

    def forward(self) -> list[Tensor]:
        return list(self.launchers.forward(PreprocessForward(self.x, self.weights, self.shapes.stride)))

    def normalise_(self) -> list[Tensor]:
        self.launchers.normalise_(self.y, self.mean, self.rstd)
        return []

    def reduce(self) -> list[Tensor]:
        return list(self.launchers.reduce(self.g, self.y))

    def backward(self) -> list[Tensor]:
        given = (self.x, self.weights, self.g, self.y, self.rstd, self.mean, self.gamma, self.shapes.stride)
        dx, weights = self.launchers.backward(PreprocessBackward(*given, dx=self.dx, need_weights=self.shapes.weights))
        return [*([] if self.shapes.add else [dx]), *(weights or ())]
