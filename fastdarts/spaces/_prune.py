"""A search space with fewer candidates, each under its own name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fastdarts.errors import UserError
from fastdarts.spaces._derive import check_keys, weight_rows
from fastdarts.spaces._space import CellSpace, Edge, Space

__all__ = ["prune"]


def prune(space: Space, weights: Mapping[str, Any], keep: int, *, layers: int | None = None) -> Space:
    """Keep the heaviest candidates of every edge.

    The survivors stay in their order, so that a column of alpha is still the candidate of its name. An edge that has no
    more than ``keep`` stays as it is. ``none`` may survive, but never alone: where it would, the heaviest of the others
    takes its place. Of equal weights the earlier column goes, as in P-DARTS' own code.

    Args:
        space: the search space; its cells of a type share one architecture.
        weights: architecture key -> mixing weights [edges, >= primitives of the edge]; arrays, tensors on any device,
            or nested sequences. Columns beyond an edge's are padding.
        keep: candidates that an edge keeps, at least 1.
        layers: number of cells; None takes the space's own.

    Returns:
        The space of the survivors, named ``NAME/keep``; depth, wiring and what a genotype keeps are the space's.

    Raises:
        UserError: a space without shared cells, ``keep`` below 1, a missing or foreign key, a wrong number of rows or
            columns, a weight that is not finite.

    Source: Chen et al. 2019 (P-DARTS), section 3.2, search space approximation.
    """
    if not space.shared:
        raise UserError(
            f"space {space.name}, in which every cell has an architecture of its own, cannot be pruned",
            "a space whose cells of a type share one: the candidates of a space belong to its two cell types",
        )
    if keep < 1:
        raise UserError(f"keep {keep} candidates", "at least 1")
    check_keys("weights", weights, space.arch_keys(layers))
    cells = {key: _cell(key, space.cell(key, layers), weights[key], keep) for key in space.arch_keys(layers)}
    return replace(space, name=f"{space.name}/{keep}", normal=cells["normal"], reduce=cells["reduce"])


def _cell(key: str, cell: CellSpace, weights: Any, keep: int) -> CellSpace:
    rows = weight_rows(key, cell, weights)
    return replace(cell, edges=tuple(_edge(edge, row, keep) for edge, row in zip(cell.edges, rows, strict=True)))


def _edge(edge: Edge, row: Sequence[float], keep: int) -> Edge:
    names = edge.primitives
    heaviest = sorted(range(len(names)), key=lambda column: (-row[column], -column))
    kept = heaviest[:keep]
    if all(names[column] == "none" for column in kept):
        kept = [next(column for column in heaviest if names[column] != "none")]
    return replace(edge, primitives=tuple(names[column] for column in sorted(kept)))
