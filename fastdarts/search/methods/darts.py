"""DARTS, by the gradient of its architecture level."""

from __future__ import annotations

from fastdarts.search.methods.preset import Method

__all__ = ["METHODS"]

_DARTS = "Liu, Simonyan, Yang: DARTS, ICLR 2019"

METHODS = (
    Method(
        "darts-one-level",
        "alphas and weights learn together on one set of images; a tenth is held out to validate",
        f"{_DARTS}, section 3.3 (alternative optimisation strategies)",
        {"hypergradient": "one-level", "one_level": True, "held_out": 0.1},
    ),
    Method(
        "darts-first",
        "bilevel, the gradient of the validation loss at the current weights",
        f"{_DARTS}, Eq. 7 with xi = 0",
        {"hypergradient": "first"},
    ),
    Method(
        "darts-second",
        "bilevel, the validation loss after one unrolled weight step, by finite differences",
        f"{_DARTS}, Eq. 7 and 8",
        {"hypergradient": "second"},
    ),
    Method(
        "darts-second-exact",
        "bilevel, the validation loss after one unrolled weight step, by double backward",
        f"{_DARTS}, Eq. 7",
        {"hypergradient": "second-exact"},
    ),
    Method(
        "darts-pt",
        "darts-first, whose genotype is selected by what the supernet loses without an operator",
        "Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021, Algorithm 1",
        {"hypergradient": "first", "space": "darts-without-none", "select": "perturbation"},
        small={"select_tune_epochs": 1},
    ),
)
