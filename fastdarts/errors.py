"""The one error a user can cause: it says what was wrong, what was expected and what to do."""

from __future__ import annotations

__all__ = ["UserError"]


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
