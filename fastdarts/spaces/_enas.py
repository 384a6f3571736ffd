"""Architectures as ENAS, NAO and ENAS-pytorch write them: rows of numbers, and a graph of activations.

A cell of ENAS and NAO is four numbers a node: source, operator, source, operator. Its output is every state that no
node takes; an input that none takes belongs to it, which is here a last node that passes it on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastdarts.spaces._builder import Builder
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._syntax import Atom, Fields, Items, Value

__all__ = ["is_dag", "listed_rows", "read_dag", "read_numbers", "spelt_rows"]

_BLANK_NUMBERS = re.compile(r"\s*(?:\d[\d\s]*|(?:\[\s*\d[\d\s]*\]\s*)+)")
_QUOTED = re.compile(r"([\"'])([\d\s]*)\1\s*")
_BRACKETS = re.compile(r"\[[^\]]*\]")
_DIGITS = re.compile(r"\d{1,9}")
_PER_NODE = 4
# ENAS' micro space, NAO's, and the small space of NAO V2 count alike.
_OPS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
# NAO's first search had eleven more, of which four are primitives here.
_NAO_LARGE = {
    5: "skip_connect",
    6: "nor_conv_1x1",
    7: "nor_conv_3x3",
    11: "max_pool_3x3",
}
_NAO_UNKNOWN = {
    8: "1x3 and 3x1 convolutions with a batch norm each",
    9: "1x7 and 7x1 convolutions with a batch norm each",
    10: "max_pool_2x2",
    12: "max_pool_5x5",
    13: "avg_pool_2x2",
    14: "avg_pool_3x3 that counts the border",
    15: "avg_pool_5x5",
}
_ACTIVATIONS = ("tanh", "relu", "identity", "sigmoid")
_BOTH = "4 numbers a node (source, operator, source, operator), the normal cell's and the reduction cell's"


@dataclass(frozen=True)
class _Number:
    value: int
    start: int


def read_numbers(b: Builder, rows: tuple[tuple[Value, ...], ...], label: str) -> Genotype:
    """Read one row of numbers, two cells one after the other, or two rows, a cell each; an odd row is a recurrent cell.

    Args:
        b: the builder of the text.
        rows: the numbers.
        label: ``nao`` where numbers above 4 are NAO's; ``enas`` and anything else know 0 to 4.

    Source: melodyguan/enas ``micro_child.py`` and ``ptb_enas_child.py``; renqianluo/NAO_pytorch ``NAO_V1/model.py``.
    """
    found = [[_Number(b.integer(each, "an integer"), each.start) for each in row] for row in rows]
    everything = [number for row in found for number in row]
    if _is_macro(found) or (len(found) == 1 and label != "nao" and _is_macro(_triangle(everything))):
        b.fail("the layers of ENAS' macro space", "a cell: its micro space, or a recurrent one", everything[0].start)
    if len(found) == 1:
        if len(everything) % 2 and len(everything) > 1:
            return _recurrent(b, everything)
        half = len(everything) // 2
        found = [everything[:half], everything[half:]]
    if len(found) != 2:
        b.fail(f"{len(found)} rows of numbers", f"one or two: {_BOTH}", found[2][0].start)
    for row in found:
        if not row or len(row) % _PER_NODE:
            remedy = "write 'naslib: ' before NASLib's six of NAS-Bench-201" if len(everything) == 6 else ""
            b.fail(f"{len(everything)} numbers in {len(rows)} rows", _BOTH, everything[0].start, remedy)
    return b.genotype({key: _cell(b, key, row, label) for key, row in zip(("normal", "reduce"), found, strict=True)})


def _is_macro(rows: list[list[_Number]]) -> bool:
    """Whether rows grow by one: an operator, then a bit for each layer before."""
    return len(rows) > 2 and all(
        len(row) == size and all(number.value in (0, 1) for number in row[1:]) for size, row in enumerate(rows, 1)
    )


def _triangle(numbers: list[_Number]) -> list[list[_Number]]:
    """Numbers in rows of 1, 2, 3, ...; none where they do not fill the last."""
    rows: list[list[_Number]] = []
    start = 0
    while start < len(numbers):
        rows.append(numbers[start : start + len(rows) + 1])
        start += len(rows)
    return rows if start == len(numbers) else []


def _cell(b: Builder, key: str, row: list[_Number], label: str) -> CellGenotype:
    nodes: list[tuple[tuple[str, int], ...]] = []
    used: set[int] = set()
    for place in range(len(row) // _PER_NODE):
        numbers = row[_PER_NODE * place : _PER_NODE * (place + 1)]
        pairs = []
        for slot, (source, code) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
            b.stands(key, place, slot, code.start, source.start)
            used.add(source.value)
            pairs.append((_op(b, code, label), source.value))
        nodes.append(tuple(pairs))
    outputs = [state for state in range(2 + len(nodes)) if state not in used]
    for at, state in enumerate(outputs):
        if state < 2:
            nodes.append((("skip_connect", state),))
            outputs[at] = 1 + len(nodes)
    return b.cell(key, tuple(nodes), tuple(outputs))


def _op(b: Builder, code: _Number, label: str) -> str:
    if 0 <= code.value < len(_OPS):
        return _OPS[code.value]
    known = ", ".join(f"{number} {op}" for number, op in enumerate(_OPS))
    if label != "nao":
        remedy = "write 'nao: ' before the numbers if they are NAO's" if 4 < code.value < 16 else ""
        b.fail(f"operator {code.value}", f"as ENAS counts: {known}", code.start, remedy)
    if code.value in _NAO_UNKNOWN:
        b.fail(f"operator {code.value}, {_NAO_UNKNOWN[code.value]}", "one that is a primitive here", code.start)
    if code.value not in _NAO_LARGE:
        b.fail(f"operator {code.value}", "as NAO counts: 0 to 15", code.start)
    return _NAO_LARGE[code.value]


def _recurrent(b: Builder, numbers: list[_Number]) -> Genotype:
    """The activation of the first node, then source and activation of each."""
    names = [_activation(b, number) for number in numbers[::2]]
    _first(b, names[0], numbers[0].start)
    pairs = [(name, source.value) for name, source in zip(names[1:], numbers[1::2], strict=True)]
    for node, (source, code) in enumerate(zip(numbers[1::2], numbers[2::2], strict=True)):
        b.stands("recurrent", node, 0, code.start, source.start)
    return _recurrent_cell(b, pairs)


def _activation(b: Builder, number: _Number) -> str:
    if not 0 <= number.value < len(_ACTIVATIONS):
        listed = ", ".join(f"{code} {name}" for code, name in enumerate(_ACTIVATIONS))
        b.fail(f"activation {number.value}", f"as ENAS counts: {listed}", number.start)
    return _ACTIVATIONS[number.value]


def _first(b: Builder, name: str, place: int) -> None:
    if name != "tanh":
        b.fail(f"{name} of the first node", "tanh, which makes the first state of a recurrent cell here", place)


def _recurrent_cell(b: Builder, pairs: list[tuple[str, int]]) -> Genotype:
    """Nodes of one pair each; their leaves are averaged."""
    used = {source for _, source in pairs}
    leaves = tuple(state for state in range(1, 1 + len(pairs)) if state not in used)
    return b.genotype({"recurrent": b.cell("recurrent", tuple((pair,) for pair in pairs), leaves, 1)})


def is_dag(value: Value) -> bool:
    """Whether a value is ENAS-pytorch's ``dag.json``: what each node feeds, the input as "-1"."""
    return isinstance(value, Fields) and value.name is None and {"-1", "0"} <= {name for name, _, _ in value.named}


def read_dag(b: Builder, root: Fields) -> Genotype:
    """Read ``{"-1": [[0, "tanh"]], "0": [[1, "ReLU"]], ...}``: for every node whom it feeds, through which activation.

    Source: carpedm20/ENAS-pytorch ``utils.save_dag`` and ``models/controller.py``.
    """
    fed: dict[int, tuple[str, int, int, int]] = {}
    for name, place, value in root.named:
        if not name.lstrip("-").isdecimal():
            b.fail(f"a node named {name!r}", "a number in quotes", place)
        for target in b.items(value, "a list of [node, activation]"):
            node, op, where = _target(b, target)
            if op in ("avg", "h[t]") or int(name) == -2:
                continue
            if node in fed:
                b.fail(f"node {node} is fed twice", "once: a recurrent node has one input", where)
            fed[node] = (op, int(name), where, place)
    if 0 not in fed or fed[0][1] != -1:
        b.fail("a graph without its first node", '"-1": [[0, "tanh"]]', root.start)
    _first(b, fed[0][0], fed[0][2])
    pairs = []
    for node in range(1, len(fed)):
        if node not in fed:
            b.fail(f"a graph without node {node}", "every node up to the last", root.end)
        op, source, where, place = fed[node]
        b.stands("recurrent", node - 1, 0, where, place)
        pairs.append((op, source))
    return _recurrent_cell(b, pairs)


def _target(b: Builder, value: Value) -> tuple[int, str, int]:
    parts = b.items(value, "[node, activation]")
    if len(parts) != 2:
        b.fail(f"an edge of {len(parts)} parts", "[node, activation]", value.start)
    name = b.string(parts[1], "an activation's name in quotes")
    return b.integer(parts[0], "a node, an integer"), "relu" if name == "ReLU" else name, parts[1].start


def spelt_rows(text: str, start: int) -> tuple[tuple[Value, ...], ...]:
    """Numbers between blanks, all one row, or a row in each pair of brackets as numpy prints it; () for other text."""
    quoted = _QUOTED.fullmatch(text, start)
    start, end = quoted.span(2) if quoted else (start, len(text))
    if not _BLANK_NUMBERS.fullmatch(text, start, end):
        return ()
    groups = [match.span() for match in _BRACKETS.finditer(text, start)] or [(start, end)]
    return tuple(
        tuple(Atom(int(number.group()), number.start()) for number in _DIGITS.finditer(text, *group))
        for group in groups
    )


def listed_rows(values: tuple[Value, ...]) -> tuple[tuple[Value, ...], ...]:
    """Lists of numbers as rows: several values, or one that lists them."""
    if len(values) == 1 and isinstance(values[0], Items) and any(isinstance(each, Items) for each in values[0].items):
        values = values[0].items
    return tuple(each.items if isinstance(each, Items) else (each,) for each in values)
