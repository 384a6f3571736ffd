"""The command line: `fastdarts search | retrain | compare | show | doctor`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from fastdarts.cli import options
from fastdarts.errors import UserError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Differentiable architecture search: search, retrain, and compare with random choice.\n\n"
    "Start with `fastdarts search`: it searches on scikit-learn's digits and needs no other file.",
)

# typer 0.29 carries click inside itself and earlier ones import it; what both show is this class's ancestry.
_USAGE_ERROR = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")


@app.command(epilog="Examples: fastdarts search --method pc-darts | fastdarts search --data cifar10 --root ~/data")
def search(
    context: typer.Context,
    method: options.Method = "darts-first",
    space: options.Space = None,
    data: options.Data = None,
    root: options.Root = None,
    run: options.Run = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    hypergradient: options.Hypergradient = None,
    check_hypergradient: options.CheckHypergradient = "",
    seed: options.Seed = None,
    settings: options.Settings = None,
    retrain_epochs: options.RetrainEpochs = None,
    random_cells: options.RandomCells = 0,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    resume: options.Resume = None,
    previous: options.Previous = False,
    as_json: options.AsJson = False,
) -> None:
    """Search for an architecture; ends with a genotype, its test accuracy, and a report."""
    from fastdarts import search as searching
    from fastdarts.cli.afterwards import finish_run
    from fastdarts.cli.targets import read_space

    progress = _progress(as_json)
    if resume is not None:
        _refuse_others(context)
        result = searching.resume(resume, previous=previous, progress=progress)
    else:
        data = data or "digits"
        if random_cells == 1 or random_cells < 0:
            raise UserError(f"random_cells is {random_cells}", "0 for no comparison, or at least 2")
        named = {"epochs": epochs, "batch_size": batch_size, "channels": channels, "layers": layers, "seed": seed}
        named |= {"hypergradient": hypergradient, "data_root": root}
        overrides = _given(named) | {"device": device, "backend": backend}
        overrides["check_hypergradient"] = _integers(check_hypergradient)
        overrides |= _settings(settings, searching.SearchConfig)
        chosen_space = read_space(space or "darts")
        config = searching.configure(method, data=data, space=chosen_space.name, **overrides)
        if retrain_epochs is None:
            retrain_epochs = 15 if data == "digits" else 0
        result = searching.search(
            config,
            run or _new_run(f"{method}-{data}"),
            search_space=chosen_space,
            progress=progress,
            command=_command(),
            after={"retrain_epochs": retrain_epochs, "random_cells": random_cells},
        )
    _print(finish_run(result, progress), as_json)


@app.command(epilog="Examples: fastdarts retrain runs/mine | fastdarts retrain DARTS_V2 --data cifar10 --root ~/data")
def retrain(
    context: typer.Context,
    target: options.Target = None,
    data: options.Data = None,
    root: options.Root = None,
    run: options.Run = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    seed: options.Seed = None,
    settings: options.Settings = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    resume: options.Resume = None,
    previous: options.Previous = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the network of a genotype from scratch and test it, once, at the end."""
    from fastdarts import evaluate
    from fastdarts.cli.targets import read_target

    progress = _progress(as_json)
    if resume is not None:
        _refuse_others(context)
        result = evaluate.continue_retrain(resume, previous=previous, progress=progress)
    else:
        chosen = read_target(target)
        named = {"epochs": epochs, "batch_size": batch_size, "channels": channels, "layers": layers, "seed": seed}
        named |= {"data": data, "data_root": root, "device": device, "backend": backend}
        config = evaluate.RetrainConfig(genotype=chosen.genotype.text(), **_budget(chosen, named, settings))
        path = run or _new_run("retrain")
        result = evaluate.retrain(config, path, progress=progress, command=_command())
    _print({key: value for key, value in result.items() if key not in ("genotype", "history")}, as_json)


@app.command(epilog="Example: fastdarts compare runs/mine --random-cells 20 --seeds 0,1,2")
def compare(
    target: options.Target = None,
    random_cells: options.RandomCells = 5,
    seeds: options.Seeds = "0",
    space: options.Space = None,
    data: options.Data = None,
    root: options.Root = None,
    run: options.CompareRun = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    settings: options.Settings = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Set a genotype beside random cells of its space: same budget, same seeds.

    Without --run it is kept inside the run folder, or in runs/compare-TARGET. The same call again continues it.
    """
    from fastdarts import evaluate
    from fastdarts.cli.afterwards import record_comparison
    from fastdarts.cli.targets import read_space, read_target

    chosen = read_target(target)
    named = {"epochs": epochs, "batch_size": batch_size, "channels": channels, "layers": layers}
    named |= {"data": data, "data_root": root, "device": device, "backend": backend}
    path = run or (chosen.run.path / "compare" if chosen.run else Path("runs") / f"compare-{chosen.name}")
    result = evaluate.compare(
        chosen.genotype,
        path,
        search_space=(None if space else chosen.space()) or read_space(space or "darts"),
        settings=_budget(chosen, named, settings),
        random_cells=random_cells,
        seeds=_integers(seeds),
        progress=_progress(as_json),
        command=_command(),
    )
    summary = {key: value for key, value in result.items() if key not in ("random", "found")}
    summary |= {"found_accuracy": result["found"]["mean"], "path": str(path)}
    if chosen.run is not None and chosen.run.config["kind"] == "search":
        summary["report"] = str(record_comparison(chosen.run.path, result))
    _print(summary, as_json)


@app.command(epilog="Examples: fastdarts show PC_DARTS_cifar | fastdarts show runs/mine --png cell.png")
def show(
    target: options.Target = None,
    svg: options.Svg = None,
    png: options.Png = None,
    report: options.Report = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw a genotype, or a run's, in the terminal, as SVG or as PNG."""
    from fastdarts import report as reporting
    from fastdarts.cli.console import console
    from fastdarts.cli.targets import read_target

    chosen = read_target(target)
    if report and (chosen.run is None or chosen.run.config["kind"] != "search"):
        raise UserError(f"{target!r} is no search", "the run folder of a search with --report")
    result: dict[str, Any] = {"text": chosen.genotype.text()}
    if svg is not None:
        result["svg"] = str(reporting.write_svg(chosen.genotype, svg))
    if png is not None:
        result["png"] = str(reporting.draw_png(chosen.genotype, png))
    if report:
        result["report"] = str(reporting.write_report(chosen.run.path))
    if as_json:
        result["genotype"] = chosen.genotype.to_json()
    else:
        console().print(reporting.draw_terminal(chosen.genotype))
    _print(result, as_json)


@app.command()
def doctor(as_json: options.AsJson = False) -> None:
    """Say which backends are live, which are not and why, and what the machine has."""
    from fastdarts import _doctor

    facts = _doctor.report()
    if as_json:
        typer.echo(json.dumps(_doctor.as_dict(facts), indent=2))
        return
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            typer.echo(section)
        value = ", ".join(fact.value) if isinstance(fact.value, list) else fact.value
        note = f"  ({fact.note})" if fact.note else ""
        typer.echo(f"  {' ' if fact.ok else '!'} {fact.name:<22} {'none' if value in (None, '') else value}{note}")


def _given(named: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in named.items() if value is not None}


def _new_run(what: str) -> Path:
    return Path("runs") / f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


def _budget(chosen: Any, named: dict[str, Any], settings: list[str] | None) -> dict[str, Any]:
    """A retraining's settings: what was named, else the data of the run the genotype is from, else digits."""
    from fastdarts import evaluate

    searched = chosen.run.config.get("config", {}) if chosen.run else {}
    overrides = _given(named)
    if "data" not in overrides and searched.get("data_root") is not None:
        overrides.setdefault("data_root", searched["data_root"])
    data = overrides.pop("data", searched.get("data", "digits"))
    return evaluate.budget(data, **overrides, **_settings(settings, evaluate.RetrainConfig))


def _settings(pairs: list[str] | None, config: type) -> dict[str, Any]:
    """Read `--set name=value` by the type of the field it names."""
    kinds: dict[str, Callable[[str], Any]] = {"int": int, "float": float, "str": str, "bool": _boolean}
    types = {field.name: str(field.type) for field in fields(config) if str(field.type) in kinds}
    values: dict[str, Any] = {}
    for pair in pairs or []:
        name, found, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not found or name not in types:
            raise UserError(f"--set {pair}", f"NAME=VALUE with one of {', '.join(sorted(types))}")
        try:
            values[name] = kinds[types[name]](text.strip())
        except ValueError as error:
            raise UserError(f"--set {pair}", f"a value of type {types[name]}") from error
    return values


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise UserError(f"{text!r} is no list of numbers", "whole numbers with commas, e.g. 0,10,20") from error


def _refuse_others(context: typer.Context) -> None:
    """A resumed run has its settings; a setting given beside --resume would be silently ignored, so refuse it."""
    for name in set(context.params) - {"resume", "previous", "as_json"}:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(
                f"--{name.replace('_', '-')} was given beside --resume",
                f"fastdarts {context.info_name} --resume RUN alone",
                "a resumed run keeps its settings",
            )


def _progress(quiet: bool) -> Any:
    from fastdarts.cli.console import console, make_progress

    return make_progress(console(), quiet)


def _command() -> str:
    return shlex.join(["fastdarts", *sys.argv[1:]])


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result, indent=2))
        return
    width = max(len(key) for key in result)
    for key, value in result.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        typer.echo(f"{key:<{width}}  {text}")


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2."""
    from fastdarts.search import Interrupted

    try:
        code = app(standalone_mode=False)
    except UserError as error:
        typer.echo(f"fastdarts: {error}", err=True)
        code = 2
    except _USAGE_ERROR as error:
        typer.echo(f"fastdarts: {error.format_message()}; see fastdarts --help", err=True)
        code = 2
    except Interrupted as stop:
        typer.echo(f"fastdarts: {stop}; continue with: {_how_to_continue(stop.path)}", err=True)
        code = 130
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("fastdarts: stopped at once; a run continues from its last checkpoint with --resume", err=True)
        code = 130
    raise SystemExit(code)


def _how_to_continue(path: Path) -> str:
    """The command that continues: the same one again for a comparison, else --resume of the run that was started."""
    if sys.argv[1] == "compare":
        return _command()
    kind = sys.argv[1]
    for folder in (path, *path.parents):
        config = folder / "config.json"
        if config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("kind") == kind:
            return f"fastdarts {kind} --resume {folder}"
    return _command()
