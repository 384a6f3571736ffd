"""Paired statistics: several ways measured on the same seeds, each with intervals and tests against one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from fastdarts.errors import UserError
from fastdarts.report.intervals import logit_interval, mean_and_spread

__all__ = ["bootstrap_interval", "compare_paired", "holm", "signed_rank", "t_interval", "t_test"]

_LEVEL = 0.95
_RESAMPLES = 10_000
# A difference of two accuracies below this is rounding: the smallest step is one image of a test set.
_SAME = 1e-12


def compare_paired(values: Mapping[str, Sequence[float]], baseline: str) -> dict[str, dict[str, Any]]:
    """Describe every sample, and test each against the baseline, seed by seed.

    Args:
        values: {name: one accuracy per seed}; every name has the same seeds in the same order, at least two.
        baseline: the name that the others are tested against.

    Returns:
        ``{name: {"values", "mean", "std" (n - 1), "interval95", "bootstrap95", "against"}}``. ``interval95`` is
        Student's t on the logit scale, so that it stays within 0 and 1. ``against`` is None for the baseline, and else
        ``{"differences", "mean", "interval95" (Student's t, cut at -1 and 1), "bootstrap95", "wins", "ties",
        "losses", "t", "p_t", "p_wilcoxon", "p_t_holm", "p_wilcoxon_holm"}``, the differences being own minus
        baseline. Both tests are two-sided; Holm's correction is over all names but the baseline, one test at a time.
        ``t`` and ``p_t`` are None where all differences are equal, since the test is not defined then.

    Raises:
        UserError: for an unknown baseline, fewer than two seeds, or unequal numbers of them.
    """
    counts = {len(sample) for sample in values.values()}
    if baseline not in values:
        raise UserError(f"the baseline is {baseline!r}", f"one of {', '.join(values)}")
    if len(counts) != 1 or min(counts) < 2:
        raise UserError(f"samples of {sorted(counts)} seeds", "the same seeds for all, at least 2 of them")
    found = {name: _describe(sample) | {"against": None} for name, sample in values.items()}
    base = values[baseline]
    others = [name for name in values if name != baseline]
    for name in others:
        found[name]["against"] = _against(values[name], base)
    for kind in ("p_t", "p_wilcoxon"):
        corrected = holm([found[name]["against"][kind] for name in others])
        for name, value in zip(others, corrected, strict=True):
            found[name]["against"][f"{kind}_holm"] = value
    return found


def _describe(sample: Sequence[float]) -> dict[str, Any]:
    mean, std = mean_and_spread(sample)
    return {
        "values": list(sample),
        "mean": mean,
        "std": std,
        "interval95": list(logit_interval(sample)),
        "bootstrap95": bootstrap_interval(sample),
    }


def _against(own: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    differences = [a - b for a, b in zip(own, base, strict=True)]
    differences = [0.0 if abs(each) < _SAME else each for each in differences]
    t, p_t = t_test(differences)
    # Cut, not bent: it must hold 0 exactly where the test's p is above 0.05.
    low, high = t_interval(differences)
    return {
        "differences": differences,
        "mean": fmean(differences),
        "interval95": [max(-1.0, low), min(1.0, high)],
        "bootstrap95": bootstrap_interval(differences),
        "wins": sum(each > 0 for each in differences),
        "ties": sum(each == 0 for each in differences),
        "losses": sum(each < 0 for each in differences),
        "t": t,
        "p_t": p_t,
        "p_wilcoxon": signed_rank(differences),
    }


def t_interval(sample: Sequence[float]) -> list[float]:
    """95% interval of the mean: ``mean +- t(0.975, n - 1) s / sqrt(n)``, for numbers spread about normally.

    Args:
        sample: n >= 2 numbers.

    Returns:
        [low, high].
    """
    from scipy import stats

    mean, std = mean_and_spread(sample)
    half = float(stats.t.ppf(0.5 + _LEVEL / 2, len(sample) - 1)) * std / math.sqrt(len(sample))
    return [mean - half, mean + half]


def bootstrap_interval(sample: Sequence[float], *, resamples: int = _RESAMPLES, seed: int = 0) -> list[float]:
    """95% interval of the mean by the percentile bootstrap: the means of samples drawn from the sample.

    It supposes nothing of the spread's shape, and is too narrow for few numbers (by ``sqrt((n - 1) / n)`` at least).

    Args:
        sample: n >= 2 numbers.
        resamples: how many samples of n are drawn with replacement.
        seed: of the draws, by a generator of their own.

    Returns:
        [low, high].

    Source: Efron 1979; Efron and Tibshirani 1993, chapter 13.
    """
    numbers = np.asarray(sample, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(numbers), size=(resamples, len(numbers)))
    low, high = np.quantile(numbers[drawn].mean(axis=1), [0.5 - _LEVEL / 2, 0.5 + _LEVEL / 2])
    return [float(low), float(high)]


def t_test(differences: Sequence[float]) -> tuple[float | None, float | None]:
    """Student's paired t-test: ``t = mean / (s / sqrt(n))`` against ``t(n - 1)``, two-sided.

    Args:
        differences: n >= 2 differences of pairs.

    Returns:
        t and its p; None for both where all differences are equal but not 0, and (0, 1) where all are 0.
    """
    from scipy import stats

    mean, std = mean_and_spread(differences)
    if std <= _SAME:
        return (0.0, 1.0) if abs(mean) <= _SAME else (None, None)
    t = mean * math.sqrt(len(differences)) / std
    return t, float(2 * stats.t.sf(abs(t), len(differences) - 1))


def signed_rank(differences: Sequence[float]) -> float:
    """Wilcoxon's signed-rank test, two-sided and exact, also with ties, which get the mean of their ranks.

    ``W`` is the sum of the ranks of ``|d|`` over positive ``d``; by symmetry every sign is equally likely where the
    median difference is 0, so the chance of a ``W`` at least as far from its mean is counted over all ``2^n`` signs.
    Differences of 0 are left out, as Wilcoxon did.

    Args:
        differences: of pairs.

    Returns:
        p; 1 where no difference is left. With n differences it cannot be below ``2 / 2^n``.

    Source: Wilcoxon 1945.
    """
    from scipy import stats

    nonzero = [each for each in differences if each]
    # Twice the ranks, since the mean of tied ranks may be a half. Rounded, so that ties are ties.
    ranks: list[int] = np.rint(2 * stats.rankdata(np.round(np.abs(nonzero), 12))).astype(int).tolist()
    total = sum(ranks)
    # ways[w]: sets of signs with w as the sum of the positive ranks; Python's integers, since 2^n outgrows others.
    ways = [1] + [0] * total
    for rank in ranks:
        ways = [count + (ways[w - rank] if w >= rank else 0) for w, count in enumerate(ways)]
    observed = sum(rank for rank, each in zip(ranks, nonzero, strict=True) if each > 0)
    distance = abs(2 * observed - total)
    extreme = sum(count for w, count in enumerate(ways) if abs(2 * w - total) >= distance)
    return float(extreme / 2 ** len(ranks))


def holm(chances: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for m tests: the i-th smallest p times ``m - i + 1``, never below the one before it, at most 1.

    Args:
        chances: the p of each test; one that is not defined (None) counts as a test that shows nothing.

    Returns:
        The corrected values in the same order, None where one was not defined.

    Source: Holm 1979.
    """
    order = sorted(range(len(chances)), key=lambda i: _p(chances[i]))
    corrected: list[float | None] = [None] * len(chances)
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(chances) - place) * _p(chances[i])))
        corrected[i] = None if chances[i] is None else highest
    return corrected


def _p(chance: float | None) -> float:
    return 1.0 if chance is None else chance
