"""The step that asks the host for nothing: its numbers, its flat buffers, and going on with the other kind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastdarts.nn import Supernet
from fastdarts.search import configure
from fastdarts.search._flat import FlatParameters
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Softmax
from fastdarts.search.step import SearchStep
from tests import tiny
from tests.tolerance import a_rounding_off, assert_within, furthest

PROGRESS = torch.zeros((), dtype=torch.float64)


def _batch(seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, 3, 8, 8, generator=generator).to(dtype), torch.randint(0, 5, (4,), generator=generator)


def _step(cls: type[SearchStep], kind: str, dtype: torch.dtype = torch.float32, **overrides: Any) -> SearchStep:
    torch.manual_seed(0)
    config = configure("pc-darts", data="cifar10", channels=8, layers=3, hypergradient=kind, lr=0.025, **overrides)
    model = Supernet(tiny.SPACE, channels=8, layers=3, classes=5, partial=4).to(dtype)
    return cls(model, config, Softmax())


def _take(step: SearchStep, count: int = 1, first: int = 0, draw: int | None = None) -> SearchStep:
    """Take so many steps, on images that are a rounding off where a draw is given."""
    dtype = step.weights[0].dtype
    for number in range(first, first + count):
        progress = PROGRESS if isinstance(step, UnattendedStep) else 0.0
        batches = [_batch(2 * number + level, dtype) for level in (0, 1)]
        if draw is not None:
            batches = [(a_rounding_off(images, draw), labels) for images, labels in batches]
        step(*batches, progress)
    return step


def _assert_alike(ours: SearchStep, kind: str, steps: int, **overrides: Any) -> None:
    """Hold a model to so many steps of torch's own optimisers, in float32 and in float64.

    Adam divides a gradient by its own size: of a small one the rounding decides, and one run is one draw of it.
    """

    def taken(dtype: torch.dtype, draw: int | None = None) -> dict[str, Tensor]:
        return _take(_step(SearchStep, kind, dtype, **overrides), steps, draw=draw).model.state_dict()

    exact = taken(torch.float64)
    eager = furthest([taken(torch.float32, draw) for draw in (None, 1, 2, 3)], exact)
    for name, value in ours.model.state_dict().items():
        if value.is_floating_point():
            assert_within(name, value, eager[name], exact[name])
        else:
            assert torch.equal(value, eager[name]), name


@pytest.mark.parametrize("grad_clip", [0.5, 0.0])
@pytest.mark.parametrize("kind", ["one-level", "first", "second", "amended"])
def test_its_numbers_are_those_of_torchs_own_optimisers(kind: str, grad_clip: float) -> None:
    _assert_alike(_take(_step(UnattendedStep, kind, grad_clip=grad_clip)), kind, 1, grad_clip=grad_clip)


@pytest.mark.parametrize("kind", ["one-level", "first"])
def test_without_finite_differences_the_hypergradient_is_the_same_to_the_bit(kind: str) -> None:
    found = []
    for cls in (SearchStep, UnattendedStep):
        step = _step(cls, kind)
        seen: dict[str, Tensor] = {}
        losses = step._losses(_batch(0, torch.float32), _batch(1, torch.float32), 0.0, seen)
        found.append([*step._hypergradient(losses), *seen.values()])
    assert all(torch.equal(left, right) for left, right in zip(*found, strict=True))


@pytest.mark.parametrize("kind", ["second", "amended"])
def test_finite_differences_take_momentum_and_the_present_rates(kind: str) -> None:
    """Adam's first steps hardly show what the gradient was: here it is itself, in float64, up to rounding over R."""
    found, begun = [], _take(_step(SearchStep, kind, torch.float64))
    for cls in (SearchStep, UnattendedStep):
        step = _step(cls, kind, torch.float64)
        step.load_state_dict(copy.deepcopy(begun.state_dict()))
        step.model.load_state_dict(begun.model.state_dict())
        step.set_lr(0.1)
        step.set_weight_decay(0.02)
        losses = step._losses(_batch(2, torch.float64), _batch(3, torch.float64), 0.0, {})
        found.append(torch.cat([each.flatten() for each in step._hypergradient(losses)]))
    assert (found[1] - found[0]).norm() < 1e-6 * found[0].norm()


@pytest.mark.parametrize("cls", [SearchStep, UnattendedStep])
@pytest.mark.parametrize("length", [0.5, 4.0])
def test_long_gradients_of_the_alphas_are_clipped_and_short_ones_are_not(cls: type[SearchStep], length: float) -> None:
    """What Adam is given: its first step is as long whatever that is."""
    step, found = _step(cls, "first", arch_grad_clip=1.0), []
    if isinstance(step, UnattendedStep):
        step.adam.step = found.extend
    else:
        step.arch_optimizer.step = lambda: found.extend(alphas.grad.clone() for alphas in step.alphas)
    count = sum(alphas.numel() for alphas in step.alphas)
    step._learn_alphas([torch.full_like(alphas, length / count**0.5) for alphas in step.alphas])
    assert float(torch.cat([each.flatten() for each in found]).norm()) == pytest.approx(min(length, 1.0), rel=1e-5)


@pytest.mark.parametrize(("first", "second"), [(SearchStep, UnattendedStep), (UnattendedStep, SearchStep)])
def test_a_run_may_go_on_with_the_other_kind_of_step(first: type[SearchStep], second: type[SearchStep]) -> None:
    begun, resumed = _take(_step(first, "first"), 2), _step(second, "first")
    # A checkpoint holds copies.
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    resumed.model.load_state_dict(begun.model.state_dict())
    _assert_alike(_take(resumed, 1, first=2), "first", 3)


def test_states_have_torchs_own_form() -> None:
    def form(step: SearchStep) -> Any:
        return tree_map(lambda each: (each.shape, each.dtype) if isinstance(each, Tensor) else each, step.state_dict())

    assert form(_take(_step(UnattendedStep, "first"))) == form(_take(_step(SearchStep, "first")))
    assert form(_step(UnattendedStep, "first"))["arch_optimizer"] == form(_step(SearchStep, "first"))["arch_optimizer"]


def test_loading_keeps_every_address() -> None:
    """A graph that was captured before would go on reading the old ones."""
    step = _take(_step(UnattendedStep, "first"))
    assert isinstance(step, UnattendedStep)

    def addresses() -> list[int]:
        own = [step.sgd.momentum, step.adam.exp_avg, step.adam.exp_avg_sq, step.adam.steps, step.adam.lr, step.lr]
        return [each.data_ptr() for each in (*step.weights, *step.alphas, *step.model.buffers(), *own)]

    before, other = addresses(), _take(_step(UnattendedStep, "first"), 2)
    step.load_state_dict(other.state_dict())
    step.model.load_state_dict(other.model.state_dict())
    step.set_lr(0.5)
    assert addresses() == before
    assert torch.equal(step.sgd.momentum, other.sgd.momentum)
    assert (step.adam.steps.item(), step.lr.item()) == (2.0, 0.5)


def test_check_leaves_flat_buffers_as_they_were() -> None:
    step = _take(_step(UnattendedStep, "second"))
    assert isinstance(step, UnattendedStep)
    before = [step.flat.values.clone(), step.sgd.momentum.clone()]
    assert -1.0 <= step.check(_batch(4, torch.float32), _batch(5, torch.float32), 0.0).cosine <= 1.0
    assert torch.equal(step.flat.values, before[0])
    assert torch.equal(step.sgd.momentum, before[1])


def test_parameters_become_views_with_their_values() -> None:
    parameters = [nn.Parameter(torch.randn(3, 5)), nn.Parameter(torch.randn(())), nn.Parameter(torch.randn(70))]
    before = [each.detach().clone() for each in parameters]
    flat = FlatParameters(parameters)
    assert all(torch.equal(each, old) for each, old in zip(parameters, before, strict=True))
    assert {each.untyped_storage().data_ptr() for each in parameters} == {flat.values.untyped_storage().data_ptr()}
    assert all(each.data_ptr() % 16 == 0 and each.is_contiguous() for each in parameters)
    assert flat.flat(before).count_nonzero() == flat.values.count_nonzero() == 3 * 5 + 1 + 70
    with pytest.raises(TypeError, match="several dtypes"):
        FlatParameters([*parameters, nn.Parameter(torch.zeros(1, dtype=torch.float64))])


@pytest.mark.parametrize("size", [0.0, 1e-42])
def test_a_direction_that_is_nothing_moves_nothing(size: float) -> None:
    """The validation loss does not see the weights: |v| = 0, and the radius must be 0, not infinite."""
    step = _step(UnattendedStep, "amended")
    train = _batch(0, torch.float32)

    def validation() -> Tensor:
        return sum(alpha.square().sum() for alpha in step.alphas) + size * sum(each.sum() for each in step.weights)

    losses = step._losses(train, train, 0.0, {}) | {"loss_val": validation}
    gradients = step._hypergradient(losses)
    for gradient, alpha in zip(gradients, step.alphas, strict=True):
        assert torch.equal(gradient, 2 * alpha)
