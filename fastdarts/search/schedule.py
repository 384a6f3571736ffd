"""Schedules: what depends on the epoch alone, so that nothing of it needs saving."""

from __future__ import annotations

import math

__all__ = ["cosine"]


def cosine(epoch: int, epochs: int, first: float, last: float) -> float:
    """Cosine annealing without restarts, ``last + (first - last) (1 + cos(pi epoch / epochs)) / 2``.

    Source: Loshchilov and Hutter 2017, Eq. 5; the closed form of ``CosineAnnealingLR``, as DARTS uses it.
    """
    return last + (first - last) * (1.0 + math.cos(math.pi * epoch / epochs)) / 2.0
