"""Genotypes of DARTS' family from read values: flat pairs, lists per node, triples with weights; fastdarts' JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastdarts.errors import did_you_mean
from fastdarts.spaces._builder import Builder, Nodes
from fastdarts.spaces._genotype import FORMAT, CellGenotype, Genotype
from fastdarts.spaces._syntax import Atom, Fields, Items, Value
from fastdarts.spaces._wiring import flat_nodes

__all__ = ["ALIASES", "FORMS", "Named", "json_genotype", "named_fields", "read_cells"]

FORMS = "Genotype(...), a dict of its fields, or |op~0|+|op~0|op~1|"
"""What could have been written, for errors."""

# xautodl names the two operators that DARTS calls sep_conv and dil_conv after their classes.
ALIASES = {
    "dua_sepc_3x3": "sep_conv_3x3",
    "dua_sepc_5x5": "sep_conv_5x5",
    "dil_sepc_3x3": "dil_conv_3x3",
    "dil_sepc_5x5": "dil_conv_5x5",
}
_CELL_KEY = re.compile(r"normal|reduce|cell(?:0|[1-9][0-9]{0,4})")
_POSITIONAL = ("normal", "normal_concat", "reduce", "reduce_concat")
_UNREAD = ("connectN", "connects")

Named = dict[str, tuple[int, Value]]


def named_fields(b: Builder, root: Value) -> Named:
    """Name the values of a call, of a dict, or of the four values in a row that eval-nas stores."""
    items = root.items if isinstance(root, (Items, Fields)) else ()
    if isinstance(root, Fields) and root.name is not None and root.name.split(".")[-1] not in ("Genotype", "dict"):
        b.fail(f"a call of {root.name!r}", FORMS, root.start, did_you_mean(root.name, ["Genotype"]))
    if isinstance(root, Items) and len(items) != len(_POSITIONAL):
        b.fail(f"a bare list of {len(items)} values", FORMS, root.start)
    if len(items) > len(_POSITIONAL):
        b.fail("a fifth value", f"the four fields {', '.join(_POSITIONAL)}", items[len(_POSITIONAL)].start)
    fields = {name: (item.start, item) for name, item in zip(_POSITIONAL, items, strict=False)}
    for name, place, value in root.named if isinstance(root, Fields) else ():
        if name in fields:
            b.fail(f"field {name} is given twice", "each once", place)
        fields[name] = (place, value)
    return fields


def read_cells(b: Builder, fields: Named) -> Genotype:
    """Read ``normal=..., normal_concat=..., ...``."""
    known = [name for name in fields if _CELL_KEY.fullmatch(name) or name == "recurrent"]
    for name, (place, value) in fields.items():
        _check_field(b, name, place, value, fields)
    cells = {}
    for key in known:
        place, value = fields[key]
        b.places[key,] = place
        if _concat_name(key) not in fields:
            b.fail(
                f"{key} without its concat", f"{_concat_name(key)}=range(2, 6), a list or None", b.places["missing",]
            )
        cells[key] = _cell(b, key, value, fields[_concat_name(key)][1])
    return b.genotype(cells)


def _check_field(b: Builder, name: str, place: int, value: Value, fields: Mapping[str, object]) -> None:
    """Refuse a field that is none, a concat without its cell, and the connections that xautodl may fix."""
    if name in _UNREAD:
        if not (isinstance(value, Atom) and value.value is None):
            b.fail(f"field {name}", "None: fixed connections are not read", value.start)
        return
    key = "recurrent" if name == "concat" else name.removesuffix("_concat")
    if not (_CELL_KEY.fullmatch(key) or key == "recurrent") or name == "recurrent_concat":
        names = (*_POSITIONAL, "recurrent", "concat")
        b.fail(f"unknown field {name!r}", f"one of {', '.join(names)}", place, did_you_mean(name, names))
    if key not in fields:
        b.fail(f"{name} without its cell", f"{key}=[...]", place)


def _cell(b: Builder, key: str, value: Value, concat: Value) -> CellGenotype:
    inputs = 1 if key == "recurrent" else 2
    rows = b.items(value, "a list of (primitive, source)")
    if not rows:
        b.fail(f"the {key} cell has no nodes", "a list of (primitive, source)", value.start)
    first = rows[0]
    if isinstance(first, Items) and first.items and isinstance(first.items[0], Atom):
        nodes = _flat(b, key, rows, concat)
    else:
        nodes = _nested(b, key, rows)
    states = _concat(b, key, concat, range(inputs, inputs + len(nodes)))
    return b.cell(key, nodes, states, inputs)


def _flat(b: Builder, key: str, rows: tuple[Value, ...], concat: Value) -> Nodes:
    """Pairs one after the other: which node takes which is what their number and their sources say."""
    pairs = [_pair(b, row) for row in rows]
    if key == "recurrent":
        sizes: tuple[int, ...] = (1,) * len(rows)
    else:
        # A number of edges that makes no cell is the last edge's fault; what cannot be decided is the cell's.
        b.places[key, len(rows) - 1] = rows[-1].start
        last = _last(b, concat)
        sizes = b.make(lambda: flat_nodes([source for _, source in pairs], last), (key,))
    nodes, start = [], 0
    for node, size in enumerate(sizes):
        b.places[key, node] = rows[start].start
        for slot, row in enumerate(rows[start : start + size]):
            _place(b, key, node, slot, row)
        nodes.append(tuple(pairs[start : start + size]))
        start += size
    return tuple(nodes)


def _nested(b: Builder, key: str, rows: tuple[Value, ...]) -> Nodes:
    """A list of pairs for every node."""
    nodes = []
    for node, row in enumerate(rows):
        pairs = b.items(row, "a node: a list of (primitive, source)")
        b.places[key, node] = row.start
        nodes.append(tuple(_pair(b, pair) for pair in pairs))
        for slot, pair in enumerate(pairs):
            _place(b, key, node, slot, pair)
    return tuple(nodes)


def _pair(b: Builder, value: Value) -> tuple[str, int]:
    expected = "(primitive, source), or (primitive, source, weight)"
    parts = b.items(value, expected)
    if len(parts) not in (2, 3):
        b.fail(f"an input of {len(parts)} parts", expected, value.start)
    op = parts[0].value if isinstance(parts[0], Atom) else None
    if not isinstance(op, str):
        b.fail("an input without a name", "the primitive's name in quotes", parts[0].start)
    source = b.integer(parts[1], "the source, an integer")
    if len(parts) == 3:
        b.number(parts[2], "the weight, a number")
    return ALIASES.get(op, op), source


def _place(b: Builder, key: str, node: int, slot: int, pair: Value) -> None:
    if isinstance(pair, Items):
        b.places[key, node, slot] = pair.start
        b.places[key, node, slot, "op"] = pair.items[0].start
        b.places[key, node, slot, "source"] = pair.items[1].start


def _last(b: Builder, concat: Value) -> int | None:
    """The largest state of a concat, None where it means all nodes."""
    if isinstance(concat, Atom) and concat.value is None:
        return None
    if isinstance(concat, Fields) and concat.name == "range":
        span = _span(b, concat)
        return max(span[0], span[-1]) if span else 0
    return max((b.integer(item, "a node, an integer") for item in _concat_items(b, concat)), default=0)


def _concat(b: Builder, key: str, value: Value, states: range) -> tuple[int, ...]:
    b.places[key, "concat"] = value.start
    if isinstance(value, Atom) and value.value is None:
        return tuple(states)
    if isinstance(value, Fields) and value.name == "range":
        # A range may be astronomically long: its ends are looked at before it is spelt out.
        span = _span(b, value)
        for state in (span[0], span[-1]) if span else ():
            if state not in states:
                expected = f"nodes of the cell, from {states[0]} to {states[-1]}"
                b.fail(f"concat names state {state}", expected, value.start)
        return tuple(span)
    found = []
    for slot, item in enumerate(_concat_items(b, value)):
        b.places[key, "concat", slot] = item.start
        found.append(b.integer(item, "a node, an integer"))
    return tuple(found)


def _span(b: Builder, value: Fields) -> range:
    bounds = [b.integer(item, "an integer") for item in value.items]
    if value.named or len(bounds) not in (1, 2, 3) or bounds[2:] == [0]:
        b.fail("an impossible range", "range(2, 6)", value.start)
    return range(*bounds)


def _concat_items(b: Builder, value: Value) -> tuple[Value, ...]:
    return b.items(value, "range(2, 6), a list of nodes, or None for all")


def _concat_name(key: str) -> str:
    return "concat" if key == "recurrent" else f"{key}_concat"


def json_genotype(b: Builder, fields: Named) -> Genotype:
    """Read what :meth:`Genotype.to_json` writes."""
    for name, (place, value) in fields.items():
        if name not in ("format", "cells"):
            b.fail(f"unknown field {name!r}", "format and cells", place)
        if name == "format" and not (isinstance(value, Atom) and value.value == FORMAT):
            b.fail("a format that this version does not read", f'"{FORMAT}"', value.start)
    cells: dict[str, CellGenotype] = {}
    b.places["cells",], root = fields["cells"]
    for key, place, value in root.named if isinstance(root, Fields) else ():
        b.places[key,] = place
        parts = named_fields(b, value) if isinstance(value, Fields) else {}
        if set(parts) != {"inputs", "nodes", "concat"}:
            b.fail(f"cell {key!r}", "an object of inputs, nodes and concat", value.start)
        b.places[key, "inputs"] = parts["inputs"][1].start
        inputs = b.integer(parts["inputs"][1], "1 or 2")
        rows = b.items(parts["nodes"][1], "a list of (primitive, source)")
        if not rows:
            b.fail(f"the {key} cell has no nodes", "a list of (primitive, source)", parts["nodes"][1].start)
        nodes = _nested(b, key, rows)
        states = _concat(b, key, parts["concat"][1], range(inputs, inputs + len(nodes)))
        cells[key] = b.cell(key, nodes, states, inputs)
    return b.genotype(cells)
