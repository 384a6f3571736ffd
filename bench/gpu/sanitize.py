"""Tiny supernet passes of every backend, dtype and memory mode, for compute-sanitizer to watch.

    compute-sanitizer --tool memcheck --error-exitcode 9 python -m bench.gpu.sanitize --out results

An error of the sanitizer is the process' exit code; what it says is in the log.
"""

from __future__ import annotations

from typing import Any

from bench.cases import MODES
from bench.gpu.models import Fused, Net, engines, running
from bench.gpu.stage import Stage, options, run
from bench.gpu.timing import finite

__all__ = ["main"]

# Odd sizes, C' of 3 and 4, both strides.
NETS = (Net("DARTS", "darts", 3, 3, 2, side=7), Net("PC-DARTS", "darts", 8, 3, 2, 2, 9, "pc-darts"))


def main(arguments: list[str] | None = None) -> Stage:
    """Run every pass once."""
    given = options(arguments)
    stage = Stage("sanitize", given)

    def passes(net: Net, backend: str, dtype: str, memory: str) -> dict[str, Any]:
        with running(backend):
            model = Fused(net, given.device, memory=memory, dtype=dtype)
            model.passes()
            model.step(graph=False)()
        return {"finite": finite([parameter.detach() for parameter in model.model.parameters()])}

    for backend in engines(given):
        for net in NETS:
            for dtype in ("fp32", "bf16"):
                for memory in MODES[:: 2 if net.partial > 1 else 1]:
                    stage.row(
                        f"{net.name}, {backend}, {dtype}, {memory}",
                        lambda n=net, b=backend, d=dtype, m=memory: passes(n, b, d, m),
                    )
    return stage


if __name__ == "__main__":
    run(main)
