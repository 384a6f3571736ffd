"""Plots of a search, each a self-contained SVG: curves, mixing weights, counts, hypergradient error, comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.history import Event, segments
from fastdarts.report.marks import broken, mark_events, marker_of
from fastdarts.report.palette import COLOURS
from fastdarts.report.records import number
from fastdarts.report.verdict import interval_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_comparison", "plot_counts", "plot_curves", "plot_hypergradient"]

Record = Mapping[str, Any]

_TRAIN, _VALID = COLOURS["sep_conv_3x3"].light, COLOURS["dil_conv_3x3"].light


def plot_curves(
    epochs: Sequence[Record],
    *,
    arch_start_epoch: int = 0,
    labels: tuple[str, str] = ("weight level (train)", "architecture level"),
    events: Sequence[Event] = (),
    narrow: bool = False,
) -> str:
    """Losses and accuracies of both levels by epoch of the run, the first of which is drawn as 1.

    Args:
        epochs: records with ``epoch`` and ``train_`` and ``valid_`` ``loss`` and ``accuracy`` [fraction], and where the
            run has stages ``stage`` and ``stage_epoch``.
        arch_start_epoch: first epoch of a stage in which the alphas learn; marked if it is not the first.
        labels: names of the ``train_`` and the ``valid_`` curves; a curve without values is left out.
        events: what to mark.
        narrow: for a phone, one panel above the other.

    Returns:
        SVG.
    """
    figure, axes_by_place = (
        panels(2, 1, height=5.6, gaps=(0.72, 0.9), narrow=True) if narrow else panels(1, 2, height=3.1)
    )
    left, right = axes_by_place.values()
    starts = _starts(epochs, arch_start_epoch) if arch_start_epoch > 0 else []
    style: dict[str, Any] = {"linewidth": 1.8, "marker": marker_of(epochs), "markersize": 4}
    for axes, what, title, scale in ((left, "loss", "Cross-entropy", 1.0), (right, "accuracy", "Accuracy", 100.0)):
        for level, colour, label in (("train", _TRAIN, labels[0]), ("valid", _VALID, labels[1])):
            y = [scale * number(record.get(f"{level}_{what}")) for record in epochs]
            if not all(map(math.isnan, y)):
                axes.plot(*broken(epochs, y), color=colour, label=label, **style)
        style_axes(axes, title=title, xlabel="epoch", ylabel="nats" if what == "loss" else "percent")
        for start in starts:
            axes.axvline(start, color=COLOURS["muted"].light, linewidth=1, linestyle=(0, (2, 2)))
        if starts:
            axes.annotate(
                "alphas start",
                (starts[0], 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(4, -8),
                textcoords="offset points",
                fontsize=8,
                color=COLOURS["muted"].light,
            )
    mark_events((left, right), events)
    _legend(right)
    return figure_to_svg(figure, title="Losses and accuracies by epoch")


def plot_counts(epochs: Sequence[Record], *, events: Sequence[Event] = (), narrow: bool = False) -> str:
    """Skip connections and parameters of the derived network, the entropy of the mixing weights, and where it was
    measured the dominant eigenvalue of the validation loss's Hessian with respect to the alphas, by epoch of the run.

    Where there are more than two architecture keys (unshared cells), skips are added up and entropies averaged.

    Args:
        epochs: records of kind ``epoch``.
        events: what to mark.
        narrow: for a phone, one panel above the other.

    Returns:
        SVG.
    """
    measured = [record for record in epochs if not math.isnan(number(record.get("eigenvalue")))]
    if narrow:
        count = 4 if measured else 3
        figure, axes_by_place = panels(count, 1, height=2.6 * count, gaps=(0.72, 0.9), narrow=True)
    else:
        figure, axes_by_place = panels(2, 2, height=5.6, gaps=(0.72, 0.9)) if measured else panels(1, 3, height=2.8)
    skips, parameters, entropy, *eigenvalue = axes_by_place.values()
    stairs: dict[str, Any] = {"linewidth": 1.8, "marker": marker_of(epochs), "markersize": 4, "drawstyle": "steps-mid"}
    for label, style, y in _by_key(epochs, "skips", sum):
        skips.plot(*broken(epochs, y), label=label, **stairs, **style)
    for label, style, y in _by_key(epochs, "entropy", lambda values: sum(values) / len(values)):
        entropy.plot(*broken(epochs, y), label=label, **stairs | {"drawstyle": "default"}, **style)
    thousands = [number(record.get("parameters")) / 1e3 for record in epochs]
    parameters.plot(*broken(epochs, thousands), color=COLOURS["skip_connect"].light, **stairs)
    style_axes(skips, title="Skip connections", xlabel="epoch", ylabel="edges of the derived cells")
    style_axes(parameters, title="Parameters", xlabel="epoch", ylabel="thousands, derived network")
    style_axes(entropy, title="Entropy of the mixing weights", xlabel="epoch", ylabel="nats, mean over edges")
    skips.yaxis.set_major_locator(_ticks(integer=True))
    for axes in (skips, parameters, entropy):
        top = float(axes.dataLim.ymax)
        axes.set_ylim(0, 1.15 * top if 0 < top < math.inf else 1)
    for axes in eigenvalue:
        _draw_eigenvalue(axes, epochs)
        axes.set_xlim(skips.get_xlim())
    for axes in (skips, entropy):
        _legend(axes)
    mark_events((skips, parameters, entropy, *eigenvalue), events)
    named = ", parameters, entropy and eigenvalue" if measured else ", parameters and entropy"
    return figure_to_svg(figure, title=f"Skip connections{named} by epoch")


def _draw_eigenvalue(axes: Axes, epochs: Sequence[Record]) -> None:
    """The measured values as dots, joined where no model ended between them: most epochs measure none."""
    for segment in segments(epochs):
        points = [(number(record.get("epoch")) + 1, number(record.get("eigenvalue"))) for record in segment.records]
        points = [(x, y) for x, y in points if not math.isnan(y)]
        axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=_VALID, linewidth=1.4, markersize=4)
    style_axes(axes, title="Dominant eigenvalue", xlabel="epoch", ylabel="of the Hessian by the alphas")


def plot_hypergradient(checks: Sequence[Record], *, narrow: bool = False) -> str:
    """Cosine and relative error of the finite-difference hypergradient against the exact one, by epoch.

    Args:
        checks: records of kind ``hypergradient``.
        narrow: for a phone, one panel above the other.

    Returns:
        SVG.
    """
    shape: dict[str, Any] = {"height": 5.2, "gaps": (0.72, 0.9), "narrow": True} if narrow else {"height": 2.6}
    figure, axes_by_place = panels(*((2, 1) if narrow else (1, 2)), **shape)
    left, right = axes_by_place.values()
    x = [number(record.get("epoch")) + 1 for record in checks]
    error = [number(record.get("relative_error")) for record in checks]
    left.plot(x, [number(record.get("cosine")) for record in checks], "o-", color=_TRAIN, linewidth=1.4, markersize=4)
    right.plot(x, error, "o-", color=_VALID, linewidth=1.4, markersize=4)
    style_axes(left, title="Cosine to the exact hypergradient", xlabel="epoch", ylabel="1: same direction")
    style_axes(right, title="Relative error", xlabel="epoch", ylabel="|difference| / |exact|")
    left.set_ylim(-1.08, 1.08)
    left.axhline(0, color=COLOURS["faint"].light, linewidth=1)
    if any(value > 0 for value in error):
        from matplotlib.ticker import LogFormatter

        right.set_yscale("log")
        # Plain numbers: exponents would be too small to read.
        right.yaxis.set_major_formatter(LogFormatter())
        right.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    return figure_to_svg(figure, title="Error of the finite-difference hypergradient by epoch")


def plot_comparison(comparison: Record, *, narrow: bool = False) -> str:
    """The found cell's accuracy as a line among the dots of the random cells, with their mean and its 95% interval.

    Args:
        comparison: what ``comparison.json`` holds.
        narrow: for a phone.

    Returns:
        SVG.
    """
    means = [100 * number(cell.get("mean")) for cell in comparison["random"]]
    found = 100 * number(comparison["found"]["mean"])
    low, high = (100 * value for value in interval_of(comparison))
    mean = 100 * number(comparison.get("random_mean"))
    figure, axes_by_place = panels(1, 1, height=2.1, margins=(0.15, 0.15, 0.1, 0.5), narrow=narrow)
    axes = axes_by_place[0, 0]
    axes.axvspan(low, high, color=COLOURS["sep_conv_5x5"].light, alpha=0.22, linewidth=0)
    axes.axvline(mean, color=COLOURS["sep_conv_3x3"].light, linewidth=1.6, linestyle=(0, (4, 2)))
    heights = _spread(means)
    axes.plot(means, heights, "o", color=COLOURS["sep_conv_3x3"].light, markersize=7, alpha=0.85, linewidth=0)
    axes.axvline(found, color=COLOURS["accent"].light, linewidth=2.2)
    style_axes(axes, xlabel="test accuracy, percent", grid=False)
    axes.xaxis.set_major_locator(_ticks(integer=False, most=4 if narrow else 8))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(-1, 1.9)
    axes.margins(x=0.08)
    _name_lines(axes, found, mean, narrow=narrow)
    return figure_to_svg(figure, title="The found cell among random cells")


def _ticks(*, integer: bool, most: int = 8) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(nbins=most, integer=integer)


def _name_lines(axes: Axes, found: float, mean: float, *, narrow: bool) -> None:
    """Name both lines above the dots, each on its outer side so that the names never meet."""
    outward = 1 if found >= mean else -1
    whose = "random cells" if narrow else "mean of random cells"
    shaded = "" if narrow else ", shaded: its 95% interval"
    letter = 0.0195 if narrow else 0.0075
    names = (
        (found, f"found cell {found:.2f}", COLOURS["accent"].light, outward),
        (mean, f"{whose} {mean:.2f}{shaded}", COLOURS["sep_conv_3x3"].light, -outward),
    )
    for row, (x, text, colour, side) in enumerate(names):
        low, high = axes.get_xlim()
        # A name that would leave the plot goes to the other side, on a row of its own.
        room = (high - x if side > 0 else x - low) / (high - low)
        side = side if room > letter * len(text) else -side
        axes.annotate(
            text,
            (x, 1.6 - 0.38 * row),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=8.5,
            color=colour,
        )


def _spread(values: Sequence[float]) -> list[float]:
    """Heights that keep dots of nearly equal accuracy apart."""
    finite = [value for value in values if math.isfinite(value)]
    width = (max(finite) - min(finite)) / 40 if finite else 0.0
    heights: list[float] = []
    for k, value in enumerate(values):
        taken = {heights[j] for j in range(k) if abs(values[j] - value) <= width}
        steps = (sign * 0.22 * step for step in range(len(values) + 1) for sign in (1, -1))
        heights.append(next(max(min(step, 0.85), -0.85) for step in steps if step not in taken))
    return heights


def _by_key(
    epochs: Sequence[Record], name: str, pool: Callable[[list[float]], float]
) -> list[tuple[str, dict[str, Any], list[float]]]:
    """(label, line style, values by epoch) of a record's field that has a value for each architecture key."""
    found = [record.get(name) or {} for record in epochs]
    keys = list(dict.fromkeys(key for each in found for key in each))
    if len(keys) <= 2:
        # The second line is dashed, so that both are seen where they agree.
        styles = ({"color": _TRAIN}, {"color": _VALID, "linestyle": (0, (4, 2))})
        return [(key, styles[k], [number(each.get(key)) for each in found]) for k, key in enumerate(keys)]
    values = [[number(each.get(key)) for key in keys] for each in found]
    return [(f"all {len(keys)} cells", {"color": _TRAIN}, [pool(row) for row in values])]


def _starts(epochs: Sequence[Record], arch_start_epoch: int) -> list[float]:
    """Epochs of the run in which the alphas start to learn: one per stage."""
    found: dict[int, float] = {}
    for segment in segments(epochs):
        first, last = segment.stage_epochs
        if first <= arch_start_epoch <= last:
            found.setdefault(segment.stage, segment.epochs[0] + arch_start_epoch - first)
    # Between the last epoch without and the first one with, which is the next: people count from 1.
    return [start + 0.5 for start in found.values() or [arch_start_epoch]]


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=COLOURS["ink"].light)
