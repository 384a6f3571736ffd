"""Relaxations by chance: what runs and what it costs, what a graph may hold, and which settings are refused."""

from __future__ import annotations

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
from fastdarts.nn.stack import StackedConv2d
from fastdarts.runs import RunFolder
from fastdarts.search import configure, search
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Mixing, Relaxation, Softmax, StrongestEdges
from fastdarts.search.gates import BinaryGates
from fastdarts.search.graph import obstacle
from fastdarts.search.methods import compose
from fastdarts.search.sampling import (
    Concrete,
    GumbelPath,
    RandomArchitecture,
    path,
)
from fastdarts.search.step import SearchStep
from fastdarts.spaces import define_space, random_genotype
from tests import tiny
from tests.graph_emulator import nothing_asked
from tests.sampled import RELAXATIONS, batch, supernet
from tests.unequal import SPACE as UNEQUAL

# What runs.


class _As(Relaxation):
    """The operators of another relaxation's pass, with the softmax's weights."""

    def __init__(self, mixing: Mixing) -> None:
        self._active = mixing["active"]

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        return {"weights": model.mixing_weights(), "edge_weights": None, "active": self._active}


def _flops(relaxation: Relaxation, space: Any, seed: int) -> tuple[int, int]:
    """Of one step's two levels, counted by torch: forward and backward."""
    model = supernet(space).float()
    step, given, counts = SearchStep(model, tiny.config(), relaxation), batch(torch.float32), []
    for level in (lambda: step.arch_step(given, given, 0.0), lambda: step.weight_step(given, 0.0)):
        torch.manual_seed(seed)
        with use_backend("reference"), FlopCounterMode(display=False) as counter:
            level()
        counts.append(counter.get_total_flops())
    return counts[0], counts[1]


def test_a_gdas_step_costs_what_its_path_costs() -> None:
    for seed in (0, 1):
        relaxation, model = GumbelPath(10.0, 0.1, 5), supernet().float()
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
    model = supernet().float().train()
    drawn = GumbelPath(10.0, 0.1, 5)(model, 0.0)
    counted = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("batches_tracked")}
    images, labels = batch(torch.float32)
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
        for edge, chosen in zip(model.cells[layer]._ops, drawn["active"][key], strict=True):
            for k, op in enumerate(edge._ops):
                convs = [layer._part for layer in op.modules() if isinstance(layer, StackedConv2d)]
                gradients = [part.stack.gradient(part.place) for part in convs]
                assert all(bool(each.any()) == (k in chosen) for each in gradients if each is not None)


def test_validation_runs_the_most_probable_operators() -> None:
    model = supernet().eval()
    likeliest = model.arch.alphas["normal"].argmax(-1)
    one_hot = F.one_hot(likeliest, 4).double()
    images, _ = batch()
    logits = []
    for name, relaxation in RELAXATIONS.items():
        mixing = relaxation.evaluated(model)
        assert torch.equal(mixing["weights"]["normal"], one_hot), name
        assert ("active" in mixing) == relaxation.asks_host
        logits.append(model(images, **mixing))
    torch.testing.assert_close(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


# ProxylessNAS after an update.


def test_the_gates_shift_keeps_the_probabilities_of_what_was_not_drawn() -> None:
    model, relaxation = supernet(UNEQUAL), BinaryGates()
    step = SearchStep(model, configure("proxyless", data="cifar10", arch_lr=0.1), relaxation)
    before = {key: weights.detach() for key, weights in model.mixing_weights().items()}
    pairs: Mixing = {}

    def spy(model: Supernet, progress: float | Tensor) -> Mixing:
        pairs.update(mixing := BinaryGates.__call__(relaxation, model, progress))
        return mixing

    step.relaxation = type("Spy", (BinaryGates,), {"__call__": lambda self, *given: spy(*given)})()
    step.relaxation.learned, step.relaxation.skipped = relaxation.learned, relaxation.skipped
    step.arch_step(batch(), batch(), 0.0)
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
    images, _ = batch()
    ones = {key: torch.ones_like(betas) for key, betas in model.arch.betas.items()}
    expected = model(images, edge_weights=ones, active=model.one_path(genotype))
    assert torch.equal(model(images, **path(model, genotype)), expected)


def test_random_search_draws_an_architecture_an_epoch_from_its_seed() -> None:
    model, relaxation = supernet(), RandomArchitecture(7, 6)
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
    reason = obstacle(SearchStep(supernet(), config, relaxation))
    assert bool(reason) == asks_host


def test_snas_asks_the_host_for_nothing() -> None:
    """Neither in a step nor in a validation pass; where edges differ in their candidates too."""
    for space in (tiny.SPACE, UNEQUAL):
        model = supernet(space).float()
        relaxation = Concrete(1.0, 0.03, 5)
        step = UnattendedStep(model, tiny.config("snas"), relaxation)
        progress, given = torch.full((), 0.5, dtype=torch.float64), batch(torch.float32)
        step(given, given, progress)
        relaxation.evaluated(model)
        with nothing_asked():
            step(given, given, progress)
            relaxation.evaluated(model)


# Settings.


def test_published_settings() -> None:
    gdas, snas, gates = (configure(name, data="cifar10") for name in ("gdas", "snas", "proxyless"))
    assert (gdas.epochs, gdas.batch_size, gdas.lr, gdas.lr_min, gdas.weight_decay) == (250, 256, 0.025, 0.001, 5e-4)
    assert (gdas.nesterov, gdas.weights_first, gdas.arch_lr, gdas.arch_weight_decay) == (True, True, 3e-4, 1e-3)
    assert gdas.options == {"tau_max": 10.0, "tau_min": 0.1, "derive": "pairs"}
    assert gdas.layers == 6, (
        "xautodl's NASNet search: N = 2, two normal cells before each of two reductions and one after"
    )
    assert (snas.epochs, snas.batch_size, snas.hypergradient, snas.one_level) == (150, 64, "one-level", True)
    assert snas.options == {"tau_max": 1.0, "tau_min": 0.03, "tau_ends": True, "derive": "every-edge"}
    assert (snas.alpha_mean, snas.alpha_scale, snas.arch_grad_clip) == (1.0, 0.01, 10.0)
    assert (snas.drop_path, snas.drop_path_constant) == (0.3, True)
    assert (gates.arch_lr, gates.arch_beta1, gates.arch_beta2, gates.arch_weight_decay) == (1e-3, 0.0, 0.999, 0.0)
    assert (gates.epochs, gates.arch_start_epoch, gates.batch_size, gates.weight_decay) == (160, 41, 256, 4e-5)
    assert (gates.waiting_epochs, gates.waiting_lr, gates.lr, gates.lr_min) == (40, 0.05, 0.025, 0.0)
    assert (gates.lr_by_step, gates.grad_clip, gates.label_smoothing, gates.arch_every) == (True, 0.0, 0.1, 5)
    assert (gates.arch_augmented, gates.batch_statistics, gates.nesterov) == (False, True, True)
    assert gates.options == {"gates": "two", "undrawn_still": True, "skip_zero": True}
    ws = configure("random-ws", data="cifar10")
    options = {"samples": 1000, "finalists": 10, "batches": 10, "per_round": 1000, "with_none": False}
    assert (ws.epochs, ws.grad_clip, ws.options) == (50, 5.0, options)
    assert reference.gumbel(torch.ones(1)).item() == 0.0


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("gdas", {"tau_min": 20.0}, "tau_max 10.0 and tau_min 20.0"),
        ("snas", {"tau_min": 0.0}, "0 < tau_min <= tau_max"),
        (
            "proxyless",
            {"hypergradient": "second"},
            "hypergradient 'second' with proxyless; expected first or one-level",
        ),
        ("random-ws", {"samples": 0}, "samples is 0"),
        ("random-ws", {"finalists": -1}, "finalists is -1"),
        ("random-search", {"restart_after": 3}, "restart_after with random-search, whose alphas never learn"),
        ("random-ws", {"eigenvalue_every": 2}, "eigenvalue_every with random-ws"),
        ("random-search", {"samples": 3}, "unknown setting 'samples'"),
    ],
    ids=["order", "zero", "hypergradient", "samples", "finalists", "restart", "eigenvalue", "foreign"],
)
def test_bad_settings_are_refused_before_anything_is_written(
    name: str, settings: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        search(tiny.config(name, **settings), tmp_path / "r", train_set=tiny.images(), search_space=tiny.SPACE)
    assert not (tmp_path / "r").exists()
