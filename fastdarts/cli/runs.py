"""`fastdarts runs`, and two runs side by side (`fastdarts compare A B`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_json
from fastdarts.errors import UserError

__all__ = ["Other", "compare_pair", "runs"]

Folder = Annotated[Path, typer.Argument(help="A folder of runs, or one run folder.")]
Other = Annotated[
    str | None, typer.Argument(help="A second run: the two are compared as they are, and nothing is trained.")
]

# What a table leaves of a long name or text.
_WIDEST = 44


def runs(folder: Folder = Path("runs"), as_json: options.AsJson = False) -> None:
    """List the runs in a folder, the newest first: method, data, date, result, state."""
    from fastdarts.report.listing import list_runs

    entries = list_runs(folder)
    if as_json:
        print_json([entry.to_json() for entry in entries])
        return
    if not entries:
        typer.echo(f"{folder} holds no runs; fastdarts search makes one")
        return
    header = ["run", "kind", "method", "data", "begun (UTC)", "result", "state"]
    rows = [[e.path.name, e.kind, e.method, e.data, e.started, e.result, e.state] for e in entries]
    _print_table([header, *rows])


def compare_pair(context: typer.Context, first: str | None, second: str, as_json: bool) -> None:
    """Print two runs side by side, and what may be concluded.

    Args:
        context: the command's, for what else was typed.
        first, second: run folders.
        as_json: the same as JSON.

    Raises:
        UserError: if one is no run, or options of a training stand beside them.
    """
    from fastdarts.report.pair import pair_rows, pair_words
    from fastdarts.report.records import read_run

    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in ("target", "other", "as_json") and source is not None and source.name == "COMMANDLINE":
            raise UserError(
                f"--{name.replace('_', '-')} was given with two runs",
                "two runs and no other option",
                "two runs are compared as they are; to train random cells, name one run: fastdarts compare RUN",
            )
    a, b = (read_run(str(each)) for each in (first, second))
    rows, words = pair_rows(a, b), pair_words(a, b)
    if as_json:
        figures: dict[str, Any] = {row[0]: row[1:] for row in rows[1:]}
        print_json({"runs": [str(a.path), str(b.path)], "rows": figures, "words": words})
        return
    _print_table(rows)
    typer.echo()
    for line in words:
        typer.echo(line)


def _print_table(rows: list[list[str]]) -> None:
    widths = [min(_WIDEST, max(map(len, column))) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        typer.echo("  ".join(cells).rstrip())
