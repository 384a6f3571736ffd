"""Nodes for the tests of mixed_sum: shapes, values, and the comparison with plain torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdarts.ops.mixed_sum import Edge, mixed_sum
from fastdarts.reference.mixed_sum import node_sum
from tests.tolerance import assert_within

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
EVERY = Edge(1, True, True, True)
STRIDED = Edge(2, False, True, True)
INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Case:
    batch: int = 2
    mixed: int = 5
    partial: int = 1
    height: int = 5
    width: int = 4
    terms: int = 3
    edges: tuple[Edge, ...] = (EVERY, STRIDED)
    dtype: torch.dtype = torch.float32
    training: bool = True
    bypass: bool = True
    gap: int = 3
    odd: bool = True
    offset: float = 0.0
    ties: bool = False
    seed: int = 0


@dataclass
class Inputs:
    ys: list[Tensor]
    weights: Tensor
    sources: list[Tensor]
    edge_weights: Tensor
    bypass: Tensor | None
    running: tuple[Tensor, Tensor, Tensor, Tensor]
    g: Tensor

    def to(self, dtype: torch.dtype) -> Inputs:
        def moved(x: Tensor) -> Tensor:
            return (x.detach().clone() if x.dtype == dtype else x.detach().to(dtype)).requires_grad_()

        bypass = None if self.bypass is None else moved(self.bypass)
        lists = [moved(y) for y in self.ys], moved(self.weights), [moved(x) for x in self.sources]
        return Inputs(*lists, moved(self.edge_weights), bypass, self.running, self.g.to(dtype))

    def named(self) -> dict[str, Tensor]:
        lists = {f"{name}[{i}]": x for name in ("ys", "sources") for i, x in enumerate(getattr(self, name))}
        single = {"weights": self.weights, "edge_weights": self.edge_weights, "bypass": self.bypass}
        return lists | {name: x for name, x in single.items() if x is not None}


def strided(draw: torch.Generator, n: int, c: int, h: int, w: int, gap: int) -> Tensor:
    """Maps whose pixels lie `gap` elements apart."""
    return torch.randn(n, h, w, c + gap, generator=draw)[..., :c].permute(0, 3, 1, 2)


def build(case: Case) -> Inputs:
    draw = torch.Generator().manual_seed(case.seed)
    n, c, h, w = case.batch, case.mixed * case.partial, case.height, case.width

    def side(pixels: int, edge: Edge) -> int:
        return pixels if edge.stride == 1 else 2 * pixels - case.odd

    sources = [strided(draw, n, c, side(h, e), side(w, e), case.gap) + case.offset for e in case.edges]
    ys = [strided(draw, n, case.mixed, h, w, 0) + case.offset for _ in range(case.terms)]
    if case.ties:
        sources = [x.round() for x in sources]
    count, shape = len(case.edges), (case.terms, case.mixed)
    statistics = [torch.randn(size, generator=draw).double() for size in (shape, (count, 2, case.mixed))]
    variances = [torch.rand(each.shape, generator=draw).double() + 0.1 for each in statistics]
    running = statistics[0], variances[0], statistics[1], variances[1]
    bypass = torch.randn(count, generator=draw) if case.bypass else None
    weights = torch.randn(case.terms, generator=draw), torch.randn(count, 3, generator=draw)
    g = strided(draw, n, c, h, w, case.gap)
    return Inputs(ys, weights[0], sources, weights[1], bypass, running, g).to(case.dtype)


def statistics(inputs: Inputs, case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not case.training:
        return inputs.running
    ys = [y.detach().double() for y in inputs.ys]
    mean = torch.stack([y.mean((0, 2, 3)) for y in ys]) if ys else torch.zeros(0, case.mixed)
    var = torch.stack([y.var((0, 2, 3), correction=0) for y in ys]) if ys else torch.zeros(0, case.mixed)
    pools = [
        torch.ops.fastdarts.pool_moments(x.detach()[:, : case.mixed], edge.stride, edge.max_pool, edge.avg_pool)
        for x, edge in zip(inputs.sources, case.edges, strict=True)
    ]
    empty = torch.zeros(0, 2, case.mixed)
    return (
        mean,
        var,
        *(torch.stack(each) if pools else empty for each in (list(zip(*pools, strict=True)) or [(), ()])),
    )


def run(function, inputs: Inputs, case: Case, stats: tuple[Tensor, ...]) -> dict[str, Tensor]:
    mean, var, pool_mean, pool_var = stats
    out = function(
        inputs.ys,
        inputs.weights,
        mean,
        var,
        inputs.sources,
        case.edges,
        inputs.edge_weights,
        pool_mean,
        pool_var,
        bypass=inputs.bypass,
        partial=case.partial,
        training=case.training,
    )
    named = inputs.named()
    found = {"out": out.detach()}
    if out.requires_grad:
        gradients = torch.autograd.grad(out, list(named.values()), inputs.g, allow_unused=True)
        found |= {
            f"d {name}": torch.zeros_like(x) if dx is None else dx
            for (name, x), dx in zip(named.items(), gradients, strict=True)
        }
    return found


def assert_parity(case: Case, inputs: Inputs | None = None) -> None:
    """Output and every gradient of the fused op and of plain torch, against float64."""
    inputs = build(case) if inputs is None else inputs
    stats = statistics(inputs, case)
    with torch.enable_grad():
        got = run(mixed_sum, inputs, case, stats)
        eager = run(node_sum, inputs, case, stats)
        double = inputs.to(torch.float64)
        ref64 = run(node_sum, double, case, stats)
    if "d weights" not in ref64:  # nothing was mixed: the reference has no gradient
        got = {"out": got["out"]}
    assert got["out"].is_contiguous(memory_format=torch.channels_last)
    magnitudes = magnitude(case, double, stats)
    for name in ref64:
        assert_within(name, got[name], eager[name], ref64[name], terms=magnitudes[name.partition("[")[0]])


def magnitude(case: Case, inputs: Inputs, stats: tuple[Tensor, ...]) -> dict[str, float]:
    """How much is added up in each result: with few pixels, gradients through a batch norm cancel."""

    def largest(*tensors: Tensor | None) -> float:
        return max(
            [0.0, *(float(x.detach().abs().nan_to_num(0, 0).max()) for x in tensors if x is not None and x.numel())]
        )

    pixels = case.batch * case.height * case.width
    weight = max(1.0, largest(inputs.weights, inputs.edge_weights, inputs.bypass))
    rstd = max(1.0, largest(*((var + 1e-5).rsqrt() for var in stats[1::2])))
    values, g = largest(*inputs.ys, *inputs.sources), largest(inputs.g)
    xhat = rstd * (values + largest(*stats[::2]))
    if case.training:
        xhat = min(xhat, pixels**0.5)  # no normalised value is larger
    value, candidates = max(values, xhat), case.terms + 4 * len(case.edges)
    through_norm = weight * rstd * g * (2 + xhat)
    total = float(inputs.g.abs().sum()) * value
    sums = dict.fromkeys(("d weights", "d edge_weights", "d bypass"), total)
    # A pixel takes part in nine windows of either pool.
    return sums | {"out": candidates * weight * value, "d ys": through_norm, "d sources": 18 * through_norm}


def arguments(case: Case) -> tuple:
    """A node as the library op takes it."""
    inputs = build(case)
    mean, var, pool_mean, pool_var = statistics(inputs, case)
    edges = [part for e in case.edges for part in (e.stride, int(e.skip), int(e.max_pool), int(e.avg_pool))]
    given = (inputs.ys, inputs.weights, mean, var, inputs.sources, edges, inputs.edge_weights, pool_mean, pool_var)
    return (*given, inputs.bypass, case.partial, 1e-5, case.training)
