"""The cell in one native call against the schedule in Python, which calls the same kernels: not a bit apart."""

from __future__ import annotations

import importlib

import pytest
import torch
from cell_oracle import PLANS, Given, given
from torch import Tensor

from fastdarts import _C as core
from fastdarts.ops import _cell_cpu
from fastdarts.ops._cell_backward import Asked, Backward
from fastdarts.ops._cell_forward import Statistics, forward
from fastdarts.ops._cell_layout import layout
from fastdarts.ops._cell_native import native_program
from fastdarts.plan import MEMORY

op = importlib.import_module("fastdarts.ops.cell")  # the package's attribute of this name is the function
EPS = 1e-5


class Case:
    """Arguments of both, by one given."""

    def __init__(self, case: Given, dtype: torch.dtype) -> None:
        leaves = {name: leaf.detach() for name, leaf in case.leaves(dtype).items()}
        self.plan, self.running = case.plan, case.running
        self.sources, self.parameters = (
            [leaf for name, leaf in leaves.items() if name.startswith(word)] for word in ("source", "parameter")
        )
        self.noise = [leaves.get(f"noise {i}", each.to(dtype)) for i, each in enumerate(case.noise)]
        self.weights, self.bypass = leaves["weights"], leaves.get("bypass")
        height, width = (-(-size // self.plan.stride) for size in self.sources[0].shape[2:])
        channels = len(self.plan.concat) * self.plan.channels
        self.grad = torch.randn(len(self.sources[0]), channels, height, width).to(dtype)

    def native(self, memory: str, asked: Asked) -> list[Tensor]:
        given = _cell_cpu.Given(
            self.sources, self.weights, self.bypass, self.parameters, self.noise, self.plan.encode(), memory, EPS
        )
        out, mean, var, kept = _cell_cpu.forward(given, *(self.running or (None, None)))
        training = self.running is None
        found = _cell_cpu.backward(given, self.grad, out, mean, var, kept, asked, training=training)
        return [out, mean, var, *(each for part in found for each in part)]

    def scheduled(self, memory: str, asked: Asked) -> list[Tensor]:
        given = self.sources, self.weights, self.bypass, self.parameters, self.noise
        key = self.plan.encode(), memory, self.weights.shape[1], "cpu"
        chosen = layout(*key, (True,) * len(self.sources), True)
        if self.running is None:
            statistics = Statistics.unknown(self.plan.mixed, EPS, torch.device("cpu"))
        else:
            statistics = Statistics.known(*self.running, chosen, EPS)
        out, kept = forward(op._work(*given, statistics, chosen, "cpu"))
        mean, var = statistics.used(chosen) if self.running is None else (each.double() for each in self.running)
        chosen = layout(*key, asked.sources, asked.parameters)
        work = op._work(*given, Statistics.known(mean, var, chosen, EPS), chosen, "cpu")
        op.restore(work, out, kept)
        backward = Backward(work, self.grad, asked, training=self.running is None)
        backward.run()
        return [out, mean, var, *(each for part in op.gradients(backward, self.weights, self.bypass) for each in part)]

    def asked(self, sources: bool, noise: bool, weights: bool, parameters: bool) -> Asked:
        """Sources and noise: all, or every second one."""
        return Asked(
            tuple(sources or s % 2 == 1 for s in range(len(self.sources))),
            tuple(noise or i % 2 == 1 for i in range(len(self.noise))),
            weights,
            weights and self.bypass is not None,
            parameters,
        )


def fused_in_torch() -> bool:
    """Whether torch's addcmul is a fused multiply-add on this machine, as the native core's is on all."""
    a, b = torch.tensor([1 + 2.0**-30]).double(), torch.tensor([1 + 2.0**-29]).double()
    return bool(torch.addcmul(b, a, a, value=-1.0).item() != 0)


ASKED = [(True, True, True, True), (False, False, True, False), (True, False, False, True), (False, True, False, False)]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", PLANS)
def test_not_a_bit_apart(name: str, training: bool) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64] if name.startswith("partly") else [torch.float32]
    for dtype in dtypes:
        case = Case(given(name, training=training), dtype)
        for memory in MEMORY:
            for which in ASKED:
                found, expected = (each(memory, case.asked(*which)) for each in (case.native, case.scheduled))
                assert len(found) == len(expected)
                for k, (one, other) in enumerate(zip(found, expected, strict=True)):
                    assert one.shape == other.shape and one.dtype == other.dtype
                    if fused_in_torch():
                        assert torch.equal(one, other) or bool((one.isnan() & other.isnan()).any()), (memory, which, k)
                    else:
                        torch.testing.assert_close(one, other, equal_nan=True)


def test_any_lying_of_the_gradient_gives_the_same() -> None:
    case = Case(given("normal"), torch.float32)
    asked = case.asked(True, True, True, True)
    expected = case.native("fast", asked)
    case.grad = case.grad.contiguous(memory_format=torch.channels_last)
    before = case.grad.clone()
    assert all(map(torch.equal, case.native("fast", asked), expected))
    assert torch.equal(case.grad, before)


def test_what_would_touch_foreign_memory_is_refused() -> None:
    case = Case(given("normal"), torch.float32)
    made = native_program(case.plan.encode(), "fast", 8, (True, True), True)
    native, kept = made._native, len(made.program.kept) + len(made.program.hidden)
    sizes = {"sizes": (3, 5, 6), "threads": 1}
    needed = native.forward_scratch_float32(**sizes, known=False)
    call = {
        "eps": EPS, "states": [(64, 4)] * 2, "parameters": [64] * len(case.parameters), "noises": [], "weights": 64,
        "bypass": 64, "mean": 64, "var": 64, "known": False, "out": 64,
        "kept": [64] * kept, "scratch": 64, "scratch_bytes": needed,
    }  # fmt: skip
    for name, value, message in (
        ("scratch_bytes", needed - 1, "scratch is too small"),
        ("states", [(64, 4)], "another number of states"),
        ("states", [(64, 3)] * 2, "pixels overlap"),
        ("parameters", [64], "another number of parameters"),
        ("weights", 0, "weights is a null pointer"),
        ("mean", 12, "mean is not aligned"),
        ("sizes", (0, 5, 6), "a size is not positive"),
    ):
        with pytest.raises(ValueError, match=message):
            native.forward_float32(**(sizes | call | {name: value}))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("weights", [99], "no such weight"),
        ("norms", [7], "no such norm"),
        ("terms", [(True, 0)], "no such term"),
        ("slot", 1, "no such slot"),
        ("state", 2, "no such state"),
    ],
)
def test_a_program_that_points_outside_is_refused(field: str, value: object, message: str) -> None:
    call = core.CellCall([0], [(0, 3, 2, 1, 0, 1, 0)])
    node = {"state": 1, "shown": True, "slot": 0, "terms": [(False, 0)], "edges": [], "norms": [0], "weights": [0],
            "values": [0]}  # fmt: skip
    whole = {
        "inputs": 1, "given": 1, "states": 2, "channels": 4, "partial": 1, "stride": 1, "edges": 1, "width": 1,
        "norms": 1, "noises": 0, "concat": [1], "parameters": [(4, 1, 3, 3), (4, 4, 1, 1)],
        "values": [core.CellValues(call, [], [], core.CellCall([], []))], "forward": [(False, 0), (True, 0)],
        "backward": [], "kept": [0], "hidden": [],
    }  # fmt: skip
    core.CellProgram(**whole, nodes=[core.CellNode(**node)])
    with pytest.raises(ValueError, match=message):
        core.CellProgram(**whole, nodes=[core.CellNode(**(node | {field: value}))])
