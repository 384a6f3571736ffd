"""Methods that decide before the end, by the genotype: SGAS and DARTS+."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices, Guard
from fastdarts.search.config import SearchConfig
from fastdarts.search.greedy import Decisions, GreedyDecisions, GreedyDerivation, GreedyRelaxation
from fastdarts.search.methods.preset import Method
from fastdarts.search.stopping import SkipLimit, StableRanking

__all__ = ["METHODS"]


def _sgas(config: SearchConfig) -> Choices:
    decisions = Decisions()
    options = dict(config.options)
    decide_all = options.pop("decide_all")
    guard = GreedyDecisions(decisions, **options)
    if guard.decide_from >= config.epochs:
        raise UserError(
            f"decide_from is {guard.decide_from} with {config.epochs} epochs: no edge would be decided",
            f"from 0 to {config.epochs - 1}",
            "a cell of 4 nodes takes 8 decisions, decide_every epochs apart",
        )
    if config.edge_normalisation:
        raise UserError("sgas with edge_normalisation: a decided edge has weight 1", "edge_normalisation false")
    return Choices(
        GreedyRelaxation(decisions),
        guards=(guard,),
        derivation=GreedyDerivation(decisions),
        check=guard.check if decide_all else None,
    )


def _sgas_epochs(options: Mapping[str, Any]) -> int:
    """Up to the last of a cell's eight decisions, and five epochs after it."""
    return int(options["decide_from"]) + 7 * int(options["decide_every"]) + 6


def _darts_plus(config: SearchConfig) -> Choices:
    skips, stable, share = (config.options[name] for name in ("skips", "stable_epochs", "ignored_share"))
    if not 0.0 <= share < 1.0:
        raise UserError(f"ignored_share is {share}", "from 0 to below 1")
    start = round(share * config.epochs)
    guards: list[Guard] = []
    if skips:
        guards.append(SkipLimit(skips, start))
    if stable:
        guards.append(StableRanking(stable, start))
    if not guards:
        raise UserError("skips and stable_epochs are 0: nothing would stop the search", "one of them above 0")
    return Choices(guards=tuple(guards))


METHODS = (
    Method(
        "sgas",
        "edges are decided one by one, the clearest first, and what they lost is pruned",
        "Li et al.: SGAS, CVPR 2020, criteria 1 and 2",
        {"hypergradient": "first"},
        {"decide_from": 9, "decide_every": 5, "criterion": 1, "history": 4, "batch_increase": 8, "decide_all": True},
        # 15 epochs: 8 decisions after the 4th to the 11th, as 50 have them after the 10th to the 45th.
        {"decide_from": 3, "decide_every": 1},
        _sgas,
        earlier={"batch_increase": 0, "decide_all": False},
        epochs=_sgas_epochs,
    ),
    Method(
        "darts-plus",
        "darts-first, stopped when the genotype has two skip connections in a normal cell",
        "Liang et al.: DARTS+, arXiv 1909.06035, the criteria for early stopping",
        {"hypergradient": "first"},
        # The paper names no epochs that do not count; random alphas have two skips in a cell once in three times.
        {"skips": 2, "stable_epochs": 0, "ignored_share": 0.2},
        compose=_darts_plus,
    ),
)
