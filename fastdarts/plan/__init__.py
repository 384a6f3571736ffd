"""What a cell computes, as data: its candidates, the order of the kernel calls, and their bytes and FLOPs.

Nothing here imports torch: a plan follows from the space alone, and every backend runs the same one.
"""

from __future__ import annotations

from fastdarts.plan._build import cell_plan, mixed_op_plan, unsupported
from fastdarts.plan._calls import Call, Work, calls, cell_input_calls
from fastdarts.plan._cell import KINDS, PLAIN, Candidate, CellPlan, EdgePlan, Norm, Parameter
from fastdarts.plan._cost import Flops, flops, kept_bytes
from fastdarts.plan._program import Node, NodeBackward, Program, program
from fastdarts.plan._schedule import (
    MEMORY,
    Convolution,
    InEdge,
    NodeStage,
    Plain,
    PoolMoments,
    Reduction,
    Schedule,
    StencilCall,
    Term,
    ValuesStage,
    kept_rows,
    schedule,
)
from fastdarts.plan._shapes import Map, PlainShapes, PoolShapes, PreprocessShapes, StencilShapes, SumShapes
from fastdarts.plan._stencils import CUDA_DILATIONS, DILATIONS, SIDES, WIDE_POOLS, WINDOWS, is_stencil

__all__ = [
    "CUDA_DILATIONS",
    "DILATIONS",
    "KINDS",
    "MEMORY",
    "PLAIN",
    "SIDES",
    "WIDE_POOLS",
    "WINDOWS",
    "Call",
    "Candidate",
    "CellPlan",
    "Convolution",
    "EdgePlan",
    "Flops",
    "InEdge",
    "Map",
    "Node",
    "NodeBackward",
    "NodeStage",
    "Norm",
    "Parameter",
    "Plain",
    "PlainShapes",
    "PoolMoments",
    "PoolShapes",
    "PreprocessShapes",
    "Program",
    "Reduction",
    "Schedule",
    "StencilCall",
    "StencilShapes",
    "SumShapes",
    "Term",
    "ValuesStage",
    "Work",
    "calls",
    "cell_input_calls",
    "cell_plan",
    "flops",
    "is_stencil",
    "kept_bytes",
    "kept_rows",
    "mixed_op_plan",
    "program",
    "schedule",
    "unsupported",
]
