"""quark0's genotype as a named tuple, and the way to fastdarts' own and back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

from fastdarts import spaces
from fastdarts.errors import UserError

__all__ = ["PRIMITIVES", "Genotype", "from_genotype", "to_genotype"]

PRIMITIVES = list(spaces.space("darts").normal.edges[0].primitives)
"""The candidates of every edge, in the order of the columns of alpha: docs/facts.md, 1."""


class Genotype(NamedTuple):
    """A pair of cells as quark0 writes them; equal to the peers' named tuple of the same fields.

    Args:
        normal: (primitive, source) of each edge of the normal cell, two per node.
        normal_concat: states whose concatenation is the normal cell's output.
        reduce: the same of the reduction cell.
        reduce_concat: the same of the reduction cell.
    """

    normal: Sequence[tuple[str, int]]
    normal_concat: Sequence[int]
    reduce: Sequence[tuple[str, int]]
    reduce_concat: Sequence[int]


def from_genotype(genotype: spaces.Genotype) -> Genotype:
    """quark0's form of a genotype of shared cells: edges as a flat list, concat as a range where it is one."""

    def edges(cell: spaces.CellGenotype) -> list[tuple[str, int]]:
        return [(op, source) for op, source, _ in cell.edges()]

    def concat(cell: spaces.CellGenotype) -> Sequence[int]:
        run = range(cell.concat[0], cell.concat[0] + len(cell.concat))
        return run if cell.concat == tuple(run) else list(cell.concat)

    normal, reduce = genotype.normal, genotype.reduce
    return Genotype(edges(normal), concat(normal), edges(reduce), concat(reduce))


def to_genotype(genotype: Genotype | spaces.Genotype | str) -> spaces.Genotype:
    """fastdarts' form of a genotype with quark0's four fields, of whichever class, of a text, or of a published name.

    Two edges a node, as quark0 writes them, or all of every node, as SNAS does (`*_edge_all`).

    Raises:
        UserError: a number of edges that is neither, what :class:`fastdarts.spaces.CellGenotype` refuses, or what
            :func:`fastdarts.spaces.parse_genotype` does: a whole file among others, with the remedy; an unknown name.
        TypeError: something without the four fields.
    """
    if isinstance(genotype, spaces.Genotype):
        return genotype
    if isinstance(genotype, str):
        named = re.fullmatch(r"\s*[\w-]+\s*", genotype)
        return spaces.published(genotype.strip()) if named else spaces.parse_genotype(genotype)
    if isinstance(genotype, ModuleType):
        raise TypeError(f"genotype is the module {genotype.__name__}; expected one of its genotypes, as .DARTS_V2")
    if not all(hasattr(genotype, field) for field in Genotype._fields):
        raise TypeError(f"genotype is a {type(genotype).__name__}; expected the fields {', '.join(Genotype._fields)}")

    def cell(kind: str, edges: Sequence[tuple[str, int]], concat: Sequence[int] | None) -> spaces.CellGenotype:
        try:
            return spaces.CellGenotype.from_pairs(edges, concat)
        except spaces.GenotypeError as error:
            raise UserError(f"in the {kind} cell, {error.what}", error.expected, error.remedy) from None

    return spaces.Genotype(
        {
            "normal": cell("normal", genotype.normal, genotype.normal_concat),
            "reduce": cell("reduce", genotype.reduce, genotype.reduce_concat),
        }
    )
