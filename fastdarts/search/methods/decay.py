"""beta-DARTS: a penalty on the logits of the mixing weights."""

from __future__ import annotations

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.relaxation import BetaDecay

__all__ = ["METHODS"]


def _beta(config: SearchConfig) -> Choices:
    largest = float(config.options["beta_decay"])
    if largest <= 0.0:
        raise UserError(f"beta_decay is {largest}", "above 0", "without it this is darts-first")
    return Choices(relaxation=BetaDecay(largest, config.epochs))


METHODS = (
    Method(
        "beta-darts",
        "darts-first with a penalty on the logits of the mixing weights that rises from 0 over the search",
        "Ye et al.: beta-DARTS, CVPR 2022, section 3.2",
        {"hypergradient": "first"},
        {"beta_decay": 50.0},
        compose=_beta,
    ),
)
