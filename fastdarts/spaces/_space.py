"""Search spaces as data: which edges a cell has and which primitives each edge may carry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fastdarts.errors import UserError, did_you_mean
from fastdarts.reading import conform
from fastdarts.spaces._genotype import Genotype
from fastdarts.spaces._primitives import PRIMITIVES

__all__ = ["CellSpace", "Edge", "Space"]

_FORMAT = "fastdarts-space/1"
_EDGE = {"source!": int, "node!": int, "primitives!": [str]}
_CELL = {"edges!": [_EDGE], "nodes!": int, "concat!": [int]}
_SPACE: dict[str, Any] = {"name!": str, "normal!": _CELL, "reduce!": _CELL, "shared!": bool, "layers!": int}
_SPACE |= {"keep!": (int, None), "source!": str}
# The deepest network of the field has some hundred cells; every cell costs memory before anything is computed.
_MOST_LAYERS = 10_000
_MOST_NODES = 1_000


@dataclass(frozen=True)
class Edge:
    """One edge of a cell with its candidate operators.

    Args:
        source: state that feeds the edge; 0 and 1 are the cell inputs c_{k-2} and c_{k-1}, the first node is 2.
        node: state that the edge feeds.
        primitives: candidates in the order of the columns of alpha.

    Raises:
        UserError: unknown, repeated or missing primitives, or a source that does not come before the node.
    """

    source: int
    node: int
    primitives: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "primitives", tuple(self.primitives))
        for name in ("source", "node"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} of an edge must be an int, got {getattr(self, name)!r}")
        where = f"edge {self.source} -> {self.node}"
        if not 0 <= self.source < self.node:
            raise UserError(f"{where} does not run forwards", "0 <= source < node")
        searchable = [name for name, primitive in PRIMITIVES.items() if primitive.family != "activation"]
        for name in self.primitives:
            if not isinstance(name, str):
                raise TypeError(f"primitives of {where} must be names, got {name!r}")
            if name not in searchable:
                raise UserError(
                    f"unknown primitive {name!r} on {where}",
                    f"one of {', '.join(searchable)}",
                    did_you_mean(name, searchable),
                )
        if len(set(self.primitives)) != len(self.primitives):
            raise UserError(f"{where} names a primitive twice: {', '.join(self.primitives)}", "each at most once")
        if not self.choices:
            raise UserError(f"{where} has no candidate to choose", "at least one primitive besides none")

    @property
    def choices(self) -> tuple[str, ...]:
        """The candidates that a genotype may name: all but ``none``, in order."""
        return tuple(name for name in self.primitives if name != "none")


@dataclass(frozen=True)
class CellSpace:
    """The edges of one cell type.

    Args:
        edges: ordered by node, then by source: the order of the rows of alpha.
        nodes: number of intermediate nodes; their states are inputs, ..., inputs + nodes - 1.
        concat: states whose concatenation is the cell's output.
        inputs: number of cell inputs.

    Raises:
        UserError: edges out of order or repeated, a node without inputs, a state that does not exist.
    """

    edges: tuple[Edge, ...]
    nodes: int
    concat: tuple[int, ...]
    inputs: int = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        object.__setattr__(self, "concat", tuple(self.concat))
        if self.nodes < 1 or self.inputs < 1:
            raise UserError(f"a cell of {self.nodes} nodes and {self.inputs} inputs", "at least one of each")
        if self.nodes > _MOST_NODES:
            raise UserError(f"a cell of {self.nodes} nodes", f"at most {_MOST_NODES}")
        states = range(self.inputs, self.inputs + self.nodes)
        place = [(edge.node, edge.source) for edge in self.edges]
        for edge in self.edges:
            if edge.node not in states:
                raise UserError(
                    f"edge {edge.source} -> {edge.node} feeds no node of the cell",
                    f"a node from {states[0]} to {states[-1]}",
                )
        for before, after in pairwise(place):
            if before == after:
                raise UserError(f"edge {after[1]} -> {after[0]} is given twice", "one edge per source and node")
            if before > after:
                raise UserError(
                    f"edge {after[1]} -> {after[0]} comes after {before[1]} -> {before[0]}",
                    "edges ordered by node, then by source",
                )
        for node in states:
            if not self.into(node):
                raise UserError(f"node {node} has no inputs", "at least one edge into every node")
        if not self.concat or len(set(self.concat)) != len(self.concat):
            raise UserError(f"concat {list(self.concat)}", "one or more nodes, each once")
        for node in self.concat:
            if node not in states:
                raise UserError(f"concat names state {node}", f"nodes from {states[0]} to {states[-1]}")

    def into(self, node: int) -> tuple[int, ...]:
        """Return the indices of the edges that feed ``node``, in order."""
        return tuple(index for index, edge in enumerate(self.edges) if edge.node == node)

    @property
    def states(self) -> range:
        """The states of the intermediate nodes."""
        return range(self.inputs, self.inputs + self.nodes)

    @property
    def width(self) -> int:
        """The largest number of primitives on an edge: the columns of alpha."""
        return max(self.counts)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of primitives of each edge."""
        return tuple(len(edge.primitives) for edge in self.edges)

    def node_size(self, node: int, keep: int | None) -> int:
        """Count the ways to wire one node.

        ``sum over sets S of keep edges into the node of prod_{e in S} |choices(e)|``, the elementary symmetric
        polynomial of the numbers of choices; a node with fewer edges than ``keep`` keeps all of them.

        Args:
            node: state of the node.
            keep: edges kept; None keeps all.
        """
        choices = [len(self.edges[index].choices) for index in self.into(node)]
        kept = len(choices) if keep is None else min(keep, len(choices))
        ways = [1] + [0] * kept
        for count in choices:
            for size in range(kept, 0, -1):
                ways[size] += ways[size - 1] * count
        return ways[kept]

    def size(self, keep: int | None) -> int:
        """Count the cells: the product of :meth:`node_size` over the nodes."""
        return math.prod(self.node_size(node, keep) for node in self.states)


@dataclass(frozen=True)
class Space:
    """A search space: two cell types, how they are stacked, and what a genotype keeps of them.

    Args:
        name: short name; presets are found by it.
        normal: the cell type that keeps the resolution.
        reduce: the cell type that halves it.
        shared: whether all cells of a type share one architecture (keys normal, reduce) or every layer has its
            own (keys cell0, cell1, ...).
        layers: number of cells when the user names none.
        keep: edges kept per node in a genotype; None where the edges are fixed and all are kept.
        source: paper.
    """

    name: str
    normal: CellSpace
    reduce: CellSpace
    shared: bool = True
    layers: int = 8
    keep: int | None = 2
    source: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise UserError(f"a space named {self.name!r}", "a name")
        if self.keep is not None and self.keep < 1:
            raise UserError(f"keep {self.keep}", "at least 1, or None to keep every edge")
        for cell in (self.normal, self.reduce):
            if not isinstance(cell, CellSpace):
                raise TypeError(f"a cell of a search space must be a CellSpace, got {type(cell).__name__}")
        if self.normal.inputs != 2 or self.reduce.inputs != 2:
            raise UserError("a cell of a search space without two inputs", "inputs=2: c_{k-2} and c_{k-1}")
        self._depth(self.layers)

    def _depth(self, layers: int | None) -> int:
        layers = self.layers if layers is None else layers
        if not isinstance(layers, int) or isinstance(layers, bool):
            raise TypeError(f"layers must be an int, got {layers!r}")
        if not 1 <= layers <= _MOST_LAYERS:
            raise UserError(f"a network of {layers} layers", f"at least 1 layer, at most {_MOST_LAYERS}")
        return layers

    def reductions(self, layers: int | None = None) -> set[int]:
        """Return the layers that reduce: ``{L // 3, 2 L // 3}`` (docs/facts.md, 1)."""
        depth = self._depth(layers)
        return {depth // 3, 2 * depth // 3}

    def kinds(self, layers: int | None = None) -> tuple[str, ...]:
        """Return "normal" or "reduce" for every layer."""
        reductions = self.reductions(layers)
        return tuple("reduce" if layer in reductions else "normal" for layer in range(self._depth(layers)))

    def keys(self, layers: int | None = None) -> tuple[str, ...]:
        """Return the architecture key of every layer: its kind if shared, else cell0, cell1, ..."""
        if self.shared:
            return self.kinds(layers)
        return tuple(f"cell{layer}" for layer in range(self._depth(layers)))

    def arch_keys(self, layers: int | None = None) -> tuple[str, ...]:
        """Return the distinct architecture keys in order.

        A shared space always has both, as quark0/darts has, though a network of one or two layers is all reduction.
        """
        self._depth(layers)
        return ("normal", "reduce") if self.shared else self.keys(layers)

    def cell(self, key: str, layers: int | None = None) -> CellSpace:
        """Return the cell space of an architecture key.

        Raises:
            UserError: the space has no such key at this depth.
        """
        keys = self.arch_keys(layers)
        if key not in keys:
            raise UserError(f"space {self.name} has no architecture {key!r}", f"one of {', '.join(keys)}")
        kind = key if self.shared else self.kinds(layers)[keys.index(key)]
        return self.normal if kind == "normal" else self.reduce

    def size(self, layers: int | None = None) -> int:
        """Count the genotypes of the space exactly.

        ``prod over architectures, over nodes of sum_{|S| = keep} prod_{e in S} |choices(e)|``. Two genotypes that
        differ only in the order of a node's edges are one; ``none`` is no choice. This is the counting of DARTS
        (arXiv 1806.09055, appendix): ``(prod_{k=1..4} k(k+1)/2 * 7^2)^2 = 1,037,664,180^2 = 1.08e18``, and of
        Amended-DARTS (arXiv 1910.11831, section 4.1.3): 7^16 = 3.3e13 for S1 and 2^160 = 1.5e48 for S2.
        """
        return math.prod(self.cell(key, layers).size(self.keep) for key in self.arch_keys(layers))

    def check(self, genotype: Genotype, layers: int | None = None, *, counted: bool = False) -> None:
        """Refuse a genotype that no supernet of this space holds.

        Methods derive in their own ways from the same supernet: DARTS keeps ``keep`` different inputs a node and never
        ``none``, SNAS every edge with its strongest operator, which may be ``none``, GDAS two operators a node, which
        may have the same input. All are in the space.

        Args:
            genotype: to be looked at.
            layers: number of cells; None takes the space's own.
            counted: refuse also what :meth:`size` does not count: a node with another number of different inputs than
                ``keep``, and ``none``.

        Raises:
            UserError: naming the first architecture, node or edge that the space does not have.
        """
        keys = self.arch_keys(layers)
        if genotype.keys != keys:
            raise UserError(
                f"a genotype with cells {', '.join(genotype.keys)}",
                f"the cells of space {self.name}: {', '.join(keys)}",
            )
        for key in keys:
            cell = self.cell(key, layers)
            found = genotype.cell(key)
            if len(found.nodes) != cell.nodes or set(found.concat) != set(cell.concat):
                raise UserError(
                    f"{key} cell of {len(found.nodes)} nodes, concat {list(found.concat)}",
                    f"{cell.nodes} nodes, concat {list(cell.concat)} as in space {self.name}",
                )
            for node, pairs in zip(cell.states, found.nodes, strict=True):
                self._check_node(key, cell, node, pairs, counted)

    def _check_node(
        self, key: str, cell: CellSpace, node: int, pairs: tuple[tuple[str, int], ...], counted: bool
    ) -> None:
        by_source = {cell.edges[index].source: cell.edges[index] for index in cell.into(node)}
        keep = len(by_source) if self.keep is None else min(self.keep, len(by_source))
        sources = [source for _, source in pairs]
        if counted and (len(sources) != keep or len(set(sources)) != keep):
            raise UserError(f"node {node} of the {key} cell has inputs {sources}", f"{keep} different sources")
        if len(set(pairs)) != len(pairs):
            raise UserError(f"node {node} of the {key} cell has an operator twice: {list(pairs)}", "each once an edge")
        for op, source in pairs:
            edge = by_source.get(source)
            there = () if edge is None else edge.choices if counted else edge.primitives
            if op not in there:
                allowed = "no such edge" if edge is None else ", ".join(there)
                raise UserError(
                    f"{op} on edge {source} -> {node} of the {key} cell",
                    f"what space {self.name} has there: {allowed}",
                )

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON data, so that a run can record a space of the user's own."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "normal": _cell_to_json(self.normal),
            "reduce": _cell_to_json(self.reduce),
            "shared": self.shared,
            "layers": self.layers,
            "keep": self.keep,
            "source": self.source,
        }

    @classmethod
    def from_json(cls, data: object) -> Space:
        """Rebuild a space from :meth:`to_json`.

        Raises:
            UserError: the data is not a space, or not a valid one.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise UserError("not the JSON of a search space", f'an object with "format": "{_FORMAT}"')
        try:
            conform(data, _SPACE, "the JSON of a search space")
            return cls(
                data["name"],
                _cell_from_json(data["normal"]),
                _cell_from_json(data["reduce"]),
                bool(data["shared"]),
                data["layers"],
                data["keep"],
                data["source"],
            )
        except (KeyError, TypeError) as error:
            raise UserError(f"the JSON of a search space is malformed: {error}", "what Space.to_json writes") from None


def _cell_to_json(cell: CellSpace) -> dict[str, Any]:
    edges = [{"source": e.source, "node": e.node, "primitives": list(e.primitives)} for e in cell.edges]
    return {"edges": edges, "nodes": cell.nodes, "concat": list(cell.concat)}


def _cell_from_json(data: Mapping[str, Any]) -> CellSpace:
    edges = tuple(Edge(e["source"], e["node"], tuple(e["primitives"])) for e in data["edges"])
    return CellSpace(edges, data["nodes"], tuple(data["concat"]))
