"""quark0's Architect under its own names: the parts of its unrolled step, alphas that are parameters, several ranks."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from golden.recipe import ARGS
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError

X, Y = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), torch.tensor([[0.3, 1.0, 2.0]], dtype=torch.float64)


class Toy(nn.Module):
    """`sum(alpha * w^2 * x) + sum(w * y)`: all derivatives by hand, and central differences are exact."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.tensor([0.5, -1.0], dtype=torch.float64))
        self.second = nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(()))
        self.alpha = torch.tensor([0.7, 0.1, -0.4], dtype=torch.float64, requires_grad=True)

    def arch_parameters(self) -> list[Tensor]:
        return [self.alpha]

    def new(self) -> Toy:
        fresh = Toy()
        fresh.alpha.data.copy_(self.alpha.data)
        return fresh

    def _loss(self, input: Tensor, target: Tensor) -> Tensor:
        self.seen += 1
        w = torch.cat([self.first, self.second])
        return (self.alpha * w**2 * input[0]).sum() + (w * target[0]).sum()


def toy() -> tuple[Toy, torch.optim.SGD, darts.Architect, Tensor]:
    """A toy with momentum buffers of known values."""
    model = Toy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=ARGS.momentum)
    momentum = torch.tensor([0.2, -0.3, 1.5], dtype=torch.float64)
    for parameter, piece in zip(model.parameters(), momentum.split([2, 1]), strict=True):
        optimizer.state[parameter]["momentum_buffer"] = piece.clone()
    return model, optimizer, darts.Architect(model, ARGS), momentum


def test_the_parts_of_the_unrolled_step_by_hand() -> None:
    model, optimizer, architect, momentum = toy()
    model.seen += 7
    w = torch.cat([parameter.detach() for parameter in model.parameters()])
    slope = 2 * model.alpha.detach() * w * X[0] + Y[0]
    expected = w - 0.05 * (ARGS.momentum * momentum + slope + ARGS.weight_decay * w)
    unrolled = architect._compute_unrolled_model(X, Y, 0.05, optimizer)
    found = torch.cat([parameter.detach() for parameter in unrolled.parameters()])
    assert_within("unrolled weights", found, expected, expected)
    assert type(unrolled) is Toy and unrolled is not model and unrolled.seen == 8
    assert torch.equal(unrolled.alpha, model.alpha) and unrolled.alpha is not model.alpha

    theta = torch.tensor([9.0, 8.0, 7.0], dtype=torch.float64)
    rebuilt = architect._construct_model_from_theta(theta)
    assert torch.equal(torch.cat([*rebuilt.parameters()]).detach(), theta)
    with pytest.raises(UserError, match="theta has 2 elements; expected 3"):
        architect._construct_model_from_theta(theta[:2])

    vector = [torch.tensor([1.0, -3.0], dtype=torch.float64), torch.tensor([0.25], dtype=torch.float64)]
    by_hand = 2 * w * X[0] * torch.cat(vector)
    for radius in (1e-2, 3.0):
        (product,) = architect._hessian_vector_product(vector, X, Y, r=radius)
        # A difference of two slopes divided by 2R: their rounding grows by that.
        assert_within("product", product, by_hand, by_hand, terms=100 * float(w.square().max()) / radius)
    assert torch.equal(torch.cat([*model.parameters()]).detach(), w)
    assert not architect._hessian_vector_product([torch.zeros_like(each) for each in vector], X, Y)[0].any()
    with pytest.raises(UserError, match="a vector of 1 tensors; expected 2, one for each parameter"):
        architect._hessian_vector_product(vector[:1], X, Y)


def test_the_whole_step_by_hand_and_through_overridden_parts() -> None:
    seen: list[str] = []

    class Watched(darts.Architect):
        def _compute_unrolled_model(self, *arguments: object) -> object:
            seen.append("unrolled")
            return super()._compute_unrolled_model(*arguments)

        def _construct_model_from_theta(self, theta: Tensor) -> object:
            seen.append("theta")
            return super()._construct_model_from_theta(theta)

        def _hessian_vector_product(self, *arguments: object, r: float = 1e-2) -> list[Tensor]:
            seen.append("product")
            return super()._hessian_vector_product(*arguments, r=r)

    class Doubled(darts.Architect):
        def _hessian_vector_product(self, *arguments: object, r: float = 1e-2) -> list[Tensor]:
            return [2 * each for each in super()._hessian_vector_product(*arguments, r=r)]

    gradients = {}
    for kind in (darts.Architect, Watched, Doubled):
        model, optimizer, _, momentum = toy()
        architect = kind(model, ARGS)
        architect._backward_step_unrolled(X, Y, Y, X, 0.05, optimizer)
        gradients[kind] = model.alpha.grad
        assert all(parameter.grad is None for parameter in model.parameters())
    w = torch.cat([parameter.detach() for parameter in Toy().parameters()])
    alpha = Toy().alpha.detach()
    ahead = w - 0.05 * (ARGS.momentum * momentum + 2 * alpha * w * X[0] + Y[0] + ARGS.weight_decay * w)
    direct, implicit = ahead**2 * Y[0], 2 * w * X[0] * (2 * alpha * ahead * Y[0] + X[0])
    for kind, times in ((darts.Architect, 1), (Watched, 1), (Doubled, 2)):
        expected = direct - 0.05 * times * implicit
        assert_within(kind.__name__, gradients[kind], expected, expected, terms=1e4)
    assert seen == ["unrolled", "theta", "product"]


def test_a_part_of_one_object_counts_too() -> None:
    model, optimizer, architect, _ = toy()
    architect._hessian_vector_product = lambda *_: [torch.zeros(3, dtype=torch.float64)]  # type: ignore[method-assign]
    architect._backward_step_unrolled(X, Y, Y, X, 0.05, optimizer)
    ahead = torch.cat([*architect._compute_unrolled_model(X, Y, 0.05, optimizer).parameters()]).detach()
    assert_within("gradient", model.alpha.grad, ahead**2 * Y[0], ahead**2 * Y[0])


def batches(count: int = 2) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        yield torch.randn(4, 3, 6, 6, generator=generator), torch.randint(4, (4,), generator=generator)


@pytest.mark.parametrize("module", [darts, pcdarts])
def test_the_parts_on_the_search_networks(module) -> None:
    """The unrolled model is a step of torch's SGD; a subclass that only looks on changes no gradient."""
    torch.manual_seed(0)
    with use_backend("reference"):
        model = module.Network(4, 4, 3, nn.CrossEntropyLoss()).double()
        train, valid = ((x.double(), y) for x, y in batches())
        decay = {"momentum": ARGS.momentum, "weight_decay": ARGS.weight_decay}
        optimizer = torch.optim.SGD(model.parameters(), 0.025, **decay)
        model._loss(*train).backward()
        optimizer.step()
        optimizer.zero_grad()
        ahead = copy.deepcopy(model)
        stepped = torch.optim.SGD(ahead.parameters(), 0.025, **decay)
        stepped.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        ahead._loss(*train).backward()
        stepped.step()
        unrolled = module.Architect(copy.deepcopy(model), ARGS)
        other = torch.optim.SGD(unrolled.model.parameters(), 0.025, **decay)
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        found = unrolled._compute_unrolled_model(*train, 0.025, other)
        for name, value in ahead.state_dict().items():
            if value.is_floating_point():
                assert_within(name, found.state_dict()[name], value, value)

        class Watching(module.Architect):
            def _construct_model_from_theta(self, theta: Tensor) -> nn.Module:
                return super()._construct_model_from_theta(theta)

        gradients = []
        for kind in (module.Architect, Watching):
            one = copy.deepcopy(model)
            other = torch.optim.SGD(one.parameters(), 0.025, **decay)
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            kind(one, ARGS)._backward_step_unrolled(*train, *valid, 0.025, other)
            gradients.append(torch.cat([alpha.grad.flatten() for alpha in one.arch_parameters()]))
            counted = {int(v) for k, v in one.state_dict().items() if k.endswith("num_batches_tracked")}
            # The step before, the training pass and two more at w +- R v; validation on a copy.
            assert counted == {4}
    assert_within("gradient", gradients[1], gradients[0], gradients[0], terms=1e4)


@pytest.mark.parametrize("module", [darts, pcdarts])
def test_alphas_may_be_parameters(module) -> None:
    """As many forks have them: then `parameters()` names them too, and they are alphas all the same."""

    class Network(module.Network):
        def _initialize_alphas(self) -> None:
            super()._initialize_alphas()
            for name, alpha in [(name, value) for name, value in vars(self).items() if name.startswith(("al", "be"))]:
                setattr(self, name, nn.Parameter(alpha.detach()))
            own = ("alphas_normal", "alphas_reduce", "betas_normal", "betas_reduce")
            self._arch_parameters = [getattr(self, name) for name in own if hasattr(self, name)]

    gradients = []
    for kind in (module.Network, Network):
        torch.manual_seed(0)
        model = kind(4, 4, 3, nn.CrossEntropyLoss())
        alphas = {id(alpha) for alpha in model.arch_parameters()}
        optimizer = torch.optim.SGD([p for p in model.parameters() if id(p) not in alphas], 0.1, momentum=0.9)
        (train, valid) = batches()
        for unrolled in (False, True):
            module.Architect(model, ARGS).step(*train, *valid, 0.1, optimizer, unrolled=unrolled)
            gradients.append(torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()]))
    assert torch.equal(gradients[0], gradients[2]) and torch.equal(gradients[1], gradients[3])
    assert isinstance(model.alphas_normal, nn.Parameter) and "alphas_normal" in model.state_dict()
    assert torch.equal(model.new().alphas_normal, model.alphas_normal)
    before = model.alphas_normal.detach().clone()
    assert torch.equal(model.double().alphas_normal, before.double()) and model.genotype()


def test_frozen_weights_leave_the_first_order_gradient() -> None:
    (train, valid) = batches()
    gradients = []
    for frozen in (False, True):
        torch.manual_seed(0)
        model = darts.Network(2, 4, 2, nn.CrossEntropyLoss())
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        model.requires_grad_(not frozen)
        for unrolled in (False, True) if frozen else (False,):
            architect = darts.Architect(model, ARGS)
            architect.optimizer.param_groups[0]["lr"] = 0.0
            architect.step(*train, *valid, 0.1, optimizer, unrolled=unrolled)
            gradients.append(torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()]))
    for gradient in gradients[1:]:
        assert_within("gradient", gradient, gradients[0], gradients[0].double(), terms=100.0)


def test_a_wrapped_model_is_refused_with_the_remedy() -> None:
    model = darts.Network(2, 4, 1, nn.CrossEntropyLoss())
    with pytest.raises(
        TypeError, match=r"model is a DataParallel without arch_parameters.*of a wrapped one model\.module"
    ):
        darts.Architect(nn.DataParallel(model), ARGS)


RANKS, STEPS = 2, 2


def search(rank: int, unrolled: bool, seed: int) -> darts.Network:
    """A search of a few steps on this rank's own batches, from its own alphas."""
    torch.manual_seed(seed)
    model = darts.Network(2, 4, 2, nn.CrossEntropyLoss())
    wrapped = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    architect = darts.Architect(model, ARGS)
    architect.optimizer.param_groups[0]["lr"] = 0.05
    found = list(batches(2 * RANKS * STEPS))[rank::RANKS]
    for train, valid in zip(found[::2], found[1::2], strict=True):
        architect.step(*train, *valid, 0.1, optimizer, unrolled=unrolled)
        optimizer.zero_grad()
        nn.functional.cross_entropy(wrapped(train[0]), train[1]).backward()
        optimizer.step()
    return model


def gradient(rank: int, kind: type[darts.Architect]) -> list[Tensor]:
    """The alphas' gradient of one step on this rank's batch; every rank begins alike."""
    torch.manual_seed(0)
    model = darts.Network(2, 4, 2, nn.CrossEntropyLoss())
    batch = list(batches(RANKS))[rank]
    kind(model, ARGS).step(*batch, *batch, 0.1, torch.optim.SGD(model.parameters(), 0.1), unrolled=False)
    return [alpha.grad for alpha in model.arch_parameters()]


class Alone(darts.Architect):
    average_over_ranks = False


def on_a_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    result: dict[str, object] = {}
    for unrolled in (False, True):
        # Ranks begin with other alphas: nothing but the architect brings them together.
        model = search(rank, unrolled, seed=rank)
        result[f"alphas {unrolled}"] = [alpha.detach() for alpha in model.arch_parameters()]
        result[f"genotype {unrolled}"] = str(model.genotype())
        result[f"weights {unrolled}"] = [weight.detach() for weight in model.parameters()]
    result["together"], result["alone"] = gradient(rank, darts.Architect), gradient(rank, Alone)
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_ranks_of_a_data_parallel_search_agree_on_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    multiprocessing.spawn(on_a_rank, (str(tmp_path),), nprocs=RANKS)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]
    one, two = ranks
    for unrolled in (False, True):
        for name in ("alphas", "weights"):
            assert all(map(torch.equal, one[f"{name} {unrolled}"], two[f"{name} {unrolled}"]))
        assert one[f"genotype {unrolled}"] == two[f"genotype {unrolled}"]
    # Of two layers both reduce: only their alphas have a gradient.
    assert not torch.equal(one["alphas False"][1], one["alphas True"][1])
    assert not torch.equal(one["alone"][1], two["alone"][1])
    for index, found in enumerate(one["together"]):
        mean = sum(rank["alone"][index].double() for rank in ranks) / RANKS
        assert torch.equal(found, two["together"][index])
        assert_within(f"gradient {index}", found, mean.float(), mean, terms=100.0)
