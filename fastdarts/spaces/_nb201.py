"""Cells of NAS-Bench-201 as its authors write them: ``|op~0|+|op~0|op~1|``."""

from __future__ import annotations

import re

from fastdarts.spaces._builder import Builder
from fastdarts.spaces._darts import ALIASES
from fastdarts.spaces._genotype import Genotype
from fastdarts.spaces._syntax import Reader

__all__ = ["is_nb201", "read_nb201"]

_STRUCTURE = re.compile(r"_?(?:Cell)?Structure\(\d+ nodes with\s*")
_OP = re.compile(r"[^\s|+~()]+")
_SOURCE = re.compile(r"[0-9]{1,9}")


def is_nb201(reader: Reader) -> bool:
    """Whether what comes next is such a cell."""
    return reader.next == "|" or _STRUCTURE.match(reader.text, reader.place) is not None


def read_nb201(b: Builder, reader: Reader) -> Genotype:
    """Read ``|op~0|+|op~0|op~1|``, bare or inside xautodl's ``Structure(4 nodes with ...)``."""
    opening = _STRUCTURE.match(reader.text, reader.place)
    if opening:
        reader.place = opening.end()
    b.places["cell",] = b.places[()] = reader.place
    nodes: list[tuple[tuple[str, int], ...]] = []
    while not nodes or reader.take("+"):
        b.places["cell", len(nodes)] = reader.place
        if not reader.take("|"):
            reader.fail("'|', the start of a node")
        pairs: list[tuple[str, int]] = []
        while not pairs or reader.next not in ("+", ")", ""):
            pairs.append(_edge(b, reader, len(nodes), len(pairs)))
        nodes.append(tuple(pairs))
    if opening and not reader.take(")"):
        reader.fail("'+' and the next node, or ')'")
    reader.finish()
    return b.genotype({"cell": b.cell("cell", tuple(nodes), (len(nodes),), 1)})


def _edge(b: Builder, reader: Reader, node: int, slot: int) -> tuple[str, int]:
    found = []
    for part, pattern, then in (("op", _OP, "~"), ("source", _SOURCE, "|")):
        word = pattern.match(reader.text, reader.place)
        if word is None:
            reader.fail("an edge such as nor_conv_3x3~0|" if part == "op" else "the source's number")
        b.places["cell", node, slot, part] = reader.place
        reader.place = word.end()
        reader.skip()
        found.append(word.group())
        if not reader.take(then):
            reader.fail(f"{then!r}")
    return ALIASES.get(found[0], found[0]), int(found[1])
