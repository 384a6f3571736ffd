"""The backward of a cell: node by node from the last, each with all of its in-edges."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts.ops import _plain, maps
from fastdarts.ops._cell_forward import Work
from fastdarts.ops._cell_given import Asked
from fastdarts.ops._cell_layout import Call, Gradients, Node
from fastdarts.ops._plain import PlainBackward
from fastdarts.ops._records import PreprocessBackward, StencilBackward, SumBackward, SumReduce

__all__ = ["Backward"]


class Backward:
    """Runs the backward of a cell once.

    For a node with gradient g: `G = sum g`, `Q_t = sum g xhat_t`, `dL/dW_t = sum_c Q_t` and
    `dy_t = alpha g + beta y_t + gamma` with `alpha = W r`, `beta = -W r^2 Q / M`, `gamma = -alpha G / M - beta mu`;
    with running statistics beta and gamma are 0.

    Args:
        work: as forward left it: states, the kept values, known statistics.
        grad: [N, C * len(concat), H', W'], any strides.
        asked: whose gradients are wanted.
        training: whether the statistics are the batch's.
    """

    def __init__(self, work: Work, grad: Tensor, asked: Asked, *, training: bool) -> None:
        self.work, self.asked, self.training = work, asked, training
        self.grad = maps.as_maps(grad)
        # A copy that was made here may be added to in place; the caller's gradient may not.
        self.owned = self.grad is not grad
        self.gradients: dict[int, Tensor] = {}
        self._parameters: list[Tensor | None] = [None] * len(work.parameters)
        self._noise: dict[int, Tensor] = {}
        self._weights: list[tuple[Tensor, Tensor]] = []
        self._bypass: list[tuple[Tensor, Tensor]] = []

    def run(self) -> None:
        """Every node that the output depends on, the last one first."""
        for node in self.work.layout.backward:
            reached = node.node in self.gradients or node.slot >= 0
            if reached and (node.terms or node.inputs.edges) and node.gradients is not None:
                self.work.compute(node.gradients.missing)
                self._node(node, node.gradients)
                self.work.forget(node.values)

    def sources(self) -> list[Tensor]:
        """The gradients of those of the states handed in that are asked, in maps."""
        return [self._buffer(state) for state, asked in enumerate(self.asked.sources) if asked]

    def noise(self) -> list[Tensor]:
        """The gradients of those of the candidates handed in that are asked, in maps."""
        given = ((place, self.work.noise[place]) for place, asked in enumerate(self.asked.noise) if asked)
        return [self._noise[place] if place in self._noise else maps.zeros_maps(*x.shape, like=x) for place, x in given]

    def parameters(self) -> list[Tensor]:
        """The gradients of the parameters in their dtypes; 0 where the output does not depend on one."""
        pairs = zip(self.work.parameters, self._parameters, strict=True)
        return [torch.zeros_like(own) if found is None else maps.cast(found, own.dtype) for own, found in pairs]

    def weights(self, edges: int, width: int) -> Tensor:
        """The gradient of the mixing weights [edges, width], float64; 0 where no candidate is."""
        # The last place is for what an edge has not.
        total = _placed(self._weights, edges * width + 1, self.grad.device)
        return total[:-1].view(edges, width)

    def bypass(self, edges: int) -> Tensor:
        """The gradient of the bypasses' weights [edges], float64; 0 where no edge is."""
        return _placed(self._bypass, edges, self.grad.device)

    def _slice(self, slot: int) -> Tensor:
        channels = self.work.layout.plan.channels
        return self.grad[:, slot * channels : (slot + 1) * channels]

    def _buffer(self, state: int) -> Tensor:
        """Where the gradient of a state is added up."""
        if state not in self.gradients:
            x, concat = self.work.states[state], self.work.layout.plan.concat
            if state not in concat:
                self.gradients[state] = maps.zeros_maps(*x.shape, like=x)
            else:
                given = self._slice(concat.index(state))
                self.gradients[state] = given if self.owned else maps.empty_maps(*x.shape, like=x).copy_(given)
        return self.gradients[state]

    def _node(self, node: Node, calls: Gradients) -> None:
        work = self.work
        # All its out-edges are done: the gradient is complete, and freed as soon as it is no longer read.
        g = self.gradients.pop(node.node) if node.node in self.gradients else self._slice(node.slot)
        scale, mean, rstd = work.mixing(node)  # [rows, C'] each
        if self.training or self.asked.weights or work.layout.plan.partial > 1:
            g, total, products = self._reduce(node, g, mean, rstd)
        else:
            total = products = mean  # of its shape, and unread: running statistics pass no gradient on
        rows = self._coefficients(scale, rstd, mean, total, products, g, stored=len(node.terms))
        mixed = work.mixed(g)
        self._handed_in(node, mixed, scale)
        inner: list[Tensor] = []
        if calls.second is not None:
            inner, halves = self._second(calls.second, calls.second_rows, mixed, rows)
            rows_and_halves = torch.cat([rows, halves], 1)
        else:
            rows_and_halves = rows
        if calls.first is not None:
            self._first(calls.first, calls, mixed, inner, rows_and_halves)
        del inner
        self._reductions(calls, mixed, rows)
        self._plain(calls, mixed, rows)
        inputs = calls.inputs
        if inputs.edges:
            shape = (len(inputs.edges), 3, work.layout.plan.mixed)
            alpha, beta, gamma = rows.index_select(1, inputs.rows).view(3, *shape).unbind()
            work.engine.mixed_sum.backward(
                SumBackward(
                    g,
                    work.sources(inputs),
                    inputs.edges,
                    *(alpha, beta, gamma),
                    bypass=work.bypasses(inputs),
                    dx=[self._buffer(source) for source in inputs.sources],
                    partial=work.layout.plan.partial,
                    pool_mean=mean.index_select(0, inputs.rows).view(shape)[:, 1:],
                )
            )

    def _reduce(self, node: Node, g: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The node's gradient as the candidates see it, G [C'] and Q [rows, C']."""
        work, inputs, count = self.work, node.inputs, len(node.terms)
        plan = work.layout.plan
        pool_mean, pool_rstd = (work.free(each, node)[:, 1:] for each in (mean, rstd))
        given = (g, work.terms(node), mean[:count], rstd[:count], work.sources(inputs), inputs.edges)
        found = work.engine.mixed_sum.reduce(SumReduce(*given, pool_mean, pool_rstd, plan.partial))
        products = torch.cat([found.products, found.free.view(-1, plan.mixed)])
        if self.asked.weights:
            self._weights.append((node.weights, products.sum(1)))
        if self.asked.bypass and found.bypass is not None:
            self._bypass.append((inputs.numbers, found.bypass))
        return found.g, found.total, products

    def _handed_in(self, node: Node, g: Tensor, scale: Tensor) -> None:
        """What was handed in is a term as it is: its gradient is the node's, scaled by its mixing weight."""
        for row, (norm, place) in enumerate(node.terms):
            if norm < 0 and self.asked.noise[place]:
                factor = scale[row].to(maps.arithmetic(g.dtype))[:, None, None]
                n, channels, height, width = g.shape
                out = maps.empty_maps(n, channels, height, width, like=g)
                self._noise[place] = out if g.is_meta else out.copy_(factor * g)

    def _coefficients(
        self, scale: Tensor, rstd: Tensor, mean: Tensor, total: Tensor, products: Tensor, g: Tensor, *, stored: int
    ) -> Tensor:
        """alpha, beta and gamma [3, rows, C'] of batch norms' gradients; values after the stored ones come centred."""
        if not self.training:
            return torch.stack([scale, *[torch.zeros_like(scale)] * 2])
        pixels = g.shape[0] * g.shape[2] * g.shape[3]
        gradient = self.work.engine.coefficients.gradient
        return gradient(scale, rstd, mean, total, products, pixels=pixels, stored=stored)

    def _values(self, call: Call) -> list[Tensor] | None:
        return [self.work.values[row] for row in call.rows] if self.training else None

    def _second(self, call: Call, index: Tensor, g: Tensor, rows: Tensor) -> tuple[list[Tensor], Tensor]:
        """Second halves: the gradients of what they read, normalised, and the coefficients of that batch norm."""
        work = self.work
        alpha, beta, gamma = rows.index_select(1, index).unbind()
        mean, rstd = work.rows(call.normalised)
        inner, depthwise, pointwise, sums, products = work.engine.stencil.backward(
            StencilBackward(
                [work.values[row] for row in call.sources],
                call.convs,
                [work.parameters[place] for place in call.depthwise],
                [work.parameters[place] for place in call.pointwise],
                [g] * len(call.convs),
                self._values(call),
                *(alpha, beta, gamma, mean, rstd),
                weights=self.asked.parameters,
            )
        )
        self._store(call, depthwise, pointwise)
        work.forget(call.rows)
        assert sums is not None and products is not None  # a normalised source always has them
        return inner, self._coefficients(rstd, rstd, mean, sums, products, g, stored=len(mean))

    def _first(self, call: Call, calls: Gradients, g: Tensor, inner: list[Tensor], rows: Tensor) -> None:
        """First halves and dilated ones, added to the gradients of the states."""
        work = self.work
        alpha, beta, gamma = rows.index_select(1, calls.first_rows).unbind()
        _, depthwise, pointwise, _, _ = work.engine.stencil.backward(
            StencilBackward(
                [work.mixed(work.states[source]) for source in call.sources],
                call.convs,
                [work.parameters[place] for place in call.depthwise],
                [work.parameters[place] for place in call.pointwise],
                [g if place is None else inner[place] for place in calls.inner],
                self._values(call),
                *(alpha, beta, gamma),
                dx=[work.mixed(self._buffer(source)) for source in call.sources],
                weights=self.asked.parameters,
            )
        )
        self._store(call, depthwise, pointwise)

    def _store(self, call: Call, depthwise: list[Tensor] | None, pointwise: list[Tensor] | None) -> None:
        for places, found in ((call.depthwise, depthwise), (call.pointwise, pointwise)):
            for place, each in zip(places, found or (), strict=False):
                self._parameters[place] = each

    def _reductions(self, calls: Gradients, g: Tensor, rows: Tensor) -> None:
        work = self.work
        for reduction, row in zip(calls.reductions, calls.reduction_rows, strict=True):
            alpha, beta, gamma = rows[:, row].unbind()
            _, found = work.engine.preprocess.backward(
                PreprocessBackward(
                    work.mixed(work.states[reduction.source]),
                    [work.parameters[place] for place in reduction.weights],
                    g,
                    work.values[reduction.norm] if self.training else None,
                    *(alpha, beta, gamma),
                    stride=2,
                    dx=work.mixed(self._buffer(reduction.source)),
                    need_weights=self.asked.parameters,
                )
            )
            for place, each in zip(reduction.weights, found or (), strict=False):
                self._parameters[place] = each

    def _plain(self, calls: Gradients, g: Tensor, rows: Tensor) -> None:
        work = self.work
        for plain, row in zip(calls.plain, calls.plain_rows, strict=True):
            x, y = work.mixed(work.states[plain.source]), work.values[plain.norm] if self.training else None
            alpha, beta, gamma = rows[:, row].unbind()
            dx, weights = work.mixed(self._buffer(plain.source)), self.asked.parameters and bool(plain.weights)
            record = PlainBackward(x, work.weight(plain), plain, g, y, alpha, beta, gamma, dx, weights)
            found = _plain.backward(record)
            if found is not None:
                self._parameters[plain.weights[0]] = found


def _placed(parts: list[tuple[Tensor, Tensor]], size: int, device: torch.device) -> Tensor:
    total = torch.zeros(size, dtype=torch.float64, device=device)
    if parts:
        index, values = (torch.cat(each) for each in zip(*parts, strict=True))
        total.index_copy_(0, index, values)
    return total
