"""What the cell's op keeps, allocates and computes: the plan's bytes, nothing that is not asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import cell_oracle as oracle
import pytest
import torch
from cell_oracle import PLANS, Given, given
from torch import Tensor

from fastdarts import _C as core
from fastdarts.ops import _cell_cpu, maps
from fastdarts.ops.cell import cell
from fastdarts.plan import MEMORY, StencilShapes, kept_bytes, kept_rows
from fastdarts.plan import calls as counted_calls


def saved() -> tuple[dict[int, Tensor], AbstractContextManager[None]]:
    """What autograd saves in a block, by address."""
    found: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        found[tensor.data_ptr()] = tensor
        return tensor

    return found, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", PLANS)
def test_kept_bytes_are_those_of_the_plan(name: str, memory: str) -> None:
    case, (_, (n, height, width)) = given(name), PLANS[name]
    leaves = case.leaves(torch.float32)
    found, block = saved()
    with block:
        out = case.call(cell, leaves, memory=memory)[0]
    assert out.requires_grad
    own = {leaf.data_ptr() for key, leaf in leaves.items() if not key.startswith(("source", "noise"))}
    kept = {address: tensor for address, tensor in found.items() if address not in own and tensor.numel()}
    total = sum(tensor.numel() * tensor.itemsize for tensor in kept.values())
    assert total == kept_bytes(case.plan, n, height, width, 4, memory)


@pytest.mark.parametrize("name", ["normal", "partial reduction", "noise"])
def test_without_gradients_nothing_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def watched(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        found = forward(*arguments)
        kept.append(len(found[-1]))
        return found

    forward = _cell_cpu.forward
    monkeypatch.setattr(_cell_cpu, "forward", watched)
    case = given(name)
    leaves = case.leaves(torch.float32)
    expected = case.call(cell, leaves)[0]
    with torch.no_grad():
        assert torch.equal(case.call(cell, leaves)[0], expected)
    constants = {key: leaf.detach() for key, leaf in leaves.items()}
    assert torch.equal(case.call(cell, constants)[0], expected)
    assert kept == [len(kept_rows(case.plan, "fast")), 0, 0]


def allocations(case: Given, device: str, memory: str) -> Counter[tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of all that the kernels' launchers allocate in a pass."""
    found: Counter[tuple[tuple[int, ...], torch.dtype]] = Counter()
    moved = Given(case.plan, {name: value.to(device) for name, value in case.named.items()})
    moved.noise = [each.to(device) for each in case.noise]
    leaves = moved.leaves(torch.float32)
    with maps.observed(lambda tensor: found.update([(tuple(tensor.shape), tensor.dtype)])):
        out, mean, var = moved.call(cell, leaves, memory=memory)
        out.backward(torch.ones_like(out))
    assert {each.device.type for each in (out, mean, var, *(leaf.grad for leaf in leaves.values()))} == {device}
    return found


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", ["reduction", "partial", "uneven", "noise"])
def test_on_meta_the_same_is_allocated(name: str, memory: str) -> None:
    case = given(name)
    assert allocations(case, "meta", memory) == allocations(case, "cpu", memory)


class Calls:
    """Every launch of a kernel of the backward: its name, how many convolutions, whether their weights' gradients."""

    def clear(self) -> None:
        core.record_launches(True)

    def __iter__(self) -> Iterator[tuple[str, int, bool]]:
        for op, function, count, weights, _ in core.launches():
            if function in ("backward", "reduce"):
                yield (op, count, weights) if function == "backward" else (function, 0, weights)


@pytest.fixture
def calls() -> Iterator[Calls]:
    found = Calls()
    found.clear()
    yield found
    core.record_launches(False)


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", [name for name, (plan, _) in PLANS.items() if not plan.plain])
@pytest.mark.usefixtures("calls")
def test_what_is_launched_is_what_is_counted(name: str, memory: str) -> None:
    """FLOPs, traffic and launches are sums over the plan's calls: these run, in this order, and no other."""
    case, (_, sizes) = given(name), PLANS[name]
    out = case.call(cell, case.leaves(torch.float32), memory=memory)[0]
    out.backward(torch.ones_like(out))
    expected = [
        (call.op, len(call.shapes.convolutions) if isinstance(call.shapes, StencilShapes) else 0)
        for call in counted_calls(case.plan, *sizes, memory)
        if call.shapes is not None
    ]
    found = [(f"{op}.{function}", count if op == "stencil" else 0) for op, function, count, *_ in core.launches()]
    assert found == expected


def asked_for(case: Given, *words: str) -> dict[str, Tensor]:
    case.asked = frozenset(name for name in case.named if name.startswith(words))
    leaves = case.leaves(torch.float32)
    out = case.call(cell, leaves)[0]
    out.backward(torch.ones_like(out))
    assert {name for name, leaf in leaves.items() if leaf.grad is not None} == case.asked
    return leaves


def test_a_weight_step_asks_everything_but_the_mixing_weights(calls: Calls) -> None:
    case = given("partial reduction")
    everything = asked_for(case, "source", "parameter", "weights", "bypass")
    counted = list(calls)
    calls.clear()
    leaves = asked_for(case, "source", "parameter")
    assert list(calls) == counted
    # 14 edges of two separable and two dilated convolutions; 8 skips at stride 2.
    assert sum(count for name, count, weights in calls if name == "stencil" and weights) == 14 * 6
    assert sum(weights for name, _, weights in calls if name == "preprocess") == 8
    assert all(leaf.grad is None or torch.equal(leaf.grad, everything[name].grad) for name, leaf in leaves.items())


def test_an_architecture_step_computes_no_gradient_of_a_parameter(calls: Calls) -> None:
    case = given("partial reduction")
    everything = asked_for(case, "source", "parameter", "weights", "bypass")
    calls.clear()
    leaves = asked_for(case, "source", "weights", "bypass")
    assert sum(count for name, count, _ in calls if name == "stencil") == 14 * 6
    assert not any(weights for _, _, weights in calls)
    assert all(leaf.grad is None or torch.equal(leaf.grad, everything[name].grad) for name, leaf in leaves.items())


@pytest.mark.parametrize("name", ["partial reduction", "normal"])
def test_what_leads_to_no_gradient_is_not_computed(name: str, calls: Calls) -> None:
    """The first cell of an architecture step: its inputs come from frozen weights."""
    case = given(name)
    everything = asked_for(case, "source", "parameter", "weights", "bypass")
    calls.clear()
    leaves = asked_for(case, "weights", "bypass")
    # 6 of the 14 edges come from nodes.
    assert sum(count for kind, count, _ in calls if kind == "stencil") == 6 * 6
    assert sum(count for kind, count, _ in calls if kind == "mixed_sum") == 6
    assert Counter(kind for kind, _, _ in calls)["reduce"] == 4 and "preprocess" not in {kind for kind, _, _ in calls}
    assert all(leaf.grad is None or torch.equal(leaf.grad, everything[key].grad) for key, leaf in leaves.items())


@pytest.mark.parametrize(
    "asked", [("source 0",), ("source 1", "weights"), ("parameter",), ("bypass",), ("parameter 3",)]
)
@pytest.mark.parametrize("memory", MEMORY)
def test_any_combination_gives_the_same_gradients(asked: tuple[str, ...], memory: str) -> None:
    case = given("partial reduction")
    everything = asked_for(case, "source", "parameter", "weights", "bypass")
    leaves = asked_for(case, *asked)
    assert all(leaf.grad is None or torch.equal(leaf.grad, everything[name].grad) for name, leaf in leaves.items())


def test_running_statistics_need_no_moments(calls: Calls) -> None:
    case = given("normal", training=False)
    asked_for(case, "source")
    # No mixing weight's gradient and no batch norm's: no sum over the pixels is taken.
    assert "reduce" not in {name for name, _, _ in calls}


def test_a_node_that_leads_nowhere_gets_zeros() -> None:
    space = oracle.CellSpace(
        tuple(oracle.Edge(0, node, ("skip_connect", "sep_conv_3x3")) for node in (2, 3)), nodes=2, concat=(3,)
    )
    case = oracle.given_for(oracle.planned(oracle.cell_plan(space, 4)), 2, 4, 4)
    oracle.assert_same_function(case)
    leaves = asked_for(case, "source", "parameter", "weights")
    assert not any(leaf.grad.any() for name, leaf in leaves.items() if name.startswith("parameter 0"))
    assert not leaves["weights"].grad[0].any() and leaves["weights"].grad[1, :2].all()
    assert not leaves["source 1"].grad.any()
