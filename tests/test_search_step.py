"""One step: each level moves only what is its own, and both together are DARTS' loop."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts.compat.darts import Architect, Network
from fastdarts.hypergradient import hypergradient
from fastdarts.nn import Supernet
from fastdarts.search import configure
from fastdarts.search.choices import Mixing, Softmax
from fastdarts.search.step import SearchStep
from fastdarts.spaces import define_space, space
from tests.tolerance import assert_within


def _batch(seed: int, count: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.randint(0, 5, (count,), generator=generator)


def _step(kind: str = "first", **overrides: object) -> SearchStep:
    torch.manual_seed(0)
    config = configure("darts-first", data="cifar10", channels=4, layers=3, hypergradient=kind, **overrides)
    return SearchStep(Supernet(space("darts"), channels=4, layers=3, classes=5), config, Softmax())


def _snapshot(tensors: list[nn.Parameter]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def _equal(before: list[Tensor], after: list[nn.Parameter]) -> bool:
    return all(torch.equal(old, new) for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["one-level", "first", "second", "second-exact", "amended", "amended-exact"])
def test_each_level_moves_only_its_own(kind: str) -> None:
    step = _step(kind)
    step.weight_step(_batch(9), 0.0)
    weights, alphas = _snapshot(step.weights), _snapshot(step.alphas)
    values = step.arch_step(_batch(0), _batch(1), 0.0)
    assert _equal(weights, step.weights)
    assert not _equal(alphas, step.alphas)
    assert {"arch_loss", "arch_accuracy"} == set(values)
    alphas = _snapshot(step.alphas)
    values = step.weight_step(_batch(0), 0.0)
    assert _equal(alphas, step.alphas)
    assert not _equal(weights, step.weights)
    assert {"train_loss", "train_accuracy"} == set(values)
    assert all(each.grad is None for each in [*step.weights, *step.alphas])


@pytest.mark.parametrize(("kind", "own"), [("first", 1), ("amended", 1), ("amended-exact", 1), ("one-level", 0)])
def test_the_recorded_loss_is_the_one_that_is_differentiated(kind: str, own: int) -> None:
    step = _step(kind)
    batches = _batch(0), _batch(1)
    with torch.no_grad():
        logits = step.model.train()(batches[own][0], **Softmax()(step.model, 0.0))
        expected = F.cross_entropy(logits, batches[own][1])
    assert torch.equal(step.arch_step(*batches, 0.0)["arch_loss"], expected)


def test_the_weight_level_asks_no_gradient_of_the_alphas() -> None:
    step = _step()
    asked: list[bool] = []

    class Spy(Softmax):
        def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
            mixing = super().__call__(model, progress)
            asked.append(any(weight.requires_grad for weight in mixing["weights"].values()))
            return mixing

    step.relaxation = Spy()
    step(_batch(0), _batch(1), 0.0)
    assert asked == [True, False]


def test_the_weights_may_learn_first() -> None:
    together, apart = (_step("first", weights_first=True) for _ in range(2))
    values = together(_batch(0), _batch(1), 0.0)
    assert values == apart.weight_step(_batch(0), 0.0) | apart.arch_step(_batch(0), _batch(1), 0.0)
    assert _equal(together.weights + together.alphas, apart.weights + apart.alphas)


def test_the_alphas_wait_when_there_is_no_validation_batch() -> None:
    step = _step()
    alphas = _snapshot(step.alphas)
    assert set(step(_batch(0), None, 0.0)) == {"train_loss", "train_accuracy"}
    assert _equal(alphas, step.alphas)


def _darts_loop(unrolled: bool, start: dict[str, Tensor], dtype: torch.dtype) -> Network:
    """Three steps with quark0's Architect and SGD, written as a DARTS user writes them."""
    network = Network(4, 5, 3, nn.CrossEntropyLoss()).to(dtype)
    network.load_state_dict({name: value for name, value in start.items() if not name.startswith("arch.")})
    for alphas, name in zip(network.arch_parameters(), ("normal", "reduce"), strict=True):
        alphas.data.copy_(start[f"arch.alphas.{name}"])
    args = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    architect = Architect(network, args)
    optimizer = torch.optim.SGD(network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    for number in range(3):
        (x, y), (x_valid, y_valid) = _batch(2 * number), _batch(2 * number + 1)
        x, x_valid = x.to(dtype), x_valid.to(dtype)
        network.train()
        architect.step(x, y, x_valid, y_valid, 0.025, optimizer, unrolled=unrolled)
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
    return network


def test_first_order_steps_are_those_of_darts_own_loop() -> None:
    step = _step("first")
    start = {name: value.clone() for name, value in step.model.state_dict().items()}
    for number in range(3):
        step(_batch(2 * number), _batch(2 * number + 1), 0.0)
    eager, exact = (_darts_loop(False, start, dtype) for dtype in (torch.float32, torch.float64))
    for ours, theirs, true in zip(step.alphas, eager.arch_parameters(), exact.arch_parameters(), strict=True):
        assert_within("alphas", ours, theirs, true)
    ours, theirs, true = step.model.state_dict(), eager.state_dict(), exact.state_dict()
    for name, value in theirs.items():
        if value.is_floating_point():
            assert_within(name, ours[name], value, true[name])
        else:
            assert torch.equal(ours[name], value), name


def test_an_unrolled_step_is_that_of_darts_own_loop() -> None:
    """One step only: rounding moves the finite differences across ReLU kinks, and three steps amplify it."""
    step = _step("second")
    network = Network(4, 5, 3, nn.CrossEntropyLoss())
    network.load_state_dict({k: v for k, v in step.model.state_dict().items() if not k.startswith("arch.")})
    for theirs, ours in zip(network.arch_parameters(), step.alphas, strict=True):
        theirs.data.copy_(ours.detach())
    args = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    optimizer = torch.optim.SGD(network.parameters(), 0.025, momentum=0.9, weight_decay=3e-4)
    Architect(network, args).step(*_batch(0), *_batch(1), 0.025, optimizer, unrolled=True)
    step.set_lr(0.025)
    step.arch_step(_batch(0), _batch(1), 0.0)
    ours = step.model.state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(value, ours[name]), name
    for theirs, alphas in zip(network.arch_parameters(), step.alphas, strict=True):
        torch.testing.assert_close(alphas.detach(), theirs.detach())


@pytest.mark.parametrize("kind", ["second", "amended"])
def test_the_hypergradient_takes_the_present_rates_and_sees_the_auxiliary_loss(kind: str) -> None:
    """Adam's first steps hardly show what the gradient was: it is taken before them."""
    space_of_two = define_space("two", ("skip_connect", "sep_conv_3x3"), nodes=1, layers=3)
    config = configure("darts-first", data="cifar10", channels=2, layers=3, hypergradient=kind, auxiliary=0.4)
    model = Supernet(space_of_two, channels=2, layers=3, classes=5, auxiliary=True)
    step = SearchStep(model, config, Softmax())
    step.weight_step(_batch(2), 0.0)
    step.set_lr(0.1)
    step.set_weight_decay(0.02)
    found: list[Sequence[Tensor]] = []
    step._learn_alphas = found.append
    step.arch_step(_batch(0), _batch(1), 0.0)

    def loss(number: int) -> Tensor:
        images, labels = _batch(number)
        value = F.cross_entropy(model(images, **Softmax()(model, 0.0)), labels)
        return value + 0.4 * F.cross_entropy(model.auxiliary_logits, labels) if number == 0 else value

    expected = hypergradient(
        kind,
        loss_train=lambda: loss(0),
        loss_val=lambda: loss(1),
        weights=step.weights,
        alphas=step.alphas,
        lr=0.1,
        momentum=config.momentum,
        momentum_buffers=[step.weight_optimizer.state[weight]["momentum_buffer"] for weight in step.weights],
        weight_decay=0.02,
    )
    assert all(map(torch.equal, found[0], expected))


def test_check_leaves_everything_as_it_was() -> None:
    step = _step("second")
    step.weight_step(_batch(9), 0.0)
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    error = step.check(_batch(0), _batch(1), 0.0)
    assert -1.0 <= error.cosine <= 1.0
    assert all(torch.equal(before[name], value) for name, value in step.model.state_dict().items())
