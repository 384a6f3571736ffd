"""`--sweep NAME=VALUES`: the axes of a sweep and the points of their grid."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastdarts.errors import UserError

if TYPE_CHECKING:
    from fastdarts.spaces import CellSpace, Space

__all__ = ["MOST_POINTS", "Axis", "points", "read_axes", "reshaped"]

MOST_POINTS = 200
# What a person calls an option, by the name of the setting.
_ALIASES = {"batch": "batch_size", "size": "image_size", "width": "channels", "cells": "layers", "ops": "operators"}
_RANGE = re.compile(r"(\d+):(\d+):([x+]?)(\d+)")
_WORDS = {"memory": ("fast", "balanced", "lean"), "dtype": ("float32", "bfloat16")}


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it takes, as they would be typed.

    Args:
        name: of the setting.
        values: at least one.
    """

    name: str
    values: tuple[str, ...]

    @property
    def numeric(self) -> bool:
        """Whether a growth can be fitted along it."""
        return len(self.values) > 1 and all(re.fullmatch(r"\d+(\.\d+)?", value) for value in self.values)


def read_axes(texts: Sequence[str]) -> list[Axis]:
    """Read ``batch=16:256:x2`` (doubling), ``batch=16:64:+16`` (steps of 16), ``layers=8,14,20``, ``memory=all``.

    Raises:
        UserError: for what is none of these, a setting given twice, or a grid of over 200 points.
    """
    axes: list[Axis] = []
    for text in texts:
        name, found, values = text.partition("=")
        name = name.strip().replace("-", "_")
        name = _ALIASES.get(name, name)
        if not found or not name:
            raise UserError(f"--sweep {text}", "NAME=VALUES, as batch=16:256:x2, layers=8,14,20 or memory=all")
        if name in [axis.name for axis in axes]:
            raise UserError(f"--sweep {text}: {name} is swept twice", "all its values in one --sweep")
        axes.append(Axis(name, _values(text, name, values.strip())))
    count = 1
    for axis in axes:
        count *= len(axis.values)
    if count > MOST_POINTS:
        raise UserError(
            f"a sweep of {count} points", f"at most {MOST_POINTS}", "fewer values, or one sweep after another"
        )
    return axes


def _values(text: str, name: str, values: str) -> tuple[str, ...]:
    if values == "all" and name in _WORDS:
        return _WORDS[name]
    ranged = _RANGE.fullmatch(values)
    if ranged:
        first, last, step = int(ranged[1]), int(ranged[2]), int(ranged[4])
        if first > last or step < (2 if ranged[3] == "x" else 1) or not first:
            raise UserError(f"--sweep {text}", "FIRST:LAST:xFACTOR or FIRST:LAST:+STEP that goes up from 1 or more")
        found: list[str] = []
        while first <= last and len(found) <= MOST_POINTS:
            found.append(str(first))
            first = first * step if ranged[3] == "x" else first + step
        return tuple(found)
    several = tuple(part.strip() for part in values.split(","))
    if not all(several) or ":" in values:
        raise UserError(f"--sweep {text}", "values with commas, or a range as 16:256:x2 or 16:64:+16")
    return tuple(dict.fromkeys(several))


def points(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Every combination, the first axis varying slowest."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield {axis.name: value for axis, value in zip(axes, values, strict=True)}


def reshaped(space: Space, changed: Mapping[str, str]) -> Space:
    """The space with other ``operators`` (the first so many of each edge) or ``nodes`` (every state feeds each).

    Raises:
        UserError: for numbers that it cannot have.
    """
    from fastdarts.spaces import define_space

    counts = {name: int(value) if value.isdigit() else 0 for name, value in changed.items()}
    name = "-".join([space.name, *(f"{value}-{key}" for key, value in counts.items())])
    if "operators" in counts:
        offered = min(min(cell.counts) for cell in (space.normal, space.reduce))
        if not 1 <= counts["operators"] <= offered:
            raise UserError(
                f"operators is {changed['operators']}", f"1 to {offered}, as every edge of {space.name} has"
            )
        normal, reduce = (_fewer(cell, counts["operators"]) for cell in (space.normal, space.reduce))
        space = replace(space, name=name, normal=normal, reduce=reduce)
    if "nodes" in counts:
        if not 1 <= counts["nodes"] <= 64:
            raise UserError(f"nodes is {changed['nodes']}", "1 to 64")
        kinds = {cell.edges[0].primitives for cell in (space.normal, space.reduce)}
        if any(edge.primitives not in kinds for cell in (space.normal, space.reduce) for edge in cell.edges):
            raise UserError(
                f"{space.name} has other candidates on some edges than on others", "one list to sweep nodes"
            )
        space = define_space(
            name,
            space.normal.edges[0].primitives,
            reduce=space.reduce.edges[0].primitives,
            nodes=counts["nodes"],
            shared=space.shared,
            layers=space.layers,
            keep=space.keep,
        )
    return space


def _fewer(cell: CellSpace, operators: int) -> CellSpace:
    return replace(cell, edges=tuple(replace(edge, primitives=edge.primitives[:operators]) for edge in cell.edges))
