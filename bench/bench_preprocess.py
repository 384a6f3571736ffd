"""preprocess on the CPU: the fused pass against eager torch and torch.compile, on the shapes of the supernets.

    OMP_NUM_THREADS=2 python -m pytest bench/bench_preprocess.py --benchmark-group-by=param:shape

Forward alone and forward with all gradients; FLOPs are counted from the shapes, two a multiplication.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fastdarts import use_backend
from fastdarts.ops.preprocess import preprocess
from fastdarts.reference import factorised_reduce, relu_conv_bn
from fastdarts.reference.preprocess import preprocess as reference

# batch, input channels, output channels, side, stride
SHAPES = {
    "DARTS, stem": (16, 48, 16, 32, 1),
    "DARTS, first cells": (16, 64, 16, 32, 1),
    "DARTS, after a reduction": (16, 64, 32, 32, 2),
    "DARTS, last cells": (16, 256, 64, 8, 1),
    "PC-DARTS, skip of stride 2": (32, 8, 8, 32, 2),
}

# inductor, imported at the first compilation, still uses what torch itself has deprecated.
COMPILE = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is:DeprecationWarning")]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def shape(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return SHAPES[request.param]


def tensors(shape: tuple[int, ...], layout: torch.memory_format) -> tuple[Tensor, list[Tensor]]:
    batch, c_in, c_out, side, stride = shape
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(batch, c_in, side, side, generator=draw).contiguous(memory_format=layout)
    weights = [torch.randn(c_out // stride, c_in, 1, 1, generator=draw) * c_in**-0.5 for _ in range(stride)]
    return x.requires_grad_(), [weight.requires_grad_() for weight in weights]


def flops(shape: tuple[int, ...], gradients: bool) -> int:
    batch, c_in, c_out, side, stride = shape
    return 2 * batch * (-(-side // stride)) ** 2 * c_in * c_out * (3 if gradients else 1)


def bare(x: Tensor, weights: list[Tensor], stride: int) -> tuple[Tensor, ...]:
    """What a supernet does in eager torch: the reference without its statistics in float64."""
    if stride == 1:
        return (relu_conv_bn(x, weights[0]),)
    return (factorised_reduce(x, weights[0], weights[1]),)


@pytest.mark.parametrize("how", ["cpu", "cpu, NCHW", "reference", pytest.param("compile", marks=COMPILE)])
@pytest.mark.parametrize("gradients", [False, True], ids=["forward", "forward and backward"])
def bench_preprocess(benchmark, shape: tuple[int, ...], gradients: bool, how: str) -> None:
    # Eager and inductor get the layout that they are fastest in.
    layout = torch.channels_last if how == "cpu" else torch.contiguous_format
    x, weights = tensors(shape, layout)
    stride = shape[-1]
    function: Callable[..., tuple[Tensor, Tensor, Tensor]] = preprocess
    if how == "compile":
        function = torch.compile(bare, dynamic=False)
    elif how == "reference":
        function = bare
    g = torch.randn_like(function(x, weights, stride=stride)[0])

    def step() -> object:
        if not gradients:
            with torch.no_grad():
                return function(x, weights, stride=stride)
        return torch.autograd.grad(function(x, weights, stride=stride)[0], [x, *weights], g)

    with use_backend("auto" if how == "compile" else how.split(",")[0]):
        torch.testing.assert_close(
            function(x, weights, stride=stride)[0], reference(x, weights, stride=stride)[0], rtol=1e-3, atol=1e-3
        )
        benchmark.pedantic(step, rounds=100, warmup_rounds=10)
    count = flops(shape, gradients)
    benchmark.extra_info |= {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flops": count,
        "GFLOP/s": count / benchmark.stats.stats.median / 1e9,
    }
