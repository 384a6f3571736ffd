"""Did the search beat random choice? The answer in plain words, with its numbers and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastdarts.report.records import number

__all__ = ["Verdict", "judge"]

_LEVEL = 0.05


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison with random cells.

    Args:
        tone: ``better``, ``unsure`` or ``worse``.
        headline: the answer in a few words.
        numbers: the accuracies, the interval and how many random cells beat the found one.
        certainty: how likely luck alone would do this.
        chance: probability of this rank or a better one if the found cell were one more random cell.
    """

    tone: str
    headline: str
    numbers: str
    certainty: str
    chance: float


def judge(comparison: Mapping[str, Any]) -> Verdict | None:
    """Say whether the found cell beat random cells, and how sure that is.

    If the found cell were one more random cell, each of the N + 1 ranks would be equally likely, so doing at least
    this well has probability ``(1 + B) / (N + 1)``, B being the number of random cells that are as good or better.

    Args:
        comparison: what ``comparison.json`` holds.

    Returns:
        The verdict; None where the accuracies are missing.
    """
    found = number(comparison["found"].get("mean"))
    means = [number(cell.get("mean")) for cell in comparison["random"]]
    means = [mean for mean in means if not math.isnan(mean)]
    if math.isnan(found) or not means:
        return None
    count, beaten = len(means), sum(mean > found for mean in means)
    average = math.fsum(means) / count
    chance = (1 + sum(mean >= found for mean in means)) / (count + 1)
    if found > average and chance <= _LEVEL:
        tone, headline = "better", "Better than random choice"
    elif found > average:
        tone, headline = "unsure", "Above the average random cell, but this could be luck"
    else:
        tone, headline = "worse", "No better than random choice"
    numbers = _numbers(comparison, found, average, count, beaten)
    return Verdict(tone, headline, numbers, _certainty(chance, count, tone), chance)


def _numbers(comparison: Mapping[str, Any], found: float, average: float, count: int, beaten: int) -> str:
    gap = 100 * (found - average)
    side = "above" if gap > 0 else "below"
    text = f"The found cell reached {100 * found:.2f}% test accuracy"
    seeds = comparison.get("seeds") or []
    if len(seeds) > 1:
        text += f" (mean of {len(seeds)} training seeds)"
    text += f", {abs(gap):.2f} points {side} the mean of {count} random cells, {100 * average:.2f}%"
    low, high = (number(value) for value in comparison.get("interval95") or (None, None))
    if not math.isnan(low):
        text += f" (95% interval of that mean: {100 * low:.2f}% to {100 * high:.2f}%)"
    text += f". {_beat(beaten, count)}"
    share = [number(value) for value in comparison.get("beaten_by95") or ()]
    if len(share) == 2 and not any(map(math.isnan, share)):
        text += f", so between {100 * share[0]:.0f}% and {100 * share[1]:.0f}% of all random cells would (95% interval)"
    return text + "."


def _beat(beaten: int, count: int) -> str:
    if beaten == 0:
        return f"None of the {count} random cells beat it"
    return f"{beaten} of the {count} random cells ({100 * beaten / count:.0f}%) beat it"


def _certainty(chance: float, count: int, tone: str) -> str:
    text = (
        f"If the search had merely picked one more random cell, it would rank this high among the {count + 1} with a "
        f"chance of {round(chance * (count + 1))} in {count + 1} ({100 * chance:.0f}%)"
    )
    if tone == "better":
        return text + ": luck is an unlikely explanation."
    if tone == "worse":
        return text + "."
    text += ": too likely to call it more than luck."
    needed = round(1 / _LEVEL) - 1
    if count < needed:
        text += f" With {count} random cells that chance cannot fall below {100 / (count + 1):.0f}%; compare with at "
        text += f"least {needed} to be able to tell."
    return text
