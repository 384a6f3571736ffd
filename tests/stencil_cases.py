"""Inputs of the stencil's tests, and what is asked of it on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdarts.reference.stencil import Conv

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
EVERY = (*(Conv(0, k, d, s) for k, d, s in itertools.product((3, 5, 7), (1, 2), (1, 2))), Conv(0, 1, 1, 1))
FAR = tuple(Conv(0, k, 3, s) for k, s in itertools.product((3, 5, 7), (1, 2)))
FOUR = (Conv(0, 3, 1, 1), Conv(0, 5, 2, 1), Conv(1, 5, 1, 2), Conv(1, 3, 2, 1))
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    count: int = 3
    channels: int = 5
    sizes: tuple[tuple[int, int], ...] = ((6, 7),)
    convs: tuple[Conv, ...] = EVERY
    normalised: bool = False
    dtype: torch.dtype = torch.float32
    extra: int = 0  # channels of the buffer that the sources are slices of
    seed: int = 0


@dataclass
class Inputs:
    """Tensors in float64 with values that bfloat16 holds exactly."""

    sources: list[Tensor]
    depthwise: list[Tensor]
    pointwise: list[Tensor]
    statistics: list[Tensor]  # none, or mean and rstd
    gradients: list[Tensor]

    def all(self) -> list[Tensor]:
        return [*self.sources, *self.depthwise, *self.pointwise, *self.statistics]

    def change(self, to: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(*([to(tensor) for tensor in tensors] for tensors in vars(self).values()))

    def keywords(self) -> dict[str, Tensor]:
        return dict(zip(("mean", "rstd"), self.statistics, strict=False))


def draw(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).bfloat16().double()

    c = case.channels
    wide = [random(case.count, *size, c + case.extra) for size in case.sizes]
    for x in wide:
        x.view(-1)[::11], x.view(-1)[5::11] = 0.0, -0.0  # where the gradient of the ReLU is 0
    sources = [x.permute(0, 3, 1, 2)[:, case.extra // 2 : case.extra // 2 + c] for x in wide]
    depthwise = [random(c, 1, conv.kernel, conv.kernel) for conv in case.convs]
    pointwise = [random(c, c, 1, 1) for _ in case.convs]
    shape = (len(sources), c)
    statistics = [random(*shape) / 2, random(*shape).abs().add(0.5).bfloat16().double()] if case.normalised else []
    ys = [(case.sizes[conv.source], conv.stride) for conv in case.convs]
    gradients = [random(case.count, c, -(-height // s), -(-width // s)) for (height, width), s in ys]
    return Inputs(sources, depthwise, pointwise, statistics, gradients)


def name(case: Case) -> list[str]:
    """What the values and gradients of a case are called, in the order of `evaluate`."""
    convs = [f"{c.kernel}x{c.kernel} dilation {c.dilation} stride {c.stride}" for c in case.convs]
    wanted = [f"dx{i}" for i in range(len(case.sizes))] + [
        f"d{w} {c}" for w in ("depthwise", "pointwise") for c in convs
    ]
    return [f"y {c}" for c in convs] + ["mean", "var"] + wanted + (["dmean", "drstd"] if case.normalised else [])


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """In another dtype, its strides kept where it is a slice."""
    if x.dtype == dtype:
        return x.detach()
    out = torch.empty_strided(x.shape, x.stride(), dtype=dtype)
    return out.copy_(x)


def evaluate(function: Callable[..., Any], case: Case, inputs: Inputs, dtype: torch.dtype) -> Results:
    inputs = inputs.change(lambda tensor: cast(tensor, dtype))
    leaves = [tensor.requires_grad_() for tensor in inputs.all()]
    ys, mean, var = function(inputs.sources, case.convs, inputs.depthwise, inputs.pointwise, **inputs.keywords())
    assert mean.dtype == var.dtype == torch.float64 and not mean.requires_grad and not var.requires_grad
    gradients = torch.autograd.grad(ys, leaves, inputs.gradients)
    # Moments leave in float64 with the errors of the values that they are of.
    values = [*(y.detach() for y in ys), mean.to(dtype), var.to(dtype), *gradients]
    return dict(zip(name(case), values, strict=True))
