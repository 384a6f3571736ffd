"""The calls of the kernels in a supernet's cells, those on its inputs and on running statistics included."""

from __future__ import annotations

from collections.abc import Iterator

from fastdarts.nn import Cell, FactorizedReduce, Supernet
from fastdarts.nn.checks import halved
from fastdarts.plan import cell_plan
from fastdarts.plan._calls import Call, calls, cell_input_calls
from fastdarts.plan._shapes import Map

__all__ = ["cell_calls", "supernet_calls"]

_TRACK = Call("track.track_", False)


def supernet_calls(
    model: Supernet, n: int, height: int, width: int, memory: str = "fast", *, weights: bool = True
) -> Iterator[tuple[int, Cell, list[Call]]]:
    """The calls of every cell of a supernet in training; stem, classifier and optimisers are left out.

    Args:
        model: the supernet, on any device.
        n: batch size.
        height, width: of the images, pixels.
        memory: `fast`, `balanced` or `lean`.
        weights: whether gradients of the weights are asked; an architecture step asks none.

    Yields:
        Number of the cell, the cell, and its calls of forward and backward.
    """
    older = newer = (height, width)
    for number, cell in enumerate(model.cells):
        assert isinstance(cell, Cell)
        yield number, cell, cell_calls(cell, n, older, newer, memory, weights=weights)
        older, newer = newer, tuple(halved(size, 2) for size in newer) if cell.reduction else newer


def cell_calls(
    cell: Cell, n: int, older: tuple[int, int], newer: tuple[int, int], memory: str = "fast", *, weights: bool = True
) -> list[Call]:
    """The calls of a cell in order; sizes of its two inputs, pixels."""
    plan = cell_plan(cell.space, cell.channels, partial=cell.partial, reduction=cell.reduction)
    if plan is None:
        raise TypeError("no calls of a cell with candidates that have no fused kernel")
    found = calls(plan, n, *newer, memory, weights=weights)
    before: list[Call] = []
    after: list[Call] = []
    stride = 2 if isinstance(cell.preprocess0, FactorizedReduce) else 1
    for c, size, s in ((cell.c_prev_prev, older, stride), (cell.c_prev, newer, 1)):
        own = cell_input_calls(Map(n, c, *size, c), cell.channels, s, weights=weights)
        before += [*(call for call in own if not call.backward), _TRACK]
        after += [call for call in own if call.backward]
    forward, backward = ([call for call in found if call.backward is side] for side in (False, True))
    return [*before, *forward, _TRACK, *backward, *after]
