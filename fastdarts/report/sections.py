"""The sections of the report about the result: headline, cells, comparison with random choice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fastdarts.report.budgets import Result, results_of
from fastdarts.report.decision import decision_of
from fastdarts.report.drawing import cell_scenes, legend_entries
from fastdarts.report.figure import inline
from fastdarts.report.history import answer_epoch
from fastdarts.report.markup import Markup, element, table
from fastdarts.report.phone import formulas, responsive
from fastdarts.report.plots import plot_comparison
from fastdarts.report.records import RunRecords, number
from fastdarts.report.verdict import interval_of, judge, sampling_words
from fastdarts.report.words import (
    MISSING,
    as_budget,
    as_count,
    as_duration,
    as_epoch,
    as_percent,
    origin_words,
    plural,
    without_paths,
)

__all__ = ["cells_section", "comparison_section", "figure", "headline", "results_section"]


def figure(draw: Callable[[bool], str], name: str, caption: str = "") -> Markup:
    """A plot, for wide screens and for narrow ones, with its caption."""
    text = [element("figcaption", caption)] if caption else []
    return element("figure", responsive(draw, name), *text)


def headline(run: RunRecords, title: str) -> Markup:
    """What was searched, on what, what was found, and whether it beat random choice."""
    parts = [element("h1", title), element("p", _about(run), class_="sub")]
    parts.append(element("p", origin_words(run.config), class_="sub"))
    parts += [element("p", sentence) for sentence in _progress(run)]
    parts.append(_verdict(run))
    parts.append(_undecided(run))
    parts.append(_tiles(run))
    parts += [element("p", without_paths(note), class_="note") for note in run.notes]
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
        heading = f"The genotype after epoch {as_epoch(run.genotype_epoch)}"
    return element(
        "section",
        element("h2", heading),
        *(element("p", sentence) for sentence in _origin(run)),
        formulas(run.genotype),
        element("div", *drawings, class_="cells"),
        element("ul", *legend, class_="legend"),
        text,
    )


def comparison_section(run: RunRecords) -> Markup:
    """The found cell among random cells: plot and table of the headline's comparison, then those of other budgets."""
    if run.comparison is None:
        return Markup("")
    parts = [element("h2", "Against random choice"), *_compared(run.comparison, "comparison")]
    if run.others:
        text = "Kept apart, since accuracies of different budgets do not compare. The headline is of the largest one."
        parts += [element("h3", "Other comparisons of this cell"), element("p", text, class_="note")]
    for k, other in enumerate(run.others, 1):
        parts.append(element("details", element("summary", _summary(other)), *_compared(other, f"comparison-{k}")))
    return element("section", *parts)


def results_section(run: RunRecords) -> Markup:
    """Every test accuracy of the found cell with its budget, where there are several."""
    results = _results(run)
    if len(results) < 2:
        return Markup("")
    rows = [
        [as_budget(each.budget) or MISSING, as_percent(each.accuracy), str(each.trainings), each.beside or "alone"]
        for each in results
    ]
    header = ["Budget of a training", "Test accuracy of the found cell", "Trainings", "Compared with"]
    return element("section", element("h2", "Results by budget"), table(header, rows))


def _results(run: RunRecords) -> list[Result]:
    comparisons = [] if run.comparison is None else [run.comparison, *run.others]
    return results_of(comparisons, run.retrain)


def _summary(comparison: Mapping[str, Any]) -> str:
    """A comparison in a line: its budget first."""
    verdict, budget = judge(comparison), as_budget(comparison.get("budget")) or f"a budget that was {MISSING}"
    found, mean = as_percent(comparison["found"].get("mean")), as_percent(comparison.get("random_mean"))
    told = f": {verdict.headline.lower()}" if verdict is not None else ""
    return f"After {budget}: found {found}, {plural(len(comparison['random']), 'random cell')} {mean}{told}"


def _compared(comparison: Mapping[str, Any], name: str) -> list[Markup]:
    """Plot and table of a comparison."""
    training, seeds = as_budget(comparison.get("budget")) or MISSING, comparison.get("seeds") or []
    caption = (
        f"Every network was trained from scratch with the same budget ({training}) "
        f"on {comparison.get('dataset', 'a data set that was ' + MISSING)}, training "
        f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds)) or MISSING}. A dot is a random cell."
    )
    if len(seeds) == 1:
        caption += " One training seed a cell: how much the seed alone moves an accuracy was not measured."
    caption += " Shaded: the 95% interval of their mean."
    shown = judge(comparison) is not None
    plot = figure(lambda small: plot_comparison(comparison, narrow=small), name, caption) if shown else Markup("")
    rows, marked = _cell_rows(comparison)
    header = ["Rank", "Cell", "Test accuracy", "Against the found cell", "Parameters", "Genotype"]
    return [plot, table(header, rows, marked=marked), element("p", _spread_words(comparison), class_="note")]


def _origin(run: RunRecords) -> list[str]:
    """Which epoch the genotype is from, where that is not the last one."""
    if run.kind != "search" or run.result is None or run.genotype is None:
        return []
    epoch = answer_epoch(run)
    if epoch is None:
        return []
    derived = next((each.get("text") for each in run.epoch_files if each["epoch"] == epoch), None)
    if derived is not None and derived != run.genotype.text():
        return [f"It was selected after the search; the one derived after epoch {as_epoch(epoch)} is another."]
    if epoch == run.epochs[-1]["epoch"]:
        return []
    last = as_epoch(run.epochs[-1]["epoch"])
    return [f"It is that of epoch {as_epoch(epoch)}, not of the last one, {last}; see what happened below."]


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
        lines = [element("p", sentence) for sentence in verdict.sentences]
        return element(
            "div", element("p", element("strong", verdict.headline)), *lines, class_=f"verdict {verdict.tone}"
        )
    if run.kind != "search":
        return Markup("")
    if run.comparison is not None:
        text = "The comparison with random cells holds no accuracies."
    else:
        text = "The found cell has not been compared with random cells, so nothing here says whether the search helped."
    lines = [element("p", element("strong", "Better than random choice? Not known")), element("p", text)]
    tested = number((run.retrain or {}).get("test_accuracy"))
    if not math.isnan(tested):
        lines.append(element("p", sampling_words((run.retrain or {}).get("test_images"), tested)))
    return element("div", *lines, class_="verdict")


def _undecided(run: RunRecords) -> Markup:
    """The warning that what was compared is no choice of the search's."""
    decision = decision_of(run)
    if decision is None or not decision.undecided:
        return Markup("")
    lines = element("p", element("strong", decision.headline)), element("p", decision.text)
    return element("div", *lines, class_="verdict unsure")


def _tiles(run: RunRecords) -> Markup:
    last: Mapping[str, Any] = run.epochs[-1] if run.epochs else {}
    results, comparison = _results(run), run.comparison
    accuracy, of = results[0].accuracy if results else None, "the derived network was not retrained"
    tiles = [("Test accuracy of the derived network", as_percent(accuracy), results[0].words if results else of)]
    if comparison is not None and comparison["random"]:
        budget, count = as_budget(comparison.get("budget")), plural(len(comparison["random"]), "random cell")
        if results and results[0].budget != (comparison.get("budget") or {}):
            mean, note = as_percent(comparison["found"].get("mean")), f"after {budget}, as the random cells"
            tiles.append(("The same in the comparison", mean, note))
        note = f"{count}, {budget}" if budget else count
        tiles.append(("Mean of random cells", as_percent(comparison.get("random_mean")), note))
    if results:
        tiles.append(("Parameters", as_count(results[0].parameters), _random_size(comparison)))
    elif last:
        tiles.append(("Parameters", as_count(last.get("parameters")), "of the derived network"))
    if last and run.kind == "search":
        loss = f"after epoch {as_epoch(last.get('epoch'))}, on the architecture level's images"
        tiles.append(("Accuracy of the supernet", as_percent(last.get("valid_accuracy")), loss))
    if last:
        spent = as_duration(last.get("elapsed_s"))
        tiles.append((f"{run.kind.capitalize()} time", spent, plural(len(run.epochs), "epoch")))
    shown = [(element("dt", name), element("dd", value, element("small", note))) for name, value, note in tiles]
    return element("dl", *(element("div", *tile) for tile in shown), class_="tiles")


def _random_size(comparison: Mapping[str, Any] | None) -> str:
    """The random cells' parameters, to stand beside the found one's."""
    sizes = [number(cell.get("parameters")) for cell in (comparison or {}).get("random") or []]
    sizes = [size for size in sizes if not math.isnan(size)]
    if not sizes:
        return "of the retrained network"
    return f"of the retrained network; random cells: {as_count(math.fsum(sizes) / len(sizes))} on average"


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
    low, high = interval_of(comparison)
    return (
        f"Random cells: mean {as_percent(comparison.get('random_mean'))}, "
        f"standard deviation {as_percent(comparison.get('random_std'))}, "
        f"95% interval of the mean {as_percent(low)} to {as_percent(high)}; "
        f"share that beat the found cell {as_percent(comparison.get('beaten_by'), 0)}."
    )
