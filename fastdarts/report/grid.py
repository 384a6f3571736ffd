"""A genotype of many unshared cells as a table: a column per cell, a row per edge, operators as coloured boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastdarts.report.cell import describe, state_name
from fastdarts.report.palette import colour_of, short_name
from fastdarts.report.scene import Box, Label, Scene, Shape
from fastdarts.spaces import CellGenotype

__all__ = ["grid_scene"]

_COLUMNS = 10
_WIDTH, _PILL, _ROW, _SOURCE_LINE, _HEAD, _MARGIN, _BAND_GAP = 80.0, 22.0, 27.0, 13.0, 26.0, 14.0, 22.0
_ROW_LABEL = 84.0


def grid_scene(cells: Mapping[str, CellGenotype], title: str) -> Scene:
    """Draw unshared cells side by side, ten in a band.

    Where every cell has the same wiring the source of an edge is written once, at the row; otherwise under each
    operator.

    Args:
        cells: the cells by architecture key, in the order of the network.
        title: the heading.

    Returns:
        The scene; its description is every cell in words.
    """
    keys = list(cells)
    rows = max(sum(len(pairs) for pairs in cell.nodes) for cell in cells.values())
    wiring = _wiring(cells)
    pitch = _ROW if wiring else _ROW + _SOURCE_LINE
    shapes: list[Shape] = [Label(_MARGIN, _MARGIN + 8, title, size=15, anchor="start", bold=True)]
    top = 2 * _MARGIN + 18
    for begin in range(0, len(keys), _COLUMNS):
        band = keys[begin : begin + _COLUMNS]
        if wiring:
            shapes += _row_labels(wiring, top + _HEAD, pitch)
        for at, key in enumerate(band):
            x = _MARGIN + (_ROW_LABEL if wiring else 0) + at * _WIDTH
            shapes += _column(key, cells[key], x, top, pitch, sources=not wiring)
        top += _HEAD + rows * pitch + _BAND_GAP
    width = 2 * _MARGIN + (_ROW_LABEL if wiring else 0) + min(len(keys), _COLUMNS) * _WIDTH
    words = ". ".join(f"{key}: {describe(cell)}" for key, cell in cells.items())
    return Scene(width, top, tuple(shapes), title, words)


def _wiring(cells: Mapping[str, CellGenotype]) -> Sequence[str]:
    """``source -> node`` of every edge where all cells agree on it; empty where they do not."""
    found = {
        tuple(
            f"{state_name(source, cell.inputs)} \u2192 {state_name(node, cell.inputs)}"
            for _, source, node in cell.edges()
        )
        for cell in cells.values()
    }
    return found.pop() if len(found) == 1 else ()


def _row_labels(wiring: Sequence[str], top: float, pitch: float) -> list[Shape]:
    x = _MARGIN + _ROW_LABEL - 12
    middles = [top + (row + 0.5) * pitch for row in range(len(wiring))]
    return [Label(x, y, text, size=12, anchor="end", colour="muted") for y, text in zip(middles, wiring, strict=True)]


def _column(key: str, cell: CellGenotype, x: float, top: float, pitch: float, *, sources: bool) -> list[Shape]:
    middle = x + (_WIDTH - 6) / 2
    shapes: list[Shape] = [Label(middle, top + _HEAD / 2, key.replace("cell", "cell "), size=12, bold=True)]
    y = top + _HEAD + 2
    for op, source, node in cell.edges():
        colour, where = colour_of(op), f"{state_name(source, cell.inputs)} \u2192 {state_name(node, cell.inputs)}"
        box = Box(x, y, _WIDTH - 6, _PILL, _PILL / 2, colour, colour, 0.16, 1.2, op == "none", f"{key}: {op}, {where}")
        shapes += [box, Label(middle, y + _PILL / 2, short_name(op), size=11.5)]
        if sources:
            shapes.append(Label(middle, y + _PILL + 6.5, where, size=10, colour="muted"))
        y += pitch
    return shapes
