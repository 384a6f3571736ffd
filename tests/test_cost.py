"""The penalty on cost: counts by hand, the gradient by hand, a search that it makes smaller, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.nn import DerivedNetwork
from fastdarts.search import Interrupted, resume, search
from fastdarts.search.cost import Cost, cost_of, operator_costs
from fastdarts.search.job import SearchJob
from fastdarts.spaces import random_genotype, space
from tests import tiny


def test_counts_by_hand() -> None:
    darts = space("darts")
    found = {what: operator_costs(darts, what, 4, 5, "cifar", (8, 8)) for what in ("parameters", "multiply-adds")}
    # Cells 1 and 3 of five reduce; normal cells of width 4, 8 and 16 on 8, 4 and 2 pixels a side.
    sep3 = [2 * (9 * c + c * c) for c in (4, 8, 16)]
    assert found["parameters"]["normal"][0].tolist()[3:5] == [0.0, sum(sep3)]
    assert found["multiply-adds"]["normal"][0, 4] == sum(n * p for n, p in zip(sep3, (64, 16, 4), strict=True))
    assert found["multiply-adds"]["normal"][0, 1] == sum(9 * c * p for c, p in ((4, 64), (8, 16), (16, 4)))
    # A skip connection of stride 2 has two 1x1 convolutions of half the width; edges between nodes have stride 1.
    assert found["parameters"]["reduce"][0, 3] == 8 * 8 + 16 * 16
    assert found["parameters"]["reduce"][13, 3] == 0.0
    assert found["multiply-adds"]["reduce"][0, 3] == 8 * 8 * 16 + 16 * 16 * 4
    accesses = operator_costs(darts, "accesses", 4, 5, "cifar", (8, 8))["normal"][0, 6]
    assert accesses == sum(25 * 0 + 9 * c + c * c + 4 * c * p for c, p in ((4, 64), (8, 16), (16, 4)))
    parts = [operator_costs(darts, what, 4, 5, "cifar", (8, 8))["reduce"] for what in found]
    whole = operator_costs(darts, "resources", 4, 5, "cifar", (8, 8))["reduce"]
    third = operator_costs(darts, "accesses", 4, 5, "cifar", (8, 8))["reduce"]
    torch.testing.assert_close(whole, 0.43 * (2 * parts[0] + parts[1] / 4000 + third / 100))


def test_a_genotype_costs_what_its_operators_have() -> None:
    darts = space("darts")
    table = operator_costs(darts, "parameters", 4, 5, "cifar", (8, 8))
    for seed in range(3):
        genotype = random_genotype(darts, seed, layers=5)
        network = DerivedNetwork(genotype, channels=4, layers=5, classes=10)
        convolutions = sum(
            layer.weight.numel() for cell in network.cells for layer in cell._ops.modules()
            if isinstance(layer, torch.nn.Conv2d)
        )  # fmt: skip
        assert cost_of(darts, genotype, 5, table) == convolutions


@pytest.mark.parametrize("form", ["add", "target", "multiply"])
def test_penalties_and_their_gradients(form: str) -> None:
    settings: dict[str, Any] = {"cost": "parameters", "cost_weight": 0.3}
    settings |= {} if form == "add" else {"cost_target": 500.0}
    settings |= {"cost_form": "multiply"} if form == "multiply" else {}
    job = SearchJob(tiny.config(**settings), tiny.images(), tiny.SPACE)
    cost = job.step_both.cost
    assert isinstance(cost, Cost)
    model = job.model.double()
    loss = torch.tensor(1.7, dtype=torch.float64, requires_grad=True)
    value = cost.penalised(loss, model.mixing_weights())
    alphas = model.arch_parameters()
    gradients = torch.autograd.grad(value, alphas)
    expected, slopes = 0.0, []
    for key, each in model.arch.alphas.items():
        p, c = each.detach().softmax(-1), cost.table[key]
        expected += (p * c).sum().item()
        slopes.append(p * (c - (p * c).sum(-1, keepdim=True)))
    outer = {"add": 0.3, "target": 0.3 / 500, "multiply": 0.0}[form]
    if form == "multiply":
        ratio = math.log(expected) / math.log(500)
        assert value.item() == pytest.approx(1.7 * ratio**0.3, rel=1e-12)
        outer = 1.7 * 0.3 * ratio ** (0.3 - 1) / (expected * math.log(500))
    else:
        wanted = 1.7 + 0.3 * (expected if form == "add" else (expected - 500) / 500)
        assert value.item() == pytest.approx(wanted, rel=1e-12)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(gradient, outer * slope, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("name", ["darts-first", "darts-second", "snas", "gdas", "proxyless", "pc-darts"])
def test_a_penalised_search_is_smaller_and_says_so(name: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"arch_lr": 0.3, "epochs": 4, "arch_every": 1} | (
        {"arch_start_epoch": 0, "waiting_epochs": 0} if name == "proxyless" else {}
    )
    settings |= {"arch_start_epoch": 0} if name == "pc-darts" else {}
    penalty = {"cost": "parameters", "cost_weight": 10.0, "cost_target": 100.0}
    run = tmp_path / "run"
    search(tiny.config(name, **settings, **penalty), run, train_set=tiny.images(), search_space=tiny.SPACE)
    told = [each["cost"] for each in tiny.metrics(run) if each["kind"] == "epoch"]
    assert told[-1]["expected"] < 0.7 * told[0]["expected"] or told[-1]["expected"] < 100
    assert told[-1]["genotype"] <= told[0]["genotype"]


def test_a_penalised_search_resumes(tmp_path: Path) -> None:
    config = tiny.config(cost="resources", cost_weight=1e-3)
    search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE)
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), search_space=tiny.SPACE, progress=tiny.StopAt(4))
    resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"cost": "money", "cost_weight": 1.0}, "cost is 'money'; expected one of none, parameters"),
        ({"cost": "parameters"}, "cost 'parameters' with cost_weight 0.0"),
        ({"cost_weight": 1.0}, "cost 'none' with cost_weight 1.0"),
        ({"cost": "parameters", "cost_weight": 1.0, "cost_form": "multiply"}, "a target above 1"),
        ({"cost": "parameters", "cost_weight": 1.0, "cost_form": "divide"}, "cost_form is 'divide'"),
        ({"cost": "parameters", "cost_weight": -1.0}, "cost_weight is -1.0"),
    ],
)
def test_bad_costs_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told.replace(".", r"\.")):
        tiny.config(**settings)
