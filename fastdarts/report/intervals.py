"""Mean and spread of a sample, and intervals that stay where what they are of can be: accuracies from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

__all__ = ["logit_interval", "mean_and_spread", "wilson"]

_Z = 1.959963984540054


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1) of some numbers; the deviation of a single one is 0."""
    mean = fmean(values)
    return mean, math.sqrt(math.fsum((each - mean) ** 2 for each in values) / max(len(values) - 1, 1))


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% interval of a probability that was seen as ``share`` of ``count`` independent cases, such as test images.

    ``(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4 n^2)) / (1 + z^2 / n)``; unlike ``p +- z s`` it never leaves 0 to
    1 and is not empty at 0 and 1.

    Args:
        share: 0 to 1.
        count: at least 1.

    Returns:
        low, high.

    Source: Wilson 1927.
    """
    square = _Z * _Z / count
    middle = (share + square / 2) / (1 + square)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def logit_interval(sample: Sequence[float]) -> tuple[float, float]:
    """95% interval of the mean m of accuracies, by Student's t on the logit scale, so that it stays within 0 and 1.

    ``expit(logit(m) +- t(0.975, n - 1) s / (sqrt(n) m (1 - m)))``, the delta method: near one half and for a small
    spread it is ``m +- t s / sqrt(n)``.

    Args:
        sample: n >= 2 accuracies as fractions.

    Returns:
        low, high; both are m where all are equal.
    """
    from scipy import stats

    count = len(sample)
    mean, spread = mean_and_spread(sample)
    error = spread / math.sqrt(count)
    if error == 0.0 or not 0.0 < mean < 1.0:
        return mean, mean
    half = float(stats.t.ppf(0.975, count - 1)) * error / (mean * (1 - mean))
    middle = math.log(mean / (1 - mean))
    return _expit(middle - half), _expit(middle + half)


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))
