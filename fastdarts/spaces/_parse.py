"""From text to :class:`Genotype`: the formats of facts section 10, rows 1 to 5, and the project's own JSON."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NoReturn, TypeVar

from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._genotype import FORMAT, CellGenotype, Genotype
from fastdarts.spaces._primitives import nearest
from fastdarts.spaces._syntax import Atom, Fields, Items, Reader, Value

__all__ = ["parse_genotype"]

# "genotype = ", "PC_DARTS_cifar = ", "03/25 08:32:01 PM genotype = ": a log's or a source's words before the value.
_LABEL = re.compile(r"[^(\[{|'\"#]*[=:]")
_STRUCTURE = re.compile(r"_?(?:Cell)?Structure\(\d+ nodes with\s*")
_NB201_OP = re.compile(r"[^\s|+~()]+")
_NB201_SOURCE = re.compile(r"[0-9]{1,9}")
_CELL_KEY = re.compile(r"normal|reduce|cell(?:0|[1-9][0-9]{0,4})")
_POSITIONAL = ("normal", "normal_concat", "reduce", "reduce_concat")
# xautodl names the two operators that DARTS calls sep_conv and dil_conv after their classes.
_ALIASES = {
    "dua_sepc_3x3": "sep_conv_3x3",
    "dua_sepc_5x5": "sep_conv_5x5",
    "dil_sepc_3x3": "dil_conv_3x3",
    "dil_sepc_5x5": "dil_conv_5x5",
}
_UNREAD = ("connectN", "connects")
_SCALARS = ("tensor", "float16", "float32", "float64", "int32", "int64")
_FORMS = "Genotype(...), a dict of its fields, or |op~0|+|op~0|op~1|"

Path = tuple[str | int, ...]
Made = TypeVar("Made")


def parse_genotype(text: str) -> Genotype:
    """Read a genotype in any of the field's formats, without evaluating anything.

    DARTS and its family (flat pairs, two per node; ``concat`` as range, list or None for all nodes), DARTS recurrent,
    pt.darts (a list per node), xautodl (NAS-Bench-201's ``|op~0|+|op~0|op~1|``; a dict or Genotype of (op, source,
    weight), the weight is dropped), and :meth:`Genotype.to_json` as text. A label before it, as ``genotype =`` in a
    log, and comments are passed over.

    Args:
        text: the genotype, nothing after it.

    Raises:
        GenotypeError: with line, column and a caret at the first character that is wrong.
        TypeError: the text is no string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a genotype's text must be a str, got {type(text).__name__}")
    reader = Reader(text)
    label = _LABEL.match(text, reader.place)
    if label:
        reader = Reader(text, label.end())
    if not reader.next:
        reader.fail(_FORMS)
    if reader.next == "|" or _STRUCTURE.match(text, reader.place):
        return _Builder(text).nb201(reader)
    if not (reader.next in "([{" or re.match(r"[\w.]+\s*\(", text[reader.place :])):
        reader.fail(_FORMS)
    root = reader.value()
    reader.finish()
    return _Builder(text).genotype(root)


class _Builder:
    """Turns read values into a genotype and remembers where each part stood."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places: dict[Path, int] = {}

    def fail(self, what: str, expected: str, place: int, remedy: str = "") -> NoReturn:
        raise GenotypeError(what, expected, remedy, text=self.text, offset=place)

    def make(self, build: Callable[[], Made], prefix: Path = ()) -> Made:
        """Build and, if what was written is impossible, point at the part that is."""
        try:
            return build()
        except GenotypeError as error:
            path = prefix + error.path
            while path not in self.places:
                path = path[:-1]
            raise GenotypeError(
                error.what,
                error.expected,
                error.remedy,
                path=prefix + error.path,
                text=self.text,
                offset=self.places[path],
            ) from None

    def genotype(self, root: Value) -> Genotype:
        fields = self.fields(root)
        end = root.end if isinstance(root, (Items, Fields)) else root.start
        self.places[()] = root.start
        self.places["missing",] = end
        if "cells" in fields:
            return self.json(fields)
        known = [name for name in fields if _CELL_KEY.fullmatch(name) or name == "recurrent"]
        for name, (place, value) in fields.items():
            self.field(name, place, value, fields)
        cells = {}
        for key in known:
            place, value = fields[key]
            self.places[key,] = place
            if _concat_name(key) not in fields:
                self.fail(f"{key} without its concat", f"{_concat_name(key)}=range(2, 6), a list or None", end)
            cells[key] = self.cell(key, value, fields[_concat_name(key)][1])
        return self.make(partial(Genotype, cells))

    def field(self, name: str, place: int, value: Value, fields: Mapping[str, object]) -> None:
        """Refuse a field that is none, a concat without its cell, and the connections that xautodl may fix."""
        if name in _UNREAD:
            if not (isinstance(value, Atom) and value.value is None):
                self.fail(f"field {name}", "None: fixed connections are not read", value.start)
            return
        key = "recurrent" if name == "concat" else name.removesuffix("_concat")
        if not (_CELL_KEY.fullmatch(key) or key == "recurrent") or name == "recurrent_concat":
            names = (*_POSITIONAL, "recurrent", "concat")
            self.fail(f"unknown field {name!r}", f"one of {', '.join(names)}", place, nearest(name, names))
        if key not in fields:
            self.fail(f"{name} without its cell", f"{key}=[...]", place)

    def fields(self, root: Value) -> dict[str, tuple[int, Value]]:
        """Name the values of a call, of a dict, or of the four values in a row that eval-nas stores."""
        items = root.items if isinstance(root, (Items, Fields)) else ()
        if isinstance(root, Fields) and root.name is not None and root.name.split(".")[-1] not in ("Genotype", "dict"):
            self.fail(f"a call of {root.name!r}", _FORMS, root.start, nearest(root.name, ["Genotype"]))
        if isinstance(root, Items) and len(items) != len(_POSITIONAL):
            self.fail(f"a bare list of {len(items)} values", _FORMS, root.start)
        if len(items) > len(_POSITIONAL):
            self.fail("a fifth value", f"the four fields {', '.join(_POSITIONAL)}", items[len(_POSITIONAL)].start)
        fields = {name: (item.start, item) for name, item in zip(_POSITIONAL, items, strict=False)}
        for name, place, value in root.named if isinstance(root, Fields) else ():
            if name in fields:
                self.fail(f"field {name} is given twice", "each once", place)
            fields[name] = (place, value)
        return fields

    def cell(self, key: str, value: Value, concat: Value) -> CellGenotype:
        inputs = 1 if key == "recurrent" else 2
        nodes = self.nodes(key, value, per_node=1 if key == "recurrent" else 2)
        states = self.concat(key, concat, range(inputs, inputs + len(nodes)))
        return self.make(partial(CellGenotype, nodes, states, inputs), (key,))

    def nodes(self, key: str, value: Value, per_node: int | None) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Read flat pairs, ``per_node`` for each node, or (always, if that is None) a list of pairs for every node."""
        rows = self.items(value, "a list of (primitive, source)")
        if not rows:
            self.fail(f"the {key} cell has no nodes", "a list of (primitive, source)", value.start)
        first = rows[0]
        flat = isinstance(first, Items) and bool(first.items) and isinstance(first.items[0], Atom)
        groups: list[tuple[int, tuple[Value, ...]]]
        if flat and per_node is not None:
            if len(rows) % per_node:
                self.fail(f"an odd number of inputs, {len(rows)}", f"{per_node} for each node", rows[-1].start)
            groups = [(rows[i].start, rows[i : i + per_node]) for i in range(0, len(rows), per_node)]
        else:
            groups = [(row.start, self.items(row, "a node: a list of (primitive, source)")) for row in rows]
        for node, (place, pairs) in enumerate(groups):
            self.places[key, node] = place
            for slot, pair in enumerate(pairs):
                self.places[key, node, slot] = pair.start
        return tuple(
            tuple(self.pair(key, node, slot, pair) for slot, pair in enumerate(pairs))
            for node, (_, pairs) in enumerate(groups)
        )

    def pair(self, key: str, node: int, slot: int, value: Value) -> tuple[str, int]:
        expected = "(primitive, source), or (primitive, source, weight)"
        parts = self.items(value, expected)
        if len(parts) not in (2, 3):
            self.fail(f"an input of {len(parts)} parts", expected, value.start)
        op = parts[0].value if isinstance(parts[0], Atom) else None
        if not isinstance(op, str):
            self.fail("an input without a name", "the primitive's name in quotes", parts[0].start)
        source = self.integer(parts[1], "the source, an integer")
        if len(parts) == 3:
            self.number(parts[2], "the weight, a number")
        self.places[key, node, slot, "op"] = parts[0].start
        self.places[key, node, slot, "source"] = parts[1].start
        return _ALIASES.get(op, op), source

    def concat(self, key: str, value: Value, states: range) -> tuple[int, ...]:
        self.places[key, "concat"] = value.start
        if isinstance(value, Atom) and value.value is None:
            return tuple(states)
        if isinstance(value, Fields) and value.name == "range":
            bounds = [self.integer(item, "an integer") for item in value.items]
            if value.named or len(bounds) not in (1, 2, 3) or bounds[2:] == [0]:
                self.fail("an impossible range", "range(2, 6)", value.start)
            # A range may be astronomically long: its ends are looked at before it is spelt out.
            span = range(*bounds)
            for state in (span[0], span[-1]) if span else ():
                if state not in states:
                    expected = f"nodes of the cell, from {states[0]} to {states[-1]}"
                    self.fail(f"concat names state {state}", expected, value.start)
            return tuple(span)
        items = self.items(value, "range(2, 6), a list of nodes, or None for all")
        found = []
        for slot, item in enumerate(items):
            self.places[key, "concat", slot] = item.start
            found.append(self.integer(item, "a node, an integer"))
        return tuple(found)

    def items(self, value: Value, expected: str) -> tuple[Value, ...]:
        if not isinstance(value, Items):
            self.fail(f"{_describe(value)} is not a list", expected, value.start)
        return value.items

    def number(self, value: Value, expected: str) -> int | float:
        """Read a number, also as numpy and torch print one: ``np.float32(0.1)``, ``tensor(0.1, device='cuda:0')``."""
        if isinstance(value, Fields) and value.name and value.name.split(".")[-1] in _SCALARS and len(value.items) == 1:
            return self.number(value.items[0], expected)
        if not isinstance(value, Atom) or not isinstance(value.value, (int, float)):
            self.fail(f"{_describe(value)} is not a number", expected, value.start)
        return value.value

    def integer(self, value: Value, expected: str) -> int:
        found = self.number(value, expected)
        if not isinstance(found, int):
            self.fail(f"{found} is not an integer", expected, value.start)
        return found

    def json(self, fields: dict[str, tuple[int, Value]]) -> Genotype:
        """Read what :meth:`Genotype.to_json` writes."""
        for name, (place, value) in fields.items():
            if name not in ("format", "cells"):
                self.fail(f"unknown field {name!r}", "format and cells", place)
            if name == "format" and not (isinstance(value, Atom) and value.value == FORMAT):
                self.fail("a format that this version does not read", f'"{FORMAT}"', value.start)
        cells: dict[str, CellGenotype] = {}
        self.places["cells",], root = fields["cells"]
        for key, place, value in root.named if isinstance(root, Fields) else ():
            self.places[key,] = place
            parts = self.fields(value) if isinstance(value, Fields) else {}
            if set(parts) != {"inputs", "nodes", "concat"}:
                self.fail(f"cell {key!r}", "an object of inputs, nodes and concat", value.start)
            self.places[key, "inputs"] = parts["inputs"][1].start
            inputs = self.integer(parts["inputs"][1], "1 or 2")
            nodes = self.nodes(key, parts["nodes"][1], per_node=None)
            states = self.concat(key, parts["concat"][1], range(inputs, inputs + len(nodes)))
            cells[key] = self.make(partial(CellGenotype, nodes, states, inputs), (key,))
        return self.make(partial(Genotype, cells))

    def nb201(self, reader: Reader) -> Genotype:
        """Read ``|op~0|+|op~0|op~1|``, bare or inside xautodl's ``Structure(4 nodes with ...)``."""
        opening = _STRUCTURE.match(self.text, reader.place)
        if opening:
            reader.place = opening.end()
        self.places["cell",] = self.places[()] = reader.place
        nodes: list[tuple[tuple[str, int], ...]] = []
        while not nodes or reader.take("+"):
            self.places["cell", len(nodes)] = reader.place
            if not reader.take("|"):
                reader.fail("'|', the start of a node")
            pairs: list[tuple[str, int]] = []
            while not pairs or reader.next not in ("+", ")", ""):
                pairs.append(self._nb201_edge(reader, len(nodes), len(pairs)))
            nodes.append(tuple(pairs))
        if opening and not reader.take(")"):
            reader.fail("'+' and the next node, or ')'")
        reader.finish()
        cell = self.make(partial(CellGenotype, tuple(nodes), (len(nodes),), 1), ("cell",))
        return self.make(partial(Genotype, {"cell": cell}))

    def _nb201_edge(self, reader: Reader, node: int, slot: int) -> tuple[str, int]:
        found = []
        for part, pattern, then in (("op", _NB201_OP, "~"), ("source", _NB201_SOURCE, "|")):
            word = pattern.match(self.text, reader.place)
            if word is None:
                reader.fail("an edge such as nor_conv_3x3~0|" if part == "op" else "the source's number")
            self.places["cell", node, slot, part] = reader.place
            reader.place = word.end()
            reader.skip()
            found.append(word.group())
            if not reader.take(then):
                reader.fail(f"{then!r}")
        return _ALIASES.get(found[0], found[0]), int(found[1])


def _concat_name(key: str) -> str:
    return "concat" if key == "recurrent" else f"{key}_concat"


def _describe(value: Value) -> str:
    if isinstance(value, Atom):
        return repr(value.value)
    if isinstance(value, Items):
        return "a list"
    return f"{value.name}(...)" if value.name else "a dict"
