"""What of a mixed operation or a cell the fused engine can run: seen in its modules, and kept while they stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from fastdarts.nn.known import Known, as_known
from fastdarts.nn.stack import Stack, StackedConv2d, StackedNorm
from fastdarts.nn.watch import Settings, Watch
from fastdarts.plan import Candidate, CellPlan, EdgePlan

__all__ = ["Edges", "Found", "Frame", "Place", "Survey", "look"]

# A kernel takes one weight of each for an edge.
_ONCE = ("skip", "reduce", "max_pool", "avg_pool")
_UNEVEN = "batch norms that differ in mode, momentum or eps"


class Frame(NamedTuple):
    """What of a layer no edit changes: its states and edges.

    Args:
        inputs, nodes, concat, channels, partial: as of :class:`fastdarts.plan.CellPlan`.
        edges: (source, node, stride) of each edge.
    """

    inputs: int
    nodes: int
    concat: tuple[int, ...]
    channels: int
    partial: int
    edges: tuple[tuple[int, int, int], ...]


class Edges(NamedTuple):
    """The edges of a layer as they are now.

    Args:
        candidates: of each edge; None for an edge that is a module of its own and is called as one.
        containers: the modules that hold them.
        owners: those whose attributes matter, with their names.
        reasons: why edges are called.
    """

    candidates: list[list[nn.Module] | None]
    containers: list[nn.Module]
    owners: Sequence[tuple[nn.Module, tuple[str, ...]]]
    reasons: frozenset[str] = frozenset()


class Place(NamedTuple):
    """Where a convolution or a batch norm is.

    Args:
        edge, column: of its candidate.
        name: in the candidate, as `op.1`.
    """

    edge: int
    column: int
    name: str


@dataclass(frozen=True)
class Survey:
    """What was found.

    Args:
        plan: of everything, encoded; what modules compute is of kind `module`, edges of their own have no candidates.
        called: the edges of their own.
        fused: whether there is anything for the engine.
        convs, norms: where its convolutions and batch norms are, in the plan's order.
        stacked_convs, stacked_norms: their places in the stack; None where they are not all stacked in one.
        width: the columns of mixing weights that it reads.
        modules: whether any candidate is called.
        settings: of its batch norms; None without any.
        reasons: why some run in plain torch.
    """

    plan: str
    called: tuple[int, ...]
    fused: bool
    convs: tuple[Place, ...]
    norms: tuple[Place, ...]
    stacked_convs: tuple[int, ...] | None
    stacked_norms: tuple[int, ...] | None
    width: int
    modules: bool
    settings: Settings | None
    reasons: frozenset[str]


class Found(NamedTuple):
    """A survey with the modules that it is about.

    Args:
        survey: what was found.
        convs: the convolutions at its places, with their attributes where they keep their own weight.
        norms: the batch norms at its places.
        watch: over all that is known.
        others: the candidates that are called, with their channels, stride, and what each was taken for.
    """

    survey: Survey
    convs: list[tuple[nn.Conv2d, dict[str, Any] | None]]
    norms: list[nn.BatchNorm2d]
    watch: Watch
    others: list[tuple[nn.Module, int, int, Any]]

    def stands(self) -> bool:
        """Whether all is as it was found."""
        return self.watch.stands() and all(_taken_for(op, c, stride) == before for op, c, stride, before in self.others)


def look(frame: Frame, edges: Edges) -> Found:
    """See what the modules are now.

    Args:
        frame: of the layer.
        edges: as they are.
    """
    mixed = frame.channels // frame.partial
    read: dict[tuple[int, int], Known | str] = {}
    for e, (candidates, (_, _, stride)) in enumerate(zip(edges.candidates, frame.edges, strict=True)):
        seen: set[str] = set()
        for column, op in enumerate(candidates or ()):
            found = as_known(op, mixed, stride)
            if isinstance(found, Known) and found.kind in _ONCE and found.kind in seen:
                found = f"two candidates of kind {found.kind} on an edge"
            elif isinstance(found, Known):
                seen.add(found.kind)
            read[e, column] = found
    counts = Counter(map(Settings.of, (n for each in read.values() for n in _norms(each))))
    settings = counts.most_common(1)[0][0] if counts else None
    for place, found in read.items():
        if any(Settings.of(norm) != settings for norm in _norms(found)):
            read[place] = _UNEVEN
    return _found(frame, edges, read, settings)


def _found(frame: Frame, edges: Edges, read: dict[tuple[int, int], Known | str], settings: Settings | None) -> Found:
    known = {place: found for place, found in read.items() if isinstance(found, Known)}
    convs = [(Place(*at, name), conv) for at, each in known.items() for name, conv in each.convs.items()]
    norms = [(Place(*at, name), norm) for at, each in known.items() for name, norm in each.norms.items()]
    mixed = frame.channels // frame.partial
    planned, others = [], []
    for e, (candidates, (source, node, stride)) in enumerate(zip(edges.candidates, frame.edges, strict=True)):
        planned.append(
            EdgePlan(source, node, stride, tuple(_planned(read[e, k], k) for k in range(len(candidates or ()))))
        )
        for k, op in enumerate(candidates or ()):
            if isinstance(read[e, k], str):
                others.append((op, mixed, stride, _taken_for(op, mixed, stride)))
    plan = CellPlan(frame.inputs, frame.nodes, frame.concat, frame.channels, frame.partial, tuple(planned))
    survey = Survey(
        plan.encode(),
        tuple(e for e, candidates in enumerate(edges.candidates) if candidates is None),
        any(each.kind not in ("none", "noise") for each in known.values()),
        tuple(place for place, _ in convs),
        tuple(place for place, _ in norms),
        _stacked([conv for _, conv in convs], StackedConv2d),
        _stacked([norm for _, norm in norms], StackedNorm),
        plan.width,
        bool(others),
        settings,
        edges.reasons | {found for found in read.values() if isinstance(found, str)},
    )
    layers = [conv for _, conv in convs], [norm for _, norm in norms]
    modules = edges.containers + [module for each in known.values() for module in each.modules]
    own = [(conv, vars(conv) if type(conv) is nn.Conv2d else None) for conv in layers[0]]
    return Found(survey, own, layers[1], Watch(modules, *layers, edges.owners), others)


def _planned(found: Known | str, column: int) -> Candidate:
    return (
        Candidate("module", column)
        if isinstance(found, str)
        else Candidate(found.kind, column, found.kernel, found.dilation)
    )


def _norms(found: Known | str) -> Sequence[nn.BatchNorm2d]:
    return () if isinstance(found, str) else tuple(found.norms.values())


def _taken_for(op: nn.Module, channels: int, stride: int) -> Any:
    """What a candidate that is called looks like, so that it is seen when it changes back."""
    found = as_known(op, channels, stride)
    return found if isinstance(found, str) else (found.kind, tuple(map(Settings.of, found.norms.values())))


def _stacked(layers: Sequence[nn.Module], kind: type[nn.Module]) -> tuple[int, ...] | None:
    parts: list[Any] = [layer._part for layer in layers if isinstance(layer, kind)]
    stacks: set[Stack] = {part.stack for part in parts}
    return tuple(part.place for part in parts) if len(parts) == len(layers) and len(stacks) == 1 else None
