"""Tensors for a launcher's call, of its shapes, strides and dtype, and the call, which returns what it computed."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from bench.gpu.calls import Call, Map, PoolSpec, PreprocessSpec, StencilSpec, SumSpec

__all__ = ["prepared"]

Work = Callable[[], list[Tensor]]


def prepared(call: Call, launchers: ModuleType, dtype: torch.dtype, device: torch.device) -> Work:
    """What runs the call on a backend; its tensors are made now, with values of a search's size.

    Args:
        call: of :mod:`bench.gpu.calls`, with a spec.
        launchers: of the call's op, `fastdarts.ops._engine.launchers(op, backend)`.
        dtype: of the maps.
        device: of all tensors.
    """
    make = _Make(dtype, device)
    _, function = call.op.split(".")
    if isinstance(call.spec, StencilSpec):
        return getattr(_Stencil(call.spec, launchers, make), function)
    if isinstance(call.spec, SumSpec):
        return getattr(_Sum(call.spec, launchers, make), function)
    if isinstance(call.spec, PoolSpec):
        spec = call.spec
        x = make.map(spec.source)
        wanted = {"max_pool": spec.max_pool, "avg_pool": spec.avg_pool}
        return lambda: list(launchers.pool_moments(x, spec.stride, **wanted))
    if isinstance(call.spec, PreprocessSpec):
        return getattr(_Preprocess(call.spec, launchers, make), function)
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
    def __init__(self, spec: StencilSpec, launchers: ModuleType, make: _Make) -> None:
        self.spec, self.launchers = spec, launchers
        self.sources = [make.map(source) for source in spec.sources]
        c = spec.sources[0].channels
        self.weights = (
            [make.randn(c, 1, conv.kernel, conv.kernel) / conv.kernel for conv in spec.convs],
            [make.randn(c, c, 1, 1) * c**-0.5 for conv in spec.convs],
        )
        self.statistics = {"mean": None, "rstd": None}
        if spec.normalised:
            self.statistics = {"mean": make.vectors(len(spec.sources), c), "rstd": make.positive(len(spec.sources), c)}
        if spec.inner:
            outputs = [spec.sources[conv.source].dense(c, conv.stride) for conv in spec.convs]
            self.ys = [make.map(y) for y in outputs]
            places = {place: make.map(outputs[0]) for place in sorted(set(spec.inner))}
            self.g = [places[place] for place in spec.inner]
            self.coefficients = [make.vectors(len(spec.convs), c) for _ in range(3)]
            self.dx = [torch.zeros_like(make.map(source)) for source in spec.sources] if spec.add else None

    def forward(self) -> list[Tensor]:
        ys, mean, var = self.launchers.forward(self.sources, self.spec.convs, *self.weights, **self.statistics)
        return [*ys, mean, var]

    def backward(self) -> list[Tensor]:
        dx, depthwise, pointwise, *sums = self.launchers.backward(
            *(self.sources, self.spec.convs, *self.weights, self.g, self.ys, *self.coefficients),
            **self.statistics,
            dx=self.dx,
            weights=self.spec.weights,
        )
        # What is added up from call to call grows, and says nothing.
        found = [] if self.spec.add else list(dx)
        return [*found, *(depthwise or ()), *(pointwise or ()), *(each for each in sums if each is not None)]


class _Sum:
    def __init__(self, spec: SumSpec, launchers: ModuleType, make: _Make) -> None:
        self.spec, self.launchers = spec, launchers
        node, count = spec.node, len(spec.edges)
        mixed = node.channels // spec.partial
        self.ys = [make.map(node.dense(mixed)) for _ in range(spec.terms)]
        self.sources = [make.map(source) for source in spec.sources]
        self.dx = [torch.zeros_like(source) for source in self.sources]
        self.out, self.g = make.map(node), make.map(node)
        self.unshuffled = self.g if spec.partial == 1 else make.map(node.dense(node.channels))
        self.mean, self.rstd = make.vectors(spec.terms, mixed), make.positive(spec.terms, mixed)
        self.free = [make.vectors(count, 3, mixed) for _ in range(3)]
        self.pools = make.vectors(count, 2, mixed), make.positive(count, 2, mixed)
        self.bypass = make.positive(count) if spec.partial > 1 else None

    def forward(self) -> list[Tensor]:
        self.launchers.forward(
            *(self.out, self.ys, self.rstd, None, self.sources, self.spec.edges, self.free[0], self.bypass),
            self.spec.partial,
            mean=self.mean,
            pool_mean=self.pools[0],
        )
        return [self.out]

    def reduce(self) -> list[Tensor]:
        found = self.launchers.reduce(
            *(self.g, self.ys, self.mean, self.rstd, self.sources, self.spec.edges, *self.pools, self.spec.partial)
        )
        bypass = [] if found.bypass is None else [found.bypass]
        return [found.total, found.products, found.free, *bypass]

    def backward(self) -> list[Tensor]:
        self.launchers.backward(
            *(self.unshuffled, self.sources, self.spec.edges, *self.free, self.bypass, self.dx, self.spec.partial),
            pool_mean=self.pools[0],
        )
        return []


class _Preprocess:
    def __init__(self, spec: PreprocessSpec, launchers: ModuleType, make: _Make) -> None:
        self.spec, self.launchers = spec, launchers
        channels = sum(spec.outputs)
        self.x = make.map(spec.x)
        self.weights = [make.randn(c, spec.x.channels, 1, 1) * spec.x.channels**-0.5 for c in spec.outputs]
        out = spec.x.dense(channels, spec.stride)
        self.y, self.g = make.map(out), make.map(out)
        # Normalised in place from call to call, y must neither vanish nor grow.
        self.mean, self.rstd, self.gamma = (0.01 * make.vectors(channels) + start for start in (0.0, 1.0, 0.0))
        self.dx = torch.zeros_like(self.x) if spec.add else None

    def forward(self) -> list[Tensor]:
        return list(self.launchers.forward(self.x, self.weights, stride=self.spec.stride))

    def normalise_(self) -> list[Tensor]:
        self.launchers.normalise_(self.y, self.mean, self.rstd)
        return []

    def reduce(self) -> list[Tensor]:
        return list(self.launchers.reduce(self.g, self.y))

    def backward(self) -> list[Tensor]:
        coefficients = self.rstd, self.mean, self.gamma
        dx, weights = self.launchers.backward(
            *(self.x, self.weights, self.g, self.y, *coefficients),
            stride=self.spec.stride,
            dx=self.dx,
            need_weights=self.spec.weights,
        )
        return [*([] if self.spec.add else [dx]), *(weights or ())]
