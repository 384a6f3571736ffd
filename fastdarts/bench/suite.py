"""The suite: every contender once a round, so that what the machine does meanwhile meets them alike.

Each case has a process of its own, and each timed step follows one of the same contender: between others' steps eager
torch takes a tenth longer, which its users do not pay.
"""

from __future__ import annotations

import copy
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts import __version__
from fastdarts._backend import backend_for, native, use_backend
from fastdarts.bench.cases import CASES, Case, Twins
from fastdarts.bench.machine import describe, load_average, processor, roofline
from fastdarts.bench.record import FORMAT, ratios
from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp, Supernet
from fastdarts.plan import MEMORY
from fastdarts.profile.eager import PlainSupernet
from fastdarts.profile.memory import measure_kept_bytes, measure_peak_bytes

__all__ = ["SUITES", "chosen", "run_case", "run_suite"]

SUITES = ("quick", "full")
# How much further from float64 than eager torch the engine may be, and never mind below this. Both errors are single
# draws: one ReLU of a cell that rounding turns over is 2e-3 of its gradient's length, 20 cells make 2e-2 of it, a wrong
# tap or a lost edge is a tenth. The tests have the rule of tolerance.
_TIMES, _FLOOR = 4, 1e-2

Say = Callable[[str], object]


def chosen(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases of these names, in the suite's order; all for none.

    Raises:
        UserError: an unknown name.
    """
    known = [case.name for case in CASES]
    for name in names:
        if name not in known:
            raise UserError(f"unknown case {name!r}", f"one of {', '.join(known)}")
    return tuple(case for case in CASES if not names or case.name in names)


def run_suite(
    suite: str, cases: Sequence[Case], *, compiled: bool, label: str = "", say: Say = str, apart: bool = True
) -> dict[str, Any]:
    """Measure the cases on the CPU.

    Args:
        suite: `quick` or `full`: how many rounds.
        cases: what is measured.
        compiled: whether `torch.compile` of the eager twin is a contender where a case has it.
        label: what the run is, where that is more than its machine.
        say: told what begins.
        apart: whether each case has a process of its own.

    Returns:
        The record, as :func:`fastdarts.bench.read` reads it.

    Raises:
        UserError: no native core, of which there would be nothing to measure.
        RuntimeError: the engine and eager torch disagree.
    """
    if suite not in SUITES:
        raise UserError(f"suite {suite!r}", f"one of {', '.join(SUITES)}")
    if native() is None or backend_for("cell", "cpu") == "reference":
        remedy = "fastdarts doctor says why the core was not built"
        raise UserError("there is no native core: plain torch would be measured against itself", remedy=remedy)
    say("roofline")
    machine = {**processor(), **describe(), "fastdarts": __version__}
    before = roofline()
    found = []
    for case in cases:
        compiles = compiled and case.compiled
        say(f"{case.title}{': torch.compile too, minutes' if compiles else ''}")
        run = _run_apart if apart else run_case
        found.append(run(case, case.rounds[SUITES.index(suite)], compiled=compiles))
    return {
        "format": FORMAT,
        "suite": suite,
        "label": label,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "roofline": {"before": before, "after": roofline()},
        "load_after": load_average(),
        "cases": found,
    }


def _run_apart(case: Case, rounds: int, *, compiled: bool) -> dict[str, Any]:
    core = native()
    as_here = torch.get_num_threads(), core.isa() if core is not None else ""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_begin, initargs=as_here) as process:
        return process.submit(run_case, case, rounds, compiled=compiled).result()


def _begin(threads: int, isa: str) -> None:
    torch.set_num_threads(threads)
    core = native()
    if core is not None:
        core.choose_isa(isa)


def run_case(case: Case, rounds: int, *, compiled: bool) -> dict[str, Any]:
    """Measure one case: agreement first, then bytes, then the rounds; arguments as of :func:`run_suite`."""
    twins = case.twins()
    contenders = ("eager", *(["compile"] if compiled else []), *MEMORY)
    steps = {name: _Step(twins, name) for name in contenders}
    errors = _errors(twins)
    if not errors["fast"] <= _TIMES * errors["eager"] + _FLOOR:
        found = f"{errors['fast']:.2g} from float64 where eager torch is {errors['eager']:.2g}"
        raise RuntimeError(f"{case.name}: the engine is {found}: nothing is timed")
    facts: dict[str, dict[str, Any]] = {}
    for name, step in steps.items():
        start = time.perf_counter()
        step()
        facts[name] = {"first_seconds": time.perf_counter() - start, **step.bytes(), "seconds": []}
    load = load_average()
    for turn in range(rounds):
        # Each round begins with another one: none always follows the one that fills the caches.
        for name in contenders[turn % len(contenders) :] + contenders[: turn % len(contenders)]:
            facts[name]["seconds"].append(steps[name].seconds())
    for name in contenders[1:]:
        facts[name]["eager_over_it"] = ratios(facts["eager"]["seconds"], facts[name]["seconds"])
    return {
        "name": case.name,
        "title": case.title,
        "settings": case.settings,
        "gflop": twins.gflop,
        "errors": errors,
        "load_average": load,
        "contenders": facts,
    }


class _Step:
    """Forward and backward of a contender, with the gradients of all that asks for one."""

    def __init__(self, twins: Twins, contender: str) -> None:
        self._memory = contender if contender in MEMORY else None
        self.model: nn.Module = twins.eager if self._memory is None else twins.ours
        self._call: Callable[..., Tensor] = self.model
        if contender == "compile":
            self._call = torch.compile(self.model, dynamic=False)
        self._inputs, self._loss = twins.inputs, twins.loss
        self._given = [*twins.inputs, *self.model.parameters(), *self.model.buffers()]
        self.wanted = [tensor for tensor in self._given if tensor.requires_grad]
        self._gradient: Tensor | None = None

    def forward(self) -> Tensor:
        out = self._call(*self._inputs)
        return out if self._loss is None else self._loss(out)

    def __call__(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        for module in self.model.modules():
            if self._memory is not None and isinstance(module, (Cell, MixedOp)):
                module.memory = self._memory
        # The twin has modules of single operations, which know the engine too.
        with use_backend("auto" if self._memory else "reference"):
            out = self.forward()
            if self._loss is None and self._gradient is None:
                self._gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)
            return out, torch.autograd.grad(out, self.wanted, self._gradient)

    def seconds(self) -> float:
        """Of a step that follows one of its own."""
        self()
        start = time.perf_counter()
        self()
        return time.perf_counter() - start

    def architecture(self, gradients: tuple[Tensor, ...]) -> Tensor:
        """Of these gradients those that are neither weights' nor biases', one behind the other."""
        by_tensor = {id(tensor): gradient for tensor, gradient in zip(self.wanted, gradients, strict=True)}
        asked = [each for each in self._inputs if each.requires_grad]
        if isinstance(self.model, (Supernet, PlainSupernet)):
            asked += self.model.arch_parameters()
        return torch.cat([by_tensor[id(each)].flatten() for each in asked])

    def bytes(self) -> dict[str, int]:
        with use_backend("auto" if self._memory else "reference"):
            kept = measure_kept_bytes(self.forward, self._given)
        return {"kept_bytes": kept, "peak_bytes": measure_peak_bytes(self, device="cpu")}


def _errors(twins: Twins) -> dict[str, float]:
    """Of eager and of the engine against eager in float64: the relative error of the output and of the gradients.

    The gradients are those of inputs, mixing weights and architecture, as one vector; the larger of both errors counts.
    Of four images: float64 of a whole batch would take the most memory and time. By Euclidean length: where a ReLU's
    input is 0 but for rounding, a gradient's single elements are anything.
    """
    few = [(each[:4] if each.dim() == 4 else each).detach().requires_grad_(each.requires_grad) for each in twins.inputs]
    inputs = [each.detach().double().requires_grad_(each.requires_grad) for each in few]
    exact = _Step(twins._replace(eager=copy.deepcopy(twins.eager).double(), inputs=inputs), "eager")
    given = twins._replace(inputs=few)
    expected = _results(exact)
    found = {}
    for name in ("eager", "fast"):
        pairs = zip(_results(_Step(given, name)), expected, strict=True)
        found[name] = max(float((a - b).norm() / b.norm().clamp_min(1e-30)) for a, b in pairs)
    return found


def _results(step: _Step) -> tuple[Tensor, Tensor]:
    out, gradients = step()
    return out.detach().flatten(), step.architecture(gradients)
