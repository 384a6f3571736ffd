"""The forward of a cell: values and moments of every candidate, and each node as one affine combination of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastdarts.ops import _plain, maps
from fastdarts.ops._cell_layout import Call, Inputs, Layout, Node, Values
from fastdarts.ops._engine import Engine
from fastdarts.ops._plain import PlainForward
from fastdarts.ops._records import PreprocessForward, StencilForward, SumForward
from fastdarts.plan._schedule import Plain

__all__ = ["Statistics", "Work", "run"]


class Statistics:
    """Statistics of the norms, in the order in which forward measures them; the first row is mean 0 and rstd 1.

    Args:
        mean: [rows, C'], float64.
        var: [rows, C'], float64, biased; with `eps` added it is 1 in the first row.
        eps: added to the variance.
        complete: whether these are all, and nothing is measured.
    """

    def __init__(self, mean: Tensor, var: Tensor, eps: float, *, complete: bool) -> None:
        self.complete, self.eps = complete, eps
        # Joined when they are asked for: a call adds a few rows.
        self._means, self._vars = [mean], [var]

    @classmethod
    def unknown(cls, channels: int, eps: float, device: torch.device) -> Statistics:
        """None yet, before a forward in training."""
        row = torch.zeros(1, channels, dtype=torch.float64, device=device)
        return cls(row, row + (1.0 - eps), eps, complete=False)

    @classmethod
    def known(cls, mean: Tensor, var: Tensor, layout: Layout, eps: float) -> Statistics:
        """All, in the plan's order: mean and var [norms * C'], any floating dtype."""
        mean, var = (each.to(torch.float64).view(-1, layout.plan.mixed) for each in (mean, var))
        row = mean.new_zeros(1, layout.plan.mixed)
        mean, var = torch.cat([mean, row]), torch.cat([var, row + (1.0 - eps)])
        return cls(mean.index_select(0, layout.norms), var.index_select(0, layout.norms), eps, complete=True)

    def add(self, mean: Tensor, var: Tensor) -> None:
        """The next rows, as a kernel has measured them."""
        self._means.append(mean)
        self._vars.append(var)

    def known_so_far(self) -> tuple[Tensor, Tensor]:
        """mean and var [rows, C']."""
        if len(self._means) > 1:
            self._means, self._vars = [torch.cat(self._means)], [torch.cat(self._vars)]
        return self._means[0], self._vars[0]

    def used(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """mean and var [norms * C'] in the plan's order."""
        mean, var = (each.index_select(0, layout.measured) for each in self.known_so_far())
        return mean.flatten(), var.flatten()


@dataclass
class Work:
    """What the passes of a cell read and write.

    Args:
        engine: the launchers of the kernels.
        layout: the plan's.
        states: for each state its maps [N, C, H, W]; forward appends the nodes.
        parameters: the plan's.
        noise: maps of the noise candidates.
        statistics: known, or to be measured.
        weights: [E * width + 1] float64, the last one 0.
        bypass: [E] float64 with partial channels, else None.
        values: maps of the values y by the norms' rows, as long as they exist.
    """

    engine: Engine
    layout: Layout
    states: list[Tensor]
    parameters: Sequence[Tensor]
    noise: Sequence[Tensor]
    statistics: Statistics
    weights: Tensor
    bypass: Tensor | None
    values: dict[int, Tensor] = field(default_factory=dict)

    def mixed(self, x: Tensor) -> Tensor:
        """The channels of a state that candidates run on."""
        return x if self.layout.plan.partial == 1 else x[:, : self.layout.plan.mixed]

    def terms(self, node: Node) -> list[Tensor]:
        """A node's stored values."""
        return [self.noise[place] if norm < 0 else self.values[norm] for norm, place in node.terms]

    def sources(self, inputs: Inputs) -> list[Tensor]:
        """The states of a node's in-edges."""
        return [self.states[source] for source in inputs.sources]

    def rows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """mean and rstd [K, C'] of some norms."""
        known = self.statistics.known_so_far()
        return self.engine.coefficients.rows(*known, index, self.statistics.eps)

    def mixing(self, node: Node) -> tuple[Tensor, Tensor, Tensor]:
        """scale = weight * rstd, mean and rstd [rows, C'] of a node."""
        given = (*self.statistics.known_so_far(), node.norms, self.weights, node.weights)
        return self.engine.coefficients.mixing(*given, self.statistics.eps)

    def free(self, rows: Tensor, node: Node) -> Tensor:
        """The rows of a node's in-edges themselves, [E, 3, C']: skip, max pool, average pool."""
        return rows[len(node.terms) :].view(len(node.inputs.edges), 3, self.layout.plan.mixed)

    def bypasses(self, inputs: Inputs) -> Tensor | None:
        """The bypasses' weights of a node's in-edges."""
        return None if self.bypass is None else self.bypass.index_select(0, inputs.numbers)

    def compute(self, stage: Values) -> None:
        """The values of a stage, and their statistics where these are not known."""
        moments = not self.statistics.complete
        if stage.first is not None:
            self._stencil(stage.first, [self.mixed(self.states[source]) for source in stage.first.sources], None, None)
        for reduction in stage.reductions:
            x = self.mixed(self.states[reduction.source])
            weights = [self.parameters[place] for place in reduction.weights]
            record = PreprocessForward(x, weights, stride=2, moments=moments)
            self.values[reduction.norm], mean, var = self.engine.preprocess.forward(record)
            if mean is not None and var is not None:
                self.statistics.add(mean.unsqueeze(0), var.unsqueeze(0))
        if moments:
            for pools in stage.pools:
                x = self.mixed(self.states[pools.source])
                asked = {"max_pool": pools.max_pool, "avg_pool": pools.avg_pool}
                found = self.engine.mixed_sum.pool_moments(x, pools.stride, **asked)
                self.statistics.add(*(each.index_select(0, pools.rows) for each in found))
        for plain in stage.plain:
            x = self.mixed(self.states[plain.source])
            given = PlainForward(x, self.weight(plain), plain, moments)
            self.values[plain.norm], mean, var = _plain.forward(given, self.engine.preprocess)
            if mean is not None and var is not None:
                self.statistics.add(mean.unsqueeze(0), var.unsqueeze(0))
        if stage.second is not None:
            sources = [self.values[row] for row in stage.second.sources]
            self._stencil(stage.second, sources, *self.rows(stage.second.normalised))

    def weight(self, plain: Plain) -> Tensor | None:
        """Of a dense convolution; None of a pool."""
        return self.parameters[plain.weights[0]] if plain.weights else None

    def forget(self, rows: Iterable[int]) -> None:
        """Free the values that are not kept for backward."""
        for row in rows:
            if row not in self.layout.kept:
                self.values.pop(row, None)

    def _stencil(self, call: Call, sources: list[Tensor], mean: Tensor | None, rstd: Tensor | None) -> None:
        depthwise = [self.parameters[place] for place in call.depthwise]
        pointwise = [self.parameters[place] for place in call.pointwise]
        moments = not self.statistics.complete
        record = StencilForward(sources, call.convs, depthwise, pointwise, mean, rstd, moments)
        ys, y_mean, y_var = self.engine.stencil.forward(record)
        self.values.update(zip(call.rows, ys, strict=True))
        if y_mean is not None and y_var is not None:
            self.statistics.add(y_mean, y_var)


def run(work: Work) -> tuple[Tensor, list[Tensor]]:
    """Run a cell.

    `node = sum_t W_t r_t (y_t - mu_t)`, over the stored values and the pools of all in-edges, plus the skips `W x` and
    the bypasses.

    Args:
        work: the states are the inputs; those of the nodes are appended.

    Returns:
        The output [N, C * len(concat), H', W'], channels_last; what is kept for backward: values y by row, then the
        nodes that are not part of the output.
    """
    plan = work.layout.plan
    n, channels, height, width = work.states[0].shape
    height, width = -(-height // plan.stride), -(-width // plan.stride)
    out = maps.empty_maps(n, channels * len(plan.concat), height, width, like=work.states[0])
    for stage in work.layout.forward:
        if isinstance(stage, Values):
            work.compute(stage)
            continue
        if stage.slot < 0:
            state = maps.empty_maps(n, channels, height, width, like=out)
        else:
            state = out[:, stage.slot * channels : (stage.slot + 1) * channels]
        _mix(work, stage, state)
        work.states.append(state)
        work.forget(stage.values)
    hidden = [work.states[node] for node in work.layout.hidden]
    return out, [*(work.values[row] for row in work.layout.kept), *hidden]


def _mix(work: Work, node: Node, out: Tensor) -> None:
    count, inputs = len(node.terms), node.inputs
    scale, mean, _ = work.mixing(node)
    work.engine.mixed_sum.forward(
        SumForward(
            out,
            work.terms(node),
            scale=scale[:count],
            bias=None,
            sources=work.sources(inputs),
            edges=inputs.edges,
            free=work.free(scale, node),
            bypass=work.bypasses(inputs),
            partial=work.layout.plan.partial,
            mean=mean[:count],
            pool_mean=work.free(mean, node)[:, 1:],
        )
    )
