"""First-order bilevel steps: fastdarts against eager torch in both layouts, float32 and bfloat16, in one run.

    python -m bench.gpu.steps --out results

A row is a whole step with its optimisers; `passes` is one forward and backward with all gradients. Of eager torch
every layout and precision is a row, launched as usual and in a CUDA graph, and the architecture's backward both as the
papers have it and asked for no more than the alphas' gradients. cuDNN tunes itself, as the papers let it.

In float32, torch's convolutions round their factors to TF32 unless told otherwise: the row of fastdarts with TF32 is
the like of eager's. Its row without, and eager's with convolutions that do not round, are beside them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bench.gpu.models import Eager, Fused, engines, net, running
from bench.gpu.stage import Options, Stage, options, run
from bench.gpu.timing import captured, timed

__all__ = ["LAYOUTS", "main"]

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# What is asked for first, so that a stage that runs out of time has it.
RUNS = (("DARTS", "fp32"), ("PC-DARTS", "fp32"), ("DARTS", "bf16"), ("PC-DARTS", "bf16"))
Row = dict[str, Any]


def fused(stage: Stage, name: str, dtype: str, backend: str) -> Iterator[Callable[[], object]]:
    """Rows of fastdarts on one backend, the first ones most wanted."""
    given = stage.options
    facts = {"net": name, "dtype": dtype, "backend": backend}
    rounds = 1 if given.small else 20

    def row(what: str, work: Callable[[], Row], **more: Any) -> Callable[[], object]:
        label = ", ".join([name, dtype, backend, what, *(str(each) for each in more.values())])
        return lambda: stage.row(label, work, what=what, **facts, **more)

    def step(memory: str, *, graph: bool, tf32: bool = False) -> Row:
        model = Fused(net(name, given.toy), given.device, memory=memory, dtype=dtype)
        with running(backend, tf32=tf32):
            # Three calls before it is recorded, and the one that records.
            found = timed(model.step(graph=graph), given.device, rounds=rounds, warmup=6 if graph else 3).to_json()
        return found | ({"notes": model.notes} if model.notes else {})

    def passes() -> Row:
        model = Fused(net(name, given.toy), given.device, dtype=dtype)
        with running(backend):
            model.passes()
            work = captured(model.passes).replay if given.cuda else model.passes
            return timed(work, given.device, rounds=rounds).to_json()

    yield row("step, graph", lambda: step("fast", graph=True), memory="fast")
    if dtype == "fp32":
        yield row("step, graph, TF32", lambda: step("fast", graph=True, tf32=True), memory="fast")
    yield row("step", lambda: step("fast", graph=False), memory="fast")
    yield row("passes, graph", passes, memory="fast")
    for memory in ("balanced", "lean"):
        yield row("step, graph", lambda memory=memory: step(memory, graph=True), memory=memory)


def eager(stage: Stage, name: str, dtype: str) -> Iterator[Callable[[], object]]:
    """Rows of eager torch: in both layouts, then in a graph, then what is nearest to them."""
    given = stage.options

    def row(layout: str, precision: str = dtype, *, graph: bool = False, tf32: bool = True) -> Callable[[], object]:
        def work() -> Row:
            with _convolutions(tf32):
                return _eager(given, name, LAYOUTS[layout], precision, graph)

        label = [name, "eager", precision, layout, *(["graph"] if graph else []), *([] if tf32 else ["no TF32"])]
        facts = {"net": name, "dtype": dtype, "precision": precision, "layout": layout, "graph": graph}
        what = "eager" if tf32 else "eager, no TF32"
        return lambda: stage.row(", ".join(label), work, what=what, **facts)

    for graph in (False, True):
        yield from (row(layout, graph=graph) for layout in reversed(LAYOUTS))
    if dtype == "fp32":
        yield row("channels_last", tf32=False)
    else:
        yield row("channels_last", "pure bf16")


@contextlib.contextmanager
def _convolutions(tf32: bool) -> Iterator[None]:
    """A block in which cuDNN may round float32 to TF32, as it does unless told otherwise, or not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _eager(given: Options, name: str, layout: torch.memory_format, precision: str, graph: bool) -> Row:
    """Milliseconds of the papers' step and of the lean one."""
    model = Eager(net(name, given.small), given.device, layout=layout, dtype=precision, graph=graph and given.cuda)
    rounds, warmup = (1, 0) if given.small else (5, 2)
    found = {}
    for what, step in (("", model.step), ("lean_", model.lean_step)):
        work = captured(step).replay if graph and given.cuda else step
        found |= timed(work, given.device, rounds=rounds, warmup=warmup).to_json(name=f"{what}ms")
    return found


def main(arguments: list[str] | None = None) -> Stage:
    """Measure every contender of every network: first the one row of fastdarts and those of eager, then the others."""
    given = options(arguments)
    stage = Stage("steps", given)
    torch.backends.cudnn.benchmark = True
    others: list[Callable[[], object]] = []
    for name, dtype in RUNS:
        if given.toy and name != "DARTS" and dtype != "bf16":
            continue
        best, *rest = fused(stage, name, dtype, engines(given)[0])
        best()
        for row in eager(stage, name, dtype):
            row()
        others += rest
    # Of Triton's stencils one row: how much CUDA C++ is worth.
    for backend in engines(given)[1:]:
        others.insert(0, next(fused(stage, "DARTS", "fp32", backend)))
    for row in others:
        row()
    return stage


if __name__ == "__main__":
    run(main)
