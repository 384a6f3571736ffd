"""The search spaces of the papers: DARTS, RobustDARTS, Amended-DARTS, NAS-Bench-201; and those too large elsewhere."""

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

_NB201_PAPER = (
    "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search, ICLR 2020, arXiv 2001.00326"
)
_HERE = "here, for searches that eager torch has no memory for"


def full_edges(nodes: int) -> tuple[tuple[int, int], ...]:
    """Return (source, node) of the complete cell: every node takes every earlier state, 14 edges for 4 nodes."""
    return tuple((source, node) for node in range(2, 2 + nodes) for source in range(node))


def _cell(
    edges: Sequence[tuple[int, int]], primitives: Sequence[Sequence[str]], concat: tuple[int, ...] | None = None
) -> CellSpace:
    last = max(node for _, node in edges)
    return CellSpace(
        tuple(Edge(source, node, tuple(names)) for (source, node), names in zip(edges, primitives, strict=True)),
        last - 1,
        tuple(range(2, last + 1)) if concat is None else concat,
    )


def _uniform(edges: Sequence[tuple[int, int]], names: Sequence[str]) -> CellSpace:
    return _cell(edges, [names] * len(edges))


def _robust(name: str, normal: Sequence[Sequence[str]], reduce: Sequence[Sequence[str]]) -> Space:
    edges = full_edges(_NODES)
    return Space(name, _cell(edges, normal), _cell(edges, reduce), source=_ROBUST_PAPER)


def _same(name: str, names: Sequence[str]) -> Space:
    rows = [names] * len(full_edges(_NODES))
    return _robust(name, rows, rows)


def _large(name: str, cell: CellSpace) -> Space:
    return Space(name, cell, cell, source=f"{_HERE}, after {_DARTS_PAPER}")


def _amended(name: str, names: Sequence[str], shared: bool, layers: int) -> Space:
    cell = _uniform(_FIXED_EDGES, names)
    return Space(name, cell, cell, shared, layers, keep=None, source=_AMENDED_PAPER)


# Separable and dilated 3, 5, 7, taps 2 and 3 pixels apart, pools 3 and 5, dense 1x1 and 3x3, skip, none.
_ZOO = (
    *("none", _SKIP, _MAX, _AVG, "max_pool_5x5", "avg_pool_5x5", _SEP3, "sep_conv_5x5", "sep_conv_7x7"),
    *(_DIL3, _DIL5, "dil_conv_7x7", "dil_conv_3x3_d3", "dil_conv_5x5_d3", "dil_conv_7x7_d3"),
    *("nor_conv_1x1", "nor_conv_3x3"),
)
# NAS-Bench-201's cell: one input, three nodes of every earlier state, the last is the output; c_{k-2} is not taken.
_NB201_EDGES = ((1, 2), (1, 3), (2, 3), (1, 4), (2, 4), (3, 4))
_NB201 = ("none", _SKIP, "nor_conv_1x1", "nor_conv_3x3", _AVG)
# Its reductions are fixed residual blocks.
_NB201_REDUCE = _cell(((1, 2), (1, 3), (2, 3)), (("nor_conv_3x3",), (_SKIP,), ("nor_conv_3x3",)), (3,))

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
        Space("darts-own", _DARTS_CELL, _DARTS_CELL, shared=False, layers=20, source=f"{_HERE}, of {_DARTS_PAPER}"),
        _large("darts-8-nodes", _uniform(full_edges(8), _DARTS)),
        _large("kernel-zoo", _uniform(full_edges(_NODES), _ZOO)),
        Space(
            "nas-bench-201",
            _cell(_NB201_EDGES, [_NB201] * 6, (4,)),
            _NB201_REDUCE,
            layers=17,
            keep=None,
            source=f"{_NB201_PAPER}; its cell, as far as a cell space can say it",
        ),
    )
}


def space_names() -> tuple[str, ...]:
    """Return the names of the preset spaces."""
    return tuple(_PRESETS)


def space(name: str) -> Space:
    """Return a preset space by name; case and ``-``/``_`` do not count.

    Args:
        name: darts; darts-without-none (SmoothDARTS); s1, s2, s3, s4 (RobustDARTS); amended-s1, amended-s2,
            amended-s2-full (Amended-DARTS); darts-own, darts-8-nodes, kernel-zoo, nas-bench-201
            (docs/large-spaces.md).

    Raises:
        UserError: there is no such space.
    """
    found = _PRESETS.get(name.lower().replace("_", "-"))
    if found is None:
        raise UserError(f"unknown search space {name!r}", f"one of {', '.join(_PRESETS)}", did_you_mean(name, _PRESETS))
    return found
