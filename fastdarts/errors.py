"""What ends a call early: bad input, with what was expected and what to do, divergence, and the user's wish to stop."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["Diverged", "Interrupted", "UserError", "did_you_mean", "nearest"]


class Diverged(Exception):
    """A training that went wrong in numbers: it has no result. The command line prints it and exits with code 1.

    Args:
        path: its run folder.
        what: which loss, what it was, and when.
    """

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        remedy = "use a smaller lr, or grad_clip (the published one is 5), in a new folder"
        super().__init__(f"{path} diverged: {what}; it has no result; {remedy}")


class Interrupted(Exception):
    """The user asked to stop; the state was saved first.

    Args:
        path: the folder in which the work goes on.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(f"stopped; the state is saved in {path}")


class UserError(ValueError):
    """Bad input, told in one line; the command line prints it and exits with code 2.

    Args:
        what: what was wrong, with the value that was got.
        expected: what would have been right.
        remedy: what the user can do.
    """

    def __init__(self, what: str, expected: str = "", remedy: str = "") -> None:
        self.what, self.expected, self.remedy = what, expected, remedy
        parts = [what, f"expected {expected}" if expected else "", remedy]
        super().__init__("; ".join(part for part in parts if part))


def nearest(name: str, names: Iterable[str]) -> str:
    """The one of ``names`` that was probably meant, or ""; case and ``-``/``_`` do not count.

    Args:
        name: what was written.
        names: what could have been written.
    """
    by_key = {_key(candidate): candidate for candidate in names}
    found = difflib.get_close_matches(_key(name), by_key, n=1)
    return by_key[found[0]] if found else ""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The remedy for an unknown name: "did you mean 'x'?", or "" where none is near."""
    found = nearest(name, names)
    return f"did you mean {found!r}?" if found else ""


def _key(name: str) -> str:
    return name.lower().replace("-", "_")
