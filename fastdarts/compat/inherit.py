"""Weights of a search network for the network derived from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.nn import DerivedNetwork
from fastdarts.spaces import CellGenotype, CellSpace

__all__ = ["inherit_weights"]


@torch.no_grad()
def inherit_weights(derived: DerivedNetwork, searched: nn.Module) -> tuple[str, ...]:
    """Copy the weights and statistics of a search network into the network of its genotype.

    The papers train the derived network from scratch; this is for whoever starts from the shared weights. What a search
    network does not have stays as it is: the scale and shift of batch norms, the auxiliary head. What the derived one
    does not have is left out: the batch norms after pools.

    Args:
        derived: of as many cells, channels and classes as the search network.
        searched: a search network of :mod:`fastdarts.compat.darts`, or a :class:`fastdarts.nn.Supernet`.

    Returns:
        The keys of the derived network's `state_dict` that were not copied.

    Raises:
        UserError: for networks that do not fit, naming the first tensor, cell or edge that does not.
    """
    theirs: Any = searched.cells
    cells: list[tuple[Any, Any]] = list(zip(derived.cells, theirs, strict=False))
    kinds = [[bool(cell.reduction) for cell in each] for each in (derived.cells, theirs)]
    if kinds[0] != kinds[1]:
        raise UserError(
            f"a derived network of {len(kinds[0])} cells that reduces in {_places(kinds[0])}",
            f"{len(kinds[1])} cells that reduce in {_places(kinds[1])}, as the search network has",
        )
    moved: dict[str, str] = {}
    for layer, (new, old) in enumerate(cells):
        places = _edges(layer, new.genotype, old.space)
        moved |= {f"cells.{layer}.{key}": f"cells.{layer}.{value}" for key, value in places}
    own, other = derived.state_dict(), searched.state_dict()
    taken: dict[str, Tensor] = {}
    left = []
    for key, value in own.items():
        prefix = ".".join(key.split(".")[:4])
        source = moved[prefix] + key[len(prefix) :] if prefix in moved else key
        if source not in other:
            left.append(key)
        elif other[source].shape != value.shape:
            raise UserError(
                f"{source} of the search network is {list(other[source].shape)}",
                f"{list(value.shape)}, as {key} of the derived network",
                "build both with the same channels and classes; operators on part of the channels (PC-DARTS) fit no "
                "derived network",
            )
        else:
            taken[key] = other[source]
    derived.load_state_dict(taken, strict=False)
    return tuple(left)


def _places(kinds: list[bool]) -> str:
    return ", ".join(str(layer) for layer, reduces in enumerate(kinds) if reduces) or "none"


def _edges(layer: int, genotype: CellGenotype, space: CellSpace) -> Iterator[tuple[str, str]]:
    """Each operator of a derived cell, and its place among the candidates of the searched one."""
    places = {(edge.source, edge.node): (index, edge.primitives) for index, edge in enumerate(space.edges)}
    for number, (op, source, node) in enumerate(genotype.edges()):
        index, primitives = places.get((source, node), (0, ()))
        if op not in primitives:
            raise UserError(
                f"{op} on edge {source} -> {node} of cell {layer}",
                f"one of {', '.join(primitives)}" if primitives else "an edge that was searched",
                "take the genotype of this search network",
            )
        yield f"_ops.{number}", f"_ops.{index}._ops.{primitives.index(op)}"
