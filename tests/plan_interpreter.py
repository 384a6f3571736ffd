"""A plan run stage by stage in plain torch: what the fused engine must do, with every index taken from the schedule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts import reference
from fastdarts.nn import Cell, MixedOp
from fastdarts.plan import CellPlan, InEdge, NodeStage, StencilCall, ValuesStage, schedule
from fastdarts.reference.partial_channels import bypass, channel_shuffle


def parameters_of(owner: Cell | MixedOp, plan: CellPlan) -> list[Tensor]:
    """The parameters of a layer in the order of its plan."""
    edges = owner._ops if isinstance(owner, Cell) else [owner]
    found = []
    for edge, position, name, shape in plan.parameters:
        op = edges[edge]._ops[plan.edges[edge].candidates[position].column]
        weight = op.get_submodule(name.removesuffix(".weight")).weight
        assert tuple(weight.shape) == shape
        found.append(weight)
    return found


class Interpreter:
    """Runs the stages of a schedule, each value in a dictionary under its norm's row.

    Attributes:
        values: {row: y before batch norm}.
        statistics: {row: (mean, var)} [C'].
        made: rows in the order in which they were computed, the ones of a second computation included.
    """

    def __init__(self, plan: CellPlan, inputs: list[Tensor], weights: Tensor, parameters: list[Tensor]) -> None:
        self.plan, self.weights, self.parameters = plan, weights, parameters
        self.states = dict(enumerate(inputs))
        self.values: dict[int, Tensor] = {}
        self.statistics: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: list[int] = []

    def forward(self, memory: str, noises: list[Tensor], factors: Tensor | None = None) -> Tensor:
        self.noises, self.factors = noises, factors
        for stage in schedule(self.plan, memory).forward:
            if isinstance(stage, ValuesStage):
                self.compute(stage)
                self.pools(stage)
            else:
                self.node(stage)
        return torch.cat([self.states[node] for node in self.plan.concat], dim=1)

    def compute(self, stage: ValuesStage) -> None:
        """The values of a stage; the statistics too where they are not known yet."""
        self.stencil(stage.first, [self.mixed(self.states[state]).relu() for state in stage.first.sources])
        for each in stage.reductions:
            kernels = [self.parameters[place] for place in each.weights]
            second = kernels[1] if len(kernels) > 1 else None
            x = self.mixed(self.states[each.source])
            self.keep(each.norm, reference.factorised_reduce(x, kernels[0], second, norm=lambda y: y))
        for plain in stage.plain:
            x, kernel = self.mixed(self.states[plain.source]), plain.kernel
            if plain.weights:
                (place,) = plain.weights
                y = reference.relu_conv_bn(x, self.parameters[place], stride=plain.stride, norm=lambda y: y)
            else:
                pool = reference.max_pool if plain.kind == "wide_max_pool" else reference.avg_pool
                y = pool(x, kernel=kernel, stride=plain.stride)
            self.keep(plain.norm, y)
        self.stencil(stage.second, [self.normalised(row, self.values[row]).relu() for row in stage.second.sources])

    def stencil(self, call: StencilCall, sources: list[Tensor]) -> None:
        for each in call.convolutions:
            weight, padding = self.parameters[each.depthwise], each.dilation * (each.kernel // 2)
            x = sources[each.source]
            z = F.conv2d(x, weight, None, each.stride, padding, each.dilation, groups=x.shape[1])
            self.keep(each.norm, F.conv2d(z, self.parameters[each.pointwise]))

    def pools(self, stage: ValuesStage) -> None:
        for pool in stage.pools:
            x = self.mixed(self.states[pool.source])
            for rows, op in ((pool.max_norms, reference.max_pool), (pool.avg_norms, reference.avg_pool)):
                for row in rows:
                    assert row not in self.statistics
                    self.statistics[row] = moments(op(x, stride=pool.stride))

    def keep(self, row: int, y: Tensor) -> None:
        assert row not in self.values
        self.made.append(row)
        self.values[row] = y
        self.statistics.setdefault(row, moments(y))

    def node(self, stage: NodeStage) -> None:
        edges = [self.plan.edges[e] for e in self.plan.into(stage.node)]
        source = next((self.states[edge.source] for edge in edges), None)
        stride = next((edge.stride for edge in edges), self.plan.stride)
        like = reference.zero(self.states[0] if source is None else source, stride=stride)
        total, rest = self.mixed(like), like[:, self.plan.mixed :]
        for term in stage.terms:
            value = self.normalised(term.norm, self.values[term.norm]) if term.norm >= 0 else self.noises[term.noise]
            total = total + self.factor(term.edge) * self.weights[term.edge, term.column] * value
        for edge in stage.inputs:
            x = self.states[edge.source]
            total = total + self.free(edge, self.mixed(x))
            if self.plan.partial > 1:
                rest = rest + self.factor(edge.edge) * bypass(x[:, self.plan.mixed :], stride=edge.stride)
        joined = torch.cat([total, rest], dim=1)
        self.states[stage.node] = channel_shuffle(joined, self.plan.partial) if self.plan.partial > 1 else joined

    def free(self, edge: InEdge, x: Tensor) -> Tensor:
        row, total = self.factor(edge.edge) * self.weights[edge.edge], torch.zeros(())
        if edge.skip >= 0:
            total = total + row[edge.skip] * x
        if edge.max_pool >= 0:
            value = reference.max_pool(x, stride=edge.stride)
            total = total + row[edge.max_pool] * self.normalised(edge.max_norm, value)
        if edge.avg_pool >= 0:
            value = reference.avg_pool(x, stride=edge.stride)
            total = total + row[edge.avg_pool] * self.normalised(edge.avg_norm, value)
        return total

    def mixed(self, x: Tensor) -> Tensor:
        return x[:, : self.plan.mixed]

    def factor(self, edge: int) -> Tensor | float:
        return 1.0 if self.factors is None else self.factors[edge]

    def normalised(self, row: int, y: Tensor) -> Tensor:
        mean, var = self.statistics[row]
        return (y - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()


def moments(y: Tensor) -> tuple[Tensor, Tensor]:
    return y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
