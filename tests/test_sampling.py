"""Relaxations by chance: gradients by hand, frequencies and schedules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.search.choices import Mixing, Relaxation
from fastdarts.search.gates import BinaryGates
from fastdarts.search.relaxation import epoch_of
from fastdarts.search.sampling import (
    Concrete,
    GumbelPath,
    RandomArchitecture,
    UniformPath,
)
from fastdarts.search.step import SearchStep
from fastdarts.spaces import define_space, random_genotype
from tests import tiny
from tests.sampled import RELAXATIONS, batch, supernet
from tests.unequal import SPACE as UNEQUAL

TAU = 3.0
# Without `none`: a node of zeros alone would stand on the kink of the next ReLU, where differences are no derivative.
SMOOTH = define_space("smooth", ("avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"), nodes=2, layers=3)


def _loss(model: Supernet, mixing: Mapping[str, Any]) -> Tensor:
    images, labels = batch(model.arch.alphas["normal"].dtype)
    with use_backend("reference"):
        return F.cross_entropy(model(images, **mixing), labels)


def _slope(model: Supernet, mixing: Mixing, key: str, edge: int, column: int) -> float:
    """dL/dw of one mixing weight by central differences, without any graph: <dL/dy, o(x)>."""
    losses = []
    for step in (1e-5, -1e-5):
        moved = {name: weights.detach().clone() for name, weights in mixing["weights"].items()}
        moved[key][edge, column] += step
        with torch.no_grad():
            losses.append(float(_loss(model, {**mixing, "weights": moved})))
    return (losses[0] - losses[1]) / 2e-5


def _softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def _within(counts: Mapping[Any, int], chances: Mapping[Any, float]) -> None:
    """Every count within 5 standard deviations of its expectation, and nothing that has no chance."""
    draws = sum(counts.values())
    assert set(counts) <= {each for each, chance in chances.items() if chance > 0.0}
    for each, chance in chances.items():
        assert abs(counts.get(each, 0) - draws * chance) <= 5 * math.sqrt(draws * chance * (1 - chance)) + 1e-9, each


# Gradients.


def test_gdas_gradient_is_that_of_the_drawn_operator_through_the_softmax() -> None:
    """dL/dalpha_j = dL/dw_i p_i (delta_ij - p_j) / t, every factor computed apart."""
    model = supernet(SMOOTH)
    torch.manual_seed(1)
    mixing = GumbelPath(TAU, TAU, 1)(model, 0.0)
    gradients = torch.autograd.grad(_loss(model, mixing), [model.arch.alphas[key] for key in ("normal", "reduce")])
    torch.manual_seed(1)
    for key, gradient in zip(("normal", "reduce"), gradients, strict=True):
        alphas = model.arch.alphas[key].detach()
        noise = -torch.empty_like(alphas).exponential_().log()
        for e, (i,) in enumerate(mixing["active"][key]):
            p = _softmax(((alphas[e] + noise[e]) / TAU).tolist())
            assert p[i] == max(p)
            slope = _slope(model, mixing, key, e, i)
            expected = [slope * p[i] * ((i == j) - p[j]) / TAU for j in range(len(p))]
            assert gradient[e].tolist() == pytest.approx(expected, abs=1e-9)
    assert gradients[0].abs().max() > 1e-5


def test_snas_gradient_is_the_softmaxs_over_all_operators() -> None:
    """dL/dalpha_j = sum_k dL/dw_k w_k (delta_kj - w_j) / t."""
    model = supernet(SMOOTH)
    mixing = Concrete(TAU, TAU, 1)(model, 0.0)
    (gradient,) = torch.autograd.grad(_loss(model, mixing), [model.arch.alphas["reduce"]])
    for e, weights in enumerate(mixing["weights"]["reduce"].tolist()):
        slopes = [_slope(model, mixing, "reduce", e, k) for k in range(4)]
        expected = [sum(slopes[k] * weights[k] * ((k == j) - weights[j]) / TAU for k in range(4)) for j in range(4)]
        assert gradient[e].tolist() == pytest.approx(expected, abs=1e-9)
    assert gradient.abs().max() > 1e-5


def test_proxyless_gradient_is_equation_4_over_two_gates() -> None:
    model = supernet(SMOOTH)
    mixing = BinaryGates()(model, 0.0)
    (gradient,) = torch.autograd.grad(_loss(model, mixing), [model.arch.alphas["normal"]])
    alphas = model.arch.alphas["normal"].detach()
    for e, pair in enumerate(mixing["active"]["normal"]):
        assert len(set(pair)) == 2
        gates = mixing["weights"]["normal"][e].tolist()
        assert sorted(gates) == [0.0, 0.0, 0.0, 1.0]
        assert gates.index(1.0) in pair
        q = dict(zip(pair, _softmax(alphas[e, list(pair)].tolist()), strict=True))
        slopes = {j: _slope(model, mixing, "normal", e, j) for j in pair}
        for i in range(4):
            expected = sum(slopes[j] * q[j] * ((i == j) - q[i]) for j in pair) if i in pair else 0.0
            assert gradient[e, i].item() == pytest.approx(expected, abs=1e-9)
    assert gradient.abs().max() > 1e-5


@pytest.mark.parametrize("name", RELAXATIONS)
def test_the_engines_draw_and_learn_alike(name: str) -> None:
    """One seed gives one draw on both, and the alphas' gradients agree to float32 rounding."""
    found = []
    for backend in ("reference", "auto"):
        model = supernet().float()
        torch.manual_seed(3)
        mixing = RELAXATIONS[name](model, 0.5)
        images, labels = batch(torch.float32)
        with use_backend(backend):
            loss = F.cross_entropy(model(images, **mixing), labels)
        found.append((mixing.get("active"), torch.autograd.grad(loss, model.arch_parameters())))
    assert found[0][0] == found[1][0]
    for ours, plain in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-6)


# Frequencies.


def test_gdas_draws_with_the_softmaxs_probabilities_at_any_temperature() -> None:
    model = supernet()
    for tau in (10.0, 0.1):
        torch.manual_seed(0)
        drawn = [GumbelPath(tau, tau, 1)(model, 0.0)["active"]["normal"] for _ in range(700)]
        for e in range(5):
            p = _softmax(model.arch.alphas["normal"][e].tolist())
            _within(Counter(each[e][0] for each in drawn), dict(enumerate(p)))


def test_snas_has_its_largest_weight_with_the_softmaxs_probabilities() -> None:
    model = supernet()
    drawn = [Concrete(0.5, 0.5, 1)(model, 0.0)["weights"]["normal"] for _ in range(700)]
    for weights in drawn[:3]:
        torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))
    p = _softmax(model.arch.alphas["normal"][2].tolist())
    _within(Counter(int(each[2].argmax()) for each in drawn), dict(enumerate(p)))


def test_proxyless_draws_one_path_for_the_weights_and_two_for_the_alphas() -> None:
    model, relaxation = supernet(), BinaryGates()
    p = _softmax(model.arch.alphas["normal"][0].tolist())
    with torch.no_grad():
        single = [relaxation(model, 0.0) for _ in range(700)]
    assert all(len(each["active"]["normal"][0]) == 1 for each in single)
    assert all(each["weights"]["normal"][0][each["active"]["normal"][0][0]] == 1.0 for each in single)
    _within(Counter(each["active"]["normal"][0][0] for each in single), dict(enumerate(p)))
    double = [relaxation(model, 0.0) for _ in range(700)]
    # Without putting the first back, in either order.
    pairs = {(i, j): p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) for i in range(4) for j in range(i + 1, 4)}
    assert sum(pairs.values()) == pytest.approx(1.0)
    _within(Counter(each["active"]["normal"][0] for each in double), pairs)
    likeliest = max(pairs, key=pairs.__getitem__)
    gates = Counter(
        int(each["weights"]["normal"][0].argmax()) for each in double if each["active"]["normal"][0] == likeliest
    )
    q = _softmax([math.log(p[i]) for i in likeliest])
    _within(gates, dict(zip(likeliest, q, strict=True)))


def test_which_of_the_two_is_the_gate_does_not_depend_on_which_came_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of two draws is not one of the pair with its probabilities, but nearly: what is drawn is given here."""

    def noise(like: Tensor) -> Tensor:
        # Columns 0 and 1, in this order; then the second of them.
        row = [200.0, 100.0, 0.0, 0.0] if like.shape[1] == 4 else [0.0, 1000.0]
        return torch.tensor(row, dtype=like.dtype).expand_as(like)

    monkeypatch.setattr("fastdarts.search.gates.noise", noise)
    mixing = BinaryGates()(supernet(), 0.0)
    assert set(mixing["active"]["normal"]) == {(0, 1)}
    assert torch.equal(mixing["weights"]["normal"].detach()[0].float(), torch.tensor([0.0, 1.0, 0.0, 0.0]))


@pytest.mark.parametrize("relaxation", [UniformPath(), RandomArchitecture(1, 2000)], ids=["a-pass", "an-epoch"])
def test_random_search_draws_every_architecture_equally_often(relaxation: Relaxation) -> None:
    edges = {(0, 2): ("skip_connect", "sep_conv_3x3", "none"), (1, 2): ("max_pool_3x3",), (0, 3): ("skip_connect",)}
    space = define_space("few", edges | {(1, 3): ("avg_pool_3x3",), (2, 3): ("dil_conv_3x3",)}, layers=3, keep=1)
    assert space.size() == 81
    model = supernet(space)
    torch.manual_seed(0)
    drawn = Counter(tuple(relaxation(model, epoch / 2000)["active"].items()) for epoch in range(2000))
    architectures = {random_genotype(space, seed) for seed in range(1200)}
    assert len(architectures) == 81
    _within(drawn, {tuple(model.one_path(each).items()): 1 / 81 for each in architectures})


@pytest.mark.parametrize("name", RELAXATIONS)
def test_edges_with_fewer_candidates_draw_none_beyond_them(name: str) -> None:
    model, relaxation = supernet(UNEQUAL), RELAXATIONS[name]
    counts = UNEQUAL.normal.counts
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            for _ in range(30):
                mixing = relaxation(model, 0.9)
                for e, count in enumerate(counts):
                    assert torch.all(mixing["weights"]["normal"][e, count:] == 0.0)
                    if "active" in mixing:
                        assert max(mixing["active"]["normal"][e]) < count
                        assert len(mixing["active"]["normal"][e]) == (min(2, count) if name == "gates" and grad else 1)
    config = tiny.config("proxyless" if name == "gates" else name, arch_start_epoch=0)
    step = SearchStep(model, config, relaxation)
    for _ in range(3):
        step(batch(), batch(), 0.0)
    for alphas in model.arch.alphas.values():
        assert alphas.isfinite().all()
        assert all(torch.all(alphas[e, count:] == 0.0) for e, count in enumerate(counts))


# Schedules.


def test_temperatures_fall_as_published() -> None:
    gdas, snas = GumbelPath(10.0, 0.1, 250), Concrete(1.0, 0.03, 150)
    for epoch in (0, 1, 100, 249):
        for position in (0, 7, 96):
            behind = (epoch * 97 + position) / (250 * 97)
            expected = 10.0 - 9.9 * epoch / 249
            assert gdas.temperature(behind) == pytest.approx(expected, rel=1e-12)
            assert float(gdas.temperature(torch.tensor(behind, dtype=torch.float64))) == gdas.temperature(behind)
    assert gdas.temperature(249 / 250) == pytest.approx(0.1)
    earlier = Concrete(1.0, 0.03, 150, ends=False)
    for epoch in (0, 75, 149):
        # SNAS-Series' Temp_Scheduler counts before it computes: the last epoch has the smallest.
        expected = (1 - (epoch + 1) / 150) * 0.97 + 0.03
        assert snas.temperature(epoch / 150) == pytest.approx(expected, rel=1e-12)
        assert earlier.temperature((epoch + 1) / 150) == pytest.approx(expected, rel=1e-12)
    assert snas.temperature(149 / 150) == pytest.approx(0.03)
    assert GumbelPath(10.0, 0.1, 1).temperature(0.0) == 10.0


def test_the_epoch_of_a_share_is_exact_at_every_step() -> None:
    for epochs, steps in ((10, 7), (50, 390), (3, 1)):
        found = [epoch_of(number / (epochs * steps), epochs) for number in range(epochs * steps)]
        assert found == [number // steps for number in range(epochs * steps)]
