"""Cells as pairs of numbers (source, operator): NASLib's compact tuples, BANANAS' lists, RandomNAS' architectures.

All three look alike, and a number means another operator in each: 0 is ``max_pool_3x3``, ``none``, or what comes first
in a space of RobustDARTS. Only NASLib nests nothing but tuples; the others say whose they are by a label.
"""

from __future__ import annotations

from fastdarts.spaces._builder import Builder
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._presets import space, space_names
from fastdarts.spaces._space import Space
from fastdarts.spaces._syntax import Fields, Items, Value

__all__ = ["is_numbers", "is_pairs", "read_indices", "read_pairs"]

_KEYS = ("normal", "reduce")
# NASLib's OP_NAMES_NB201 and the order in which its six numbers go over the edges, as (source, node).
_NB201 = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
_NB201_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
_RANDOM = "randomnas"
_SEVEN = ("naslib", "bananas")
# Labels of numbers that are no pairs.
_OTHERS = ("enas", "nao")


def is_numbers(value: Value) -> bool:
    """Whether the first thing inside a list, however deep, is a number."""
    while isinstance(value, Items) and value.items:
        value = value.items[0]
    if isinstance(value, Fields):
        return bool(value.items) and is_numbers(value.items[0])
    return not isinstance(value, Items) and isinstance(value.value, (int, float))


def is_pairs(value: Value) -> bool:
    """Whether a value is a cell of pairs: a list whose first entry is a list."""
    return isinstance(value, Items) and bool(value.items) and isinstance(value.items[0], Items)


def read_pairs(b: Builder, cells: tuple[Value, ...], label: str) -> Genotype:
    """Read the normal and the reduction cell, two pairs a node, every node concatenated.

    Args:
        b: the builder of the text.
        cells: two lists of (source, operator).
        label: whose they are: ``naslib``, ``bananas``, ``randomnas``, or ``randomnas-s1`` to ``-s4`` for RobustDARTS'
            spaces; "" for NASLib's where every bracket is round.

    Source: NASLib ``nasbench301/conversions.py``; randomNAS_release ``scripts/parse_cnn_arch.py``; RobustDARTS
        ``src/search/randomNAS``.
    """
    if len(cells) != len(_KEYS):
        place = cells[2].start if len(cells) > len(_KEYS) else cells[0].start
        b.fail(f"{len(cells)} cells of pairs", "two, the normal and the reduction cell", place)
    names = _spaces()
    writer = "naslib" if label not in (*names, *_OTHERS) and all(_round(b.text, cell) for cell in cells) else label
    if writer not in names:
        b.fail(
            "pairs of numbers that mean other operators in other projects",
            "a label before them",
            cells[0].start,
            f"write 'naslib: ', 'bananas: ', '{_RANDOM}: ' or, for RobustDARTS' spaces, '{_RANDOM}-s1: ' to '-s4: '",
        )
    found = {key: _cell(b, key, cell, names[writer], writer) for key, cell in zip(_KEYS, cells, strict=True)}
    return b.genotype(found)


def _spaces() -> dict[str, str]:
    """The space of each label; NASLib and BANANAS count as DARTS' without ``none``."""
    robust = {f"{_RANDOM}-{name}": name for name in space_names() if name in ("s1", "s2", "s3", "s4")}
    return dict.fromkeys((*_SEVEN, _RANDOM), "darts") | robust


def _cell(b: Builder, key: str, value: Value, name: str, writer: str) -> CellGenotype:
    pairs = b.items(value, "a list of (source, operator)")
    if not pairs or len(pairs) % 2:
        b.fail(f"a cell of {len(pairs)} pairs", "two for each node", value.start)
    searched = space(name)
    nodes = []
    for place in range(len(pairs) // 2):
        both = pairs[2 * place : 2 * place + 2]
        nodes.append(tuple(_pair(b, (key, place, slot), pair, searched, writer) for slot, pair in enumerate(both)))
    return b.cell(key, tuple(nodes), tuple(range(2, 2 + len(nodes))))


def _pair(b: Builder, path: tuple[str, int, int], value: Value, searched: Space, writer: str) -> tuple[str, int]:
    parts = b.items(value, "(source, operator)")
    if len(parts) != 2:
        b.fail(f"a pair of {len(parts)} numbers", "(source, operator)", value.start)
    source, code = (b.integer(part, "an integer") for part in parts)
    key, place, slot = path
    b.stands(key, place, slot, parts[1].start, parts[0].start)
    node, cell = 2 + place, searched.normal if key == "normal" else searched.reduce
    edge = next((e for e in cell.edges if e.source == source and e.node == node), None)
    if edge is None:
        last = min(node, cell.states[-1]) - 1
        b.fail(
            f"source {source} of node {node}",
            f"a state from 0 to {last} in a cell of {cell.nodes} nodes",
            parts[0].start,
        )
    ops = tuple(op for op in edge.primitives if op != "none") if writer in _SEVEN else edge.primitives
    if not 0 <= code < len(ops):
        listed = ", ".join(f"{number} {op}" for number, op in enumerate(ops))
        b.fail(f"operator {code} on edge {source} -> {node}", f"as {writer} counts: {listed}", parts[1].start)
    return ops[code], source


def _round(text: str, value: Value) -> bool:
    """Whether every bracket of a list of lists is round, as only NASLib's are."""
    return isinstance(value, Items) and all(
        isinstance(each, Items) and text[each.start] == "(" for each in (value, *value.items)
    )


def read_indices(b: Builder, numbers: tuple[Value, ...]) -> Genotype:
    """Read NASLib's six operators of a NAS-Bench-201 cell.

    Source: NASLib ``nasbench201/conversions.py``, OP_NAMES and EDGE_LIST.
    """
    nodes: list[list[tuple[str, int]]] = [[], [], []]
    for value, (source, node) in zip(numbers, _NB201_EDGES, strict=True):
        code = b.integer(value, "an operator, an integer")
        if not 0 <= code < len(_NB201):
            listed = ", ".join(f"{number} {op}" for number, op in enumerate(_NB201))
            b.fail(f"operator {code}", f"as NASLib counts: {listed}", value.start)
        nodes[node - 1].append((_NB201[code], source))
    cell = b.cell("cell", tuple(tuple(sorted(node, key=lambda pair: pair[1])) for node in nodes), (3,), 1)
    return b.genotype({"cell": cell})
