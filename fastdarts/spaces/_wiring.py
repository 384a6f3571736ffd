"""Which edges of a flat list belong to which node: two each, or, as SNAS writes it, all that there are."""

from __future__ import annotations

from collections.abc import Sequence

from fastdarts.spaces._error import GenotypeError

__all__ = ["flat_nodes"]

_INPUTS = 2


def flat_nodes(sources: Sequence[int], last: int | None) -> tuple[int, ...]:
    """Tell how many edges of a flat list each node takes.

    DARTS and its family keep two edges a node. SNAS' ``*_edge_all`` keep every edge, ``none`` on those that are gone:
    2, 3, 4, 5 edges of which each takes another of the states before its node. 14 such edges could be read as seven
    nodes of two as well; then ``concat`` would leave the last nodes without a reader, which nobody writes.

    Args:
        sources: the source states of the edges.
        last: the last state of ``concat``, None where that means all nodes.

    Returns:
        The numbers of edges, node by node.

    Raises:
        GenotypeError: a number of edges that is neither, or both readings with nothing to choose between them.

    Source: quark0/darts ``model.Cell._compile``; SNAS-Series/SNAS-Series ``SNAS/model_edge_all.py``.
    """
    count = len(sources)
    whole = _whole_nodes(sources)
    if count % 2 and not whole:
        raise GenotypeError(f"an odd number of inputs, {count}", "2 for each node", path=(count - 1,))
    paired = (2,) * (count // 2)
    if not whole or paired == whole:
        return paired
    if last is None and not count % 2:
        raise GenotypeError(
            f"{count} edges that are {len(whole)} nodes with all of theirs or {len(paired)} nodes of two",
            "a concat that names the nodes",
        )
    return paired if last is not None and last >= _INPUTS + len(whole) and not count % 2 else whole


def _whole_nodes(sources: Sequence[int]) -> tuple[int, ...]:
    """2, 3, 4, ... where each run of edges takes every earlier state once, else ()."""
    sizes: list[int] = []
    start = 0
    while start < len(sources):
        size = _INPUTS + len(sizes)
        if sorted(sources[start : start + size]) != list(range(size)):
            return ()
        sizes.append(size)
        start += size
    return tuple(sizes)
