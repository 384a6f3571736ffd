"""Where the time of a step goes: this engine's kernels, torch's operations, and what is left to Python."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fastdarts._backend import native

__all__ = ["by_operation", "rows"]

_CELLS = ("fastdarts::cell", "fastdarts::cell_backward")
_GPU = torch.autograd.DeviceType.CUDA

Row = dict[str, Any]


def by_operation(step: Callable[[], None], device: torch.device) -> dict[str, Any]:
    """Run one step under torch's profiler and the native core's record of launches.

    Returns:
        `seconds` of that step, which the profiler makes slower; `levels`, seconds of `kernels`, `torch` and `python`,
        which add up to it on a CPU (on a GPU `kernels` are the device's, beside the host's); `operations`, rows of
        `op`, `level`, `calls`, `seconds`, the longest first.
    """
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    core = native()
    if core is not None:
        core.record_launches(True)
    try:
        # Without acc_events torch 2.11 warns that the next cycle will clear the events of this one.
        with _no_standard_error(), profile(activities=activities, acc_events=True) as seen:
            started = time.perf_counter()
            step()
            seconds = time.perf_counter() - started
    finally:
        launches = [] if core is None else core.launches()
        if core is not None:
            core.record_launches(False)
    found = rows(seen.key_averages(), launches)
    levels = {level: sum(row["seconds"] for row in found if row["level"] == level) for level in ("kernels", "torch")}
    host = levels["torch"] + (levels["kernels"] if device.type == "cpu" else 0.0)
    levels["python"] = max(0.0, seconds - host)
    return {"seconds": seconds, "levels": levels, "operations": found}


@contextmanager
def _no_standard_error() -> Iterator[None]:
    """torch 2.13's profiler writes there that it starts and stops, whatever its log level is."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def rows(events: Iterable[Any], launches: Iterable[tuple[str, str, int, bool, float]]) -> list[Row]:
    """Time by operation.

    Args:
        events: of the profiler, averaged by key: `key`, `count`, `device_type`, `self_cpu_time_total` and
            `self_device_time_total`, microseconds.
        launches: of the native core: op, function, convolutions, whether weights' gradients, seconds.
    """
    found: dict[tuple[str, str], list[float]] = {}

    def add(level: str, op: str, calls: float, seconds: float) -> None:
        row = found.setdefault((level, op), [0, 0.0])
        row[0] += calls
        row[1] += seconds

    inside = 0.0
    for op, function, _, _, seconds in launches:
        add("kernels", f"{op}.{function}", 1, seconds)
        inside += seconds
    for event in events:
        own = event.self_cpu_time_total / 1e6
        if event.device_type == _GPU:
            add("kernels", event.key, event.count, event.self_device_time_total / 1e6)
        elif event.key in _CELLS:
            # Its kernels were counted; what is left packs addresses and allocates.
            launched = min(inside, own)
            inside -= launched
            add("torch", f"{event.key} (launching)", event.count, own - launched)
        elif event.key.startswith("fastdarts::"):
            add("kernels", event.key.replace("fastdarts::", ""), event.count, own)
        elif event.key.startswith("aten::"):
            add("torch", event.key, event.count, own)
    table = [
        {"op": op, "level": level, "calls": int(calls), "seconds": seconds}
        for (level, op), (calls, seconds) in found.items()
    ]
    return sorted(table, key=lambda row: -row["seconds"])
