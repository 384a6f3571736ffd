"""Configurations of NAS-Bench-301: ConfigSpace's dictionary of edges and inputs, as JSON or as it is printed."""

from __future__ import annotations

import re

from fastdarts.spaces._builder import Builder
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._syntax import Atom, Fields, Value

__all__ = ["find_configuration", "read_configuration", "read_printed"]

_PREFIX = "NetworkSelectorDatasetInfo:darts:"
_EDGE = re.compile(rf"{_PREFIX}edge_(normal|reduce)_(\d{{1,2}})")
_INPUTS = re.compile(rf"{_PREFIX}inputs_node_(normal|reduce)_(\d{{1,2}})")
_OLD = re.compile(r"Configuration(?:\([^)\n]*\))?:\s*\n")
_OLD_LINE = re.compile(r"[ \t]*([\w:]+), (?:Value|Constant): ('[^'\n]*'|\S+)[ \t]*\r?(?:\n|\Z)")
_NODES = range(2, 6)
# The fields of a record of the benchmark that hold the configuration; the first is misspelt there.
_WITHIN = ("optimized_hyperparamater_config", "optimized_hyperparameter_config", "values")

Entries = tuple[tuple[str, int, Value], ...]


def find_configuration(value: Value) -> Entries:
    """The entries of a configuration, also in a record or ``Configuration(values={...})``; () where there is none."""
    if not isinstance(value, Fields):
        return ()
    if any(_EDGE.fullmatch(name) for name, _, _ in value.named):
        return value.named
    inner = [each for name, _, each in value.named if name in _WITHIN]
    return find_configuration(inner[0]) if len(inner) == 1 else ()


def read_printed(text: str, start: int) -> Entries:
    """The entries of ``Configuration:`` and lines ``name, Value: 'x'``, as ConfigSpace printed until 2022; else ()."""
    opening = _OLD.match(text, start)
    place = opening.end() if opening else len(text)
    entries = []
    while place < len(text) and (line := _OLD_LINE.match(text, place)):
        value = Atom(line.group(2).strip("'"), line.start(2))
        entries.append((line.group(1), line.start(1), value))
        place = line.end()
    return () if text[place:].strip() else tuple(entries)


def read_configuration(b: Builder, entries: Entries) -> Genotype:
    """Read the two cells; every other entry of the configuration is the training's and is passed over.

    Edges are numbered node by node, as everywhere; where the inputs of a node are named too, the edges must be theirs.

    Source: nasbench301 ``representations.py``; NASLib ``nasbench301/conversions.py``.
    """
    edges: dict[str, dict[tuple[int, int], tuple[str, int, int]]] = {"normal": {}, "reduce": {}}
    inputs: dict[tuple[str, int], tuple[str, int]] = {}
    every = [(node, source) for node in _NODES for source in range(node)]
    for name, place, value in entries:
        if found := _EDGE.fullmatch(name):
            key, number = found.group(1), int(found.group(2))
            if number >= len(every):
                b.fail(f"edge {number} of the {key} cell", f"0 to {len(every) - 1}", place)
            if every[number] in edges[key]:
                b.fail(f"{name} is given twice", "each once", place)
            edges[key][every[number]] = (b.string(value, "the primitive's name"), value.start, place)
        elif found := _INPUTS.fullmatch(name):
            inputs[found.group(1), int(found.group(2))] = (b.string(value, "two states, as 0_2"), value.start)
    return b.genotype({key: _cell(b, key, edges[key], inputs) for key in edges})


def _cell(
    b: Builder,
    key: str,
    edges: dict[tuple[int, int], tuple[str, int, int]],
    inputs: dict[tuple[str, int], tuple[str, int]],
) -> CellGenotype:
    nodes = []
    for place, node in enumerate(_NODES):
        pairs: list[tuple[str, int]] = []
        for source in range(node):
            if (node, source) in edges:
                op, where, edge = edges[node, source]
                b.stands(key, place, len(pairs), where, edge)
                pairs.append((op, source))
        sources = "_".join(str(source) for _, source in pairs)
        named, where = inputs.get((key, node), (sources, b.places[()]))
        if len(pairs) != 2 or named != sources:
            what = f"node {node} of the {key} cell has edges from {sources.replace('_', ', ') or 'nowhere'}"
            expected = f"edges from its inputs {named}" if (key, node) in inputs else "two edges"
            b.fail(what, expected, where)
        nodes.append(tuple(pairs))
    return b.cell(key, tuple(nodes), tuple(_NODES))
