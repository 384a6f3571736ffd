"""One step of every kind of search, on the shipped digits' shapes: what a method costs beside first-order DARTS.

OMP_NUM_THREADS=1 python -m pytest bench/bench_methods.py --benchmark-json out.json
"""

from __future__ import annotations

import functools

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from bench.bench_search_step import StepProblem
from bench.cases import DEVICE, MODES, Case, Problem, measure
from fastdarts.nn import Supernet
from fastdarts.search import SearchConfig, configure
from fastdarts.search.methods import compose
from fastdarts.search.step import SearchStep
from fastdarts.spaces import space

# One of each that computes something else: guards, schedules and selections cost nothing within a step.
METHODS = (
    "darts-first",
    "darts-one-level",
    "darts-second",
    "darts-second-exact",
    "pc-darts",
    "i-darts",
    "snas",
    "gdas",
)
METHODS += ("proxyless", "sdarts-rs", "sdarts-adv", "amended", "random-ws")


def build(config: SearchConfig) -> Problem:
    model = Supernet(
        space(config.space),
        channels=config.channels,
        layers=config.layers,
        in_channels=1,
        partial=config.partial,
        auxiliary=config.auxiliary > 0,
        dropout=config.dropout,
        channel_sampling=config.channel_sampling,
    ).to(DEVICE)
    choices = compose(config)
    step = SearchStep(model, config, choices.relaxation, choices.perturbation)
    images, labels = torch.randn(64, 1, 8, 8, device=DEVICE), torch.arange(64, device=DEVICE) % 10
    problem = MethodProblem(step, images, labels)
    problem.learns = choices.relaxation.learns
    return problem


class MethodProblem(StepProblem):
    """A step of both levels, or of the weights' alone where the alphas do not learn."""

    learns = True

    def step(self) -> None:
        self.search_step(self.batch, self.batch if self.learns else None, 0.0)

    def forward(self) -> Tensor:
        step = self.search_step
        assert self.loss is not None
        return self.loss(self.call(self.inputs[0], **step.relaxation(step.model, 0.0)))


CASES = [
    *(Case(name, functools.partial(build, configure(name)), rounds=2, modes=MODES[:1]) for name in METHODS),
    Case(
        "pc-darts, channels sampled",
        functools.partial(build, configure("pc-darts", channel_sampling=True)),
        rounds=2,
        modes=MODES[:1],
    ),
]


def bench_methods(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    measure(benchmark, case, repeat, contender)
