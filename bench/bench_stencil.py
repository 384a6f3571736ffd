"""stencil on the CPU: the convolutions of one edge, fused against eager torch, on the shapes of the supernets.

    OMP_NUM_THREADS=2 python -m pytest bench/bench_stencil.py --benchmark-group-by=param:shape

Forward (fused: with the moments), and backward with and without the gradients of the weights, which the architecture's
step does not ask for; FLOPs are counted from the shapes, two a multiplication, without what a backward pass recomputes.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts import use_backend
from fastdarts.ops.stencil import Conv, stencil

# batch, channels, side, stride
SHAPES = {
    "DARTS, first cells": (16, 16, 32, 1),
    "DARTS, first reduction": (16, 32, 32, 2),
    "DARTS, middle cells": (16, 32, 16, 1),
    "DARTS, last cells": (16, 64, 8, 1),
    "PC-DARTS, first cells": (32, 4, 32, 1),
    "PC-DARTS, last cells": (32, 16, 8, 1),
    "Amended, S2": (4, 36, 32, 1),
}
PASSES = ("forward", "backward", "backward without weights")


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, int, int, int]:
    return SHAPES[request.param]


def edge(stride: int) -> list[Conv]:
    """The first halves of both separable convolutions, and both dilated ones."""
    return [Conv(0, kernel, dilation, stride) for kernel, dilation in ((3, 1), (5, 1), (3, 2), (5, 2))]


def bare(x: Tensor, convs: list[Conv], depthwise: list[Tensor], pointwise: list[Tensor]) -> list[Tensor]:
    """What a supernet does in eager torch before its batch norms, without their statistics."""
    ys = []
    for conv, spread, mix in zip(convs, depthwise, pointwise, strict=True):
        z = F.conv2d(F.relu(x), spread, None, conv.stride, conv.padding, conv.dilation, groups=x.shape[1])
        ys.append(F.conv2d(z, mix))
    return ys


def flops(shape: tuple[int, int, int, int], which: str) -> int:
    batch, channels, side, stride = shape
    outputs = batch * channels * (-(-side // stride)) ** 2
    once = sum(2 * outputs * (conv.kernel**2 + channels) for conv in edge(stride))
    return 2 * once if which == "backward" else once


@pytest.mark.parametrize("how", ["cpu", "eager"])
@pytest.mark.parametrize("which", PASSES)
def bench_stencil(benchmark, shape: tuple[int, int, int, int], which: str, how: str) -> None:
    batch, channels, side, stride = shape
    convs = edge(stride)
    draw = torch.Generator().manual_seed(0)
    # Eager torch gets the layout that it is fastest in.
    layout = torch.channels_last if how == "cpu" else torch.contiguous_format
    x = torch.randn(batch, channels, side, side, generator=draw).contiguous(memory_format=layout).requires_grad_()
    depthwise = [torch.randn(channels, 1, c.kernel, c.kernel, generator=draw) / c.kernel for c in convs]
    pointwise = [torch.randn(channels, channels, 1, 1, generator=draw) * channels**-0.5 for _ in convs]
    weights = [weight.requires_grad_(which == "backward") for weight in (*depthwise, *pointwise)]

    def forward() -> list[Tensor]:
        return bare(x, convs, depthwise, pointwise) if how == "eager" else stencil([x], convs, depthwise, pointwise)[0]

    with use_backend("cpu"):
        ys = forward()
        torch.testing.assert_close(ys, bare(x, convs, depthwise, pointwise), rtol=1e-3, atol=1e-3)
        gradients = [torch.randn_like(y) for y in ys]
        wanted = [x, *(weight for weight in weights if weight.requires_grad)]

        def backward() -> tuple[Tensor, ...]:
            return torch.autograd.grad(ys, wanted, gradients, retain_graph=True)

        step: Callable[[], object] = torch.no_grad()(forward) if which == "forward" else backward
        benchmark.pedantic(step, rounds=30, warmup_rounds=3)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "GFLOP": flops(shape, which) / 1e9,
        "GFLOP/s": flops(shape, which) / benchmark.stats.stats.min / 1e9,
    }
