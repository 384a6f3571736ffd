"""Search methods: presets over the loop. A method is a composition of choices and its published hyper-parameters.

One more is a :class:`Method` in a file here and its line below; nothing else changes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastdarts.errors import UserError, nearest
from fastdarts.search.choices import Choices, Guard
from fastdarts.search.collapse import CollapseAlarm
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods import (
    amended,
    darts,
    decay,
    exponentiated,
    greedy,
    joint,
    partial,
    progressive,
    random,
    robust,
    sampled,
    smooth,
)
from fastdarts.search.methods.preset import Method
from fastdarts.search.stopping import Restart

__all__ = ["METHODS", "Method", "compose", "configure", "method"]

_FAMILIES = (darts, decay, exponentiated, amended, partial, progressive, smooth, robust, greedy, sampled, joint, random)

METHODS: Mapping[str, Method] = MappingProxyType({each.name: each for family in _FAMILIES for each in family.METHODS})
"""Every search method by the name that ``--method`` takes."""

# What one core searches in half a minute. Digits are 8 x 8, so three cells already reduce them to 2 x 2. One thread,
# so that the result does not depend on the number of cores; two win nothing on such small maps (87 ms a step for 83).
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
    near = nearest(name, METHODS)
    remedy = f"did you mean {near}?" if near else ""
    raise UserError(f"unknown method {name!r}", f"one of {', '.join(METHODS)}", remedy)


def configure(name: str = "darts-first", *, data: str = "digits", **overrides: Any) -> SearchConfig:
    """A method's published hyper-parameters, made small for the shipped data set, then ``overrides``.

    Args:
        name: a key of :data:`METHODS`.
        data: a data set's name; for ``digits`` the epochs, width, depth and batch size are small.
        overrides: any fields of :class:`SearchConfig`, and the method's own options by their names. A preset space
            brings its number of layers where the method has none, and the epochs in which the alphas wait keep their
            published share of all epochs, unless they are given here.

    Raises:
        UserError: for an unknown method, field or option, or a value out of range.
    """
    from fastdarts.data import default_augmentation
    from fastdarts.spaces import space, space_names

    chosen = method(name)
    fields = set(SearchConfig.__dataclass_fields__)
    unknown = sorted(set(overrides) - fields - set(chosen.options))
    if unknown:
        own = f"; {name} has {', '.join(chosen.options)}" if chosen.options else ""
        raise UserError(f"unknown setting {unknown[0]!r}", f"one of {', '.join(sorted(fields))}{own}")
    small = chosen.small if data == "digits" else {}
    values: dict[str, Any] = dict(chosen.defaults)
    wanted = overrides.get("space", values.get("space"))
    if wanted in space_names() and "layers" not in values:
        values["layers"] = space(wanted).layers
    if data == "digits":
        values |= {**_DIGITS, "arch_lr": _DIGITS_ARCH_LR_FACTOR * values.get("arch_lr", SearchConfig.arch_lr)}
        values |= {key: value for key, value in small.items() if key in fields}
    options = {key: overrides.get(key, small.get(key, default)) for key, default in chosen.options.items()}
    if chosen.epochs is not None and (data != "digits" or set(overrides) & set(chosen.options)):
        values["epochs"] = chosen.epochs(options)
    epochs = overrides.get("epochs", values.get("epochs", SearchConfig.epochs))
    if isinstance(epochs, int):
        # A search of fewer epochs than the published one would otherwise end before its alphas have learnt.
        published = chosen.defaults.get("epochs", SearchConfig.epochs)
        for waiting in ("arch_start_epoch", "warmup_epochs", "waiting_epochs"):
            values[waiting] = chosen.defaults.get(waiting, 0) * epochs // published
    augmentation = default_augmentation(data)
    values |= {"crop": augmentation.crop, "flip": augmentation.flip}
    values.setdefault("cutout", augmentation.cutout)
    given = {key: value for key, value in overrides.items() if key in fields}
    return SearchConfig(**({**values, "method": name, "data": data, "options": options} | given))


def compose(config: SearchConfig) -> Choices:
    """The choices of one search: the method's, and the guards that any search can have.

    Raises:
        UserError: for options that the method does not have, or that do not fit.
    """
    chosen = method(config.method)
    config = dataclasses.replace(config, options={**chosen.earlier, **config.options})
    if set(config.options) != set(chosen.options):
        wrong = sorted(set(config.options) ^ set(chosen.options))
        raise UserError(f"method {config.method}: options {', '.join(wrong)} unknown or missing", "configure() it")
    for name, default in chosen.options.items():
        value = config.options[name]
        kind = (int, float) if isinstance(default, float) else type(default)
        if not isinstance(value, kind) or isinstance(value, bool) is not isinstance(default, bool):
            raise UserError(f"{name} is {value!r}", f"a {type(default).__name__}, as {default!r}")
        for each in value if isinstance(value, tuple) else (value,):
            number = isinstance(each, (int, float)) and not isinstance(each, bool)
            if (number and not abs(each) < 2**53) or (isinstance(value, tuple) and not number):
                raise UserError(f"{name} is {str(value)[:40]}", f"finite numbers below 2**53, as {default!r}")
    choices = chosen.compose(config)
    if config.restart_after and choices.guards:
        raise UserError(
            f"restart_after is {config.restart_after} with {config.method}, which ends or stages its search itself",
            "restart_after 0",
            "use --method darts-first to restart a search",
        )
    return dataclasses.replace(choices, guards=(*choices.guards, *_common(config)))


def _common(config: SearchConfig) -> tuple[Guard, ...]:
    restart = (Restart(config.restart_after, config.arch_start_epoch),) if config.restart_after else ()
    return (*restart, CollapseAlarm())
