"""matplotlib without pyplot: figures in the page's style, as SVG that follows the page's light and dark colours."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from fastdarts.report.palette import COLOURS, FONT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_to_svg", "inline", "panels", "style_axes"]

_HEAD = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<metadata>.*?</metadata>|<!--.*?-->", re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_NAMESPACE = re.compile(r' xmlns(:\w+)?="[^"]*"')
_FAMILY = re.compile(r"'DejaVu Sans'[^;\"]*")
_REFERENCE = re.compile(r'(\bid="|url\(#|href="#)')
# Inches. A narrow figure fills a phone of 390 pixels at about the size of its letters.
_WIDTH, _NARROW = 9.6, 3.4
_NOT_A_WORD = re.compile(r"[^A-Za-z0-9-]+")


def panels(
    rows: int,
    columns: int,
    *,
    height: float,
    margins: tuple[float, float, float, float] = (0.62, 0.15, 0.36, 0.5),
    gaps: tuple[float, float] = (0.72, 0.5),
    places: Sequence[tuple[int, int]] | None = None,
    narrow: bool = False,
) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """A figure of the page's width, or a phone's, with a grid of panels, without any global state.

    The space around the panels is given, not searched for: matplotlib's layout engines draw everything twice.

    Args:
        rows: rows of the grid.
        columns: columns of the grid.
        height: of the figure [inches].
        margins: left, right, top, bottom [inches].
        gaps: between two panels, across and down [inches].
        places: (row, column) of the panels to make; by default all.
        narrow: for a phone, a third as wide.

    Returns:
        The figure and its panels by (row, column), in the order of ``places``.
    """
    from matplotlib.figure import Figure

    left, right, top, bottom = margins
    width = _NARROW if narrow else _WIDTH
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0.0)
    across = (width - left - right - gaps[0] * (columns - 1)) / columns
    down = (height - top - bottom - gaps[1] * (rows - 1)) / rows
    made = {}
    for row, column in places or [(row, column) for row in range(rows) for column in range(columns)]:
        x, y = left + column * (across + gaps[0]), height - top - (row + 1) * down - row * gaps[1]
        made[row, column] = figure.add_axes((x / width, y / height, across / width, down / height))
    return figure, made


def style_axes(
    axes: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: bool = True, ticks: int = 6
) -> None:
    """Thin axes without a frame, a title at the left, labels in the page's muted ink, at most ``ticks`` whole ticks."""
    from matplotlib.ticker import MaxNLocator

    ink, muted, faint = (COLOURS[key].light for key in ("ink", "muted", "faint"))
    axes.patch.set_alpha(0.0)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(faint)
    axes.tick_params(colors=faint, labelcolor=muted, labelsize=8, length=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=ticks, min_n_ticks=1))
    if title:
        # With a place of its own a title is not moved around the ticks, which costs more than drawing them.
        axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=ink, y=1.0)
    axes.set_xlabel(xlabel, fontsize=8.5, color=muted)
    axes.set_ylabel(ylabel, fontsize=8.5, color=muted)
    if grid:
        axes.grid(axis="y", color=faint, linewidth=0.5, alpha=0.6)
        axes.set_axisbelow(True)


def figure_to_svg(figure: Figure, *, title: str, description: str = "") -> str:
    """A figure as a self-contained SVG file: text as text, the same bytes for the same data.

    Args:
        figure: what to write.
        title: one line that names the picture.
        description: what it shows in words.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    out = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastdarts"}):
        figure.savefig(out, format="svg", metadata=metadata)
    svg = _FAMILY.sub(FONT, _HEAD.sub("", out.getvalue())).strip()
    spoken = f"<title>{_escape(title)}</title>" + (f"<desc>{_escape(description)}</desc>" if description else "")
    return re.sub(r"(<svg\b)([^>]*>)", lambda m: f'{m[1]} role="img"{m[2]}{spoken}', svg, count=1) + "\n"


def inline(svg: str, name: str) -> Markup:
    """Make an SVG file a fragment of a page: no namespaces, ids of its own, the palette's colours as CSS variables.

    A style sheet inside an SVG holds for the whole page, so matplotlib's goes; the page's own takes its place.

    Args:
        svg: what :func:`figure_to_svg` or a scene wrote.
        name: prefix of its ids, unique in the page.
    """
    prefix = _NOT_A_WORD.sub("-", name) + "-"
    svg = _NAMESPACE.sub("", _STYLE.sub("", svg)).replace("xlink:href", "href")
    svg = _REFERENCE.sub(lambda match: match[1] + prefix, svg)
    for key, colour in COLOURS.items():
        svg = re.sub(f"(?<=: ){colour.light}\\b", f"var(--{key},{colour.light})", svg)
    return Markup(svg)


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
