"""The part of YAML that PyYAML writes for objects: blocks, tags, anchors. A tag is passed over, never called.

::

    value    = {"!" tag | "&" name} (block | scalar | "*" name | "[]" | "{}")
    block    = {"- " value} or {key ":" value}, each on lines of one indentation

A list may stand at the indentation of its key. Values are those of :mod:`fastdarts.spaces._syntax`, so that errors
point at the character.
"""

from __future__ import annotations

import re
from typing import NoReturn

from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._syntax import Atom, Fields, Items, Value

__all__ = ["read_yaml"]

_DEEPEST = 32
_LINE = re.compile(r"([ ]*)(\S[^\n]*)?(?:\n|\Z)")
_PROPERTIES = re.compile(r"(?:(?:!\S*|&(?P<anchor>[\w-]+))(?:[ ]+|\Z))*")
_KEY = re.compile(r"(?P<name>[^\s\"'\[\]{}&*!#|>@`-][^:#\n]*):(?:[ ]+|\Z)")
_COMMENT = re.compile(r"(?:^|[ ])#.*\Z")
_INTEGER = re.compile(r"[-+]?\d{1,18}")


def read_yaml(text: str, start: int = 0) -> Value:
    """Read a document.

    Args:
        text: the text.
        start: where it begins.

    Returns:
        Its value: mappings as dicts of names, lists, and strings or numbers.

    Raises:
        GenotypeError: what is not of the part that is read, with its place.
    """
    return _Document(text, start).read()


class _Document:
    """The lines that say something: (indentation, where, what); a line's rest becomes a line as it is taken apart."""

    def __init__(self, text: str, start: int) -> None:
        self.text, self.at = text, 0
        self.lines: list[tuple[int, int, str]] = []
        self.anchors: dict[str, Value] = {}
        place = text.rfind("\n", 0, start) + 1
        while place < len(text):
            found = _LINE.match(text, place)
            if found is None:
                self.fail("a tab in an indentation", "blanks", place)
            words = _COMMENT.sub("", found.group(2) or "").rstrip()
            if words and words not in ("---", "..."):
                self.lines.append((len(found.group(1)), found.start(2), words))
            place = found.end()

    def fail(self, what: str, expected: str, place: int) -> NoReturn:
        raise GenotypeError(what, expected, text=self.text, offset=place)

    def read(self) -> Value:
        value = self.value(0, -1)
        if self.at < len(self.lines):
            self.fail("a line out of place", "the indentation of its neighbours", self.lines[self.at][1])
        return value

    def value(self, depth: int, outer: int, *, after_key: bool = False) -> Value:
        """The value that begins on the present line; ``outer`` is the indentation that it belongs under."""
        indent, place, words = self.lines[self.at]
        if depth > _DEEPEST:
            self.fail("lines that nest too deeply", f"at most {_DEEPEST}", place)
        properties = _PROPERTIES.match(words)
        taken = properties.end() if properties else 0
        anchor = properties.group("anchor") if properties else None
        rest = words[taken:]
        if not rest:
            self.at += 1
            value = self.below(depth, outer, place, after_key)
        elif not taken and not after_key and (_is_entry(rest) or _KEY.match(rest)):
            value = self.sequence(depth, indent) if _is_entry(rest) else self.mapping(depth, indent)
        else:
            self.at += 1
            value = self.scalar(rest, place + taken)
        if anchor:
            self.anchors[anchor] = value
        return value

    def below(self, depth: int, outer: int, place: int, after_key: bool) -> Value:
        """What stands on the lines under a key, a dash or a tag; None where these are no deeper."""
        if self.at < len(self.lines):
            indent, _, words = self.lines[self.at]
            if indent > outer or (after_key and indent == outer and _is_entry(words)):
                return self.value(depth + 1, outer)
        return Atom(None, place)

    def rest(self, length: int) -> None:
        """Make what follows the first ``length`` characters of the present line the present line."""
        indent, place, words = self.lines[self.at]
        self.lines[self.at] = (indent + length, place + length, words[length:])

    def sequence(self, depth: int, indent: int) -> Items:
        start, items = self.lines[self.at][1], []
        while self.at < len(self.lines) and self.lines[self.at][0] == indent and _is_entry(self.lines[self.at][2]):
            words = self.lines[self.at][2]
            self.rest(len(words) - len(words[1:].lstrip()))
            items.append(self.value(depth + 1, indent))
        return Items(tuple(items), start, self.lines[self.at - 1][1])

    def mapping(self, depth: int, indent: int) -> Fields:
        start, named = self.lines[self.at][1], []
        while self.at < len(self.lines) and self.lines[self.at][0] == indent and not _is_entry(self.lines[self.at][2]):
            _, place, words = self.lines[self.at]
            key = _KEY.match(words)
            if key is None:
                self.fail("a line without a key", "name: value", place)
            self.rest(key.end())
            named.append((key.group("name").rstrip(), place, self.value(depth + 1, indent, after_key=True)))
        return Fields(None, (), tuple(named), start, self.lines[self.at - 1][1])

    def scalar(self, words: str, place: int) -> Value:
        if words[0] == "*":
            if words[1:] not in self.anchors:
                self.fail(f"an alias {words!r}", "a name that stands above, after &", place)
            return self.anchors[words[1:]]
        if words == "[]":
            return Items((), place, place + 1)
        if words == "{}":
            return Fields(None, (), (), place, place + 1)
        if words[0] in "[{|>%@`":
            self.fail(f"unexpected {words[0]!r}", "a word, a number, a block, [] or {}", place)
        if words[0] in "'\"":
            if len(words) < 2 or words[-1] != words[0] or words[0] in words[1:-1] or "\\" in words:
                self.fail("a string with an escape, or without its end", "a name in quotes", place)
            return Atom(words[1:-1], place)
        if words in ("null", "~"):
            return Atom(None, place)
        return Atom(int(words) if _INTEGER.fullmatch(words) else words, place)


def _is_entry(words: str) -> bool:
    return words == "-" or words.startswith("- ")
