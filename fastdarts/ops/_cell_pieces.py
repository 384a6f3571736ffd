"""A cell's parameters in a few flat tensors: where each lies, how they are taken apart, their gradients put together.

A DARTS cell has 168 parameters. What torch does for each tensor that an op takes (unpack, save, an edge of its graph, a
gradient of its own) costs more than a small cell computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.plan import CellPlan

__all__ = ["Pieces", "joined", "pieces", "taken_apart"]


@dataclass(frozen=True)
class Pieces:
    """Where a plan's parameters lie.

    Args:
        places: for each parameter the tensor and its first element there.
        shapes: of the parameters.
        splits: for each tensor its pieces in order, (elements before it that are no parameter's, the parameter), and
            what is left behind the last.
    """

    places: tuple[tuple[int, int], ...]
    shapes: tuple[tuple[int, int, int, int], ...]
    splits: tuple[tuple[tuple[tuple[int, int], ...], int], ...]

    @property
    def whole(self) -> tuple[bool, ...]:
        """For each tensor whether every element of it is a parameter's."""
        return tuple(rest == 0 and not any(gap for gap, _ in several) for several, rest in self.splits)


@lru_cache(maxsize=1024)
def pieces(text: str, places: tuple[int, ...], sizes: tuple[int, ...]) -> Pieces:
    """The pieces of a plan's parameters.

    Args:
        text: the plan, encoded.
        places: tensor and first element of each parameter, one after another.
        sizes: elements of each tensor.

    Raises:
        UserError: another number of places, a place outside its tensor, or two that overlap.
    """
    parameters = CellPlan.decode(text).parameters
    shapes = tuple(each.shape for each in parameters)
    found = tuple((places[i], places[i + 1]) for i in range(0, len(places) - 1, 2))
    if len(places) != 2 * len(shapes):
        raise UserError(f"cell: {len(places) / 2:g} places of parameters", f"{len(shapes)}, as the plan has")
    filled, splits = [0] * len(sizes), [list[tuple[int, int]]() for _ in sizes]
    for number in sorted(range(len(found)), key=found.__getitem__):
        tensor, start = found[number]
        if not 0 <= tensor < len(sizes) or start < 0 or start + prod(shapes[number]) > sizes[tensor]:
            what = f"cell: parameter {number} lies at element {start} of tensor {tensor}"
            raise UserError(what, f"inside one of {len(sizes)} flat tensors of {list(sizes)} elements")
        if start < filled[tensor]:
            raise UserError(f"cell: parameter {number} overlaps another in tensor {tensor}", "places of their own")
        splits[tensor].append((start - filled[tensor], number))
        filled[tensor] = start + prod(shapes[number])
    rests = (size - end for size, end in zip(sizes, filled, strict=True))
    return Pieces(found, shapes, tuple((tuple(each), rest) for each, rest in zip(splits, rests, strict=True)))


def taken_apart(tensors: Sequence[Tensor], found: Pieces) -> list[Tensor]:
    """The parameters, as views; one split a tensor, whose gradient autograd puts together at once."""
    views: dict[int, Tensor] = {}
    for tensor, (several, rest) in zip(tensors, found.splits, strict=True):
        sizes = [size for gap, number in several for size in (gap, prod(found.shapes[number]))]
        for (_, number), view in zip(several, tensor.split([*sizes, rest])[1::2], strict=False):
            views[number] = view.view(found.shapes[number])
    return [views[number] for number in range(len(found.shapes))]


def joined(gradients: Sequence[Tensor], tensors: Sequence[Tensor], found: Pieces) -> list[Tensor]:
    """The gradients of the flat tensors from those of the parameters; 0 where no parameter is."""
    whole = []
    for tensor, (several, rest) in zip(tensors, found.splits, strict=True):
        parts = []
        for gap, number in several:
            parts += [tensor.new_zeros(gap)] * (gap > 0) + [gradients[number].reshape(-1)]
        whole.append(torch.cat([*parts, tensor.new_zeros(rest)]))
    return whole
