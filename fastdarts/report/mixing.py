"""The evolution of the mixing weights: a panel for each edge, or for each cell where no two cells share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.history import Event
from fastdarts.report.marks import broken, mark_events
from fastdarts.report.palette import COLOURS, colour_of, dash_of, short_name
from fastdarts.report.records import number
from fastdarts.spaces import CellGenotype

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_edge_weights", "plot_mixing", "plot_mixing_by_cell"]

Epoch = Mapping[str, Any]
_ACROSS, _ACROSS_NARROW = 5, 2
# Inputs of the cell full, nodes dashed; colours that are far apart for every eye.
_SOURCES: tuple[dict[str, Any], ...] = tuple(
    {"color": COLOURS[key].light, "linestyle": style}
    for key, style in (
        ("ink", "solid"),
        ("trunk", "solid"),
        ("sep_conv_3x3", (0, (5, 2))),
        ("dil_conv_3x3", (0, (5, 2))),
        ("skip_connect", (0, (5, 2))),
        ("conv_3x3", (0, (5, 2))),
    )
)
_SUBSCRIPTS = str.maketrans("k-0123456789", "\u2096\u208b\u2080\u2081\u2082\u2083\u2084\u2085\u2086\u2087\u2088\u2089")


def plot_mixing(
    epochs: Sequence[Epoch],
    key: str,
    *,
    kept: CellGenotype | None = None,
    events: Sequence[Event] = (),
    narrow: bool = False,
) -> str:
    """Mixing weights of one architecture by epoch: one panel per edge, one line per primitive.

    A line ends where its primitive is taken from the edge (P-DARTS), and is broken where a model ends.

    Panels stand at (node, source) where the cell is densely wired, otherwise one after the other. Colours are those
    of the drawing. All panels have one scale, from the smallest weight to the largest: early, or in a short search,
    the weights are all close to equal, which the thin line in each panel marks.

    Args:
        epochs: contents of ``epochs/NNNN.json``, in order, with ``stage`` and ``stage_epoch`` where there are stages.
        key: architecture key, ``normal``, ``reduce`` or ``cell7``.
        kept: the derived cell; its edges' panels name the operator that was kept.
        events: what to mark.
        narrow: for a phone, two panels in a row.

    Returns:
        SVG.
    """
    edges = _edges(epochs, key)
    places, rows, columns = _places(edges, narrow=narrow)
    corner = (0, columns - 1) not in places and rows > 1
    figure, axes_by_place = _grid(rows, columns, places, legend_above=not corner, narrow=narrow)
    mixed = [_mixed(each, key) for each in epochs]
    chosen = {(source, node): op for op, source, node in kept.edges()} if kept is not None else {}
    drawn: list[float] = []
    for edge, place in zip(edges, places, strict=True):
        axes, ends = axes_by_place[place], (edge["source"], edge["node"])
        for primitive in edge["primitives"]:
            y = [number(each.get(ends, {}).get(primitive)) for each in mixed]
            axes.plot(*broken(epochs, y), **_line(primitive, len(epochs)))
            drawn += y
        equal = [1 / len(each[ends]) if each.get(ends) else math.nan for each in mixed]
        axes.plot(*_level(broken(epochs, equal)), color=COLOURS["trunk"].light, linewidth=0.7, zorder=1)
        _panel_title(axes, edge, chosen.get(ends), judged=kept is not None)
    mark_events(axes_by_place.values(), events, numbered=False)
    _one_scale(axes_by_place.values(), drawn)
    _label(figure, "mixing weight")
    _shared_legend(figure, corner=corner, narrow=narrow)
    return figure_to_svg(figure, title=f"Mixing weights of the {key} cell by epoch, one panel per edge")


def plot_edge_weights(epochs: Sequence[Epoch], key: str, *, events: Sequence[Event] = (), narrow: bool = False) -> str:
    """Weights of whole edges (PC-DARTS' edge normalisation) of one architecture by epoch: one panel per node.

    Drawn as multiples of an equal share, since nodes have different numbers of edges.

    Args:
        epochs: contents of ``epochs/NNNN.json`` with ``edge_weights``, in order.
        key: architecture key.
        events: what to mark.
        narrow: for a phone, two panels in a row.

    Returns:
        SVG.
    """
    edges = _edges(epochs, key)
    nodes = list(dict.fromkeys(edge["node"] for edge in edges))
    across = _ACROSS_NARROW if narrow else _ACROSS
    rows, columns = -(-len(nodes) // across), min(len(nodes), across)
    places = [divmod(k, columns) for k in range(len(nodes))]
    figure, axes_by_place = _grid(rows, columns, places, legend_above=True, narrow=narrow)
    shares = [_edge_shares(each, key) for each in epochs]
    drawn: list[float] = []
    for node, axes in zip(nodes, axes_by_place.values(), strict=True):
        axes.axhline(1.0, color=COLOURS["trunk"].light, linewidth=0.7, zorder=1)
        for edge in (edge for edge in edges if edge["node"] == node):
            y = [each.get((edge["source"], node), math.nan) for each in shares]
            style = _SOURCES[edge["source"] % len(_SOURCES)] | {"linewidth": 1.4, "marker": _dot(epochs)}
            axes.plot(*broken(epochs, y), label=f"from {_state(edge['source'])}", **style)
            drawn += y
        title = f"into {_state(node)}"
        axes.set_title(title, loc="left", fontsize=8.5, color=COLOURS["ink"].light, y=1.0, pad=3)
    mark_events(axes_by_place.values(), events, numbered=False)
    _one_scale(axes_by_place.values(), drawn)
    _label(figure, "times an equal share")
    _shared_legend(figure, corner=False, narrow=narrow)
    return figure_to_svg(figure, title=f"Edge weights of the {key} cell by epoch, one panel per node")


def plot_mixing_by_cell(epochs: Sequence[Epoch], *, narrow: bool = False) -> str:
    """Mixing weights of many unshared cells by epoch: one panel per cell, the mean over its edges as stacked areas.

    Args:
        epochs: contents of ``epochs/NNNN.json``, in order.
        narrow: for a phone, two panels in a row.

    Returns:
        SVG.
    """
    keys = list(epochs[-1]["weights"])
    across = _ACROSS_NARROW if narrow else _ACROSS
    rows = -(-len(keys) // across)
    places = [divmod(k, across) for k in range(len(keys))]
    figure, axes_by_place = _grid(rows, across, places, legend_above=True, narrow=narrow)
    x = [number(each.get("epoch")) + 1 for each in epochs]
    for key, axes in zip(keys, axes_by_place.values(), strict=True):
        shares = _shares(epochs, key)
        bottom = [0.0] * len(x)
        for primitive, y in shares.items():
            top = [below + value for below, value in zip(bottom, y, strict=True)]
            # One epoch is no area: it is drawn as wide as a step.
            ends = x if len(x) > 1 else [x[0] - 0.5, x[0] + 0.5]
            bounds = (bottom, top) if len(x) > 1 else (bottom * 2, top * 2)
            colour = COLOURS[colour_of(primitive)].light
            axes.fill_between(ends, *bounds, color=colour, alpha=0.8, linewidth=0, label=short_name(primitive))
            bottom = top
        axes.set_title(key.replace("cell", "cell "), loc="left", fontsize=8.5, color=COLOURS["ink"].light, y=1.0, pad=3)
        axes.set_ylim(0, 1)
        axes.margins(x=0)
    _label(figure, "mean mixing weight over the edges")
    _shared_legend(figure, corner=False, narrow=narrow)
    return figure_to_svg(figure, title="Mixing weights by epoch, one panel per cell")


def _grid(
    rows: int, columns: int, places: Sequence[tuple[int, int]], *, legend_above: bool, narrow: bool
) -> tuple[Figure, dict[tuple[int, int], Axes]]:
    """Small panels; ticks are named at the left and where nothing follows below."""
    top = (1.1 if narrow else 0.62) if legend_above else 0.3
    left = 0.62 if narrow else 0.75
    shape: dict[str, Any] = {"margins": (left, 0.1, top, 0.5), "gaps": (0.22, 0.38), "places": places}
    figure, made = panels(rows, columns, height=1.4 * rows + top + 0.3, narrow=narrow, **shape)
    for (row, column), axes in made.items():
        style_axes(axes, ticks=4)
        axes.tick_params(labelleft=column == 0, labelbottom=(row + 1, column) not in made)
    return figure, made


def _label(figure: Figure, what: str) -> None:
    muted = COLOURS["muted"].light
    figure.text(0.008, 0.5, what, rotation=90, va="center", fontsize=8.5, color=muted)
    figure.text(0.5, 0.1 / figure.get_figheight(), "epoch", ha="center", va="bottom", fontsize=8.5, color=muted)


def _places(edges: Sequence[Mapping[str, Any]], *, narrow: bool) -> tuple[list[tuple[int, int]], int, int]:
    """(row, column) of each edge's panel, and the number of rows and columns."""
    first = min(edge["node"] for edge in edges)
    rows, columns = max(edge["node"] for edge in edges) - first + 1, max(edge["source"] for edge in edges) + 1
    if 2 * len(edges) > rows * columns and not narrow:
        return [(edge["node"] - first, edge["source"]) for edge in edges], rows, columns
    across = _ACROSS_NARROW if narrow else _ACROSS
    return [divmod(e, across) for e in range(len(edges))], -(-len(edges) // across), min(across, len(edges))


def _edges(epochs: Sequence[Epoch], key: str) -> list[dict[str, Any]]:
    """The edges of an architecture with every primitive that they had in some epoch, in the order of appearance."""
    found: dict[tuple[int, int], dict[str, None]] = {}
    for each in epochs:
        for edge in (each.get("edges") or {}).get(key) or []:
            found.setdefault((edge["source"], edge["node"]), {}).update(dict.fromkeys(edge["primitives"]))
    return [{"source": source, "node": node, "primitives": list(found[source, node])} for source, node in found]


def _mixed(epoch: Epoch, key: str) -> dict[tuple[int, int], dict[str, Any]]:
    """The mixing weights of an epoch by edge and primitive; where some were dropped, columns have other meanings."""
    edges, rows = ((epoch.get(name) or {}).get(key) or [] for name in ("edges", "weights"))
    return {
        (edge["source"], edge["node"]): dict(zip(edge["primitives"], row, strict=False))
        for edge, row in zip(edges, rows, strict=False)
    }


def _edge_shares(epoch: Epoch, key: str) -> dict[tuple[int, int], float]:
    """The edge weights of an epoch, each times the number of edges into its node."""
    edges, values = ((epoch.get(name) or {}).get(key) or [] for name in ("edges", "edge_weights"))
    into = Counter(edge["node"] for edge in edges)
    return {
        (edge["source"], edge["node"]): into[edge["node"]] * number(value)
        for edge, value in zip(edges, values, strict=False)
    }


def _level(line: tuple[list[float], list[float]]) -> tuple[list[float], list[float]]:
    """A line that is as wide as the panel where it is one point."""
    x, y = line
    return (x, y) if len(x) > 1 else ([x[0] - 0.5, x[0] + 0.5], y * 2)


def _line(primitive: str, points: int) -> dict[str, Any]:
    dash = dash_of(primitive)
    return {
        "color": COLOURS[colour_of(primitive)].light,
        "linewidth": 1.4,
        "linestyle": (0, dash) if dash else "solid",
        "marker": _dot(range(points)),
        "markersize": 3,
        "label": short_name(primitive),
    }


def _dot(x: Sequence[Any]) -> str:
    """A line of one point is seen only as a dot."""
    return "o" if len(x) < 2 else ""


def _one_scale(panels_drawn: Iterable[Axes], values: Iterable[float]) -> None:
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    room = 0.06 * (high - low) or 0.05
    for axes in panels_drawn:
        axes.set_ylim(low - room, high + room)


def _state(state: int) -> str:
    return str(state - 2) if state >= 2 else "c" + f"k-{2 - state}".translate(_SUBSCRIPTS)


def _panel_title(axes: Axes, edge: Mapping[str, Any], kept: str | None, *, judged: bool) -> None:
    muted = COLOURS["muted" if judged and kept is None else "ink"].light
    weight = "bold" if kept is not None else "normal"
    name = f"{_state(edge['source'])} \u2192 {_state(edge['node'])}"
    axes.set_title(name, loc="left", fontsize=8.5, color=muted, fontweight=weight, y=1.0, pad=3)
    if kept is not None:
        axes.set_title(short_name(kept), loc="right", fontsize=8.5, color=muted, fontweight="bold", y=1.0, pad=3)


def _shares(epochs: Sequence[Epoch], key: str) -> dict[str, list[float]]:
    """Mean mixing weight over a cell's edges by primitive, a value an epoch; an edge without the primitive counts 0."""
    primitives = dict.fromkeys(primitive for edge in _edges(epochs, key) for primitive in edge["primitives"])
    mixed = [_mixed(each, key) for each in epochs]
    return {
        primitive: [
            sum(number(weights.get(primitive, 0.0)) for weights in each.values()) / max(len(each), 1) for each in mixed
        ]
        for primitive in primitives
    }


def _shared_legend(figure: Figure, *, corner: bool, narrow: bool) -> None:
    """One legend for all panels: in the empty upper right corner of a triangle of panels, otherwise above them."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        entries.values(),
        entries.keys(),
        frameon=False,
        fontsize=8.5,
        labelcolor=COLOURS["ink"].light,
        loc="upper right" if corner else "upper left",
        ncols=2 if corner else 3 if narrow else 9,
    )
