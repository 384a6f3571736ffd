"""SmoothDARTS: perturbations against the definition in float64, inside their ball, and without a trace in the model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search import METHODS, configure, search
from fastdarts.search.choices import Mixing
from fastdarts.search.methods import compose
from fastdarts.search.perturbation import (
    AdversarialPerturbation,
    RandomPerturbation,
    _evaluating,
    _slopes,
    distribution,
)
from fastdarts.search.step import SearchStep
from fastdarts.spaces import define_space, space
from tests import tiny
from tests.graph_emulator import nothing_asked
from tests.recorded import assert_recorded_is_the_same
from tests.tolerance import assert_all_within

SMOOTH = ("sdarts-rs", "sdarts-adv", "pc-sdarts-rs", "pc-sdarts-adv")
UNEQUAL = define_space(
    "unequal",
    {
        (0, 2): ("skip_connect", "sep_conv_3x3", "none"),
        (1, 2): ("skip_connect", "max_pool_3x3"),
        (2, 3): ("none", "sep_conv_3x3"),
    },
    layers=3,
    keep=1,
)


def _supernet(space=tiny.SPACE, **kwargs) -> Supernet:
    torch.manual_seed(3)
    model = Supernet(space, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=1.0, **kwargs)
    return model.train()


def _batch(count: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 1, 6, 6, generator=generator), torch.arange(count) % 3


def _loss(model: Supernet, count: int = 6):
    images, labels = _batch(count)
    images = images.to(model.classifier.weight.dtype)
    return lambda mixing: F.cross_entropy(model(images, **mixing), labels)


def _mixing(model: Supernet) -> Mixing:
    with torch.no_grad():
        return {"weights": model.mixing_weights(), "edge_weights": model.edge_weights()}


def _distribution_slowly(row: list[float]) -> list[float]:
    clipped = [min(max(value, 0.0), 1.0) for value in row]
    if sum(clipped) == 0.0:
        clipped[row.index(max(row))] = 1.0
    return [value / sum(clipped) for value in clipped]


def test_a_distribution_is_the_definition_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(200, 5, generator=generator, dtype=torch.float64) * 3 - 1.5
    values[:20] -= 2
    values[20] = torch.tensor([-0.0, 0.0, 0.0, -1.0, -1.0], dtype=torch.float64)
    got = distribution(values)
    expected = torch.tensor([_distribution_slowly(row) for row in values.tolist()], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-15, atol=0)
    assert (got[:20].max(1).values == 1).all()


def test_what_is_no_candidate_stays_exactly_zero() -> None:
    values = torch.tensor([[0.2, 0.1, 9.0], [-3.0, -2.0, 5.0]])
    present = torch.tensor([[True, True, False], [True, True, False]])
    expected = torch.tensor([[2 / 3, 1 / 3, 0.0], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(distribution(values, present), expected)


@pytest.mark.parametrize("epochs", [1, 7, 50, 100])
def test_the_radius_is_that_of_the_epoch_at_every_step(epochs: int) -> None:
    perturbation = RandomPerturbation(0.3, epochs)
    for steps in (1, 3, 391):
        for epoch in range(epochs):
            expected = 0.03 + (0.3 - 0.03) * epoch / epochs
            for position in {0, 1 % steps, steps - 1}:
                progress = (epoch * steps + position) / (epochs * steps)
                assert perturbation.radius(progress) == expected
                on_device = perturbation.radius(torch.tensor(progress, dtype=torch.float64))
                assert isinstance(on_device, Tensor)
                assert float(on_device) == expected


@pytest.mark.parametrize("space", [tiny.SPACE, UNEQUAL], ids=["equal", "unequal"])
def test_random_noise_is_the_definition_for_the_drawn_numbers(space) -> None:
    model = _supernet(space)
    mixing, progress = _mixing(model), 0.5
    torch.manual_seed(11)
    got = RandomPerturbation(0.3, 10)(model, mixing, progress, _loss(model))
    assert got["edge_weights"] is mixing["edge_weights"]
    torch.manual_seed(11)
    for key, rows in mixing["weights"].items():
        noise = torch.empty_like(rows).uniform_(-1, 1).double() * (0.03 + 0.27 * 5 / 10)
        counts = space.cell(key, 3).counts
        for row, moved, found, count in zip(rows.double(), noise, got["weights"][key], counts, strict=True):
            expected = _distribution_slowly((row + moved)[:count].tolist())
            torch.testing.assert_close(found[:count].double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)
            assert (found[count:] == 0).all()


def test_noise_fills_the_ball_and_stays_in_it() -> None:
    """With equal weights of 1/4 and a radius below that nothing is clipped, so that the noise can be read off."""
    model = _supernet()
    mixing = {"weights": {key: torch.full_like(w, 0.25) for key, w in model.mixing_weights().items()}}
    perturbation, ratios = RandomPerturbation(0.03, 1), []
    for _ in range(400):
        rows = perturbation(model, mixing, 0.0, _loss(model))["weights"]["normal"]
        assert ((rows - 0.25).abs() <= 0.25 * (0.28 / 0.22) - 0.25 + 1e-6).all()
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
        ratios.append(rows / rows.mean(1, keepdim=True))
    ratios = torch.stack(ratios)
    # Twelfth of the square of the width 0.06 / 0.25, less the share of the row's own mean.
    assert float(ratios.var()) == pytest.approx((0.06 / 0.25) ** 2 / 12 * 3 / 4, rel=0.05)
    assert float(ratios.mean()) == pytest.approx(1.0, abs=1e-6)


def _ascent(model: Supernet, mixing: Mixing, radius: float, steps: int) -> dict[str, Tensor]:
    """The definition written out: double precision, gradients by double-sided differences, rows one by one."""
    loss, centre = _loss(model, 3), {key: rows.double() for key, rows in mixing["weights"].items()}
    counts = {key: model.space.cell(key, 3).counts for key in centre}

    def project(values: dict[str, Tensor]) -> dict[str, Tensor]:
        made = {}
        for key, rows in values.items():
            made[key] = torch.zeros_like(rows)
            for e, (row, count) in enumerate(zip(rows, counts[key], strict=True)):
                made[key][e, :count] = torch.tensor(_distribution_slowly(row[:count].tolist()), dtype=torch.float64)
        return made

    noise = {key: torch.empty_like(rows).uniform_(-1, 1).double() for key, rows in mixing["weights"].items()}
    weights = project({key: rows + radius * noise[key] for key, rows in centre.items()})
    double = {"edge_weights": mixing["edge_weights"] and {k: v.double() for k, v in mixing["edge_weights"].items()}}
    for _ in range(steps):
        slopes = {key: torch.zeros_like(rows) for key, rows in weights.items()}
        for key, rows in weights.items():
            for place in torch.cartesian_prod(*map(torch.arange, rows.shape)).tolist():
                nearby = []
                for side in (1e-6, -1e-6):
                    moved = rows.clone()
                    moved[tuple(place)] += side
                    nearby.append(float(loss(double | {"weights": weights | {key: moved}})))
                slopes[key][tuple(place)] = nearby[0] - nearby[1]
        weights = {
            key: rows + ((2 * radius / steps) * slopes[key].sign() + weights[key] - rows).clamp(-radius, radius)
            for key, rows in centre.items()
        }
        weights = project(weights)
    return weights


def test_the_ascent_is_the_definition_in_float64() -> None:
    model = _supernet(UNEQUAL).double()
    mixing = _mixing(model)
    with use_backend("reference"), torch.no_grad():
        torch.manual_seed(7)
        got = AdversarialPerturbation(0.3, 1, steps=3)(model, mixing, 0.0, _loss(model, 3))["weights"]
        torch.manual_seed(7)
        model.eval()
        expected = _ascent(model, mixing, 0.03, 3)
    for key, rows in expected.items():
        torch.testing.assert_close(got[key], rows, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_the_ascent_raises_the_loss_and_leaves_no_trace(backend: str) -> None:
    model = _supernet(partial=2)
    loss, mixing = _loss(model), _mixing(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    perturbation = AdversarialPerturbation(0.3, 2)
    with use_backend(backend), torch.no_grad():
        got = perturbation(model, mixing, 0.5, loss)
        model.eval()
        assert loss(got) > loss(mixing)
        model.train()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    for key, rows in got["weights"].items():
        assert not rows.requires_grad
        torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)))
        assert (rows >= 0).all()
        moved = (rows - mixing["weights"][key]).abs()
        # Clipped it lies in the ball of 0.165; rescaling moves a weight on by at most what the row's sum is off.
        assert (moved <= 0.165 * (1 + rows.shape[1])).all()


@pytest.mark.parametrize("memory", ["fast", "lean"])
def test_the_engines_slopes_are_right_in_evaluation_mode(memory: str) -> None:
    """Where batch norms use running statistics that are not those of the batch."""
    found = []
    for dtype, backend in ((torch.float32, "auto"), (torch.float32, "reference"), (torch.float64, "reference")):
        model = _supernet(memory=memory)
        with use_backend("reference"), torch.no_grad():
            mixing = _mixing(model.to(dtype))
            _loss(model)(mixing)
        with use_backend(backend), _evaluating(model):
            found.append(_slopes(mixing, mixing["weights"], _loss(model)))
    # A slope of at most 0.008 is a sum over pixels and channels whose terms cancel.
    assert_all_within(*found, terms=0.05)


def test_an_ascent_that_found_less_is_given_up() -> None:
    """A loss that is highest at the centre: whatever is found is below it."""
    model = _supernet()
    mixing = _mixing(model)
    centre = mixing["weights"]

    def loss(other: Mixing) -> Tensor:
        return -sum((other["weights"][key] - rows).square().sum() for key, rows in centre.items())

    with torch.no_grad():
        got = AdversarialPerturbation(0.3, 1)(model, mixing, 0.0, loss)["weights"]
    assert all(torch.equal(got[key], rows) for key, rows in centre.items())


def test_a_cell_type_that_the_network_lacks_is_left_to_chance() -> None:
    model = Supernet(tiny.SPACE, channels=4, layers=1, classes=3, in_channels=1)
    with torch.no_grad():
        got = AdversarialPerturbation(0.3, 1)(model, _mixing(model), 0.0, _loss(model))
    assert set(got["weights"]) == {"normal", "reduce"}


@pytest.mark.parametrize("name", ["sdarts-rs", "sdarts-adv"])
def test_only_the_weight_level_is_perturbed(name: str) -> None:
    """A step moves the alphas as DARTS does, the weights as one pass under the perturbed mixing does."""
    config = tiny.config(name, backend="reference")
    model = _supernet()
    twin = _supernet()
    step = SearchStep(model, config, compose(config).relaxation, compose(config).perturbation)
    plain = SearchStep(twin, tiny.config(), compose(config).relaxation)
    train, valid = _batch(), _batch(5)
    with use_backend("reference"):
        torch.manual_seed(1)
        step(train, valid, 0.5)
        torch.manual_seed(1)
        plain.arch_step(train, valid, 0.5)
        assert all(map(torch.equal, model.arch_parameters(), twin.arch_parameters()))
        with torch.no_grad():
            perturbed = compose(config).perturbation(
                twin, _mixing(twin), 0.5, lambda mixing: F.cross_entropy(twin(train[0], **mixing), train[1])
            )
        plain._learn_weights(F.cross_entropy(twin(train[0], **perturbed), train[1]))
    ours, theirs = model.state_dict(), twin.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", SMOOTH)
def test_published_values(name: str) -> None:
    config = configure(name, data="cifar10", data_root="nowhere")
    assert config.hypergradient == "first"
    assert config.options["perturbation"] == 0.3
    assert config.epochs == 50
    if name.endswith("adv"):
        assert config.options["attack_steps"] == 7
    if name.startswith("pc"):
        published = (config.partial, config.edge_normalisation, config.arch_start_epoch, config.batch_size, config.lr)
        # SmoothDARTS' sota/cnn/train_search.py: DARTS' settings throughout.
        assert published == (4, False, 0, 64, 0.025)
    else:
        assert config.partial == 1
    assert (config.batch_size, config.lr, config.lr_min, config.arch_lr) == (64, 0.025, 0.001, 3e-4)
    assert (config.space, space(config.space).normal.counts) == ("darts-without-none", (7,) * 14)
    assert "SmoothDARTS" in METHODS[name].source


@pytest.mark.parametrize(
    ("name", "option", "value", "message"),
    [
        ("sdarts-rs", "perturbation", 0.0, "perturbation is 0.0"),
        ("sdarts-rs", "perturbation", 1.5, "at most 1"),
        ("sdarts-adv", "perturbation", math.nan, "perturbation is nan"),
        ("sdarts-adv", "attack_steps", 0, "attack_steps is 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(name: str, option: str, value: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose(tiny.config(name, **{option: value}))


def test_noise_differs_from_step_to_step_and_runs_are_repeatable(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        path = tmp_path / name
        search(tiny.config("sdarts-rs", epochs=1), path, train_set=tiny.images(), search_space=tiny.SPACE)
        found.append(tiny.state_of(path))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    search(tiny.config(epochs=1), tmp_path / "plain", train_set=tiny.images(), search_space=tiny.SPACE)
    plain = tiny.state_of(tmp_path / "plain")
    assert any(not torch.equal(plain[key], found[0][key]) for key in plain if key in found[0])


@pytest.mark.parametrize("kind", [RandomPerturbation, AdversarialPerturbation])
def test_no_value_is_asked_for_on_the_host(kind: type[RandomPerturbation | AdversarialPerturbation]) -> None:
    """And progress on the device says what progress on the host says."""
    model, perturbation = _supernet(UNEQUAL), kind(0.3, 4)
    loss, mixing, progress = _loss(model), _mixing(model), torch.tensor(0.6, dtype=torch.float64)
    with torch.no_grad():
        torch.manual_seed(0)
        expected = perturbation(model, mixing, 0.6, loss)["weights"]
        torch.manual_seed(0)
        with nothing_asked():
            got = perturbation(model, mixing, progress, loss)["weights"]
    for key, rows in expected.items():
        torch.testing.assert_close(got[key], rows)


@pytest.mark.parametrize("name", ["sdarts-rs", "sdarts-adv"])
def test_a_recorded_search_is_the_same_to_the_bit(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its radius grows from epoch to epoch: a number of Python's that was recorded would be seen."""
    recorder = assert_recorded_is_the_same(tiny.config(name), tmp_path, monkeypatch)
    # One graph of steps and one of evaluations, for all epochs.
    assert recorder.recorded == 2
