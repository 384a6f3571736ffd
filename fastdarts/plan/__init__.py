"""What a cell computes, as data: its candidates, the order of the kernel calls, and their bytes and FLOPs.

Nothing here imports torch: a plan follows from the space alone, and every backend runs the same one.
"""

from __future__ import annotations

from typing import Any

from fastdarts._moved import moved
from fastdarts.plan._build import cell_plan, mixed_op_plan, unsupported
from fastdarts.plan._calls import Work
from fastdarts.plan._cell import Candidate, CellPlan, EdgePlan
from fastdarts.plan._cost import Flops, flops, kept_bytes
from fastdarts.plan._program import Program, program
from fastdarts.plan._schedule import MEMORY, Schedule, schedule

__all__ = [
    "MEMORY",
    "Candidate",
    "CellPlan",
    "EdgePlan",
    "Flops",
    "Program",
    "Schedule",
    "Work",
    "cell_plan",
    "flops",
    "kept_bytes",
    "mixed_op_plan",
    "program",
    "schedule",
    "unsupported",
]


# Importable from here as before, but no promise: what the engine makes of a plan. A renamed one has its new name.
_BEFORE = {
    "CUDA_DILATIONS": "_stencils",
    "DILATIONS": "_stencils",
    "KINDS": "_cell:CANDIDATE_KINDS",
    "PLAIN": "_cell",
    "SIDES": "_stencils",
    "WIDE_POOLS": "_stencils",
    "WINDOWS": "_stencils",
    "Call": "_calls",
    "Convolution": "_schedule",
    "InEdge": "_schedule",
    "Map": "_shapes",
    "Node": "_program",
    "NodeBackward": "_program",
    "NodeStage": "_schedule",
    "Norm": "_cell",
    "Parameter": "_cell",
    "Plain": "_schedule",
    "PlainShapes": "_shapes",
    "PoolMoments": "_schedule",
    "PoolShapes": "_shapes",
    "PreprocessShapes": "_shapes",
    "Reduction": "_schedule",
    "StencilCall": "_schedule",
    "StencilShapes": "_shapes",
    "SumShapes": "_shapes",
    "Term": "_schedule",
    "ValuesStage": "_schedule",
    "calls": "_calls",
    "cell_input_calls": "_calls",
    "is_stencil": "_stencils",
    "kept_rows": "_schedule",
}


def __getattr__(name: str) -> Any:
    return moved(__name__, _BEFORE, name)
