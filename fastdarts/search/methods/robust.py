"""R-DARTS: early stopping, adaptive weight decay and stronger regularisation of DARTS of second order."""

from __future__ import annotations

from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.early_stopping import AdaptiveWeightDecay, EarlyStopping, Rise
from fastdarts.search.methods.preset import Method

__all__ = ["METHODS"]

_ROBUST = "Zela et al.: Understanding and Robustifying Differentiable Architecture Search, ICLR 2020"
_SECOND = {"hypergradient": "second"}
_RULE = {"window": 5, "delta": 4, "factor": 1.3, "start_epoch": 10}
# With the published settings nothing is judged before epoch 22, and there are 15. The start stays a fifth of them; the
# rows of an exact Hessian would take longer than the epoch itself.
_SMALL = {"eigenvalue_every": 1, "eigenvalue": "lanczos", "start_epoch": 3}


def _rule(config: SearchConfig) -> Rise:
    return Rise(**{name: config.options[name] for name in _RULE})


def _early_stopping(config: SearchConfig) -> Choices:
    return Choices(guards=(EarlyStopping(_rule(config), config.eigenvalue_every),))


def _adaptive(config: SearchConfig) -> Choices:
    guard = AdaptiveWeightDecay(
        _rule(config),
        config.eigenvalue_every,
        weight_decay=config.weight_decay,
        factor=config.options["decay_factor"],
        largest=config.options["max_weight_decay"],
        # A run that began before there was a choice goes on as it began.
        history=config.options.get("ada_history", "paper"),
    )
    return Choices(guards=(guard,))


# All three search S1 to S4 as well (`--space s1`), where RobustDARTS was made for; drop-path, and cutout with it, are
# off in the first two as in its scripts.
METHODS = (
    Method(
        "r-darts-es",
        "second order, stopped before the dominant eigenvalue of the validation loss's Hessian rises",
        f"{_ROBUST}, section 4 (DARTS-ES)",
        _SECOND | {"eigenvalue_every": 2},
        _RULE,
        _SMALL,
        _early_stopping,
    ),
    Method(
        "r-darts-ada",
        "second order; when the eigenvalue rises, back to before it with ten times the weight decay",
        f"{_ROBUST}, section 5 (DARTS-ADA)",
        _SECOND | {"eigenvalue_every": 2},
        _RULE | {"decay_factor": 10.0, "max_weight_decay": 0.03, "ada_history": "paper"},
        _SMALL,
        _adaptive,
    ),
    # One search of the grid: weight_decay 3e-4, 9e-4, 27e-4, 81e-4, 243e-4 (`--grid`). The other axis is drop_path 0,
    # 0.2, 0.4, 0.6, with cutout 16 where it is above 0; both probabilities rise from 0 over the search.
    Method(
        "r-darts-l2",
        "second order with 27 times DARTS' weight decay; the published grid with --grid weight_decay=3e-4,9e-4,...",
        f"{_ROBUST}, section 5 (R-DARTS)",
        _SECOND | {"weight_decay": 81e-4, "ramp": True},
    ),
)
