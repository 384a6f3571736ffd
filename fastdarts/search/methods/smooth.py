"""SmoothDARTS: the weights learn around the mixing weights and not only at them."""

from __future__ import annotations

from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.perturbation import AdversarialPerturbation, RandomPerturbation

__all__ = ["METHODS"]

_SMOOTH = "Chen and Hsieh: SmoothDARTS, ICML 2020"
# First order, as the authors say where the paper does not; DARTS' space as they search it, without `none`.
_DARTS = {"hypergradient": "first", "space": "darts-without-none"}
# The settings of their script for it: DARTS', on a quarter of the channels, without edge weights and without waiting.
_PC_DARTS = {**_DARTS, "partial": 4, "edge_normalisation": False}


def _random(config: SearchConfig) -> Choices:
    return Choices(perturbation=RandomPerturbation(config.options["perturbation"], config.epochs))


def _adversarial(config: SearchConfig) -> Choices:
    options = config.options
    return Choices(
        perturbation=AdversarialPerturbation(options["perturbation"], config.epochs, options["attack_steps"])
    )


_RANDOM_OPTIONS = {"perturbation": 0.3}
_ADVERSARIAL_OPTIONS = {"perturbation": 0.3, "attack_steps": 7}

METHODS = (
    Method(
        "sdarts-rs",
        "the weights learn under mixing weights with random noise",
        f"{_SMOOTH}, SDARTS-RS and Algorithm 1",
        _DARTS,
        _RANDOM_OPTIONS,
        compose=_random,
    ),
    Method(
        "sdarts-adv",
        "the weights learn under the worst mixing weights nearby, found by 7 steps of ascent",
        f"{_SMOOTH}, SDARTS-ADV and Algorithm 1",
        _DARTS,
        _ADVERSARIAL_OPTIONS,
        compose=_adversarial,
    ),
    Method(
        "pc-sdarts-rs",
        "sdarts-rs on a quarter of the channels",
        f"{_SMOOTH}, PC-SDARTS-RS",
        _PC_DARTS,
        _RANDOM_OPTIONS,
        compose=_random,
    ),
    Method(
        "pc-sdarts-adv",
        "sdarts-adv on a quarter of the channels",
        f"{_SMOOTH}, PC-SDARTS-ADV",
        _PC_DARTS,
        _ADVERSARIAL_OPTIONS,
        compose=_adversarial,
    ),
)
