"""mixed_sum on the CPU: the kernels of a node against the same sum in eager torch, with the bytes that must move.

    OMP_NUM_THREADS=1 python -m pytest bench/bench_mixed_sum.py --benchmark-group-by=param:shape,param:what

Several nodes take turns, as in a search: a repeated one would find its maps in the cache. `GB/s` counts each map that
is read or written once; what the machine reads and copies at, measured in the same run, is in the JSON's machine_info.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from fastdarts.ops._mixed_sum_cpu import Edge, backward, forward, pool_moments, reduce
from fastdarts.ops._records import SumBackward, SumForward, SumReduce
from fastdarts.reference.mixed_sum import node_sum

EVERY, STRIDED = Edge(1, True, True, True), Edge(2, False, True, True)
# batch, channels, side of the node, partial, terms, edges
SHAPES = {
    "30 terms, C 16, 32x32, batch 16": (16, 16, 32, 1, 30, ()),
    "5 edges, C 16, 32x32, batch 16": (16, 16, 32, 1, 20, (EVERY,) * 5),
    "5 edges, C 32, 16x16, batch 16": (16, 32, 16, 1, 20, (EVERY,) * 5),
    "5 edges of a reduction, C 32, 16x16, batch 16": (16, 32, 16, 1, 20, (STRIDED,) * 2 + (EVERY,) * 3),
    "5 edges, C 16, K 4, 32x32, batch 32": (32, 16, 32, 4, 20, (EVERY,) * 5),
}
NODES = 6


class Node:
    """The maps of one node, and what each launcher makes of them."""

    def __init__(self, shape: str) -> None:
        self.batch, self.channels, self.side, self.partial, terms, self.edges = SHAPES[shape]
        self.mixed = self.channels // self.partial
        self.ys = [self._map(self.mixed) for _ in range(terms)]
        self.sources = [self._map(self.channels, edge.stride) for edge in self.edges]
        self.dx = [torch.zeros_like(x) for x in self.sources]
        self.out, self.g = self._map(self.channels), self._map(self.channels)
        count = len(self.edges)
        self.scale, self.mean = torch.rand(2, terms, self.mixed, dtype=torch.float64)
        self.free, self.pool_mean = (torch.rand(count, n, self.mixed, dtype=torch.float64) for n in (3, 2))
        self.bypass = torch.rand(count, dtype=torch.float64)

    def _map(self, channels: int, stride: int = 1) -> Tensor:
        side = self.side * stride
        return torch.randn(self.batch, side, side, channels).permute(0, 3, 1, 2)

    def forward(self) -> None:
        means = {"mean": self.mean, "pool_mean": self.pool_mean}
        edges = self.sources, self.edges
        forward(SumForward(self.out, self.ys, self.scale, None, *edges, self.free, self.bypass, self.partial, **means))

    def reduce(self) -> None:
        pools = self.pool_mean, self.pool_mean, self.partial
        reduce(SumReduce(self.g, self.ys, self.mean, self.scale, self.sources, self.edges, *pools))

    def backward(self) -> None:
        coefficients = (self.free,) * 3
        backward(SumBackward(self.g, self.sources, self.edges, *coefficients, self.bypass, self.dx, self.partial))

    def moments(self) -> None:
        for x, edge in zip(self.sources, self.edges, strict=True):
            pool_moments(x[:, : self.mixed], edge.stride, max_pool=True, avg_pool=True)

    def eager_forward(self) -> None:
        self._eager()

    def eager_all(self) -> None:
        asked = [x.requires_grad_() for x in (*self.ys, *self.sources)]
        torch.autograd.grad(self._eager(), asked, self.g)

    def _eager(self) -> Tensor:
        weights, edge_weights = (each.mean(-1).float() for each in (self.scale, self.free))
        given = (self.ys, weights, self.mean, self.mean, self.sources, self.edges, edge_weights)
        return node_sum(*given, self.pool_mean, self.pool_mean, self.bypass.float(), self.partial)

    def bytes(self, what: str) -> int:
        """Bytes of the maps that `what` must read and write at least once."""
        terms, sources = (sum(x.numel() * 4 for x in group) for group in (self.ys, self.sources))
        node = self.out.numel() * 4
        mixed = sources // self.partial
        moved = {
            "forward": terms + sources + node,
            "reduce": terms + sources + node * (1 if self.partial == 1 else 2),
            "backward": node + 3 * sources,
            "moments": mixed,
        }
        return moved.get(what, 0)


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def nodes(request: pytest.FixtureRequest) -> Iterator[list[Node]]:
    yield [Node(request.param) for _ in range(NODES)]


@pytest.mark.parametrize("what", ["forward", "reduce", "backward", "moments", "eager_forward", "eager_all"])
def bench_mixed_sum(benchmark, nodes: list[Node], what: str) -> None:
    if what in ("backward", "moments") and not nodes[0].edges:
        pytest.skip("no source")
    turns = itertools.cycle(nodes)
    benchmark.pedantic(
        lambda node: getattr(node, what)(), setup=lambda: ((next(turns),), {}), rounds=30, warmup_rounds=3
    )
    moved = nodes[0].bytes(what)
    benchmark.extra_info |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "bytes": moved}
    if moved:
        benchmark.extra_info["GB/s"] = moved / benchmark.stats.stats.median / 1e9
        benchmark.extra_info["GB/s, best"] = moved / benchmark.stats.stats.min / 1e9
