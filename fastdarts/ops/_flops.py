"""What the fused ops cost, for `torch.utils.flop_counter.FlopCounterMode`: the number of the plain network.

That counter counts convolutions and matrix products, no more, and so do these formulas, with its own functions, the
gradient of a depthwise weight included, of which it counts C times too much. Work that a memory mode does again is not
counted, since the plain network does not do it; `fastdarts plan` counts it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from fastdarts.ops._cell_given import Given
from fastdarts.plan import CellPlan, schedule

__all__ = ["known_to_counter"]

_PLAN = Given._fields.index("plan")
_COUNTER = "torch.utils.flop_counter"
Shape = Sequence[int]
Convolution = tuple[Shape, Shape, Shape, bool]
"""Shapes of the input, the weight and the output, and whether the gradient of the input is asked."""


def known_to_counter() -> None:
    """Register the formulas where torch's counter is there, with those that are counting already too.

    Importing it here would import Triton, 0.2 s of a command line's start.
    """
    counter: Any = sys.modules.get(_COUNTER)
    if counter is None:
        return
    formulas = _formulas()
    for op, formula in formulas.items():
        if op not in counter.flop_registry:
            counter.register_flop_formula(op, get_raw=True)(formula)
    for mode in torch.utils._python_dispatch._get_current_dispatch_mode_stack():
        counting = getattr(mode, "counter", None)
        if isinstance(counting, counter.FlopCounterMode):
            for op, formula in formulas.items():
                counting.flop_registry.setdefault(op, formula)


def _formulas() -> dict[Any, Callable[..., int]]:
    ops = torch.ops.fastdarts
    return {
        ops.cell: _cell,
        ops.cell_backward: _cell_backward,
        ops.preprocess: _preprocess,
        ops.preprocess_backward: _preprocess_backward,
        ops.stencil: _stencil,
        ops.stencil_backward: _stencil_backward,
        **dict.fromkeys((ops.mixed_sum, ops.mixed_sum_backward, ops.pool_moments), _nothing),
        **dict.fromkeys((ops.track_, ops.augment), _nothing),
        # The optimisers' are there once somebody has imported them.
        **{getattr(ops, name): _nothing for name in ("sgd_", "adam_") if hasattr(ops, name)},
    }


def _nothing(*_: Any, **__: Any) -> int:
    return 0


def _forward(convolutions: Iterable[Convolution]) -> int:
    count = sys.modules[_COUNTER].conv_flop_count
    return sum(count(x, weight, out) for x, weight, out, _ in convolutions)


def _backward(convolutions: Iterable[Convolution], weights: bool) -> int:
    count = sys.modules[_COUNTER].conv_flop_count

    def turned(shape: Shape) -> list[int]:
        return [shape[1], shape[0], *shape[2:]]

    total = 0
    for x, weight, out, asked in convolutions:
        total += count(out, weight, x, transposed=True) if asked else 0
        total += count(turned(x), turned(out), turned(weight), transposed=False) if weights else 0
    return total


def _cell(*given: Any, **_: Any) -> int:
    sources, plan = given[0], CellPlan.decode(given[_PLAN])
    every = range(plan.inputs, plan.inputs + plan.nodes)
    return _forward(_convolutions(plan, sources[0].shape, every, [True] * plan.given, True))


def _cell_backward(grad: Any, sources: Any, *rest: Any, **_: Any) -> int:
    plan, (need_sources, _noise, _weights, _bypass, parameters) = CellPlan.decode(rest[_PLAN - 1]), rest[-5:]
    reached = [stage.node for stage in schedule(plan).backward]
    return _backward(_convolutions(plan, sources[0].shape, reached, need_sources, parameters), parameters)


def _convolutions(
    plan: CellPlan, shape: Shape, nodes: Iterable[int], need_sources: Sequence[bool], parameters: bool
) -> Iterator[Convolution]:
    """Those of the candidates on the edges into some nodes."""
    n, _, *size = shape
    halved = [-(-side // plan.stride) for side in size]
    asked = [*need_sources, *[True] * len(plan.computed)]
    for number, _position, name, weight in plan.parameters:
        edge = plan.edges[number]
        if edge.node not in nodes:
            continue
        first = name.removesuffix(".weight") in ("op.1", "conv_1", "conv_2")
        before = size if first and edge.source < plan.inputs else halved
        x = [n, plan.mixed, *before]
        yield x, weight, [n, weight[0], *halved], asked[edge.source] or (parameters and not first)


def _preprocess(x: Any, weights: Any, mean: Any, var: Any, stride: int, *_: Any, **__: Any) -> int:
    return _forward(_halves(x, weights, stride, True))


def _preprocess_backward(grad: Any, x: Any, weights: Any, *rest: Any, **_: Any) -> int:
    stride, need_dx, need_weights = rest[2], rest[4], rest[5]
    return _backward(_halves(x, weights, stride, need_dx), need_weights)


def _halves(x: Any, weights: Any, stride: int, asked: bool) -> Iterator[Convolution]:
    n, _, *size = x.shape
    for weight in weights:
        yield x.shape, weight.shape, [n, weight.shape[0], *(-(-side // stride) for side in size)], asked


def _stencil(*given: Any, **_: Any) -> int:
    return _forward(_pairs(*given[:7]))


def _stencil_backward(*given: Any, **_: Any) -> int:
    return _backward(_pairs(*given[:7]), given[-1])


def _pairs(
    sources: Any, source: Any, kernel: Any, dilation: Any, stride: Any, depthwise: Any, pointwise: Any
) -> Iterator[Convolution]:
    for place, step, spread, mixed in zip(source, stride, depthwise, pointwise, strict=True):
        n, channels, *size = sources[place].shape
        after = [n, channels, *(-(-side // step) for side in size)]
        yield sources[place].shape, spread.shape, after, True
        yield after, mixed.shape, [n, mixed.shape[0], *after[2:]], True
