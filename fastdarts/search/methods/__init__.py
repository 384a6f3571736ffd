"""Search methods: presets over the loop. A method is a relaxation and its published hyper-parameters."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.config import SearchConfig
from fastdarts.search.relaxation import Relaxation, softmax

__all__ = ["METHODS", "Method", "configure", "method"]


@dataclass(frozen=True)
class Method:
    """One search method.

    Args:
        name: what ``--method`` takes.
        summary: one line for ``--help`` and the report.
        source: paper and equation.
        defaults: fields of :class:`SearchConfig` that differ from its defaults, as published.
        relaxation: how alphas become mixing weights.
    """

    name: str
    summary: str
    source: str
    defaults: Mapping[str, Any] = field(default_factory=dict)
    relaxation: Relaxation = softmax


_DARTS = "Liu, Simonyan, Yang: DARTS, ICLR 2019"

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        each.name: each
        for each in (
            Method(
                "darts-one-level",
                "alphas and weights learn together on the whole training set",
                f"{_DARTS}, section 3.3 (alternative optimisation strategies)",
                {"hypergradient": "one-level", "one_level": True},
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
                "pc-darts",
                "first order on 1/4 of the channels, edge normalisation, alphas wait 15 epochs",
                "Xu et al.: PC-DARTS, ICLR 2020, Eq. 3 and 4",
                {
                    "hypergradient": "first",
                    "partial": 4,
                    "edge_normalisation": True,
                    "arch_start_epoch": 15,
                    "batch_size": 256,
                    "lr": 0.1,
                    "lr_min": 0.0,
                    "arch_lr": 6e-4,
                },
            ),
        )
    }
)

# What one core searches in three minutes. Digits are 8 x 8, so three cells already reduce them to 2 x 2. One thread,
# so that the result does not depend on the number of cores; two would take 0.7 s a step instead of 0.95.
_DIGITS: Mapping[str, Any] = MappingProxyType(
    {"epochs": 15, "channels": 8, "layers": 3, "batch_size": 64, "threads": 1}
)
# The alphas take 165 steps here and 19,500 in DARTS; at the published rate Adam could not move them by a twentieth.
_DIGITS_ARCH_LR_FACTOR = 30


def method(name: str) -> Method:
    """Look a method up by name.

    Raises:
        UserError: for an unknown name, with the nearest one.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name, METHODS, n=1)
    remedy = f"did you mean {near[0]}?" if near else ""
    raise UserError(f"unknown method {name!r}", f"one of {', '.join(METHODS)}", remedy)


def configure(name: str = "darts-first", *, data: str = "digits", **overrides: Any) -> SearchConfig:
    """A method's published hyper-parameters, made small for the shipped data set, then ``overrides``.

    Args:
        name: a key of :data:`METHODS`.
        data: a data set's name; for ``digits`` the epochs, width, depth and batch size are small.
        overrides: any fields of :class:`SearchConfig`. A preset space brings its number of layers, and the epochs in
            which the alphas wait keep their published share of all epochs, unless they are given here.

    Raises:
        UserError: for an unknown method or field, or a value out of range.
    """
    from fastdarts.data import default_augmentation
    from fastdarts.spaces import space, space_names

    chosen = method(name)
    unknown = sorted(set(overrides) - set(SearchConfig.__dataclass_fields__))
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}", f"one of {', '.join(SearchConfig.__dataclass_fields__)}")
    values: dict[str, Any] = dict(chosen.defaults)
    if overrides.get("space") in space_names():
        values["layers"] = space(overrides["space"]).layers
    if data == "digits":
        values |= _DIGITS
        values["arch_lr"] = _DIGITS_ARCH_LR_FACTOR * values.get("arch_lr", SearchConfig.arch_lr)
    epochs = overrides.get("epochs", values.get("epochs", SearchConfig.epochs))
    if isinstance(epochs, int):
        # A search of fewer epochs than the published one would otherwise end before its alphas have learnt.
        values["arch_start_epoch"] = chosen.defaults.get("arch_start_epoch", 0) * epochs // SearchConfig.epochs
    augmentation = default_augmentation(data)
    values |= {"crop": augmentation.crop, "flip": augmentation.flip, "cutout": augmentation.cutout}
    return SearchConfig(**(values | {"method": name, "data": data} | overrides))
