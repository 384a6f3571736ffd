"""The cell in one native call against the same kernels called one by one: not a bit apart."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from cell_oracle import PLANS, given, given_for, planned
from cell_oracle import Given as Example
from torch import Tensor

from fastdarts import _C as core
from fastdarts.ops import _cell_cpu, _cell_launched
from fastdarts.ops._cell_given import Asked, Given
from fastdarts.ops._cell_native import native_program
from fastdarts.plan import MEMORY, cell_plan
from fastdarts.spaces import CellSpace, Edge, space

EPS = 1e-5


class Case:
    """Arguments of both, by one given."""

    def __init__(self, case: Example, dtype: torch.dtype) -> None:
        leaves = {name: leaf.detach() for name, leaf in case.leaves(dtype).items()}
        self.plan, self.running = case.plan, case.running
        self.sources, self.parameters = (
            [leaf for name, leaf in leaves.items() if name.startswith(word)] for word in ("source", "parameter")
        )
        self.noise = [leaves.get(f"noise {i}", each.to(dtype)) for i, each in enumerate(case.noise)]
        self.places: list[int] = []
        self.weights, self.bypass = leaves["weights"], leaves.get("bypass")
        height, width = (-(-size // self.plan.stride) for size in self.sources[0].shape[2:])
        channels = len(self.plan.concat) * self.plan.channels
        self.grad = torch.randn(len(self.sources[0]), channels, height, width).to(dtype)

    def by(self, executor: ModuleType, memory: str, asked: Asked) -> list[Tensor]:
        """All that an executor computes."""
        running = self.running or (None, None)
        tensors = self.sources, self.weights, self.bypass, self.parameters, self.places, self.noise
        given = Given(*tensors, *running, self.plan.encode(), memory, EPS)
        out, mean, var, kept = executor.forward(given, "cpu")
        training, given = self.running is None, given._replace(mean=mean, var=var)
        found = executor.backward(given, self.grad, out, kept, asked, training=training, backend="cpu")
        return [out, mean, var, *(each for part in found for each in part)]

    def stack(self) -> None:
        """Lay the parameters into two flat tensors, out of order and with a gap."""
        self.places, flat = [], ([torch.ones(5)], [])
        for number, parameter in reversed(list(enumerate(self.parameters))):
            start = sum(each.numel() for each in flat[number % 2])
            self.places[:0] = [number % 2, start]
            flat[number % 2].append(parameter.flatten())
        self.parameters = [torch.cat(each).to(self.weights.dtype) for each in flat if each]

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
    a, b = (torch.full((19,), value, dtype=torch.float64) for value in (1 + 2.0**-30, 1 + 2.0**-29))
    return bool(torch.addcmul(b, a, a, value=-1.0).all())


ASKED = [(True, True, True, True), (False, False, True, False), (True, False, False, True), (False, True, False, False)]


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", [name for name, (plan, _) in PLANS.items() if not plan.plain])
def test_not_a_bit_apart(name: str, training: bool) -> None:
    dtypes = [torch.float32, torch.bfloat16, torch.float64] if name.startswith("partly") else [torch.float32]
    assert_not_a_bit_apart(given(name, training=training), *dtypes)


def test_several_nodes_that_are_not_part_of_the_output() -> None:
    chain = tuple(Edge(source, source + 1, ("sep_conv_3x3", "skip_connect")) for source in range(1, 5))
    plan = planned(cell_plan(CellSpace(chain, nodes=4, concat=(5,)), 4))
    assert_not_a_bit_apart(given_for(plan, 2, 4, 5), torch.float32)


def assert_not_a_bit_apart(given: Example, *dtypes: torch.dtype) -> None:
    for dtype in dtypes:
        case = Case(given, dtype)
        for memory in MEMORY:
            for which in ASKED:
                found, expected = (case.by(each, memory, case.asked(*which)) for each in (_cell_cpu, _cell_launched))
                assert len(found) == len(expected)
                for k, (one, other) in enumerate(zip(found, expected, strict=True)):
                    assert one.shape == other.shape and one.dtype == other.dtype
                    if fused_in_torch():
                        nan = one.isnan() & other.isnan()
                        assert torch.equal(one.masked_fill(nan, 0), other.masked_fill(nan, 0)), (memory, which, k)
                    else:
                        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("name", ["normal", "partial reduction", "one path"])
def test_parameters_in_flat_tensors_give_the_same(name: str) -> None:
    case, stacked = (Case(given(name), torch.float32) for _ in range(2))
    stacked.grad = case.grad
    stacked.stack()
    assert len(stacked.parameters) == 2
    asked = case.asked(True, True, True, True)
    apart, flat = case.by(_cell_cpu, "fast", asked), stacked.by(_cell_cpu, "fast", asked)
    count = len(case.parameters)
    first = next(k for k in range(3, len(apart)) if apart[k].shape == case.parameters[0].shape)
    assert all(map(torch.equal, apart[:first], flat[:first]))
    assert all(map(torch.equal, apart[first + count :], flat[first + 2 :]))
    for number, gradient in enumerate(apart[first : first + count]):
        tensor, start = stacked.places[2 * number : 2 * number + 2]
        whole = flat[first + tensor]
        assert torch.equal(whole[start : start + gradient.numel()], gradient.flatten())
        assert not whole[:5].any() or tensor
    other = stacked.by(_cell_launched, "fast", asked)
    assert [each.shape for each in flat] == [each.shape for each in other]
    assert all(map(torch.equal, flat, other)) or not fused_in_torch()


def test_any_lying_of_the_gradient_gives_the_same() -> None:
    case = Case(given("normal"), torch.float32)
    asked = case.asked(True, True, True, True)
    expected = case.by(_cell_cpu, "fast", asked)
    case.grad = case.grad.contiguous(memory_format=torch.channels_last)
    before = case.grad.clone()
    assert all(map(torch.equal, case.by(_cell_cpu, "fast", asked), expected))
    assert torch.equal(case.grad, before)


def test_what_is_not_kept_exists_for_one_node_at_a_time() -> None:
    plan, sizes = planned(cell_plan(space("darts").normal, 16)), {"sizes": (4, 32, 32), "threads": 1}
    native = native_program(plan.encode(), "lean", 8, (True, True), True)._native
    of_a_value = 4 * 16 * 32 * 32 * 4
    # 6 on each of the 14 edges; 30 of them on the last node's five.
    assert 30 * of_a_value < native.forward_scratch_float32(**sizes, known=False) < 40 * of_a_value


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
