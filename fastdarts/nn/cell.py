"""The cell that mixes over all its edges."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.casting import as_laid_out
from fastdarts.nn.channels import channel_order, reordered
from fastdarts.nn.checks import (
    at_least_one,
    check_active,
    check_maps,
    check_sampling,
    check_vector,
)
from fastdarts.nn.fused import Engine, Surveyed, check_memory, constant
from fastdarts.nn.handed import handed_in
from fastdarts.nn.known import unhooked
from fastdarts.nn.mixed_op import MixedOp
from fastdarts.nn.operations import FactorizedReduce, ReLUConvBN, channels_first
from fastdarts.nn.route import route, segments
from fastdarts.nn.stack import Stack, StackedPart
from fastdarts.nn.survey import Edges, Frame, Survey
from fastdarts.nn.trunk import StackedCell
from fastdarts.spaces import CellSpace

__all__ = ["Cell"]

_DROPS_EDGES = "whole edges are dropped: each edge runs on its own"
_DROPS_ELEMENTS = "elements of skips are dropped: each edge runs on its own"

Weights = Tensor | Sequence[Tensor]
Active = Sequence[Sequence[int]]


class Cell(StackedCell, Surveyed):
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
        stacked: whether the weights on the edges out of a state are one parameter; as of :class:`MixedOp`.

    Raises:
        UserError: as :class:`MixedOp`; channels to sample where all are mixed.

    Source: Liu et al. 2019 (DARTS), section 2.1; Xu et al. 2020 (PC-DARTS), Eq. 3; docs/facts.md, 1 and 3.
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
        stacked: bool = True,
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
        self._stack: Stack | None = None
        if stacked:
            mixed = [edge if isinstance(edge, MixedOp) else None for edge in edges]
            named = [[] if edge is None else edge.stackable() for edge in mixed]
            self._stack = Stack(named, [edge.source for edge in space.edges])
            for index, each in enumerate(mixed):
                if each is not None:
                    each.learn_in(StackedPart(self._stack, index))
        where = tuple((edge.source, edge.node, stride) for edge, stride in zip(space.edges, strides, strict=True))
        self._engine = Engine("Cell", Frame(space.inputs, space.nodes, space.concat, channels, partial, where))

    def _build_edge(self, channels: int, stride: int, primitives: Sequence[str], partial: int) -> nn.Module:
        return MixedOp(channels, stride, primitives, partial=partial, stacked=False)

    def edges(self) -> Edges:
        """The edges as they are now."""
        reasons = [
            self._apart(edge, stride) for edge, (_, _, stride) in zip(self._ops, self._engine.frame.edges, strict=True)
        ]
        every: list[Any] = list(self._ops)
        mixed = [edge for edge, reason in zip(every, reasons, strict=True) if not reason]
        candidates = [None if reason else list(edge._ops) for edge, reason in zip(every, reasons, strict=True)]
        containers = [self._ops, *mixed, *(edge._ops for edge in mixed)]
        owners = [(edge, ("channels", "stride", "partial")) for edge in mixed]
        return Edges(candidates, containers, owners, frozenset(filter(None, reasons)))

    def called(self) -> tuple[int, ...]:
        """The edges that are modules of their own now."""
        strides = (stride for _, _, stride in self._engine.frame.edges)
        return tuple(
            e for e, (edge, stride) in enumerate(zip(self._ops, strides, strict=True)) if self._apart(edge, stride)
        )

    def _apart(self, edge: nn.Module, stride: int) -> str:
        """Why an edge is called as the module it is; "" where it is a mixed operation as this cell builds them."""
        if not isinstance(edge, MixedOp):
            return f"an edge is a {type(edge).__name__}"
        own = [
            getattr(type(edge), name) is getattr(MixedOp, name) for name in ("forward", "_mix", "_fused", "_dropping")
        ]
        if not all(own):
            return f"an edge is a {type(edge).__name__} with a forward of its own"
        if not unhooked(edge):
            return "edges have hooks"
        if (edge.channels, edge.stride, edge.partial) != (self.channels, stride, self.partial):
            return "an edge has other channels or strides"
        return ""

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
        if edge_weights is not None:
            check_vector(edge_weights, len(self._ops), "Cell", "edge_weights")
        if active is not None:
            if len(active) != len(self._ops):
                raise UserError(
                    f"Cell: active has {len(active)} entries", f"one for each of the {len(self._ops)} edges"
                )
            for chosen, edge in zip(active, self._ops, strict=True):
                if chosen and isinstance(edge, MixedOp):
                    check_active(chosen, len(edge._ops), "Cell")
        drop_path_prob, skip_dropout = (p if self.training else 0.0 for p in (drop_path_prob, skip_dropout))
        reason = _DROPS_EDGES if drop_path_prob else _DROPS_ELEMENTS if skip_dropout else ""
        if not self._engine.refuses(s1, reason):
            survey = self._engine.survey(self)
            if survey.fused:
                return self._fused(s0, s1, weights, edge_weights, active, survey)
        rows = self._rows(weights)
        states, order = self._reordered(self._met(s0, s1, self.preprocess0(s0), self.preprocess1(s1)))
        with nullcontext() if self._stack is None else self._stack.cut():
            y = self._mix(states, rows, edge_weights, active, drop_path_prob, skip_dropout)
        return y if order is None else reordered(y, order)

    def _fused(
        self,
        s0: Tensor,
        s1: Tensor,
        weights: Weights,
        edge_weights: Tensor | None,
        active: Active | None,
        survey: Survey,
    ) -> Tensor:
        older, newer = (self._engine.preprocess(self, f"preprocess{i}", s) for i, s in enumerate((s0, s1)))
        states, order = self._reordered(self._met(s0, s1, older, newer))
        running = None if active is None else tuple(tuple(chosen) for chosen in active)
        matrix, bypass = self._matrix(weights, survey.width), None
        if edge_weights is not None:
            read = route(survey.plan, running).read
            if read:
                # What no candidate has may be anything, and the product's gradient would read it.
                matrix = torch.where(constant(read, matrix.device), matrix[:, : survey.width], 0)
            matrix = matrix[:, : survey.width] * edge_weights.unsqueeze(1)
            bypass = edge_weights if self.partial > 1 else None
        runs = segments(survey.plan, survey.called, running) if survey.called or survey.modules else ()
        if len(runs) < 2 and not survey.called:
            y = self._part_of(survey, states, matrix, bypass, running, None)
        else:
            rows = self._rows(weights)
            for nodes in runs:
                own = self._own(nodes[0], survey, states, rows, edge_weights, active)
                states += self._nodes(survey, states, matrix, bypass, running, nodes, own)
            y = torch.cat([states[node] for node in self.space.concat], dim=1)
        return as_laid_out(y if order is None else reordered(y, order), s1)

    def _part_of(
        self,
        survey: Survey,
        states: list[Tensor],
        matrix: Tensor,
        bypass: Tensor | None,
        active: tuple[tuple[int, ...], ...] | None,
        nodes: tuple[int, ...] | None,
    ) -> Tensor:
        """What the engine makes of some nodes, None for the whole cell."""
        way = route(survey.plan, active, nodes)
        count = way.edges
        return self._engine.run(
            self._ops,
            self._stack,
            survey,
            states,
            matrix if nodes is None else matrix[:count],
            bypass=bypass if bypass is None or nodes is None else bypass[:count],
            route=way,
            memory=self.memory,
            handed=handed_in("Cell", way, self._ops, states) if way.handed else (),
        )

    def _nodes(
        self,
        survey: Survey,
        states: list[Tensor],
        matrix: Tensor,
        bypass: Tensor | None,
        active: tuple[tuple[int, ...], ...] | None,
        nodes: tuple[int, ...],
        own: list[Tensor],
    ) -> list[Tensor]:
        """Some nodes from the states before them; `own` is what edges that are modules give to the first one."""
        if own and route(survey.plan, active, nodes).empty:
            return [reference.weighted_sum(own)]
        found = list(self._part_of(survey, states, matrix, bypass, active, nodes).split(self.channels, dim=1))
        return [reference.weighted_sum([found[0], *own]), *found[1:]]

    def _own(
        self,
        node: int,
        survey: Survey,
        states: list[Tensor],
        rows: list[Tensor],
        edge_weights: Tensor | None,
        active: Active | None,
    ) -> list[Tensor]:
        """What the edges into a node that are modules of their own give."""
        edges = [e for e in survey.called if self.space.edges[e].node == node and (active is None or active[e])]
        terms = [self._edge(e, states, rows[e], active, 0.0) for e in edges]
        return terms if edge_weights is None else [edge_weights[e] * y for e, y in zip(edges, terms, strict=True)]

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
        # An edge of someone else's making may know neither, and need not where there is nothing to say.
        chosen = () if active is None else (active[edge],)
        dropout = {"skip_dropout": skip_dropout} if skip_dropout else {}
        own = isinstance(self._ops[edge], MixedOp)
        y: Tensor = self._ops[edge](source if own else channels_first(source), weights, *chosen, **dropout)
        return y

    def _matrix(self, weights: Weights, width: int) -> Tensor:
        """The mixing weights as [E, at least the widest edge's]."""
        edges = len(self._ops)
        if isinstance(weights, Tensor) and weights.ndim == 2 and len(weights) == edges and weights.shape[1] >= width:
            return weights
        return torch.stack([F.pad(row[:width], (0, max(0, width - len(row)))) for row in self._rows(weights)])

    def _rows(self, weights: Weights) -> list[Tensor]:
        rows = list(weights)
        if len(rows) != len(self._ops):
            raise UserError(f"Cell: mixing weights for {len(rows)} edges", f"{len(self._ops)} edges")
        for number, (row, edge) in enumerate(zip(rows, self._ops, strict=True)):
            if not isinstance(row, Tensor):
                raise TypeError(f"Cell: mixing weights of edge {number} are a {type(row).__name__}; expected a tensor")
            count = len(edge._ops) if isinstance(edge, MixedOp) else 0
            if row.ndim != 1 or len(row) < count:
                what = f"Cell: mixing weights of edge {number} have shape {list(row.shape)}"
                raise UserError(what, f"[{count}]")
        return rows
