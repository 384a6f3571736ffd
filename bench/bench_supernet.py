"""Supernets, forward and backward with the gradients of all weights and alphas.

OMP_NUM_THREADS=2 python -m pytest bench/bench_supernet.py --benchmark-json out.json
"""

from __future__ import annotations

import functools

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.cases import CUDA, DEVICE, Case, Problem, classified, measure
from bench.floor import supernet_cost
from fastdarts.nn import Supernet
from fastdarts.spaces import space


def build(name: str, channels: int, layers: int, batch: int, partial: int) -> Problem:
    model = Supernet(space(name), channels=channels, layers=layers, partial=partial)
    images, labels = torch.randn(batch, 3, 32, 32, device=DEVICE), torch.arange(batch, device=DEVICE) % 10
    return Problem(model, [images], classified(labels), lambda mode: supernet_cost(model, batch, 32, 32, mode))


# On a GPU the batches are the papers' own.
CASES = [
    Case(
        "DARTS supernet",
        functools.partial(build, "darts", 16, 8, 64 if CUDA else 16, 1),
        rounds=2,
        targets={"time": (5, 9), "kept": {"fast": 4, "balanced": 9, "lean": 20}},
    ),
    Case(
        "PC-DARTS supernet, K 4",
        functools.partial(build, "darts", 16, 8, 256 if CUDA else 32, 4),
        rounds=2,
        targets={"time": (4, 8), "kept": {"fast": 4, "lean": 15}},
    ),
    Case(
        "Amended S2, 7 operators",
        functools.partial(build, "amended-s2-full", 36, 20, 96 if CUDA else 4, 1),
        rounds=1,
        targets={"time": (3,), "kept": {"fast": 4, "balanced": 9, "lean": 20}},
    ),
]


def bench_supernet(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    measure(benchmark, case, repeat, contender)
