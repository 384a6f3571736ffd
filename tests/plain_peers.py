"""Search networks of plain torch modules, under quark0's names: what the drop-in must compute, whatever is done to it.

Written without fastdarts: a mixed operation is a loop over candidates, a cell a loop over edges. Where the peers
fail (odd sizes) they pad as docs/drop-in.md says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Cell", "Derived", "MixedOp", "Network", "candidate"]


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class Skip(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class Reduce(nn.Module):
    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        odd = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(odd)], 1))


class Layers(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


def half(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    spread = nn.Conv2d(
        channels,
        channels,
        kernel,
        stride=stride,
        padding=dilation * (kernel - 1) // 2,
        dilation=dilation,
        groups=channels,
        bias=False,
    )
    return [nn.ReLU(), spread, nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)]


def before(c_in: int, c_out: int, affine: bool) -> nn.Module:
    return Layers(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out, affine=affine))


def candidate(name: str, channels: int, stride: int, affine: bool = False) -> nn.Module:
    """The operator of a primitive; in the search a batch norm follows a pool."""
    kernel = int(name[-1]) if name[-1].isdigit() else 0
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return Skip() if stride == 1 else Reduce(channels, channels, affine)
    if name.startswith("sep"):
        return Layers(*half(channels, kernel, stride, 1, affine), *half(channels, kernel, 1, 1, affine))
    if name.startswith("dil"):
        return Layers(*half(channels, kernel, stride, 2, affine))
    pool: nn.Module = nn.MaxPool2d(3, stride=stride, padding=1)
    if name.startswith("avg"):
        pool = nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
    return pool if affine else nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False))


class MixedOp(nn.Module):
    def __init__(self, channels: int, stride: int, primitives: Sequence[str], partial: int = 1) -> None:
        super().__init__()
        self.stride, self.partial = stride, partial
        self._ops = nn.ModuleList(candidate(name, channels // partial, stride) for name in primitives)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        mixed, rest = x[:, : x.shape[1] // self.partial], x[:, x.shape[1] // self.partial :]
        y = sum(w * op(mixed) for w, op in zip(weights, self._ops, strict=False))
        if self.partial == 1:
            return y
        rest = rest if self.stride == 1 else F.max_pool2d(rest, 2, 2, ceil_mode=True)
        n, c, h, w = (joined := torch.cat([y, rest], 1)).shape
        return joined.view(n, self.partial, c // self.partial, h, w).transpose(1, 2).reshape(n, c, h, w)


class Cell(nn.Module):
    def __init__(
        self,
        nodes: int,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        primitives: Sequence[str],
        *,
        reduction: bool,
        reduction_prev: bool,
        partial: int = 1,
    ) -> None:
        super().__init__()
        self.nodes, self.reduction = nodes, reduction
        self.preprocess0 = (Reduce if reduction_prev else before)(c_prev_prev, channels, False)
        self.preprocess1 = before(c_prev, channels, False)
        self._ops = nn.ModuleList(
            MixedOp(channels, 2 if reduction and source < 2 else 1, primitives, partial)
            for node in range(2, 2 + nodes)
            for source in range(node)
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        states, edge = [self.preprocess0(s0), self.preprocess1(s1)], 0
        for _ in range(self.nodes):
            terms = []
            for state in states:
                y = self._ops[edge](state, weights[edge])
                terms.append(y if edge_weights is None else edge_weights[edge] * y)
                edge += 1
            states.append(sum(terms))
        return torch.cat(states[2:], 1)


class Trunk(nn.Module):
    """Stem, cells, classifier; `build` makes a cell of (c_prev_prev, c_prev, channels, reduction, reduction_prev)."""

    def __init__(self, channels: int, classes: int, layers: int, multiplier: int, build: Any) -> None:
        super().__init__()
        c = 3 * channels
        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, padding=1, bias=False), nn.BatchNorm2d(c))
        self.cells, older, newer, halved = nn.ModuleList(), c, c, False
        for layer in range(layers):
            reduction = layer in (layers // 3, 2 * layers // 3)
            channels *= 2 if reduction else 1
            self.cells.append(build(older, newer, channels, reduction, halved))
            older, newer, halved = newer, multiplier * channels, reduction
        self.global_pooling = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(newer, classes)

    def begin(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        return y, y

    def end(self, x: Tensor) -> Tensor:
        return self.classifier(self.global_pooling(x).flatten(1))


class Network(Trunk):
    """The search network; with edge weights where channels are partial."""

    def __init__(
        self, channels: int, classes: int, layers: int, nodes: int, primitives: Sequence[str], partial: int = 1
    ) -> None:
        def build(older: int, newer: int, own: int, reduction: bool, halved: bool) -> Cell:
            sizes = {"reduction": reduction, "reduction_prev": halved, "partial": partial}
            return Cell(nodes, older, newer, own, primitives, **sizes)

        super().__init__(channels, classes, layers, nodes, build)
        self.nodes = nodes

    def forward(self, x: Tensor, alphas: Sequence[Tensor], betas: Sequence[Tensor] = ()) -> Tensor:
        older, newer = self.begin(x)
        for cell in self.cells:
            weights = alphas[cell.reduction].softmax(-1)
            edges = None
            if betas:
                into = betas[cell.reduction].split([2 + node for node in range(self.nodes)])
                edges = torch.cat([each.softmax(-1) for each in into])
            older, newer = newer, cell(older, newer, weights, edges)
        return self.end(newer)


class _Discrete(nn.Module):
    def __init__(self, pairs: Sequence[tuple[str, int]], sizes: tuple[int, int, int, bool, bool]) -> None:
        super().__init__()
        older, newer, channels, reduction, halved = sizes
        self.preprocess0 = (Reduce if halved else before)(older, channels, True)
        self.preprocess1 = before(newer, channels, True)
        self.sources = [source for _, source in pairs]
        self._ops = nn.ModuleList(
            candidate(name, channels, 2 if reduction and source < 2 else 1, affine=True) for name, source in pairs
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for first in range(0, len(self._ops), 2):
            states.append(sum(self._ops[k](states[self.sources[k]]) for k in (first, first + 1)))
        return torch.cat(states[2:], 1)


class Derived(Trunk):
    """The derived network of a genotype with two edges a node, all nodes in the output."""

    def __init__(self, channels: int, classes: int, layers: int, normal: Any, reduce: Any) -> None:
        super().__init__(
            channels, classes, layers, len(normal) // 2, lambda *sizes: _Discrete(reduce if sizes[3] else normal, sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        older, newer = self.begin(x)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        return self.end(newer)
