"""A comparison of search methods with random choice: as a table, a plot and a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fastdarts.errors import UserError
from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.files import replace_file
from fastdarts.report.page import write_page
from fastdarts.report.palette import COLOURS
from fastdarts.report.parts import draw_plot
from fastdarts.report.records import number
from fastdarts.report.verdict import sampling_words
from fastdarts.report.words import as_count, as_duration, as_percent, as_points, plural
from fastdarts.runs import RunFolder

__all__ = ["methods_rows", "methods_words", "plot_methods", "write_methods_report"]

_LEVEL = 0.05
_HEADER = (
    *("Method", "Test accuracy", "95% interval", "Minus random, points", "95% interval", "Wins, ties, losses"),
    *("p (t, Holm)", "p (Wilcoxon, Holm)", "A search took", "Parameters"),
)


def write_methods_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` and ``comparison-methods.svg`` of a comparison of methods.

    Args:
        run: its folder, finished.

    Returns:
        The page's path.

    Raises:
        UserError: if the folder holds no finished comparison of methods, or cannot be written.
    """
    folder = RunFolder.open(run)
    if folder.config.get("kind") != "compare-methods" or not (folder.path / "comparison-methods.json").exists():
        raise UserError(f"{folder.path} holds no finished comparison of methods", "the folder of a finished one")
    comparison = folder.read_json("comparison-methods.json")
    svg = plot_methods(comparison)
    replace_file(folder.path / "comparison-methods.svg", svg.encode("utf-8", "backslashreplace"))
    return write_page(
        folder.path / "report.html",
        "methods.html",
        heading=f"Methods against random choice: {folder.path.resolve().name}",
        of=comparison,
        config=folder.config,
        names=_ranked(comparison),
        rows=methods_rows(comparison),
        words=methods_words(comparison),
        drawn=draw_plot("methods", plot_methods, comparison),
        seconds=math.fsum(each for entry in comparison["methods"].values() for each in entry["search_seconds"]),
    )


def methods_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """The comparison as a table: its header, then a row for each method, the most accurate first.

    Args:
        comparison: what ``comparison-methods.json`` holds.
    """
    return [list(_HEADER), *(_row(name, comparison["methods"][name]) for name in _ranked(comparison))]


def methods_words(comparison: Mapping[str, Any]) -> list[str]:
    """What the comparison shows, a sentence for each method, and what its number of seeds can show at all.

    Args:
        comparison: what ``comparison-methods.json`` holds.
    """
    seeds, tested = len(comparison["seeds"]), len(comparison["methods"]) - 1
    lines = [
        _sentence(name, comparison["methods"][name]["against"])
        for name in _ranked(comparison)
        if name != comparison["baseline"]
    ]
    lines += [f"Left out: {name} diverged ({what})." for name, what in comparison.get("diverged", {}).items()]
    least = 2.0 ** (1 - seeds)
    note = f"With {plural(seeds, 'seed')} Wilcoxon's p cannot be below {least:.3g}"
    if tested > 1:
        note += f", and {min(1.0, tested * least):.3g} after Holm's correction for {tested} methods"
    if min(1.0, tested * least) > _LEVEL:
        needed = math.ceil(1 - math.log2(_LEVEL / tested))
        note += f": it can show nothing here; it needs {needed} seeds"
    images = sampling_words(comparison.get("test_images"), *_best(comparison))
    return [
        *lines,
        images,
        note + ". The t-test and its intervals assume that the differences are about normally distributed.",
    ]


def plot_methods(comparison: Mapping[str, Any], *, narrow: bool = False) -> str:
    """Accuracies by method, and their differences to random choice: dots are seeds, bars 95% intervals of the mean.

    Args:
        comparison: what ``comparison-methods.json`` holds.
        narrow: for a phone, one panel above the other.

    Returns:
        SVG.
    """
    names = _ranked(comparison)[::-1]
    longest = max(map(len, names))
    margins = (0.25 + 0.075 * longest, 0.15, 0.36, 0.5)
    height = 1.1 + 0.34 * len(names)
    rows, columns, height = (2, 1, 2 * height) if narrow else (1, 2, height)
    gaps = (0.4, 1.0 if narrow else 0.5)
    drawn, axes_by_place = panels(rows, columns, height=height, margins=margins, gaps=gaps, narrow=narrow)
    left, right = axes_by_place.values()
    for place, name in enumerate(names):
        entry = comparison["methods"][name]
        baseline = entry["against"] is None
        colour = COLOURS["muted" if baseline else "sep_conv_3x3"].light
        _dots(left, place, entry["values"], entry["mean"], entry["interval95"], colour)
        if not baseline:
            of = entry["against"]
            _dots(right, place, of["differences"], of["mean"], of["interval95"], colour)
    right.axvline(0.0, color=COLOURS["accent"].light, linewidth=1.2)
    style_axes(left, title="Test accuracy", xlabel="percent", grid=False)
    style_axes(right, title=f"Difference to {comparison['baseline']}", xlabel="points, same seed", grid=False)
    for axes in (left, right):
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_yticks(range(len(names)))
        axes.set_yticklabels(names if axes is left or narrow else [""] * len(names))
        axes.margins(x=0.06)
    _keep_in_view(left, right, comparison)
    return figure_to_svg(drawn, title=f"{', '.join(names[::-1])}: test accuracies and differences to random choice")


def _dots(axes: Any, place: int, values: Sequence[float], mean: float, interval: Sequence[float], colour: str) -> None:
    percent = [100 * number(value) for value in values]
    axes.plot(percent, [place] * len(percent), "o", color=colour, markersize=4.5, alpha=0.55, linewidth=0)
    low, high = (100 * number(value) for value in interval)
    axes.plot([low, high], [place - 0.24] * 2, color=colour, linewidth=2.2, solid_capstyle="butt")
    axes.plot([100 * number(mean)], [place - 0.24], "D", color=colour, markersize=5)


def _keep_in_view(left: Any, right: Any, comparison: Mapping[str, Any]) -> None:
    """With two or three seeds an interval may be ten times as wide as the dots: the dots decide what is shown."""
    entries = comparison["methods"].values()
    shown = (
        (left, [value for entry in entries for value in entry["values"]]),
        (right, [0.0, *(value for entry in entries if entry["against"] for value in entry["against"]["differences"])]),
    )
    for axes, values in shown:
        low, high = 100 * min(values), 100 * max(values)
        room = max(high - low, 0.5)
        now = axes.get_xlim()
        axes.set_xlim(max(now[0], low - room), min(now[1], high + room))


def _best(comparison: Mapping[str, Any]) -> tuple[float, float]:
    """Mean accuracy of the best method, and its difference to random choice."""
    best = next(name for name in _ranked(comparison) if name != comparison["baseline"])
    mean = number(comparison["methods"][best]["mean"])
    return mean, mean - number(comparison["methods"][comparison["baseline"]]["mean"])


def _ranked(comparison: Mapping[str, Any]) -> list[str]:
    entries = comparison["methods"]
    return sorted(entries, key=lambda name: -number(entries[name]["mean"]))


def _row(name: str, entry: Mapping[str, Any]) -> list[str]:
    against = entry["against"]
    seconds, parameters = entry["search_seconds"], entry["parameters"]
    row = [name, as_percent(entry["mean"]), _range(entry["interval95"])]
    if against is None:
        row += ["", "", "", "", ""]
    else:
        row += [as_points(against["mean"]), _range(against["interval95"], signed=True)]
        row += [f"{against['wins']}, {against['ties']}, {against['losses']}"]
        row += [_chance(against["p_t_holm"]), _chance(against["p_wilcoxon_holm"])]
    row.append(as_duration(fmean(seconds)) if any(seconds) else "nothing")
    return [*row, as_count(fmean(parameters))]


def _range(interval: Sequence[float], *, signed: bool = False) -> str:
    if signed:
        return " to ".join(map(as_points, interval))
    return " to ".join(f"{100 * value:.2f}".replace("-", "\u2212") for value in interval)


def _chance(p: float | None) -> str:
    if p is None:
        return "not defined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _sentence(name: str, against: Mapping[str, Any]) -> str:
    low, high = against["interval95"]
    gap = f"{as_points(against['mean'])} points ({_range((low, high), signed=True)})"
    p = against["p_t_holm"]
    if p is None:
        return f"{name}: {gap}, the same difference for every seed, which no test can judge."
    if p > _LEVEL:
        return f"{name}: no difference to random choice is shown: {gap}, p = {_chance(p)}."
    side = "better" if against["mean"] > 0 else "worse"
    sign = "p " + _chance(p) if p < 0.001 else f"p = {_chance(p)}"
    return f"{name}: {side} than random choice: {gap}, {sign}."
