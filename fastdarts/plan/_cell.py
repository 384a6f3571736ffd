"""A cell as the fused engine sees it: the candidates that run on each edge, and where parameters and norms stand."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from fastdarts.errors import UserError
from fastdarts.plan._stencils import DILATIONS, SIDES, WIDE_POOLS, WINDOWS

__all__ = ["CANDIDATE_KINDS", "PLAIN", "Candidate", "CellPlan", "EdgePlan", "Norm", "Parameter"]

_FORMAT = "fastdarts-plan/1"

PLAIN = ("dense", "wide_max_pool", "wide_avg_pool")
"""The kinds whose values torch's own kernels compute: ReLU and a dense convolution, and pools wider than 3 pixels."""
CANDIDATE_KINDS = ("none", "skip", "max_pool", "avg_pool", "sep", "dil", "reduce", *PLAIN, "noise", "module")
"""The kinds of candidates: `skip` is the identity, `reduce` the skip connection at stride 2, `module` what plain torch
computed; its map, as that of `noise`, is handed in."""

# The modules of fastdarts.nn.operations that hold a candidate's batch norms and its convolutions, in their order.
_NORMS = {"sep": ("op.3", "op.7"), "dil": ("op.3",), "reduce": ("bn",), "dense": ("op.2",)}
_NORMS |= dict.fromkeys(("max_pool", "avg_pool", "wide_max_pool", "wide_avg_pool"), ("1",))
_CONVOLUTIONS = {
    "sep": ("op.1", "op.2", "op.5", "op.6"),
    "dil": ("op.1", "op.2"),
    "reduce": ("conv_1", "conv_2"),
    "dense": ("op.1",),
}


class Parameter(NamedTuple):
    """One parameter in the plan's order.

    Args:
        edge: number of the edge.
        position: of the candidate among the edge's.
        name: in the candidate's module, as `op.1.weight`.
        shape: as the module has it.
    """

    edge: int
    position: int
    name: str
    shape: tuple[int, int, int, int]


class Norm(NamedTuple):
    """One batch norm in the plan's order, of as many channels as are mixed.

    Args:
        edge: number of the edge.
        position: of the candidate among the edge's.
        name: in the candidate's module, as `op.3`.
    """

    edge: int
    position: int
    name: str


@dataclass(frozen=True)
class Candidate:
    """One operator that runs on an edge.

    Args:
        kind: one of :data:`CANDIDATE_KINDS`.
        column: of the edge's mixing weights.
        kernel: side of the window, pixels; 1 where there is none.
        dilation: pixels between the window's taps.

    Raises:
        UserError: what is no candidate.
    """

    kind: str
    column: int
    kernel: int = 1
    dilation: int = 1

    def __post_init__(self) -> None:
        if self.kind not in CANDIDATE_KINDS:
            raise UserError(f"a candidate of kind {self.kind!r}", f"one of {', '.join(CANDIDATE_KINDS)}")
        _integers(self, "column", 0)
        _integers(self, "kernel", 1)
        _integers(self, "dilation", 1)
        if self.kind in ("sep", "dil") and self.kernel not in WINDOWS:
            what = f"a {self.kind} candidate with a kernel of {self.kernel}"
            raise UserError(what, f"one of {', '.join(map(str, WINDOWS))}")
        if self.kind in ("sep", "dil") and self.dilation not in DILATIONS:
            what = f"a {self.kind} candidate with a dilation of {self.dilation}"
            raise UserError(what, f"one of {', '.join(map(str, DILATIONS))}")
        if self.kind in ("max_pool", "avg_pool") and self.kernel != 3:
            raise UserError(f"a {self.kind} candidate with a window of {self.kernel}", "3")
        for kinds, sides in (("dense",), SIDES), (("wide_max_pool", "wide_avg_pool"), WIDE_POOLS):
            if self.kind in kinds and self.kernel not in sides:
                what = f"a {self.kind} candidate with a window of {self.kernel}"
                raise UserError(what, f"one of {', '.join(map(str, sides))}")


@dataclass(frozen=True)
class EdgePlan:
    """One edge and the candidates that run on it.

    Args:
        source: state that feeds the edge; the inputs come first, then the nodes.
        node: state that the edge feeds.
        stride: 1 or 2, pixels.
        candidates: the active ones, by column; () where the edge does not exist, with its bypass.

    Raises:
        UserError: an edge that runs backwards, or candidates that do not fit its stride or each other.
    """

    source: int
    node: int
    stride: int
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", tuple(self.candidates))
        _integers(self, "source", 0)
        _integers(self, "node", 1)
        where = f"edge {self.source} -> {self.node}"
        if self.source >= self.node:
            raise UserError(f"{where} does not run forwards", "source < node")
        if type(self.stride) is not int or self.stride not in (1, 2):
            raise UserError(f"{where} has stride {self.stride!r}", "1 or 2")
        columns = [candidate.column for candidate in self.candidates]
        if columns != sorted(set(columns)):
            raise UserError(f"{where} has candidates in columns {columns}", "each column once, in order")
        for kind in ("skip", "reduce", "max_pool", "avg_pool"):
            # A kernel takes one weight of each for an edge.
            if [candidate.kind for candidate in self.candidates].count(kind) > 1:
                raise UserError(f"{where} has two candidates of kind {kind}", "at most one")
        wrong = "reduce" if self.stride == 1 else "skip"
        if wrong in [candidate.kind for candidate in self.candidates]:
            raise UserError(f"{where} of stride {self.stride} has a {wrong}", "skip at stride 1, reduce at stride 2")

    def has(self, kind: str) -> bool:
        """Whether a candidate of this kind runs here."""
        return self.column(kind) >= 0

    def column(self, kind: str) -> int:
        """The column of the first candidate of this kind, -1 where there is none."""
        return next((candidate.column for candidate in self.candidates if candidate.kind == kind), -1)


@dataclass(frozen=True)
class CellPlan:
    """What one cell computes: its edges, with the candidates that run.

    Args:
        inputs: number of inputs, states 0, 1, ...
        nodes: number of nodes, the states after the inputs.
        concat: nodes whose concatenation is the output.
        channels: C of every state.
        partial: K of partial channels; candidates run on C / K channels.
        edges: ordered by node.
        ready: how many nodes, the first ones, are computed already: they are handed in after the inputs, and their
            edges have no candidates.

    Raises:
        UserError: what makes no cell.
    """

    inputs: int
    nodes: int
    concat: tuple[int, ...]
    channels: int
    partial: int
    edges: tuple[EdgePlan, ...]
    ready: int = 0
    _text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "concat", tuple(self.concat))
        object.__setattr__(self, "edges", tuple(self.edges))
        for name in ("inputs", "nodes", "channels", "partial"):
            _integers(self, name, 1)
        _integers(self, "ready", 0)
        if self.channels % self.partial:
            raise UserError(f"{self.channels} channels with partial {self.partial}", "channels that it divides")
        states = range(self.inputs, self.inputs + self.nodes)
        known = all(type(state) is int and state in self.computed for state in self.concat)
        if not self.concat or len(set(self.concat)) < len(self.concat) or not known:
            raise UserError(f"concat {list(self.concat)}", f"one or more of the nodes {list(self.computed)}, each once")
        if [edge.node for edge in self.edges] != sorted(edge.node for edge in self.edges):
            raise UserError("edges out of order", "edges ordered by node")
        for edge in self.edges:
            if edge.node not in states:
                raise UserError(f"edge {edge.source} -> {edge.node} feeds no node", f"one of {list(states)}")
            if edge.candidates and edge.node not in self.computed:
                what = f"edge {edge.source} -> {edge.node} has candidates, and its node is handed in"
                raise UserError(what, f"candidates into the nodes {list(self.computed)}")
            if edge.stride != (self.stride if edge.source < self.inputs else 1):
                raise UserError(
                    f"edge {edge.source} -> {edge.node} has stride {edge.stride}",
                    "one stride on all edges from the inputs and 1 on the others",
                )
        # Made now and not when asked for: torch.compile can read an attribute of a plan, but call nothing with one.
        object.__setattr__(self, "_text", _text(self))

    @property
    def mixed(self) -> int:
        """C' = C / K, the channels that candidates run on."""
        return self.channels // self.partial

    @property
    def given(self) -> int:
        """The states that are handed in: the inputs, and the nodes that are computed already."""
        return self.inputs + self.ready

    @property
    def computed(self) -> range:
        """The nodes that are computed."""
        return range(self.given, self.inputs + self.nodes)

    @property
    def stride(self) -> int:
        """The stride from an input to a node: 2 in a reduction cell."""
        return next((edge.stride for edge in self.edges if edge.source < self.inputs), 1)

    @property
    def width(self) -> int:
        """The columns of mixing weights that are read: the largest column of a candidate, plus 1."""
        return max((candidate.column + 1 for edge in self.edges for candidate in edge.candidates), default=0)

    def into(self, node: int) -> tuple[int, ...]:
        """The numbers of the edges that feed a node and exist."""
        return tuple(e for e, edge in enumerate(self.edges) if edge.node == node and edge.candidates)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters by edge and candidate: sep dw1, pw1, dw2, pw2; dil dw, pw; reduce conv_1, conv_2 (C' > 1);
        dense one."""
        return tuple(
            Parameter(e, position, f"{name}.weight", self._shape(candidate, name))
            for e, edge in enumerate(self.edges)
            for position, candidate in enumerate(edge.candidates)
            for name in _CONVOLUTIONS.get(candidate.kind, ())
            if not (name == "conv_2" and self.mixed == 1)
        )

    @cached_property
    def norms(self) -> tuple[Norm, ...]:
        """The batch norms by edge and candidate: sep 2, all others that have any 1; each of C' channels."""
        return tuple(
            Norm(e, position, name)
            for e, edge in enumerate(self.edges)
            for position, candidate in enumerate(edge.candidates)
            for name in _NORMS.get(candidate.kind, ())
        )

    @cached_property
    def plain(self) -> bool:
        """Whether there are candidates of the kinds :data:`PLAIN`."""
        return any(candidate.kind in PLAIN for edge in self.edges for candidate in edge.candidates)

    @cached_property
    def noises(self) -> tuple[tuple[int, int], ...]:
        """(edge, position) of the candidates whose maps are handed in, in order: noise, and what modules computed."""
        return tuple(
            (e, position)
            for e, edge in enumerate(self.edges)
            for position, candidate in enumerate(edge.candidates)
            if candidate.kind in ("noise", "module")
        )

    def _shape(self, candidate: Candidate, name: str) -> tuple[int, int, int, int]:
        c = self.mixed
        if candidate.kind == "reduce":
            return (c - c // 2 if name == "conv_1" else c // 2, c, 1, 1)
        if candidate.kind == "dense":
            return (c, c, candidate.kernel, candidate.kernel)
        return (c, 1, candidate.kernel, candidate.kernel) if name in ("op.1", "op.5") else (c, c, 1, 1)

    def encode(self) -> str:
        """The plan as one line of JSON, the same for equal plans."""
        return self._text

    @staticmethod
    def decode(text: str) -> CellPlan:
        """The plan of :meth:`encode`'s text, the same object for the same text.

        Raises:
            UserError: the text is no plan.
        """
        return _decode(text)


def _text(plan: CellPlan) -> str:
    data = {name: getattr(plan, name) for name in ("inputs", "nodes", "concat", "channels", "partial", "ready")}
    data["edges"] = [
        [edge.source, edge.node, edge.stride, [[c.kind, c.column, c.kernel, c.dilation] for c in edge.candidates]]
        for edge in plan.edges
    ]
    return json.dumps({"format": _FORMAT} | data, separators=(",", ":"))


@lru_cache(maxsize=1024)
def _decode(text: str) -> CellPlan:
    expected = "the text of CellPlan.encode"
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"a cell plan that is no JSON: {error}", expected) from error
    if not isinstance(data, dict) or data.pop("format", None) != _FORMAT:
        raise UserError("a cell plan without its format", f'an object with "format": "{_FORMAT}"')
    try:
        rest = {"concat": tuple(data["concat"]), "edges": tuple(map(_edge, data["edges"])), "ready": data["ready"]}
        return CellPlan(**(data | rest))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"a cell plan that is malformed: {error}", expected) from error


def _edge(data: Any) -> EdgePlan:
    source, node, stride, candidates = data
    return EdgePlan(source, node, stride, tuple(Candidate(*candidate) for candidate in candidates))


def _integers(owner: Any, name: str, least: int) -> None:
    value = getattr(owner, name)
    if type(value) is not int or value < least:
        raise UserError(f"{name} of a {type(owner).__name__} is {value!r}", f"a whole number, at least {least}")
