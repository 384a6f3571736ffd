"""Peak memory of a step, fastdarts in its three modes and eager torch, in one run.

    python -m bench.gpu.memory --out results

`peak_bytes` is what torch's allocator held at most during a step, weights, optimisers and the batch included;
`beyond_bytes` the same without what it held before the step. The CUDA context, which both pay, is in neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bench.cases import MODES
from bench.gpu.models import Eager, Fused, engines, net, running
from bench.gpu.stage import Options, Stage, options, run
from fastdarts.profile.memory import measure_peak_bytes

__all__ = ["main"]

NETS = ("DARTS", "S2, 7 operators", "PC-DARTS")


def _peak(step: Callable[[], object], given: Options) -> dict[str, Any]:
    step()  # momentum and moments exist from the first step on
    if given.cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        beyond = torch.cuda.max_memory_allocated() - before
    else:
        before, beyond = 0, measure_peak_bytes(step)
    return {"beyond_bytes": beyond, "peak_bytes": before + beyond}


def main(arguments: list[str] | None = None) -> Stage:
    """Measure every contender of every network."""
    given = options(arguments)
    stage = Stage("memory", given)

    def eager(name: str, dtype: str) -> dict[str, Any]:
        return _peak(Eager(net(name, given.small), given.device, dtype=dtype).step, given)

    def fused(name: str, dtype: str, backend: str, memory: str) -> dict[str, Any]:
        with running(backend):
            model = Fused(net(name, given.toy), given.device, memory=memory, dtype=dtype)
            return _peak(model.step(graph=False), given)

    for name in NETS[:1] if given.toy else NETS:
        for dtype in ("fp32", "bf16"):
            facts = {"net": name, "dtype": dtype}
            stage.row(f"{name}, {dtype}, eager", lambda n=name, d=dtype: eager(n, d), **facts, what="eager")
            for backend in engines(given)[:1]:
                for memory in MODES:
                    stage.row(
                        f"{name}, {dtype}, {memory}",
                        lambda n=name, d=dtype, b=backend, m=memory: fused(n, d, b, m),
                        **facts,
                        what="fused",
                        memory=memory,
                        backend=backend,
                    )
    return stage


if __name__ == "__main__":
    run(main)
