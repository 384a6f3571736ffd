"""GAEA's step against the update on the simplex itself, with gradients by the mixing weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search import configure, search
from fastdarts.search.exponentiated import Exponentiated
from fastdarts.search.graph import obstacle
from fastdarts.search.methods import compose
from fastdarts.search.step import SearchStep
from fastdarts.spaces import Space
from tests import tiny
from tests.sampled import batch
from tests.unequal import SPACE as UNEQUAL


def _supernet(space: Space, edges: bool) -> Supernet:
    torch.manual_seed(1)
    return Supernet(
        space, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=1.0, edge_normalisation=edges
    ).double()


@pytest.mark.parametrize("edges", [False, True])
@pytest.mark.parametrize("space", [tiny.SPACE, UNEQUAL], ids=["tiny", "unequal"])
def test_a_step_is_the_update_on_the_simplex(space: Space, edges: bool) -> None:
    """`p exp(-lr dL/dp)`, floored and divided by the sum: the authors' code keeps p itself and asks for dL/dp."""
    model = _supernet(space, edges)
    config = configure("gaea-darts", data="custom", arch_lr=4.0, edge_normalisation=edges)
    step = SearchStep(model, config, Exponentiated())
    for number in range(3):
        weights = {key: p.detach().clone().requires_grad_() for key, p in model.mixing_weights().items()}
        betas = model.edge_weights()
        free = None if betas is None else {key: b.detach().clone().requires_grad_() for key, b in betas.items()}
        images, labels = batch()
        loss = F.cross_entropy(model(images + number, weights, free), labels)
        leaves: list[Tensor] = [*weights.values(), *(free.values() if free else ())]
        slopes = torch.autograd.grad(loss, leaves)
        step.arch_step((images + number, labels), (images + number, labels), 0.0)
        moved = 0.0
        for (key, p), slope in zip(weights.items(), slopes, strict=False):
            for e, count in enumerate(space.cell(key, 3).counts):
                row = p[e, :count].detach() * torch.exp(-4.0 * slope[e, :count])
                row = (row / row.sum()).clamp(min=1e-5)
                expected = row / row.sum()
                torch.testing.assert_close(model.mixing_weights()[key][e, :count].detach(), expected, rtol=1e-9, atol=0)
                assert model.arch.alphas[key][e, count:].tolist() == [0.0] * (space.cell(key, 3).width - count)
                moved = max(moved, (expected - p[e, :count].detach()).abs().max().item())
        assert moved > 1e-3
        for key, slope in zip(free or {}, slopes[len(weights) :], strict=True):
            assert free is not None
            at, cell = 0, space.cell(key, 3)
            for node in cell.states:
                count = len(cell.into(node))
                row = free[key][at : at + count].detach() * torch.exp(-4.0 * slope[at : at + count])
                found = model.edge_weights()
                assert found is not None
                torch.testing.assert_close(found[key][at : at + count].detach(), row / row.sum(), rtol=1e-9, atol=0)
                at += count


def test_no_weight_falls_below_the_floor_or_out_of_sight() -> None:
    model = _supernet(tiny.SPACE, False)
    step = SearchStep(model, configure("gaea-darts", data="custom", arch_lr=1e4), Exponentiated())
    for _ in range(3):
        step.arch_step(batch(), batch(), 0.0)
    rows = model.mixing_weights()["normal"]
    assert rows.min() > 0.9e-5
    assert all(alphas.isfinite().all() for alphas in model.arch_parameters())


def test_published_settings_and_what_is_refused() -> None:
    plain, partial = (configure(name, data="cifar10") for name in ("gaea-darts", "gaea-pc-darts"))
    for config in (plain, partial):
        assert (config.arch_lr, config.alpha_scale, config.epochs, config.hypergradient) == (0.1, 0.0, 50, "first")
    assert (partial.partial, partial.edge_normalisation, partial.batch_size) == (4, True, 256)
    assert (partial.lr, partial.lr_min, partial.arch_start_epoch) == (0.1, 0.0, 0)
    with pytest.raises(UserError, match=r"arch_weight_decay is 0\.001 with gaea-darts"):
        compose(configure("gaea-darts", data="custom", arch_weight_decay=1e-3))
    step = SearchStep(_supernet(tiny.SPACE, False), plain, Exponentiated())
    assert obstacle(step) == "exponentiated gradients have no kernel"


def test_a_search_leaves_equal_weights_behind(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"arch_lr": 10.0, "epochs": 3}
    search(tiny.config("gaea-darts", **settings), tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    told = [each["entropy"]["normal"] for each in tiny.metrics(tmp_path / "run") if each["kind"] == "epoch"]
    assert told[-1] < told[0] < 1.3863
