"""What the hardware counters say of six kernels of DARTS' first cell, by Nsight Compute; the clocks are left alone.

    python -m bench.gpu.counters --out results

Each kernel of each call is replayed by ncu with other counters; the times here are not those of an undisturbed kernel.
"""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench.gpu.arguments import prepared
from bench.gpu.kernels import calls
from bench.gpu.models import net
from bench.gpu.record import Row
from bench.gpu.stage import Options, Stage, options, run
from fastdarts.ops._engine import launchers
from fastdarts.plan._calls import Call

__all__ = ["main"]

# The first one alone: should the tool not work here, nothing else waits for it.
GROUPS = (
    ("stencil.forward",),
    ("stencil.backward", "mixed_sum.forward", "mixed_sum.reduce", "mixed_sum.backward", "preprocess.forward"),
)
_SECTIONS = ("SpeedOfLight", "MemoryWorkloadAnalysis", "Occupancy", "LaunchStats")
# ncu's names of what is kept, and ours.
METRICS = {
    "Duration": "us",
    "DRAM Throughput": "DRAM %",
    "Compute (SM) Throughput": "SM %",
    "L2 Hit Rate": "L2 hit %",
    "Achieved Occupancy": "occupancy %",
    "Registers Per Thread": "registers",
}
_UNITS = {"ns": 1e-3, "nsecond": 1e-3, "usecond": 1.0, "us": 1.0, "ms": 1e3, "msecond": 1e3}


def work(ops: tuple[str, ...], given: Options) -> Iterator[Callable[[], object]]:
    """The calls to count: of each op the first of the cell, in float32."""
    found: dict[str, Call] = {}
    for _, call in calls(net("DARTS", given.toy), 1):
        found.setdefault(call.op, call)
    for op in ops:
        backend = "cpu" if not given.cuda else "cuda" if op.startswith("stencil") else "triton"
        yield prepared(found[op], launchers(op.split(".")[0], backend), torch.float32, given.device)


def counted(ops: tuple[str, ...], given: Options) -> list[Row]:
    """By kernel, in the order of the launches: its name and what was counted.

    Raises:
        ImportError: ncu is not there.
        RuntimeError: it does not work here.
    """
    if given.small:
        for call in work(ops, given):
            call()
        return []
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    command = [ncu, "--csv", "--page", "details", "--clock-control", "none", "--profile-from-start", "off"]
    command += [word for section in _SECTIONS for word in ("--section", section)]
    command += [sys.executable, "-m", "bench.gpu.counters", "--alone", *ops]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise ImportError(f"ncu: {error}") from error
    found = parsed(done.stdout)
    if not found:
        raise RuntimeError(((done.stdout + done.stderr).strip().splitlines() or ["ncu said nothing"])[-1])
    return found


def parsed(text: str) -> list[Row]:
    """What ncu's table says of each kernel."""
    start = text.find('"ID"')
    found: dict[str, Row] = {}
    for line in csv.DictReader(io.StringIO(text[start:])) if start >= 0 else ():
        kernel = found.setdefault(line["ID"], {"kernel": line["Kernel Name"].split("(")[0], "metrics": {}})
        ours = METRICS.get(line["Metric Name"])
        if ours:
            value = float(line["Metric Value"].replace(",", ""))
            kernel["metrics"][ours] = value * (_UNITS.get(line["Metric Unit"], 1.0) if ours == "us" else 1.0)
    return list(found.values())


def main(arguments: list[str] | None = None) -> Stage:
    """Count each group in a process of its own, for ncu's sake."""
    given = options(arguments)
    stage = Stage("counters", given)
    for ops in GROUPS:
        label = ", ".join(ops)
        row = stage.row(label, lambda ops=ops: {"kernels": counted(ops, given)})
        for i, kernel in enumerate(row.get("kernels", [])):
            name = f"{kernel['kernel']} ({ops[0]} {i})"
            stage.row(name, lambda kernel=kernel: {"metrics": kernel["metrics"]})
    return stage


def _alone(ops: tuple[str, ...]) -> None:
    """What ncu watches: each call once as a warm-up, and once between its marks."""
    for call in work(ops, Options(Path(), device=torch.device("cuda"))):
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        call()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        from bench.gpu import kit

        kit.adopt()
        _alone(tuple(sys.argv[2:]))
    else:
        run(main)
