"""What was not drawn stays as it is: ProxylessNAS' weights and alphas against separate optimisers, SGAS' alphas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.search import SearchConfig, configure
from fastdarts.search.choices import Mixing
from fastdarts.search.drawn import RowAdam
from fastdarts.search.gates import BinaryGates
from fastdarts.search.greedy import Decisions, GreedyRelaxation
from fastdarts.search.step import SearchStep
from tests import tiny
from tests.sampled import batch, supernet

OURS = {"gates": "two", "undrawn_still": True, "skip_zero": True}


def _config(**settings: Any) -> SearchConfig:
    return configure("proxyless", data="custom", lr=0.1, weight_decay=0.1, arch_lr=0.1, **settings)


def _weights(model: Supernet) -> dict[str, Tensor]:
    """Every weight by its own name, as the peers have them: what a stack holds is not one of them."""
    return {name: value.clone() for name, value in model.state_dict().items() if name.endswith("weight")}


class Fixed(BinaryGates):
    """Gates that a test decides: the operators of each edge that run in a pass."""

    def __init__(self, passes: list[dict[str, list[int]]]) -> None:
        super().__init__()
        self.passes = passes

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        chosen = self.passes.pop(0)
        active = {key: tuple((k,) for k in edges) for key, edges in chosen.items()}
        return {"weights": {k: torch.ones_like(a) for k, a in model.arch.alphas.items()}, "active": active}


def _chosen(step: int) -> dict[str, list[int]]:
    generator = torch.Generator().manual_seed(step)
    return {key: torch.randint(4, (5,), generator=generator).tolist() for key in ("normal", "reduce")}


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_undrawn_operators_stay_and_drawn_ones_move_as_parameters_of_their_own(momentum: float) -> None:
    """The authors' code: a parameter an operator, whose gradient is None where it was not drawn (0 of 210 moved)."""
    model, steps = supernet(), 4
    config = _config(momentum=momentum, nesterov=momentum > 0)
    step = SearchStep(model, config, Fixed([_chosen(number) for number in range(steps)]))
    # The same weights as leaves of their own under torch's SGD.
    free = {name: value.clone().requires_grad_() for name, value in _weights(model).items()}
    settings = {"momentum": momentum, "weight_decay": 0.1, "nesterov": momentum > 0}
    peers = {name: torch.optim.SGD([leaf], 0.1, **settings) for name, leaf in free.items()}
    buffers = {name: value for name, value in model.state_dict().items() if name not in free}
    still = 0
    for number in range(steps):
        chosen = _chosen(number)
        before = _weights(model)
        active = {key: tuple((k,) for k in edges) for key, edges in chosen.items()}
        with torch.no_grad():
            model.load_state_dict({**{name: leaf.detach() for name, leaf in free.items()}, **buffers}, strict=False)
        logits = model(batch()[0], {k: torch.ones_like(a) for k, a in model.arch.alphas.items()}, active=active)
        model.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(logits, batch()[1], label_smoothing=0.1).backward()
        gradients = _gradients(model)
        drawn = _drawn_names(model, chosen)
        with torch.no_grad():
            model.load_state_dict({**before, **buffers}, strict=False)
        model.zero_grad(set_to_none=True)
        step.weight_step(batch(), 0.5)
        for name, leaf in free.items():
            leaf.grad = gradients[name] if name in drawn else None
            peers[name].step()
        after = _weights(model)
        for name, value in after.items():
            torch.testing.assert_close(value, free[name].detach(), rtol=1e-9, atol=1e-12)
            if name not in drawn:
                assert torch.equal(value, before[name]), name
                still += 1
    assert still > 100


def _gradients(model: Supernet) -> dict[str, Tensor]:
    found = {}
    for name, module in model.named_modules():
        if not hasattr(module, "weight") or module.weight is None:
            continue
        part = getattr(module, "_part", None)
        gradient = part.stack.gradient(part.place) if part is not None else module.weight.grad
        found[f"{name}.weight"] = torch.zeros_like(module.weight) if gradient is None else gradient.clone()
    return found


def _drawn_names(model: Supernet, chosen: dict[str, list[int]]) -> set[str]:
    keys = model.space.keys(model.layers)
    found = set()
    for name in _weights(model):
        words = name.split(".")
        if words[0] == "cells" and words[2] == "_ops":
            layer, edge, op = int(words[1]), int(words[3]), int(words[5])
            if chosen[keys[layer]][edge] != op:
                continue
        found.add(name)
    return found


def test_alphas_of_an_edge_whose_gate_none_had_stay_with_their_moments() -> None:
    model = supernet()
    config, relaxation = _config(), BinaryGates()
    step = SearchStep(model, config, relaxation)
    skipped = moved = 0
    for number in range(6):
        torch.manual_seed(number)
        before = {key: alphas.detach().clone() for key, alphas in model.arch.alphas.items()}
        gates: dict[str, list[bool]] = {}
        original = relaxation.skipped

        def spy(model: Supernet, original: Any = original, gates: dict[str, list[bool]] = gates) -> list[list[bool]]:
            found = original(model)
            gates.update(zip(model.arch.alphas, found, strict=True))
            return found

        relaxation.skipped = spy  # type: ignore[method-assign]
        step.arch_step(batch(), batch(), 0.0)
        relaxation.skipped = original  # type: ignore[method-assign]
        for key, alphas in model.arch.alphas.items():
            for edge, none in enumerate(gates[key]):
                same = torch.equal(alphas[edge].detach(), before[key][edge])
                assert same is none
                skipped, moved = skipped + none, moved + (not none)
    assert skipped > 5
    assert moved > 20
    counts = [int(step.arch_optimizer.state[row]["step"]) if row in step.arch_optimizer.state else 0
              for group in step.arch_optimizer.param_groups for row in group["params"]]  # fmt: skip
    assert sum(counts) == moved


def test_full_gates_run_everything_and_give_eq_3() -> None:
    model = supernet()
    mixing = BinaryGates(full=True)(model, 0.0)
    assert set(mixing["active"]["normal"]) == {(0, 1, 2, 3)}
    alphas, weights = model.arch.alphas["normal"], mixing["weights"]["normal"]
    assert weights.sum(1).tolist() == pytest.approx([1.0] * 5)
    slope = torch.randn(weights.shape, dtype=weights.dtype)
    (gradient,) = torch.autograd.grad((weights * slope).sum(), alphas)
    p = alphas.detach().softmax(-1)
    expected = p * (slope - (p * slope).sum(-1, keepdim=True))
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    with torch.no_grad():
        assert {len(row) for row in BinaryGates(full=True)(model, 0.0)["active"]["normal"]} == {1}


def test_row_adam_is_an_adam_for_each_row() -> None:
    torch.manual_seed(0)
    alphas = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    rows = [row.detach().clone().requires_grad_() for row in alphas]
    settings: dict[str, Any] = {"lr": 0.1, "betas": (0.0, 0.999), "weight_decay": 0.0}
    ours, peers = RowAdam([alphas], settings), [torch.optim.Adam([row], **settings) for row in rows]
    for _ in range(5):
        gradient, skip = torch.randn(3, 4, dtype=torch.float64), torch.rand(3) < 0.5
        ours.step([gradient], [skip.tolist()])
        for row, peer, slope, without in zip(rows, peers, gradient, skip.tolist(), strict=True):
            row.grad = None if without else slope.clone()
            peer.step()
    torch.testing.assert_close(alphas.detach(), torch.stack([row.detach() for row in rows]), rtol=1e-12, atol=0.0)


def test_decided_alphas_of_sgas_stay() -> None:
    """Adam's moments and weight decay went on: .807 to .566 in five epochs."""
    torch.manual_seed(0)
    model = Supernet(tiny.SPACE, channels=4, layers=3, classes=3, in_channels=1, alpha_scale=1.0).double()
    decisions = Decisions()
    step = SearchStep(model, configure("sgas", data="custom", arch_lr=0.1), GreedyRelaxation(decisions))
    for _ in range(2):
        step.arch_step(batch(), batch(), 0.0)
    decisions.decide("normal", tiny.SPACE.normal, 1, 3, 2)
    before = {key: alphas.detach().clone() for key, alphas in model.arch.alphas.items()}
    for _ in range(3):
        step.arch_step(batch(), batch(), 0.5)
    after = model.arch.alphas["normal"].detach()
    assert torch.equal(after[1], before["normal"][1])
    others = [edge for edge in range(5) if edge != 1]
    assert (after[others] != before["normal"][others]).any(1).all()
    assert (model.arch.alphas["reduce"].detach() != before["reduce"]).any(1).all()
