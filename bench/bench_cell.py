"""A normal cell of DARTS, as it stands inside a supernet, forward and backward with all gradients.

OMP_NUM_THREADS=2 python -m pytest bench/bench_cell.py --compile --benchmark-json out.json
"""

from __future__ import annotations

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import DEVICE, Case, Problem, measure
from bench.floor import cell_cost
from fastdarts.nn import Cell
from fastdarts.spaces import space

BATCH, CHANNELS, SIDE = 16, 16, 32


def build() -> Problem:
    cell = space("darts").normal
    model = Cell(cell, 4 * CHANNELS, 4 * CHANNELS, CHANNELS, reduction=False, reduction_prev=False)
    s0, s1 = (torch.randn(BATCH, 4 * CHANNELS, SIDE, SIDE, device=DEVICE, requires_grad=True) for _ in range(2))
    weights = torch.randn(len(cell.edges), cell.width, device=DEVICE).softmax(1).requires_grad_()
    size = SIDE, SIDE
    return Problem(model, [s0, s1, weights], cost=lambda mode: cell_cost(model, BATCH, size, size, mode))


TARGETS = {"time": (5, 9), "kept": {"fast": 4, "balanced": 9, "lean": 20}, "compile": 3}
CASES = [Case("normal Cell", build, rounds=5, compiled=True, targets=TARGETS)]


def bench_cell(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    measure(benchmark, case, repeat, contender)
