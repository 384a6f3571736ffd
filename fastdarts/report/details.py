"""The sections of the report about the search itself: curves, mixing weights, counts, checks, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastdarts.report.history import Event, answer_epoch, events, segments, with_stages
from fastdarts.report.marks import explain_events
from fastdarts.report.markup import Markup, element, table
from fastdarts.report.mixing import plot_edge_weights, plot_mixing, plot_mixing_by_cell
from fastdarts.report.plots import plot_curves, plot_hypergradient
from fastdarts.report.records import RunRecords, number
from fastdarts.report.sections import figure
from fastdarts.report.words import (
    MISSING,
    as_budget,
    as_bytes,
    as_count,
    as_epoch,
    as_number,
    as_percent,
    without_paths,
)
from fastdarts.spaces import CellGenotype, Genotype

__all__ = [
    "configuration_section",
    "curves_section",
    "files_section",
    "hypergradient_section",
    "mixing_section",
    "reproduction_section",
]

_SHARED = 2
_EVENTS = "events.out.tfevents."


def curves_section(run: RunRecords) -> Markup:
    """Losses and accuracies by epoch, as curves and as numbers, and those of the retraining."""
    parts = []
    if run.epochs:
        start = run.settings.get("arch_start_epoch", 0)
        labels = ("weight level (train)", "architecture level") if run.kind == "search" else ("train", "validation")
        start, happened = start if isinstance(start, int) else 0, events(run.epochs)
        marks: dict[str, Any] = {"arch_start_epoch": start, "labels": labels, "events": happened}
        heading = "The search by epoch" if run.kind == "search" else "The training by epoch"
        curves = figure(
            lambda small: plot_curves(run.epochs, **marks, narrow=small), "curves", explain_events(happened)
        )
        parts += [element("h2", heading), curves, _epoch_table(run)]
    history = (run.retrain or {}).get("history") or []
    if history and run.kind == "search":
        names = ("training images", "validation images")
        ended = _ended(run.retrain or {})
        plot = figure(lambda small: plot_curves(history, labels=names, narrow=small), "retrain", ended)
        parts += [element("h2", "The training of the derived network"), plot]
    return element("section", *parts) if parts else Markup("")


def _ended(retrain: Mapping[str, Any]) -> str:
    """Budget and result of the training whose curve is shown, which may not be the headline's."""
    of = as_budget(retrain)
    return f"Of {of}; its test accuracy: {as_percent(retrain.get('test_accuracy'))}." if of else ""


def mixing_section(run: RunRecords) -> Markup:
    """How the mixing weights of every edge went."""
    files, happened = with_stages(run.epoch_files, run.epochs), events(run.epochs)
    if not files:
        return Markup("")
    keys, answer = list(files[-1]["weights"]), answer_epoch(run)
    deciding = next((each for each in files if each["epoch"] == answer), files[-1])
    parts = [element("h2", "Evolution of the mixing weights")]
    if len(keys) > _SHARED:
        text = "One panel a cell: the mean over its edges of each operator's mixing weight."
        plot = figure(lambda small: plot_mixing_by_cell(files, narrow=small), "mixing")
        return element("section", *parts, element("p", text, class_="note"), plot)
    text = "One panel an edge, source \u2192 node; colours as in the drawing. "
    text += "Where the genotype keeps an edge, the panel names the operator kept. The scale is that of the weights, "
    text += "it need not begin at 0; the thin line marks equal weights."
    parts.append(element("p", text, class_="note"))
    for key in keys:
        parts += _mixing_of(key, files, run.genotype, deciding, happened)
    return element("section", *parts)


def _mixing_of(
    key: str,
    files: Sequence[Mapping[str, Any]],
    genotype: Genotype | None,
    deciding: Mapping[str, Any],
    happened: Sequence[Event],
) -> list[Markup]:
    """One cell's mixing weights, and the weights of its edges where it has any."""
    kept = genotype.cells.get(key) if genotype is not None else None
    parts = [element("h3", {"normal": "Normal cell", "reduce": "Reduction cell"}.get(key, key))]
    parts.append(
        figure(
            lambda small: plot_mixing(files, key, kept=kept, events=happened, narrow=small),
            f"mixing-{key}",
            _decided(deciding, key, kept) if kept is not None else "",
        )
    )
    if (files[-1].get("edge_weights") or {}).get(key):
        caption = "Weights of whole edges, which multiply the mixing weights; 1 is an equal share."
        plot = figure(
            lambda small: plot_edge_weights(files, key, events=happened, narrow=small), f"edges-{key}", caption
        )
        parts.append(plot)
    return parts


def hypergradient_section(run: RunRecords) -> Markup:
    """How far the finite-difference hypergradient was from the exact one."""
    if not run.checks:
        return Markup("")
    header = ["Epoch", "Kind", "Cosine", "Relative error", "Norm", "Norm of the exact one"]
    rows = [
        [as_epoch(check.get("epoch")), str(check.get("method_kind", MISSING))]
        + [as_number(check.get(name)) for name in ("cosine", "relative_error", "norm", "exact_norm")]
        for check in run.checks
    ]
    text = "The hypergradient by finite differences against the exact one, on the same batches and weights."
    return element(
        "section",
        element("h2", "Hypergradient check"),
        element("p", text, class_="note"),
        figure(lambda small: plot_hypergradient(run.checks, narrow=small), "hypergradient"),
        table(header, rows),
    )


def configuration_section(run: RunRecords) -> Markup:
    """Every recorded setting."""
    settings = [(str(name), _plain(value)) for name, value in run.settings.items()]
    pairs = [element("div", element("dt", name), element("dd", value)) for name, value in settings]
    parts = [element("dl", *pairs, class_="settings") if pairs else element("p", f"The configuration was {MISSING}.")]
    space = run.config.get("space")
    if isinstance(space, Mapping) and space.get("source"):
        parts.append(element("p", f"Source of the search space: {space['source']}.", class_="note"))
    return element("section", element("h2", "Configuration"), *parts)


def reproduction_section(run: RunRecords) -> Markup:
    """The command, the seed and the versions that the numbers depend on."""
    command = str(run.config.get("command") or "")
    parts = [element("h2", "How to reproduce it")]
    if command:
        parts += [element("p", "The command that started the run:"), element("pre", without_paths(command))]
    elif run.kind == "search":
        parts += [
            element("p", "The run was started from Python, so no command was recorded. The same search again:"),
            element("pre", _python(run.path.name)),
        ]
    else:
        parts.append(element("p", f"The command was {MISSING}."))
    environment = run.config.get("environment")
    recorded = environment if isinstance(environment, Mapping) else {}
    origin = run.config.get("origin")
    recorded = (dict(origin) if isinstance(origin, Mapping) else {}) | dict(recorded)
    rows = [["seed", str(run.settings.get("seed", MISSING))], *([str(k), _plain(v)] for k, v in recorded.items())]
    if not recorded:
        rows.append(["versions", MISSING])
    for move in run.moves:
        now = move.get("environment", {})
        changed = ", ".join(f"{name} {_plain(now.get(name))}" for name in move.get("changed", ()))
        rows.append(["went on with", changed])
    text = "The same seed gives the same numbers to the last bit on the same machine, versions and number of threads."
    if run.moves:
        text += " This run changed them on its way, so it can be repeated to rounding only."
    return element("section", *parts, table(["What", "Value"], rows), element("p", text, class_="note"))


def files_section(run: RunRecords) -> Markup:
    """Where the run lies and what is in it."""
    rows = []
    for entry in sorted(run.path.iterdir(), key=lambda entry: (entry.is_dir(), entry.name)):
        if entry.name.startswith("."):
            continue
        try:
            size = f"{len(list(entry.iterdir()))} entries" if entry.is_dir() else as_bytes(entry.stat().st_size)
        except FileNotFoundError:
            # The run is still going and has just replaced or pruned it.
            continue
        # TensorBoard puts the machine's name into its files' names.
        name = f"{_EVENTS}\u2026" if entry.name.startswith(_EVENTS) else entry.name
        # As code a long name may break, so that the table fits a phone.
        rows.append([element("code", name + "/" * entry.is_dir()), size])
    return element(
        "section", element("h2", "Files"), element("pre", f"{run.path.name}/"), table(["File", "Size"], rows)
    )


def _decided(file: Mapping[str, Any], key: str, kept: CellGenotype) -> str:
    """How clearly the search preferred the operators it kept."""
    chosen = {(source, node): op for op, source, node in kept.edges()}
    weights, equal = [], []
    for row, edge in zip(file["weights"][key], file["edges"][key], strict=True):
        op = chosen.get((edge["source"], edge["node"]))
        if op in edge["primitives"]:
            weights.append(number(row[edge["primitives"].index(op)]))
            equal.append(1 / len(edge["primitives"]))
    if not weights or any(map(math.isnan, weights)):
        return ""
    low, high = as_number(min(weights)), as_number(max(weights))
    even = as_number(min(equal)) + (f" to {as_number(max(equal))}" if max(equal) > min(equal) else "")
    text = f"After epoch {as_epoch(file['epoch'])} the operators kept have mixing weights of {low} to {high}"
    return f"{text}; equal weights would be {even}."


def _epoch_table(run: RunRecords) -> Markup:
    searched = run.kind == "search"
    header = ["Epoch", "Train loss", "Train accuracy"]
    header += ["Valid. loss", "Valid. accuracy", "Skips", "Parameters"] if searched else []
    staged = len(segments(run.epochs)) > 1
    measured = any("eigenvalue" in record for record in run.epochs)
    rows = []
    for record in run.epochs:
        row = [as_epoch(record["epoch"]), as_number(record.get("train_loss")), as_percent(record.get("train_accuracy"))]
        if searched:
            skips = record.get("skips") or {}
            many = len(skips) > _SHARED
            counts = [str(sum(skips.values()))] if many else [f"{key} {count}" for key, count in skips.items()]
            row += [as_number(record.get("valid_loss")), as_percent(record.get("valid_accuracy"))]
            row += [", ".join(counts) or MISSING, as_count(record.get("parameters"))]
        if measured:
            row.append(as_number(record["eigenvalue"]) if "eigenvalue" in record else "")
        row += [f"{record.get('stage', 0) + 1}: {as_epoch(record.get('stage_epoch'))}"] if staged else []
        row += [as_number(record.get("lr")), f"{as_number(record.get('step_ms'))} ms"]
        row.append(as_bytes(record.get("peak_bytes")))
        rows.append(row)
    header += ["Eigenvalue"] * measured + ["Stage: its epoch"] * staged
    whole = table([*header, "Learning rate", "Step", "Peak memory"], rows)
    summary = element("summary", "The same as numbers, with learning rate, step time and memory")
    return element("details", summary, whole)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(each)}" for name, each in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return (
        "none" if value is None else "yes" if value is True else "no" if value is False else without_paths(str(value))
    )


def _python(name: str) -> str:
    return (
        "import json\n"
        "from fastdarts.search import SearchConfig, search\n"
        f"config = json.load(open({f'{name}/config.json'!r}))['config']\n"
        "search(SearchConfig.from_json(config), 'runs/again')"
    )
