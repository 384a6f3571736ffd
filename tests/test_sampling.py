"""Relaxations by chance: gradients by hand, frequencies, what runs and what it costs, and what a graph may hold."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fastdarts import reference, use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.runs import RunFolder
from fastdarts.search import configure, search
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Mixing, Relaxation, Softmax, StrongestEdges
from fastdarts.search.graph import obstacle
from fastdarts.search.methods import compose
from fastdarts.search.sampling import (
    BinaryGates,
    Concrete,
    GumbelPath,
    RandomArchitecture,
    UniformPath,
    epoch_of,
    path,
)
from fastdarts.search.step import SearchStep
from fastdarts.spaces import define_space, random_genotype
from tests import tiny
from tests.graph_emulator import nothing_asked
from tests.unequal import SPACE as UNEQUAL

SAMPLED: dict[str, Relaxation] = {
    "gdas": GumbelPath(10.0, 0.1, 5),
    "snas": Concrete(1.0, 0.03, 5),
    "gates": BinaryGates(),
}
TAU = 3.0
# Without `none`: a node of zeros alone would stand on the kink of the next ReLU, where differences are no derivative.
SMOOTH = define_space("smooth", ("avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"), nodes=2, layers=3)


def _model(space: Any = tiny.SPACE, *, scale: float = 1.0, seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(space, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=scale).double()


def _batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(6, 1, 8, 8, generator=generator, dtype=dtype), torch.arange(6) % 3


def _loss(model: Supernet, mixing: Mapping[str, Any]) -> Tensor:
    images, labels = _batch(model.arch.alphas["normal"].dtype)
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
    model = _model(SMOOTH)
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
    model = _model(SMOOTH)
    mixing = Concrete(TAU, TAU, 1)(model, 0.0)
    (gradient,) = torch.autograd.grad(_loss(model, mixing), [model.arch.alphas["reduce"]])
    for e, weights in enumerate(mixing["weights"]["reduce"].tolist()):
        slopes = [_slope(model, mixing, "reduce", e, k) for k in range(4)]
        expected = [sum(slopes[k] * weights[k] * ((k == j) - weights[j]) / TAU for k in range(4)) for j in range(4)]
        assert gradient[e].tolist() == pytest.approx(expected, abs=1e-9)
    assert gradient.abs().max() > 1e-5


def test_proxyless_gradient_is_equation_4_over_two_gates() -> None:
    model = _model(SMOOTH)
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


@pytest.mark.parametrize("name", SAMPLED)
def test_the_engines_draw_and_learn_alike(name: str) -> None:
    """One seed gives one draw on both, and the alphas' gradients agree to float32 rounding."""
    found = []
    for backend in ("reference", "auto"):
        model = _model().float()
        torch.manual_seed(3)
        mixing = SAMPLED[name](model, 0.5)
        images, labels = _batch(torch.float32)
        with use_backend(backend):
            loss = F.cross_entropy(model(images, **mixing), labels)
        found.append((mixing.get("active"), torch.autograd.grad(loss, model.arch_parameters())))
    assert found[0][0] == found[1][0]
    for ours, plain in zip(found[1][1], found[0][1], strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-6)


# Frequencies.


def test_gdas_draws_with_the_softmaxs_probabilities_at_any_temperature() -> None:
    model = _model()
    for tau in (10.0, 0.1):
        torch.manual_seed(0)
        drawn = [GumbelPath(tau, tau, 1)(model, 0.0)["active"]["normal"] for _ in range(700)]
        for e in range(5):
            p = _softmax(model.arch.alphas["normal"][e].tolist())
            _within(Counter(each[e][0] for each in drawn), dict(enumerate(p)))


def test_snas_has_its_largest_weight_with_the_softmaxs_probabilities() -> None:
    model = _model()
    drawn = [Concrete(0.5, 0.5, 1)(model, 0.0)["weights"]["normal"] for _ in range(700)]
    for weights in drawn[:3]:
        torch.testing.assert_close(weights.sum(1), torch.ones(5, dtype=torch.float64))
    p = _softmax(model.arch.alphas["normal"][2].tolist())
    _within(Counter(int(each[2].argmax()) for each in drawn), dict(enumerate(p)))


def test_proxyless_draws_one_path_for_the_weights_and_two_for_the_alphas() -> None:
    model, relaxation = _model(), BinaryGates()
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


@pytest.mark.parametrize("relaxation", [UniformPath(), RandomArchitecture(1, 2000)], ids=["a-pass", "an-epoch"])
def test_random_search_draws_every_architecture_equally_often(relaxation: Relaxation) -> None:
    edges = {(0, 2): ("skip_connect", "sep_conv_3x3", "none"), (1, 2): ("max_pool_3x3",), (0, 3): ("skip_connect",)}
    space = define_space("few", edges | {(1, 3): ("avg_pool_3x3",), (2, 3): ("dil_conv_3x3",)}, layers=3, keep=1)
    assert space.size() == 81
    model = _model(space)
    torch.manual_seed(0)
    drawn = Counter(tuple(relaxation(model, epoch / 2000)["active"].items()) for epoch in range(2000))
    architectures = {random_genotype(space, seed) for seed in range(1200)}
    assert len(architectures) == 81
    _within(drawn, {tuple(model.one_path(each).items()): 1 / 81 for each in architectures})


@pytest.mark.parametrize("name", SAMPLED)
def test_edges_with_fewer_candidates_draw_none_beyond_them(name: str) -> None:
    model, relaxation = _model(UNEQUAL), SAMPLED[name]
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
        step(_batch(), _batch(), 0.0)
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
    for epoch in (0, 75, 149):
        expected = (1 - epoch / 150) * 0.97 + 0.03
        assert snas.temperature(epoch / 150) == pytest.approx(expected, rel=1e-12)
    assert GumbelPath(10.0, 0.1, 1).temperature(0.0) == 10.0


def test_the_epoch_of_a_share_is_exact_at_every_step() -> None:
    for epochs, steps in ((10, 7), (50, 390), (3, 1)):
        found = [epoch_of(number / (epochs * steps), epochs) for number in range(epochs * steps)]
        assert found == [number // steps for number in range(epochs * steps)]


# What runs.


class _As(Relaxation):
    """The operators of another relaxation's pass, with the softmax's weights."""

    def __init__(self, mixing: Mixing) -> None:
        self._active = mixing["active"]

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        return {"weights": model.mixing_weights(), "edge_weights": None, "active": self._active}


def _flops(relaxation: Relaxation, space: Any, seed: int) -> tuple[int, int]:
    """Of one step's two levels, counted by torch: forward and backward."""
    model = _model(space).float()
    step, batch, counts = SearchStep(model, tiny.config(), relaxation), _batch(torch.float32), []
    for level in (lambda: step.arch_step(batch, batch, 0.0), lambda: step.weight_step(batch, 0.0)):
        torch.manual_seed(seed)
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            level()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def test_a_gdas_step_costs_what_its_path_costs() -> None:
    for seed in (0, 1):
        relaxation, model = GumbelPath(10.0, 0.1, 5), _model().float()
        torch.manual_seed(seed)
        drawn = relaxation(model, 0.0)
        assert all(len(edge) == 1 for key in drawn["active"] for edge in drawn["active"][key])
        assert _flops(relaxation, tiny.SPACE, seed) == _flops(_As(drawn), tiny.SPACE, seed)
    # Four convolutions an edge, of which one runs.
    space = define_space("heavy", ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"), nodes=2, layers=3)
    path_cost, all_cost = _flops(GumbelPath(10.0, 0.1, 5), space, 0), _flops(Softmax(), space, 0)
    assert all(one < 0.5 * every for one, every in zip(path_cost, all_cost, strict=True))


@pytest.mark.parametrize("backend", ["reference", "auto"])
def test_what_is_not_drawn_does_not_run(backend: str) -> None:
    """Neither its statistics nor its gradient know of the pass."""
    model = _model().float().train()
    drawn = GumbelPath(10.0, 0.1, 5)(model, 0.0)
    counted = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("batches_tracked")}
    images, labels = _batch(torch.float32)
    with use_backend(backend):
        F.cross_entropy(model(images, **drawn), labels).backward()
    keys = tiny.SPACE.keys(3)
    ran = {
        f"cells.{layer}._ops.{edge}._ops.{chosen[0]}."
        for layer, key in enumerate(keys)
        for edge, chosen in enumerate(drawn["active"][key])
    }
    moved = {name for name, value in model.state_dict().items() if name in counted and value > counted[name]}
    mixed = {name for name in moved if "._ops." in name}
    assert mixed
    assert all(any(name.startswith(prefix) for prefix in ran) for name in mixed)
    for layer, key in enumerate(keys):
        stack = model.cells[layer]._stack
        for edge, chosen in enumerate(drawn["active"][key]):
            for op, kernels in enumerate(stack._edges[edge]):
                gradient = getattr(stack, f"source_{kernels[0].source}").grad if kernels else None
                if gradient is not None:
                    own = [gradient[k.start : k.start + math.prod(k.shape)] for k in kernels]
                    assert all(bool(each.any()) == (op in chosen) for each in own)


def test_validation_runs_the_most_probable_operators() -> None:
    model = _model().eval()
    likeliest = model.arch.alphas["normal"].argmax(-1)
    one_hot = F.one_hot(likeliest, 4).double()
    images, _ = _batch()
    logits = []
    for name, relaxation in SAMPLED.items():
        mixing = relaxation.evaluated(model)
        assert torch.equal(mixing["weights"]["normal"], one_hot), name
        assert ("active" in mixing) == relaxation.asks_host
        logits.append(model(images, **mixing))
    torch.testing.assert_close(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


# ProxylessNAS after an update.


def test_the_gates_shift_keeps_the_probabilities_of_what_was_not_drawn() -> None:
    model, relaxation = _model(UNEQUAL), BinaryGates()
    step = SearchStep(model, configure("proxyless", data="cifar10", arch_lr=0.1), relaxation)
    before = {key: weights.detach() for key, weights in model.mixing_weights().items()}
    pairs: Mixing = {}

    def spy(model: Supernet, progress: float | Tensor) -> Mixing:
        pairs.update(mixing := BinaryGates.__call__(relaxation, model, progress))
        return mixing

    step.relaxation = type("Spy", (BinaryGates,), {"__call__": lambda self, *given: spy(*given)})()
    step.relaxation.learned = relaxation.learned
    step.arch_step(_batch(), _batch(), 0.0)
    moved = 0
    for key, weights in model.mixing_weights().items():
        for e, count in enumerate(UNEQUAL.cell(key, 3).counts):
            pair = pairs["active"][key][e]
            others = [k for k in range(count) if k not in pair]
            assert weights[e, others].tolist() == pytest.approx(before[key][e, others].tolist(), rel=1e-12)
            moved += len(pair) == 2 and abs(weights[e, pair[0]] - before[key][e, pair[0]]).item() > 1e-3
            assert model.arch.alphas[key][e, count:].tolist() == [0.0] * (3 - count)
    assert moved >= 6
    alphas = [each.clone() for each in model.arch_parameters()]
    relaxation.learned(model)
    assert all(torch.equal(a, b) for a, b in zip(alphas, model.arch_parameters(), strict=True))


# Random search.


def test_a_path_has_weight_one_and_no_mixture() -> None:
    model = Supernet(tiny.SPACE, channels=4, layers=3, in_channels=1, classes=3, edge_normalisation=True).double()
    genotype = random_genotype(tiny.SPACE, 4, layers=3)
    images, _ = _batch()
    ones = {key: torch.ones_like(betas) for key, betas in model.arch.betas.items()}
    expected = model(images, edge_weights=ones, active=model.one_path(genotype))
    assert torch.equal(model(images, **path(model, genotype)), expected)


def test_random_search_draws_an_architecture_an_epoch_from_its_seed() -> None:
    model, relaxation = _model(), RandomArchitecture(7, 6)
    found = []
    for number in range(6 * 5):
        active = relaxation(model, number / 30)["active"]
        genotype = relaxation.architecture(model)
        assert active == model.one_path(genotype) == relaxation.evaluated(model)["active"]
        assert StrongestEdges()(tiny.SPACE, relaxation.still(model), 3) == genotype
        found.append(genotype)
    assert all(found[5 * epoch] == each for epoch in range(6) for each in found[5 * epoch : 5 * epoch + 5])
    assert len(set(found)) >= 5
    continued = RandomArchitecture(7, 6)
    continued(model, 14 / 30)
    assert continued.architecture(model) == found[14]
    assert RandomArchitecture(8, 6).architecture(model) != found[0]


@pytest.mark.parametrize("name", ["random-search", "random-ws"])
def test_random_search_moves_no_alphas(name: str, tmp_path: Path) -> None:
    options = {} if name == "random-search" else {"samples": 4, "finalists": 2, "batches": 1}
    result = search(
        tiny.config(name, epochs=3, **options), tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE
    )
    folder = RunFolder.open(tmp_path / "r")
    files = [folder.read_json(f"epochs/000{epoch}.json") for epoch in range(3)]
    assert files[0]["alphas"] == files[2]["alphas"]
    records = [each for each in folder.metrics() if each["kind"] == "epoch"]
    assert all("arch_loss" not in each and each["train_loss"] > 0 for each in records)
    if name == "random-search":
        assert result.genotype.text() == files[2]["text"]
        assert len({each["text"] for each in files}) == 3


# What a CUDA graph may hold.


@pytest.mark.parametrize(
    ("name", "draws", "asks_host", "learns"),
    [
        ("gdas", True, True, True),
        ("snas", True, False, True),
        ("proxyless", True, True, True),
        ("i-darts", False, False, True),
        ("random-search", False, True, False),
        ("random-ws", True, True, False),
    ],
)
def test_every_method_says_what_a_graph_can_hold(name: str, draws: bool, asks_host: bool, learns: bool) -> None:
    config = configure(name, data="cifar10")
    relaxation = compose(config).relaxation
    assert (relaxation.draws, relaxation.asks_host, relaxation.learns) == (draws, asks_host, learns)
    reason = obstacle(SearchStep(_model(), config, relaxation))
    assert bool(reason) == asks_host


def test_snas_asks_the_host_for_nothing() -> None:
    """Neither in a step nor in a validation pass; where edges differ in their candidates too."""
    for space in (tiny.SPACE, UNEQUAL):
        model = _model(space).float()
        relaxation = Concrete(1.0, 0.03, 5)
        step = UnattendedStep(model, tiny.config("snas"), relaxation)
        progress, batch = torch.full((), 0.5, dtype=torch.float64), _batch(torch.float32)
        step(batch, batch, progress)
        relaxation.evaluated(model)
        with nothing_asked():
            step(batch, batch, progress)
            relaxation.evaluated(model)


# Settings.


def test_published_settings() -> None:
    gdas, snas, gates = (configure(name, data="cifar10") for name in ("gdas", "snas", "proxyless"))
    assert (gdas.epochs, gdas.batch_size, gdas.lr, gdas.lr_min, gdas.weight_decay) == (250, 256, 0.025, 0.001, 5e-4)
    assert (gdas.nesterov, gdas.weights_first, gdas.arch_lr, gdas.arch_weight_decay) == (True, True, 3e-4, 1e-3)
    assert gdas.options == {"tau_max": 10.0, "tau_min": 0.1}
    assert (snas.epochs, snas.batch_size, snas.hypergradient, snas.one_level) == (150, 64, "one-level", True)
    assert snas.options == {"tau_max": 1.0, "tau_min": 0.03}
    assert (gates.arch_lr, gates.arch_beta1, gates.arch_beta2, gates.arch_weight_decay) == (1e-3, 0.0, 0.999, 0.0)
    assert (gates.epochs, gates.arch_start_epoch, gates.batch_size, gates.weight_decay) == (160, 40, 256, 4e-5)
    ws = configure("random-ws", data="cifar10")
    assert (ws.epochs, ws.grad_clip, ws.options) == (50, 5.0, {"samples": 1000, "finalists": 10, "batches": 10})
    assert reference.gumbel(torch.ones(1)).item() == 0.0


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("gdas", {"tau_min": 20.0}, "tau_max 10.0 and tau_min 20.0"),
        ("snas", {"tau_min": 0.0}, "0 < tau_min <= tau_max"),
        ("random-ws", {"samples": 0}, "samples is 0"),
        ("random-ws", {"finalists": -1}, "finalists is -1"),
        ("random-search", {"restart_after": 3}, "restart_after with random-search, whose alphas never learn"),
        ("random-ws", {"eigenvalue_every": 2}, "eigenvalue_every with random-ws"),
        ("random-search", {"samples": 3}, "unknown setting 'samples'"),
    ],
    ids=["order", "zero", "samples", "finalists", "restart", "eigenvalue", "foreign"],
)
def test_bad_settings_are_refused_before_anything_is_written(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        search(tiny.config(name, **settings), tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE)
    assert not (tmp_path / "r").exists()
