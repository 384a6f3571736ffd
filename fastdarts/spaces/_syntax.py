"""The literals in which genotypes are written, read by recursive descent: nothing is ever evaluated.

::

    value  = string | number | "None" | "null" | "(" [value {"," value}] ")" | "[" ... "]" | dict | call
    dict   = "{" [string ":" value {"," string ":" value}] "}"
    call   = name {"." name} "(" [argument {"," argument}] ")"
    argument = [name "="] value

A comma may trail, ``#`` starts a comment. Every value keeps the place where it stands, for the errors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from fastdarts.spaces._error import GenotypeError

__all__ = ["Atom", "Fields", "Items", "Reader", "Value"]

# Genotypes nest four deep at most; the bound keeps a wall of brackets from exhausting the stack.
_DEEPEST = 16
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_STRING = re.compile(r"'([^'\\\n]*)'|\"([^\"\\\n]*)\"")
_LONGEST_NUMBER = 32


@dataclass(frozen=True)
class Atom:
    """A string, a number or None, with the offset of its first character."""

    value: str | int | float | None
    start: int


@dataclass(frozen=True)
class Items:
    """A list or a tuple, with the offsets of its two brackets."""

    items: tuple[Value, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Fields:
    """A call (``name`` is set) or a dict: values in order, then values by name with the offset of each name."""

    name: str | None
    items: tuple[Value, ...]
    named: tuple[tuple[str, int, Value], ...]
    start: int
    end: int


Value = Atom | Items | Fields


class Reader:
    """Reads values from ``text``, beginning at ``place``.

    Raises:
        GenotypeError: at the first character that does not belong.
    """

    def __init__(self, text: str, place: int = 0) -> None:
        self.text = text
        self.place = place
        self.skip()

    def skip(self) -> None:
        """Go past blanks and comments."""
        found = _SPACE.match(self.text, self.place)
        self.place = found.end() if found else self.place

    @property
    def next(self) -> str:
        """The next character, "" at the end."""
        return self.text[self.place : self.place + 1]

    def fail(self, expected: str, *, inside: str = "") -> NoReturn:
        """Raise the error of the next character."""
        if not self.next:
            end = len(self.text.rstrip())
            raise GenotypeError(f"the text ends{inside}", expected, text=self.text, offset=end)
        found = _NAME.match(self.text, self.place)
        what = f"unexpected {found.group()!r}" if found else f"unexpected {self.next!r}"
        raise GenotypeError(f"{what}{inside}", expected, text=self.text, offset=self.place)

    def take(self, token: str) -> bool:
        """Go past ``token`` if it stands here."""
        if not self.text.startswith(token, self.place):
            return False
        self.place += len(token)
        self.skip()
        return True

    def finish(self) -> None:
        """Demand the end of the text."""
        if self.next:
            self.fail("nothing more after the genotype")

    def value(self, depth: int = 0) -> Value:
        """Read one value."""
        if depth > _DEEPEST:
            raise GenotypeError("brackets nest too deeply", f"at most {_DEEPEST}", text=self.text, offset=self.place)
        if self.next in ("(", "["):
            return self._items(depth)
        if self.next == "{":
            return self._dict(depth)
        if self.next in ("'", '"'):
            return self.string()
        if _NUMBER.match(self.text, self.place):
            return self._number()
        return self._named(depth)

    def string(self) -> Atom:
        """Read a string; a quote stands next."""
        start = self.place
        found = _STRING.match(self.text, start)
        if found is None:
            line = self.text[start:].split("\n", 1)[0]
            what = "a string with an escape" if self.next in line[1:] else "a string without its closing quote"
            raise GenotypeError(what, "a name in quotes", text=self.text, offset=start)
        self.place = found.end()
        self.skip()
        return Atom(found.group(1) if found.group(1) is not None else found.group(2), start)

    def _number(self) -> Atom:
        start = self.place
        found = _NUMBER.match(self.text, start)
        word = found.group() if found else ""
        if len(word) > _LONGEST_NUMBER:
            raise GenotypeError("a number that long", "a small one", text=self.text, offset=start)
        self.place += len(word)
        self.skip()
        return Atom(int(word) if word.lstrip("+-").isdecimal() else float(word), start)

    def _items(self, depth: int) -> Items:
        start = self.place
        close = ")" if self.next == "(" else "]"
        items = []
        self.place += 1
        self.skip()
        while self.next != close:
            items.append(self.value(depth + 1))
            self._comma(close, start)
        return Items(tuple(items), start, self._close())

    def _dict(self, depth: int) -> Fields:
        start = self.place
        named = []
        self.take("{")
        while self.next != "}":
            if self.next not in ("'", '"'):
                self.fail("a field name in quotes or '}'")
            name = self.string()
            if not self.take(":"):
                self.fail("':'")
            named.append((str(name.value), name.start, self.value(depth + 1)))
            self._comma("}", start)
        return Fields(None, (), tuple(named), start, self._close())

    def _named(self, depth: int) -> Value:
        start = self.place
        found = _NAME.match(self.text, start)
        if found is None:
            self.fail("a value")
        self.place = found.end()
        self.skip()
        if self.next == "(":
            return self._call(found.group(), start, depth)
        if found.group() in ("None", "null"):
            return Atom(None, start)
        self.place = start
        self.fail("a value: a list, a name in quotes, a number, None or range(a, b)")

    def _call(self, name: str, start: int, depth: int) -> Fields:
        items: list[Value] = []
        named: list[tuple[str, int, Value]] = []
        opened = self.place
        self.take("(")
        while self.next != ")":
            place = self.place
            keyword = self._keyword()
            if keyword is not None:
                named.append((keyword, place, self.value(depth + 1)))
            elif named:
                self.fail("name=value, as the fields before")
            else:
                items.append(self.value(depth + 1))
            self._comma(")", opened)
        return Fields(name, tuple(items), tuple(named), start, self._close())

    def _keyword(self) -> str | None:
        start = self.place
        found = _NAME.match(self.text, start)
        if found is not None:
            self.place = found.end()
            self.skip()
            if self.take("="):
                return found.group()
            self.place = start
        return None

    def _comma(self, close: str, opened: int) -> None:
        if self.take(",") or self.next == close:
            return
        line = self.text.count("\n", 0, opened) + 1
        column = opened - self.text.rfind("\n", 0, opened)
        where = f" inside the {self.text[opened]!r} of line {line}, column {column}"
        self.fail(f"',' or {close!r}", inside=where)

    def _close(self) -> int:
        end = self.place
        self.place += 1
        self.skip()
        return end
