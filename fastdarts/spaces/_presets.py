"""The search spaces of the papers: DARTS with and without `none`, RobustDARTS S1 to S4, Amended-DARTS S1 and S2."""

from __future__ import annotations

from collections.abc import Sequence

from fastdarts.errors import UserError, did_you_mean
from fastdarts.spaces._space import CellSpace, Edge, Space

__all__ = ["full_edges", "space", "space_names"]

_DARTS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
_SEVEN = _DARTS[1:]
_SKIP, _MAX, _AVG, _SEP3 = "skip_connect", "max_pool_3x3", "avg_pool_3x3", "sep_conv_3x3"
_DIL3, _DIL5 = "dil_conv_3x3", "dil_conv_5x5"

# docs/facts.md, 6: one row per node, one pair per edge into it; the order inside a pair is that of alpha's columns.
_S1_NORMAL = (
    (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_SKIP, _DIL5), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_MAX, _SKIP), (_SKIP, _SEP3), (_SKIP, _SEP3), (_SKIP, _DIL3),
    (_SKIP, _SEP3), (_MAX, _SKIP), (_SKIP, _DIL3), (_DIL3, _DIL5), (_DIL3, _DIL5),
)  # fmt: skip
_S1_REDUCE = (
    (_MAX, _AVG), (_MAX, _DIL3),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _SEP3), (_SKIP, _DIL3), (_SKIP, _DIL5),
    (_MAX, _AVG), (_MAX, _AVG), (_SKIP, _DIL5), (_SKIP, _DIL5), (_SKIP, _DIL5),
)  # fmt: skip

_NODES = 4
# c_{k-2} and the state before the node: Amended-DARTS, section 4.1.3.
_FIXED_EDGES = tuple((source, node) for node in range(2, 2 + _NODES) for source in sorted({0, node - 1}))

_DARTS_PAPER = "DARTS: Differentiable Architecture Search, ICLR 2019, arXiv 1806.09055"
_SMOOTH_PAPER = "Stabilizing Differentiable Architecture Search via Perturbation, ICML 2020, arXiv 2002.05283"
_ROBUST_PAPER = "Understanding and Robustifying Differentiable Architecture Search, ICLR 2020, arXiv 1909.09656"
_AMENDED_PAPER = "Stabilizing DARTS with Amended Gradient Estimation on Architectural Parameters, arXiv 1910.11831"


def full_edges(nodes: int) -> tuple[tuple[int, int], ...]:
    """Return (source, node) of the complete cell: every node takes every earlier state, 14 edges for 4 nodes."""
    return tuple((source, node) for node in range(2, 2 + nodes) for source in range(node))


def _cell(edges: Sequence[tuple[int, int]], primitives: Sequence[Sequence[str]]) -> CellSpace:
    return CellSpace(
        tuple(Edge(source, node, tuple(names)) for (source, node), names in zip(edges, primitives, strict=True)),
        _NODES,
        tuple(range(2, 2 + _NODES)),
    )


def _uniform(edges: Sequence[tuple[int, int]], names: Sequence[str]) -> CellSpace:
    return _cell(edges, [names] * len(edges))


def _robust(name: str, normal: Sequence[Sequence[str]], reduce: Sequence[Sequence[str]]) -> Space:
    edges = full_edges(_NODES)
    return Space(name, _cell(edges, normal), _cell(edges, reduce), source=_ROBUST_PAPER)


def _same(name: str, names: Sequence[str]) -> Space:
    rows = [names] * len(full_edges(_NODES))
    return _robust(name, rows, rows)


def _amended(name: str, names: Sequence[str], shared: bool, layers: int) -> Space:
    cell = _uniform(_FIXED_EDGES, names)
    return Space(name, cell, cell, shared, layers, keep=None, source=_AMENDED_PAPER)


_DARTS_CELL = _uniform(full_edges(_NODES), _DARTS)
_WITHOUT_NONE = _uniform(full_edges(_NODES), _SEVEN)
_PRESETS = {
    preset.name: preset
    for preset in (
        Space("darts", _DARTS_CELL, _DARTS_CELL, source=_DARTS_PAPER),
        Space("darts-without-none", _WITHOUT_NONE, _WITHOUT_NONE, source=_SMOOTH_PAPER),
        _robust("s1", _S1_NORMAL, _S1_REDUCE),
        _same("s2", (_SKIP, _SEP3)),
        _same("s3", ("none", _SKIP, _SEP3)),
        _same("s4", ("noise", _SEP3)),
        _amended("amended-s1", _SEVEN, shared=True, layers=8),
        _amended("amended-s2", (_SKIP, _SEP3), shared=False, layers=20),
        _amended("amended-s2-full", _SEVEN, shared=False, layers=20),
    )
}


def space_names() -> tuple[str, ...]:
    """Return the names of the preset spaces."""
    return tuple(_PRESETS)


def space(name: str) -> Space:
    """Return a preset space by name; case and ``-``/``_`` do not count.

    Args:
        name: darts; darts-without-none (SmoothDARTS); s1, s2, s3, s4 (RobustDARTS); amended-s1, amended-s2,
            amended-s2-full (Amended-DARTS).

    Raises:
        UserError: there is no such space.
    """
    found = _PRESETS.get(name.lower().replace("_", "-"))
    if found is None:
        raise UserError(f"unknown search space {name!r}", f"one of {', '.join(_PRESETS)}", did_you_mean(name, _PRESETS))
    return found
