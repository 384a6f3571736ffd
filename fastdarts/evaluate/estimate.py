"""What searches and trainings will take, before they begin: measured on two steps of each, in seconds and bytes."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fastdarts._backend import use_backend
from fastdarts.data import ImageSet, load_images
from fastdarts.evaluate.retrain import RetrainConfig, RetrainJob, Sets, images_of
from fastdarts.search.config import SearchConfig
from fastdarts.search.environment import reproducible
from fastdarts.search.job import SearchJob
from fastdarts.search.runner import peak_bytes
from fastdarts.spaces import Space

__all__ = ["Estimate", "estimate_searches", "estimate_trainings"]

_STEPS = 2
# A run folder keeps two, for a moment three.
_CHECKPOINTS = 2


@dataclass(frozen=True)
class Estimate:
    """Searches or trainings of one kind and size.

    Args:
        what: ``search`` or ``network``.
        count: how many.
        epochs, steps: epochs of each, and steps of an epoch.
        step_seconds: mean of two steps after a first one; what an epoch's end takes is not in it.
        memory_bytes: peak of this process, or on a GPU of its allocator, while they ran.
        disk_bytes: of the checkpoints that all of them leave.
    """

    what: str
    count: int
    epochs: int
    steps: int
    step_seconds: float
    memory_bytes: int
    disk_bytes: int

    @property
    def seconds(self) -> float:
        """Of all of them, one after the other."""
        return self.count * self.epochs * self.steps * self.step_seconds


def estimate_searches(
    configs: Sequence[SearchConfig], *, search_space: Space | None = None, train_set: ImageSet | None = None
) -> list[Estimate]:
    """Measure two steps of a search of each method, of those that the configurations have.

    Args:
        configs: the searches; those that differ in seed and rates only are measured once.
        search_space, train_set: as for :func:`fastdarts.search.search`.

    Raises:
        UserError: for settings or data that do not fit, as the search itself would.
    """
    found = []
    # A learning rate or a weight decay costs what another one does.
    rates = [field.name for field in dataclasses.fields(SearchConfig) if field.type == "float"]
    for same in _alike(configs, ("seed", *rates)):
        config = same[0]
        with use_backend(config.backend):
            images = load_images(config.data, config.data_root)[0] if train_set is None else train_set
            job = SearchJob(config, images, search_space)
            job.rehearse()
            # Not before the alphas learn: until then a step is half of one.
            found.append(_measured(job, same, "search", config.arch_start_epoch))
    return found


def estimate_trainings(configs: Sequence[RetrainConfig], *, sets: Sets | None = None) -> list[Estimate]:
    """Measure two steps of the first of some trainings of one size; the networks differ, and so will their times.

    Args:
        configs: the trainings.
        sets: as for :func:`fastdarts.evaluate.retrain`.

    Raises:
        UserError: for settings or data that do not fit, as the training itself would.
    """
    found = []
    for same in _alike(configs, ("seed", "genotype")):
        with use_backend(same[0].backend):
            job = RetrainJob(same[0], images_of(same[0], sets))
            found.append(_measured(job, same, "network", 0))
    return found


def _alike(configs: Iterable[Any], apart_from: tuple[str, ...]) -> list[list[Any]]:
    """The configurations in groups of those that differ in nothing else."""
    groups: dict[str, list[Any]] = {}
    for config in configs:
        groups.setdefault(repr({**vars(config), **dict.fromkeys(apart_from)}), []).append(config)
    return list(groups.values())


def _measured(job: SearchJob | RetrainJob, configs: Sequence[Any], what: str, epoch: int) -> Estimate:
    def finish() -> None:
        if job.device.type == "cuda":
            torch.cuda.synchronize(job.device)

    epochs = job.epochs
    with reproducible(job.device, configs[0].threads):
        job.begin_epoch(epoch)
        # Positions from 1: before the first step of an epoch a search may measure more than it steps.
        job.step(epoch, 1)
        finish()
        started = time.perf_counter()
        for position in range(_STEPS):
            job.step(epoch, 2 + position)
        finish()
        seconds = (time.perf_counter() - started) / _STEPS
    kept = _CHECKPOINTS * len(configs) * _state_bytes(job.model)
    return Estimate(what, len(configs), epochs, job.steps, seconds, peak_bytes(job.device), kept)


def _state_bytes(model: nn.Module) -> int:
    """Of a checkpoint: weights, statistics, and a momentum for each weight."""
    tensors = [*model.parameters(), *model.parameters(), *model.buffers()]
    return sum(each.numel() * each.element_size() for each in tensors)
