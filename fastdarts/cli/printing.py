"""What a command prints on standard output: its result."""

from __future__ import annotations

import json
from typing import Any

import typer

__all__ = ["print_result"]


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
