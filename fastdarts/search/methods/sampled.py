"""GDAS, SNAS and ProxylessNAS: the alphas are the logits of a distribution, and a pass runs a draw from it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices, StrongestEdges
from fastdarts.search.config import SearchConfig
from fastdarts.search.gates import BinaryGates
from fastdarts.search.methods.preset import Method
from fastdarts.search.reinmax import ReinMax
from fastdarts.search.sampling import Concrete, GumbelPath

__all__ = ["METHODS"]

# One path learns an eighth of a mixture's operators a step, and costs less than half: 40 epochs, a minute and a half.
_DIGITS = {"epochs": 40}


def _temperatures(config: SearchConfig) -> tuple[float, float]:
    highest, lowest = float(config.options["tau_max"]), float(config.options["tau_min"])
    if not 0.0 < lowest <= highest:
        raise UserError(f"tau_max {highest} and tau_min {lowest}", "0 < tau_min <= tau_max")
    return highest, lowest


def _rule(config: SearchConfig, *rules: str) -> StrongestEdges:
    rule = config.options["derive"]
    if rule not in rules:
        raise UserError(f"derive is {rule!r}", f"one of {', '.join(rules)}")
    return StrongestEdges(rule)


def _gdas(config: SearchConfig) -> Choices:
    return Choices(GumbelPath(*_temperatures(config), config.epochs), derivation=_rule(config, "pairs", "darts"))


def _snas(config: SearchConfig) -> Choices:
    relaxation = Concrete(*_temperatures(config), config.epochs, config.options["tau_ends"])
    return Choices(relaxation, derivation=_rule(config, "every-edge", "two-edges", "darts"))


def _reinmax(config: SearchConfig) -> Choices:
    tau = float(config.options["tau"])
    if tau < 1.0:
        raise UserError(f"tau is {tau}", "1 or more", "below 1 the estimate of second order is none")
    return Choices(ReinMax(tau), derivation=_rule(config, "pairs", "darts"))


def _proxyless(config: SearchConfig) -> Choices:
    if config.hypergradient not in ("first", "one-level"):
        raise UserError(
            f"hypergradient {config.hypergradient!r} with {config.method}",
            "first or one-level",
            "its gates are drawn once for an update, and the other kinds differentiate several passes",
        )
    gates = config.options["gates"]
    if gates not in _GATES:
        raise UserError(f"gates is {gates!r}", f"one of {', '.join(_GATES)}")
    undrawn, zero = config.options["undrawn_still"], config.options["skip_zero"]
    return Choices(BinaryGates(gates != "two", undrawn, zero))


# The authors' third, full_v2, keeps less memory and computes what full does; here neither is kept.
_GATES = ("two", "full", "full_v2")

_GDAS: Mapping[str, Any] = MappingProxyType(
    {
        "hypergradient": "first",
        "epochs": 250,
        "batch_size": 256,
        "weight_decay": 5e-4,
        "nesterov": True,
        "weights_first": True,
        "layers": 6,
    }
)

METHODS = (
    # The authors' search in the NASNet space: six cells (N = 2).
    Method(
        "gdas",
        "one operator an edge, drawn with Gumbel noise, its gradient straight through: a step costs one path",
        "Dong, Yang: GDAS, CVPR 2019, section 3.2",
        _GDAS,
        options={"tau_max": 10.0, "tau_min": 0.1, "derive": "pairs"},
        small=_DIGITS,
        compose=_gdas,
        earlier={"derive": "darts"},
    ),
    # GDAS' search with another gradient through the draw; the paper has no such search.
    Method(
        "gdas-reinmax",
        "gdas with ReinMax's gradient of second order through the draw, instead of Gumbel noise and a temperature",
        "Liu et al.: Bridging Discrete and Backpropagation, NeurIPS 2023, Algorithm 2; settings of GDAS",
        _GDAS,
        options={"tau": 1.0, "derive": "pairs"},
        small=_DIGITS,
        compose=_reinmax,
    ),
    # The authors learn weights and alphas from one backward pass and so from one draw; here each level draws its own.
    # The penalty on resources is `cost`, 0 unless it is set.
    Method(
        "snas",
        "all operators, mixed by a draw from the concrete distribution; one level, the temperature falls",
        "Xie et al.: SNAS, ICLR 2019, section 2.2",
        {
            "hypergradient": "one-level",
            "one_level": True,
            "held_out": 0.1,
            "epochs": 150,
            "arch_grad_clip": 10.0,
            "alpha_mean": 1.0,
            "alpha_scale": 0.01,
            "drop_path": 0.3,
            "drop_path_constant": True,
        },
        options={"tau_max": 1.0, "tau_min": 0.03, "tau_ends": True, "derive": "every-edge"},
        compose=_snas,
        earlier={"tau_ends": False, "derive": "darts"},
    ),
    # The authors' settings for ImageNet, without their space of layers: 40 epochs of weights, then 120 of both levels,
    # in the first of which the alphas still wait.
    Method(
        "proxyless",
        "binary gates: the weights learn on one drawn path, the alphas on two",
        "Cai, Zhu, Han: ProxylessNAS, ICLR 2019, Eq. 2 to 4",
        {
            "hypergradient": "first",
            "epochs": 160,
            "arch_start_epoch": 41,
            "arch_every": 5,
            "arch_augmented": False,
            "batch_size": 256,
            "waiting_epochs": 40,
            "waiting_lr": 0.05,
            "lr_min": 0.0,
            "lr_by_step": True,
            "weight_decay": 4e-5,
            "grad_clip": 0.0,
            "label_smoothing": 0.1,
            "batch_statistics": True,
            "nesterov": True,
            "arch_lr": 1e-3,
            "arch_beta1": 0.0,
            "arch_weight_decay": 0.0,
        },
        options={"gates": "two", "undrawn_still": True, "skip_zero": True},
        # The alphas' 319 steps of the digits would be 63; their rate is made for all of them.
        small=_DIGITS | {"arch_every": 1},
        compose=_proxyless,
        earlier={"gates": "two", "undrawn_still": False, "skip_zero": False},
    ),
)
