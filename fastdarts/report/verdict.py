"""Did the search beat random choice? The answer in plain words, with its numbers and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fastdarts.report.intervals import logit_interval, wilson
from fastdarts.report.records import number
from fastdarts.report.words import as_budget, as_count, as_percent, plural

__all__ = ["NEEDED", "Verdict", "interval_of", "judge", "sampling_words", "size_words"]

_LEVEL = 0.05
# So many random cells at least, for the first rank to be unlikely by luck.
NEEDED = round(1 / _LEVEL) - 1


@dataclass(frozen=True)
class Verdict:
    """The outcome of a comparison with random cells.

    Args:
        tone: ``better``, ``unsure`` or ``worse``.
        headline: the answer in a few words.
        numbers: the accuracies, the interval and how many random cells beat the found one.
        certainty: how likely luck alone would do this, and what so few random cells cannot show.
        sampling: what the number of test images lets the accuracies say.
        size: parameters of the found network beside the random ones'.
        chance: probability of this rank or a better one if the found cell were one more random cell.
    """

    tone: str
    headline: str
    numbers: str
    certainty: str
    sampling: str
    size: str
    chance: float

    @property
    def sentences(self) -> list[str]:
        """Everything but the headline, a paragraph each."""
        return [text for text in (self.numbers, self.certainty, self.sampling, self.size) if text]


def judge(comparison: Mapping[str, Any]) -> Verdict | None:
    """Say whether the found cell beat random cells, and how sure that is.

    If the found cell were one more random cell, each of the N + 1 ranks would be equally likely, so doing at least
    this well has probability ``(1 + B) / (N + 1)``, B being the number of random cells that are as good or better.

    Args:
        comparison: what ``comparison.json`` holds.

    Returns:
        The verdict; None where the accuracies are missing.
    """
    found, means = number(comparison["found"].get("mean")), _means(comparison)
    if math.isnan(found) or not means:
        return None
    count, beaten = len(means), sum(mean > found for mean in means)
    average = fmean(means)
    chance = (1 + sum(mean >= found for mean in means)) / (count + 1)
    if found > average and chance <= _LEVEL:
        tone, headline = "better", "Better than random choice"
    elif found > average:
        tone, headline = "unsure", "Above the average random cell, but this could be luck"
    else:
        tone, headline = "worse", "No better than random choice"
    numbers = _numbers(comparison, found, average, count, beaten)
    sampling = sampling_words(comparison.get("test_images"), found, found - average)
    return Verdict(tone, headline, numbers, _certainty(chance, count, tone), sampling, size_words(comparison), chance)


def interval_of(comparison: Mapping[str, Any]) -> tuple[float, float]:
    """The 95% interval of the random cells' mean, within 0 and 1; nan where there is none.

    Comparisons of before it was kept there are given a new one from their accuracies.
    """
    low, high = (number(value) for value in comparison.get("interval95") or (None, None))
    means = _means(comparison)
    if (low < 0 or high > 1) and len(means) > 1:
        return logit_interval(means)
    return low, high


def sampling_words(images: object, accuracy: float, lead: float | None = None) -> str:
    """What a test set of so many images can tell.

    Args:
        images: their number; anything else where it is not known.
        accuracy: a network's, as a fraction.
        lead: its difference to what it is compared with, as a fraction.
    """
    count = number(images)
    if not count >= 1 or math.isnan(accuracy):
        return "How many test images there were was not recorded, so the error of sampling them is not known."
    low, high = wilson(min(max(accuracy, 0.0), 1.0), int(count))
    text = f"The test set has {as_count(count)} images: one image is {100 / count:.2f} points"
    if lead is not None:
        text += f", so the difference of {100 * abs(lead):.2f} points is {abs(lead) * count:.1f} images"
    return (
        f"{text}. From so many images an accuracy of {as_percent(accuracy)} is known to lie between {as_percent(low)} "
        f"and {as_percent(high)} (95% interval, Wilson); the difference of two networks that were tested on the same "
        "images is known better."
    )


def size_words(comparison: Mapping[str, Any]) -> str:
    """Parameters of the found network beside the random ones'; empty where they were not recorded."""
    found = number(comparison["found"].get("parameters"))
    sizes = [number(cell.get("parameters")) for cell in comparison["random"]]
    if math.isnan(found) or not sizes or any(map(math.isnan, sizes)):
        return ""
    mean = fmean(sizes)
    text = (
        f"The found network has {as_count(found)} parameters, the random ones {as_count(mean)} on average "
        f"({as_count(min(sizes))} to {as_count(max(sizes))})"
    )
    if mean > 0 and abs(found / mean - 1) >= 0.1:
        text += f": it is {found / mean:.2f} times as large, which alone can move an accuracy"
    return text + "."


def _means(comparison: Mapping[str, Any]) -> list[float]:
    means = (number(cell.get("mean")) for cell in comparison["random"])
    return [mean for mean in means if not math.isnan(mean)]


def _numbers(comparison: Mapping[str, Any], found: float, average: float, count: int, beaten: int) -> str:
    gap = 100 * (found - average)
    side = "above" if gap > 0 else "below"
    text = f"The found cell reached {100 * found:.2f}% test accuracy"
    seeds = comparison.get("seeds") or []
    if len(seeds) > 1:
        text += f" (mean of {len(seeds)} training seeds)"
    budget = as_budget(comparison.get("budget"))
    text += f" after {budget}" if budget else ""
    text += f", {abs(gap):.2f} points {side} the mean of {count} random cells, {100 * average:.2f}%"
    low, high = interval_of(comparison)
    if not math.isnan(low):
        text += f" (95% interval of that mean: {100 * low:.2f}% to {100 * high:.2f}%)"
    text += f". {_beat(beaten, count)}"
    share = [number(value) for value in comparison.get("beaten_by95") or ()]
    if len(share) == 2 and not any(map(math.isnan, share)):
        text += f", so between {100 * share[0]:.0f}% and {100 * share[1]:.0f}% of all random cells would (95% interval)"
    diverged = comparison.get("diverged")
    if isinstance(diverged, Mapping) and diverged:
        text += f". Not counted: {plural(len(diverged), 'training')} of random cells that diverged"
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
    text += ": too likely to call it more than luck." if tone == "unsure" else "."
    if count < NEEDED:
        text += (
            f" {plural(count, 'random cell')} can show that a search did poorly, never that it beat chance: the first "
            f"of {count + 1} is first by luck alone with a chance of {100 / (count + 1):.0f}%. That takes at least "
            f"{NEEDED} (--random-cells {NEEDED})."
        )
    return text
