"""The baseline of every comparison: plain modules, each with weights of its own, as the papers' code has it.

`fastdarts.nn.Supernet` on the reference backend computes the same, but splits stacked weights: launches that eager
torch would not have. This one has the same `state_dict` keys, and of fastdarts only its modules of single operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.nn import FactorizedReduce, ReLUConvBN
from fastdarts.nn.operations import build_op
from fastdarts.nn.supernet import STEM_MULTIPLIER, Architecture
from fastdarts.nn.trunk import Place, StackedCell, Trunk
from fastdarts.spaces import CellSpace, Space

__all__ = ["PlainCell", "PlainMixedOp", "PlainSupernet"]


class PlainMixedOp(nn.Module):
    """As :class:`fastdarts.nn.MixedOp`, in eager torch."""

    def __init__(self, channels: int, stride: int, primitives: tuple[str, ...], partial: int) -> None:
        super().__init__()
        self.channels, self.partial, self.stride = channels // partial, partial, stride
        self._ops = nn.ModuleList(build_op(name, self.channels, stride, False, True) for name in primitives)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """[N, C, H, W] and [K] to [N, C, H / stride, W / stride]."""
        if self.partial == 1:
            return _sum(weight * op(x) for weight, op in zip(weights, self._ops, strict=False))
        taken, rest = x[:, : self.channels], x[:, self.channels :]
        mixed = _sum(weight * op(taken) for weight, op in zip(weights, self._ops, strict=False))
        whole = torch.cat([mixed, rest if self.stride == 1 else F.max_pool2d(rest, 2, 2)], 1)
        n, channels, height, width = whole.shape
        shuffled = whole.view(n, self.partial, channels // self.partial, height, width).transpose(1, 2)
        return shuffled.reshape(n, channels, height, width)


class PlainCell(StackedCell):
    """As :class:`fastdarts.nn.Cell`, in eager torch.

    Args:
        space: its edges.
        place: its channels, and whether it and the cell before reduce.
        partial: K of partial channels.
    """

    def __init__(self, space: CellSpace, place: Place, partial: int) -> None:
        super().__init__()
        self.space, self.multiplier = space, len(space.concat)
        if place.reduction_prev:
            self.preprocess0: nn.Module = FactorizedReduce(place.c_prev_prev, place.channels, affine=False)
        else:
            self.preprocess0 = ReLUConvBN(place.c_prev_prev, place.channels, 1, 1, 0, affine=False)
        self.preprocess1 = ReLUConvBN(place.c_prev, place.channels, 1, 1, 0, affine=False)
        self._ops = nn.ModuleList(
            PlainMixedOp(
                place.channels, 2 if place.reduction and edge.source < space.inputs else 1, edge.primitives, partial
            )
            for edge in space.edges
        )

    def forward(self, s0: Tensor, s1: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        """As :meth:`fastdarts.nn.Cell.forward`."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node in self.space.states:
            terms = []
            for e in self.space.into(node):
                term = self._ops[e](states[self.space.edges[e].source], weights[e])
                terms.append(term if edge_weights is None else edge_weights[e] * term)
            states.append(_sum(terms))
        return torch.cat([states[node] for node in self.space.concat], dim=1)


class PlainSupernet(Trunk):
    """As :class:`fastdarts.nn.Supernet`, in eager torch.

    Args:
        space: the search space.
        channels: C of the first cell.
        layers: number of cells.
        partial: K of partial channels, with edge normalisation where above 1.
        in_channels: channels of the images.
        classes: number of classes.
    """

    def __init__(
        self, space: Space, *, channels: int, layers: int, partial: int = 1, in_channels: int = 3, classes: int = 10
    ) -> None:
        kinds = space.kinds(layers)
        super().__init__(
            lambda place: PlainCell(space.cell(space.keys(layers)[place.layer], layers), place, partial),
            channels=channels,
            layers=layers,
            reductions=[layer for layer, kind in enumerate(kinds) if kind == "reduce"],
            classes=classes,
            in_channels=in_channels,
            stem="cifar",
            stem_channels=STEM_MULTIPLIER * channels,
        )
        self._keys = space.keys(layers)
        self.arch = Architecture(space, layers, edge_normalisation=partial > 1, scale=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        weights, edges = self.arch.mixing_weights(), self.arch.edge_weights()
        older, newer = self.begin(x)
        for key, cell in zip(self._keys, self.cells, strict=True):
            older, newer = newer, cell(older, newer, weights[key], None if edges is None else edges[key])
        return self.classify(newer)

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alphas, then betas."""
        return list(self.arch.parameters())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All others."""
        own = {id(parameter) for parameter in self.arch.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in own]


def _sum(terms: Iterable[Tensor]) -> Tensor:
    # As the papers' code adds: sum() begins with 0, which eager torch adds too.
    return cast(Tensor, sum(terms))
