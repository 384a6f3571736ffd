"""Architectures drawn uniformly: the baseline that every search must beat."""

from __future__ import annotations

from random import Random

from fastdarts.spaces._genotype import CellGenotype, Genotype
from fastdarts.spaces._space import CellSpace, Space

__all__ = ["random_genotype"]


def random_genotype(space: Space, seed: int, *, layers: int | None = None, with_none: bool = False) -> Genotype:
    """Draw one genotype, every one of the space with the same probability.

    The space's genotypes are numbered 0, ..., ``space.size(layers) - 1``; one number is drawn and spelt out, so that
    spaces with unequal candidates stay uniform. Inside a node the edges are ordered by source.

    Args:
        space: the search space.
        seed: the same seed gives the same genotype on every machine.
        layers: number of cells; None takes the space's own.
        with_none: draw as random search with weight sharing does (Li and Talwalkar): a node's edges uniformly, then
            for each of them one of its primitives uniformly, ``none`` among them.

    Returns:
        A genotype: ``keep`` distinct edges per node (all where the edges are fixed), ``none`` only where asked for.
    """
    if with_none:
        return _with_none(space, Random(seed), layers)
    number = Random(seed).randrange(space.size(layers))
    cells: dict[str, CellGenotype] = {}
    for key in space.arch_keys(layers):
        cell = space.cell(key, layers)
        number, here = divmod(number, cell.size(space.keep))
        cells[key] = _cell(cell, space.keep, here)
    return Genotype(cells)


def _with_none(space: Space, draw: Random, layers: int | None) -> Genotype:
    cells = {}
    for key in space.arch_keys(layers):
        cell, nodes = space.cell(key, layers), []
        for node in cell.states:
            into = cell.into(node)
            kept = sorted(draw.sample(into, len(into) if space.keep is None else min(space.keep, len(into))))
            edges = [cell.edges[index] for index in kept]
            nodes.append(tuple((draw.choice(edge.primitives), edge.source) for edge in edges))
        cells[key] = CellGenotype(tuple(nodes), cell.concat, cell.inputs)
    return Genotype(cells)


def _cell(cell: CellSpace, keep: int | None, number: int) -> CellGenotype:
    nodes = []
    for node in cell.states:
        number, here = divmod(number, cell.node_size(node, keep))
        nodes.append(_node(cell, node, keep, here))
    return CellGenotype(tuple(nodes), cell.concat, cell.inputs)


def _node(cell: CellSpace, node: int, keep: int | None, number: int) -> tuple[tuple[str, int], ...]:
    edges = [cell.edges[index] for index in cell.into(node)]
    left = len(edges) if keep is None else min(keep, len(edges))
    # ways[i][n]: choices of n edges among edges[i:], with an operator each.
    ways = [[1] + [0] * left]
    for edge in reversed(edges):
        after = ways[0]
        count = len(edge.choices)
        ways.insert(0, [1] + [after[n] + count * after[n - 1] for n in range(1, left + 1)])
    pairs = []
    for place, edge in enumerate(edges):
        without = ways[place + 1][left]
        if number < without:
            continue
        number -= without
        choice, number = divmod(number, ways[place + 1][left - 1])
        pairs.append((edge.choices[choice], edge.source))
        left -= 1
    return tuple(pairs)
