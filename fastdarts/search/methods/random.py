"""Random search, and random search with weight sharing: what every search has to beat."""

from __future__ import annotations

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.sampling import RandomArchitecture, UniformPath
from fastdarts.search.selection import SharedWeights

__all__ = ["METHODS"]


def _needs_no_alphas(config: SearchConfig) -> None:
    for name in ("eigenvalue_every", "restart_after", "check_hypergradient"):
        if getattr(config, name):
            raise UserError(
                f"{name} with {config.method}, whose alphas never learn",
                f"{name} left out",
                "use a method that searches",
            )


def _random_search(config: SearchConfig) -> Choices:
    _needs_no_alphas(config)
    return Choices(relaxation=RandomArchitecture(config.seed, config.epochs))


def _random_ws(config: SearchConfig) -> Choices:
    _needs_no_alphas(config)
    names = ("samples", "finalists", "batches", "per_round")
    counts = [config.options[name] for name in names]
    for name, count in zip(names, counts, strict=True):
        if count < 1:
            raise UserError(f"{name} is {count}", "at least 1")
    with_none = config.options["with_none"]
    samples, finalists, batches, per_round = counts
    selection = SharedWeights(samples, finalists, batches, per_round, with_none)
    return Choices(relaxation=UniformPath(with_none), derivation=selection)


METHODS = (
    Method(
        "random-search",
        "a uniformly random architecture every epoch; the answer is the last epoch's",
        "Sciuto et al.: Evaluating the Search Phase of NAS, ICLR 2020, section 3.1.2",
        {"hypergradient": "first"},
        compose=_random_search,
    ),
    Method(
        "random-ws",
        "weights learn on a uniformly random path a step, then the best of 1000 random architectures by validation",
        "Li, Talwalkar: Random Search and Reproducibility for NAS, UAI 2019, section 3.2",
        {"hypergradient": "first"},
        options={"samples": 1000, "finalists": 10, "batches": 10, "per_round": 1000, "with_none": False},
        # A path costs a quarter of a mixture, and every operator learns in an eighth of the steps: a minute and a half.
        small={"epochs": 60, "samples": 100, "finalists": 5},
        compose=_random_ws,
        # All samples were one round.
        earlier={"per_round": 2**40, "with_none": False},
    ),
)
