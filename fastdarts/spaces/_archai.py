"""Model descriptions of archai: the YAML of a ModelDesc, cell by cell."""

from __future__ import annotations

import re

from fastdarts.spaces._builder import Builder
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._syntax import Fields, Items, Value
from fastdarts.spaces._yaml import read_yaml

__all__ = ["is_archai", "read_archai"]

_START = re.compile(r"(?:---[^\n]*\n|\s)*(?:!!python/object:archai[\w.]*ModelDesc\b|_cell_descs:)")
_KINDS = {"regular": "normal", "reduction": "reduce"}


def is_archai(text: str, start: int) -> bool:
    """Whether such a description begins here."""
    return _START.match(text, start) is not None


def read_archai(b: Builder, start: int) -> Genotype:
    """Read the cells; where those of a type are all equal it is a shared genotype, else every layer has its own.

    Source: microsoft/archai ``archai/supergraph/nas/model_desc.py`` (1.0; before, ``archai/nas``).
    """
    root = read_yaml(b.text, start)
    b.places[()] = root.start
    found = [_cell(b, place, value) for place, value in enumerate(b.items(_field(b, root, "_cell_descs"), "cells"))]
    kinds = [kind for kind, _ in found]
    if "normal" in kinds and "reduce" in kinds:
        cells = dict(reversed(found))
        if all(cells[kind] == cell for kind, cell in found):
            return b.genotype(cells)
    depth = len(found)
    if depth == 0:
        b.fail("a model without cells", "at least one", root.start)
    if [kind == "reduce" for kind in kinds] != [layer in (depth // 3, 2 * depth // 3) for layer in range(depth)]:
        b.fail(
            f"cells of their own that reduce in layers {[n for n, kind in enumerate(kinds) if kind == 'reduce']}",
            f"layers {depth // 3} and {2 * depth // 3} of {depth}, where networks reduce here",
            root.start,
        )
    return b.genotype({f"cell{layer}": cell for layer, (_, cell) in enumerate(found)})


def _cell(b: Builder, layer: int, value: Value) -> tuple[str, CellGenotype]:
    key = f"cell{layer}"
    b.places[key,] = value.start
    kind = _kind(b, _field(b, value, "cell_type"))
    nodes = []
    for place, node in enumerate(b.items(_field(b, value, "_nodes"), "nodes")):
        b.places[key, place] = node.start
        edges = b.items(_field(b, node, "edges"), "edges")
        nodes.append(tuple(_edge(b, (key, place, slot), edge) for slot, edge in enumerate(edges)))
    post = _field(b, value, "post_op")
    name = _field(b, post, "name")
    if b.string(name, "the name of an operation") != "concate_channels":
        b.fail(f"a cell's output by {b.describe(name)}", "'concate_channels'", name.start)
    states = b.integer(_field(b, _field(b, post, "params"), "out_states"), "an integer")
    if not 1 <= states <= len(nodes):
        b.fail(f"{states} states in a cell's output", f"1 to {len(nodes)}, the last ones", post.start)
    last = 2 + len(nodes)
    return kind, b.cell(key, tuple(nodes), tuple(range(last - states, last)))


def _edge(b: Builder, path: tuple[str, int, int], value: Value) -> tuple[str, int]:
    sources = b.items(_field(b, value, "input_ids"), "a list of one state")
    op = _field(b, _field(b, value, "op_desc"), "name")
    if len(sources) != 1:
        b.fail(f"an edge with {len(sources)} inputs", "one", value.start)
    b.stands(*path, op.start, sources[0].start)
    return b.string(op, "the name of an operation"), b.integer(sources[0], "a state, an integer")


def _kind(b: Builder, value: Value) -> str:
    """``CellType`` as PyYAML writes an enumeration: a list of its value."""
    word = value.items[0] if isinstance(value, Items) and len(value.items) == 1 else value
    kind = _KINDS.get(b.string(word, "a cell type"))
    if kind is None:
        b.fail(f"a cell of type {b.describe(word)}", "'regular' or 'reduction'", word.start)
    return kind


def _field(b: Builder, value: Value, name: str) -> Value:
    for found, _, inner in value.named if isinstance(value, Fields) else ():
        if found == name:
            return inner
    b.fail(f"{b.describe(value)} without {name}", f"{name}: ...", value.start)
