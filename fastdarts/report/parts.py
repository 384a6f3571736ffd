"""What ``parts.html`` shows: plots for both kinds of screen, notices, drawn genotypes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from fastdarts.report.drawing import cell_scenes, legend_entries
from fastdarts.report.figure import inline
from fastdarts.report.scene import Scene
from fastdarts.spaces import Genotype

__all__ = ["DrawnCell", "DrawnGenotype", "Notice", "Plot", "draw_genotype", "draw_plot"]

_SUBSCRIPT = re.compile(r"_\{([^}]*)\}")


@dataclass(frozen=True)
class Plot:
    """A plot twice, for wide screens and for narrow ones; the style sheet shows one of them."""

    wide: Markup
    narrow: Markup


@dataclass(frozen=True)
class Notice:
    """An answer that stands out.

    Args:
        headline: in a few words; empty for none.
        sentences: what it rests on, a paragraph each.
        tone: ``better``, ``unsure``, ``worse``, or empty where it judges nothing.
    """

    headline: str
    sentences: Sequence[str]
    tone: str = ""


@dataclass(frozen=True)
class DrawnCell:
    """A drawing, and for a narrow screen the same as formulas, a line per node."""

    title: str
    svg: Markup
    formula: Sequence[Markup]


@dataclass(frozen=True)
class DrawnGenotype:
    """A genotype as the page shows it.

    Args:
        cells: its drawings.
        legend: (palette key, meaning).
        text: the genotype's.
        many: whether its cells are so many that one table draws them all.
    """

    cells: Sequence[DrawnCell]
    legend: Sequence[tuple[str, str]]
    text: str
    many: bool


def draw_plot(name: str, draw: Callable[..., str], *given: Any, **options: Any) -> Plot:
    """Draw a plot for both kinds of screen.

    Args:
        name: prefix of its ids, unique in the page.
        draw: makes the SVG; its argument ``narrow`` says whether it is for a phone.
        given, options: its other arguments.
    """
    wide, narrow = (draw(*given, **options, narrow=small) for small in (False, True))
    return Plot(inline(wide, name), inline(narrow, f"{name}-s"))


def draw_genotype(genotype: Genotype) -> DrawnGenotype:
    """Draw a genotype for a page that shows no other one."""
    scenes = cell_scenes(genotype)
    cells = [
        DrawnCell(each.title, inline(each.svg(standalone=False), f"cell-{k}"), _formula(each))
        for k, each in enumerate(scenes)
    ]
    return DrawnGenotype(cells, legend_entries(genotype), genotype.text(), len(genotype.cells) > len(scenes))


def _formula(scene: Scene) -> list[Markup]:
    lines = (str(escape(line)) for line in scene.description.split("; "))
    return [Markup(_SUBSCRIPT.sub(r"<sub>\1</sub>", line)) for line in lines]
