"""How long work looks in a terminal, and in a log: what a search from Python shows too."""

from __future__ import annotations

from fastdarts.search.console import LineProgress, TerminalProgress, console, make_progress

__all__ = ["LineProgress", "TerminalProgress", "console", "make_progress"]
