"""What the device can do at most, in this run: bandwidth, arithmetic, and what a launch costs. The other stages' shares
are of these figures.

    python -m bench.gpu.ceilings --out results
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.gpu import kit
from bench.gpu.models import running
from bench.gpu.stage import Options, Stage, options, run
from bench.gpu.timing import timed

__all__ = ["main"]

_PROBE = Path(__file__).with_name("probe.cu")
_TARGETS = ("arch=compute_90,code=sm_90", "arch=compute_80,code=compute_80")
# Kernels of a whole pass (docs/performance-engine.md).
_KERNELS, _BARRIERS = 230, 200


def copied(given: Options) -> float:
    """Bytes a second, read and written, of copying 4 GiB."""
    source = torch.randn((2**16 if given.small else 2**30), device=given.device)
    target = torch.empty_like(source)
    times = timed(lambda: target.copy_(source), given.device, rounds=10)
    return 2 * source.nbytes / times.median


def cached(given: Options) -> float:
    """Bytes a second of copying 8 MiB over and over: what stays in the L2."""
    source = torch.randn(2**16 if given.small else 2**21, device=given.device)
    target = torch.empty_like(source)

    def work() -> None:
        for _ in range(50):
            target.copy_(source)

    return 50 * 2 * source.nbytes / timed(work, given.device, rounds=10).median


def multiplied(given: Options, dtype: torch.dtype, *, tf32: bool = False) -> float:
    """FLOP/s of a square matrix product on random data."""
    side = 64 if given.small else 8192
    a, b = (torch.randn(side, side, device=given.device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    with running("reference", tf32=tf32):
        return 2 * side**3 / timed(lambda: torch.mm(a, b, out=out), given.device, rounds=10).median


def build(target: Path) -> None:
    """Compile probe.cu.

    Raises:
        ImportError: no nvcc, or it fails.
    """
    nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    flags = ["-std=c++17", "-O3", "-shared", "-Xcompiler", "-fPIC"]
    command = [nvcc, *flags, *(f"-gencode={each}" for each in _TARGETS), str(_PROBE), "-o", str(target)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ImportError(f"probe.cu was not built: {getattr(error, 'stderr', '') or error}") from error


def library() -> Callable[..., float]:
    """The functions of probe.cu: as carried, or compiled now.

    Raises:
        ImportError: it was not carried, and is not to be had.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = kit.PROBE
        if not target.exists():
            target = Path(folder, "probe.so")
            build(target)
        loaded = ctypes.CDLL(str(target))

    def probe(name: str, *arguments: int) -> float:
        function = getattr(loaded, name)
        function.restype = ctypes.c_double
        value = float(function(*arguments))
        if value <= 0:
            raise RuntimeError(f"{name} ended with CUDA error {-value:.0f}")
        return value

    return probe


def main(arguments: list[str] | None = None) -> Stage:
    """Measure every ceiling."""
    given = options(arguments)
    stage = Stage("ceilings", given)
    built: list[Callable[..., float]] = []

    def row(name: str, unit: str, work: Callable[[], float]) -> None:
        stage.row(name, lambda: {"value": work()}, unit=unit)

    def load() -> dict[str, Any]:
        built.append(library())
        return {}

    def probe(name: str, *sizes: int) -> float:
        if not built:
            raise ImportError("probe.cu was not built")
        return 1.0 if given.paper else built[0](name, *sizes)

    row("copy", "bytes/s", lambda: copied(given))
    row("copy in L2", "bytes/s", lambda: cached(given))
    row("bf16", "FLOP/s", lambda: multiplied(given, torch.bfloat16))
    row("tf32", "FLOP/s", lambda: multiplied(given, torch.float32, tf32=True))
    row("sgemm", "FLOP/s", lambda: multiplied(given, torch.float32))
    stage.row("probe.cu", load)
    row("fma", "FLOP/s", lambda: probe("probe_fma"))
    row("empty kernel of a graph", "s", lambda: probe("probe_graph", _KERNELS, 0))
    row("empty kernel of a graph, dependent launch", "s", lambda: probe("probe_graph", _KERNELS, 1))
    row("barrier over the grid", "s", lambda: probe("probe_barrier", _BARRIERS))
    return stage


if __name__ == "__main__":
    run(main)
