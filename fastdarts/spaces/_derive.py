"""From mixing weights to a genotype: quark0's rule, SNAS' and GDAS'."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastdarts.errors import UserError, nearest
from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._space import CellSpace, Space

__all__ = ["RULES", "check_keys", "derive", "weight_rows"]


def derive(
    space: Space,
    weights: Mapping[str, Any],
    *,
    layers: int | None = None,
    edge_weights: Mapping[str, Any] | None = None,
    rule: str = "darts",
) -> Genotype:
    """Keep the strongest edges of every node and the strongest operator of every edge.

    With ``v[e, k] = w[e, k] * beta[e]`` (beta = 1 without edge weights) an edge is as strong as its strongest
    operator besides ``none``. A node keeps its ``space.keep`` strongest edges, the strongest first; of equal edges the
    earlier source wins, of equal operators the earlier column. Where the edges are fixed all stay in their order.

    Other rules, by name: ``later`` (P-DARTS) lets the later source and the later column win; ``every-edge`` (SNAS)
    keeps all edges of a node, the strongest first, each with its strongest operator, ``none`` among them; ``two-edges``
    (SNAS' other one) ``space.keep`` of these; ``pairs`` (GDAS) a node's ``space.keep`` strongest pairs of operator and
    source, ``none`` not among them, so that one edge may serve twice.

    quark0/darts and PC-DARTS decide in float32. Weights that are all float32 numbers, in whatever container, are
    therefore multiplied as float32, so that rounding makes and breaks the same ties; others as float64.

    Args:
        space: the search space.
        weights: architecture key -> mixing weights w [edges, >= primitives of the edge], after softmax or any other
            relaxation; arrays, tensors on any device, or nested sequences. Columns beyond an edge's are padding.
        layers: number of cells; None takes the space's own.
        edge_weights: architecture key -> beta [edges], or None.
        rule: ``darts``, ``later``, ``every-edge``, ``two-edges`` or ``pairs``.

    Returns:
        The genotype.

    Raises:
        UserError: an unknown rule, a missing or foreign key, a wrong number of rows or columns, a weight that is not
            finite.

    Source: DARTS, arXiv 1806.09055, section 2.4; PC-DARTS, arXiv 1907.05737, section 3.3 (docs/facts.md, 1, 3, 5).
    """
    if rule not in RULES:
        raise UserError(f"unknown rule {rule!r}", f"one of {', '.join(RULES)}", nearest(rule, RULES))
    keys = space.arch_keys(layers)
    check_keys("weights", weights, keys)
    if edge_weights is not None:
        check_keys("edge_weights", edge_weights, keys)
    cells = {}
    for key in keys:
        cell = space.cell(key, layers)
        rows = weight_rows(key, cell, weights[key])
        if edge_weights is not None:
            rows = _weighted(rows, _betas(key, cell, edge_weights[key]))
        nodes = tuple(RULES[rule](cell, rows, node, space.keep) for node in cell.states)
        cells[key] = CellGenotype(nodes, cell.concat, cell.inputs)
    return Genotype(cells)


def _node(cell: CellSpace, rows: list[list[float]], node: int, keep: int | None) -> tuple[tuple[str, int], ...]:
    best = {}
    for edge in cell.into(node):
        names = cell.edges[edge].primitives
        best[edge] = max((k for k, name in enumerate(names) if name != "none"), key=rows[edge].__getitem__)
    kept = list(best)
    if keep is not None:
        kept = sorted(best, key=lambda edge: -rows[edge][best[edge]])[:keep]
    return tuple((cell.edges[edge].primitives[best[edge]], cell.edges[edge].source) for edge in kept)


def _later(cell: CellSpace, rows: list[list[float]], node: int, keep: int | None) -> tuple[tuple[str, int], ...]:
    best = {}
    for edge in cell.into(node):
        columns = [k for k, name in enumerate(cell.edges[edge].primitives) if name != "none"]
        best[edge] = max(reversed(columns), key=rows[edge].__getitem__)
    kept = list(best)
    if keep is not None:
        kept = sorted(best, key=lambda edge: (-rows[edge][best[edge]], -edge))[:keep]
    return tuple((cell.edges[edge].primitives[best[edge]], cell.edges[edge].source) for edge in kept)


def _every_edge(cell: CellSpace, rows: list[list[float]], node: int, keep: int | None) -> tuple[tuple[str, int], ...]:
    best = {edge: max(range(len(rows[edge])), key=rows[edge].__getitem__) for edge in cell.into(node)}
    ordered = sorted(best, key=lambda edge: -rows[edge][best[edge]])
    return tuple((cell.edges[edge].primitives[best[edge]], cell.edges[edge].source) for edge in ordered)


def _two_edges(cell: CellSpace, rows: list[list[float]], node: int, keep: int | None) -> tuple[tuple[str, int], ...]:
    return _every_edge(cell, rows, node, keep)[:keep]


def _pairs(cell: CellSpace, rows: list[list[float]], node: int, keep: int | None) -> tuple[tuple[str, int], ...]:
    every = [
        (name, cell.edges[edge].source, weight)
        for edge in cell.into(node)
        for name, weight in zip(cell.edges[edge].primitives, rows[edge], strict=True)
        if name != "none"
    ]
    kept = len(cell.into(node)) if keep is None else keep
    return tuple((name, source) for name, source, _ in sorted(every, key=lambda pair: -pair[2])[:kept])


_Rule = Callable[[CellSpace, list[list[float]], int, int | None], tuple[tuple[str, int], ...]]

RULES: Mapping[str, _Rule] = {
    "darts": _node,
    "later": _later,
    "every-edge": _every_edge,
    "two-edges": _two_edges,
    "pairs": _pairs,
}
"""How a node's inputs are chosen, by name; :func:`derive` says what each does."""


def _plain(values: Any) -> Any:
    tolist = getattr(values, "tolist", None)
    if tolist is not None:
        return tolist()
    return [_plain(value) for value in values] if isinstance(values, Sequence) else float(values)


def check_keys(name: str, given: Mapping[str, Any], keys: Sequence[str]) -> None:
    """Refuse weights whose architectures are not exactly ``keys``.

    Raises:
        UserError: naming both.
    """
    if set(given) != set(keys):
        raise UserError(f"{name} for {', '.join(given) or 'nothing'}", f"for {', '.join(keys)}")


def weight_rows(key: str, cell: CellSpace, weights: Any) -> list[list[float]]:
    """Return the weights of each edge's own candidates as plain numbers, padding left out.

    Args:
        key: architecture key, for the messages.
        cell: the cell space of the key.
        weights: [edges, >= primitives of the edge]; arrays, tensors on any device, or nested sequences.

    Raises:
        UserError: a wrong number of rows or columns, a weight that is not finite.
    """
    rows = _plain(weights)
    if not isinstance(rows, list) or len(rows) != len(cell.edges) or not all(isinstance(row, list) for row in rows):
        got = f"{len(rows)} rows" if isinstance(rows, list) else "one number"
        raise UserError(f"{got} of weights for {key}", f"{len(cell.edges)} rows, one per edge")
    cut = []
    for edge, row in zip(cell.edges, rows, strict=True):
        if len(row) < len(edge.primitives):
            raise UserError(
                f"{len(row)} weights on edge {edge.source} -> {edge.node} of {key}",
                f"at least {len(edge.primitives)}, one per primitive",
            )
        cut.append([_finite(key, value) for value in row[: len(edge.primitives)]])
    return cut


def _betas(key: str, cell: CellSpace, weights: Any) -> list[float]:
    betas = _plain(weights)
    if not isinstance(betas, list) or len(betas) != len(cell.edges):
        raise UserError(f"edge weights of the wrong shape for {key}", f"{len(cell.edges)} numbers, one per edge")
    return [_finite(key, beta) for beta in betas]


def _finite(key: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise UserError(f"a weight of {key} is {number}", "finite mixing weights", "look for a diverged search")
    return number


def _weighted(rows: list[list[float]], betas: list[float]) -> list[list[float]]:
    single = all(map(_is_float32, betas)) and all(map(_is_float32, (value for row in rows for value in row)))
    # The product of two float32 numbers is exact in float64, so rounding it once is float32 multiplication.
    multiply = (lambda v, beta: _to_float32(v * beta)) if single else operator.mul
    return [[multiply(v, beta) for v in row] for row, beta in zip(rows, betas, strict=True)]


def _to_float32(value: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", value))[0])
    except OverflowError:
        return math.copysign(math.inf, value)


def _is_float32(value: float) -> bool:
    return _to_float32(value) == value
