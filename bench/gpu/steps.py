"""First-order bilevel steps: fastdarts against eager torch in both layouts, float32 and bfloat16, in one run.

    python -m bench.gpu.steps --out results

`step` is a whole step with its optimisers, `passes` one forward and backward with all gradients. Of eager torch every
layout and precision is a row, and the architecture's backward both as the papers have it and asked for no more than
the alphas' gradients: what counts in the table is the fastest of them all. cuDNN tunes itself, as the papers let it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.models import Eager, Fused, engines, net, running
from bench.gpu.stage import Options, Stage, options
from bench.gpu.timing import captured, timed

__all__ = ["main"]

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# What the issue asks for first, so that a stage that runs out of time has it.
RUNS = (("DARTS", "fp32"), ("DARTS", "bf16"), ("PC-DARTS", "fp32"), ("PC-DARTS", "bf16"), ("S2, 7 operators", "fp32"))
Row = dict[str, Any]


def fused(stage: Stage, name: str, dtype: str, backend: str) -> None:
    """Rows of fastdarts on one backend."""
    given = stage.options
    facts = {"net": name, "dtype": dtype, "backend": backend}
    rounds = 1 if given.toy else 20

    def row(what: str, work: Callable[[], Row], **more: Any) -> None:
        label = ", ".join([name, dtype, backend, what, *(str(each) for each in more.values())])
        stage.row(label, work, what=what, **facts, **more)

    def step(memory: str, *, graph: bool, tf32: bool = False) -> Row:
        model = Fused(net(name, given.toy), given.device, memory=memory, dtype=dtype)
        with running(backend, tf32=tf32):
            # Three calls before it is recorded, and the one that records.
            found = timed(model.step(graph=graph), given.device, rounds=rounds, warmup=6 if graph else 3).to_json()
        return found | ({"notes": model.notes} if model.notes else {})

    def passes(graph: bool) -> Row:
        model = Fused(net(name, given.toy), given.device, dtype=dtype)
        with running(backend):
            model.passes()
            work = captured(model.passes).replay if graph and given.cuda else model.passes
            return timed(work, given.device, rounds=rounds).to_json()

    row("step, graph", lambda: step("fast", graph=True), memory="fast")
    row("passes, graph", lambda: passes(graph=True), memory="fast")
    row("step", lambda: step("fast", graph=False), memory="fast")
    for memory in ("balanced", "lean"):
        row("step, graph", lambda memory=memory: step(memory, graph=True), memory=memory)
    if dtype == "fp32":
        row("step, graph, TF32", lambda: step("fast", graph=True, tf32=True), memory="fast")


def eager(stage: Stage, name: str, dtype: str) -> None:
    """Rows of eager torch."""
    given = stage.options
    for precision in [dtype] if dtype == "fp32" else ["bf16", "pure bf16"]:
        for layout in LAYOUTS:

            def work(layout: str = layout, precision: str = precision) -> Row:
                return _eager(given, name, LAYOUTS[layout], precision)

            facts = {"net": name, "dtype": dtype, "precision": precision, "layout": layout}
            stage.row(f"{name}, eager, {precision}, {layout}", work, what="eager", **facts)


def _eager(given: Options, name: str, layout: torch.memory_format, precision: str) -> Row:
    """Milliseconds of the papers' step, of the lean one, and of one pass."""
    model = Eager(net(name, given.toy), given.device, layout=layout, dtype=precision)
    rounds, warmup = (1, 0) if given.toy else (8, 2)
    found = {}
    for what, run in (("", model.step), ("lean_", model.lean_step), ("passes_", model.passes)):
        found |= timed(run, given.device, rounds=rounds, warmup=warmup).to_json(name=f"{what}ms")
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure every contender of every network."""
    given = options(arguments)
    stage = Stage("steps", given)
    torch.backends.cudnn.benchmark = True
    for name, dtype in RUNS:
        if not given.toy or name == "DARTS" or dtype == "bf16":
            eager(stage, name, dtype)
            for backend in engines(given.toy):
                fused(stage, name, dtype, backend)


if __name__ == "__main__":
    main()
