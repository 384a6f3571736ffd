"""Which part of a plan runs in one call of the engine: only the active candidates, and some of the nodes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from fastdarts.ops.constant import constant_when_compiled
from fastdarts.plan import CellPlan, EdgePlan
from fastdarts.plan._cell import Norm, Parameter

__all__ = ["Active", "Handed", "Route", "route", "segments"]

Active = tuple[tuple[int, ...], ...] | None


class Handed(NamedTuple):
    """A candidate whose map is handed in.

    Args:
        edge, column: where it is.
        source: the state that feeds it.
        module: whether it is a module's; else it is noise.
    """

    edge: int
    column: int
    source: int
    module: bool


@dataclass(frozen=True)
class Route:
    """What runs of a whole plan.

    Args:
        plan: what runs, encoded.
        edges: number of its edges.
        stride: from its inputs to its nodes.
        mixed: the channels that candidates run on.
        empty: whether no candidate runs.
        norms: number of its batch norms.
        handed: the candidates whose maps are handed in.
        kernels: which of the whole plan's convolutions these are, None for all.
        rows: which of its batch norms, None for all.
        read: for each edge which columns of the mixing weights are read; () where all of them are.
    """

    plan: str
    edges: int
    stride: int
    mixed: int
    empty: bool
    norms: int
    handed: tuple[Handed, ...]
    kernels: tuple[int, ...] | None
    rows: tuple[int, ...] | None
    read: tuple[tuple[bool, ...], ...]


# torch.compile asks once and takes the answer as a constant. It looks through a cache's mark: each is a function apart.
@constant_when_compiled
def route(whole: str, active: Active = None, nodes: tuple[int, ...] | None = None) -> Route:
    """The way of some candidates into some nodes.

    Args:
        whole: the plan of all candidates and nodes, encoded.
        active: for each edge the columns that run, None for all.
        nodes: consecutive nodes; None for all of them. Those before are handed in, and these are the output.
    """
    return _route(whole, active, nodes)


@functools.lru_cache(maxsize=1024)
def _route(whole: str, active: Active, nodes: tuple[int, ...] | None) -> Route:
    every = CellPlan.decode(whole)
    chosen = replace(every, edges=_edges(every, active, every.computed if nodes is None else nodes))
    if nodes is not None:
        edges = tuple(edge for edge in chosen.edges if edge.node <= nodes[-1])
        count = nodes[-1] + 1 - every.inputs
        chosen = replace(chosen, edges=edges, nodes=count, ready=nodes[0] - every.inputs, concat=tuple(nodes))
    kernels, rows = (_places(chosen, every, what) for what in ("parameters", "norms"))
    columns = [{candidate.column for candidate in edge.candidates} for edge in chosen.edges]
    read = tuple(tuple(column in each for column in range(every.width)) for each in columns)
    return Route(
        chosen.encode(),
        len(chosen.edges),
        chosen.stride,
        chosen.mixed,
        not any(edge.candidates for edge in chosen.edges),
        len(chosen.norms),
        tuple(_handed(chosen, *place) for place in chosen.noises),
        None if len(kernels) == len(every.parameters) else kernels,
        None if len(rows) == len(every.norms) else rows,
        () if all(map(all, read)) else read,
    )


def _handed(plan: CellPlan, edge: int, position: int) -> Handed:
    candidate = plan.edges[edge].candidates[position]
    return Handed(edge, candidate.column, plan.edges[edge].source, candidate.kind == "module")


def _edges(plan: CellPlan, active: Active, nodes: Sequence[int]) -> tuple[EdgePlan, ...]:
    found = []
    for number, edge in enumerate(plan.edges):
        running = edge.candidates if edge.node in nodes else ()
        if active is not None:
            running = tuple(each for each in running if each.column in active[number])
        found.append(replace(edge, candidates=running))
    return tuple(found)


def _places(chosen: CellPlan, whole: CellPlan, what: str) -> tuple[int, ...]:
    """Where the convolutions or batch norms of a plan stand among those of the plan that it is a part of."""

    def named(plan: CellPlan) -> list[tuple[int, int, str]]:
        found: Sequence[Parameter] | Sequence[Norm] = getattr(plan, what)
        return [(each.edge, plan.edges[each.edge].candidates[each.position].column, each.name) for each in found]

    place = {name: index for index, name in enumerate(named(whole))}
    return tuple(place[name] for name in named(chosen))


@constant_when_compiled
def segments(whole: str, called: tuple[int, ...], active: Active = None) -> tuple[tuple[int, ...], ...]:
    """The nodes of a cell in runs that one call can compute, one run after the other.

    A module reads the state that feeds it, so a run ends before a node that one feeds from a node of the run; and a
    node with an edge of its own is a run, since what that edge gives is added to it before anything reads it.

    Args:
        whole: the plan of all candidates and nodes, encoded.
        called: the edges that are modules of their own.
        active: for each edge the columns that run, None for all.
    """
    return _segments(whole, called, active)


@functools.lru_cache(maxsize=1024)
def _segments(whole: str, called: tuple[int, ...], active: Active) -> tuple[tuple[int, ...], ...]:
    plan = CellPlan.decode(whole)
    runs: list[list[int]] = []
    alone = False
    for node in plan.computed:
        into = [e for e, edge in enumerate(plan.edges) if edge.node == node and (active is None or active[e])]
        own = any(e in called for e in into)
        reads = any(
            plan.edges[e].source >= runs[-1][0] and _has_module(plan.edges[e], None if active is None else active[e])
            for e in into
            if runs
        )
        if not runs or own or alone or reads:
            runs.append([])
        runs[-1].append(node)
        alone = own
    return tuple(map(tuple, runs))


def _has_module(edge: EdgePlan, active: tuple[int, ...] | None) -> bool:
    return any(c.kind == "module" and (active is None or c.column in active) for c in edge.candidates)
