"""From alphas to mixing weights without a supernet's help: the formulas, and the joint softmax in a supernet."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search import configure
from fastdarts.search.choices import Softmax, StrongestEdges
from fastdarts.search.graph import obstacle
from fastdarts.search.methods import compose
from fastdarts.search.relaxation import BetaDecay, JointSoftmax, present
from fastdarts.search.step import SearchStep
from fastdarts.spaces import Space, define_space
from tests import tiny
from tests.unequal import SPACE as UNEQUAL

# Five edges into two nodes, of three, one and two candidates.
PRESENT = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool)
COUNTS = (2, 3)


def _alphas(seed: int = 0) -> Tensor:
    drawn = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.masked_fill(~PRESENT, 0.0).requires_grad_()


def _noise() -> Tensor:
    return reference.gumbel(torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(9)))


PAIR = torch.tensor([[0, 2], [0, 1], [1, 0], [2, 1], [0, 1]])
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "joint_softmax": lambda alphas: reference.joint_softmax(alphas, COUNTS, PRESENT),
    "concrete": lambda alphas: reference.concrete(alphas, _noise(), 0.7, PRESENT),
    "paired": lambda alphas: reference.paired(alphas, PAIR, PRESENT),
}


@pytest.mark.parametrize("name", FORMS)
def test_derivatives_are_right_twice_and_nothing_beyond_the_candidates(name: str) -> None:
    alphas = _alphas()
    assert gradcheck(FORMS[name], (alphas,))
    assert gradgradcheck(FORMS[name], (alphas,))
    weights = FORMS[name](alphas)
    assert torch.all(weights[~PRESENT] == 0.0)
    (gradient,) = torch.autograd.grad((weights * torch.randn(5, 3, dtype=torch.float64)).sum(), alphas)
    assert torch.all(gradient[~PRESENT] == 0.0)


def test_the_joint_softmax_shares_out_a_node() -> None:
    alphas = _alphas().detach()
    weights = FORMS["joint_softmax"](alphas)
    for node in ((0, 1), (2, 3, 4)):
        places = [(e, k) for e in node for k in range(3) if PRESENT[e, k]]
        total = sum(math.exp(alphas[place]) for place in places)
        for place in places:
            assert weights[place].item() == pytest.approx(math.exp(alphas[place]) / total, rel=1e-14)


def test_the_concrete_draw_is_the_papers_formula() -> None:
    """With the log of the softmax, as it is printed, instead of the alphas themselves."""
    alphas, noise = _alphas().detach(), _noise()
    printed = (torch.log(reference.mixing_weights(alphas, PRESENT)) + noise) / 0.7
    for e in range(5):
        there = [k for k in range(3) if PRESENT[e, k]]
        total = sum(math.exp(printed[e, k]) for k in there)
        for k in there:
            got = FORMS["concrete"](alphas)[e, k].item()
            assert got == pytest.approx(math.exp(printed[e, k]) / total, rel=1e-13)


def test_a_low_temperature_overflows_nothing() -> None:
    alphas = torch.tensor([[80.0, -80.0, 0.0]])
    weights = reference.concrete(alphas, reference.gumbel(torch.zeros(1, 3)), 1e-3)
    assert torch.equal(weights, torch.tensor([[1.0, 0.0, 0.0]]))


def test_gumbel_noise_is_finite_where_the_exponential_is_zero() -> None:
    drawn = torch.tensor([0.0, 1.0, math.e, 1e-30])
    noise = reference.gumbel(drawn)
    assert noise.isfinite().all()
    torch.testing.assert_close(noise[1:], torch.tensor([0.0, -1.0, 30 * math.log(10)]))
    assert noise[0] > noise[3]


def test_straight_through_is_one_or_zero_exactly_and_backward_the_soft_weights() -> None:
    soft = torch.rand(200, 7).softmax(-1).requires_grad_()
    index = torch.arange(200) % 7
    hard = reference.straight_through(soft, index)
    assert torch.equal(hard, torch.nn.functional.one_hot(index, 7).float())
    factors = torch.randn(200, 7)
    assert torch.equal(torch.autograd.grad((hard * factors).sum(), soft)[0], factors)


def test_paired_forgets_the_others() -> None:
    alphas = _alphas().detach()
    got = FORMS["paired"](alphas)
    assert got[0, 1] == 0.0
    assert got[0, 0].item() == pytest.approx(1 / (1 + math.exp(alphas[0, 2] - alphas[0, 0])), rel=1e-14)
    # Where an edge has one candidate, the other of the pair is none.
    assert torch.equal(got[1], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64))


def test_present_tells_candidates_from_padding() -> None:
    assert present(Supernet(tiny.SPACE, channels=4, layers=3), "normal") is None
    model = Supernet(UNEQUAL, channels=4, layers=3)
    found = present(model, "normal")
    assert torch.equal(found, torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], dtype=torch.bool))


def test_edges_of_a_node_compete_under_the_joint_softmax_only() -> None:
    """Two edges with large alphas that agree, two with small ones that do not: DARTS keeps the latter."""
    space = define_space("race", ("skip_connect", "sep_conv_3x3"), nodes=2, layers=3)
    model = Supernet(space, channels=4, layers=3)
    with torch.no_grad():
        for alphas in model.arch.alphas.values():
            alphas.copy_(torch.tensor([[0.0, 0.0], [0.0, 0.0], [5.0, 5.1], [5.2, 5.0], [0.0, 2.0]]))
    joint, softmax = JointSoftmax().still(model), Softmax().still(model)
    kept = [
        [source for _, source in StrongestEdges()(space, mixing, 3).cell("normal").nodes[1]]
        for mixing in (joint, softmax)
    ]
    assert kept == [[1, 0], [2, 1]]
    assert torch.equal(JointSoftmax()(model, 0.3)["weights"]["normal"], joint["weights"]["normal"])
    assert joint["edge_weights"] is None


def test_the_joint_softmax_in_a_supernet_is_the_formula() -> None:
    model = Supernet(UNEQUAL, channels=4, layers=3, alpha_scale=1.0).double()
    weights = JointSoftmax().still(model)["weights"]["reduce"]
    expected = reference.joint_softmax(model.arch.alphas["reduce"], (2, 3), PRESENT)
    assert torch.equal(weights, expected)
    torch.testing.assert_close(torch.stack([weights[:2].sum(), weights[2:].sum()]), torch.ones(2, dtype=torch.float64))


def test_i_darts_is_composed_and_refuses_edge_weights() -> None:
    config = configure("i-darts", data="cifar10")
    choices = compose(config)
    assert isinstance(choices.relaxation, JointSoftmax)
    assert (config.hypergradient, config.arch_lr) == ("first", 3e-4)
    assert obstacle(SearchStep(Supernet(tiny.SPACE, channels=4, layers=3), config, choices.relaxation)) == ""
    with pytest.raises(UserError, match="edge_normalisation with i-darts"):
        compose(configure("i-darts", data="cifar10", edge_normalisation=True))


@pytest.mark.parametrize("space", [tiny.SPACE, UNEQUAL], ids=["tiny", "unequal"])
def test_beta_decay_by_hand(space: Space) -> None:
    model = Supernet(space, channels=4, layers=3, alpha_scale=1.0).double()
    relaxation = BetaDecay(50.0, 10)
    for epoch in range(10):
        for behind in (0.0, 0.7):
            value = relaxation.penalty(model, (epoch + behind) / 10)
            rows, slopes = [], {}
            for key, alphas in model.arch.alphas.items():
                counts = space.cell(key, 3).counts
                rows += [
                    math.log(sum(math.exp(alpha) for alpha in row[:count]))
                    for row, count in zip(alphas.tolist(), counts, strict=True)
                ]
                slopes[key] = model.mixing_weights()[key].detach()
            assert value.item() == pytest.approx(5.0 * epoch * sum(rows) / len(rows), rel=1e-12)
            gradients = torch.autograd.grad(value, model.arch_parameters())
            for gradient, slope in zip(gradients, slopes.values(), strict=True):
                torch.testing.assert_close(gradient, 5.0 * epoch / len(rows) * slope, rtol=1e-12, atol=1e-14)
    assert relaxation.penalty(model, torch.tensor(0.35, dtype=torch.float64)) == relaxation.penalty(model, 0.35)


def test_beta_decay_is_part_of_what_the_alphas_descend_and_of_nothing_else() -> None:
    """Its gradient is added to that of the validation loss, in the first and the second order."""
    for kind in ("first", "second"):
        models, found = [], []
        for relaxation in (Softmax(), BetaDecay(50.0, 10)):
            torch.manual_seed(3)
            model = Supernet(tiny.SPACE, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=1.0).double()
            config = configure("darts-first", data="custom", hypergradient=kind)
            step = SearchStep(model, config, relaxation)
            images = torch.randn(6, 1, 8, 8, dtype=torch.float64)
            batch, seen = (images, torch.arange(6) % 3), dict[str, Tensor]()
            found.append(step._hypergradient(step._losses(batch, batch, 0.5, seen)))
            models.append((model, seen["loss"]))
        assert models[0][1] == models[1][1], "the loss that is recorded is the validation's alone"
        added = torch.autograd.grad(BetaDecay(50.0, 10).penalty(models[1][0], 0.5), models[1][0].arch_parameters())
        for plain, decayed, slope in zip(*found, added, strict=True):
            torch.testing.assert_close(decayed, plain + slope, rtol=1e-9, atol=1e-9)


def test_beta_darts_is_composed() -> None:
    config = configure("beta-darts", data="cifar10")
    assert (config.epochs, config.arch_lr, config.options) == (50, 3e-4, {"beta_decay": 50.0})
    assert isinstance(compose(config).relaxation, BetaDecay)
    with pytest.raises(UserError, match="beta_decay is 0"):
        compose(configure("beta-darts", data="cifar10", beta_decay=0.0))
