"""What a command prints on standard output: its result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import typer

__all__ = ["fail_if_diverged", "print_json", "print_result"]


def print_json(value: Any) -> None:
    """JSON as the standard has it: what is no finite number is null."""
    typer.echo(json.dumps(_finite(value), indent=2, allow_nan=False))


def print_result(result: dict[str, Any], as_json: bool) -> None:
    """A line an entry, or the whole as JSON; then ends as :func:`fail_if_diverged` does."""
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
