"""`report.html`: one file that says what a run did, found, and whether that beat random choice."""

from __future__ import annotations

import os
from pathlib import Path

from fastdarts.report import collapse, details, sections
from fastdarts.report.files import replace_file
from fastdarts.report.markup import element
from fastdarts.report.records import RunRecords, read_run
from fastdarts.report.style import document

__all__ = ["render_report", "write_report"]


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
