"""Several searches: which was the best by validation, and how the others did; a table, a plot and a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.report.figure import figure_to_svg, panels, style_axes
from fastdarts.report.page import write_page
from fastdarts.report.palette import COLOURS
from fastdarts.report.parts import draw_genotype, draw_plot
from fastdarts.report.records import number
from fastdarts.report.words import plural
from fastdarts.runs import RunFolder
from fastdarts.spaces import Genotype

__all__ = ["plot_searches", "write_searches_report"]


def write_searches_report(run: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of several searches; the best one's own report, beside its run, says the rest.

    Args:
        run: their folder, finished.

    Returns:
        The page's path.

    Raises:
        UserError: if the folder holds no finished searches, or cannot be written.
    """
    folder = RunFolder.open(run)
    if folder.config.get("kind") != "searches" or not (folder.path / "searches.json").exists():
        raise UserError(f"{folder.path} holds no finished searches", "the folder that search --searches N made")
    found = folder.read_json("searches.json")
    best = found["searches"][found["best"]]
    retrained = f"{best['search']}/retrain.json"
    many = plural(len(found["searches"]), "search").replace("searchs", "searches")
    return write_page(
        folder.path / "report.html",
        "searches.html",
        heading=f"{many}: {folder.path.resolve().name}",
        of=found,
        config=folder.config,
        best=best,
        tested=folder.read_json(retrained)["test_accuracy"] if (folder.path / retrained).exists() else None,
        names=_ranked(found),
        networks=len({entry["text"] for entry in found["searches"].values()}),
        drawn=draw_plot("searches", plot_searches, found),
        found=draw_genotype(Genotype.from_json(folder.read_json("genotype.json"))),
    )


def plot_searches(found: Mapping[str, Any], *, narrow: bool = False) -> str:
    """Validation accuracy of each search's network, trained from scratch, and of its supernet, which need not agree.

    Args:
        found: what ``searches.json`` holds.
        narrow: for a phone.

    Returns:
        SVG.
    """
    names = _ranked(found)[::-1]
    longest = max(map(len, names))
    margins = (0.25 + 0.075 * longest, 0.15, 0.75 if narrow else 0.55, 0.5)
    height = 1.3 + 0.28 * len(names) + 0.2 * narrow
    drawn, axes_by_place = panels(1, 1, height=height, margins=margins, narrow=narrow)
    axes = axes_by_place[0, 0]
    series = (
        ("valid_accuracy", "o", COLOURS["sep_conv_3x3"].light, "its network, trained from scratch"),
        ("supernet_accuracy", "x", COLOURS["muted"].light, "its supernet"),
    )
    for key, marker, colour, label in series:
        values = [100 * number(found["searches"][name][key]) for name in names]
        axes.plot(values, range(len(names)), marker, color=colour, markersize=6, linewidth=0, label=label)
    best = 100 * number(found["searches"][found["best"]]["valid_accuracy"])
    axes.axvline(best, color=COLOURS["accent"].light, linewidth=1.2)
    style_axes(axes, xlabel="accuracy on the architecture level's images, percent", grid=False)
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.margins(x=0.06)
    ink = COLOURS["ink"].light
    axes.legend(
        frameon=False,
        fontsize=8.5,
        labelcolor=ink,
        ncols=1 if narrow else 2,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
    )
    return figure_to_svg(drawn, title="Validation accuracy of each search")


def _ranked(found: Mapping[str, Any]) -> list[str]:
    entries = found["searches"]
    # Among equals the best one is the first that was searched, as it was chosen.
    return sorted(entries, key=lambda name: -number(entries[name]["valid_accuracy"]))
