"""The sections of the report about the result: headline, cells, comparison with random choice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastdarts.report.drawing import cell_scenes, legend_entries
from fastdarts.report.figure import inline
from fastdarts.report.history import answer_epoch
from fastdarts.report.markup import Markup, element, table
from fastdarts.report.plots import plot_comparison
from fastdarts.report.records import RunRecords, number
from fastdarts.report.verdict import judge
from fastdarts.report.words import MISSING, as_count, as_duration, as_percent, plural

__all__ = ["cells_section", "comparison_section", "figure", "headline"]


def figure(svg: str, name: str, caption: str = "") -> Markup:
    """A plot with its caption."""
    text = [element("figcaption", caption)] if caption else []
    return element("figure", Markup(inline(svg, name)), *text)


def headline(run: RunRecords, title: str) -> Markup:
    """What was searched, on what, what was found, and whether it beat random choice."""
    parts = [element("h1", title), element("p", _about(run), class_="sub")]
    parts += [element("p", sentence) for sentence in _progress(run)]
    parts.append(_verdict(run))
    parts.append(_tiles(run))
    parts += [element("p", note, class_="note") for note in run.notes]
    return element("header", *parts)


def cells_section(run: RunRecords) -> Markup:
    """The genotype, drawn and as text."""
    if run.genotype is None:
        return Markup("")
    scenes = cell_scenes(run.genotype)
    drawings = [Markup(inline(scene.svg(standalone=False), f"cell-{k}")) for k, scene in enumerate(scenes)]
    legend = [element("li", element("i", class_=f"b-{colour}"), text) for colour, text in legend_entries(run.genotype)]
    text = element("pre", run.genotype.text())
    if len(run.genotype.cells) > len(scenes):
        text = element("details", element("summary", "As text"), text)
    heading = "The genotype found"
    if run.genotype_epoch is not None:
        heading = f"The genotype after epoch {run.genotype_epoch}"
    return element(
        "section",
        element("h2", heading),
        *(element("p", sentence) for sentence in _origin(run)),
        element("div", *drawings, class_="cells"),
        element("ul", *legend, class_="legend"),
        text,
    )


def comparison_section(run: RunRecords) -> Markup:
    """The found cell among random cells: plot, and a table of all of them by accuracy."""
    comparison = run.comparison
    if comparison is None:
        return Markup("")
    budget, seeds = comparison.get("budget") or {}, comparison.get("seeds") or []
    words = {"epochs": "epochs", "channels": "channels", "layers": "cells", "batch_size": "images a batch"}
    training = ", ".join(f"{budget[key]} {word}" for key, word in words.items() if key in budget) or MISSING
    caption = (
        f"Every network was trained from scratch with the same budget ({training}) "
        f"on {comparison.get('dataset', 'a data set that was ' + MISSING)}, training "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds)) or MISSING}. A dot is a random cell."
    )
    if len(seeds) == 1:
        caption += " One training seed a cell: how much the seed alone moves an accuracy was not measured."
    plot = figure(plot_comparison(comparison), "comparison", caption) if judge(comparison) else Markup("")
    rows, marked = _cell_rows(comparison)
    header = ["Rank", "Cell", "Test accuracy", "Against the found cell", "Parameters", "Genotype"]
    return element(
        "section",
        element("h2", "Against random choice"),
        plot,
        table(header, rows, marked=marked),
        element("p", _spread_words(comparison), class_="note"),
    )


def _origin(run: RunRecords) -> list[str]:
    """Which epoch the genotype is from, where that is not the last one."""
    if run.kind != "search" or run.result is None or run.genotype is None:
        return []
    epoch = answer_epoch(run)
    if epoch is None:
        return []
    derived = next((each.get("text") for each in run.epoch_files if each["epoch"] == epoch), None)
    if derived is not None and derived != run.genotype.text():
        return [f"It was selected after the search; the one derived after epoch {epoch} is another."]
    if epoch == run.epochs[-1]["epoch"]:
        return []
    return [f"It is that of epoch {epoch}, not of the last one, {run.epochs[-1]['epoch']}; see what happened below."]


def _about(run: RunRecords) -> str:
    settings = run.settings
    space, data, seed = (settings.get(key, MISSING) for key in ("space", "data", "seed"))
    if run.kind == "compare":
        return "A comparison of a genotype with random ones of its space."
    if run.kind != "search":
        return f"A {run.kind} run on data {data}, seed {seed}."
    size = ", ".join(
        f"{settings[key]} {word}" for key, word in (("layers", "cells"), ("channels", "channels")) if key in settings
    )
    method = settings.get("method", MISSING)
    return f"Search space {space} with method {method} on data {data}; supernet of {size or MISSING}; seed {seed}."


def _progress(run: RunRecords) -> list[str]:
    """How far the run came, where that is not the end."""
    planned, done = run.settings.get("epochs"), len(run.epochs)
    if run.kind == "compare" or run.result is not None or (run.kind == "retrain" and run.retrain is not None):
        return []
    # Epochs that a rollback took back are run again, so there may be more than were planned.
    of = f" of {planned}" if isinstance(planned, int) and done <= planned else ""
    if not done:
        steps = f" {plural(len(run.steps), 'step')} of the first epoch are on record." if run.steps else ""
        return [f"No epoch{of} has been finished: the run is still going or was interrupted.{steps}"]
    return [f"This run is not finished: {done}{of} epochs are on record; it is still going or was interrupted."]


def _verdict(run: RunRecords) -> Markup:
    verdict = judge(run.comparison) if run.comparison is not None else None
    if verdict is not None:
        lines = [element("p", element("strong", verdict.headline)), element("p", verdict.numbers)]
        return element("div", *lines, element("p", verdict.certainty), class_=f"verdict {verdict.tone}")
    if run.kind != "search":
        return Markup("")
    if run.comparison is not None:
        text = "The comparison with random cells holds no accuracies."
    else:
        text = "The found cell has not been compared with random cells, so nothing here says whether the search helped."
    question = element("p", element("strong", "Better than random choice? Not known"))
    return element("div", question, element("p", text), class_="verdict")


def _test_accuracy(run: RunRecords) -> tuple[object, str]:
    """The test accuracy and what it is of."""
    if run.comparison is not None and not math.isnan(number(run.comparison["found"].get("mean"))):
        trained = len(run.comparison["found"].get("accuracies") or [])
        return run.comparison["found"]["mean"], f"mean of {trained} trainings" if trained > 1 else "one training"
    if run.retrain is not None:
        return run.retrain.get("test_accuracy"), f"after {run.retrain.get('epochs', MISSING)} epochs of training"
    return None, "the derived network was not retrained"


def _tiles(run: RunRecords) -> Markup:
    last: Mapping[str, Any] = run.epochs[-1] if run.epochs else {}
    accuracy, of = _test_accuracy(run)
    tiles = [("Test accuracy of the derived network", as_percent(accuracy), of)]
    if run.comparison is not None and run.comparison["random"]:
        mean = as_percent(run.comparison.get("random_mean"))
        tiles.append(("Mean of random cells", mean, plural(len(run.comparison["random"]), "random cell")))
    if run.comparison is not None or run.retrain is not None:
        source = run.comparison["found"] if run.comparison is not None else run.retrain or {}
        tiles.append(("Parameters", as_count(source.get("parameters")), "of the retrained network"))
    elif last:
        tiles.append(("Parameters", as_count(last.get("parameters")), "of the derived network"))
    if last and run.kind == "search":
        loss = f"after epoch {last.get('epoch')}, on the architecture level's images"
        tiles.append(("Accuracy of the supernet", as_percent(last.get("valid_accuracy")), loss))
    if last:
        spent = as_duration(last.get("elapsed_s"))
        tiles.append((f"{run.kind.capitalize()} time", spent, plural(len(run.epochs), "epoch")))
    shown = [(element("dt", name), element("dd", value, element("small", note))) for name, value, note in tiles]
    return element("dl", *(element("div", *tile) for tile in shown), class_="tiles")


def _cell_rows(comparison: Mapping[str, Any]) -> tuple[list[list[str]], int]:
    """Rows by falling mean accuracy, and the place of the found cell's."""
    found = comparison["found"]
    cells = [("found", found)]
    cells += [(f"random {cell.get('index', k)}", cell) for k, cell in enumerate(comparison["random"])]
    order = sorted(cells, key=lambda cell: -_known(cell[1].get("mean")))
    rows = []
    for rank, (name, cell) in enumerate(order, 1):
        gap = 100 * (number(cell.get("mean")) - number(found.get("mean")))
        accuracies = cell.get("accuracies") or []
        each = ", ".join(as_percent(value) for value in accuracies)
        accuracy = as_percent(cell.get("mean")) + (f" ({each})" if len(accuracies) > 1 else "")
        difference = "" if name == "found" or math.isnan(gap) else f"{gap:+.2f} points".replace("-", "\u2212")
        text = element("details", element("summary", "show"), element("code", str(cell.get("text", MISSING))))
        rows.append([str(rank), name, accuracy, difference, as_count(cell.get("parameters")), text])
    return rows, [name for name, _ in order].index("found")


def _known(value: object) -> float:
    amount = number(value)
    return -math.inf if math.isnan(amount) else amount


def _spread_words(comparison: Mapping[str, Any]) -> str:
    low, high = comparison.get("interval95") or (None, None)
    return (
        f"Random cells: mean {as_percent(comparison.get('random_mean'))}, "
        f"standard deviation {as_percent(comparison.get('random_std'))}, "
        f"95% interval of the mean {as_percent(low)} to {as_percent(high)}; "
        f"share that beat the found cell {as_percent(comparison.get('beaten_by'), 0)}."
    )
