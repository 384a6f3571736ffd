"""The mixed operation of an edge."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.casting import as_laid_out
from fastdarts.nn.checks import check_active, check_maps, check_partial, check_row, check_statistics, halved
from fastdarts.nn.fused import Engine, Surveyed, check_memory
from fastdarts.nn.handed import handed_in
from fastdarts.nn.operations import Identity, build_op, channels_first
from fastdarts.nn.route import route
from fastdarts.nn.stack import Stack, StackedPart
from fastdarts.nn.survey import Edges, Frame, Survey

__all__ = ["MixedOp"]


def _without_some(x: Tensor, probability: float) -> Tensor:
    """Dropout of elements, drawn in the order of the indices and not of the memory: one seed, one mask everywhere."""
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device).bernoulli_(1 - probability)
    return x * kept.div_(1 - probability)


class MixedOp(Surveyed):
    """All candidates of one edge, summed with mixing weights.

    `y = sum_k weights[k] * op_k(x)`; with partial channels of the first C/K channels, the others going by.

    Candidates may be exchanged, appended and deleted in `_ops`, and whatever is done to one is done: the engine runs
    those that it knows, the others are called as the modules they are.

    Args:
        channels: C, of the input and the output.
        stride: 1 or 2, pixels.
        primitives: the candidates in the order of the weights: names, or modules of your own from [N, C / K, H, W] to
            [N, C / K, ceil(H / stride), ceil(W / stride)].
        partial: K; 1/K of the channels is mixed. 1 mixes all.
        memory: what the fused engine keeps for backward: `fast`, `balanced` or `lean`; :func:`fastdarts.ops.cell`.
        stacked: whether the weights of named candidates are one parameter (:class:`fastdarts.nn.stack.Stack`), which
            is cheaper for optimisers; else each layer has its own, as in the peers.

    Raises:
        UserError: K does not divide C, no or unknown primitives, a stride other than 1 or 2, an unknown memory mode.

    Source: Liu et al. 2019 (DARTS), Eq. 2; Xu et al. 2020 (PC-DARTS), Eq. 3.
    """

    def __init__(
        self,
        channels: int,
        stride: int,
        primitives: Sequence[str | nn.Module],
        *,
        partial: int = 1,
        memory: str = "fast",
        stacked: bool = True,
    ) -> None:
        super().__init__()
        check_partial(channels, partial)
        check_memory(memory)
        if not primitives:
            raise UserError("a mixed operation without primitives", "at least one")
        self.channels, self.stride, self.partial, self.memory = channels, stride, partial, memory
        self.primitives = tuple(each if isinstance(each, str) else type(each).__name__ for each in primitives)
        self._ops = nn.ModuleList(
            each if isinstance(each, nn.Module) else build_op(each, channels // partial, stride, False, pool_bn=True)
            for each in primitives
        )
        # Modules of someone's own keep their own weights.
        self._named = [k for k, each in enumerate(primitives) if isinstance(each, str)]
        self._stack: Stack | None = Stack([self.stackable()], [0]) if stacked else None
        self._part = None if self._stack is None else StackedPart(self._stack, 0)
        frame = Frame(1, 1, (1,), channels, partial, ((0, 1, stride),))
        self._engine = Engine("MixedOp", frame)

    def stackable(self) -> list[nn.Module]:
        """The candidates whose weights a stack may hold."""
        return [self._ops[k] for k in self._named]

    def learn_in(self, part: StackedPart) -> None:
        """Read weights and statistics from a cell's stack."""
        self._stack, self._part = None, part

    def edges(self) -> Edges:
        """Itself, as it is now."""
        return Edges([list(self._ops)], [self._ops], [])

    def forward(
        self, x: Tensor, weights: Tensor, active: Sequence[int] | None = None, skip_dropout: float = 0.0
    ) -> Tensor:
        """Mix.

        Args:
            x: [N, C, H, W], floating.
            weights: [K or more], floating; one mixing weight per candidate, what lies beyond is not read.
            active: indices of the candidates that run; None for all. The others are not computed.
            skip_dropout: probability that an element of what an identity gives is dropped, in training only.

        Returns:
            [N, C, ceil(H / stride), ceil(W / stride)], the dtype of x.

        Raises:
            UserError: a wrong shape, an empty batch, indices that do not exist, a candidate that gives another shape.
            TypeError: no tensors, or no floating dtype.
        """
        count = len(self._ops)
        check_maps(x, self.channels, "MixedOp")
        check_row(weights, count, "MixedOp")
        if active is not None:
            check_active(active, count, "MixedOp")
        if self.training:
            height, width = (halved(size, self.stride) for size in x.shape[2:])
            check_statistics(len(x), height, width, "MixedOp")
        chosen = range(count) if active is None else active
        skips = [k for k in chosen if isinstance(self._ops[k], Identity)]
        if skips and skip_dropout and self.training:
            return self._dropping(x, weights, skips, [k for k in chosen if k not in skips], skip_dropout)
        return self._mix(x, weights, active)

    def _mix(self, x: Tensor, weights: Tensor, active: Sequence[int] | None) -> Tensor:
        if not self._engine.refuses(x):
            survey = self._engine.survey(self)
            if survey.fused:
                return self._fused(x, weights, active, survey)

        def mix(sampled: Tensor) -> Tensor:
            return reference.mixed_sum(
                channels_first(sampled), list(self._ops), weights, active or range(len(self._ops))
            )

        with nullcontext() if self._part is None else self._part.stack.cut(self._part.place):
            return reference.partial_channels(x, mix, partial=self.partial, stride=self.stride)

    def _fused(self, x: Tensor, weights: Tensor, active: Sequence[int] | None, survey: Survey) -> Tensor:
        way = route(survey.plan, None if active is None else (tuple(active),))
        y = self._engine.run(
            [self],
            None if self._part is None else self._part.stack,
            survey,
            [x],
            weights.unsqueeze(0),
            bypass=None,
            route=way,
            memory=self.memory,
            handed=handed_in("MixedOp", way, [self], [x]) if way.handed else (),
        )
        return as_laid_out(y, x)

    def _dropping(
        self, x: Tensor, weights: Tensor, skips: Sequence[int], others: Sequence[int], dropout: float
    ) -> Tensor:
        """Identities, elements of which are dropped, and what the engine makes of the other candidates."""

        def skipped(sampled: Tensor) -> Tensor:
            return reference.weighted_sum([weights[k] * _without_some(self._ops[k](sampled), dropout) for k in skips])

        if not others:
            return reference.partial_channels(x, skipped, partial=self.partial, stride=self.stride)
        y = self._mix(x, weights, others)
        sampled = self.channels // self.partial
        kept = skipped(x[:, :sampled])
        if self.partial > 1:
            # Where the engine's shuffle has put the channels that were mixed.
            kept = reference.channel_shuffle(F.pad(kept, (0, 0, 0, 0, 0, self.channels - sampled)), self.partial)
        return y + kept
