"""What a command prints: its result on standard output, and how to continue what was stopped."""

from __future__ import annotations

import io
import json
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from fastdarts.errors import UserError
from fastdarts.reading import kind_of, read_json

__all__ = ["how_to_continue", "print_result", "printable_streams"]


def printable_streams() -> None:
    """Make every text printable: a path need not be UTF-8, and a terminal need not know a character."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def how_to_continue(path: Path, command: str) -> str:
    """The command that continues: the same one again for a comparison, else --resume of the run that was started.

    Args:
        path: the folder in which the work was stopped.
        command: that was given.
    """
    kind, outermost = sys.argv[1], None
    if kind == "compare":
        return command
    kinds = ("search", "searches") if kind == "search" else (kind,)
    for folder in (path, *path.parents):
        config = folder / "config.json"
        # The outermost, since one of several searches is a run inside another.
        with suppress(UserError):
            found = read_json(config) if kind_of(config) == "file" else None
            if isinstance(found, dict) and found.get("kind") in kinds:
                outermost = folder
    return command if outermost is None else shlex.join(["fastdarts", kind, "--resume", str(outermost)])


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """A line an entry, or the whole as JSON."""
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        typer.echo(f"{key:<{width}}  {_text(value)}")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)
