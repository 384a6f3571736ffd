"""The mixed operation of an edge and the cell that mixes over all its edges."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.checks import (
    at_least_one,
    check_active,
    check_maps,
    check_partial,
    check_statistics,
    check_vector,
    halved,
)
from fastdarts.nn.operations import FactorizedReduce, ReLUConvBN, build_op
from fastdarts.nn.trunk import StackedCell
from fastdarts.spaces import CellSpace

__all__ = ["Cell", "MixedOp"]

Weights = Tensor | Sequence[Tensor]
Active = Sequence[Sequence[int]]


class MixedOp(nn.Module):
    """All candidates of one edge, summed with mixing weights.

    `y = sum_k weights[k] * op_k(x)`; with partial channels of the first C/K channels, the others going by.

    Args:
        channels: C, of the input and the output.
        stride: 1 or 2, pixels.
        primitives: names of the candidates, in the order of the weights.
        partial: K; 1/K of the channels is mixed. 1 mixes all.

    Raises:
        UserError: K does not divide C, no or unknown primitives, a stride other than 1 or 2.

    Source: Liu et al. 2019 (DARTS), Eq. 2; Xu et al. 2020 (PC-DARTS), Eq. 3.
    """

    def __init__(self, channels: int, stride: int, primitives: Sequence[str], *, partial: int = 1) -> None:
        super().__init__()
        check_partial(channels, partial)
        if not primitives:
            raise UserError("a mixed operation without primitives", "at least one")
        self.channels, self.stride, self.partial = channels, stride, partial
        self._ops = nn.ModuleList(
            build_op(primitive, channels // partial, stride, affine=False, pool_bn=True) for primitive in primitives
        )

    def forward(self, x: Tensor, weights: Tensor, active: Sequence[int] | None = None) -> Tensor:
        """Mix.

        Args:
            x: [N, C, H, W], floating.
            weights: [K], floating; one mixing weight per primitive.
            active: indices of the primitives that run; None for all. The others are not computed.

        Returns:
            [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

        Raises:
            UserError: a wrong shape, an empty batch, indices that do not exist.
            TypeError: no tensors, or no floating dtype.
        """
        check_maps(x, self.channels, "MixedOp")
        check_vector(weights, len(self._ops), "MixedOp")
        if active is not None:
            check_active(active, len(self._ops), "MixedOp")
        if self.training:
            height, width = (halved(size, self.stride) for size in x.shape[2:])
            check_statistics(len(x), height, width, "MixedOp")

        def mix(sampled: Tensor) -> Tensor:
            return reference.mixed_sum(sampled, list(self._ops), weights, active)

        return reference.partial_channels(x, mix, partial=self.partial, stride=self.stride)


class Cell(StackedCell):
    """A searched cell: two inputs, nodes that sum mixed operations over earlier states, concatenated.

    `s_j = sum_e edge_weights[e] * mixed_e(s_source(e))` over the edges e into node j.

    Args:
        space: the cell's edges and candidates.
        c_prev_prev: channels of the input from two layers before.
        c_prev: channels of the input from the layer before.
        channels: C, of every state; the output has C times the number of concatenated nodes.
        reduction: whether edges from the two inputs have stride 2.
        reduction_prev: whether the layer before reduced, so that the older input is halved here.
        partial: K of partial channels; 1 mixes all.

    Raises:
        UserError: as :class:`MixedOp`.

    Source: Liu et al. 2019 (DARTS), section 2.1; facts section 1.
    """

    def __init__(
        self,
        space: CellSpace,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        *,
        reduction: bool,
        reduction_prev: bool,
        partial: int = 1,
    ) -> None:
        super().__init__()
        for name, value in (("c_prev_prev", c_prev_prev), ("c_prev", c_prev), ("channels", channels)):
            at_least_one(name, value)
        self.space, self.reduction = space, reduction
        self.c_prev_prev, self.c_prev, self.channels = c_prev_prev, c_prev, channels
        self.multiplier = len(space.concat)
        if reduction_prev:
            self.preprocess0: nn.Module = FactorizedReduce(c_prev_prev, channels, affine=False)
        else:
            self.preprocess0 = ReLUConvBN(c_prev_prev, channels, 1, 1, 0, affine=False)
        self.preprocess1 = ReLUConvBN(c_prev, channels, 1, 1, 0, affine=False)
        self._ops = nn.ModuleList(
            self._build_edge(channels, 2 if reduction and edge.source < space.inputs else 1, edge.primitives, partial)
            for edge in space.edges
        )

    def _build_edge(self, channels: int, stride: int, primitives: Sequence[str], partial: int) -> MixedOp:
        return MixedOp(channels, stride, primitives, partial=partial)

    def forward(
        self,
        s0: Tensor,
        s1: Tensor,
        weights: Weights,
        edge_weights: Tensor | None = None,
        active: Active | None = None,
    ) -> Tensor:
        """Run the cell.

        Args:
            s0: [N, c_prev_prev, H0, W0], floating; output of two layers before.
            s1: [N, c_prev, H, W], floating; output of the layer before.
            weights: [E, >= K_e] or E tensors [K_e]; mixing weights. What lies beyond an edge's K_e is not read.
            edge_weights: [E]; None for 1 each.
            active: for each edge the indices of the primitives that run, () for an edge that does not exist (with its
                bypass); None for all. The others are not computed.

        Returns:
            [N, C * multiplier, H', W'], H' = ceil(H / 2) in a reduction, else H.

        Raises:
            UserError: wrong shapes, an empty batch, inputs whose sizes do not fit, indices that do not exist.
            TypeError: no tensors, or no floating dtype.
        """
        check_maps(s0, self.c_prev_prev, "Cell")
        check_maps(s1, self.c_prev, "Cell")
        rows = self._rows(weights)
        if edge_weights is not None:
            check_vector(edge_weights, len(rows), "Cell", "edge_weights")
        if active is not None and len(active) != len(rows):
            raise UserError(f"Cell: active has {len(active)} entries", f"one for each of the {len(rows)} edges")
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        if states[0].shape != states[1].shape:
            raise UserError(
                f"Cell: inputs of {list(s0.shape)} and {list(s1.shape)} do not meet",
                "s0 of twice the size of s1 after a reduction, else of one size",
            )
        for node in self.space.states:
            edges = [e for e in self.space.into(node) if active is None or active[e]]
            terms = [self._edge(e, states, rows[e], active) for e in edges]
            if terms:
                factors = None if edge_weights is None else [edge_weights[e] for e in edges]
                states.append(reference.weighted_sum(terms, factors))
            else:
                states.append(reference.zero(states[0], stride=2 if self.reduction else 1))
        return torch.cat([states[node] for node in self.space.concat], dim=1)

    def _edge(self, edge: int, states: list[Tensor], weights: Tensor, active: Active | None) -> Tensor:
        source = states[self.space.edges[edge].source]
        return self._ops[edge](source, weights, None if active is None else active[edge])

    def _rows(self, weights: Weights) -> list[Tensor]:
        counts = self.space.counts
        rows = list(weights)
        if len(rows) != len(counts):
            raise UserError(f"Cell: mixing weights for {len(rows)} edges", f"{len(counts)} edges")
        for edge, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if not isinstance(row, Tensor):
                raise TypeError(f"Cell: mixing weights of edge {edge} are a {type(row).__name__}; expected a tensor")
            if row.ndim != 1 or len(row) < count:
                raise UserError(f"Cell: mixing weights of edge {edge} have shape {list(row.shape)}", f"[{count}]")
        return [row[:count] for row, count in zip(rows, counts, strict=True)]
