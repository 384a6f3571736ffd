"""From a space to a plan."""

from __future__ import annotations

from collections.abc import Sequence

from fastdarts.errors import UserError
from fastdarts.plan._cell import Candidate, CellPlan, EdgePlan
from fastdarts.plan._stencils import DILATIONS, SIDES, WIDE_POOLS, WINDOWS
from fastdarts.spaces import PRIMITIVES, CellSpace, Space

__all__ = ["cell_plan", "mixed_op_plan", "unsupported"]

_KINDS = {"none": "none", "noise": "noise", "sep_conv": "sep", "dil_conv": "dil"}


def unsupported(space: Space | CellSpace | Sequence[str]) -> str:
    """Why the fused engine cannot run a space, a cell, or the candidates of one edge; "" where it can.

    The pairs of dense convolutions (`conv_7x1_1x7`, `conv_3x1_1x3`) have no fused kernel, nor has a window that is not
    in plan/_stencils.py.
    """
    if isinstance(space, Space):
        return unsupported(space.normal) or unsupported(space.reduce)
    names = [n for edge in space.edges for n in edge.primitives] if isinstance(space, CellSpace) else space
    found = sorted({name for name in names if _candidate(name, 0, 1) is None})
    return f"no fused kernel for {', '.join(found)}" if found else ""


def cell_plan(
    space: CellSpace,
    channels: int,
    *,
    partial: int = 1,
    reduction: bool = False,
    active: Sequence[Sequence[int]] | None = None,
) -> CellPlan | None:
    """The plan of a cell.

    Args:
        space: its edges and primitives.
        channels: C of every state.
        partial: K of partial channels.
        reduction: whether the edges from the inputs have stride 2.
        active: for each edge the columns of the primitives that run, in any order, () for an edge that does not
            exist; None for all.

    Returns:
        The plan, or None where a primitive that runs has no fused kernel (:func:`unsupported` says which).

    Raises:
        UserError: columns that do not exist, K that does not divide the channels.
    """
    if active is not None and len(active) != len(space.edges):
        raise UserError(f"active has {len(active)} entries", f"one for each of the {len(space.edges)} edges")
    edges = []
    for e, edge in enumerate(space.edges):
        stride = 2 if reduction and edge.source < space.inputs else 1
        candidates = _candidates(edge.primitives, stride, None if active is None else active[e])
        if candidates is None:
            return None
        edges.append(EdgePlan(edge.source, edge.node, stride, candidates))
    return CellPlan(space.inputs, space.nodes, space.concat, channels, partial, tuple(edges))


def mixed_op_plan(
    primitives: Sequence[str], channels: int, stride: int, *, partial: int = 1, active: Sequence[int] | None = None
) -> CellPlan | None:
    """The plan of one mixed operation: one input, one node, one edge.

    Args, Returns and Raises as :func:`cell_plan`, with the columns of the one edge as `active`.
    """
    candidates = _candidates(primitives, stride, active)
    if candidates is None:
        return None
    return CellPlan(1, 1, (1,), channels, partial, (EdgePlan(0, 1, stride, candidates),))


def _candidates(primitives: Sequence[str], stride: int, active: Sequence[int] | None) -> tuple[Candidate, ...] | None:
    columns = range(len(primitives)) if active is None else sorted(active)
    if len(set(columns)) < len(columns) or not all(0 <= column < len(primitives) for column in columns):
        raise UserError(f"active columns {list(columns)}", f"distinct ones from 0 to {len(primitives) - 1}")
    found = tuple(_candidate(primitives[column], column, stride) for column in columns)
    return None if None in found else tuple(each for each in found if each is not None)


def _candidate(name: str, column: int, stride: int) -> Candidate | None:
    primitive = PRIMITIVES.get(name)
    if primitive is None:
        return None
    if primitive.family == "skip":
        return Candidate("skip" if stride == 1 else "reduce", column)
    if primitive.family == "pool":
        pool = name[: len("max_pool")]
        if primitive.kernel in WIDE_POOLS:
            return Candidate(f"wide_{pool}", column, primitive.kernel)
        return Candidate(pool, column, 3) if primitive.kernel == 3 else None
    if primitive.family == "conv" and name.startswith("nor_conv"):
        return Candidate("dense", column, primitive.kernel) if primitive.kernel in SIDES else None
    kind = _KINDS.get(primitive.family)
    if kind in ("sep", "dil") and (primitive.kernel not in WINDOWS or primitive.dilation not in DILATIONS):
        return None
    return None if kind is None else Candidate(kind, column, primitive.kernel, primitive.dilation)
