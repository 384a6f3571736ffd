"""A dry run's GPU: kernels compile and launch as on the machine and compute nothing; what had to be compiled counts.

`tests/paper_device.py` is Triton's side of it and CUDA C++'s; here is torch's: events, streams and graphs that do
nothing, so that a stage runs the very lines that it runs on a GPU. A process has it from `install` to its end.

FASTDARTS_PAPER=kinds in the environment compiles one variant of a kind, no further than Triton's IR: for the suite.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bench.gpu import record

__all__ = ["close", "counted", "install", "installed"]

_TESTS = Path(__file__).parents[2] / "tests"
_state = SimpleNamespace(device=None, keys=set(), linked=[])


def installed() -> bool:
    """Whether this process' GPU is of paper."""
    return _state.device is not None


def install(out: Path) -> None:
    """Put the paper device and its torch.cuda in place; at the end the record in `out` hears what was compiled."""
    if installed():
        return
    sys.path.append(str(_TESTS))
    import paper_device

    stages = os.environ.get("FASTDARTS_PAPER", "binary")
    _watch()
    _state.device = paper_device.install(stages, launcher=stages == "binary")
    for name, value in _cuda().items():
        setattr(torch.cuda, name, value)
    _search_as_on_a_gpu()
    _state.out = out
    atexit.register(close)


@contextlib.contextmanager
def counted() -> Iterator[dict[str, int]]:
    """What a block launches, and what it has to compile that Triton's cache does not have."""
    found: dict[str, int] = {}
    before, launched = _compiled(), sum(_state.device.launches().values())
    yield found
    found |= {"compiled": _compiled() - before, "launches": sum(_state.device.launches().values()) - launched}


def _compiled() -> int:
    return sum(not each.cached for each in _state.device.compiled) + len(_state.linked)


def _watch() -> None:
    """Note the keys of Triton's cache that are used, and the modules in C that are built."""
    from triton.runtime import build, cache

    created, build_one = cache.FileCacheManager.__init__, build._build

    def noted(self: Any, key: str, *rest: Any, **more: Any) -> None:
        _state.keys.add(key)
        created(self, key, *rest, **more)

    def counted_build(name: str, *rest: Any, **more: Any) -> Any:
        _state.linked.append(name)
        return build_one(name, *rest, **more)

    cache.FileCacheManager.__init__, build._build = noted, counted_build


def close() -> None:
    """Tell the record what was compiled, once."""
    atexit.unregister(close)
    kernels = [each.kernel for each in _state.device.compiled if not each.cached]
    line = {"paper": True, "compiled": sorted(kernels) + sorted(_state.linked), "keys": sorted(_state.keys)}
    record.append(_state.out, line | {"variants": len(_state.device.compiled)})


class _Event:
    """A moment; any two are a millisecond apart."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.timed = enable_timing

    def record(self, stream: object = None) -> None:
        """Nothing."""

    def elapsed_time(self, end: _Event) -> float:
        """One millisecond, if both were asked to take the time."""
        if not (self.timed and end.timed):
            raise ValueError("an event without timing")
        return 1.0


class _Stream:
    device_index, cuda_stream = 0, 0

    def __init__(self, device: object = None) -> None:
        """Of any device."""

    def wait_stream(self, other: _Stream) -> None:
        """Nothing is under way."""


class _Graph:
    def register_generator_state(self, generator: object) -> None:
        """Nothing is drawn."""

    def replay(self) -> None:
        """Nothing is launched."""


def _cuda() -> dict[str, Any]:
    """What stages and the search use of torch.cuda."""
    nothing: Callable[..., None] = lambda *_, **__: None  # noqa: E731
    count: Callable[..., int] = lambda *_, **__: 1  # noqa: E731
    block: Callable[..., Any] = lambda *_, **__: contextlib.nullcontext()  # noqa: E731
    generator = SimpleNamespace(clone_state=nothing, graphsafe_set_state=nothing)
    return {
        **dict.fromkeys(("synchronize", "empty_cache", "set_stream", "reset_peak_memory_stats"), nothing),
        **dict.fromkeys(("memory_allocated", "max_memory_allocated", "graph_pool_handle"), count),
        **dict.fromkeys(("graph", "stream"), block),
        "current_stream": _Stream,
        "default_generators": (generator,),
        "is_current_stream_capturing": lambda: False,
        "CUDAGraph": _Graph,
        "Event": _Event,
        "Stream": _Stream,
    }


def _search_as_on_a_gpu() -> None:
    """A search on the CPU takes the steps, and the recorder, that it takes on a GPU."""
    from fastdarts.search import graph

    importlib.import_module("fastdarts.search.job")
    for name, position in (("new_step", 1), ("new_recorder", 0)):
        function = getattr(graph, name)

        def on_a_gpu(*given: Any, function: Callable[..., Any] = function, position: int = position) -> Any:
            return function(*given[:position], torch.device("cuda"), *given[position + 1 :])

        for module in list(sys.modules.values()):
            if getattr(module, name, None) is function:
                setattr(module, name, on_a_gpu)
