"""From text to :class:`Genotype`: the formats of docs/facts.md, 10 but NNI's and NAS-Bench-101's, and the own JSON."""

from __future__ import annotations

import re

from fastdarts.spaces import _archai, _enas, _nasbench301, _nb201, _pairs
from fastdarts.spaces._builder import Builder
from fastdarts.spaces._darts import FORMS, json_genotype, named_fields, read_cells
from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._find import Found, begin, find_genotypes
from fastdarts.spaces._genotype import Genotype
from fastdarts.spaces._syntax import Fields, Items, Reader, Value

__all__ = ["parse_genotype"]

_CALLED = re.compile(r"[\w.]+\s*\(")
# So many names are listed before "...".
_LISTED = 12


def parse_genotype(text: str, which: str | int | None = None) -> Genotype:
    """Read a genotype in any of the field's formats, without evaluating anything.

    DARTS and its family (flat pairs, two per node; ``concat`` as range, list or None for all nodes), SNAS' ``edge_all``
    (flat, all edges), DARTS recurrent, pt.darts (a list per node), xautodl (NAS-Bench-201's ``|op~0|+|op~0|op~1|``; a
    dict or Genotype of (op, source, weight), the weight is dropped), configurations of NAS-Bench-301, archai's YAML,
    NASLib's compact tuples, RandomNAS' index pairs, the numbers of ENAS and NAO, ENAS-pytorch's graphs, and
    :meth:`Genotype.to_json` as text. A label before it, as ``genotype =`` or the time stamp of a log, and comments are
    passed over; before numbers it says whose they are: ``naslib: ``, ``randomnas: ``, ``nao: ``.

    Args:
        text: the genotype, nothing after it; with ``which`` a whole file, of genotypes or a log.
        which: of several genotypes in a text the one with this name, on this line (from 1), or ``"last"``.

    Raises:
        GenotypeError: with line, column and a caret at the first character that is wrong.
        TypeError: the text is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a genotype's text must be a str, got {type(text).__name__}")
    if which is not None:
        found = _chosen(text, which)
        return _read(text[: found.end], found.start, "")
    first = Reader(text).place
    if _archai.is_archai(text, first):
        return _archai.read_archai(Builder(text, first), first)
    if entries := _nasbench301.read_printed(text, first):
        return _nasbench301.read_configuration(Builder(text, first), entries)
    start, label = begin(text)
    try:
        return _read(text, start, label)
    except GenotypeError as error:
        if error.offset is not None:
            _check_one(text, error.offset)
        raise


def _check_one(text: str, fault: int) -> None:
    """Say so where a text fails because it is a file of genotypes, or a log, and not because of a slip in one."""
    found = find_genotypes(text)
    first_line = text.count("\n", 0, Reader(text).place) + 1
    if not found or found[-1].line == first_line or any(each.start <= fault < each.end for each in found):
        return
    names = [each.name for each in found]
    example = names[-1] if names[-1] and names.count(names[-1]) == 1 else "last"
    raise GenotypeError(
        f"a text with {_listed(found)}",
        "a genotype and nothing else",
        f"say which by name, by line or 'last': parse_genotype(text, {example!r}), on the command line FILE:{example}",
        text=text,
        offset=fault,
    )


def _chosen(text: str, which: str | int) -> Found:
    found = find_genotypes(text)
    if which == "last" and found:
        return found[-1]
    fits = [each for each in found if which in (each.name, each.line, str(each.line))]
    if len(fits) == 1:
        return fits[0]
    if fits:
        lines = ", ".join(str(each.line) for each in fits[:_LISTED])
        raise GenotypeError(f"{len(fits)} genotypes named {which!r}", f"a line's number: {lines}", "or 'last'")
    raise GenotypeError(f"no genotype {which!r}", _listed(found) if found else "a text that holds genotypes")


def _listed(found: tuple[Found, ...]) -> str:
    """How many genotypes a text has, and how to name them."""
    lines: dict[str, list[int]] = {}
    for each in found:
        lines.setdefault(each.name, []).append(each.line)
    names = [
        f"{name or 'nameless'} (lines {at[0]} to {at[-1]})" if at[1:] else name or f"line {at[0]}"
        for name, at in lines.items()
    ]
    shown = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    return f"{len(found)} genotype{'s' * (len(found) > 1)}: {shown}"


def _read(text: str, start: int, label: str) -> Genotype:
    b = Builder(text, start)
    if rows := _enas.spelt_rows(text, start):
        return _numbers(b, rows, label)
    reader = Reader(text, start)
    b.places[()] = reader.place
    if not reader.next:
        reader.fail(FORMS)
    if _nb201.is_nb201(reader):
        return _nb201.read_nb201(b, reader)
    if not (reader.next in "([{" or _CALLED.match(text, reader.place)):
        reader.fail(FORMS)
    return _values(b, reader, label)


def _values(b: Builder, reader: Reader, label: str) -> Genotype:
    """One value; or, of what RandomNAS writes between blanks, two."""
    root = reader.value()
    values = (root, reader.value()) if isinstance(root, Items) and reader.next in ("[", "r") else (root,)
    reader.finish()
    if _enas.is_dag(root) and isinstance(root, Fields):
        return _enas.read_dag(b, root)
    if entries := _nasbench301.find_configuration(root):
        return _nasbench301.read_configuration(b, entries)
    if isinstance(root, Items) and _pairs.is_numbers(root):
        cells = root.items if len(values) == 1 else values
        if _pairs.is_pairs(cells[0]):
            return _pairs.read_pairs(b, cells, label)
        return _numbers(b, _enas.listed_rows(values), label)
    b.places["missing",] = root.end if isinstance(root, (Items, Fields)) else root.start
    if len(values) == 2:
        return read_cells(b, {"recurrent": (root.start, root), "concat": (values[1].start, values[1])})
    fields = named_fields(b, root)
    return json_genotype(b, fields) if "cells" in fields else read_cells(b, fields)


def _numbers(b: Builder, rows: tuple[tuple[Value, ...], ...], label: str) -> Genotype:
    if label == "naslib" and len(rows) == 1 and len(rows[0]) == 6:
        return _pairs.read_indices(b, rows[0])
    return _enas.read_numbers(b, rows, label)
