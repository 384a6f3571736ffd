"""A hypergradient leaves no trace: weights, gradients, flags, buffers, generators and hooks, also after errors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypergradient_problems import EVALUATIONS, FINITE, Problem, flat
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from fastdarts.hypergradient import KINDS, hypergradient, hypergradient_error


class Odd(nn.Module):
    """Every way in which a forward pass changes buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.child = nn.Linear(4, 4)
        self.child.register_buffer("written_by_parent", torch.zeros(2))
        self.register_buffer("replaced", torch.tensor([1.0, -0.0, float("nan")]))
        self.register_buffer("resized", torch.arange(3))
        self.register_buffer("unset", None)
        self.register_buffer("deleted", torch.ones(2))
        self.register_buffer("empty", torch.empty(0))
        self.register_buffer("shared", self.child.written_by_parent)
        self.register_buffer("steps", torch.tensor(0))
        self.dropout = nn.Dropout(0.3)
        self.double()
        self.register_buffer("expanded", torch.arange(2.0).expand(3, 2))

    def forward(self, x: Tensor) -> Tensor:
        self.replaced = self.replaced + 1
        self.resized.resize_(self.resized.numel() + 2).fill_(7)
        self.unset = torch.ones(1)
        self.register_buffer("new", torch.ones(1))
        if "deleted" in self._buffers:
            del self.deleted
        self.child.written_by_parent.add_(1)
        self.steps += 1
        return self.dropout(self.norm(self.child(x)).tanh()) * self.steps


def odd() -> tuple[Odd, Problem]:
    model = Odd()
    a = torch.randn(4, dtype=torch.float64, requires_grad=True)
    batches = [torch.randn(6, 4, dtype=torch.float64) for _ in range(2)]

    def loss(level: int) -> Tensor:
        return (model(batches[level]) * a.softmax(0)).tanh().square().sum()

    weights = list(model.parameters())
    for index, weight in enumerate([*weights, a]):
        weight.grad = torch.randn_like(weight) if index % 2 else None
    return model, Problem(lambda: loss(0), lambda: loss(1), weights, [a], {"lr": 0.1, "momentum": 0.9})


def bits(tensor: Tensor | None) -> Any:
    return None if tensor is None else (id(tensor), tensor.shape, tensor.detach().clone().numpy().tobytes())


def everything(model: nn.Module, problem: Problem) -> list[Any]:
    leaves = [*problem.weights, *problem.alphas]
    state = [(bits(each), bits(each.grad), each.requires_grad) for each in leaves]
    buffers = [{name: bits(b) for name, b in part._buffers.items()} for part in model.modules()]
    hooks = [len(module_hooks._global_forward_pre_hooks), len(module_hooks._global_forward_hooks)]
    return [*state, *buffers, hooks, model.training, torch.is_grad_enabled()]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes(kind: str) -> None:
    model, problem = odd()
    before = everything(model, problem)
    gradient = hypergradient(kind, **problem.arguments)
    assert everything(model, problem) == before
    assert not any(each.requires_grad for each in gradient)
    # No result may be a view of something that a caller holds.
    for each in gradient:
        each.fill_(7)
    assert everything(model, problem) == before


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, Stop])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_when_an_evaluation_raises(kind: str, error: type[BaseException]) -> None:
    model, problem = odd()
    before, generator = everything(model, problem), torch.get_rng_state()
    for failing in range(sum(EVALUATIONS[kind])):
        calls = iter(range(failing, -1, -1))

        def guarded(loss: Callable[[], Tensor], calls: Any = calls) -> Tensor:
            value = loss()
            if next(calls) == 0:
                raise error("stop")
            return value

        arguments = problem.arguments
        arguments["loss_train"] = lambda: guarded(problem.loss_train)
        arguments["loss_val"] = lambda: guarded(problem.loss_val)
        with pytest.raises(error, match="stop"):
            hypergradient(kind, **arguments)
        assert everything(model, problem) == before
        assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_when_a_backward_raises(kind: str) -> None:
    model, problem = odd()

    def fail(_: Tensor) -> None:
        raise KeyboardInterrupt

    def failing(loss: Callable[[], Tensor]) -> Tensor:
        value = loss() * 1.0
        value.register_hook(fail)
        return value

    before, generator = everything(model, problem), torch.get_rng_state()
    arguments = problem.arguments
    level = "loss_val" if kind == "first" else "loss_train"
    arguments[level] = lambda loss=arguments[level]: failing(loss)
    with pytest.raises(KeyboardInterrupt):
        hypergradient(kind, **arguments)
    assert everything(model, problem) == before
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kind", FINITE)
@pytest.mark.parametrize("module_state", ["restore", "peer"])
def test_measuring_the_error_changes_nothing(kind: str, module_state: str) -> None:
    model, problem = odd()
    before, generator = everything(model, problem), torch.get_rng_state()
    hypergradient_error(kind, module_state=module_state, **problem.arguments)
    assert everything(model, problem) == before
    assert torch.equal(torch.get_rng_state(), generator)


@pytest.mark.parametrize("kind", FINITE)
def test_evaluations_start_from_the_same_buffers(kind: str) -> None:
    # The output grows with the number of forwards made: were the buffers put back only at the end, the two sides of
    # a central difference would be different functions.
    _, problem = odd()
    assert hypergradient_error(kind, **problem.arguments, epsilon=1e-5).relative_error < 1e-8
    assert hypergradient_error(kind, **problem.arguments, epsilon=1e-5, module_state="peer").relative_error > 0.1


@pytest.mark.parametrize("kind", FINITE)
def test_error_of_a_peers_step_compares_kinds_from_the_same_buffers(kind: str) -> None:
    found = []
    for measured in (kind, f"{kind}-exact", None):
        torch.manual_seed(5)
        _, problem = odd()
        if measured is None:
            error = hypergradient_error(kind, **problem.arguments, module_state="peer")
        else:
            found.append(flat(hypergradient(measured, **problem.arguments, module_state="peer")))
    assert error.relative_error == float((found[0] - found[1]).norm() / found[1].norm())


@pytest.mark.parametrize("module_state", ["restore", "peer"])
def test_loss_without_what_is_wanted_leaves_the_traces_of_one_evaluation(module_state: str) -> None:
    # Such a loss has no graph, and is evaluated again to tell it from one whose graph was cut.
    model, w = nn.Sequential(nn.BatchNorm1d(2, affine=False), nn.Dropout(0.5)), torch.ones(2, requires_grad=True)
    a, x = torch.ones(2, requires_grad=True), torch.randn(4, 2)
    problem = Problem(lambda: model(x * w).sum(), lambda: (a * w).sum(), [w], [a])
    torch.manual_seed(3)
    gradient = hypergradient("one-level", **problem.arguments, module_state=module_state)
    after = torch.get_rng_state()
    assert torch.equal(gradient[0], torch.zeros(2))
    assert model[0].num_batches_tracked == (module_state == "peer")
    torch.manual_seed(3)
    model(x)
    assert torch.equal(after, torch.get_rng_state())


def test_buffer_shared_by_modules_that_run_apart() -> None:
    first, second = nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2, affine=False)
    second.running_mean = first.running_mean
    w, a, x = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True), torch.randn(4, 2)
    problem = Problem(lambda: (second(first(x * w) + 1) * a).sum(), lambda: (a * w).sum(), [w], [a])
    hypergradient("one-level", **problem.arguments)
    assert torch.equal(first.running_mean, torch.zeros(2))


def test_modules_of_other_threads_are_left_alone() -> None:
    _, problem = odd()
    other = nn.BatchNorm1d(2)
    x = torch.randn(4, 2)

    def loss_train() -> Tensor:
        thread = threading.Thread(target=other, args=(x,))
        thread.start()
        thread.join()
        return problem.loss_train()

    arguments = problem.arguments | {"loss_train": loss_train}
    hypergradient("second-exact", **arguments)
    assert other.num_batches_tracked == 2


def test_a_weight_that_is_also_a_buffer_is_moved_all_the_same() -> None:
    # Some code keeps its alphas as buffers that require grad; putting buffers back must not undo a displacement.
    class Held(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("w", torch.randn(3, dtype=torch.float64).requires_grad_())
            self.register_buffer("a", torch.randn(3, dtype=torch.float64).requires_grad_())

        def forward(self) -> Tensor:
            return (self.w * self.a).sin().sum()

    held = Held()
    plain = Problem(lambda: (held.w * held.a).sin().sum(), lambda: (held.w * held.a).sin().sum(), [held.w], [held.a])
    called = Problem(held, held, [held.w], [held.a])
    for kind in KINDS:
        expected, found = (hypergradient(kind, **each.arguments, lr=0.3) for each in (plain, called))
        assert torch.equal(found[0], expected[0])
