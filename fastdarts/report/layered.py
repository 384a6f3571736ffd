"""Layered layout of a small directed acyclic graph: columns by depth, few crossings, nothing under a box.

A long edge does not run behind the boxes between its ends: it gets a lane of its own in every column it passes, and
all edges out of one source share that lane. Order inside a column by barycentres and swaps of neighbours (Sugiyama,
Tagawa and Toda 1981), heights by isotonic regression towards the neighbours' heights.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Layout", "Vertex", "Wire", "lay_out"]

_PILL_PITCH, _LANE, _GAP, _SLACK = 30.0, 12.0, 20.0, 4.0
_SWEEPS, _RELAXATIONS = 12, 10


@dataclass(frozen=True)
class Wire:
    """An edge into a vertex; ``primitive`` is None where nothing is computed on the way."""

    source: str
    primitive: str | None = None


@dataclass(frozen=True)
class Vertex:
    """A state of the cell with the edges into it."""

    name: str
    wires: tuple[Wire, ...] = ()


@dataclass
class _Item:
    """What stands in a column: a vertex, or the lane of a source that passes by."""

    source: str
    vertex: Vertex | None
    y: float = 0.0
    slots: list[int] = field(default_factory=list)

    @property
    def half(self) -> float:
        if self.vertex is None:
            return _LANE / 2
        return max(18.0, _PILL_PITCH * len(self.vertex.wires) / 2)

    def slot_y(self, wire: int) -> float:
        if self.vertex is None or all(each.primitive is None for each in self.vertex.wires):
            return self.y
        return self.y + (self.slots.index(wire) - (len(self.slots) - 1) / 2) * _PILL_PITCH


@dataclass(frozen=True)
class Layout:
    """Where everything stands.

    Args:
        columns: name of the vertices of every column, left to right.
        y: height of every vertex [pixels, downwards].
        slot: height of every edge into a vertex, by (vertex name, index of the wire) [pixels].
        lane: height of a source's lane, by (source name, column) [pixels].
        top: smallest y in use [pixels].
        bottom: largest y in use [pixels].
    """

    columns: tuple[tuple[str, ...], ...]
    y: Mapping[str, float]
    slot: Mapping[tuple[str, int], float]
    lane: Mapping[tuple[str, int], float]
    top: float
    bottom: float


def lay_out(vertices: Sequence[Vertex], last: str | None = None) -> Layout:
    """Lay out a graph whose vertices come in topological order.

    Args:
        vertices: every vertex after its sources; those without wires are the inputs and keep their order.
        last: name of a vertex that gets the rightmost column to itself, if any.

    Returns:
        Columns and heights.
    """
    depth = _depths(vertices, last)
    columns = _columns(vertices, depth)
    best, least = [list(column) for column in columns], _settle(columns)
    for sweep in range(_SWEEPS):
        _sweep(columns, forward=sweep % 2 == 0)
        cost = _settle(columns)
        if cost < least:
            best, least = [list(column) for column in columns], cost
    _swap_neighbours(best, _settle(best))
    for _ in range(_RELAXATIONS):
        for at in range(1, len(best)):
            _relax(best, at, left=True)
        for at in range(len(best) - 2, -1, -1):
            _relax(best, at, left=False)
        _order_slots(best)
    _straighten(best)
    return _result(best)


def _depths(vertices: Sequence[Vertex], last: str | None) -> dict[str, int]:
    depth: dict[str, int] = {}
    for vertex in vertices:
        depth[vertex.name] = 1 + max((depth[wire.source] for wire in vertex.wires), default=-1)
    if last is not None:
        depth[last] = max(depth.values(), default=0) + (0 if _alone(depth, last) else 1)
    return depth


def _alone(depth: Mapping[str, int], last: str) -> bool:
    deepest = max(depth.values())
    return depth[last] == deepest and sum(value == deepest for value in depth.values()) == 1


def _columns(vertices: Sequence[Vertex], depth: Mapping[str, int]) -> list[list[_Item]]:
    columns: list[list[_Item]] = [[] for _ in range(max(depth.values()) + 1)]
    reach = {
        name: max((depth[v.name] for v in vertices for w in v.wires if w.source == name), default=0) for name in depth
    }
    for vertex in vertices:
        at = depth[vertex.name]
        columns[at].append(_Item(vertex.name, vertex, slots=list(range(len(vertex.wires)))))
        for passed in range(at + 1, reach[vertex.name]):
            columns[passed].append(_Item(vertex.name, None))
    return columns


def _settle(columns: list[list[_Item]]) -> tuple[int, int]:
    """Stack every column around the middle line; the cost is the number of crossings, then the lines' rise [pixels]."""
    for column in columns:
        y = -sum(2 * item.half + _GAP for item in column) / 2
        for item in column:
            item.y = y + item.half + _GAP / 2
            y += 2 * item.half + _GAP
    _order_slots(columns)
    lines = [_lines(columns, at) for at in range(1, len(columns))]
    return sum(map(_crossings, lines)), round(sum(abs(left - right) for gap in lines for left, right, _ in gap))


def _order_slots(columns: list[list[_Item]]) -> None:
    for at in range(1, len(columns)):
        feeding = {item.source: item.y for item in columns[at - 1]}
        for item in columns[at]:
            if item.vertex is not None:
                wires = item.vertex.wires
                item.slots = sorted(range(len(wires)), key=lambda k: (feeding[wires[k].source], k))


def _lines(columns: list[list[_Item]], at: int) -> list[tuple[float, float, str]]:
    """(y at the left, y at the right, source) of every line from column at - 1 to column at."""
    feeding = {item.source: item.y for item in columns[at - 1]}
    lines = []
    for item in columns[at]:
        if item.vertex is None:
            lines.append((feeding[item.source], item.y, item.source))
        else:
            lines.extend((feeding[w.source], item.slot_y(k), w.source) for k, w in enumerate(item.vertex.wires))
    return lines


def _crossings(lines: list[tuple[float, float, str]]) -> int:
    return sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for i, a in enumerate(lines) for b in lines[i + 1 :] if a[2] != b[2])


def _wanted(columns: list[list[_Item]], at: int, *, left: bool) -> list[float]:
    """Mean height of what every item of a column is tied to on one side; its own height where nothing is."""
    sums = [[0.0, 0.0] for _ in columns[at]]
    if left:
        feeding = {item.source: item.y for item in columns[at - 1]}
        for total, item in zip(sums, columns[at], strict=True):
            wires = item.vertex.wires if item.vertex is not None else (Wire(item.source),)
            for wire in wires:
                total[0] += feeding[wire.source]
                total[1] += 1.0
    else:
        index = {item.source: total for item, total in zip(columns[at], sums, strict=True)}
        for _, right, source in _lines(columns, at + 1):
            index[source][0] += right
            index[source][1] += 1.0
    return [total / count if count else item.y for (total, count), item in zip(sums, columns[at], strict=True)]


def _sweep(columns: list[list[_Item]], *, forward: bool) -> None:
    order = range(1, len(columns)) if forward else range(len(columns) - 2, 0, -1)
    for at in order:
        wanted = _wanted(columns, at, left=forward)
        ranked = sorted(range(len(columns[at])), key=lambda k: (wanted[k], k))
        columns[at] = [columns[at][k] for k in ranked]
        _settle(columns)


def _swap_neighbours(columns: list[list[_Item]], least: tuple[int, int]) -> None:
    improved = True
    while improved:
        improved = False
        for column in columns[1:]:
            for k in range(len(column) - 1):
                column[k], column[k + 1] = column[k + 1], column[k]
                cost = _settle(columns)
                if cost < least:
                    least, improved = cost, True
                else:
                    column[k], column[k + 1] = column[k + 1], column[k]
    _settle(columns)


def _relax(columns: list[list[_Item]], at: int, *, left: bool) -> None:
    """Move a column's items as near to their neighbours as their order and sizes allow (pool adjacent violators)."""
    column = columns[at]
    wanted = _wanted(columns, at, left=left)
    offsets = [0.0]
    for above, item in itertools.pairwise(column):
        offsets.append(offsets[-1] + above.half + item.half + _GAP)
    blocks: list[list[float]] = []
    for want, shift in zip(wanted, offsets, strict=True):
        blocks.append([want - shift, 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            before, others = blocks[-1]
            blocks[-1] = [(before * others + mean * count) / (others + count), others + count]
    heights = [mean for mean, count in blocks for _ in range(int(count))]
    for item, height, shift in zip(column, heights, offsets, strict=True):
        item.y = height + shift


def _straighten(columns: list[list[_Item]]) -> None:
    """Put every lane at the height it is fed from, as far as the boxes above and below leave room."""
    for at in range(1, len(columns)):
        feeding = {item.source: item.y for item in columns[at - 1]}
        column = columns[at]
        for k, item in enumerate(column):
            if item.vertex is not None:
                continue
            room = item.half + _GAP - _SLACK
            least = column[k - 1].y + column[k - 1].half + room if k else -math.inf
            most = column[k + 1].y - column[k + 1].half - room if k + 1 < len(column) else math.inf
            item.y = min(max(feeding[item.source], least), most)


def _result(columns: list[list[_Item]]) -> Layout:
    y: dict[str, float] = {}
    slot: dict[tuple[str, int], float] = {}
    lane: dict[tuple[str, int], float] = {}
    for at, column in enumerate(columns):
        for item in column:
            if item.vertex is None:
                lane[item.source, at] = item.y
            else:
                y[item.source] = item.y
                slot.update({(item.source, k): item.slot_y(k) for k in range(len(item.vertex.wires))})
    everything = [item for column in columns for item in column]
    return Layout(
        tuple(tuple(item.source for item in column if item.vertex is not None) for column in columns),
        y,
        slot,
        lane,
        min(item.y - item.half for item in everything),
        max(item.y + item.half for item in everything),
    )
