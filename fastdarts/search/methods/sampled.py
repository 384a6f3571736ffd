"""GDAS, SNAS and ProxylessNAS: the alphas are the logits of a distribution, and a pass runs a draw from it."""

from __future__ import annotations

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.sampling import BinaryGates, Concrete, GumbelPath

__all__ = ["METHODS"]

# One path learns an eighth of a mixture's operators a step, and costs less than half: 40 epochs, a minute and a half.
_DIGITS = {"epochs": 40}


def _temperatures(config: SearchConfig) -> tuple[float, float]:
    highest, lowest = float(config.options["tau_max"]), float(config.options["tau_min"])
    if not 0.0 < lowest <= highest:
        raise UserError(f"tau_max {highest} and tau_min {lowest}", "0 < tau_min <= tau_max")
    return highest, lowest


def _gdas(config: SearchConfig) -> Choices:
    return Choices(relaxation=GumbelPath(*_temperatures(config), config.epochs))


def _snas(config: SearchConfig) -> Choices:
    return Choices(relaxation=Concrete(*_temperatures(config), config.epochs))


def _proxyless(config: SearchConfig) -> Choices:
    if config.hypergradient not in ("first", "one-level"):
        raise UserError(
            f"hypergradient {config.hypergradient!r} with {config.method}",
            "first or one-level",
            "its gates are drawn once for an update, and the other kinds differentiate several passes",
        )
    return Choices(relaxation=BinaryGates())


METHODS = (
    # The authors' search in the NASNet space, which is larger than the one on NAS-Bench-201 by its batch only.
    Method(
        "gdas",
        "one operator an edge, drawn with Gumbel noise, its gradient straight through: a step costs one path",
        "Dong, Yang: GDAS, CVPR 2019, section 3.2",
        {
            "hypergradient": "first",
            "epochs": 250,
            "batch_size": 256,
            "weight_decay": 5e-4,
            "nesterov": True,
            "weights_first": True,
        },
        options={"tau_max": 10.0, "tau_min": 0.1},
        small=_DIGITS,
        compose=_gdas,
    ),
    # Without the penalty on operations and memory, which makes SNAS another problem. The authors learn weights and
    # alphas from one backward pass and so from one draw; here each level draws its own.
    Method(
        "snas",
        "all operators, mixed by a draw from the concrete distribution; one level, the temperature falls",
        "Xie et al.: SNAS, ICLR 2019, section 2.2",
        {"hypergradient": "one-level", "one_level": True, "epochs": 150, "arch_grad_clip": 10.0},
        options={"tau_max": 1.0, "tau_min": 0.03},
        compose=_snas,
    ),
    # The authors' settings for ImageNet and their own space of layers: 40 epochs of weights, then 120 of both levels.
    # Not taken over: label smoothing, the penalty on latency, and four weight steps without the alphas in every five.
    Method(
        "proxyless",
        "binary gates: the weights learn on one drawn path, the alphas on two",
        "Cai, Zhu, Han: ProxylessNAS, ICLR 2019, Eq. 2 to 4",
        {
            "hypergradient": "first",
            "epochs": 160,
            "arch_start_epoch": 40,
            "batch_size": 256,
            "lr_min": 0.0,
            "weight_decay": 4e-5,
            "nesterov": True,
            "arch_lr": 1e-3,
            "arch_beta1": 0.0,
            "arch_weight_decay": 0.0,
        },
        small=_DIGITS,
        compose=_proxyless,
    ),
)
