"""The picture of docs/collapse.md: for each method the regret and the dominant eigenvalue by epoch, a line a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.palette import COLOURS

__all__ = ["continued", "plot"]

_COLUMNS = 4
_SEED = {"linewidth": 0.8, "alpha": 0.45}
_MEAN = {"linewidth": 2.0}

Run = Mapping[str, Any]


def continued(values: Sequence[float], answer: float, length: int) -> list[float]:
    """A curve of ``length`` epochs: after the last epoch of a search that ended early stands its answer."""
    return [*values, *[answer] * (length - len(values))]


def plot(methods: Mapping[str, Sequence[Run]], *, chance: float, epochs: int) -> str:
    """Draw all methods beside each other, on one scale.

    Args:
        methods: name -> runs as `bench.collapse` measures them.
        chance: mean regret of a network drawn by chance, a fraction.
        epochs: planned of each search; a rollback makes some longer.

    Returns:
        SVG.
    """
    bands = -(-len(methods) // _COLUMNS)
    places = [(2 * (k // _COLUMNS) + row, k % _COLUMNS) for k in range(len(methods)) for row in (0, 1)]
    figure, axes = panels(2 * bands, _COLUMNS, height=4.0 * bands + 0.3, gaps=(0.42, 0.74), places=places)
    highest = max([100 * chance, *(100 * max(run["regrets"]) for runs in methods.values() for run in runs)])
    values = [value for runs in methods.values() for run in runs for _, value in run["eigenvalues"] if value > 0]
    length = max([epochs, *(len(run["regrets"]) for runs in methods.values() for run in runs)])
    for k, (name, runs) in enumerate(methods.items()):
        band, column = 2 * (k // _COLUMNS), k % _COLUMNS
        first = column == 0
        _regret(axes[band, column], runs, name, chance, highest, length, "test regret, %" if first else "")
        _eigenvalue(axes[band + 1, column], runs, values, length, "largest eigenvalue" if first else "")
    return figure_to_svg(
        figure,
        title="Test regret and dominant eigenvalue by epoch",
        description="Thin: one search. Thick: their mean. Dashed: a network drawn by chance. Marks: stops, rollbacks.",
    )


def _regret(axes: Any, runs: Sequence[Run], name: str, chance: float, highest: float, length: int, ylabel: str) -> None:
    colour = COLOURS["sep_conv_3x3"].light
    curves = [[100 * value for value in continued(run["regrets"], run["regret"], length)] for run in runs]
    for run, curve in zip(runs, curves, strict=True):
        axes.plot(range(length), curve, color=colour, **_SEED)
        for epoch, action in run["guards"]:
            marker = {"stop": "s", "rollback": "<"}.get(action, "o")
            axes.plot([epoch], [curve[epoch]], marker, color=COLOURS["accent"].light, markersize=4)
    means = [math.fsum(column) / len(column) for column in zip(*curves, strict=True)]
    axes.plot(range(length), means, color=colour, **_MEAN)
    axes.axhline(100 * chance, color=COLOURS["muted"].light, linewidth=1, linestyle=(0, (4, 2)))
    style_axes(axes, title=name, ylabel=ylabel)
    axes.set_ylim(-0.03 * highest, 1.08 * highest)
    axes.set_xlim(0, length - 1)


def _eigenvalue(axes: Any, runs: Sequence[Run], values: Sequence[float], length: int, ylabel: str) -> None:
    colour = COLOURS["dil_conv_3x3"].light
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        axes.plot(*zip(*run["eigenvalues"], strict=True) if run["eigenvalues"] else ([], []), color=colour, **_SEED)
        for epoch, value in run["eigenvalues"]:
            by_epoch.setdefault(epoch, []).append(value)
    # A mean over fewer searches than there are would jump where one of them ends.
    whole = {epoch: found for epoch, found in sorted(by_epoch.items()) if len(found) == len(runs)}
    axes.plot(list(whole), [math.fsum(found) / len(found) for found in whole.values()], color=colour, **_MEAN)
    style_axes(axes, xlabel="epoch", ylabel=ylabel)
    axes.set_xlim(0, length - 1)
    if values:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.3, max(values) * 1.3)
