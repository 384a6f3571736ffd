"""`torch.compile` with CUDA graphs: one cell, then the whole supernet, each in a process that ends with the time left.

    python -m bench.gpu.compiled --out results --seconds 400

Compiling is what takes the time: one cell has some 1,000 kernels, a whole supernet 10,000. A row is one forward and
backward with all gradients; a first-order step is at least two of them. Modes: `reduce-overhead`, which is CUDA graphs,
and, where FASTDARTS_COMPILE names it, `max-autotune`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.gpu.models import NETS, Eager, Fused, Net, engines, net, running
from bench.gpu.stage import Options, Stage, options, run
from bench.gpu.steps import LAYOUTS
from bench.gpu.timing import captured, clocked, timed

__all__ = ["main"]

# One cell, a reduction (a network of one has no other): its figures come within a minute or two, the supernet's perhaps
# never.
CELL = Net("DARTS, 1 cell", "darts", 16, 1, 64)
_LEAST = 30  # seconds below which compiling is not begun
WHOLE = (("DARTS", "fp32", "NCHW"), ("DARTS", "bf16", "NCHW"), ("DARTS", "fp32", "channels_last"))


def _mode() -> str:
    return os.environ.get("FASTDARTS_COMPILE", "reduce-overhead")


def compiled(given: Net, options: Options, dtype: str, layout: str) -> dict[str, Any]:
    """Milliseconds of passes by torch.compile, and the seconds that it compiled."""
    model = Eager(
        given, options.device, layout=LAYOUTS[layout], dtype=dtype, compile_mode="traced" if options.small else _mode()
    )

    def passes() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        model.passes()

    first = clocked(passes, options.device)
    found = timed(passes, options.device, rounds=1 if options.small else 20, warmup=0 if options.small else 4)
    return found.to_json() | {"compile_seconds": first, "mode": _mode()}


def against(given: Net, options: Options, what: str, dtype: str) -> dict[str, Any]:
    """The same passes in eager torch, or by a backend of fastdarts in a graph."""
    if what == "eager":
        rounds, warmup = (1, 0) if options.small else (5, 3)
        work = Eager(given, options.device, dtype=dtype).passes
        return timed(work, options.device, rounds=rounds, warmup=warmup).to_json()
    with running(what):
        model = Fused(given, options.device, dtype=dtype)
        model.passes()
        work = captured(model.passes).replay if options.cuda else model.passes
        return timed(work, options.device, rounds=1 if options.small else 5).to_json()


def _apart(name: str, dtype: str, layout: str, seconds: float) -> dict[str, Any]:
    """Passes by torch.compile in a process of its own, ended when its time is over."""
    if seconds < _LEAST:
        return {"not_measured": f"{max(0.0, seconds):.0f} s were left, no use to begin", "mode": _mode()}
    command = [sys.executable, "-m", "bench.gpu.compiled", "--alone", name, dtype, layout]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        return {"not_measured": f"torch.compile had not finished after {seconds:.0f} s", "mode": _mode()}
    except subprocess.CalledProcessError as error:
        raise RuntimeError((error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]) from None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(arguments: list[str] | None = None) -> Stage:
    """Measure the cell, then the supernets."""
    given = options(arguments)
    stage = Stage("compiled", given)
    torch.backends.cudnn.benchmark = True
    small = net("DARTS", True)

    def by_compile(one: Net, dtype: str, layout: str) -> dict[str, Any]:
        if given.small:
            return compiled(small, given, dtype, layout)
        return _apart(one.name, dtype, layout, stage.left)

    for dtype in ("fp32", "bf16"):
        facts = {"net": CELL.name, "dtype": dtype}
        for what in ("eager", *engines(given)[:1]):
            one = small if given.toy or (given.small and what == "eager") else CELL
            passes = lambda one=one, what=what, dtype=dtype: against(one, given, what, dtype)  # noqa: E731
            stage.row(f"cell, {dtype}, {what}", passes, what=what, **facts)
        stage.row(f"cell, {dtype}, compile", lambda d=dtype: by_compile(CELL, d, "NCHW"), what="compile", **facts)
    for name, dtype, layout in WHOLE:
        stage.row(
            f"{name}, {dtype}, {layout}, compile",
            lambda n=name, d=dtype, la=layout: by_compile(NETS[n], d, la),
            net=name,
            dtype=dtype,
            layout=layout,
            what="compile",
        )
    return stage


def _alone(name: str, dtype: str, layout: str) -> None:
    torch.backends.cudnn.benchmark = True
    given = Options(out=Path(), device=torch.device("cuda"))
    one = CELL if name == CELL.name else NETS[name]
    print(json.dumps(compiled(one, given, dtype, layout)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        _alone(*sys.argv[2:])
    else:
        run(main)
