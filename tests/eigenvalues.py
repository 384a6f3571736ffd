"""Eigenvalues by epoch and RobustDARTS' rule over them, for the tests of its guards."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch

from fastdarts.search.choices import EpochEnd, Guard, Stage
from tests import tiny

EPOCHS = 50


def published(
    values: dict[int, float], *, every: int = 2, window: int = 5, delta: int = 4, factor: float = 1.3, start: int = 10
) -> int | None:
    """docs/facts.md, 6.1, in epochs: where the search is to stop or to go back to, judged at the newest value."""
    epochs = sorted(values)
    averages: dict[int, float] = {}
    for seen in range(-(-window // 2), len(epochs) + 1):
        newest = epochs[:seen][-window:]
        averages[epochs[seen - 1] - every * (window // 2)] = sum(values[epoch] for epoch in newest) / len(newest)
    now = epochs[-1] - every * (window // 2)
    back = now - every * delta
    return back if back >= start and averages[now] / averages[back] > factor else None


def measured_at(stage_epoch: int, every: int, epochs: int = EPOCHS) -> bool:
    return stage_epoch % every == 0 or stage_epoch == epochs - 1


def end_of(epoch: int, start: int, value: float | None, told: list[str], *, epochs: int = EPOCHS) -> EpochEnd:
    record = {} if value is None else {"eigenvalue": value}
    stage = Stage(start, epochs, tiny.SPACE, 3)
    return EpochEnd(epoch, stage, None, None, {}, record, told.append)  # type: ignore[arg-type]


def saved(guard: Guard, new: Callable[[], Guard]) -> Guard:
    """The guard as a resumption makes it."""
    made = new()
    made.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    return made


def walk(seed: int, epochs: int = EPOCHS) -> list[float]:
    """Positive eigenvalues that wander, some fast enough to trigger."""
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(epochs, generator=generator, dtype=torch.float64) * 0.12 + 0.01 * (seed % 4)
    return steps.cumsum(0).exp().mul(0.2).tolist()
