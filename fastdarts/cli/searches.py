"""Many runs behind one command: `search --searches N`, `search --grid NAME=A,B` and `compare --methods a,b`."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fastdarts.cli import agree
from fastdarts.cli.options import MOST
from fastdarts.cli.printing import fail_if_diverged, print_json
from fastdarts.errors import UserError

__all__ = [
    "Grid",
    "Jobs",
    "Methods",
    "SearchSettings",
    "Searches",
    "Seeds",
    "SelectEpochs",
    "check_beside",
    "check_single",
    "compare_with_random",
    "continue_several",
    "holds_several",
    "print_methods",
    "search_several",
    "search_single",
]

Grid = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=A,B", help="Search once with each value, e.g. weight_decay=3e-4,9e-4. Repeatable."),
]
Jobs = Annotated[int, typer.Option(help="Number of runs to do at the same time, where there are several.")]
Methods = Annotated[
    str, typer.Option(help="Compare these search methods (a,b,c) with random choice, instead of a genotype.")
]
SearchSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--search-set",
        metavar="NAME=VALUE",
        help="With --methods: a setting of all searches. METHOD:NAME=VALUE sets it for one method.",
    ),
]
Searches = Annotated[
    int, typer.Option(help="Number of searches, with this seed and the next ones. Validation picks the best.")
]
Seeds = Annotated[
    str,
    typer.Option(help="Seeds, e.g. 0,1,2, or how many: 3 means 0,1,2. (default: 1; with --methods 5)"),
]
SelectEpochs = Annotated[
    int | None,
    typer.Option(help="Epochs of the trainings that decide between several searches. (default: 100; digits 15)"),
]

_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")


def search_single(
    method: str,
    data: str,
    space: str | None,
    named: Mapping[str, Any],
    settings: list[str] | None,
    *,
    run: Path,
    after: Mapping[str, Any],
    yes: bool,
    progress: Any,
    command: str,
) -> dict[str, Any]:
    """Search once, and do what follows.

    Args:
        method, data, space, named, settings, run, after, yes, progress, command: as for :func:`search_several`.

    Returns:
        What the command prints.

    Raises:
        UserError: for options that contradict each other or do not fit, before anything is written.
    """
    from fastdarts import search as searching
    from fastdarts.cli.afterwards import finish_run
    from fastdarts.cli.settings import configured

    config, chosen = configured(method, data, space, named, settings)
    agree.announce_searches([config], chosen, after, run, yes, progress.note)
    more: dict[str, Any] = {"search_space": chosen, "progress": progress, "command": command, "after": after}
    return finish_run(searching.search(config, run, **more), progress)


def search_several(
    method: str,
    data: str,
    space: str | None,
    named: Mapping[str, Any],
    settings: list[str] | None,
    *,
    searches: int,
    grid: list[str] | None,
    select_epochs: int | None,
    run: Path,
    jobs: int,
    after: Mapping[str, Any],
    yes: bool,
    progress: Any,
    command: str,
) -> dict[str, Any]:
    """Search over seeds and a grid, and end with the best as a single search ends.

    Args:
        method, data, space, named, settings: as :func:`fastdarts.cli.settings.configured` takes them.
        searches: how many seeds.
        grid: the texts of ``--grid``.
        select_epochs: of the trainings that choose; None for the usual number.
        run: the run folder to create.
        jobs: processes at a time.
        after: what follows, from :func:`fastdarts.cli.settings.plan_after`.
        yes: whether to start long work without asking.
        progress: who watches.
        command: how it was started.

    Returns:
        What the command prints.

    Raises:
        UserError: for options that contradict each other or do not fit, before anything is written.
    """
    from fastdarts import evaluate
    from fastdarts.cli.settings import configured

    if not 1 <= searches <= MOST:
        raise UserError(f"searches is {searches}", f"1 to {MOST}")
    cells = _cells(grid)
    if searches > 1 and any(name == "seed" for name, _ in cells[0]):
        raise UserError(f"--grid seed beside --searches {searches}", "only one of the two")
    configs = {}
    for cell in cells:
        pairs = [f"{name}={value}" for name, value in cell]
        config, chosen = configured(method, data, space, named, [*(settings or []), *pairs])
        for seed in range(config.seed, config.seed + searches):
            parts = [f"{name}-{_UNSAFE.sub('-', value)}" for name, value in cell]
            name = "_".join(parts + ([f"seed-{seed}"] if searches > 1 else []))
            if name in configs:
                raise UserError(f"the grid has {name} twice", "different values")
            configs[name] = dataclasses.replace(config, seed=seed)
    budget = {"epochs": select_epochs, "device": config.device, "backend": config.backend}
    budget = {key: value for key, value in budget.items() if value is not None}
    selection = evaluate.selection_budget(data, **budget)
    arguments: dict[str, Any] = {"search_space": chosen, "selection": selection, "jobs": jobs}
    if len(configs) > 1 and jobs > 0:
        agree.announce_searches(
            list(configs.values()), chosen, after, run, yes, progress.note, selection=selection, jobs=jobs
        )
    evaluate.search_many(configs, run, **arguments, progress=progress, command=command, after=after)
    return _finish(run, progress)


def holds_several(run: Path) -> bool:
    """Whether a run folder is that of several searches."""
    from fastdarts.runs import RunFolder

    return RunFolder.open(run).config.get("kind") == "searches"


def continue_several(run: Path, epochs: int | None, previous: bool, *, jobs: int, progress: Any) -> dict[str, Any]:
    """Continue several searches to their end, and print what they would have printed.

    Raises:
        UserError: for ``--previous``, which would have to say of which search, and for ``--epochs``.
    """
    from fastdarts import evaluate

    if epochs is not None:
        raise UserError(
            f"--epochs was given for {run}, which holds several searches", "--resume RUN alone, or a new search"
        )
    if previous:
        raise UserError(
            f"--previous was given for {run}, which holds several searches",
            "the folder of one search",
            f"fastdarts search --resume {run / 'searches'}/NAME --previous, then --resume {run}",
        )
    evaluate.continue_many(run, jobs=jobs, progress=progress)
    return _finish(run, progress)


def compare_with_random(
    methods: str,
    seeds: str,
    *,
    data: str,
    space: str | None,
    run: Path | None,
    named: Mapping[str, Any],
    settings: list[str] | None,
    search_settings: list[str] | None,
    jobs: int,
    yes: bool,
    progress: Any,
    command: str,
) -> dict[str, Any]:
    """Compare methods with random choice, and write the page.

    Args:
        methods: names with commas.
        seeds: as :func:`fastdarts.cli.settings.read_seeds` takes them; empty for 5.
        data: name of a data set.
        space: name or file of the space of all; None for DARTS'.
        run: the folder; None for ``runs/compare-methods-DATA``, or beside it where the settings are others.
        named: settings of the trainings by their field's name; None where one was not given.
        settings: the texts of ``--set``.
        search_settings: the texts of ``--search-set``.
        jobs: processes at a time.
        yes: whether to start long work without asking.
        progress: who watches.
        command: how it was started.

    Returns:
        The comparison, with ``path`` and ``report``.

    Raises:
        UserError: for options that contradict each other or do not fit, before anything is written.
    """
    from fastdarts import evaluate
    from fastdarts.cli.settings import given, read_seeds, read_settings
    from fastdarts.cli.targets import read_space
    from fastdarts.evaluate.methods import left_to_do, methods_folder
    from fastdarts.report.methods import write_methods_report

    names = [name.strip() for name in methods.split(",") if name.strip()]
    chosen = read_space(space or "darts")
    placed = given({name: named.get(name) for name in ("device", "backend", "data_root")})
    search = placed | _search_settings(search_settings, names)
    if space is not None and data != "digits":
        search.setdefault("layers", chosen.layers)
    arguments: dict[str, Any] = {
        "seeds": read_seeds(seeds or "5"),
        "data": data,
        "search_space": chosen,
        "search": search,
    }
    arguments["training"] = given(named) | read_settings(settings, evaluate.RetrainConfig, named)
    path = run or methods_folder(Path("runs") / f"compare-methods-{data}", names, **arguments)
    left = left_to_do(names, path, **arguments)
    if jobs > 0:
        agree.announce_methods(*left, chosen, yes, progress.note, jobs)
    result = evaluate.compare_methods(names, path, **arguments, jobs=jobs, progress=progress, command=command)
    return result | {"path": str(path), "report": str(write_methods_report(path))}


def print_methods(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a comparison of methods: everything as JSON, or a table and what it shows."""
    from fastdarts.report.methods import methods_rows, methods_words

    if as_json:
        print_json(result)
        fail_if_diverged(result)
        return
    rows = methods_rows(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    for line in ["", *methods_words(result), ""]:
        typer.echo(line)
    typer.echo(f"path    {result['path']}\nreport  {result['report']}")
    fail_if_diverged(result)


def check_beside(context: typer.Context, methods: str) -> None:
    """Refuse what would be silently ignored: a genotype's options beside --methods, and those of --methods without."""
    ignored = {"target": "a genotype", "random_cells": "--random-cells"}
    ignored = ignored if methods else {"search_settings": "--search-set", "jobs": "--jobs"}
    for name, spelt in ignored.items():
        if _typed(context, name):
            what = f"{spelt} was given {'beside' if methods else 'without'} --methods"
            raise UserError(what, "a genotype to compare with random cells, or --methods a,b,c to compare searches")


def check_single(context: typer.Context) -> None:
    """Refuse the options of several searches for a single one."""
    for name, spelt in (("select_epochs", "--select-epochs"), ("jobs", "--jobs")):
        if _typed(context, name):
            raise UserError(
                f"{spelt} was given for a single search",
                "it only with several searches: --searches N or --grid NAME=A,B",
            )


def _typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _finish(run: Path, progress: Any) -> dict[str, Any]:
    from fastdarts import evaluate
    from fastdarts.cli.afterwards import finish_run
    from fastdarts.report import draw_png, write_svg
    from fastdarts.report.searches import write_searches_report
    from fastdarts.runs import RunFolder

    folder = RunFolder.open(run)
    best = evaluate.best_search(run)
    ending = finish_run(best, progress, after=folder.config["after"])
    write_svg(best.genotype, run / "genotype.svg")
    draw_png(best.genotype, run / "genotype.png")
    found = folder.read_json("searches.json")
    chosen = found["searches"][found["best"]]
    summary = {"searches": len(found["searches"]), "best": found["best"], **ending}
    summary |= {"supernet_accuracy": chosen["supernet_accuracy"], "valid_accuracy": chosen["valid_accuracy"]}
    summary["search_seconds"] = sum(each["seconds"] for each in found["searches"].values())
    # What the search's own ending left out stands beside the searches that were.
    diverged = {**found.get("diverged", {}), **ending.get("diverged", {})}
    summary |= {"diverged": diverged} if diverged else {}
    return summary | {"run": str(run), "report": str(write_searches_report(run)), "best_report": ending["report"]}


def _cells(grid: Sequence[str] | None) -> list[tuple[tuple[str, str], ...]]:
    """The combinations of a grid's values, each as (name, value's text) for every axis."""
    axes: dict[str, list[tuple[str, str]]] = {}
    for text in grid or []:
        name, found, values = text.partition("=")
        name = name.strip().replace("-", "_")
        # A setting that is itself a list of numbers has its values parted by semicolons.
        listed = [value.strip() for value in values.split(";" if ";" in values else ",") if value.strip()]
        if not found or not name or not listed:
            raise UserError(
                f"--grid {text}",
                "NAME=A,B with the name of a setting and its values",
                "names and values are those of --set",
            )
        if name in axes:
            raise UserError(f"--grid {text}: {name} is given twice", "each setting once")
        axes[name] = [(name, value) for value in listed]
    cells = list(itertools.product(*axes.values()))
    if len(cells) > MOST:
        raise UserError(f"the grid has {len(cells)} cells", f"at most {MOST}")
    return cells


def _search_settings(pairs: list[str] | None, methods: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` for all searches, and ``METHOD:NAME=VALUE``, which is read by the method's own options too."""
    from fastdarts.cli.settings import read_settings
    from fastdarts.search import SearchConfig, method

    shared: list[str] = []
    own: dict[str, list[str]] = {}
    for pair in pairs or []:
        name, found, rest = pair.partition(":")
        if not found or "=" in name:
            shared.append(pair)
        elif name.strip() in methods:
            own.setdefault(name.strip(), []).append(rest)
        else:
            raise UserError(f"--search-set {pair}", f"METHOD:NAME=VALUE with one of {', '.join(methods)}")
    values: dict[str, Any] = read_settings(shared, SearchConfig, {})
    for name, each in own.items():
        values[name] = read_settings(each, SearchConfig, {}, method(name).options)
    return values
