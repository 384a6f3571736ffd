"""The cell's op against its reference, and the reference against the layers: numbers, modes, layouts, threads."""

from __future__ import annotations

import cell_oracle as oracle
import pytest
import torch
from cell_oracle import PLANS, given, outcome
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts.nn import Cell, MixedOp
from fastdarts.ops.cell import cell
from fastdarts.plan import MEMORY
from fastdarts.reference.cell import cell as reference


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", PLANS)
def test_is_the_reference(name: str, training: bool) -> None:
    oracle.assert_same_function(given(name, training=training))


# On a few pixels, or with one channel, batch norm takes away most of a gradient, and what is left is chance.
ORDINARY = [name for name in PLANS if not name.startswith(("one pixel", "one image", "one channel", "only", "nothing"))]


@pytest.mark.parametrize("name", ORDINARY)
def test_single_precision_rounds_as_plain_torch(name: str) -> None:
    oracle.assert_rounds_as_plain_torch(oracle.given_for(PLANS[name][0], 4, 9, 8), dtype=torch.float32)


@pytest.mark.parametrize("wide", [None, torch.float32], ids=["bfloat16 weights", "float32 weights"])
@pytest.mark.parametrize("name", ORDINARY)
def test_half_precision_rounds_as_plain_torch(name: str, wide: torch.dtype | None) -> None:
    # Behind another node the sign of a value next to zero is that of its rounding, and so is the path of its gradient:
    # neither plain torch's error nor ours is then a matter of precision.
    cases = [oracle.given_for(PLANS[name][0], 4, 9, 8, seed=seed) for seed in range(3)]
    gradients = name.startswith("mixed op")
    oracle.assert_rounds_as_plain_torch(*cases, dtype=torch.bfloat16, wide=wide, gradients=gradients)


def test_gradients_have_the_dtypes_of_what_they_belong_to() -> None:
    case = given("partial reduction")
    leaves = case.leaves(torch.bfloat16, torch.float32)
    leaves["bypass"] = leaves["bypass"].detach().double().requires_grad_()
    case.call(cell, leaves)[0].float().square().sum().backward()
    assert all(leaf.grad.dtype == leaf.dtype and leaf.grad.isfinite().all() for leaf in leaves.values())


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", PLANS)
def test_memory_modes_and_threads_change_no_bit(name: str, training: bool) -> None:
    case = given(name, training=training)
    expected = outcome(cell, case, torch.float32)
    threads = torch.get_num_threads()
    try:
        for count, memory in enumerate(MEMORY, 1):
            if not case.plan.plain:  # oneDNN's sums over pixels are cut by the number of threads
                torch.set_num_threads(count)
            assert_equal(outcome(cell, case, torch.float32, memory=memory), expected)
    finally:
        torch.set_num_threads(threads)


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert value.isfinite().all() or "weights" in name, name
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("reduction", "partial"), [(False, 1), (True, 2)])
def test_is_the_layer(reduction: bool, partial: int, backend: str) -> None:
    """The plan is read as the layers read their space, and the statistics are those of their batch norms."""
    layer = Cell(oracle.DARTS, 3, 5, 4, reduction=reduction, reduction_prev=False, partial=partial).double()
    s0, s1 = (torch.randn(2, channels, 6, 5, dtype=torch.float64) for channels in (3, 5))
    mixing, betas = torch.randn(14, 8, dtype=torch.float64).softmax(1), torch.randn(14, dtype=torch.float64)
    with use_backend("reference"), torch.no_grad():
        expected = layer(s0, s1, mixing, betas)
        sources = [layer.preprocess0(s0), layer.preprocess1(s1)]
    plan = oracle.planned(oracle.cell_plan(oracle.DARTS, 4, partial=partial, reduction=reduction))

    def module(edge: int, position: int, name: str) -> nn.Module:
        op: MixedOp = layer._ops[edge]
        return op._ops[plan.edges[edge].candidates[position].column].get_submodule(name)

    parameters = [module(edge, at, name.removesuffix(".weight")).weight for edge, at, name, _ in plan.parameters]
    bypass = betas if partial > 1 else None
    with use_backend(backend), torch.no_grad():
        out, mean, var = cell(sources, mixing * betas[:, None], parameters, plan, bypass=bypass)
    # Sums in another order: float32's resolution in float64 is the rule of the layers' own tests.
    assert torch.equal(out.float(), expected.float()) or (out - expected).abs().max() <= torch.finfo(torch.float32).eps
    pixels = out[:, 0].numel()
    for row, norm in enumerate(plan.norms):
        running, own = module(*norm), slice(row * plan.mixed, (row + 1) * plan.mixed)
        torch.testing.assert_close(running.running_mean, 0.1 * mean[own])
        torch.testing.assert_close(running.running_var, 0.9 + 0.1 * var[own] * pixels / (pixels - 1))


@pytest.mark.parametrize("name", ["partial reduction", "mixed op"])
def test_layouts_of_sources_and_gradients_change_no_bit(name: str) -> None:
    case = given(name)
    leaves = case.leaves(torch.float32)
    out = case.call(cell, leaves)[0]
    assert out.is_contiguous(memory_format=torch.channels_last)
    upstream = torch.randn(out.shape)
    expected = torch.autograd.grad(out, list(leaves.values()), upstream, retain_graph=True)
    wide = torch.empty(*out.shape[:1], out.shape[1] + 3, *out.shape[2:]).to(memory_format=torch.channels_last)
    wide[:, 2:-1] = upstream
    strided = torch.stack([upstream, upstream], -1)[..., 0]
    for other in (upstream.to(memory_format=torch.channels_last), wide[:, 2:-1], strided):
        for found, value in zip(torch.autograd.grad(out, list(leaves.values()), other, True), expected, strict=True):
            assert torch.equal(found, value)
    for layout in ("contiguous", "slice", "strided"):
        again = {key: laid_out(leaf, layout) if key.startswith("source") else leaf for key, leaf in leaves.items()}
        found = case.call(cell, again)[0]
        assert torch.equal(found, out)
        for each, value in zip(torch.autograd.grad(found, list(again.values()), upstream), expected, strict=True):
            assert torch.equal(each, value)


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "contiguous":
        return x.detach().contiguous().requires_grad_()
    if layout == "strided":
        return torch.stack([x.detach(), x.detach()], -1)[..., 0].requires_grad_()
    larger = torch.full((len(x), x.shape[1] + 4, *x.shape[2:]), torch.nan).to(memory_format=torch.channels_last)
    larger[:, 3:-1] = x.detach()
    return larger[:, 3:-1].requires_grad_()


def test_an_expanded_gradient() -> None:
    case = given("reduction")
    leaves = case.leaves(torch.float64)
    out = case.call(cell, leaves)[0]
    found = torch.autograd.grad(out.sum(), list(leaves.values()), retain_graph=True)
    expected = torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_gradients_are_those_of_finite_differences() -> None:
    case = oracle.given_for(oracle.planned(oracle.cell_plan(oracle.UNEVEN, 2)), 2, 3, 3)
    case.named["weights"] = case.named["weights"][:, :-1]
    leaves = case.leaves(torch.float64)

    def function(*values: Tensor) -> Tensor:
        return case.call(cell, dict(zip(leaves, values, strict=True)))[0]

    assert torch.autograd.gradcheck(function, tuple(leaves.values()), fast_mode=True)


def test_backward_twice_gives_the_same() -> None:
    for memory in MEMORY:
        case = given("partial")
        leaves = case.leaves(torch.float32)
        out = case.call(cell, leaves, memory=memory)[0]
        before = out.detach().clone()
        first, second = (
            torch.autograd.grad(out, list(leaves.values()), torch.ones_like(out), retain_graph=True) for _ in range(2)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert torch.equal(out, before)


def test_an_architecture_of_only_none_gives_zeros_and_zero_gradients() -> None:
    plan = oracle.planned(oracle.mixed_op_plan(("none",), 4, 1))
    case = oracle.given_for(plan, 2, 3, 3)
    found = outcome(cell, case, torch.float32)
    assert not found["out"].any() and all(not value.any() for name, value in found.items() if "gradient" in name)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_passes_as_in_plain_torch(value: float) -> None:
    case = given("uneven")
    case.named["source 0"][1, 2, 3, 3] = value
    found, expected = (case.call(each, case.leaves(torch.float32))[0] for each in (cell, reference))
    assert expected.isnan().any() and torch.equal(found.isnan(), expected.isnan())


def test_a_constant_channel_has_no_variance() -> None:
    case = oracle.given_for(PLANS["normal"][0], 4, 9, 8)
    case.named["source 1"][:, 0] = 0.25
    for name in ("parameter 1.4.op.2.weight", "parameter 1.4.op.6.weight"):
        case.named[name][0] = 0.0
    oracle.assert_same_function(case)
    oracle.assert_rounds_as_plain_torch(case, dtype=torch.float32)


def test_means_far_larger_than_deviations() -> None:
    case = oracle.given_for(PLANS["normal"][0], 4, 9, 8)
    case.named["source 0"][:, 1:] += 1e4
    case.named["source 1"] -= 1e4
    oracle.assert_rounds_as_plain_torch(case, dtype=torch.float32)
