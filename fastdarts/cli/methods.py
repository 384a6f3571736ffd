"""`fastdarts methods`: what `--method` takes, where each method is from, and the settings that are its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_json

if TYPE_CHECKING:
    from fastdarts.search import Method

__all__ = ["methods"]

Name = Annotated[str | None, typer.Argument(help="Show all about this method. (default: list all methods)")]


def methods(name: Name = None, as_json: options.AsJson = False) -> None:
    """List the search methods, or show the published values and the options of one method."""
    from fastdarts.search import METHODS, method

    chosen = list(METHODS.values()) if name is None else [method(name)]
    if as_json:
        print_json([_as_json(each) for each in chosen])
    elif name is None:
        _table(chosen)
    else:
        _details(chosen[0])


def _as_json(method: Method) -> dict[str, Any]:
    parts = {"published": method.defaults, "options": method.options, "small": method.small}
    words = {"name": method.name, "summary": method.summary, "source": method.source}
    return words | {part: dict(values) for part, values in parts.items()}


def _table(chosen: list[Method]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    out = Console(highlight=False, markup=False)
    # In a pipe there is no width to wrap at: a line per method, for grep.
    if not out.is_terminal:
        for method in chosen:
            typer.echo(f"{method.name}\t{method.summary}\t{method.source}")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("method", no_wrap=True)
    for title in ("what", "source"):
        table.add_column(title)
    for method in chosen:
        table.add_row(method.name, method.summary, method.source)
    out.print(table)


def _details(method: Method) -> None:
    from fastdarts.search import SearchConfig

    typer.echo(f"{method.name}: {method.summary}\nsource: {method.source}")
    published = {name: value for name, value in method.defaults.items() if value != getattr(SearchConfig, name, None)}
    told = (
        ("published, where not DARTS' own", published),
        ("options of its own (--set NAME=VALUE)", method.options),
        ("with the shipped digits instead", method.small),
    )
    for title, values in told:
        if values:
            typer.echo(f"{title}:\n{_listed(values)}")


def _listed(values: Mapping[str, Any]) -> str:
    width = max(map(len, values))
    return "\n".join(f"  {name:<{width}}  {_text(value)}" for name, value in values.items())


def _text(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
