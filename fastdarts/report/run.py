"""A run's pictures for a notebook or a file."""

from __future__ import annotations

import os
from pathlib import Path

from fastdarts.errors import UserError
from fastdarts.report.drawing import draw_svg
from fastdarts.report.files import replace_file
from fastdarts.report.history import events
from fastdarts.report.plots import plot_counts, plot_curves
from fastdarts.report.records import read_run

__all__ = ["Drawing", "plot_run"]

_KINDS = ("cells", "curves", "counts")


class Drawing(str):
    """SVG text that a notebook shows as a picture."""

    __slots__ = ()

    def _repr_svg_(self) -> str:
        return str(self)


def plot_run(run: str | os.PathLike[str], what: str = "cells", path: str | os.PathLike[str] | None = None) -> Drawing:
    """Draw the cells that a search found, or how it went.

    Args:
        run: its folder.
        what: ``cells``, ``curves`` or ``counts``.
        path: an SVG file to write it to; None for none.

    Raises:
        UserError: for another ``what``, a run without what is to be drawn, or a file that cannot be written.
    """
    if what not in _KINDS:
        raise UserError(f"what is {what!r}", f"one of {', '.join(_KINDS)}")
    records = read_run(run)
    if records.genotype is None or not records.epochs:
        raise UserError(f"{records.path} has nothing to draw yet", "a run with at least one finished epoch")
    if what == "cells":
        drawing = Drawing(draw_svg(records.genotype))
    elif what == "curves":
        start = records.settings.get("arch_start_epoch", 0)
        start = start if isinstance(start, int) else 0
        drawing = Drawing(plot_curves(records.epochs, events=events(records.epochs), arch_start_epoch=start))
    else:
        drawing = Drawing(plot_counts(records.epochs, events=events(records.epochs)))
    if path is not None:
        replace_file(Path(path), drawing.encode("utf-8"))
    return drawing
