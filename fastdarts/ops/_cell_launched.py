"""A cell whose kernels are launched one by one: what the library op calls where they are a GPU's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdarts.ops import maps
from fastdarts.ops._cell_backward import Backward
from fastdarts.ops._cell_forward import Statistics, Work, run
from fastdarts.ops._cell_given import Asked, Given
from fastdarts.ops._cell_layout import Layout, layout
from fastdarts.ops._cell_pieces import joined
from fastdarts.ops._engine import engine

__all__ = ["backward", "forward"]


def forward(given: Given, backend: str) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """As :func:`fastdarts.ops._cell_cpu.forward`."""
    chosen = _layout(given, (True,) * len(given.sources), True)
    mean, var = given.mean, given.var
    if mean is None or var is None:
        statistics = Statistics.unknown(chosen.plan.mixed, given.eps, given.device)
    else:
        statistics = Statistics.known(mean, var, chosen, given.eps)
    out, kept = run(_work(given, statistics, chosen, backend))
    if mean is None or var is None:
        return out, *statistics.used(chosen), kept
    # Of the op's own: an output of an op must not be one of its inputs.
    return out, mean.to(torch.float64, copy=True), var.to(torch.float64, copy=True), kept


def backward(
    given: Given, grad: Tensor, out: Tensor, kept: Sequence[Tensor], asked: Asked, *, training: bool, backend: str
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """As :func:`fastdarts.ops._cell_cpu.backward`."""
    assert given.mean is not None and given.var is not None  # forward returned them
    chosen = _layout(given, asked.sources, asked.parameters)
    plan = chosen.plan
    work = _work(given, Statistics.known(given.mean, given.var, chosen, given.eps), chosen, backend)
    hidden = iter(kept[len(chosen.kept) :])
    for node in plan.computed:
        start = plan.concat.index(node) * plan.channels if node in plan.concat else -1
        work.states.append(next(hidden) if start < 0 else out[:, start : start + plan.channels])
    work.values.update(zip(chosen.kept, kept, strict=False))
    found = Backward(work, grad, asked, training=training)
    found.run()
    mixing = [found.weights(*given.weights.shape).to(given.weights.dtype)] if asked.weights else []
    if asked.bypass and given.bypass is not None:
        mixing.append(found.bypass(len(plan.edges)).to(given.bypass.dtype))
    parameters, pieces = found.parameters() if asked.parameters else [], given.pieces()
    if pieces is not None and asked.parameters:
        parameters = joined(parameters, given.parameters, pieces)
    return found.sources(), mixing, parameters, found.noise()


def _layout(given: Given, sources: tuple[bool, ...], parameters: bool) -> Layout:
    chosen = layout(given.plan, given.memory, given.weights.shape[1], str(given.device), sources, parameters)
    maps.keep_if_captured(chosen, given.device)
    return chosen


def _work(given: Given, statistics: Statistics, chosen: Layout, backend: str) -> Work:
    plan, beta = chosen.plan, None
    if plan.partial > 1:
        edges = len(plan.edges)
        beta = given.weights.new_ones(edges, dtype=torch.float64)
        if given.bypass is not None:
            beta = given.bypass.detach().to(torch.float64)
    states, noise = [maps.as_maps(x) for x in given.sources], [maps.as_maps(x) for x in given.noise]
    return Work(engine(backend), chosen, states, given.kernels(), noise, statistics, given.flat_weights(), beta)
