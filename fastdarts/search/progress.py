"""What long work tells whoever watches it: a bar in a terminal, unless the caller says otherwise."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["Progress", "watcher"]


class Progress:
    """A silent watcher; override what you want to hear.

    All records are the ones that go into ``metrics.jsonl`` (see ``docs/runs.md``).
    """

    def begin(self, title: str, epochs: int, steps: int, done: int = 0) -> None:
        """Work of ``epochs`` epochs of ``steps`` steps starts, ``done`` steps of it already behind."""

    def plan(self, epochs: int) -> None:
        """The work will take ``epochs`` epochs instead."""

    def wants_step(self) -> bool:
        """Whether :meth:`step` should be called now; reading the numbers costs a device synchronisation."""
        return False

    def step(self, epoch: int, step: int, record: Mapping[str, Any]) -> None:
        """One step ended; ``record`` holds the epoch's running means and ``step_ms``."""

    def epoch(self, record: Mapping[str, Any]) -> None:
        """One epoch ended."""

    def note(self, message: str) -> None:
        """Something a person should know, in one line."""

    def end(self) -> None:
        """The work announced by :meth:`begin` ended, whichever way."""


def watcher(progress: Progress | None) -> Progress:
    """Who watches long work: the one that was given, else a bar where standard error is a terminal, else nobody.

    Args:
        progress: what the caller was given; ``Progress()`` is nobody.
    """
    if progress is not None:
        return progress
    if sys.stderr is None or not sys.stderr.isatty():
        return Progress()
    from fastdarts.search.console import TerminalProgress, console

    return TerminalProgress(console())
