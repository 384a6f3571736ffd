"""The mixed operation of an edge and the cell that mixes over all its edges."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.channels import channel_order, reordered
from fastdarts.nn.checks import (
    at_least_one,
    check_active,
    check_maps,
    check_partial,
    check_sampling,
    check_statistics,
    check_vector,
    halved,
)
from fastdarts.nn.fused import Engine, as_laid_out, cast_once, check_memory, constant, hooked, preprocess
from fastdarts.nn.operations import FactorizedReduce, Identity, ReLUConvBN, build_op
from fastdarts.nn.stack import Stack, StackedPart
from fastdarts.nn.trunk import StackedCell
from fastdarts.plan import CellPlan, cell_plan, mixed_op_plan, unsupported
from fastdarts.spaces import CellSpace

__all__ = ["Cell", "MixedOp"]

_DROPS_EDGES = "whole edges are dropped: each edge runs on its own"
_DROPS_ELEMENTS = "elements of skips are dropped: each edge runs on its own"

Weights = Tensor | Sequence[Tensor]
Active = Sequence[Sequence[int]]


def _without_some(x: Tensor, probability: float) -> Tensor:
    """Dropout of elements, drawn in the order of the indices and not of the memory: one seed, one mask everywhere."""
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1 - probability)
    return x * kept.div_(1 - probability)


class MixedOp(nn.Module):
    """All candidates of one edge, summed with mixing weights.

    `y = sum_k weights[k] * op_k(x)`; with partial channels of the first C/K channels, the others going by.

    Args:
        channels: C, of the input and the output.
        stride: 1 or 2, pixels.
        primitives: names of the candidates, in the order of the weights.
        partial: K; 1/K of the channels is mixed. 1 mixes all.
        memory: what the fused engine keeps for backward: `fast`, `balanced` or `lean`; :func:`fastdarts.ops.cell`.

    Raises:
        UserError: K does not divide C, no or unknown primitives, a stride other than 1 or 2, an unknown memory mode.

    Source: Liu et al. 2019 (DARTS), Eq. 2; Xu et al. 2020 (PC-DARTS), Eq. 3.
    """

    def __init__(
        self, channels: int, stride: int, primitives: Sequence[str], *, partial: int = 1, memory: str = "fast"
    ) -> None:
        super().__init__()
        check_partial(channels, partial)
        check_memory(memory)
        if not primitives:
            raise UserError("a mixed operation without primitives", "at least one")
        self.channels, self.stride, self.partial, self.memory = channels, stride, partial, memory
        self.primitives = tuple(primitives)
        self._ops = nn.ModuleList(
            build_op(primitive, channels // partial, stride, affine=False, pool_bn=True) for primitive in primitives
        )
        self._stack: Stack | None = Stack([self._ops], [0])
        self._learn_in(StackedPart(self._stack, 0))

    def _learn_in(self, part: StackedPart) -> None:
        """Read weights and statistics from an edge of a stack, a cell's where there is one."""
        if part.stack is not self._stack:
            self._stack = None
        self._part = part

        def build() -> CellPlan | None:
            return mixed_op_plan(self.primitives, self.channels, self.stride, partial=self.partial)

        self._engine = Engine("MixedOp", part.stack, part.place, [self._ops], build, unsupported(self.primitives))

    def forward(
        self, x: Tensor, weights: Tensor, active: Sequence[int] | None = None, skip_dropout: float = 0.0
    ) -> Tensor:
        """Mix.

        Args:
            x: [N, C, H, W], floating.
            weights: [K], floating; one mixing weight per primitive.
            active: indices of the primitives that run; None for all. The others are not computed.
            skip_dropout: probability that an element of what an identity gives is dropped, in training only.

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
        chosen = range(len(self._ops)) if active is None else active
        skips = [k for k in chosen if isinstance(self._ops[k], Identity)]
        if skips and skip_dropout and self.training:
            return self._dropping(x, weights, skips, [k for k in chosen if k not in skips], skip_dropout)
        return self._mix(x, weights, active)

    def _mix(self, x: Tensor, weights: Tensor, active: Sequence[int] | None) -> Tensor:
        if not self._engine.refuses(x, [self._ops]):
            route = self._engine.route(None if active is None else (tuple(active),))
            with cast_once(x) as cast:
                y = self._engine.run([cast(x)], weights.unsqueeze(0), bypass=None, route=route, memory=self.memory)
            return as_laid_out(y, x)
        stack, edge = self._part
        kernels = dict(zip(self._engine.edges[0], stack.edge(edge), strict=True))
        ops = [functools.partial(op, kernels=kernels[op]) if kernels.get(op) else op for op in self._ops]

        def mix(sampled: Tensor) -> Tensor:
            return reference.mixed_sum(sampled, ops, weights, active)

        return reference.partial_channels(x, mix, partial=self.partial, stride=self.stride)

    def _dropping(
        self, x: Tensor, weights: Tensor, skips: Sequence[int], others: Sequence[int], dropout: float
    ) -> Tensor:
        """Identities, elements of which are dropped, and what the engine makes of the other candidates."""

        def skipped(sampled: Tensor) -> Tensor:
            return reference.weighted_sum([weights[k] * _without_some(sampled, dropout) for k in skips])

        if not others:
            return reference.partial_channels(x, skipped, partial=self.partial, stride=self.stride)
        y = self._mix(x, weights, others)
        sampled = self.channels // self.partial
        kept = skipped(x[:, :sampled])
        if self.partial > 1:
            # Where the engine's shuffle has put the channels that were mixed.
            kept = reference.channel_shuffle(F.pad(kept, (0, 0, 0, 0, 0, self.channels - sampled)), self.partial)
        return y + kept


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
        memory: what the fused engine keeps for backward: `fast`, `balanced` or `lean`; :func:`fastdarts.ops.cell`.
        channel_sampling: with partial channels, whether each pass in training mixes C/K channels drawn at random
            instead of the first ones; :func:`fastdarts.nn.channels.channel_order`.

    Raises:
        UserError: as :class:`MixedOp`; channels to sample where all are mixed.

    Source: Liu et al. 2019 (DARTS), section 2.1; Xu et al. 2020 (PC-DARTS), Eq. 3; facts sections 1 and 3.
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
        memory: str = "fast",
        channel_sampling: bool = False,
    ) -> None:
        super().__init__()
        check_memory(memory)
        check_sampling(channel_sampling, partial)
        for name, value in (("c_prev_prev", c_prev_prev), ("c_prev", c_prev), ("channels", channels)):
            at_least_one(name, value)
        self.space, self.reduction, self.partial, self.memory = space, reduction, partial, memory
        self.c_prev_prev, self.c_prev, self.channels = c_prev_prev, c_prev, channels
        self.channel_sampling = channel_sampling
        self.multiplier = len(space.concat)
        if reduction_prev:
            self.preprocess0: nn.Module = FactorizedReduce(c_prev_prev, channels, affine=False)
        else:
            self.preprocess0 = ReLUConvBN(c_prev_prev, channels, 1, 1, 0, affine=False)
        self.preprocess1 = ReLUConvBN(c_prev, channels, 1, 1, 0, affine=False)
        strides = [2 if reduction and edge.source < space.inputs else 1 for edge in space.edges]
        edges = [
            self._build_edge(channels, stride, edge.primitives, partial)
            for stride, edge in zip(strides, space.edges, strict=True)
        ]
        self._ops = nn.ModuleList(edges)
        self._stack = Stack([edge._ops for edge in edges], [edge.source for edge in space.edges])
        for index, edge in enumerate(edges):
            edge._learn_in(StackedPart(self._stack, index))

        def build() -> CellPlan | None:
            return cell_plan(space, channels, partial=partial, reduction=reduction)

        planned = [(channels, stride, e.primitives, partial) for stride, e in zip(strides, space.edges, strict=True)]
        built = [(edge.channels, edge.stride, edge.primitives, edge.partial) for edge in edges]
        why = unsupported(space) or ("" if built == planned else "edges of its own making")
        self._engine = Engine("Cell", self._stack, None, [edge._ops for edge in edges], build, why)

    def _build_edge(self, channels: int, stride: int, primitives: Sequence[str], partial: int) -> MixedOp:
        return MixedOp(channels, stride, primitives, partial=partial)

    def forward(
        self,
        s0: Tensor,
        s1: Tensor,
        weights: Weights,
        edge_weights: Tensor | None = None,
        active: Active | None = None,
        *,
        drop_path_prob: float = 0.0,
        skip_dropout: float = 0.0,
    ) -> Tensor:
        """Run the cell.

        In training with a probability above 0 the edges run one by one: the engine mixes a whole cell by one factor
        a channel, and these belong to an image, or to one candidate's elements.

        Args:
            s0: [N, c_prev_prev, H0, W0], floating; output of two layers before.
            s1: [N, c_prev, H, W], floating; output of the layer before.
            weights: [E, >= K_e] or E tensors [K_e]; mixing weights. What lies beyond an edge's K_e is not read.
            edge_weights: [E]; None for 1 each.
            active: for each edge the indices of the primitives that run, () for an edge that does not exist (with its
                bypass); None for all. The others are not computed.
            drop_path_prob: probability that an edge of an image is dropped, all of it, in training only.
            skip_dropout: probability that an element after an identity is dropped, in training only.

        Returns:
            [N, C * multiplier, H', W'], H' = ceil(H / 2) in a reduction, else H.

        Raises:
            UserError: wrong shapes, an empty batch, inputs whose sizes do not fit, indices that do not exist.
            TypeError: no tensors, or no floating dtype.
        """
        check_maps(s0, self.c_prev_prev, "Cell")
        check_maps(s1, self.c_prev, "Cell")
        counts = self.space.counts
        if edge_weights is not None:
            check_vector(edge_weights, len(counts), "Cell", "edge_weights")
        if active is not None:
            if len(active) != len(counts):
                raise UserError(f"Cell: active has {len(active)} entries", f"one for each of the {len(counts)} edges")
            for chosen, count in zip(active, counts, strict=True):
                if chosen:
                    check_active(chosen, count, "Cell")
        drop_path_prob, skip_dropout = (p if self.training else 0.0 for p in (drop_path_prob, skip_dropout))
        reason = _DROPS_EDGES if drop_path_prob else _DROPS_ELEMENTS if skip_dropout else ""
        if self._is_plain(s1, reason):
            states, order = self._reordered(self._met(s0, s1, self.preprocess0(s0), self.preprocess1(s1)))
            y = self._mix(states, self._rows(weights), edge_weights, active, drop_path_prob, skip_dropout)
            return y if order is None else reordered(y, order)
        return self._fused(s0, s1, weights, edge_weights, active)

    def _is_plain(self, x: Tensor, reason: str) -> bool:
        if reason:
            return self._engine.refuses(x, [], reason)
        edges: list[nn.ModuleList] = []
        for edge in self._ops:
            if not isinstance(edge, MixedOp) or type(edge).forward is not MixedOp.forward or "forward" in vars(edge):
                return self._engine.refuses(x, [], "edges are more than mixed operations")
            if hooked(edge):
                return self._engine.refuses(x, [], "edges have hooks")
            edges.append(edge._ops)
        return self._engine.refuses(x, edges)

    def _fused(
        self, s0: Tensor, s1: Tensor, weights: Weights, edge_weights: Tensor | None, active: Active | None
    ) -> Tensor:
        route = self._engine.route(None if active is None else tuple(tuple(chosen) for chosen in active))
        matrix, bypass = self._matrix(weights), None
        if edge_weights is not None:
            if route.read:
                # What no candidate has may be anything, and the product's gradient would read it.
                matrix = torch.where(constant(route.read, matrix.device), matrix[:, : self.space.width], 0)
            matrix = matrix[:, : self.space.width] * edge_weights.unsqueeze(1)
            bypass = edge_weights if self.partial > 1 else None
        with cast_once(s1) as cast:
            older, newer = preprocess(self.preprocess0, s0, cast), preprocess(self.preprocess1, s1, cast)
            states, order = self._reordered(self._met(s0, s1, older, newer))
            y = self._engine.run(states, matrix, bypass=bypass, route=route, memory=self.memory)
        return as_laid_out(y if order is None else reordered(y, order), s1)

    def _reordered(self, states: list[Tensor]) -> tuple[list[Tensor], Tensor | None]:
        """The states in this pass' order of channels, and the order that names the output's channels back."""
        if not self.channel_sampling:
            return states, None
        order = channel_order(self.channels, self.partial, self.multiplier, states[0].device, draw=self.training)
        if order.states is not None:
            states = [reordered(state, order.states) for state in states]
        return states, order.output

    def _met(self, s0: Tensor, s1: Tensor, *states: Tensor) -> list[Tensor]:
        if states[0].shape != states[1].shape:
            raise UserError(
                f"Cell: inputs of {list(s0.shape)} and {list(s1.shape)} do not meet",
                "s0 of twice the size of s1 after a reduction, else of one size",
            )
        return list(states)

    def _mix(
        self,
        states: list[Tensor],
        rows: list[Tensor],
        edge_weights: Tensor | None,
        active: Active | None,
        drop_path_prob: float,
        skip_dropout: float,
    ) -> Tensor:
        for node in self.space.states:
            edges = [e for e in self.space.into(node) if active is None or active[e]]
            # The mask right after the edge, as RobustDARTS draws it: beside noise the order decides what is drawn.
            terms = [
                reference.drop_path(self._edge(e, states, rows[e], active, skip_dropout), drop_path_prob) for e in edges
            ]
            if terms:
                factors = None if edge_weights is None else [edge_weights[e] for e in edges]
                states.append(reference.weighted_sum(terms, factors))
            else:
                states.append(reference.zero(states[0], stride=2 if self.reduction else 1))
        return torch.cat([states[node] for node in self.space.concat], dim=1)

    def _edge(
        self, edge: int, states: list[Tensor], weights: Tensor, active: Active | None, skip_dropout: float
    ) -> Tensor:
        source = states[self.space.edges[edge].source]
        # An edge of someone else's making may know no dropout, and need not where there is none.
        dropout = {"skip_dropout": skip_dropout} if skip_dropout else {}
        y: Tensor = self._ops[edge](source, weights, None if active is None else active[edge], **dropout)
        return y

    def _matrix(self, weights: Weights) -> Tensor:
        """The mixing weights as [E, at least the widest edge's]."""
        edges, width = len(self.space.edges), self.space.width
        if isinstance(weights, Tensor) and weights.ndim == 2 and len(weights) == edges and weights.shape[1] >= width:
            return weights
        return torch.stack([F.pad(row, (0, width - len(row))) for row in self._rows(weights)])

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
