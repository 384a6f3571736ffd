"""A mixed operation alone, forward and backward with all gradients.

OMP_NUM_THREADS=2 python -m pytest bench/bench_mixed_op.py --benchmark-json out.json
"""

from __future__ import annotations

import functools

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import DEVICE, Case, Problem, measure
from bench.floor import plan_cost
from fastdarts.nn import MixedOp
from fastdarts.plan import mixed_op_plan
from fastdarts.spaces import space


def build(stride: int) -> Problem:
    primitives = space("darts").normal.edges[0].primitives
    x = torch.randn(16, 16, 32, 32, device=DEVICE, requires_grad=True)
    weights = torch.randn(len(primitives), device=DEVICE).softmax(0).requires_grad_()
    plan = mixed_op_plan(primitives, 16, stride)
    return Problem(MixedOp(16, stride, primitives), [x, weights], cost=lambda mode: plan_cost(plan, 16, 32, 32, mode))


TARGETS = {"time": (3, 6), "kept": {"fast": 4}}
CASES = [
    Case(f"MixedOp, stride {stride}", functools.partial(build, stride), rounds=20, targets=TARGETS) for stride in (1, 2)
]


def bench_mixed_op(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    measure(benchmark, case, repeat, contender)
