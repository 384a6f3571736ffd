"""From what was typed to the fields of a configuration; what cannot be meant is refused here, not overridden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdarts.cli.options import MOST
from fastdarts.cli.targets import Target, read_space
from fastdarts.errors import UserError

if TYPE_CHECKING:
    from fastdarts.search import SearchConfig
    from fastdarts.spaces import Genotype, Space

__all__ = [
    "absolute",
    "configured",
    "given",
    "plan_after",
    "read_integers",
    "read_seeds",
    "read_settings",
    "retraining",
    "trained_after",
]

# What --set cannot set, and which option or argument does.
_OTHERWISE = {
    "method": "--method",
    "space": "--space",
    "data": "--data",
    "device": "--device",
    "backend": "--backend",
    "memory": "--memory",
    "graph": "--graph",
    "genotype": "the argument TARGET",
}


_MOST_CELLS = 10_000


def given(named: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in named.items() if value is not None}


def absolute(root: str | None) -> str | None:
    """``--root`` as a run keeps it, so that it is resumed from any folder."""
    return None if root is None else str(Path(root).expanduser().absolute())


def configured(
    method: str, data: str, space: str | None, named: Mapping[str, Any], settings: list[str] | None
) -> tuple[SearchConfig, Space]:
    """A search's configuration from what was typed, and the space it names or the method's own.

    Args:
        method: name of a method.
        data: name of a data set.
        space: name or file of a space; None for the method's.
        named: options of the command by their field's name; None where one was not given.
        settings: the texts of ``--set``.

    Raises:
        UserError: as :func:`read_settings` and :func:`fastdarts.search.configure` do.
    """
    from fastdarts.search import SearchConfig, configure
    from fastdarts.search import method as find

    overrides = given(named) | read_settings(settings, SearchConfig, named, find(method).options)
    if space is None:
        config = configure(method, data=data, **overrides)
        return config, read_space(config.space)
    chosen = read_space(space)
    if data != "digits":
        overrides.setdefault("layers", chosen.layers)
    return configure(method, data=data, space=chosen.name, **overrides), chosen


def read_settings(
    pairs: list[str] | None, config: type, named: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Read ``--set NAME=VALUE`` by the type of the field it names, or by the default of the option.

    Args:
        pairs: the texts.
        config: the configuration's dataclass.
        named: options of the command by their field's name; None where one was not given.
        options: defaults of the method's own options.

    Raises:
        UserError: for a name or value that does not fit, or a setting that is given twice.
    """
    types = {field.name: str(field.type) for field in fields(config) if str(field.type) in _KINDS}
    readers = {name: (_KINDS[kind], kind) for name, kind in types.items()}
    readers |= {name: _reader(default) for name, default in (options or {}).items()}
    otherwise = {name: option for name, option in _OTHERWISE.items() if name in types}
    if "seed" in types and "seed" not in named:
        otherwise["seed"] = "--seeds"
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, found, text = pair.partition("=")
        name, text = name.strip().replace("-", "_"), text.strip()
        if not found or name not in readers or name in otherwise:
            known = ", ".join(sorted(set(readers) - set(otherwise)))
            remedy = f"use {otherwise[name]}" if name in otherwise else ""
            raise UserError(f"--set {pair}", f"NAME=VALUE with one of {known}", remedy)
        if name in values or named.get(name) is not None:
            raise UserError(f"--set {pair}: {name} is given twice", "each setting once")
        read, kind = readers[name]
        try:
            values[name] = read(text)
        except ValueError as error:
            expected = f"a value of type {kind}" + (", true or false" if kind == "bool" else "")
            raise UserError(f"--set {pair}", expected) from error
    return values


def _reader(default: Any) -> tuple[Callable[[str], Any], str]:
    """How a method's option is read, and what to call its type: both follow from its default."""
    if not isinstance(default, tuple):
        kind = type(default).__name__
        return _KINDS[kind], kind
    # Whole numbers stay whole unless the default shows that fractions are meant.
    number = float if any(isinstance(each, float) for each in default) else int
    return lambda text: tuple(number(part) for part in text.split(",") if part.strip()), "numbers with commas"


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


_KINDS: Mapping[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": _boolean}


def read_integers(text: str) -> tuple[int, ...]:
    """Read a list such as ``0,10,20``.

    Raises:
        UserError: for anything else.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"{text!r} is no list of numbers", "whole numbers with commas, e.g. 0,10,20") from error


def read_seeds(text: str) -> tuple[int, ...]:
    """Seeds as every command takes them: ``0,1,2`` names them, and a number alone says how many, from 0.

    Raises:
        UserError: for anything else.
    """
    numbers = read_integers(text)
    if "," in text:
        return numbers
    if len(numbers) != 1 or not 1 <= numbers[0] <= MOST:
        remedy = f"a single seed is written with a comma: --seeds {text.strip()}," if text.strip() else ""
        raise UserError(f"--seeds {text}", f"a list such as 0,1,2, or how many (1 to {MOST})", remedy)
    return tuple(range(numbers[0]))


def plan_after(
    data: str, retrain_epochs: int | None, random_cells: int, sizes: Mapping[str, int | None]
) -> dict[str, int]:
    """What follows a search, as its run keeps it; refused now rather than when the search is over.

    Args:
        data: name of the data set.
        retrain_epochs: of the trainings; None for 15 on digits and none elsewhere.
        random_cells: how many are trained beside the found one.
        sizes: ``channels``, ``layers`` and ``batch_size`` of the networks, None where one was not given.

    Raises:
        UserError: for numbers that cannot be, or a comparison without retraining.
    """
    if random_cells == 1 or not 0 <= random_cells <= _MOST_CELLS:
        raise UserError(f"random_cells is {random_cells}", f"0 for no comparison, or 2 to {_MOST_CELLS}")
    if retrain_epochs is not None and retrain_epochs < 0:
        raise UserError(f"retrain_epochs is {retrain_epochs}", "0 for no retraining, or more")
    if retrain_epochs == 0 and random_cells:
        raise UserError(
            f"--retrain-epochs 0 with --random-cells {random_cells}",
            "epochs for every network of the comparison",
            "leave one of the two out",
        )
    if retrain_epochs is None:
        retrain_epochs = 15 if data == "digits" else 0
        if random_cells and not retrain_epochs:
            from fastdarts.evaluate import RetrainConfig

            # A comparison is one of trained networks: as published.
            retrain_epochs = RetrainConfig.epochs
    chosen = {f"retrain_{name}": value for name, value in given(sizes).items()}
    if chosen and not retrain_epochs:
        option = next(iter(chosen)).replace("_", "-")
        raise UserError(f"--{option} without trainings after the search", "epochs for them", "add --retrain-epochs N")
    return {"retrain_epochs": retrain_epochs, "random_cells": random_cells, **chosen}


def trained_after(after: Mapping[str, Any], searched: Mapping[str, Any], found: Genotype) -> dict[str, Any]:
    """The settings of the trainings that follow a search.

    Args:
        after: from :func:`plan_after`.
        searched: the search's configuration, by field.
        found: the genotype, which may have its own depth.
    """
    from fastdarts import evaluate

    named = {name: searched[name] for name in ("data", "data_root", "device", "backend")}
    for name in ("epochs", "channels", "layers", "batch_size"):
        if after.get(f"retrain_{name}"):
            named[name] = after[f"retrain_{name}"]
    return evaluate.budget(found=found, **named)


def retraining(chosen: Target, named: Mapping[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """A retraining's settings: what was named, else the data of the run the genotype is from, else digits.

    Raises:
        UserError: as :func:`read_settings` does.
    """
    from fastdarts import evaluate

    searched = chosen.run.config.get("config") if chosen.run else None
    searched = searched if isinstance(searched, dict) else {}
    overrides = given(named) | read_settings(settings, evaluate.RetrainConfig, named)
    if "data" not in overrides and searched.get("data_root") is not None:
        overrides.setdefault("data_root", searched["data_root"])
    data = overrides.pop("data", searched.get("data", "digits"))
    return evaluate.budget(data, found=chosen.genotype, **overrides)
