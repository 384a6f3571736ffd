"""Where genotypes stand in a text: after a label, after a log's time stamp, and many in one file."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import NamedTuple

from fastdarts.spaces._syntax import Reader

__all__ = ["Found", "begin", "find_genotypes"]

# "genotype = ", "PC_DARTS_cifar = ", "Arch: ": a log's or a source's words before the value.
_LABEL = re.compile(r"[^(\[{|'\"#\n]*[=:]")
# "2019-09-16 17:35:58,162", "03/25 08:32:01 PM", "[2020-01-02T03:04:05]", and what a logger writes behind it.
_STAMP = re.compile(
    r"\[?\d{1,4}[-/.]\d{1,2}(?:[-/.]\d{1,4})?[T ,]+\d{1,2}:\d{2}(?::\d{2})?(?:[.,]\d+)?(?:[ ]?[AaPp][Mm])?\]?"
    r"(?:[ ]*\[[A-Za-z]\w*\])*[^(\[{|'\"#\n\d]*"
)
_CALL = re.compile(r"(?<![\w.'\"])(?:\w+\.)*Genotype[ \t]*\(")
# A call that holds literals, and not the class, or code that makes one; a row of nodes of NAS-Bench-201.
_LITERAL = re.compile(
    r"(?<![\w.'\"])(?<!class )(?:\w+\.)*Genotype[ \t]*\((?=(?:\s|#[^\n]*\n)*(?:\w+\s*=\s*)?[\[(])"
    r"|(?<![\w+])\|[\w-]+~\d+\|(?:[\w-]+~\d+\|)*(?:\s*\+\s*\|(?:[\w-]+~\d+\|)+)*"
)
_NAMED = re.compile(r"(\w+)\s*[=:]\s*\Z")
_WORD = re.compile(r"[\w-]+")
_COMMENT = re.compile(r"[ \t]*#")
_TOKEN = re.compile(r"[()\[\]{}]|'[^'\n]*'|\"[^\"\n]*\"|#[^\n]*")
# A name is looked for in so many characters before a genotype.
_LABELLED = 200


class Found(NamedTuple):
    """A genotype in a text.

    Args:
        name: what it is assigned to; "" where it is not.
        line: of its first character, from 1.
        start: index of its first character.
        end: index behind its last one; where it cannot be read, behind its line.
    """

    name: str
    line: int
    start: int
    end: int


def begin(text: str) -> tuple[int, str]:
    """Where the genotype of a text begins, behind comments, a time stamp and a label; and the label's last word."""
    start = place = Reader(text).place
    line_end = text.find("\n", place)
    call = _CALL.search(text, place, len(text) if line_end < 0 else line_end)
    if call and not any(quote in text[place : call.start()] for quote in "'\""):
        return call.start(), ""
    if stamp := _STAMP.match(text, place):
        place = stamp.end()
    if label := _LABEL.match(text, place):
        place = label.end()
    words = _WORD.findall(text[start:place]) if text[start:place].rstrip().endswith((":", "=")) else []
    return place, words[-1].lower().replace("_", "-") if words else ""


def find_genotypes(text: str) -> tuple[Found, ...]:
    """All genotypes of a text that are written out: ``Genotype(...)`` and ``|op~0|+...|``, not in comments.

    Args:
        text: a source file, a log, anything.

    Returns:
        They in order. Whether each can be read is not looked at.
    """
    found, line, line_start = [], 1, 0
    matches = [*_LITERAL.finditer(text)]
    for match, following in zip_longest(matches, matches[1:]):
        start = match.start()
        # Counted from genotype to genotype: a log may be long, and a line too.
        if lines := text.count("\n", line_start, start):
            line, line_start = line + lines, text.rfind("\n", line_start, start) + 1
        if _COMMENT.match(text, line_start):
            continue
        named = _NAMED.search(text[max(line_start, start - _LABELLED) : start])
        last = following.start() if following else len(text)
        end = match.end() if text[start] == "|" else _end(text, match.end(), last)
        found.append(Found(named.group(1) if named else "", line, start, end))
    return tuple(found)


def _end(text: str, start: int, last: int) -> int:
    """Behind the bracket that closes what was opened just before ``start``; behind its line where none does."""
    depth = 1
    for token in _TOKEN.finditer(text, start, last):
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(token.group(), 0)
        if depth == 0:
            return token.end()
    end = text.find("\n", start, last)
    return last if end < 0 else end
