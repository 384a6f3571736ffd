"""Two runs side by side: what was different, what came out, and whether the test set can tell the two apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastdarts.report.budgets import Result, results_of
from fastdarts.report.decision import decision_of
from fastdarts.report.history import alarms
from fastdarts.report.intervals import wilson
from fastdarts.report.records import RunRecords, number
from fastdarts.report.verdict import judge
from fastdarts.report.words import MISSING, as_budget, as_count, as_duration, as_percent, as_setting, plural
from fastdarts.spaces import Genotype

__all__ = ["pair_rows", "pair_words"]

# Settings that are told first, and whether or not they differ.
_ALWAYS = ("method", "space", "data", "seed", "epochs")


def pair_rows(a: RunRecords, b: RunRecords) -> list[list[str]]:
    """A table of two runs: a header, then a row for what they were begun with and what came of it.

    Args:
        a, b: their records.
    """
    settings = [each.settings for each in (a, b)]
    names = [name for name in _ALWAYS if any(name in each for each in settings)]
    names += [
        name
        for name in {**settings[0], **settings[1]}
        if name not in (*_ALWAYS, "genotype") and settings[0].get(name) != settings[1].get(name)
    ]
    rows = [["", *_names(a, b)], ["kind", a.kind, b.kind]]
    rows += [[name, *(as_setting(each.get(name, MISSING)) for each in settings)] for name in names]
    facts = [_facts(each) for each in (a, b)]
    rows += [[name, *(each.get(name, "") for each in facts)] for name in {**facts[0], **facts[1]}]
    return rows


def pair_words(a: RunRecords, b: RunRecords) -> list[str]:
    """What may be concluded from the two, a sentence each.

    Args:
        a, b: their records.
    """
    lines = [_tested(a, b)]
    if a.genotype is not None and b.genotype is not None:
        lines.append(_shared(a.genotype, b.genotype))
    return [line for line in lines if line]


def _names(a: RunRecords, b: RunRecords) -> list[str]:
    """What to call them: their folders' names, where these differ."""
    same = a.path.name == b.path.name
    return [str(each.path) if same else each.path.name for each in (a, b)]


def _facts(run: RunRecords) -> dict[str, str]:
    """What came of a run, by what it is called."""
    result, last = _result(run), run.epochs[-1] if run.epochs else {}
    facts = {"test accuracy": as_percent(result.accuracy) if result else "not tested"}
    if result is not None:
        facts["training"] = as_budget({key: result.budget.get(key) for key in ("epochs", "layers", "channels")})
        facts["trainings"] = str(result.trainings)
    if result is not None and not math.isnan(number(result.parameters)):
        facts["parameters"] = as_count(result.parameters)
    verdict = judge(run.comparison) if run.comparison is not None else None
    if verdict is not None:
        facts["random choice"] = verdict.headline
    if run.kind == "search":
        facts["supernet"] = as_percent(last.get("valid_accuracy"))
        skips = last.get("skips")
        facts["skip connections"] = as_setting(skips) if isinstance(skips, Mapping) else MISSING
        decision = decision_of(run)
        if decision is not None:
            state = "undecided" if decision.undecided else "decided"
            facts["preference"] = f"{state}: entropy {100 * decision.entropy:.0f}% of the largest"
        facts["alarms"] = ", ".join(alarm.kind for alarm in alarms(run.epochs)) or "none"
    facts["took"] = as_duration(last.get("elapsed_s"))
    return facts


def _result(run: RunRecords) -> Result | None:
    comparisons = [] if run.comparison is None else [run.comparison, *run.others]
    return next(iter(results_of(comparisons, run.retrain)), None)


def _tested(a: RunRecords, b: RunRecords) -> str:
    """Whether the two accuracies compare, and whether their test set can tell them apart."""
    first, second = _result(a), _result(b)
    if first is None or second is None:
        return "Not both networks were tested, so nothing is known of which is the better one."
    if a.settings.get("data") != b.settings.get("data"):
        return "They were tested on different data, so their accuracies do not compare."
    if first.budget != second.budget:
        told = [as_budget(each.budget) or "an unknown budget" for each in (first, second)]
        return f"Their trainings had different budgets ({told[0]}; {told[1]}), so their accuracies do not compare."
    gap = first.accuracy - second.accuracy
    better = _names(a, b)[0 if gap > 0 else 1]
    text = f"{better} is ahead by {100 * abs(gap):.2f} points" if gap else "Both reached the same test accuracy"
    count = number(_images(a) or _images(b))
    if not count >= 1:
        return f"{text}; how many test images there were was not recorded."
    spans = [wilson(each.accuracy, int(count)) for each in (first, second)]
    apart = spans[0][0] > spans[1][1] or spans[1][0] > spans[0][1]
    text += f", {abs(gap) * count:.0f} of {plural(int(count), 'test image')}. "
    if apart:
        return text + "Their 95% intervals (Wilson) do not meet; another training seed may still move either."
    return text + "Their 95% intervals (Wilson) overlap: so many images cannot tell the two apart."


def _images(run: RunRecords) -> Any:
    return (run.comparison or {}).get("test_images") or (run.retrain or {}).get("test_images")


def _shared(first: Genotype, second: Genotype) -> str:
    """How many edges, with their operators, two genotypes have in common."""
    common = total = 0
    for key in first.cells.keys() & second.cells.keys():
        edges = [set(each.cells[key].edges()) for each in (first, second)]
        common, total = common + len(edges[0] & edges[1]), total + len(edges[0])
    if not total:
        return "Their cells are of different kinds."
    return f"Their cells share {common} of {total} edges with the same operator."
