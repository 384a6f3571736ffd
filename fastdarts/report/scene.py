"""A drawing as plain shapes, and its two renderings: SVG written by hand, PNG by matplotlib from the same shapes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from html import escape
from typing import TYPE_CHECKING

from fastdarts.report.palette import COLOURS, FONT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Box", "Curve", "Label", "Scene", "stack"]

_SUBSCRIPT = re.compile(r"(\w)_\{([^}]*)\}")
_SUB_DROP, _SUB_SIZE = 0.28, 0.72
_PIXELS_PER_INCH = 96.0
# Handle length of the cubic that comes nearest to a quarter circle of radius 1.
_QUARTER = 0.5523
_POINTS_PER_PIXEL = 72.0 / _PIXELS_PER_INCH


@dataclass(frozen=True)
class Box:
    """A rounded rectangle; ``fill`` and ``stroke`` are keys of the palette, ``tip`` is its spoken name."""

    x: float
    y: float
    width: float
    height: float
    radius: float
    fill: str
    stroke: str
    opacity: float = 1.0
    line: float = 1.5
    dashed: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Label:
    """A line of text centred on y; ``c_{k-1}`` sets a subscript."""

    x: float
    y: float
    text: str
    size: float = 13.0
    anchor: str = "middle"
    bold: bool = False
    colour: str = "ink"


@dataclass(frozen=True)
class Curve:
    """A path of straight pieces (two points) and cubic Bezier pieces (four points), end to end."""

    pieces: tuple[tuple[tuple[float, float], ...], ...]
    colour: str
    line: float = 1.6


Shape = Box | Label | Curve


@dataclass(frozen=True)
class Scene:
    """Shapes on a canvas, in pixels, y downwards, painted in their order.

    Args:
        width: canvas width [pixels].
        height: canvas height [pixels].
        shapes: what is painted.
        title: one line that names the picture.
        description: the picture in words, for who cannot see it.
    """

    width: float
    height: float
    shapes: tuple[Shape, ...]
    title: str
    description: str = ""

    def moved(self, dx: float, dy: float) -> tuple[Shape, ...]:
        """The shapes shifted by (dx, dy) pixels."""
        return tuple(_moved(shape, dx, dy) for shape in self.shapes)

    def svg(self, *, standalone: bool = True) -> str:
        """The scene as SVG text.

        Args:
            standalone: with namespace, background and the style for dark pages; otherwise a fragment for a page that
                brings the palette's classes itself.

        Returns:
            One ``<svg>`` element, with text as text, a title and a description.
        """
        head = f'<svg role="img" viewBox="0 0 {_n(self.width)} {_n(self.height)}" '
        head += f'width="{_n(self.width)}" height="{_n(self.height)}" font-family="{escape(FONT)}"'
        head += ' xmlns="http://www.w3.org/2000/svg">' if standalone else ">"
        out = [head, f"<title>{escape(self.title)}</title>"]
        if self.description:
            out.append(f"<desc>{escape(self.description)}</desc>")
        if standalone:
            out.append(_dark_style(self.shapes))
            out.append(f'<rect width="100%" height="100%" fill="{COLOURS["paper"].light}" class="f-paper"/>')
        out.extend(_svg(shape) for shape in self.shapes)
        out.append("</svg>\n")
        return "\n".join(out)

    def png(self, *, dpi: float = 192.0) -> bytes:
        """The scene, in light colours, as the bytes of a PNG file.

        Args:
            dpi: dots per inch; 96 is one dot a pixel of the scene.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width / _PIXELS_PER_INCH, self.height / _PIXELS_PER_INCH))
        figure.patch.set_facecolor(COLOURS["paper"].light)
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_xlim(0, self.width)
        axes.set_ylim(self.height, 0)
        axes.axis("off")
        for order, shape in enumerate(self.shapes):
            _paint(axes, shape, order)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=dpi, metadata={"Title": self.title, "Software": "fastdarts"})
        return out.getvalue()


def stack(
    scenes: Iterable[Scene], *, title: str, description: str = "", gap: float = 28.0, widest: float = 1180.0
) -> Scene:
    """Lay scenes side by side where they fit into ``widest`` pixels, otherwise one under the other.

    Args:
        scenes: the scenes, in reading order.
        title: title of the whole.
        description: description of the whole.
        gap: space between two scenes [pixels].
        widest: largest width of the side-by-side form [pixels].

    Returns:
        One scene that holds them all.
    """
    parts = list(scenes)
    across = sum(part.width for part in parts) + gap * (len(parts) - 1) <= widest
    shapes: list[Shape] = []
    x = y = 0.0
    for part in parts:
        shapes.extend(part.moved(x, y))
        x, y = (x + part.width + gap, y) if across else (x, y + part.height + gap)
    width = x - gap if across else max(part.width for part in parts)
    height = max(part.height for part in parts) if across else y - gap
    return Scene(width, height, tuple(shapes), title, description)


def _moved(shape: Shape, dx: float, dy: float) -> Shape:
    if isinstance(shape, Curve):
        return replace(shape, pieces=tuple(tuple((x + dx, y + dy) for x, y in piece) for piece in shape.pieces))
    return replace(shape, x=shape.x + dx, y=shape.y + dy)


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _dark_style(shapes: Iterable[Shape]) -> str:
    used = {"paper"}
    for shape in shapes:
        used.update((shape.fill, shape.stroke) if isinstance(shape, Box) else (shape.colour,))
    dark = {key: COLOURS[key].dark for key in sorted(used)}
    rules = "".join(f".f-{key}{{fill:{colour}}}.s-{key}{{stroke:{colour}}}" for key, colour in dark.items())
    return f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"


def _svg(shape: Shape) -> str:
    if isinstance(shape, Box):
        dash = ' stroke-dasharray="4 3"' if shape.dashed else ""
        tip = f"<title>{escape(shape.tip)}</title>" if shape.tip else ""
        return (
            f'<rect x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}" '
            f'rx="{_n(shape.radius)}" fill="{COLOURS[shape.fill].light}" fill-opacity="{shape.opacity:g}" '
            f'stroke="{COLOURS[shape.stroke].light}" stroke-width="{_n(shape.line)}"{dash} '
            f'class="f-{shape.fill} s-{shape.stroke}">{tip}</rect>'
        )
    if isinstance(shape, Curve):
        return (
            f'<path d="{_path(shape)}" fill="none" stroke="{COLOURS[shape.colour].light}" '
            f'stroke-width="{_n(shape.line)}" stroke-linecap="round" class="s-{shape.colour}"/>'
        )
    weight = ' font-weight="600"' if shape.bold else ""
    return (
        f'<text x="{_n(shape.x)}" y="{_n(shape.y + 0.35 * shape.size)}" font-size="{_n(shape.size)}" '
        f'text-anchor="{shape.anchor}"{weight} fill="{COLOURS[shape.colour].light}" '
        f'class="f-{shape.colour}">{_spans(shape.text, shape.size)}</text>'
    )


def _rounded(box: Box) -> list[tuple[float, float]]:
    """Outline of a box, clockwise: a line and a Bezier quarter circle for each side."""
    left, top, right, bottom = box.x, box.y, box.x + box.width, box.y + box.height
    points = [(left + box.radius, top)]
    handle = box.radius * (1 - _QUARTER)
    for x, y, dx, dy in ((right, top, 1, 0), (right, bottom, 0, 1), (left, bottom, -1, 0), (left, top, 0, -1)):
        begin = (x - dx * box.radius, y - dy * box.radius)
        end = (x - dy * box.radius, y + dx * box.radius)
        points += [begin, (x - dx * handle, y - dy * handle), (x - dy * handle, y + dx * handle), end]
    return points


def _path(curve: Curve) -> str:
    start = curve.pieces[0][0]
    out = [f"M{_n(start[0])} {_n(start[1])}"]
    for piece in curve.pieces:
        out.append(("L" if len(piece) == 2 else "C") + " ".join(f"{_n(x)} {_n(y)}" for x, y in piece[1:]))
    return "".join(out)


def _spans(text: str, size: float) -> str:
    drop, small = _n(_SUB_DROP * size), _n(_SUB_SIZE * size)
    out, last = [], 0
    for match in _SUBSCRIPT.finditer(text):
        rest = match.end()
        out.append(escape(text[last : match.start()]) + match[1])
        out.append(f'<tspan dy="{drop}" font-size="{small}">{escape(match[2].replace("-", chr(0x2212)))}</tspan>')
        # A tspan with dy shifts all that follows, so the rest of the line is lifted back.
        out.append(f'<tspan dy="-{drop}">&#8203;</tspan>' if rest < len(text) else "")
        last = rest
    return "".join(out) + escape(text[last:])


def _paint(axes: Axes, shape: Shape, order: int) -> None:
    from matplotlib.colors import to_rgba
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    if isinstance(shape, Box):
        points = _rounded(shape)
        codes = [Outline.MOVETO, *([Outline.LINETO] + [Outline.CURVE4] * 3) * 4]
        axes.add_patch(
            PathPatch(
                Outline(points, codes),
                facecolor=to_rgba(COLOURS[shape.fill].light, shape.opacity),
                edgecolor=COLOURS[shape.stroke].light,
                linewidth=shape.line * _POINTS_PER_PIXEL,
                linestyle=(0, (4, 3)) if shape.dashed else "solid",
                zorder=order + 1,
            )
        )
    elif isinstance(shape, Curve):
        points, codes = [shape.pieces[0][0]], [Outline.MOVETO]
        for piece in shape.pieces:
            points.extend(piece[1:])
            codes.extend([Outline.LINETO] if len(piece) == 2 else [Outline.CURVE4] * 3)
        axes.add_patch(
            PathPatch(
                Outline(points, codes),
                fill=False,
                edgecolor=COLOURS[shape.colour].light,
                linewidth=shape.line * _POINTS_PER_PIXEL,
                capstyle="round",
                zorder=order + 1,
            )
        )
    else:
        plain = shape.text.replace("$", r"\$")
        axes.text(
            shape.x,
            shape.y,
            _SUBSCRIPT.sub(r"$\\mathrm{\1}_{\2}$", plain),
            ha={"middle": "center", "start": "left", "end": "right"}[shape.anchor],
            va="center_baseline",
            color=COLOURS[shape.colour].light,
            fontsize=shape.size * _POINTS_PER_PIXEL,
            fontweight="bold" if shape.bold else "normal",
            family="DejaVu Sans",
            zorder=order + 1,
        )
