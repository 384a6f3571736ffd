"""All that regularises a supernet at once: what draws, one set of masks for one gradient, and going on bit for bit."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_nn_search_regularisation import SEED, TINY, untouched
from tiny import config
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts import current_backend, use_backend
from fastdarts.hypergradient import hypergradient
from fastdarts.nn import Supernet
from fastdarts.search.choices import Softmax
from fastdarts.search.graph import obstacle
from fastdarts.search.step import SearchStep
from fastdarts.spaces import space


@pytest.fixture(autouse=True, params=["reference", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in plain torch and, where the native core is there, on the fused engine."""
    with use_backend(request.param):
        yield


def everything() -> Supernet:
    net = Supernet(
        TINY, channels=4, classes=3, partial=2, auxiliary=True, dropout=0.2, skip_dropout=0.2, channel_sampling=True
    )
    net.drop_path_prob = 0.2
    return net


def test_draws_says_what_draws() -> None:
    assert not Supernet(TINY, channels=4, auxiliary=True).draws
    assert Supernet(space("s4"), channels=2, layers=1).draws, "noise"
    assert Supernet(TINY, channels=4, dropout=0.1).draws
    assert Supernet(TINY, channels=4, skip_dropout=0.1).draws
    assert Supernet(TINY, channels=4, partial=2, channel_sampling=True).draws
    net = Supernet(TINY, channels=4)
    net.drop_path_prob = 0.1
    assert net.draws
    net.drop_path_prob = 0.0
    torch.manual_seed(SEED)
    net(torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    assert untouched() and not net.draws


def test_one_seed_is_one_network_on_every_backend() -> None:
    """In float64, so that nothing but another mask could show."""
    net, x = everything().double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    logits = []
    for backend in (current_backend(), "reference"):
        torch.manual_seed(SEED)
        with use_backend(backend):
            logits.append(torch.cat([net(x), net.auxiliary_logits], 1).detach())
    assert_within("logits", *(each.float() for each in logits), logits[1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize("drop_path", [0.0, 0.2], ids=str)
def test_all_but_the_dropout_of_skips_compiles_whole(drop_path: float) -> None:
    torch._dynamo.reset()
    net = Supernet(TINY, channels=4, layers=1, partial=2, auxiliary=True, dropout=0.2, channel_sampling=True)
    net.drop_path_prob = drop_path
    x, found = torch.randn(2, 3, 8, 8), []
    for call in (net, torch.compile(net, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(SEED)
        y = torch.cat([call(x), net.auxiliary_logits], 1)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), list(net.parameters()), allow_unused=True)])
    for eager, compiled in zip(*found, strict=True):
        assert (eager is None) == (compiled is None)
        if eager is not None:
            assert_within("compiled", compiled, eager, eager.double(), terms=8 * float(eager.abs().max()))


@pytest.mark.parametrize("kind", ["second", "amended", "second-exact"])
def test_every_evaluation_of_a_loss_sees_one_set_of_masks(kind: str) -> None:
    """Finite differences of two networks would be of the size of the gradient itself."""
    net = everything()
    (x, y), (x_val, y_val) = ((torch.randn(8, 3, 6, 6), torch.arange(8) % 3) for _ in range(2))
    seen: dict[str, set[bytes]] = {"train": set(), "val": set()}
    evaluations: Counter[str] = Counter()

    def loss(level: str, images: Tensor, labels: Tensor) -> Tensor:
        before = torch.get_rng_state().numpy().tobytes()
        with use_backend("reference" if kind.endswith("exact") else current_backend()):
            value = nn.functional.cross_entropy(net(images), labels)
        seen[level].add(before + torch.get_rng_state().numpy().tobytes())
        evaluations.update([level])
        return value + 0.4 * nn.functional.cross_entropy(net.auxiliary_logits, labels)

    def measured() -> tuple[Tensor, ...]:
        torch.manual_seed(SEED)
        return hypergradient(
            kind,
            loss_train=lambda: loss("train", x, y),
            loss_val=lambda: loss("val", x_val, y_val),
            weights=net.weight_parameters(),
            alphas=net.arch_parameters(),
            lr=0.01,
        )

    first = measured()
    assert evaluations["train"] > 1 and {level: len(masks) for level, masks in seen.items()} == {"train": 1, "val": 1}
    assert all(gradient.isfinite().all() and gradient.any() for gradient in first)
    assert all(torch.equal(*pair) for pair in zip(first, measured(), strict=True))


def test_a_restored_network_goes_on_bit_for_bit() -> None:
    def trained(net: Supernet, steps: int) -> list[Tensor]:
        losses = []
        optimizer = torch.optim.SGD(net.weight_parameters(), 0.05)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(net(x), y) + nn.functional.cross_entropy(net.auxiliary_logits, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return losses

    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    net = everything()
    trained(net, 2)
    state, generator = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    expected = trained(net, 2)
    other = everything()
    other.load_state_dict(state)
    torch.set_rng_state(generator)
    assert all(torch.equal(*pair) for pair in zip(expected, trained(other, 2), strict=True))
    assert all(torch.equal(*pair) for pair in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_one_path_runs_alone_under_all_of_it() -> None:
    net = everything()
    path = {key: tuple((3,) for _ in net.space.cell(key, net.layers).edges) for key in net.arch.alphas}
    before = copy.deepcopy(net.state_dict())
    net(torch.randn(4, 3, 8, 8), active=path).sum().backward()
    moved = {key for key, value in net.state_dict().items() if "_ops" in key and not torch.equal(value, before[key])}
    assert moved and all("._ops.3." in key.partition("_ops.")[2] for key in moved)


@pytest.mark.parametrize("given", [{"drop_path": 0.2, "ramp": True}, {"dropout": 0.1}, {"partial": 2}], ids=str)
def test_no_graph_for_finite_differences_that_draw(given: dict[str, Any]) -> None:
    """Also not where the first epoch draws nothing yet."""
    second = config("darts-second", channels=4, channel_sampling="partial" in given, **given)
    layers = {"partial": second.partial, "dropout": second.dropout, "channel_sampling": second.channel_sampling}
    net = Supernet(TINY, channels=4, **layers)
    assert "with the same random numbers" in obstacle(SearchStep(net, second, Softmax()))
    assert not obstacle(SearchStep(net, config("darts-first", channels=4), Softmax()))
