"""Calls that move little: coefficients of a cell, the optimisers' steps on flat buffers, a batch's augmentation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.gpu.stage import Options
from fastdarts.ops._engine import launchers

__all__ = ["SMALL"]

# Of DARTS with C 16 and 8 cells: parameters of the weights and of the alphas.
_WEIGHTS, _ALPHAS = 1_930_618, 224


def _coefficients(given: Options, function: str) -> Callable[[], object]:
    """As for the last node of a cell: 30 stored values and 10 pools and skips of C 16."""
    module = launchers("coefficients", "triton")
    rows, channels = (4, 3) if given.toy else (40, 16)
    where = {"device": given.device, "dtype": torch.float64}
    mean, var = torch.randn(rows, channels, **where), torch.rand(rows, channels, **where)
    index = torch.arange(rows, device=given.device)
    if function == "rows":
        return lambda: module.rows(mean, var, index, 1e-5)
    if function == "mixing":
        weights = torch.rand(rows, **where)
        return lambda: module.mixing(mean, var, index, weights, index, 1e-5)
    return lambda: module.gradient(var, var, mean, mean[0].contiguous(), mean, pixels=64 * 32 * 32, stored=rows // 2)


def _buffers(given: Options, count: int, how_many: int) -> list[Tensor]:
    size = 100 if given.toy else count
    return [torch.rand(size, device=given.device) for _ in range(how_many)]


def _scalar(given: Options, value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=given.device)


def _sgd(given: Options) -> Callable[[], object]:
    from fastdarts.ops.optim import sgd_

    weights, gradient, momentum = _buffers(given, _WEIGHTS, 3)
    lr = _scalar(given, 0.025)
    return lambda: sgd_(weights, gradient, momentum, lr, momentum_factor=0.9, weight_decay=3e-4, grad_clip=5.0)


def _adam(given: Options) -> Callable[[], object]:
    from fastdarts.ops.optim import adam_

    parameters, gradient, first, second = _buffers(given, _ALPHAS, 4)
    step, lr = _scalar(given, 0.0), _scalar(given, 3e-4)
    given_too = {"beta1": 0.5, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-3}
    return lambda: adam_(parameters, gradient, first, second, step, lr, **given_too)


def _augment(given: Options) -> Callable[[], object]:
    from fastdarts.ops import augment

    count, side, batch = (20, 6, 4) if given.toy else (50_000, 32, 256)
    device = given.device
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, device=device)
    index = torch.randint(0, count, (batch,), device=device)
    offset = torch.randint(-2, 3, (batch, 2), device=device)
    corner = torch.randint(0, side, (batch, 2), device=device)
    cutout = torch.stack([corner, corner + side // 2], -1).flatten(1)
    flip = torch.rand(batch, device=device) < 0.5
    scale, shift = (torch.full((3,), value, device=device) for value in (1 / 64, -2.0))
    return lambda: augment(images, index, offset, flip, cutout, scale, shift)


SMALL: dict[str, Callable[[Options], Callable[[], object]]] = {
    "coefficients.rows": lambda given: _coefficients(given, "rows"),
    "coefficients.mixing": lambda given: _coefficients(given, "mixing"),
    "coefficients.gradient": lambda given: _coefficients(given, "gradient"),
    "optim.sgd_": _sgd,
    "optim.adam_": _adam,
    "augment": _augment,
}
"""What builds each call at its real size, or at a toy one."""
