"""A comparison of search methods with random choice: as a table, a plot and a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.files import replace_file
from fastdarts.report.markup import Markup, element, table
from fastdarts.report.palette import COLOURS
from fastdarts.report.records import number
from fastdarts.report.sections import figure
from fastdarts.report.style import document
from fastdarts.report.verdict import sampling_words
from fastdarts.report.words import MISSING, as_count, as_duration, as_percent, origin_words, plural, without_paths
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
        raise UserError(f"{folder.path} holds no finished comparison of methods", "the folder of one")
    comparison = folder.read_json("comparison-methods.json")
    svg = plot_methods(comparison)
    replace_file(folder.path / "comparison-methods.svg", svg.encode("utf-8", "backslashreplace"))
    page = _page(comparison, folder)
    return replace_file(folder.path / "report.html", page.encode("utf-8", "backslashreplace"))


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
    return [*lines, images, note + ". The t-test and its intervals suppose differences that are spread about normally."]


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
        row += [_points(against["mean"]), _range(against["interval95"], signed=True)]
        row += [f"{against['wins']}, {against['ties']}, {against['losses']}"]
        row += [_chance(against["p_t_holm"]), _chance(against["p_wilcoxon_holm"])]
    row.append(as_duration(math.fsum(seconds) / len(seconds)) if any(seconds) else "nothing")
    return [*row, as_count(math.fsum(parameters) / len(parameters))]


def _points(value: float) -> str:
    return f"{100 * value:+.2f}".replace("-", "\u2212")


def _range(interval: Sequence[float], *, signed: bool = False) -> str:
    if signed:
        return " to ".join(map(_points, interval))
    return " to ".join(f"{100 * value:.2f}".replace("-", "\u2212") for value in interval)


def _chance(p: float | None) -> str:
    if p is None:
        return "not defined"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _sentence(name: str, against: Mapping[str, Any]) -> str:
    low, high = against["interval95"]
    gap = f"{_points(against['mean'])} points ({_range((low, high), signed=True)})"
    p = against["p_t_holm"]
    if p is None:
        return f"{name}: {gap}, the same difference for every seed, which no test can judge."
    if p > _LEVEL:
        return f"{name}: no difference to random choice is shown: {gap}, p = {_chance(p)}."
    side = "better" if against["mean"] > 0 else "worse"
    sign = "p " + _chance(p) if p < 0.001 else f"p = {_chance(p)}"
    return f"{name}: {side} than random choice: {gap}, {sign}."


def _page(comparison: Mapping[str, Any], folder: RunFolder) -> str:
    heading = f"Methods against random choice: {folder.path.resolve().name}"
    header, *rows = methods_rows(comparison)
    marked = _ranked(comparison).index(comparison["baseline"])
    first, *notes = methods_words(comparison)[::-1]
    body = element(
        "main",
        element(
            "header",
            element("h1", heading),
            element("p", _about(comparison), class_="sub"),
            element("p", origin_words(folder.config), class_="sub"),
        ),
        element("div", *(element("p", line) for line in notes[::-1]), class_="verdict"),
        figure(lambda small: plot_methods(comparison, narrow=small), "methods", _caption(comparison)),
        table(header, rows, marked=marked),
        element("p", first, class_="note"),
        _by_seed(comparison),
        _repetition(comparison, folder),
    )
    return document(heading, body)


def _about(comparison: Mapping[str, Any]) -> str:
    budget = comparison["budget"]
    words = {"epochs": "epochs", "channels": "channels", "layers": "cells", "batch_size": "images a batch"}
    training = ", ".join(f"{budget[key]} {word}" for key, word in words.items() if key in budget) or MISSING
    return (
        f"Search space {comparison['space']}, data {comparison['data']}, seeds "
        f"{', '.join(map(str, comparison['seeds']))}. Every network was trained from scratch with the same budget: "
        f"{training}."
    )


def _caption(comparison: Mapping[str, Any]) -> str:
    return (
        "A dot is a seed: one search, and one training of what it found. Diamonds are means, bars their 95% intervals "
        "(Student's t, of accuracies on the logit scale), cut where they leave the plot. Differences are to the "
        f"{comparison['baseline']} cell of the same seed, trained with the same random numbers. The test set was read "
        "once a network, after its training. Bootstrap intervals are in comparison-methods.json."
    )


def _by_seed(comparison: Mapping[str, Any]) -> Markup:
    """Every accuracy, and the genotype behind it."""
    names = _ranked(comparison)
    rows = []
    for k, seed in enumerate(comparison["seeds"]):
        for name in names:
            entry = comparison["methods"][name]
            text = element("details", element("summary", "show"), element("code", entry["texts"][k]))
            against = entry["against"]
            gap = "" if against is None else _points(against["differences"][k])
            searched, trained = entry["searches"][k] or "", entry["trainings"][k]
            row = [str(seed), name, as_percent(entry["values"][k]), gap, as_count(entry["parameters"][k])]
            rows.append([*row, text, searched, trained])
    header = ["Seed", "Method", "Test accuracy", "Minus random", "Parameters", "Genotype", "Search", "Training"]
    seconds = sum(math.fsum(entry["search_seconds"]) for entry in comparison["methods"].values())
    spent = f"All searches together took {as_duration(seconds)}. Folders are relative to this page's."
    return element("section", element("h2", "Seed by seed"), table(header, rows), element("p", spent, class_="note"))


def _repetition(comparison: Mapping[str, Any], folder: RunFolder) -> Markup:
    parts = [element("h2", "How to repeat it")]
    if folder.config.get("command"):
        parts.append(element("pre", without_paths(folder.config["command"])))
    settings = comparison.get("search") or {}
    if settings:
        shown = ", ".join(f"{key} {value}" for key, value in settings.items())
        parts.append(element("p", f"Settings of the searches: {shown}; everything else is each method's own."))
    text = "The same command continues an interrupted comparison, and with more methods or seeds adds to this folder."
    return element("section", *parts, element("p", text, class_="note"))
