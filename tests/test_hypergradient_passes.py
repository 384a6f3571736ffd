"""What the passes of one hypergradient share, and what they see of the caller: generators, grad mode, autocast."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypergradient_problems import EVALUATIONS, FINITE, Problem, mixture
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastdarts.hypergradient import KINDS, hypergradient, hypergradient_error


@pytest.mark.parametrize("kind", KINDS)
def test_random_numbers(kind: str) -> None:
    draws: list[tuple[str, float]] = []
    w, a = (torch.ones(1, requires_grad=True) for _ in range(2))

    def loss(level: str) -> Tensor:
        draws.append((level, torch.rand(()).item()))
        return (w * a).square().sum()

    torch.manual_seed(3)
    hypergradient(kind, **Problem(lambda: loss("train"), lambda: loss("val"), [w], [a], {"lr": 0.1}).arguments)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    order = {"one-level": ["train"], "first": ["val"], "second": ["train", "val"], "amended": ["val", "train"]}
    expected = {level: torch.rand(()).item() for level in order[kind.removesuffix("-exact")]}
    assert torch.equal(after, torch.get_rng_state())
    assert all(value == expected[level] for level, value in draws)
    assert tuple(sum(level == each for level, _ in draws) for each in ("train", "val")) == EVALUATIONS[kind]


def test_dropout_masks_do_not_spoil_the_finite_differences() -> None:
    _, problem = mixture(dropout=0.4, epsilon=1e-4)
    for kind in FINITE:
        assert hypergradient_error(kind, **problem.arguments).relative_error < 1e-5


@pytest.mark.gpu
def test_random_numbers_of_cuda() -> None:
    draws: list[float] = []
    w, a = (torch.ones(1, device="cuda", requires_grad=True) for _ in range(2))

    def loss() -> Tensor:
        draws.append(torch.rand((), device="cuda").item())
        return (w * a).square().sum()

    torch.manual_seed(3)
    hypergradient("amended", **Problem(loss, lambda: (w * a).square().sum(), [w], [a]).arguments)
    after = torch.cuda.get_rng_state()
    assert len(draws) == 4 and len(set(draws)) == 1
    torch.manual_seed(3)
    assert torch.rand((), device="cuda").item() == draws[0]
    assert torch.equal(after, torch.cuda.get_rng_state())


# kind: batches that the live model's statistics have seen, by level, as in quark0's Architect
PEER = {
    "one-level": ["train"],
    "first": ["val"],
    "second": ["train", "train", "train"],
    "second-exact": ["train", "train"],
    "amended": ["val", "train", "train", "train", "train"],
    "amended-exact": ["val", "train"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_peer_module_state(kind: str) -> None:
    # The weights before the batch norm are no part of the problem, so that a pass's effect on the statistics is the
    # same at w, at w' and at w +- R v, and the passes that left theirs can be replayed.
    stem, head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double(), nn.Linear(4, 2).double()
    a = torch.randn(2, dtype=torch.float64, requires_grad=True)
    batches = {level: torch.randn(5, 3, dtype=torch.float64) for level in ("train", "val")}

    def loss(level: str) -> Tensor:
        return (head(stem(batches[level]).tanh()) * a.softmax(0)).square().sum()

    problem = Problem(lambda: loss("train"), lambda: loss("val"), list(head.parameters()), [a], {"lr": 0.1})
    start = {name: each.clone() for name, each in stem.state_dict().items()}
    gradient = hypergradient(kind, **problem.arguments, module_state="peer")
    found = {name: each.clone() for name, each in stem.state_dict().items()}
    stem.load_state_dict(start)
    for level in PEER[kind]:
        stem(batches[level])
    assert found["1.num_batches_tracked"] == len(PEER[kind])
    assert all(torch.equal(found[name], each) for name, each in stem.state_dict().items())
    stem.load_state_dict(start)
    assert all(map(torch.equal, gradient, hypergradient(kind, **problem.arguments)))
    assert all(torch.equal(start[name], each) for name, each in stem.state_dict().items())


def test_peer_validation_pass_sees_the_training_pass() -> None:
    # quark0 copies the model after the training pass: in eval mode of a norm this would show in w' alone.
    norm = nn.BatchNorm1d(2, affine=False).double()
    w, a = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x = torch.randn(5, 2, dtype=torch.float64)
    seen: list[int] = []

    def loss_val() -> Tensor:
        seen.append(int(norm.num_batches_tracked))
        return (norm(x * w) * a).square().sum()

    problem = Problem(lambda: (norm(x * w) * a).square().sum(), loss_val, [w], [a], {"lr": 0.1})
    hypergradient("second", **problem.arguments, module_state="peer")
    assert seen == [1] and norm.num_batches_tracked == 3


def test_peer_module_state_keeps_no_trace_of_a_failed_validation_pass() -> None:
    norm = nn.BatchNorm1d(2, affine=False).double()
    w, a = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    x = torch.randn(5, 2, dtype=torch.float64)

    def loss_val() -> Tensor:
        norm(x * w)
        raise KeyboardInterrupt

    problem = Problem(lambda: (norm(x * w) * a).square().sum(), loss_val, [w], [a], {"lr": 0.1})
    with pytest.raises(KeyboardInterrupt):
        hypergradient("second", **problem.arguments, module_state="peer")
    assert torch.equal(w, torch.ones(2, dtype=torch.float64))
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_caller_in_no_grad(kind: str) -> None:
    _, problem = mixture()
    expected = hypergradient(kind, **problem.arguments)
    with torch.no_grad():
        found = hypergradient(kind, **problem.arguments)
        assert not torch.is_grad_enabled()
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_around_the_call_equals_autocast_in_the_losses(kind: str) -> None:
    # Autocast caches the weights' bfloat16 copies until its outermost region ends, and the caller's region spans all
    # passes: at w +- R v they would all see the weights of the first.
    model = nn.Linear(8, 8)
    a = torch.randn(8, requires_grad=True)
    x = torch.randn(16, 8)

    def loss() -> Tensor:
        return (model(x).tanh() * a.softmax(0)).float().square().sum()

    def cast() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss()

    settings = {"lr": 0.5, "epsilon": 1.0, "eta": 1.0}
    inside = hypergradient(kind, **Problem(cast, cast, list(model.parameters()), [a], settings).arguments)
    with torch.autocast("cpu", torch.bfloat16):
        around = hypergradient(kind, **Problem(loss, loss, list(model.parameters()), [a], settings).arguments)
        after = F.linear(x, model.weight)
    assert all(map(torch.equal, inside, around))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, F.linear(x, model.weight))


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing(kind: str) -> None:
    # Its backward runs the forward again, and refuses if that saves other tensors than the first time.
    model, problem = mixture(dropout=0.2)
    torch.manual_seed(1)
    expected = hypergradient(kind, **problem.arguments)
    after = torch.get_rng_state()
    forward = model.forward
    model.forward = lambda x: checkpoint(forward, x, use_reentrant=False)
    torch.manual_seed(1)
    assert all(map(torch.equal, hypergradient(kind, **problem.arguments), expected))
    assert torch.equal(torch.get_rng_state(), after)
    assert all(norm.num_batches_tracked == 0 for norm in model.norms)
