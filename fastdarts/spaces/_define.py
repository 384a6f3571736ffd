"""Search spaces of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastdarts.errors import UserError
from fastdarts.spaces._presets import full_edges, space_names
from fastdarts.spaces._space import CellSpace, Edge, Space

__all__ = ["define_space"]

Candidates = Sequence[str] | Mapping[tuple[int, int], Sequence[str]]


def define_space(
    name: str,
    primitives: Candidates,
    *,
    reduce: Candidates | None = None,
    edges: Sequence[tuple[int, int]] | None = None,
    nodes: int | None = None,
    concat: Sequence[int] | None = None,
    shared: bool = True,
    layers: int = 8,
    keep: int | None = 2,
    source: str = "defined by the user",
) -> Space:
    """Define a search space by naming its edges and the primitives they may carry.

    States 0 and 1 are the cell inputs c_{k-2} and c_{k-1}, the first node is 2. Edges are written (source, node) and
    ordered by node, then by source; that order is the order of alpha's rows.

    Args:
        name: any name that no preset has.
        primitives: candidates of every edge, or a mapping (source, node) -> candidates that names the edges too.
        reduce: the same for the reduction cell; None makes it like the normal cell.
        edges: edges where ``primitives`` is a sequence; None connects every node to every earlier state.
        nodes: number of nodes; None takes the last node of the edges, or 4.
        concat: nodes whose concatenation is the output; None takes all.
        shared: whether all cells of a type share one architecture.
        layers: number of cells when a run names none.
        keep: edges kept per node in a genotype; None keeps all of them.
        source: where the space comes from, for reports.

    Returns:
        The space, checked.

    Raises:
        UserError: whatever makes no cell: unknown primitives (the nearest name is suggested), no candidates, edges
            out of order, repeated or backwards, nodes without inputs, states that do not exist.
    """
    if name.lower().replace("_", "-") in space_names():
        raise UserError(f"the name {name!r} belongs to a preset", "another name")
    if nodes is not None and nodes < 1:
        raise UserError(f"a cell of {nodes} nodes", "at least 1")
    normal_cell = _cell("primitives", primitives, edges, nodes, concat)
    reduce_cell = normal_cell if reduce is None else _cell("reduce", reduce, edges, nodes, concat)
    return Space(name, normal_cell, reduce_cell, shared, layers, keep, source)


def _cell(
    argument: str,
    primitives: Candidates,
    edges: Sequence[tuple[int, int]] | None,
    nodes: int | None,
    concat: Sequence[int] | None,
) -> CellSpace:
    if isinstance(primitives, str):
        raise TypeError(f"{argument} must be a sequence of names or a mapping, got the string {primitives!r}")
    if isinstance(primitives, Mapping):
        if edges is not None:
            raise UserError(f"{argument} names the edges and edges= does too", "one of the two")
        found = [(_edge(edge), tuple(names)) for edge, names in primitives.items()]
    else:
        pairs = full_edges(4 if nodes is None else nodes) if edges is None else [_edge(edge) for edge in edges]
        found = [(edge, tuple(primitives)) for edge in pairs]
    if not found:
        raise UserError("a cell without edges", "at least one edge into every node")
    count = max(node for (_, node), _ in found) - 1 if nodes is None else nodes
    cell_edges = tuple(Edge(source, node, names) for (source, node), names in found)
    return CellSpace(cell_edges, count, tuple(range(2, 2 + count) if concat is None else concat))


def _edge(edge: tuple[int, int]) -> tuple[int, int]:
    if not isinstance(edge, Sequence) or len(edge) != 2 or not all(isinstance(state, int) for state in edge):
        raise TypeError(f"an edge must be (source, node), got {edge!r}")
    return edge[0], edge[1]
