"""The cases of the benchmarks and how one is measured: eager, `torch.compile` and fastdarts on the same tensors.

Each case is measured in several repeats, and in each repeat every contender runs once for some rounds: what the
machine does meanwhile meets all of them alike. `python -m bench.table` adds the repeats up.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from bench.floor import Cost
from bench.machine import load_average
from fastdarts import use_backend
from fastdarts._backend import backend_for
from fastdarts.profile import measure_kept_bytes

__all__ = ["CUDA", "DEVICE", "MODES", "Case", "Problem", "classified", "measure", "peak_bytes"]

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
MODES = ("fast", "balanced", "lean")


class Problem:
    """A model with its inputs; one step is forward and backward with the gradients of all that asks for one.

    Args:
        model: what is called, and what holds the parameters.
        inputs: what it is called with, on DEVICE, NCHW contiguous; those that require gradients get theirs.
        loss: from the model's output to a scalar; None for a fixed random gradient of the output.
        cost: of a step in a memory mode; None where it is not counted.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor],
        loss: Callable[[Tensor], Tensor] | None = None,
        cost: Callable[[str], Cost] | None = None,
    ) -> None:
        self.model = model.to(DEVICE)
        self.inputs, self.loss, self.cost = list(inputs), loss, cost
        self.given = [*self.inputs, *self.model.parameters(), *self.model.buffers()]
        self.wanted = [tensor for tensor in self.given if tensor.requires_grad]
        self.call: Callable[..., Tensor] = self.model
        self.gradient: Tensor | None = None

    def forward(self) -> Tensor:
        """The model's output, or its loss."""
        out = self.call(*self.inputs)
        return out if self.loss is None else self.loss(out)

    def step(self) -> None:
        """What is timed."""
        out = self.forward()
        if self.loss is None and self.gradient is None:
            self.gradient = torch.randn(out.shape, device=DEVICE)
        torch.autograd.grad(out, self.wanted, self.gradient)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        name: as it stands in the table.
        build: makes the problem; called once, for all contenders.
        rounds: timed runs of each contender in each repeat.
        modes: memory modes of fastdarts that are measured.
        compiled: whether `torch.compile` is a contender where it is asked for.
        targets: what is aimed at: `time` (eager / fast), `kept` ({mode: eager / mode}).
    """

    name: str
    build: Callable[[], Problem] = field(repr=False)
    rounds: int = 5
    modes: tuple[str, ...] = MODES
    compiled: bool = False
    targets: dict[str, Any] = field(default_factory=dict, hash=False)

    def contenders(self, *, compiled: bool) -> tuple[str, ...]:
        """Their names, in the order in which they run."""
        # A GPU without kernels, or a host without its native core: plain torch is all there is to measure.
        ours = self.modes if backend_for("cell", DEVICE.type) != "reference" else ()
        return ("eager", *(["compile"] if compiled and self.compiled else []), *ours)


@functools.lru_cache(maxsize=1)
def _problem(case: Case) -> Problem:
    torch.manual_seed(0)
    return case.build()


def measure(benchmark: BenchmarkFixture, case: Case, repeat: int, contender: str) -> None:
    """Time one contender in one repeat; in the first one, measure its memory too."""
    problem = _problem(case)
    facts: dict[str, Any] = {"case": case.name, "contender": contender, "repeat": repeat, "targets": case.targets}
    benchmark.group = case.name
    with _running(problem, contender):
        if repeat == 0:
            facts |= _first(problem, contender)
        facts["load_average"] = load_average()
        benchmark.extra_info |= facts
        benchmark.pedantic(_synchronised(problem.step), rounds=case.rounds, warmup_rounds=1)


def _running(problem: Problem, contender: str) -> AbstractContextManager[object]:
    problem.call = _compiled(problem.model) if contender == "compile" else problem.model
    if contender not in MODES:
        return use_backend("reference")
    for module in problem.model.modules():
        if hasattr(module, "memory"):
            module.memory = contender
    return use_backend("auto")


@functools.lru_cache(maxsize=1)
def _compiled(model: nn.Module) -> Callable[..., Tensor]:
    return torch.compile(model, dynamic=False)


def _first(problem: Problem, contender: str) -> dict[str, Any]:
    """Seconds of the first step, which is where compiling happens, and the bytes."""
    start = time.perf_counter()
    problem.step()
    facts: dict[str, Any] = {"first_seconds": time.perf_counter() - start}
    if contender == "compile":
        facts["compile_seconds"] = facts["first_seconds"]
    if problem.cost is not None:
        # Of plain torch too: the work is the same, and what it does besides is what it loses.
        found = problem.cost(contender if contender in MODES else "fast")
        facts |= {"flops": found.work.total, "moved_bytes": found.bytes}
    facts["kept_bytes"] = measure_kept_bytes(problem.forward, problem.given)
    facts["peak_bytes"] = peak_bytes(problem.step)
    return facts


def peak_bytes(step: Callable[[], object]) -> int:
    """The most that a step holds beyond what was there before."""
    if CUDA:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    cpu = [torch.profiler.ProfilerActivity.CPU]
    # Without acc_events torch 2.11 warns that the next cycle will clear the events of this one.
    with torch.profiler.profile(activities=cpu, profile_memory=True, acc_events=True) as profile:
        step()
    return _highest(event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")


def _highest(changes: Iterable[int]) -> int:
    held = highest = 0
    for change in changes:
        held += change
        highest = max(highest, held)
    return highest


def _synchronised(work: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        work()
        if CUDA:
            torch.cuda.synchronize()

    return run


def classified(labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The loss of a network."""
    return lambda logits: F.cross_entropy(logits, labels)
