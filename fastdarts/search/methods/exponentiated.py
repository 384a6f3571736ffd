"""GAEA: exponentiated gradients for DARTS and PC-DARTS."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.exponentiated import Exponentiated
from fastdarts.search.methods.preset import Method

__all__ = ["METHODS"]

_GAEA = "Li, Khodak, Balcan, Talwalkar: Geometry-Aware Gradient Algorithms for NAS, ICLR 2021"
_SIMPLEX: Mapping[str, Any] = MappingProxyType(
    {"hypergradient": "first", "arch_lr": 0.1, "arch_weight_decay": 0.0, "alpha_scale": 0.0}
)


def _exponentiated(config: SearchConfig) -> Choices:
    if config.arch_weight_decay:
        raise UserError(
            f"arch_weight_decay is {config.arch_weight_decay} with {config.method}",
            "0: on the simplex there is no norm to decay",
        )
    return Choices(relaxation=Exponentiated())


METHODS = (
    Method(
        "gaea-darts",
        "darts-first, whose mixing weights descend by exponentiated gradients",
        f"{_GAEA}, Algorithm 2",
        _SIMPLEX,
        compose=_exponentiated,
    ),
    Method(
        "gaea-pc-darts",
        "pc-darts, whose mixing and edge weights descend by exponentiated gradients, from the first epoch on",
        f"{_GAEA}, Algorithm 2 and section 5.1",
        {
            **_SIMPLEX,
            "partial": 4,
            "edge_normalisation": True,
            "batch_size": 256,
            "lr": 0.1,
            "lr_min": 0.0,
        },
        compose=_exponentiated,
    ),
)
