"""Plans of every kind for the cell's op, inputs for them by name, and the outcome of a pass in one dictionary."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from tolerance import assert_all_within
from torch import Tensor

from fastdarts.ops.cell import cell
from fastdarts.plan import Candidate, CellPlan, EdgePlan, cell_plan, mixed_op_plan
from fastdarts.reference.cell import cell as reference
from fastdarts.spaces import CellSpace, Edge, space

DARTS = space("darts").normal
ALL = DARTS.edges[0].primitives
# Edges of unequal width, and a node that is not part of the output.
UNEVEN = CellSpace(
    (
        Edge(0, 2, ("skip_connect", "dil_conv_3x3")),
        Edge(1, 2, ("max_pool_3x3",)),
        Edge(0, 3, ("none", "sep_conv_3x3", "avg_pool_3x3")),
        Edge(2, 3, ("skip_connect", "sep_conv_7x7")),
    ),
    nodes=2,
    concat=(3,),
)
FAR = CellSpace(
    tuple(Edge(source, 2, ("dil_conv_5x5_d3", "sep_conv_3x3", "dil_conv_7x7_d3")) for source in range(2)), 1, (2,)
)
PLAIN = CellSpace(
    (
        Edge(0, 2, ("nor_conv_3x3", "avg_pool_5x5", "max_pool_3x3", "nor_conv_1x1")),
        Edge(1, 2, ("max_pool_5x5", "skip_connect", "sep_conv_3x3")),
        Edge(0, 3, ("none", "nor_conv_1x1", "max_pool_5x5")),
        Edge(2, 3, ("nor_conv_3x3", "avg_pool_5x5", "dil_conv_3x3")),
    ),
    2,
    (2, 3),
)
NOISY = CellSpace(
    tuple(Edge(source, node, ("noise", "sep_conv_3x3")) for node in (2, 3) for source in range(node)), 2, (2, 3)
)
ONE_PATH = [(4,), (3,), (1,), (), (5,), (), (7,), (6,), (), (0,), (), (2,), (), (4,)]


def planned(found: CellPlan | None) -> CellPlan:
    assert found is not None
    return found


def _partly(*, partial: int, reduction: bool) -> CellPlan:
    """The last two nodes of a cell whose first two are computed already, with what modules computed on some edges.

    All eight candidates stand on the edges out of state 1, the first five on the others.
    """
    whole = planned(cell_plan(DARTS, 4 * partial, partial=partial, reduction=reduction))

    def of(number: int, edge: EdgePlan) -> EdgePlan:
        if edge.node < 4:
            return replace(edge, candidates=())
        columns = {5: (3, 4), 7: range(8), 9: (0,)}.get(number, ())
        kept = [each for each in edge.candidates if each.column < 5 or edge.source == 1]
        kinds = ("module" if each.column in columns else each.kind for each in kept)
        return replace(edge, candidates=tuple(map(_kind, kept, kinds)))

    return replace(whole, ready=2, concat=(5, 4), edges=tuple(map(of, range(14), whole.edges)))


def _kind(candidate: Candidate, kind: str) -> Candidate:
    return Candidate(kind, candidate.column) if kind == "module" else candidate


def _twice() -> CellPlan:
    """Two edges from one state to one node, in several orders, and a concatenation out of order."""
    sep, dil, skip = Candidate("sep", 0, 3), Candidate("dil", 1, 5, 2), Candidate("skip", 2)
    pools = (Candidate("max_pool", 0, 3), Candidate("avg_pool", 2, 3))
    edges = (
        EdgePlan(0, 1, 1, (sep, dil)),
        EdgePlan(0, 1, 1, (sep, skip)),
        EdgePlan(1, 2, 1, pools),
        EdgePlan(0, 2, 1, pools),
        EdgePlan(1, 2, 1, (sep, dil, skip)),
    )
    return CellPlan(1, 2, (2, 1), 4, 2, edges)


PLANS: dict[str, tuple[CellPlan, tuple[int, int, int]]] = {
    "normal": (planned(cell_plan(DARTS, 4)), (3, 5, 6)),
    "reduction": (planned(cell_plan(DARTS, 3, reduction=True)), (2, 7, 5)),
    "partial": (planned(cell_plan(DARTS, 6, partial=2)), (2, 5, 4)),
    "partial reduction": (planned(cell_plan(DARTS, 8, partial=4, reduction=True)), (2, 5, 8)),
    "s1": (planned(cell_plan(space("s1").normal, 5)), (2, 4, 4)),
    "uneven": (planned(cell_plan(UNEVEN, 4)), (2, 5, 6)),
    "uneven partial": (planned(cell_plan(UNEVEN, 8, partial=4, reduction=True)), (2, 5, 6)),
    "one path": (planned(cell_plan(DARTS, 4, reduction=True, active=ONE_PATH)), (2, 6, 6)),
    "one path partial": (planned(cell_plan(DARTS, 4, partial=2, active=ONE_PATH)), (2, 6, 6)),
    "noise": (planned(cell_plan(NOISY, 4, reduction=True)), (2, 5, 5)),
    "far": (planned(cell_plan(FAR, 4, reduction=True)), (2, 9, 12)),
    "far partial": (planned(cell_plan(FAR, 6, partial=2)), (1, 8, 11)),
    "plain": (planned(cell_plan(PLAIN, 4)), (2, 6, 5)),
    "plain reduction": (planned(cell_plan(PLAIN, 6, partial=2, reduction=True)), (2, 7, 6)),
    "twice": (_twice(), (2, 5, 5)),
    "partly": (_partly(partial=1, reduction=False), (2, 5, 6)),
    "partly partial": (_partly(partial=2, reduction=True), (2, 5, 7)),
    "one pixel": (planned(cell_plan(DARTS, 4)), (3, 1, 1)),
    "one image": (planned(cell_plan(DARTS, 4, reduction=True)), (1, 5, 3)),
    "one channel": (planned(cell_plan(DARTS, 1, reduction=True)), (2, 4, 3)),
    "mixed op": (planned(mixed_op_plan(ALL, 17, 1)), (2, 4, 7)),
    "mixed op halved": (planned(mixed_op_plan(ALL, 6, 2, partial=3)), (2, 5, 7)),
    "only none": (planned(mixed_op_plan(("none",), 4, 2, partial=2)), (2, 5, 3)),
    "nothing": (planned(mixed_op_plan(ALL, 4, 2, active=())), (2, 5, 3)),
}


@dataclass
class Given:
    """Arguments of the op: what has gradients by name, and the rest; all float64."""

    plan: CellPlan
    named: dict[str, Tensor]
    noise: list[Tensor] = field(default_factory=list)
    running: tuple[Tensor, Tensor] | None = None
    asked: frozenset[str] | None = None

    def leaves(self, dtype: torch.dtype, wide: torch.dtype | None = None) -> dict[str, Tensor]:
        """What has gradients: the sources in `dtype`, the rest in `wide`."""
        found = {}
        for name, value in self.named.items():
            mapped = name.startswith(("source", "noise"))
            leaf = value.detach().to(dtype if wide is None or mapped else wide)
            if mapped:
                leaf = leaf.contiguous(memory_format=torch.channels_last)
            found[name] = leaf.requires_grad_(self.asked is None or name in self.asked)
        return found

    def to(self, device: torch.device) -> Given:
        """The same on another device."""
        running = None if self.running is None else (self.running[0].to(device), self.running[1].to(device))
        named = {name: value.to(device) for name, value in self.named.items()}
        return Given(self.plan, named, [each.to(device) for each in self.noise], running, self.asked)

    def call(self, function: Callable[..., tuple[Tensor, ...]], leaves: dict[str, Tensor], **others: object) -> tuple:
        """The function's result at these leaves."""
        sources = [leaf for name, leaf in leaves.items() if name.startswith("source")]
        parameters = [leaf for name, leaf in leaves.items() if name.startswith("parameter")]
        noise = [leaves.get(f"noise {i}", each.to(sources[0].dtype)) for i, each in enumerate(self.noise)]
        options: dict[str, object] = {"noise": noise}
        if "bypass" in leaves:
            options["bypass"] = leaves["bypass"]
        if self.running is not None:
            options |= {"mean": self.running[0], "var": self.running[1]}
        return function(sources, leaves["weights"], parameters, self.plan, **options, **others)


def given(name: str, *, training: bool = True, seed: int = 0) -> Given:
    """Inputs for a plan of :data:`PLANS`."""
    plan, (n, height, width) = PLANS[name]
    return given_for(plan, n, height, width, training=training, seed=seed)


def given_for(plan: CellPlan, n: int, height: int, width: int, *, training: bool = True, seed: int = 0) -> Given:
    """Inputs for a plan; one column of the weights is nobody's and not a number."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    edges, norms = len(plan.edges), len(plan.norms) * plan.mixed
    after = (-(-height // plan.stride), -(-width // plan.stride))
    named = {f"source {i}": normal(n, plan.channels, height, width) for i in range(plan.inputs)}
    named |= {f"source {plan.inputs + i}": normal(n, plan.channels, *after) for i in range(plan.ready)}
    named["weights"] = torch.cat([normal(edges, max(plan.width, 1)).softmax(1), torch.full((edges, 1), torch.nan)], 1)
    if plan.partial > 1:
        named["bypass"] = normal(edges)
    for edge, position, name, shape in plan.parameters:
        fan_in = shape[1] * shape[2] * shape[3]
        named[f"parameter {edge}.{position}.{name}"] = normal(*shape) / fan_in**0.5
    noise = [normal(n, plan.mixed, *after) for _ in plan.noises]
    for place, (edge, position) in enumerate(plan.noises):
        if plan.edges[edge].candidates[position].kind == "module":
            named[f"noise {place}"] = noise[place]
    return Given(plan, named, noise, None if training else (normal(norms), normal(norms).abs() + 0.1))


def outcome(
    function: Callable[..., tuple[Tensor, ...]],
    case: Given,
    dtype: torch.dtype,
    *,
    wide: torch.dtype | None = None,
    **others: object,
) -> dict[str, Tensor]:
    """Output, statistics in the dtype of the maps, and the gradient by each leaf that is asked for."""
    leaves = case.leaves(dtype, wide)
    out, mean, var = case.call(function, leaves, **others)
    asked = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(out)
    gradients = torch.autograd.grad(out, list(asked.values()), upstream, materialize_grads=True)
    result = {"out": out.detach(), "mean": mean, "var": var}
    result |= {f"gradient of {name}": each for name, each in zip(asked, gradients, strict=True)}
    kinds = {"mean": dtype, "var": dtype}
    return {name: value.to(kinds.get(name, value.dtype)) for name, value in result.items()}


def assert_same_function(case: Given, **others: object) -> None:
    """In float64 the op is the reference to float32's resolution: no rounding hides a wrong index or factor."""
    ref64 = outcome(reference, case, torch.float64)
    found = {name: value.float() for name, value in outcome(cell, case, torch.float64, **others).items()}
    largest = max([1.0, *(float(value.abs().max()) for value in ref64.values() if value.numel())])
    assert_all_within(found, {name: value.float() for name, value in ref64.items()}, ref64, terms=largest)


def assert_rounds_as_plain_torch(
    *cases: Given, dtype: torch.dtype, wide: torch.dtype | None = None, gradients: bool = True
) -> None:
    """The tolerance rule over all cases, with one scale for all: a gradient that cancels has terms as large as any.

    The gradients of all kernels of one name, and those of all cases, count as one: plain torch's error in the nine
    numbers of one is chance.
    """

    def all_cases(function: Callable[..., tuple[Tensor, ...]], kind: torch.dtype, wide: torch.dtype | None) -> dict:
        found = [joined(outcome(function, case, kind, wide=wide), gradients) for case in cases]
        return {name: torch.stack([each[name] for each in found]) for name in found[0]}

    ref64 = all_cases(reference, torch.float64, None)
    own, eager = (all_cases(function, dtype, wide) for function in (cell, reference))
    largest = max(float(value.abs().max()) for value in ref64.values() if value.numel())
    assert_all_within(own, eager, ref64, terms=largest)


def joined(found: dict[str, Tensor], gradients: bool) -> dict[str, Tensor]:
    """The output and the statistics, and the gradients, those of kernels of one name in one tensor."""
    several: dict[str, list[Tensor]] = {}
    for name, value in found.items():
        if gradients or "gradient" not in name:
            several.setdefault(re.sub(r"parameter \d+\.\d+\.", "parameters ", name), []).append(value.flatten())
    return {name: torch.cat(values) for name, values in several.items()}
