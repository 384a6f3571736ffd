"""`torch.compile` with CUDA graphs: one cell of each kind, then the whole supernet in a process with a time limit.

    python -m bench.gpu.compiled --out results --seconds 400

Compiling is what takes the time: a whole supernet has some 10,000 kernels. `passes` is one forward and backward with
all gradients; a first-order step is at least two of them. Modes: `reduce-overhead`, which is CUDA graphs, and, where
FASTDARTS_COMPILE names it, `max-autotune`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import torch

from bench.gpu.models import NETS, Eager, Fused, Net, engines, net, running
from bench.gpu.stage import Options, Stage, options
from bench.gpu.steps import LAYOUTS
from bench.gpu.timing import captured, clocked, timed

__all__ = ["main"]

# One cell, a normal one: its figures come within a minute or two, the whole supernet's perhaps never.
CELL = Net("DARTS, 1 cell", "darts", 16, 1, 64)
WHOLE = (("DARTS", "fp32", "NCHW"), ("DARTS", "bf16", "NCHW"), ("DARTS", "fp32", "channels_last"))


def _mode() -> str:
    return os.environ.get("FASTDARTS_COMPILE", "reduce-overhead")


def compiled(given: Net, options: Options, dtype: str, layout: str) -> dict[str, Any]:
    """Milliseconds of passes by torch.compile, and the seconds that it compiled."""
    model = Eager(
        given, options.device, layout=LAYOUTS[layout], dtype=dtype, compile_mode="default" if options.toy else _mode()
    )

    def passes() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        model.passes()

    first = clocked(passes, options.device)
    found = timed(passes, options.device, rounds=1 if options.toy else 20, warmup=0 if options.toy else 4)
    return found.to_json() | {"compile_seconds": first, "mode": _mode()}


def against(given: Net, options: Options, what: str, dtype: str) -> dict[str, Any]:
    """The same passes in eager torch, or by a backend of fastdarts in a graph."""
    if what == "eager":
        return timed(Eager(given, options.device, dtype=dtype).passes, options.device, rounds=5).to_json()
    with running(what):
        model = Fused(given, options.device, dtype=dtype)
        model.passes()
        work = captured(model.passes).replay if options.cuda else model.passes
        return timed(work, options.device, rounds=5).to_json()


def _apart(name: str, dtype: str, layout: str, seconds: float) -> dict[str, Any]:
    """A whole supernet in a process of its own, ended when its time is over."""
    if seconds < 60:
        raise TimeoutError(f"{seconds:.0f} s are left, no use to begin")
    command = [sys.executable, "-m", "bench.gpu.compiled", "--whole", name, dtype, layout]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=True)
    except subprocess.TimeoutExpired:
        return {"not_measured": f"torch.compile had not finished after {seconds:.0f} s", "mode": _mode()}
    except subprocess.CalledProcessError as error:
        raise RuntimeError(error.stderr.strip().splitlines()[-1]) from None
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure the cells, then the supernets."""
    given = options(arguments)
    stage = Stage("compiled", given)
    torch.backends.cudnn.benchmark = True
    one = net("DARTS", True) if given.toy else CELL
    for dtype in ("fp32", "bf16"):
        facts = {"net": one.name if given.toy else CELL.name, "dtype": dtype}
        for what in ("eager", *engines(given.toy)):
            stage.row(f"cell, {dtype}, {what}", lambda w=what, d=dtype: against(one, given, w, d), what=what, **facts)
        if not given.toy:
            stage.row(
                f"cell, {dtype}, compile", lambda d=dtype: compiled(one, given, d, "NCHW"), what="compile", **facts
            )
    if given.toy:
        return
    for name, dtype, layout in WHOLE:
        stage.row(
            f"{name}, {dtype}, {layout}, compile",
            lambda n=name, d=dtype, la=layout: _apart(n, d, la, stage.left),
            net=name,
            dtype=dtype,
            layout=layout,
            what="compile",
        )


def _whole(name: str, dtype: str, layout: str) -> None:
    torch.backends.cudnn.benchmark = True
    given = Options(out=None, device=torch.device("cuda"))  # type: ignore[arg-type]
    print(json.dumps(compiled(NETS[name], given, dtype, layout)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--whole"]:
        _whole(*sys.argv[2:])
    else:
        main()
