"""What a narrow screen gets instead of what would be too small on it: plots drawn for it, cells as formulas."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from fastdarts.report.drawing import cell_scenes
from fastdarts.report.figure import inline
from fastdarts.report.markup import Markup, element
from fastdarts.spaces import Genotype

__all__ = ["formulas", "responsive"]

_SUBSCRIPT = re.compile(r"_\{([^}]*)\}")
# More cells are drawn as one table.
_MOST = 2


def responsive(draw: Callable[[bool], str], name: str) -> Markup:
    """A plot twice, once for each kind of screen; the style sheet shows one of them.

    Args:
        draw: makes the SVG; its argument says whether it is for a narrow screen.
        name: prefix of its ids, unique in the page.
    """
    wide, narrow = (Markup(inline(draw(small), name + "-s" * small)) for small in (False, True))
    return Markup(element("div", wide, class_="wide") + element("div", narrow, class_="narrow"))


def formulas(genotype: Genotype) -> Markup:
    """The cells as formulas, a line a node, for a narrow screen; nothing where there are many cells."""
    if len(genotype.cells) > _MOST:
        return Markup("")
    parts = []
    for scene in cell_scenes(genotype):
        lines = (Markup(_SUBSCRIPT.sub(r"<sub>\1</sub>", escape(line))) for line in scene.description.split("; "))
        parts += [element("h3", scene.title), element("ul", *(element("li", line) for line in lines))]
    return element("div", *parts, class_="narrow formulas")
