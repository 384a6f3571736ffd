"""The report's answer to "did the search collapse?": its alarms with what to do, its figures, and what guards did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fastdarts.report.decision import decision_of
from fastdarts.report.history import Alarm, alarms, events, segments
from fastdarts.report.marks import explain_events
from fastdarts.report.parts import Notice, draw_plot
from fastdarts.report.plots import plot_counts
from fastdarts.report.records import RunRecords, number
from fastdarts.report.words import MISSING, as_epoch, as_number, plural

__all__ = ["collapse_facts"]

_CELLS = {"normal": "the normal cell", "reduce": "the reduction cell"}
_KINDS = {"skips": "skip connections", "entropy": "entropy", "eigenvalue": "eigenvalue"}
_SHARED = 2


def collapse_facts(run: RunRecords) -> dict[str, Any] | None:
    """What ``run.html`` names of a collapse: alarms, the figures that it shows in, and what guards did.

    Args:
        run: the run's records.

    Returns:
        None where nothing was watched.
    """
    watched = ("skips", "entropy", "eigenvalue", "alarms", "guard")
    if run.kind != "search" or not any(record.get(name) for record in run.epochs for name in watched):
        return None
    happened = events(run.epochs)
    return {
        "verdict": _verdict(run, alarms(run.epochs)),
        "figures": [sentence for sentence in (_skips(run), _entropy(run), _eigenvalue(run.epochs)) if sentence],
        "plot": draw_plot("counts", plot_counts, run.epochs, events=happened),
        "explained": explain_events(happened),
        "events": happened,
        "stages": _stages(run),
    }


def _verdict(run: RunRecords, raised: Sequence[Alarm]) -> Notice:
    if raised:
        named = ", ".join(_KINDS.get(alarm.kind, alarm.kind) for alarm in raised)
        return Notice(f"{plural(len(raised), 'alarm')}: {named}", [_told(alarm) for alarm in raised], "worse")
    if not any("stage" in record for record in run.epochs):
        text = (
            "This run was recorded before searches had alarms: nothing watched it. The figures below are all it kept."
        )
        return Notice("Not known", [text])
    if not any("arch_loss" in record for record in run.epochs):
        return Notice("No alphas", ["The alphas learnt in none of these epochs, so there was nothing to watch."])
    text = "Neither the skip connections of the genotype nor the entropy of the mixing weights "
    if _measured(run.epochs):
        text += "nor the eigenvalue raised an alarm."
    else:
        text += "raised an alarm; the eigenvalue was not measured (--set eigenvalue_every=2 measures it)."
    decision = decision_of(run)
    if decision is not None and decision.undecided:
        text += " Weights that are nearly equal cannot collapse; the missing alarm says nothing here."
        return Notice("No alarm, but undecided: the search hardly preferred anything", [text], "unsure")
    return Notice("No alarm", [text], "better")


def _told(alarm: Alarm) -> str:
    first, last = alarm.epochs[0] + 1, alarm.epochs[-1] + 1
    when = f"epoch {first}" if first == last else f"epochs {first} to {last}"
    if first != last and len(alarm.epochs) <= last - first:
        when = f"{len(alarm.epochs)} of {when}"
    return f"{_KINDS.get(alarm.kind, alarm.kind).capitalize()}, {when}: {alarm.text}"


def _skips(run: RunRecords) -> str:
    first, last = (_counts(run.epochs[k].get("skips")) for k in (0, -1))
    if not last or run.genotype is None:
        return ""
    # A cell keeps as many edges after every epoch, whichever they are.
    edges = {key: len(list(cell.edges())) for key, cell in run.genotype.cells.items()}
    if len(last) > _SHARED:
        parts = [("all cells together", sum(first.values()), sum(last.values()), sum(edges.values()))]
    else:
        parts = [(_CELLS.get(key, key), first.get(key, 0), last[key], edges.get(key, 0)) for key in last]
    told = [f"in {name} {count} of {of} edges ({before} after the first epoch)" for name, before, count, of in parts]
    return f"Skip connections after the last epoch: {', '.join(told)}."


def _entropy(run: RunRecords) -> str:
    means = [_mean(record.get("entropy")) for record in run.epochs]
    if math.isnan(means[0]) or math.isnan(means[-1]):
        return ""
    return (
        f"Mean entropy of the mixing weights: {as_number(means[0])} nats after the first epoch, "
        f"{as_number(means[-1])} after the last{_largest(run)}."
    )


def _largest(run: RunRecords) -> str:
    """What the entropy would be if all candidates weighed the same."""
    edges = [edge for each in run.epoch_files[-1:] for row in (each.get("edges") or {}).values() for edge in row]
    counts = [len(edge["primitives"]) for edge in edges]
    return f", of at most {as_number(fmean(map(math.log, counts)))}" if counts else ""


def _eigenvalue(epochs: Sequence[Mapping[str, Any]]) -> str:
    measured = _measured(epochs)
    if not measured:
        return ""
    values = [number(record["eigenvalue"]) for record in measured]
    most = max(range(len(values)), key=lambda k: values[k])
    how = sorted({str(record["eigenvalue_how"]) for record in measured if record.get("eigenvalue_how")})
    way = f" ({', '.join(how)})" if how else ""
    text = f"Dominant eigenvalue of the Hessian of the validation loss with respect to the alphas{way}: "
    if len(values) == 1:
        return f"{text}{as_number(values[0])} at epoch {as_epoch(measured[0]['epoch'])}, the only measurement."
    return (
        f"{text}{as_number(values[0])} at epoch {as_epoch(measured[0]['epoch'])}, {as_number(values[-1])} at epoch "
        f"{as_epoch(measured[-1]['epoch'])}, at most {as_number(values[most])} at epoch "
        f"{as_epoch(measured[most]['epoch'])}."
    )


def _stages(run: RunRecords) -> list[list[str]]:
    """Epochs of the run beside those of the stage, where the two differ."""
    found = segments(run.epochs)
    if len(found) < 2:
        return []
    candidates = {each["epoch"]: _candidates(each) for each in run.epoch_files}
    rows = []
    for segment in found:
        first, last = segment.epochs
        known = [candidates[epoch] for epoch in range(first, last + 1) if candidates.get(epoch)]
        row = [str(segment.stage + 1), _span(segment.epochs), _span(segment.stage_epochs)]
        rows.append([*row, known[-1] if known else MISSING])
    return rows


def _candidates(file: Mapping[str, Any]) -> str:
    counts = {len(edge["primitives"]) for edges in (file.get("edges") or {}).values() for edge in edges}
    return " to ".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else ""


def _measured(epochs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [record for record in epochs if not math.isnan(number(record.get("eigenvalue")))]


def _counts(skips: object) -> dict[str, int]:
    return {str(key): count for key, count in skips.items()} if isinstance(skips, Mapping) else {}


def _mean(values: object) -> float:
    found = [number(value) for value in values.values()] if isinstance(values, Mapping) else []
    return fmean(found) if found else math.nan


def _span(ends: tuple[int, int]) -> str:
    first, last = map(as_epoch, ends)
    return f"{first} to {last}" if first != last else first
