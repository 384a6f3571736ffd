"""What long work tells whoever watches it; the command line draws it, a library caller may ignore it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Progress"]


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
