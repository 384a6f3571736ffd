"""Programs in the native core: each is made once, of the core's own records, which check what they point to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import BackendError, native, native_failure
from fastdarts.ops._checks import dtype_name
from fastdarts.plan import Program, program
from fastdarts.plan._program import Node, NodeBackward
from fastdarts.plan._schedule import InEdge, Reduction, StencilCall, ValuesStage

__all__ = ["NativeProgram", "native_program"]


class NativeProgram:
    """A program in the native core.

    Args:
        program: the program.
    """

    def __init__(self, program: Program) -> None:
        core = native()
        if core is None:
            raise BackendError(native_failure())
        assert not program.plan.plain  # torch computes those, and the core calls no torch
        self.program = program
        self.columns = [column for each in program.backward for column in each.node.weights]
        self._columns: dict[torch.device, Tensor] = {}
        self._native = _Maker(core).program(program)

    def function(self, name: str, like: Tensor) -> Any:
        """A method of the native program for maps of a dtype."""
        return getattr(self._native, f"{name}_{dtype_name(like.dtype)}")

    def column_index(self, device: torch.device) -> Tensor:
        """The place in the flat mixing weights of each row of all nodes."""
        if device not in self._columns:
            with torch.inference_mode(False):  # a tensor of inference mode is no use to a later step
                self._columns[device] = torch.tensor(self.columns, dtype=torch.int64, device=device)
        return self._columns[device]


@lru_cache(maxsize=1024)
def native_program(text: str, memory: str, width: int, sources: tuple[bool, ...], parameters: bool) -> NativeProgram:
    return NativeProgram(program(text, memory, width, sources, parameters))


class _Maker:
    """Makes the native records of a program's."""

    def __init__(self, core: Any) -> None:
        self.core = core

    def program(self, program: Program) -> Any:
        plan = program.plan
        numbers: dict[int, int] = {}
        values: list[Any] = []
        nodes: list[Any] = []
        order: list[tuple[bool, int]] = []
        for stage in program.forward:
            if isinstance(stage, Node):
                order.append((True, len(nodes)))
                numbers[stage.stage.node] = len(nodes)
                nodes.append(self.node(program, stage))
            else:
                order.append((False, len(values)))
                values.append(self.values(stage))
        return self.core.CellProgram(
            inputs=plan.inputs,
            given=plan.given,
            states=plan.inputs + plan.nodes,
            channels=plan.channels,
            partial=plan.partial,
            stride=plan.stride,
            edges=len(plan.edges),
            width=program.width,
            norms=len(plan.norms),
            noises=len(plan.noises),
            concat=plan.concat,
            parameters=[each.shape for each in plan.parameters],
            values=values,
            nodes=nodes,
            forward=order,
            backward=[self.backward(numbers[each.node.stage.node], each) for each in program.backward],
            kept=program.kept,
            hidden=program.hidden,
        )

    def values(self, stage: ValuesStage) -> Any:
        pools = [self.core.CellPools(each.source, each.stride, each.max_norms, each.avg_norms) for each in stage.pools]
        return self.core.CellValues(
            self.call(stage.first), self.reductions(stage.reductions), pools, self.call(stage.second)
        )

    def call(self, call: StencilCall) -> Any:
        convs = [
            (c.source, c.kernel, c.dilation, c.stride, c.depthwise, c.pointwise, c.norm) for c in call.convolutions
        ]
        return self.core.CellCall(call.sources, convs)

    def reductions(self, reductions: Sequence[Reduction]) -> list[Any]:
        return [self.core.CellReduction(each.source, each.weights, each.norm) for each in reductions]

    def edges(self, edges: Sequence[InEdge]) -> list[Any]:
        return [
            self.core.CellEdge(
                edge=each.edge,
                source=each.source,
                stride=each.stride,
                skip=each.skip >= 0,
                max_pool=each.max_pool >= 0,
                avg_pool=each.avg_pool >= 0,
            )
            for each in edges
        ]

    def node(self, program: Program, node: Node) -> Any:
        stage = node.stage
        shown = stage.slot >= 0
        return self.core.CellNode(
            state=stage.node,
            shown=shown,
            slot=stage.slot if shown else program.hidden.index(stage.node),
            terms=[(term.norm < 0, term.noise if term.norm < 0 else term.norm) for term in stage.terms],
            edges=self.edges(stage.inputs),
            norms=node.norms,
            weights=node.weights,
            values=node.values,
        )

    def backward(self, number: int, one: NodeBackward) -> Any:
        return self.core.CellNodeBackward(
            node=number,
            missing=self.values(one.missing),
            second=self.call(one.second),
            first=self.call(one.first),
            second_rows=one.second_rows,
            first_rows=one.first_rows,
            inner=[-1 if each is None else each for each in one.inner],
            reductions=self.reductions(one.reductions),
            reduction_rows=one.reduction_rows,
            edges=self.edges(one.inputs),
            edge_rows=one.input_rows,
        )
