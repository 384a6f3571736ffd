"""Drawings of genotypes that a person reads at once: SVG, PNG and for the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastdarts.report.cell import cell_scene, state_name
from fastdarts.report.files import replace_file
from fastdarts.report.grid import grid_scene
from fastdarts.report.palette import COLOURS, colour_of, short_name
from fastdarts.report.scene import Box, Label, Scene, Shape, stack
from fastdarts.spaces import PRIMITIVES, CellGenotype, Genotype

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["cell_scenes", "draw_png", "draw_svg", "draw_terminal", "genotype_scene", "legend_entries", "write_svg"]

_MEANINGS = {
    "sep": "sep: depthwise-separable convolution, twice",
    "dil": "dil: dilated depthwise-separable convolution",
    "skip": "skip: identity connection",
    "max": "max: max pooling",
    "avg": "avg: average pooling",
    "none": "none: no connection",
    "noise": "noise: Gaussian noise instead of the input",
}
# More cells than this become a table.
_DRAWN_EACH = 2
_MARGIN, _LINE, _LETTER = 14.0, 20.0, 6.0


def draw_svg(genotype: Genotype | CellGenotype, *, title: str | None = None, standalone: bool = True) -> str:
    """Draw a genotype, or one of its cells, as SVG.

    Args:
        genotype: a whole genotype (normal and reduction cell, recurrent, NAS-Bench-201, or many unshared cells) or
            one cell.
        title: the heading; by default the kind of each cell.
        standalone: a file of its own, with a style for dark pages; otherwise a fragment for a page.

    Returns:
        One self-contained ``<svg>`` element: text is text, with a title, a description in words and a tip on every
        operator.

    Raises:
        TypeError: for anything else than a genotype or a cell.
    """
    return genotype_scene(genotype, title=title).svg(standalone=standalone)


def write_svg(genotype: Genotype | CellGenotype, path: str | Path, *, title: str | None = None) -> Path:
    """Write :func:`draw_svg` to a file.

    Args:
        genotype: a whole genotype or one cell.
        path: the file to write.
        title: the heading; by default the kind of each cell.

    Returns:
        The path written.

    Raises:
        TypeError: for anything else than a genotype or a cell.
        UserError: if the file cannot be written.
    """
    return replace_file(path, draw_svg(genotype, title=title).encode("utf-8"))


def draw_png(
    genotype: Genotype | CellGenotype, path: str | Path, *, title: str | None = None, dpi: float = 192.0
) -> Path:
    """Draw a genotype, or one of its cells, into a PNG file with the layout of :func:`draw_svg`.

    Args:
        genotype: a whole genotype or one cell.
        path: the file to write.
        title: the heading; by default the kind of each cell.
        dpi: dots per inch; 96 is one dot a pixel of the SVG.

    Returns:
        The path written.

    Raises:
        TypeError: for anything else than a genotype or a cell.
        UserError: if the file cannot be written.
    """
    return replace_file(path, genotype_scene(genotype, title=title).png(dpi=dpi))


def draw_terminal(genotype: Genotype | CellGenotype, *, title: str | None = None) -> RenderableType:
    """A genotype, or one of its cells, as formulas in the terminal, operators in the colours of the drawing.

    Args:
        genotype: a whole genotype or one cell.
        title: the heading; by default the kind of each cell.

    Returns:
        A rich renderable; printed without colours where the terminal has none.

    Raises:
        TypeError: for anything else than a genotype or a cell.
    """
    from rich.columns import Columns

    cells, recurrent = _cells(genotype), _is_recurrent(genotype)
    heading = f"{title}: " if title else ""
    return Columns([_table(heading + _heading(key), cell, recurrent=recurrent) for key, cell in cells], padding=(0, 3))


def genotype_scene(genotype: Genotype | CellGenotype, *, title: str | None = None) -> Scene:
    """The drawing of a genotype, or one of its cells, with its legend, as shapes.

    Args:
        genotype: a whole genotype or one cell.
        title: the heading; by default the kind of each cell.

    Returns:
        The scene.

    Raises:
        TypeError: for anything else than a genotype or a cell.
    """
    scenes = cell_scenes(genotype, title=title)
    whole = title or ", ".join(part.title for part in scenes)
    words = ". ".join(f"{part.title}: {part.description}" for part in scenes)
    return _with_legend(stack(scenes, title=whole, description=words), legend_entries(genotype))


def cell_scenes(genotype: Genotype | CellGenotype, *, title: str | None = None) -> list[Scene]:
    """The drawings a genotype is made of: one per cell, or a single table where there are more than two.

    Args:
        genotype: a whole genotype or one cell.
        title: the heading; by default the kind of each cell.

    Raises:
        TypeError: for anything else than a genotype or a cell.
    """
    cells = _cells(genotype)
    if len(cells) > _DRAWN_EACH:
        return [grid_scene(dict(cells), title or f"{len(cells)} unshared cells")]
    heading = f"{title}: " if title else ""
    return [cell_scene(cell, heading + _heading(key), recurrent=_is_recurrent(genotype)) for key, cell in cells]


def legend_entries(genotype: Genotype | CellGenotype) -> list[tuple[str, str]]:
    """(palette key, meaning) of the short names and lines that a genotype's drawing uses.

    Args:
        genotype: a whole genotype or one cell.

    Raises:
        TypeError: for anything else than a genotype or a cell.
    """
    cells = _cells(genotype)
    if _is_recurrent(genotype):
        return [("trunk", "every node applies its activation to its one input")]
    used = {op for _, cell in cells for op, _, _ in cell.edges()}
    entries: dict[str, tuple[str, str]] = {}
    for op in (name for name in PRIMITIVES if name in used):
        word = short_name(op).split(" ")[0]
        if word in _MEANINGS:
            entries.setdefault(word, (colour_of(op), _MEANINGS[word]))
    lines = [("trunk", "a node adds up what enters it"), ("faint", "into the output")]
    return [*entries.values(), *(lines if len(cells) <= _DRAWN_EACH else [])]


def _is_recurrent(genotype: Genotype | CellGenotype) -> bool:
    return isinstance(genotype, Genotype) and genotype.is_recurrent


def _cells(genotype: Genotype | CellGenotype) -> list[tuple[str, CellGenotype]]:
    if isinstance(genotype, CellGenotype):
        return [("cell", genotype)]
    if not isinstance(genotype, Genotype):
        raise TypeError(f"a Genotype or a CellGenotype is drawn, got {type(genotype).__name__}")
    return list(genotype.cells.items())


def _heading(key: str) -> str:
    return {"normal": "normal cell", "reduce": "reduction cell", "recurrent": "recurrent cell"}.get(key, key)


def _with_legend(scene: Scene, entries: list[tuple[str, str]]) -> Scene:
    shapes: list[Shape] = list(scene.shapes)
    x, y = _MARGIN, scene.height + 10
    for colour, text in entries:
        width = 24 + _LETTER * len(text)
        if x > _MARGIN and x + width > scene.width:
            x, y = _MARGIN, y + _LINE
        shapes.append(Box(x, y - 3, 14, 6, 3, colour, colour, line=0))
        shapes.append(Label(x + 20, y, text, size=11.5, anchor="start", colour="muted"))
        x += width + 14
    widest = max((_MARGIN * 2 + 24 + _LETTER * len(text) for _, text in entries), default=0.0)
    return Scene(max(scene.width, widest), y + _MARGIN, tuple(shapes), scene.title, scene.description)


def _table(heading: str, cell: CellGenotype, *, recurrent: bool) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=heading, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 1))
    for state, pairs in zip(cell.states, cell.nodes, strict=True):
        line = Text()
        for k, (op, source) in enumerate(pairs):
            line.append(" + " if k else "")
            line.append(short_name(op), style=f"bold {COLOURS[colour_of(op)].dark}")
            line.append(f"({state_name(source, cell.inputs)})")
        table.add_row(f"node {state_name(state, cell.inputs)}", "=", line)
    how = "mean" if recurrent else "concat"
    nodes = ", ".join(state_name(state, cell.inputs) for state in cell.concat)
    table.add_row("h_t" if recurrent else "c_k" if cell.inputs > 1 else "output", "=", f"{how}({nodes})")
    return table
