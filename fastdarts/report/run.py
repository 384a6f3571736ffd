"""A run's page, `report.html`, and its pictures for a notebook or a file."""

from __future__ import annotations

import os
from pathlib import Path

from fastdarts.errors import UserError
from fastdarts.report import collapse, details, sections
from fastdarts.report.drawing import draw_svg
from fastdarts.report.files import replace_file
from fastdarts.report.history import events
from fastdarts.report.markup import element
from fastdarts.report.plots import plot_counts, plot_curves
from fastdarts.report.records import RunRecords, read_run
from fastdarts.report.style import document

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
    target = Path(path) if path is not None else Path(run) / "report.html"
    return replace_file(target, render_report(records, title=title).encode("utf-8", "backslashreplace"))


def render_report(run: RunRecords, *, title: str | None = None) -> str:
    """The report as HTML text.

    Args:
        run: the run's records.
        title: heading; by default names the run folder.
    """
    heading = title or f"{run.kind.capitalize()} report: {run.path.name}"
    body = element(
        "main",
        sections.headline(run, heading),
        sections.cells_section(run),
        sections.comparison_section(run),
        sections.results_section(run),
        details.curves_section(run),
        collapse.collapse_section(run),
        details.mixing_section(run),
        details.hypergradient_section(run),
        details.configuration_section(run),
        details.reproduction_section(run),
        details.files_section(run),
    )
    return document(heading, body)
