"""`fastdarts plan`: whether a search fits, in which memory mode, at which batch size; nothing is allocated."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_json
from fastdarts.errors import UserError

if TYPE_CHECKING:
    from fastdarts.nn import Supernet
    from fastdarts.plan import Work
    from fastdarts.profile import Predictor, Usage
    from fastdarts.search import SearchConfig
    from fastdarts.spaces import Space

__all__ = ["plan"]

# Classes, channels and sides of the sets' images: a plan reads no files. tests/test_cli_plan.py holds the table true.
_IMAGES = {
    "digits": (10, 1, (8, 8)),
    "cifar10": (10, 3, (32, 32)),
    "cifar100": (100, 3, (32, 32)),
    "svhn": (10, 3, (32, 32)),
    "mnist": (10, 1, (28, 28)),
    "fashion-mnist": (10, 1, (28, 28)),
}
_DTYPES = ("float32", "bfloat16")
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}

Budget = Annotated[
    str | None, typer.Option(help="Memory limit, e.g. 11GB or 8GiB. Also finds the largest batch that fits.")
]
Classes = Annotated[int | None, typer.Option(help="Number of classes. (default: the data set's)")]
Dtype = Annotated[str, typer.Option(help="Data type of weights and images: float32 or bfloat16.")]
ImageSize = Annotated[
    str | None, typer.Option(help="Image size in pixels, e.g. 32 or 224x192 (H x W). (default: the data set's)")
]
Memory = Annotated[str, typer.Option(help="Memory mode: fast, balanced, lean or all.")]


def plan(
    method: options.Method = "darts-first",
    space: options.Space = None,
    data: options.Data = None,
    image_size: ImageSize = None,
    classes: Classes = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    dtype: Dtype = "float32",
    memory: Memory = "all",
    budget: Budget = None,
    settings: options.Settings = None,
    as_json: options.AsJson = False,
) -> None:
    """Show how much memory a search step needs in each memory mode, and whether it fits. Allocates nothing."""
    import torch

    from fastdarts.cli.settings import configured
    from fastdarts.plan import MEMORY
    from fastdarts.profile import largest_batch

    data = data or "digits"
    named = {"batch_size": batch_size, "channels": channels, "layers": layers}
    config, chosen = configured(method, data, space, named, settings)
    allowed = _bytes(budget) if budget is not None else None
    modes = MEMORY if memory == "all" else (_one_of("memory", memory, (*MEMORY, "all")),)
    _one_of("dtype", dtype, _DTYPES)
    known_classes, in_channels, size = _IMAGES[_one_of("data", data, tuple(_IMAGES))]
    size = size if image_size is None else _size(image_size)
    images = {"classes": known_classes if classes is None else classes, "in_channels": in_channels}
    usages, largest = {}, {}
    predictor = _predictor(config, chosen, size, images, getattr(torch, dtype))
    for mode in modes:
        predict = functools.partial(predictor, memory=mode)
        usages[mode] = predict(config.batch_size)
        if allowed is not None:
            largest[mode] = largest_batch(predict, allowed, start=config.batch_size)
    facts = {"method": config.method, "space": chosen.name, "channels": config.channels, "layers": config.layers}
    facts |= {"partial": config.partial, "image_size": list(size), **images, "batch_size": config.batch_size}
    facts |= {"dtype": dtype, "budget_bytes": allowed, "notes": _notes(config)}
    verdict = "" if allowed is None else _verdict(usages, largest, allowed)
    if as_json:
        modes_json = {mode: _as_json(usage, largest.get(mode), allowed) for mode, usage in usages.items()}
        print_json(facts | {"modes": modes_json, "verdict": verdict})
    else:
        _print(facts, usages, largest, verdict)


def _notes(config: SearchConfig) -> list[str]:
    """Where the method's search is not the one that is planned: the plan knows the supernet, not the choices."""
    from fastdarts.search.methods import compose

    choices, notes = compose(config), []
    if choices.relaxation.asks_host:
        notes.append(f"{config.method} runs some of the operators only; this is a step with all of them, the most")
    if choices.first is not None:
        notes.append(f"{config.method} searches in stages; this is its first supernet, of {config.layers} cells")
    if config.auxiliary:
        notes.append("the auxiliary head is not counted")
    if config.drop_path or choices.skip_dropout is not None:
        notes.append("while paths or skips are dropped a pass runs in plain torch, which keeps more")
    if config.eigenvalue_every:
        notes.append("a measurement of the eigenvalue runs in plain torch, twice differentiable, which keeps more")
    return notes


def _predictor(
    config: SearchConfig, space: Space, size: tuple[int, int], images: Mapping[str, int], dtype: Any
) -> Predictor:
    from fastdarts.profile import Predictor

    build = functools.partial(planned_supernet, config, space, images["classes"], images["in_channels"])
    return Predictor(build, size, dtype=dtype)


def planned_supernet(
    config: SearchConfig, space: Space, classes: int, in_channels: int, *, stacked: bool = True
) -> Supernet:
    """The supernet that is planned and profiled: the search's, without what a method adds to some passes."""
    from fastdarts.nn import Supernet

    return Supernet(
        space,
        channels=config.channels,
        layers=config.layers,
        partial=config.partial,
        edge_normalisation=config.edge_normalisation,
        stem=config.stem,
        classes=classes,
        in_channels=in_channels,
        memory=config.memory,
        stacked=stacked,
    )


def usage_bytes(usage: Usage) -> dict[str, int]:
    """All of its figures in bytes, by name, and their total."""
    values = {name: value for name, value in vars(usage).items() if name.endswith("_bytes")}
    return values | {"total_bytes": usage.total_bytes}


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise UserError(f"{name} is {value!r}", f"one of {', '.join(known)}")
    return value


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text.strip().lower())
    if not found:
        raise UserError(f"image size {text!r}", "pixels, as 32 or 224x192")
    return int(found[1]), int(found[2] or found[1])


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(b|[kmgt]i?b?)", text.strip().lower())
    if not found or found[2].removesuffix("b") not in _UNITS or not float(found[1]):
        # A bare number was hardly meant in bytes.
        remedy = f"write {text}GB, or {text}B for bytes" if re.fullmatch(r"\d+(\.\d*)?", text.strip()) else ""
        raise UserError(f"budget {text!r}", "a number with its unit, as 11GB (10^9) or 8GiB (2^30)", remedy)
    return int(float(found[1]) * _UNITS[found[2].removesuffix("b")])


def _verdict(usages: Mapping[str, Usage], largest: Mapping[str, int], budget: int) -> str:
    """One sentence: the first mode that fits, since each one is slower than the one before."""
    from fastdarts.report.words import as_bytes

    batch = next(iter(usages.values())).batch
    most = max(largest, key=lambda mode: largest[mode])
    fitting = next((mode for mode, usage in usages.items() if usage.total_bytes <= budget), None)
    if fitting is not None:
        more = f" ({largest[most]} with {most})" if largest[most] > largest[fitting] else ""
        return f"fits with {fitting} at batch {batch}; largest batch {largest[fitting]}{more}"
    least = min(usages, key=lambda mode: usages[mode].total_bytes)
    needed = as_bytes(usages[least].total_bytes, 3)
    misses = f"does not fit at batch {batch}: {least} takes {needed} of {as_bytes(budget, 3)}"
    if not largest[most]:
        return f"{misses}; no batch fits"
    return f"{misses}; largest batch {largest[most]} with {most}"


def _as_json(usage: Usage, largest: int | None, budget: int | None) -> dict[str, Any]:
    values: dict[str, Any] = {**usage_bytes(usage), "flops": None}
    if usage.flops is not None:
        values["flops"] = {way: vars(getattr(usage.flops, way)) for way in ("forward", "backward")}
    if budget is not None:
        values |= {"fits": usage.total_bytes <= budget, "largest_batch": largest}
    return values


def _gflop(work: Work) -> str:
    return f"{work.total / 1e9:.4g}"


def _print(facts: Mapping[str, Any], usages: Mapping[str, Usage], largest: Mapping[str, int], verdict: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from fastdarts.report.words import as_bytes

    height, width = facts["image_size"]
    title = f"{facts['space']}, {facts['method']}: C {facts['channels']}, {facts['layers']} cells, "
    title += f"batch {facts['batch_size']} of {facts['in_channels']}x{height}x{width}, {facts['dtype']}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    names = ["memory", "kept for backward", "peak of a pass", "search step", "GFLOP forward", "backward"]
    for name in [*names, *(["largest batch"] if largest else [])]:
        table.add_column(name, justify="left" if name == "memory" else "right")
    for mode, usage in usages.items():
        work = ("-", "-") if usage.flops is None else (_gflop(usage.flops.forward), _gflop(usage.flops.backward))
        row = [as_bytes(each, 3) for each in (usage.kept_bytes, usage.peak_bytes, usage.total_bytes)]
        table.add_row(mode, *row, *work, *([str(largest[mode])] if largest else []))
    out = Console(highlight=False, markup=False, width=None if Console().is_terminal else 120)
    out.print(table)
    usage = next(iter(usages.values()))
    parts = ("weights", usage.weight_bytes), ("optimisers", usage.optimiser_bytes), ("two batches", usage.batch_bytes)
    besides = ", ".join(f"{name} {as_bytes(count, 3)}" for name, count in parts)
    gradients = as_bytes(usage.gradient_bytes, 3)
    out.print(f"search step: the peak, with gradients of {gradients} at its end, and {besides}", soft_wrap=True)
    for note in facts["notes"]:
        out.print(f"note: {note}", soft_wrap=True)
    if verdict:
        out.print(verdict, soft_wrap=True)
