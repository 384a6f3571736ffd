"""A mixed operation alone, as a drop-in: no graph, no cell; forward and backward with all gradients.

python -m bench.gpu.mixed_op --out results
"""

from __future__ import annotations

from typing import Any

import torch

from bench.gpu.models import engines, precision, running
from bench.gpu.stage import Stage, options, run
from bench.gpu.steps import LAYOUTS
from bench.gpu.timing import timed
from bench.plain import PlainMixedOp
from fastdarts.nn import MixedOp
from fastdarts.spaces import space

__all__ = ["main"]

# Batch, channels, side, stride, K.
SHAPES = {
    "DARTS, C 16, 32x32, batch 64": (64, 16, 32, 1, 1),
    "DARTS, C 32, 32x32, stride 2, batch 64": (64, 32, 32, 2, 1),
    "PC-DARTS, C 16, K 4, 32x32, batch 256": (256, 16, 32, 1, 4),
}
TOY = {"toy": (2, 8, 6, 1, 4)}


def main(arguments: list[str] | None = None) -> Stage:
    """Measure every contender at every shape."""
    given = options(arguments)
    stage = Stage("mixed_op", given)
    torch.backends.cudnn.benchmark = True
    primitives = space("darts").normal.edges[0].primitives
    rounds, warmup = (1, 1) if given.small else (30, 5)

    def measure(what: str, shape: tuple[int, ...], dtype: str, layout: str = "NCHW") -> dict[str, Any]:
        n, channels, side, stride, partial = shape
        torch.manual_seed(0)
        if what == "eager":
            model = PlainMixedOp(channels, stride, primitives, partial)
        else:
            model = MixedOp(channels, stride, primitives, partial=partial)
        model = model.to(given.device, memory_format=LAYOUTS[layout])
        x = torch.randn(n, channels, side, side, device=given.device).contiguous(memory_format=LAYOUTS[layout])
        x.requires_grad_()
        weights = torch.full((len(primitives),), 1 / len(primitives), device=given.device, requires_grad=True)
        asked = [x, weights, *model.parameters()]
        with precision(dtype, given.device):
            g = torch.randn_like(model(x, weights))

        def passes() -> None:
            with precision(dtype, given.device):
                y = model(x, weights)
            torch.autograd.grad(y, asked, g)

        return timed(passes, given.device, rounds=rounds, warmup=warmup).to_json()

    def fused(backend: str, shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
        with running(backend):
            return measure("fused", shape, dtype, "channels_last")

    for name, shape in (TOY if given.toy else SHAPES).items():
        for dtype in ("fp32", "bf16"):
            facts = {"shape": name, "dtype": dtype}
            for layout in LAYOUTS:
                stage.row(
                    f"{name}, {dtype}, eager, {layout}",
                    lambda shape=shape, dtype=dtype, layout=layout: measure("eager", shape, dtype, layout),
                    **facts,
                    what="eager",
                )
            for backend in engines(given):
                stage.row(
                    f"{name}, {dtype}, {backend}",
                    lambda shape=shape, dtype=dtype, backend=backend: fused(backend, shape, dtype),
                    **facts,
                    what="fused",
                    backend=backend,
                )
    return stage


if __name__ == "__main__":
    run(main)
