"""The command line, called in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastdarts import cli

__all__ = ["run_command"]


def run_command(*arguments: str | Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of `fastdarts` with these arguments."""
    monkeypatch.setattr(sys, "argv", ["fastdarts", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)
