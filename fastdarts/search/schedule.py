"""Schedules: what depends on the epoch alone, so that nothing of it needs saving."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from fastdarts.search.choices import Stage
from fastdarts.search.config import SearchConfig

__all__ = ["Rates", "cosine", "learning_rate", "rates"]


class Rates(NamedTuple):
    """Probabilities that hold for an epoch.

    Args:
        drop_path: of dropping a path of an image.
        cutout: of cutting out of an image.
        skip_dropout: of dropping an element after a skip connection.
    """

    drop_path: float
    cutout: float
    skip_dropout: float


def cosine(epoch: float, epochs: int, first: float, last: float) -> float:
    """Cosine annealing without restarts, ``last + (first - last) (1 + cos(pi epoch / epochs)) / 2``.

    Source: Loshchilov and Hutter 2017, Eq. 5; the closed form of ``CosineAnnealingLR``, as DARTS uses it.
    """
    return last + (first - last) * (1.0 + math.cos(math.pi * epoch / epochs)) / 2.0


def learning_rate(config: SearchConfig, epoch: int, epochs: int, behind: float = 0.0) -> float:
    """Of the weights: cosine, in the first ``warmup_epochs`` ``lr (epoch + 1) / warmup_epochs`` (PC-DARTS, ImageNet),
    where batches have more than ``warmup_above`` images.

    With ``waiting_epochs`` these have a cosine of their own from ``waiting_lr`` to 0, and the other one begins after
    them (ProxylessNAS).

    Args:
        config: of the search.
        epoch: of the stage.
        epochs: the stage's.
        behind: share of the epoch that is behind, where the rate falls by the step.
    """
    if epoch < config.warmup_epochs and config.batch_size > config.warmup_above:
        return config.lr * (epoch + 1) / config.warmup_epochs
    at, wait = epoch + behind, config.waiting_epochs
    if epoch < wait:
        return cosine(at, wait, config.waiting_lr, 0.0)
    return cosine(at - wait, epochs - wait, config.lr, config.lr_min)


def rates(config: SearchConfig, skip_dropout: Callable[[Stage, int], float] | None, stage: Stage, epoch: int) -> Rates:
    """The probabilities of an epoch.

    With ``ramp`` drop-path and cutout rise by ``epoch / (epochs - 1)`` (RobustDARTS' search); else drop-path rises by
    ``epoch / epochs`` (DARTS' evaluation), or stays with ``drop_path_constant`` (SNAS), and cutout is always there.

    Args:
        config: of the search.
        skip_dropout: the method's schedule; None for none.
        stage: the current one.
        epoch: of the stage.
    """
    share = epoch / max(stage.epochs - 1, 1) if config.ramp else epoch / stage.epochs
    dropped = 1.0 if config.drop_path_constant else share
    return Rates(
        config.drop_path * dropped, share if config.ramp else 1.0, skip_dropout(stage, epoch) if skip_dropout else 0.0
    )
