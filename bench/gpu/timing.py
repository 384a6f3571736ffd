"""Seconds of work on a device: events around it, replays of a graph, a cache that holds nothing of it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.gpu import paper
from bench.table import percentile

__all__ = ["Times", "captured", "clocked", "finite", "on_gpu", "replayed", "timed"]

Work = Callable[[], object]
# Four times the L2 of an H200.
_FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Times:
    """Seconds of one run, of several."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def to_json(self, unit: float = 1e3, name: str = "ms") -> dict[str, Any]:
        """Median and the 20th and 80th percentile; `ms`, `ms_p20` and `ms_p80` unless told otherwise."""
        low, high = (percentile(self.seconds, share) * unit for share in (0.2, 0.8))
        return {name: self.median * unit, f"{name}_p20": low, f"{name}_p80": high, "rounds": len(self.seconds)}


def on_gpu(device: torch.device) -> bool:
    """Whether there are events and graphs, be it those of a GPU of paper."""
    return device.type == "cuda" or paper.installed()


def timed(work: Work, device: torch.device, *, rounds: int, warmup: int = 3, flush: bool = False) -> Times:
    """Seconds of each of some runs, by device events on CUDA.

    Args:
        work: what is timed; on CUDA on the current stream.
        device: where it runs.
        rounds: timed runs.
        warmup: runs before them, which compile, tune and fill the allocator.
        flush: whether the L2 is overwritten before each run, outside of the time.
    """
    for _ in range(warmup):
        work()
    if not on_gpu(device):
        return Times([clocked(work, device) for _ in range(rounds)])
    torch.cuda.synchronize()
    pairs = []
    for _ in range(rounds):
        if flush:
            # It takes the device long enough for the host to queue what follows.
            _cache(device).zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        pairs.append((start, end))
    torch.cuda.synchronize()
    return Times([start.elapsed_time(end) / 1e3 for start, end in pairs])


def clocked(work: Work, device: torch.device) -> float:
    """Seconds of one run by the host's clock, the device idle before and after."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def captured(work: Work, *, calls: int = 1) -> torch.cuda.CUDAGraph:
    """A CUDA graph of some runs of `work`, after runs that are not part of it.

    Raises:
        RuntimeError: work synchronises, or copies from pageable memory, or does what else a graph cannot hold.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    current = torch.cuda.current_stream()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(calls):
                work()
    finally:
        # Ending a capture that was broken raises before torch goes back to the stream it came from.
        torch.cuda.set_stream(current)
    return graph


def replayed(work: Work, device: torch.device, *, rounds: int, calls: int = 10) -> dict[str, Any]:
    """Microseconds of one run without its host's part: by graph replays on CUDA, by the clock elsewhere.

    Args:
        work: what is timed.
        device: where it runs.
        rounds: replays.
        calls: runs in the graph of the second figure.

    Returns:
        `us`, `us_p20`, `us_p80`, `rounds`: with an L2 that was overwritten before each run; `warm_us`: the mean of
        `calls` runs in a row; `host_us`: what the host takes to launch one; `uncaptured`, why no graph holds it, where
        none does: the times are then those of events around the launches.
    """
    if not on_gpu(device):
        times = timed(work, device, rounds=rounds, warmup=0)
        return times.to_json(1e6, "us") | {"warm_us": times.median * 1e6}
    for _ in range(3):
        work()
    host = _launching(work)
    try:
        once, often = captured(work), captured(work, calls=calls)
    except RuntimeError as error:
        torch.cuda.synchronize()
        times = timed(work, device, rounds=rounds, flush=True)
        why = str(error).splitlines()[0][:200]
        return times.to_json(1e6, "us") | {"host_us": host * 1e6, "uncaptured": why}
    cold = timed(once.replay, device, rounds=rounds, flush=True)
    warm = timed(often.replay, device, rounds=rounds)
    return cold.to_json(1e6, "us") | {"warm_us": warm.median * 1e6 / calls, "host_us": host * 1e6}


def finite(tensors: list[Tensor]) -> bool:
    """Whether every element of the floating tensors is a number."""
    return all(bool(each.isfinite().all()) for each in tensors if each.is_floating_point())


def _launching(work: Work, rounds: int = 10) -> float:
    """Seconds of the host for one run; the device is behind."""
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(times)


@functools.cache
def _cache(device: torch.device) -> Tensor:
    return torch.empty(_FLUSH_BYTES if device.type == "cuda" else 1, dtype=torch.uint8, device=device)


def _wait(device: torch.device) -> None:
    if on_gpu(device):
        torch.cuda.synchronize()
