"""A run's page, `report.html`, and its pictures for a notebook or a file."""

from __future__ import annotations

import os
from pathlib import Path

from fastdarts.errors import UserError
from fastdarts.report.collapse import collapse_facts
from fastdarts.report.details import course_facts
from fastdarts.report.drawing import draw_svg
from fastdarts.report.files import replace_file
from fastdarts.report.history import events
from fastdarts.report.page import write_page
from fastdarts.report.plots import plot_counts, plot_curves
from fastdarts.report.records import read_run
from fastdarts.report.sections import result_facts

__all__ = ["Drawing", "plot_run", "write_report"]

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


def write_report(
    run: str | os.PathLike[str], path: str | os.PathLike[str] | None = None, *, title: str | None = None
) -> Path:
    """Write the report of a run: self-contained HTML, also while the run is going or after it was interrupted.

    The run is read without its lock. What the folder does not hold is said to be missing.

    Args:
        run: the run folder.
        path: the file to write; by default ``report.html`` in the run folder. It is replaced as a whole.
        title: heading; by default names the run folder.

    Returns:
        The path written.

    Raises:
        UserError: if ``run`` is no run folder, its records are damaged, or the file cannot be written.
    """
    records = read_run(run)
    facts = {**result_facts(records), **course_facts(records), "collapse": collapse_facts(records)}
    heading = title or f"{records.kind.capitalize()} report: {records.path.name}"
    return write_page(path or Path(run) / "report.html", "run.html", heading=heading, run=records, **facts)
