"""Bytes and FLOPs of a cell; docs/plan.md has the table behind the numbers."""

from __future__ import annotations

from dataclasses import dataclass

from fastdarts.errors import UserError
from fastdarts.plan._calls import Work, calls
from fastdarts.plan._cell import CellPlan
from fastdarts.plan._schedule import kept_rows

__all__ = ["Flops", "flops", "kept_bytes"]


@dataclass(frozen=True)
class Flops:
    """The work of a pass.

    Args:
        forward: with batch statistics.
        backward: of all gradients that were asked, with what it computes again.
    """

    forward: Work
    backward: Work

    @property
    def total(self) -> int:
        """Both."""
        return self.forward.total + self.backward.total

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.forward + other.forward, self.backward + other.backward)


def kept_bytes(plan: CellPlan, n: int, height: int, width: int, itemsize: int, memory: str) -> int:
    """Bytes that a cell in training keeps for its backward.

    `itemsize * N * (inputs * C * H * W + nodes * C * H' * W' + (rows + noises) * C' * H' * W') + 16 * norms * C'`: its
    inputs and nodes (the output is the nodes), the values y of :func:`kept_rows`, the noise, and the statistics, two
    float64 numbers a channel. Parameters and mixing weights exist anyway and do not count.

    Args:
        plan: the cell.
        n: batch size.
        height, width: of the inputs, pixels.
        itemsize: bytes of an element of a map.
        memory: `fast`, `balanced` or `lean`.

    Returns:
        Bytes.

    Raises:
        UserError: an unknown memory mode, or sizes below 1.
    """
    for name, value in (("n", n), ("height", height), ("width", width)):
        if value < 1:
            raise UserError(f"{name} is {value}", "at least 1")
    before, after = n * height * width, n * -(-height // plan.stride) * -(-width // plan.stride)
    states = plan.channels * (plan.inputs * before + plan.nodes * after)
    values = plan.mixed * after * (len(kept_rows(plan, memory)) + len(plan.noises))
    return itemsize * (states + values) + 16 * plan.mixed * len(plan.norms)


def flops(plan: CellPlan, n: int, height: int, width: int, memory: str, *, weights: bool = True) -> Flops:
    """Floating-point operations of a cell in training: those of its calls.

    Args and errors as :func:`fastdarts.plan.calls`, which has the formulas.

    Returns:
        The work of forward and of backward.
    """
    found = [Work(), Work()]
    for call in calls(plan, n, height, width, memory, weights=weights):
        found[call.backward] += call.work
    return Flops(*found)
