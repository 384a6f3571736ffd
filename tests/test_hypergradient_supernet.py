"""Finite differences on an untrained supernet: how wrong they are, and where they become right.

As a script it prints the tables of docs/hypergradients.md: ``python tests/test_hypergradient_supernet.py``.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypergradient_problems import FINITE, Problem, flat

from fastdarts import use_backend
from fastdarts.hypergradient import KINDS, hypergradient
from fastdarts.nn import Supernet
from fastdarts.spaces import space


def untrained(dtype: torch.dtype = torch.float64, *, batch: int = 4, seed: int = 0) -> Problem:
    """Three cells of the DARTS space, C = 4, on noise of 8 x 8; the same numbers in every dtype."""
    torch.manual_seed(seed)
    net = Supernet(space("darts"), channels=4, layers=3).double()
    images = torch.randn(2, batch, 3, 8, 8, dtype=torch.float64).to(dtype)
    labels = torch.randint(10, (2, batch))
    net = net.to(dtype)

    def loss(level: int) -> torch.Tensor:
        # In plain torch, since the exact kinds differentiate it twice.
        with use_backend("reference"):
            return F.cross_entropy(net(images[level]), labels[level])

    return Problem(
        lambda: loss(0),
        lambda: loss(1),
        net.weight_parameters(),
        net.arch_parameters(),
        {"lr": 0.025, "momentum": 0.9, "weight_decay": 3e-4, "eta": 0.1},
    )


def error_and_cosine(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    return float((found - exact).norm() / exact.norm()), float(found @ exact / (found.norm() * exact.norm()))


@pytest.mark.parametrize("kind", FINITE)
def test_finite_differences_of_a_supernet_converge_only_below_its_kinks(kind: str) -> None:
    problem = untrained()
    exact = flat(hypergradient(f"{kind}-exact", **problem.arguments))
    errors = {
        epsilon: error_and_cosine(flat(hypergradient(kind, **problem.arguments, epsilon=epsilon)), exact)[0]
        for epsilon in (1e-2, 1e-7)
    }
    # At DARTS' own 0.01 the step crosses ReLU and max-pool kinks; at 1e-7 none, and rounding is all that is left.
    assert errors[1e-2] > 0.1
    assert errors[1e-7] < 1e-6


def errors(seed: int) -> Iterator[str]:
    exact = {kind: flat(hypergradient(f"{kind}-exact", **untrained(batch=8, seed=seed).arguments)) for kind in FINITE}
    yield "| epsilon | second, float64 | second, float32 | amended, float64 | amended, float32 |"
    yield "|---|---|---|---|---|"
    for exponent in range(1, 9):
        cells = []
        for kind in FINITE:
            for dtype in (torch.float64, torch.float32):
                arguments = untrained(dtype, batch=8, seed=seed).arguments
                found = flat(hypergradient(kind, **arguments, epsilon=10.0**-exponent)).double()
                cells.append("{:.2g} ({:+.3f})".format(*error_and_cosine(found, exact[kind])))
        yield f"| 1e-{exponent} | {' | '.join(cells)} |"
    single = untrained(torch.float32, batch=8, seed=seed).arguments
    cells = [error_and_cosine(flat(hypergradient(f"{k}-exact", **single)).double(), exact[k]) for k in FINITE]
    yield "| exact kind | | {:.2g} ({:+.3f}) | | {:.2g} ({:+.3f}) |".format(*cells[0], *cells[1])


def resident_peak() -> int:
    """This process's largest resident memory so far, bytes; getrusage would begin with its parent's."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("no VmHWM in /proc/self/status")


def peak_bytes(kind: str) -> int:
    """What one gradient adds to this process's resident memory; to be asked in a fresh process."""
    torch.set_num_threads(1)
    untrained(torch.float32).loss_val().backward()
    arguments = untrained(torch.float32, batch=128).arguments
    before = resident_peak()
    hypergradient(kind, **arguments)
    return resident_peak() - before


def costs() -> Iterator[str]:
    arguments = untrained(torch.float32, batch=8).arguments
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    # Interleaved and without the first round, so that warming up and other load fall on all kinds alike.
    for _ in range(4):
        for kind in KINDS:
            start = time.perf_counter()
            hypergradient(kind, **arguments)
            seconds[kind].append(time.perf_counter() - start)
    unit = statistics.median(seconds["first"][1:])
    yield "| kind | time, in units of `first` | peak memory at batch 128, MiB |"
    yield "|---|---|---|"
    fresh = multiprocessing.get_context("spawn")
    for kind in KINDS:
        with ProcessPoolExecutor(1, mp_context=fresh) as pool:
            mebibytes = pool.submit(peak_bytes, kind).result() / 2**20
        yield f"| {kind} | {statistics.median(seconds[kind][1:]) / unit:.1f} | {mebibytes:.0f} |"


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in (*errors(seed=0), "", *costs()):
        print(line, flush=True)
