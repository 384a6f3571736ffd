"""Bytes as areas: rectangles within rectangles, as square as they can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Box", "Tile", "draw_treemap", "squarified"]

Box = tuple[float, float, float, float]  # left, top, width, height

_HEADING, _LETTER = 15.0, 6.2  # pixels: of a part's name, of a letter of 11 pixels


@dataclass(frozen=True)
class Tile:
    """One area.

    Args:
        label: written where there is room.
        size: above 0.
        colour: a key of the palette.
        told: what the pointer shows.
    """

    label: str
    size: float
    colour: str
    told: str


def squarified(sizes: Sequence[float], box: Box) -> list[Box]:
    """Rectangles of these areas, relative to their sum, that fill the box; the order stays.

    A row along the shorter side grows as long as that makes its worst rectangle squarer.

    Source: Bruls, Huizing, van Wijk: Squarified Treemaps, 2000.
    """
    left, top, width, height = box
    whole = sum(sizes)
    if not whole or width <= 0 or height <= 0:
        return [(left, top, 0.0, 0.0) for _ in sizes]
    areas = [size * width * height / whole for size in sizes]
    found: list[Box] = []
    while areas:
        side = min(width, height)
        count = 1
        while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
            count += 1
        row, areas = areas[:count], areas[count:]
        depth = sum(row) / side
        along = 0.0
        for area in row:
            length = area / depth if depth else 0.0
            found.append((left, top + along, depth, length) if side == height else (left + along, top, length, depth))
            along += length
        if side == height:
            left, width = left + depth, width - depth
        else:
            top, height = top + depth, height - depth
    return found


def _worst(areas: Sequence[float], side: float) -> float:
    total = sum(areas)
    return max(side * side * max(areas) / total**2, total**2 / (side * side * min(areas)))


def draw_treemap(parts: Mapping[str, Sequence[Tile]], title: str, *, narrow: bool = False) -> str:
    """An SVG fragment of a page: each part's rectangle under its name, in it one rectangle a tile.

    Args:
        parts: tiles by part, largest areas where they are.
        title: names the picture.
        narrow: for a phone.
    """
    width, height = (360.0, 520.0) if narrow else (1000.0, 420.0)
    ordered = sorted(parts.items(), key=lambda item: -sum(tile.size for tile in item[1]))
    drawn = []
    boxes = squarified([sum(tile.size for tile in tiles) for _, tiles in ordered], (0.0, 0.0, width, height))
    for (part, tiles), (left, top, across, down) in zip(ordered, boxes, strict=True):
        heading = _HEADING if down > 2 * _HEADING and across > _LETTER * len(part) else 0.0
        if heading:
            drawn.append(_text(part, left + 3, top + 11, "var(--ink)", bold=True))
        inner = (left + 1, top + heading + 1, across - 2, down - heading - 2)
        several = sorted(tiles, key=lambda tile: -tile.size)
        for tile, box in zip(several, squarified([tile.size for tile in several], inner), strict=True):
            drawn.append(_tile(tile, box))
    inside = f"<title>{escape(title)}</title>{''.join(drawn)}"
    return f'<svg role="img" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}">{inside}</svg>'


def _tile(tile: Tile, box: Box) -> str:
    left, top, across, down = box
    shape = f'x="{left:.1f}" y="{top:.1f}" width="{max(across, 0):.1f}" height="{max(down, 0):.1f}"'
    style = f'style="fill:var(--{tile.colour});stroke:var(--paper);stroke-width:1;fill-opacity:.55"'
    label = ""
    if across > _LETTER * len(tile.label) + 8 and down > 16:
        label = _text(tile.label, left + 4, top + 13, "var(--ink)")
    return f"<g><title>{escape(tile.told)}</title><rect {shape} {style}/>{label}</g>"


def _text(text: str, x: float, y: float, fill: str, *, bold: bool = False) -> str:
    weight = ";font-weight:600" if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" style="fill:{fill};font-size:11px{weight}">{escape(text)}</text>'
