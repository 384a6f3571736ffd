"""The step as one CUDA graph: when it can be one, how it is recorded, and what happens where that fails.

docs/graph.md says why each thing here is as it is.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch

from fastdarts.hypergradient import EXACT
from fastdarts.nn import Supernet
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.step import SearchStep

__all__ = ["CudaRecorder", "Recorder", "Replayed", "new_recorder", "new_step", "obstacle"]

Work = Callable[[], None]

# Real steps that run as they are before one is recorded: they compile and load kernels, create library handles and
# their workspaces, and fill every cache. One would do; torch's own helper takes three.
WARM_UPS = 3
_WITHOUT = "no CUDA graph, every step launches its own kernels"


class Recorder(Protocol):
    """Records the device's work of a function, once it was run as it is.

    Attributes:
        failed: whether a recording failed, after which nothing is replayed.
    """

    failed: bool

    def warm_up(self, work: Work) -> None:
        """Run the work where it will be recorded."""

    def record(self, work: Work) -> Work | None:
        """What does the work again at every call; computes nothing. None where it failed, and then nothing changed."""


class Replayed:
    """A function without arguments or result that works on tensors which stay: run a few times, then replayed.

    What it reads must lie in the same memory at every call, and so must what it writes. The first calls run it on
    their real inputs, so that nothing has to be put back; the call that records it replays it as well.

    Args:
        work: the function.
        recorder: records it; None runs it at every call.
    """

    def __init__(self, work: Work, recorder: Recorder | None) -> None:
        self._work, self._recorder = work, recorder
        self._left = WARM_UPS
        self._replay: Work | None = None

    def __call__(self) -> None:
        recorder = self._recorder
        if recorder is None or recorder.failed:
            self._replay = None
            self._work()
        elif self._left:
            recorder.warm_up(self._work)
            self._left -= 1
        else:
            if self._replay is None:
                self._replay = recorder.record(self._work)
            (self._replay or self._work)()


class CudaRecorder:
    """Records CUDA graphs of one device: on one side stream, in one pool of memory.

    They share the pool because no two run at once, and because none leaves anything in it: whatever outlives a replay
    was allocated before.

    Args:
        device: the device.
        note: told in one line when a recording fails.
    """

    def __init__(self, device: torch.device, note: Callable[[str], None]) -> None:
        self.failed = False
        self._device, self._note = device, note
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def warm_up(self, work: Work) -> None:
        """Run the work on the side stream, so that what belongs to a stream (workspaces) is there when it records."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)

    def record(self, work: Work) -> Work | None:
        """The graph's replay; None where it failed, and then the state is that of before."""
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        index = current.device_index
        generator = torch.cuda.default_generators[index]
        graph.register_generator_state(generator)
        before = generator.clone_state()
        # Cycles that hold maps of the warm-up would keep their memory beside the graph's own.
        gc.collect()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                work()
        except RuntimeError as error:
            self.failed = True
            reason = _first_line(error)
        finally:
            # Ending a capture that was broken raises before torch goes back to the stream it came from.
            torch.cuda.set_stream(current)
        if not self.failed:
            return graph.replay
        del graph
        # A broken capture may leave the generator counting for a graph that does not exist.
        generator.graphsafe_set_state(before)
        torch.cuda.empty_cache()
        self._note(f"{_WITHOUT}: {reason}")
        return None


def new_step(config: SearchConfig, device: torch.device, model: Supernet, choices: Choices) -> SearchStep:
    """The step of a search: on a GPU, recorded or not, the one that asks the host for nothing."""
    step = SearchStep(model, config, choices.relaxation, choices.perturbation)
    unattended = device.type == "cuda" and not obstacle(step)
    return UnattendedStep(model, config, choices.relaxation, choices.perturbation) if unattended else step


def new_recorder(device: torch.device, step: SearchStep, note: Callable[[str], None]) -> Recorder | None:
    """The recorder of a search, None where its steps are not recorded; on a GPU ``note`` then hears why."""
    if device.type != "cuda" or step.config.graph == "off":
        return None
    reason = obstacle(step)
    if reason:
        note(f"{_WITHOUT}: {reason}")
        return None
    return CudaRecorder(device, note)


def obstacle(step: SearchStep) -> str:
    """Why a search's step must ask the host, so that it cannot be replayed; "" where it need not."""
    config = step.config
    if config.hypergradient in EXACT.values():
        return f"hypergradient {config.hypergradient!r} differentiates twice"
    for name, choice in (("relaxation", step.relaxation), ("perturbation", step.perturbation)):
        if choice is not None and choice.asks_host:
            return f"the {name} of {config.method!r} decides on the host"
    if step.relaxation.exponentiated:
        return "exponentiated gradients have no kernel"
    if config.nesterov:
        return "nesterov momentum has no kernel"
    # Drop-path begins at 0, where the model does not draw yet.
    draws = step.relaxation.draws or step.model.draws or config.drop_path > 0
    if config.hypergradient in EXACT and draws:
        return f"hypergradient {config.hypergradient!r} evaluates a loss again with the same random numbers"
    return ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}, {text}" if text else type(error).__name__
