"""Several searches: which was the best by validation, and how the others did; a table, a plot and a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdarts.errors import UserError
from fastdarts.report.drawing import cell_scenes, legend_entries
from fastdarts.report.figure import figure_to_svg, inline, panels, style_axes
from fastdarts.report.files import replace_file
from fastdarts.report.markup import Markup, element, table
from fastdarts.report.palette import COLOURS
from fastdarts.report.phone import formulas
from fastdarts.report.records import number
from fastdarts.report.sections import figure
from fastdarts.report.style import document
from fastdarts.report.words import as_count, as_duration, as_percent, origin_words, plural, without_paths
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
    return replace_file(folder.path / "report.html", _page(found, folder).encode("utf-8", "backslashreplace"))


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


def _page(found: Mapping[str, Any], folder: RunFolder) -> str:
    heading = f"{plural(len(found['searches']), 'search').replace('searchs', 'searches')}: {folder.path.resolve().name}"
    best = found["searches"][found["best"]]
    link = f"{best['search']}/report.html"
    genotype = Genotype.from_json(folder.read_json("genotype.json"))
    drawings = [
        Markup(inline(scene.svg(standalone=False), f"cell-{k}")) for k, scene in enumerate(cell_scenes(genotype))
    ]
    legend = [element("li", element("i", class_=f"b-{colour}"), text) for colour, text in legend_entries(genotype)]
    body = element(
        "main",
        element(
            "header",
            element("h1", heading),
            element("p", _about(found, folder), class_="sub"),
            element("p", origin_words(folder.config), class_="sub"),
        ),
        element(
            "div",
            element("p", element("strong", f"The best by validation is {found['best']}")),
            element("p", _tested(folder, best)),
            element("p", element("a", "Its own report", href=link), " has its curves, mixing weights and comparison."),
            class_="verdict",
        ),
        figure(lambda small: plot_searches(found, narrow=small), "searches"),
        _table(found),
        element("p", _how(found), class_="note"),
        element("h2", "The genotype of the best"),
        formulas(genotype),
        element("div", *drawings, class_="cells"),
        element("ul", *legend, class_="legend"),
        element("pre", genotype.text()),
        element("h2", "How to repeat it"),
        element("pre", without_paths(folder.config.get("command") or "from Python: fastdarts.evaluate.search_many")),
    )
    return document(heading, body)


def _about(found: Mapping[str, Any], folder: RunFolder) -> str:
    config = folder.config["config"]
    varied = list(next(iter(found["searches"].values()))["varied"])
    diverged = found.get("diverged", {})
    left_out = f" Left out, since they diverged: {', '.join(diverged)}." if diverged else ""
    return (
        f"Search space {config['space']} with method {config['method']} on data {config['data']}; the searches differ "
        f"in {' and '.join(varied) or 'nothing'}.{left_out}"
    )


def _tested(folder: RunFolder, best: Mapping[str, Any]) -> str:
    """The best one's test accuracy, where it was retrained."""
    path = f"{best['search']}/retrain.json"
    if not (folder.path / path).exists():
        return "Its network was not trained in full, nor tested."
    return f"After the final training its test accuracy is {as_percent(folder.read_json(path)['test_accuracy'])}."


def _table(found: Mapping[str, Any]) -> Markup:
    names = _ranked(found)
    varied = list(found["searches"][names[0]]["varied"])
    header = ["Rank", *varied, "Validation accuracy", "Supernet's", "Parameters", "Epochs", "Took", "Genotype", "Run"]
    rows = []
    for rank, name in enumerate(names, 1):
        entry = found["searches"][name]
        text = element("details", element("summary", "show"), element("code", entry["text"]))
        row = [str(rank), *(str(entry["varied"][key]) for key in varied), as_percent(entry["valid_accuracy"])]
        row += [as_percent(entry["supernet_accuracy"]), as_count(entry["parameters"]), str(entry["epochs"])]
        rows.append([*row, as_duration(entry["seconds"]), text, entry["search"]])
    return table(header, rows, marked=names.index(found["best"]))


def _how(found: Mapping[str, Any]) -> str:
    trained, judged = found["images"]
    epochs = plural(found["selection"]["epochs"], "epoch")
    distinct = len({entry["text"] for entry in found["searches"].values()})
    return (
        f"The searches found {plural(distinct, 'different network')}; each was trained from scratch for "
        f"{epochs} on the {trained} images of the weight level and judged on the "
        f"{judged} of the architecture level, all with one seed. The alphas have learnt from those images, so these "
        "accuracies choose, they do not say how good a network is; the test set was not read for them."
    )
