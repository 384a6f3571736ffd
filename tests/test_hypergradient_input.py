"""Bad input is refused before a loss is evaluated, and says what would be right."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypergradient_problems import Problem, toy
from torch import Tensor, nn

from fastdarts.errors import UserError
from fastdarts.hypergradient import KINDS, hypergradient, hypergradient_error


def leaf(*shape: int, **options: Any) -> Tensor:
    return torch.ones(shape, requires_grad=True, **options)


def refused(kind: str, message: str, error: type[Exception] = UserError, **changes: Any) -> None:
    """The call raises before either loss is evaluated."""

    def never() -> Tensor:
        raise AssertionError("a loss was evaluated")

    arguments = toy(1.0, 2.0, lr=0.1).arguments | {"loss_train": never, "loss_val": never} | changes
    with pytest.raises(error, match=message):
        hypergradient(kind, **arguments)


def test_unknown_kind() -> None:
    refused("third", "kind is 'third'; expected one of one-level, first, second, second-exact, amended, amended-exact")
    refused("second", "module_state is 'keep'; expected one of restore, peer", module_state="keep")
    for kind in set(KINDS) - {"second", "amended"}:
        with pytest.raises(UserError, match=f"kind is '{kind}'; expected one of second, amended"):
            hypergradient_error(kind, **toy(1.0, 2.0, lr=0.1).arguments)


def test_where_all_weights_are_frozen_the_alphas_learn() -> None:
    alpha = leaf(2)
    loss = {"loss_train": lambda: alpha.sum(), "loss_val": lambda: 2 * alpha.sum()}
    for kind, slope in (("first", 2.0), ("one-level", 1.0)):
        (found,) = hypergradient(kind, **loss, weights=[], alphas=[alpha], lr=0.1)
        assert found.tolist() == [slope, slope]
    with pytest.raises(UserError, match="kind 'second' looks at what the weights learn; 'first' needs none"):
        hypergradient("second", **loss, weights=[], alphas=[alpha], lr=0.1)


@pytest.mark.parametrize("name", ["weights", "alphas"])
def test_leaves(name: str) -> None:
    refused("second", f"{name} is empty; expected at least one tensor", **{name: []})
    refused("first", rf"{name}\[1\] .*computed from other tensors", **{name: [leaf(2), leaf(2) * 2]})
    refused("first", rf"{name}\[0\] .*does not require grad", **{name: [torch.ones(2)]})
    refused("first", rf"{name}\[0\] is torch.int64", **{name: [torch.ones(2, dtype=torch.int64)]})
    refused("first", rf"{name}\[0\] is torch.complex64", **{name: [leaf(2, dtype=torch.complex64)]})
    refused("first", f"{name} is one tensor", TypeError, **{name: leaf(2)})
    refused("first", rf"{name}\[0\] is float; expected a tensor", TypeError, **{name: [1.0]})
    refused("first", rf"{name}\[0\] is not initialised yet", **{name: nn.LazyLinear(2).parameters()})


def test_one_tensor_at_two_places() -> None:
    w, a = leaf(2), leaf(2)
    refused("first", r"weights\[1\] is the same tensor as weights\[0\]", weights=[w, w])
    refused("first", r"alphas\[0\] is the same tensor as weights\[1\]", weights=[w, a], alphas=[a])


@pytest.mark.parametrize("kind", ["second", "second-exact"])
def test_settings_of_the_unrolled_step(kind: str) -> None:
    for name in ("lr", "momentum", "weight_decay"):
        for bad in (-1.0, math.nan, math.inf):
            refused(kind, f"{name} is {bad}; expected a finite number", **{name: bad})
    refused(kind, "lr is 0; expected a finite number above 0; .*'first'", lr=0)
    refused(kind, "2 momentum_buffers for 1 weights", momentum_buffers=[None, None])
    refused(kind, r"momentum_buffers\[0\] has shape \(3,\); expected \(\)", momentum_buffers=[torch.ones(3)])
    refused(kind, "lr is str; expected a number", TypeError, lr="0.1")


def test_steps_of_the_finite_differences() -> None:
    for kind in ("second", "amended"):
        for bad in (0.0, -1.0, math.nan, math.inf):
            refused(kind, f"epsilon is {bad}; expected a finite number above 0", epsilon=bad)
    for kind in ("amended", "amended-exact"):
        for bad in (-1.0, math.nan, math.inf):
            refused(kind, f"eta is {bad}; expected a finite number, at least 0", eta=bad)


def test_settings_that_a_kind_does_not_use_are_not_judged() -> None:
    unused = {
        "one-level": {"lr": 0.0, "epsilon": 0.0, "eta": -1.0},
        "first": {"lr": 0.0, "epsilon": 0.0, "eta": -1.0},
        "second-exact": {"epsilon": 0.0, "eta": -1.0},
        "second": {"eta": math.nan},
        "amended": {"lr": 0.0, "momentum": -1.0},
        "amended-exact": {"lr": 0.0, "epsilon": 0.0},
    }
    assert set(unused) == set(KINDS)
    for kind, settings in unused.items():
        assert hypergradient(kind, **(toy(1.0, 2.0, lr=0.1).arguments | settings))[0].isfinite()


@pytest.mark.parametrize("kind", KINDS)
def test_losses(kind: str) -> None:
    level = "loss_val" if kind == "first" else "loss_train"

    def with_loss(loss: Any) -> dict[str, Any]:
        return toy(1.0, 2.0, lr=0.1).arguments | {level: loss}

    refused(kind, f"{level} is Tensor; expected a function of no arguments", TypeError, **{level: torch.ones(())})
    with pytest.raises(UserError, match=rf"{level} returned a torch.float32 tensor of shape \(2,\).*mean\(\)"):
        hypergradient(kind, **with_loss(lambda: leaf(2)))
    with pytest.raises(UserError, match=rf"{level} returned a torch.int64 tensor"):
        hypergradient(kind, **with_loss(lambda: torch.tensor(1)))
    with pytest.raises(TypeError, match=f"{level} returned float; expected a scalar tensor"):
        hypergradient(kind, **with_loss(lambda: 1.0))
    with pytest.raises(UserError, match=f"{level} has no gradient graph.*without no_grad"):
        hypergradient(kind, **with_loss(lambda: torch.ones(())))


def test_one_element_is_a_scalar() -> None:
    problem = toy(1.0, 2.0, lr=0.1)
    expected = hypergradient("second", **problem.arguments)
    found = hypergradient(
        "second",
        **(
            problem.arguments
            | {"loss_train": lambda: problem.loss_train()[None], "loss_val": lambda: problem.loss_val()[None]}
        ),
    )
    assert torch.equal(found[0], expected[0])


def test_iterators_of_parameters() -> None:
    model, a = nn.Linear(2, 1), leaf(1)

    def loss() -> Tensor:
        return (model(torch.ones(1, 2)) * a).square().sum()

    expected = hypergradient("second", **Problem(loss, loss, list(model.parameters()), [a], {"lr": 0.1}).arguments)
    arguments: dict[str, Any] = {"loss_train": loss, "loss_val": loss, "lr": 0.1}
    found = hypergradient("second", weights=model.parameters(), alphas=iter([a]), **arguments)
    assert torch.equal(found[0], expected[0])
    error = hypergradient_error("second", weights=model.parameters(), alphas=iter([a]), **arguments)
    assert error.norm == pytest.approx(float(expected[0].norm()))
