"""One step of a search, both levels with their optimisers, from batch to updated alphas and weights.

OMP_NUM_THREADS=2 python -m pytest bench/bench_search_step.py --benchmark-json out.json
"""

from __future__ import annotations

import functools

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.cases import CUDA, DEVICE, MODES, Case, Problem, classified, measure
from fastdarts.nn import Supernet
from fastdarts.search import configure
from fastdarts.search.choices import Softmax
from fastdarts.search.step import SearchStep
from fastdarts.spaces import space


class StepProblem(Problem):
    """The problem whose step is one of a search; what is kept is that of one forward pass."""

    def __init__(self, step: SearchStep, images: Tensor, labels: Tensor) -> None:
        super().__init__(step.model, [images], classified(labels))
        self.search_step, self.batch = step, (images, labels)

    def step(self) -> None:
        self.search_step(self.batch, self.batch, 0.0)


def build(method: str, channels: int, layers: int, batch: int, side: int, partial: int = 1) -> Problem:
    in_channels = 1 if side == 8 else 3
    model = Supernet(space("darts"), channels=channels, layers=layers, partial=partial, in_channels=in_channels).to(
        DEVICE
    )
    step = SearchStep(model, configure(method, channels=channels, layers=layers), Softmax())
    images = torch.randn(batch, in_channels, side, side, device=DEVICE)
    return StepProblem(step, images, torch.arange(batch, device=DEVICE) % 10)


# The targets are those of `make search`, which is made of the first case's steps.
CASES = [
    Case(
        "digits, first-order step",
        functools.partial(build, "darts-first", 8, 3, 64, 8),
        rounds=3,
        targets={"time": (2.5,)},
    ),
    Case("DARTS, first-order step", functools.partial(build, "darts-first", 16, 8, 64 if CUDA else 16, 32), rounds=1),
    Case(
        "DARTS, second-order step",
        functools.partial(build, "darts-second", 16, 8, 64 if CUDA else 16, 32),
        rounds=1,
        modes=MODES[:1],
    ),
    Case(
        "PC-DARTS, first-order step",
        functools.partial(build, "pc-darts", 16, 8, 256 if CUDA else 32, 32, 4),
        rounds=1,
        modes=MODES[:1],
    ),
]


def bench_search_step(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    measure(benchmark, case, repeat, contender)
