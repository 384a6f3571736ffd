"""What this machine can do at most, measured in the same run as the benchmarks: FMA rate and bandwidth."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from fastdarts._backend import native
from fastdarts._doctor import processor_name

__all__ = ["describe", "load_average", "processor", "roofline"]

# Megabytes of the source of a copy: with its destination, in the shared cache and far outside of it.
CACHE_MIB, MEMORY_MIB = 16, 512
SGEMM = 1024
_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "ONEDNN_", "DNNL_", "LD_PRELOAD")


def roofline() -> dict[str, float]:
    """The most that this many threads reach, now.

    Returns:
        `gflops`: GFLOP/s of a float32 matrix product of side 1024; `cache_gbs`, `memory_gbs`: GB/s, read plus written,
        of copying 16 MiB and 512 MiB; `read_gbs`: GB/s of adding up 512 MiB. The best of several runs each.
    """
    a, b = torch.randn(SGEMM, SGEMM), torch.randn(SGEMM, SGEMM)
    product = torch.empty(SGEMM, SGEMM)
    source = torch.ones(MEMORY_MIB * 2**18)
    target = torch.empty_like(source)
    near, near_target = source[: CACHE_MIB * 2**18], target[: CACHE_MIB * 2**18]
    return {
        "gflops": 2 * SGEMM**3 / _best(lambda: torch.mm(a, b, out=product)) / 1e9,
        "cache_gbs": 2 * CACHE_MIB * 2**20 / _best(lambda: near_target.copy_(near)) / 1e9,
        "memory_gbs": 2 * MEMORY_MIB * 2**20 / _best(lambda: target.copy_(source), 5) / 1e9,
        "read_gbs": MEMORY_MIB * 2**20 / _best(source.sum, 5) / 1e9,
    }


def describe() -> dict[str, Any]:
    """What must be known to repeat a run: command, versions, threads, placement, instruction set, load."""
    core = native()
    return {
        "command": " ".join(["pytest" if "pytest" in sys.argv[0] else sys.argv[0], *sys.argv[1:]]),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)},
        "isa": core.isa() if core is not None else None,
        "load_average": load_average(),
    }


def processor() -> dict[str, Any]:
    """The processor's name, its instruction sets as the core sees them, and what torch was told to use."""
    core = native()
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "isas": core.isas() if core is not None else [],
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def load_average() -> float:
    """Processes that wanted to run, on the average of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")


def _best(work: Callable[[], object], rounds: int = 20) -> float:
    """Seconds of the fastest of some rounds, after one that does not count."""
    work()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)
