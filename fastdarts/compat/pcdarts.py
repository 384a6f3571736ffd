"""PC-DARTS (CIFAR search) under its own names: `from fastdarts.compat.pcdarts import Network, Architect`."""

from __future__ import annotations

from torch import Tensor, nn

from fastdarts import reference
from fastdarts.compat.architect import Architect
from fastdarts.compat.genotypes import PRIMITIVES, Genotype
from fastdarts.compat.network import (
    Constructors,
    SearchNetwork,
    architecture_tensor,
    candidates,
    constant_if_traced,
    constructors,
    dense_cell,
)
from fastdarts.nn import Cell as _Cell
from fastdarts.nn import MixedOp as _MixedOp
from fastdarts.nn.checks import check_partial

__all__ = ["OPS", "PRIMITIVES", "Architect", "Cell", "Genotype", "MixedOp", "Network"]

# K of the CIFAR search: a quarter of the channels is mixed.
PARTIAL = 4

OPS = constructors()
"""Constructors of the primitives, as :data:`fastdarts.compat.darts.OPS`, on a quarter of the channels."""


class MixedOp(_MixedOp):
    """All of :data:`PRIMITIVES` on the first quarter of the channels of one edge.

    Args:
        C: channels, a multiple of 4.
        stride: 1 or 2, pixels.

    Source: Xu et al. 2020 (PC-DARTS), Eq. 3.
    """

    def __init__(self, C: int, stride: int) -> None:
        check_partial(C, PARTIAL)
        mixed = candidates(OPS, PRIMITIVES, C // PARTIAL, stride)
        super().__init__(C, stride, mixed, partial=PARTIAL, stacked=False)
        self.primitives = tuple(PRIMITIVES)


class Cell(_Cell):
    """A searched cell of partial channels in which every node takes every earlier state.

    Args:
        steps: number of nodes.
        multiplier: number of nodes, the last ones, that make the output.
        C_prev_prev: channels of the input from two layers before.
        C_prev: channels of the input from the layer before.
        C: channels of every state, a multiple of 4.
        reduction: whether edges from the two inputs have stride 2.
        reduction_prev: whether the layer before reduced.

    Source: Xu et al. 2020 (PC-DARTS), section 3.
    """

    def __init__(
        self,
        steps: int,
        multiplier: int,
        C_prev_prev: int,
        C_prev: int,
        C: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__(
            dense_cell(steps, multiplier, PRIMITIVES, OPS),
            C_prev_prev,
            C_prev,
            C,
            reduction=reduction,
            reduction_prev=reduction_prev,
            partial=PARTIAL,
            stacked=False,
        )
        self._steps, self._multiplier = steps, multiplier

    def _build_edge(self, channels: int, stride: int, *_: object) -> nn.Module:
        return MixedOp(channels, stride)


class Network(SearchNetwork):
    """The search network of PC-DARTS' `model_search`, same weights, alphas and betas after the same seed.

    Args:
        C: channels of the first cell, a multiple of 4.
        num_classes: number of classes.
        layers: number of cells.
        criterion: loss of logits and labels.
        steps: nodes of a cell.
        multiplier: nodes, the last ones, that make a cell's output.
        stem_multiplier: channels after the stem, in units of C.

    Attributes:
        alphas_normal: [E, K], a plain tensor that requires grad; alphas_reduce likewise.
        betas_normal: [E], likewise; betas_reduce likewise.

    Source: Xu et al. 2020 (PC-DARTS), section 3; docs/facts.md, 3.
    """

    cell_class = Cell

    @staticmethod
    def _primitives() -> tuple[list[str], Constructors]:
        return PRIMITIVES, OPS

    def _initialize_alphas(self) -> None:
        super()._initialize_alphas()
        edges = len(self.space.normal.edges)
        self.betas_normal = architecture_tensor(edges)
        self.betas_reduce = architecture_tensor(edges)
        self._arch_parameters += [self.betas_normal, self.betas_reduce]

    def relaxed(self, kind: str) -> tuple[Tensor, ...]:
        """The mixing weights [E, K] and the edge weights [E] of the cells of a kind, `normal` or `reduce`."""
        cell = self.space.normal
        betas = constant_if_traced(getattr(self, f"betas_{kind}"))
        edges = reference.edge_normalisation(betas, [len(cell.into(node)) for node in cell.states])
        return (*super().relaxed(kind), edges)
