"""What the reference costs: forward + backward of the supernet, and the first-order step; the figures to beat.

    python -m pytest bench/bench_search_step.py --benchmark-only --benchmark-json out.json

On a GPU it takes DARTS' own sizes; on a CPU a quarter of the width, so that a round takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from fastdarts.nn import Supernet
from fastdarts.profile import kept_bytes
from fastdarts.search import configure
from fastdarts.search.relaxation import softmax
from fastdarts.search.step import SearchStep
from fastdarts.spaces import space

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
SIZES = {"darts": (16, 8, 64, 1) if CUDA else (8, 3, 16, 1), "pc-darts": (16, 8, 256, 4) if CUDA else (16, 3, 32, 4)}


def _timed(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        work()
        if CUDA:
            torch.cuda.synchronize()

    return run


@pytest.fixture(params=SIZES)
def step(request: pytest.FixtureRequest) -> SearchStep:
    channels, layers, batch, partial = SIZES[request.param]
    torch.manual_seed(0)
    model = Supernet(space("darts"), channels=channels, layers=layers, partial=partial).to(DEVICE)
    made = SearchStep(model, configure("darts-first", channels=channels, layers=layers), softmax)
    made.batch = torch.randn(batch, 3, 32, 32, device=DEVICE), torch.arange(batch, device=DEVICE) % 10
    return made


def bench_forward_backward(step: SearchStep, benchmark: BenchmarkFixture) -> None:
    x, y = step.batch

    def work() -> None:
        torch.autograd.grad(F.cross_entropy(step.model(x), y), [*step.weights, *step.alphas])

    given = [*step.weights, *step.alphas, *step.batch]
    benchmark.extra_info["kept_bytes"] = kept_bytes(lambda: F.cross_entropy(step.model(x), y), given)
    benchmark.pedantic(_timed(work), rounds=5, warmup_rounds=1)


def bench_first_order_step(step: SearchStep, benchmark: BenchmarkFixture) -> None:
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    benchmark.pedantic(_timed(lambda: step(step.batch, step.batch, 0.0)), rounds=5, warmup_rounds=1)
    if CUDA:
        benchmark.extra_info["peak_bytes"] = torch.cuda.max_memory_allocated()
