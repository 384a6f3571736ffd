"""SmoothDARTS: the weights learn around the mixing weights and not only at them."""

from __future__ import annotations

from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods import partial
from fastdarts.search.methods.preset import Method
from fastdarts.search.perturbation import AdversarialPerturbation, RandomPerturbation

__all__ = ["METHODS"]

_SMOOTH = "Chen and Hsieh: SmoothDARTS, ICML 2020"
# First order, as the authors say where the paper does not.
_DARTS = {"hypergradient": "first"}
_PC_DARTS = next(each.defaults for each in partial.METHODS if each.name == "pc-darts")


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
        "sdarts-rs with the settings of pc-darts",
        f"{_SMOOTH}, PC-SDARTS-RS",
        _PC_DARTS,
        _RANDOM_OPTIONS,
        compose=_random,
    ),
    Method(
        "pc-sdarts-adv",
        "sdarts-adv with the settings of pc-darts",
        f"{_SMOOTH}, PC-SDARTS-ADV",
        _PC_DARTS,
        _ADVERSARIAL_OPTIONS,
        compose=_adversarial,
    ),
)
