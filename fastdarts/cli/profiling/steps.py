"""Real steps of a search, measured: bytes by part and operation, seconds by level and operation, and a timeline."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import use_backend
from fastdarts.cli.plan import usage_bytes
from fastdarts.cli.profiling.request import Request, build, predictor
from fastdarts.cli.profiling.times import by_operation
from fastdarts.data import ImageSet
from fastdarts.profile import Tracker, Usage, measure
from fastdarts.profile.ledger import Ledger, Share, watched
from fastdarts.search.choices import Stage
from fastdarts.search.environment import describe_environment, reproducible
from fastdarts.search.graph import new_step
from fastdarts.search.job import SearchJob
from fastdarts.search.runner import peak_bytes

__all__ = ["measure_request", "thinned"]

_POINTS = 400  # of a timeline


class _Job(SearchJob):
    """The search with what a request may change: the layout of the weights, and the dtype."""

    dtype = torch.float32

    def _build(self, stage: Stage) -> None:
        super()._build(stage)
        if self.dtype != torch.float32:
            cost = self.step_both.cost
            self.model.to(self.dtype)
            self.step_both = new_step(self.config, self.device, self.model, self.choices)
            self.step_both.cost = cost


def measure_request(request: Request) -> dict[str, Any]:
    """Measure; to be called in a process of its own.

    Returns:
        `predicted` and `measured` (of a pass), `shares` of each with detail, `step` (seconds and bytes of real steps),
        `time` (of one profiled step), `timeline`: values that can be written as JSON.

    Raises:
        UserError: as the search itself would.
    """
    config = request.config
    found: dict[str, Any] = {}
    with use_backend(request.backend):
        predict = predictor(request)
        found["shares"] = {"predicted": _shares(predict.shares(config.batch_size)) if request.detail else []}
        found["predicted"] = usage_bytes(predict(config.batch_size))
        job = _job(request)
        found["environment"] = describe_environment(job.device, config.threads)
        with reproducible(job.device, config.threads):
            found |= _Steps(request, job).measure()
            # After the steps: the first pass of a process makes index constants that stay, and no later one does.
            if request.contender != "compile":  # watching a compiled network would compile another one
                usage, shares = _pass(request, job.device)
                found["measured"], found["shares"]["measured"] = usage_bytes(usage), _shares(shares)
                found["equal"] = found["predicted"] == found["measured"] and (
                    not request.detail or found["shares"]["predicted"] == found["shares"]["measured"]
                )
        found["process_bytes"] = peak_bytes(job.device)
    return found


def _shares(shares: list[Share]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(share) for share in shares]


def _pass(request: Request, device: torch.device) -> tuple[Usage, list[Share]]:
    """One pass of the network that was predicted."""
    dtype, batch = getattr(torch, request.dtype), request.config.batch_size
    model = build(request).to(device, dtype)
    images = torch.randn(batch, request.in_channels, *request.size, device=device).to(dtype)
    ledger = Ledger() if request.detail else None
    usage = measure(model, images, torch.arange(batch, device=device) % request.classes, ledger)
    return usage, [] if ledger is None else ledger.shares()


def _job(request: Request) -> SearchJob:
    """The search, on noise of the images' shape and number enough for a batch of each level."""
    config = request.config
    least = min(config.train_portion, 1 - config.train_portion)
    count = 2 + int(config.batch_size / (least if least > 0 else 1.0) / (1 - config.held_out))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, request.in_channels, *request.size), generator=generator, dtype=torch.uint8)
    grey = (0.5,) * request.in_channels
    images = ImageSet("noise", pixels, torch.arange(count) % request.classes, request.classes, grey, grey)
    changed = {"stacked": request.contender == "fastdarts", "dtype": getattr(torch, request.dtype)}
    job: SearchJob = type("_Job", (_Job,), changed)(config, images, request.space)
    job.rehearse()
    return job


class _Steps:
    """Steps of one search."""

    def __init__(self, request: Request, job: SearchJob) -> None:
        self.request, self.job = request, job
        # Not before the alphas learn: until then a step is half of one.
        # Nor at the first position of an epoch, where a search may measure more than it steps.
        self.epoch, self.position = job.config.arch_start_epoch, max(1, job.config.arch_every - 1)
        self.dtype = getattr(torch, request.dtype)

    def measure(self) -> dict[str, Any]:
        """Everything that is asked about steps."""
        request, job, device = self.request, self.job, self.job.device
        job.begin_epoch(self.epoch)
        if request.contender == "compile":
            job.model.compile(dynamic=False)
        first = self._timed()
        for _ in range(request.warm_up):
            self._step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        with self._levels() as levels:
            seconds = sorted(self._timed() for _ in range(request.steps))
        median = statistics.median(seconds)
        images = job.config.batch_size * (1 if job.config.one_level or not job.choices.relaxation.learns else 2)
        step: dict[str, Any] = {
            "seconds": median,
            "fastest": seconds[0],
            "slowest": seconds[-1],
            "first_seconds": first,
            "images_per_second": images / median,
            "levels": {name: statistics.median(each) for name, each in levels.items() if each},
        }
        if device.type == "cuda":
            step["allocator_bytes"] = torch.cuda.max_memory_allocated(device)
            step["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
        found: dict[str, Any] = {"step": step}
        if request.contender != "compile":
            step["bytes"], timeline = self._tracked()
            if request.detail:
                found["timeline"] = thinned(timeline)
        if request.detail:
            found["time"] = by_operation(self._step, device)
        return found

    def _step(self) -> None:
        if self.dtype == torch.float32:
            self.job.step(self.epoch, self.position)
        else:
            self._learn(*self._batches())
        if self.job.device.type == "cuda":
            torch.cuda.synchronize(self.job.device)

    def _timed(self) -> float:
        started = time.perf_counter()
        self._step()
        return time.perf_counter() - started

    def _batches(self) -> list[tuple[Tensor, Tensor]]:
        stepper = self.job.stepper
        both = stepper.batches(stepper.draw())
        return [(images.to(self.dtype), labels) for images, labels in both]

    def _learn(self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> None:
        """A step on batches that exist, launched kernel by kernel."""
        job = self.job
        progress: Any = 0.0
        if job.device.type == "cuda":
            progress = torch.zeros((), dtype=torch.float64, device=job.device)
        job.step_both(train, valid if job.choices.relaxation.learns else None, progress)

    def _tracked(self) -> tuple[int, list[tuple[float, int, str]]]:
        """Bytes that exist at the worst moment of a step, with what exists all the time; and the timeline of a step."""
        model, step = self.job.model, self.job.step_both
        train, valid = self._batches()
        state = [
            value
            for optimiser in (step.weight_optimizer, step.arch_optimizer)
            for each in optimiser.state.values()
            for value in each.values()
            if isinstance(value, Tensor)
        ]
        given = [*model.parameters(), *model.buffers(), *state, *train, *valid]
        ledger = Ledger(timed=True)
        # A GPU's flat buffers hold the parameters, so that a storage may be there several times.
        always = sum({each.untyped_storage()._cdata: each.untyped_storage().nbytes() for each in given}.values())
        with watched(model, ledger), Tracker(given, ledger) as tracker:
            self._learn(train, valid)
        return always + tracker.peak, [(at, always + live, part) for at, live, part in ledger.timeline]

    @contextmanager
    def _levels(self) -> Iterator[dict[str, list[float]]]:
        """Seconds of each level's steps, where they are called one by one; a CUDA graph has no such seam."""
        step: Any = self.job.step_both
        found: dict[str, list[float]] = {"architecture": [], "weights": []}
        if self.job.device.type != "cpu":
            yield found
            return

        def timed(method: Callable[..., Any], into: list[float]) -> Callable[..., Any]:
            def run(*given: Any) -> Any:
                started = time.perf_counter()
                value = method(*given)
                into.append(time.perf_counter() - started)
                return value

            return run

        step.arch_step, step.weight_step = (
            timed(step.arch_step, found["architecture"]),
            timed(step.weight_step, found["weights"]),
        )
        try:
            yield found
        finally:
            del step.arch_step, step.weight_step


def thinned(timeline: list[tuple[float, int, str]], points: int = _POINTS) -> list[list[Any]]:
    """The timeline as [seconds since its start, bytes, part], the most of each of so many equal spans of time."""
    if not timeline:
        return []
    start, span = timeline[0][0], (timeline[-1][0] - timeline[0][0]) or 1.0
    most: dict[int, tuple[float, int, str]] = {}
    for each in timeline:
        place = min(points - 1, int(points * (each[0] - start) / span))
        if place not in most or each[1] > most[place][1]:
            most[place] = each
    return [[round(at - start, 6), live, part] for at, live, part in most.values()]
