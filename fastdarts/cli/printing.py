"""What a command prints: its result on standard output, and how to continue what was stopped."""

from __future__ import annotations

import io
import json
import math
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from fastdarts.errors import UserError
from fastdarts.reading import kind_of, read_json

__all__ = ["fail_if_diverged", "how_to_continue", "print_json", "print_result", "printable_streams"]


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


def print_json(value: Any) -> None:
    """JSON as the standard has it: what is no finite number is null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """A line per entry, or the whole as JSON; then ends as :func:`fail_if_diverged` does."""
    if as_json:
        print_json(result)
    else:
        width = max(len(key) for key in result)
        for key, value in result.items():
            typer.echo(f"{key:<{width}}  {_text(value)}")
    fail_if_diverged(result)


def fail_if_diverged(result: Mapping[str, Any]) -> None:
    """End with exit code 1 where a part of what was asked for diverged: what is left is printed, and no success."""
    if result.get("diverged"):
        raise typer.Exit(1)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items())
    return f"{value:.4f}" if isinstance(value, float) else str(value)
