"""The error of a genotype that cannot be read or is impossible: it points at the character."""

from __future__ import annotations

from fastdarts.errors import UserError

__all__ = ["GenotypeError"]

# A genotype is one line of some 600 characters: a terminal shows this much of it around the fault.
_BEFORE, _AFTER = 48, 28


class GenotypeError(UserError):
    """A genotype that cannot be read, or that names an impossible architecture.

    Args:
        what: what was wrong.
        expected: what would have been right.
        remedy: what the user can do.
        path: where in the genotype: cell key, then node, edge and "op" or "source"; or "concat" and a position.
        text: the text that was read, if there was one.
        offset: index of the offending character in ``text``.

    Attributes:
        offset: index of the offending character; None without a text.
        line: line of the offending character, from 1; None without a text.
        column: its column, from 1; None without a text.
    """

    def __init__(
        self,
        what: str,
        expected: str = "",
        remedy: str = "",
        *,
        path: tuple[str | int, ...] = (),
        text: str | None = None,
        offset: int = 0,
    ) -> None:
        super().__init__(what, expected, remedy)
        self.path = path
        self.offset: int | None = None
        self.line: int | None = None
        self.column: int | None = None
        if text is not None:
            self.offset = offset
            start = text.rfind("\n", 0, offset) + 1
            self.line, self.column = text.count("\n", 0, offset) + 1, offset - start + 1
            excerpt = _excerpt(text[start:].split("\n", 1)[0].rstrip("\r"), offset - start)
            self.args = (f"line {self.line}, column {self.column}: {self.args[0]}\n{excerpt}",)


def _excerpt(line: str, column: int) -> str:
    first, last = max(0, column - _BEFORE), min(len(line), column + _AFTER)
    head, tail = "..." if first else "", "..." if last < len(line) else ""
    # One column each, so that the caret stands right, and no escape code reaches the terminal.
    shown = "".join(c if c.isprintable() else " " for c in head + line[first:last] + tail)
    return f"  {shown}\n  {' ' * (len(head) + column - first)}^"
