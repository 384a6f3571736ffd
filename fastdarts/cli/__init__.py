"""The command line: `fastdarts search | retrain | compare | show | runs | methods | plan | profile | bench | ...`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fastdarts import __version__
from fastdarts.cli import agree, bench, doctor, methods, options, plan, profile, runs, select, tabulate, threads
from fastdarts.cli import searches as several
from fastdarts.cli.printing import how_to_continue, print_result, printable_streams
from fastdarts.errors import Diverged, Interrupted, UserError

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Differentiable architecture search: search, retrain, and compare with random choice.\n\n"
    "Start with `fastdarts search`: it uses the handwritten digits that are shipped and needs no other file.",
)
"""The commands, for whoever wants to run or to list them."""

# typer 0.29 carries click inside itself and earlier ones import it; what both show is this class's ancestry.
_USAGE_ERROR: Any = next(each for each in typer.BadParameter.__mro__ if each.__name__ == "ClickException")


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"fastdarts {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Options of no command; the help is the app's own."""


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
    searches: several.Searches = 1,
    grid: several.Grid = None,
    select_epochs: several.SelectEpochs = None,
    jobs: several.Jobs = 1,
    retrain_epochs: options.RetrainEpochs = None,
    retrain_channels: options.RetrainChannels = None,
    retrain_layers: options.RetrainLayers = None,
    retrain_batch_size: options.RetrainBatchSize = None,
    random_cells: options.RandomCells = 0,
    yes: agree.Yes = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    memory: options.Memory = "fast",
    graph: options.Graph = "auto",
    resume: options.Resume = None,
    previous: options.Previous = False,
    as_json: options.AsJson = False,
) -> None:
    """Search for an architecture. The result is a genotype, its test accuracy and a report.

    Before it starts, it says how many networks it will train and how long that will take.
    """
    from fastdarts import search as searching
    from fastdarts.cli.afterwards import finish_run
    from fastdarts.cli.outcome import print_search
    from fastdarts.cli.settings import absolute, plan_after, read_integers

    progress = _progress()
    _check_resumption(context)
    if resume is not None and several.holds_several(resume):
        print_search(several.continue_several(resume, epochs, previous, jobs=jobs, progress=progress), as_json)
        return
    if searches == 1 and not grid:
        several.check_single(context)
    if resume is not None:
        result = searching.resume(resume, previous=previous, epochs=epochs, progress=progress)
        print_search(finish_run(result, progress), as_json)
        return
    data = data or "digits"
    sizes = {"channels": retrain_channels, "layers": retrain_layers, "batch_size": retrain_batch_size}
    named: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "channels": channels, "layers": layers}
    named |= {"hypergradient": hypergradient, "data_root": absolute(root), "device": device, "backend": backend}
    named |= {"memory": memory, "graph": graph, "check_hypergradient": read_integers(check_hypergradient), "seed": seed}
    more: dict[str, Any] = {"after": plan_after(data, retrain_epochs, random_cells, sizes), "yes": yes}
    more |= {"run": run or _new_run(f"{method}-{data}"), "progress": progress, "command": _command()}
    if searches != 1 or grid:
        more |= {"searches": searches, "grid": grid, "select_epochs": select_epochs, "jobs": jobs}
        print_search(several.search_several(method, data, space, named, settings, **more), as_json)
    else:
        print_search(several.search_single(method, data, space, named, settings, **more), as_json)


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
    yes: agree.Yes = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    resume: options.Resume = None,
    previous: options.Previous = False,
    as_json: options.AsJson = False,
) -> None:
    """Train the network of a genotype from scratch, and test it once, at the end."""
    from fastdarts import evaluate
    from fastdarts.cli.settings import absolute, retraining
    from fastdarts.cli.targets import read_target

    progress = _progress()
    _check_resumption(context)
    if resume is not None:
        result = evaluate.continue_retrain(resume, previous=previous, epochs=epochs, progress=progress)
    else:
        chosen = read_target(target)
        if chosen.note:
            progress.note(chosen.note)
        named: dict[str, Any] = {
            "epochs": epochs,
            "batch_size": batch_size,
            "channels": channels,
            "layers": layers,
            "seed": seed,
        }
        named |= {"data": data, "data_root": absolute(root), "device": device, "backend": backend}
        config = evaluate.RetrainConfig(genotype=chosen.genotype.text(), **retraining(chosen, named, settings))
        path = run or _new_run("retrain")
        agree.announce_training(config, path, yes, progress.note)
        result = evaluate.retrain(config, path, progress=progress, command=_command())
    print_result({key: value for key, value in result.items() if key not in ("genotype", "history")}, as_json)


@app.command(
    epilog="Examples: fastdarts compare runs/mine --random-cells 20 | fastdarts compare --methods darts-first,pc-darts"
)
def compare(
    context: typer.Context,
    target: options.Target = None,
    other: runs.Other = None,
    methods: several.Methods = "",
    random_cells: options.RandomCells = 5,
    seeds: several.Seeds = "",
    space: options.Space = None,
    data: options.Data = None,
    root: options.Root = None,
    run: options.CompareRun = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    settings: options.Settings = None,
    search_settings: several.SearchSettings = None,
    jobs: several.Jobs = 1,
    yes: agree.Yes = False,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Compare a genotype, or what search methods find, with random cells of the same space; or compare two runs.

    Without --run the comparison is kept in the folder of the run, or in runs/compare-TARGET or
    runs/compare-methods-DATA; other settings get a folder of their own. The same command continues it. With --methods,
    more methods or seeds are added to it.
    """
    from fastdarts import evaluate
    from fastdarts.cli.afterwards import record_comparison
    from fastdarts.cli.outcome import print_comparison
    from fastdarts.cli.settings import absolute, read_seeds, retraining
    from fastdarts.cli.targets import read_space, read_target
    from fastdarts.evaluate.compare import comparison_folder, left_to_train

    if other is not None:
        runs.compare_pair(context, target, other, as_json)
        return
    progress = _progress()
    several.check_beside(context, methods)
    named: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size, "channels": channels, "layers": layers}
    named |= {"data_root": absolute(root), "device": device, "backend": backend}
    if methods:
        more: dict[str, Any] = {"settings": settings, "search_settings": search_settings, "jobs": jobs, "yes": yes}
        more |= {"data": data or "digits", "space": space, "run": run, "progress": progress, "command": _command()}
        several.print_methods(several.compare_with_random(methods, seeds, named=named, **more), as_json)
        return
    chosen = read_target(target)
    if chosen.note:
        raise UserError(chosen.note, "a finished search", "finish it with fastdarts search --resume")
    named["data"] = data
    arguments: dict[str, Any] = {
        "search_space": (None if space else chosen.space()) or read_space(space or "darts"),
        "settings": retraining(chosen, named, settings),
        "random_cells": random_cells,
        "seeds": read_seeds(seeds or "1"),
    }
    path = run or comparison_folder(chosen.comparisons(), chosen.genotype, **arguments)
    agree.announce_comparison(left_to_train(path, chosen.genotype, **arguments), yes, progress.note)
    result = evaluate.compare(chosen.genotype, path, **arguments, progress=progress, command=_command())
    searched = chosen.search
    report = record_comparison(searched.path, result, progress) if searched is not None else None
    print_comparison(result, path, report, as_json)


@app.command(epilog="Examples: fastdarts show PC_DARTS_cifar | fastdarts show runs/mine --png cell.png")
def show(
    target: options.Target = None,
    svg: options.Svg = None,
    png: options.Png = None,
    report: options.Report = False,
    as_json: options.AsJson = False,
) -> None:
    """Draw a genotype, or the one of a run, in the terminal, as SVG or as PNG."""
    from fastdarts import report as reporting
    from fastdarts.cli.console import console
    from fastdarts.cli.targets import read_target

    for name, path in (("svg", svg), ("png", png)):
        if path is not None and path.suffix.lower() != f".{name}":
            raise UserError(f"--{name} {path}", f"a file named .{name}", "the ending has to say what the file holds")
    chosen = read_target(target)
    searched = chosen.search
    if report and searched is None:
        raise UserError(f"{target!r} is no search", "with --report, the run folder of a search")
    if chosen.note:
        _progress().note(chosen.note)
    result: dict[str, Any] = {"text": chosen.genotype.text()}
    if svg is not None:
        result["svg"] = str(reporting.write_svg(chosen.genotype, svg))
    if png is not None:
        result["png"] = str(reporting.draw_png(chosen.genotype, png))
    if report and searched is not None:
        result["report"] = str(reporting.write_report(searched.path))
    if as_json:
        result["genotype"] = chosen.genotype.to_json()
    else:
        console().print(reporting.draw_terminal(chosen.genotype))
    print_result(result, as_json)


app.command(epilog="Example: fastdarts runs runs/")(runs.runs)
app.command(epilog="Example: fastdarts methods gdas")(methods.methods)
app.command(epilog="Example: fastdarts select runs/mine --by perturbation")(select.select)
app.command(epilog="Example: fastdarts plan --data cifar10 --method pc-darts --budget 11GB")(plan.plan)
app.command(epilog="Examples: fastdarts bench --out here.json | fastdarts bench --compare here.json there.json")(
    bench.bench
)
app.command(
    epilog="Examples: fastdarts profile --eager --html page.html | fastdarts profile --data cifar10 --batch-size 16 | "
    "fastdarts profile --sweep batch=16:64:x2 --sweep layers=4,8 --budget 2GB"
)(profile.profile)
app.command(epilog="Example: fastdarts tabulate --space mine.json --seeds 0,1,2 --jobs 4")(tabulate.tabulate)
app.command()(doctor.doctor)


def _new_run(what: str) -> Path:
    return Path("runs") / f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


def _check_resumption(context: typer.Context) -> None:
    """Refuse what would be silently ignored: settings beside --resume, and --previous without it."""
    if context.params["resume"] is None:
        if context.params["previous"]:
            raise UserError("--previous was given without --resume", f"fastdarts {context.info_name} --resume RUN")
        return
    typed = {"settings": "--set", "target": "a genotype"}
    for name in context.params:
        source = context.get_parameter_source(name)
        if name in ("resume", "previous", "epochs", "as_json", "jobs", "yes") or source is None:
            continue
        if source.name == "COMMANDLINE":
            raise UserError(
                f"{typed.get(name, '--' + name.replace('_', '-'))} was given beside --resume",
                f"fastdarts {context.info_name} --resume RUN alone, or with --epochs",
                "a resumed run keeps the settings that it was started with",
            )


def _progress() -> Any:
    """On standard error, with --json too: standard output is the result's alone."""
    from fastdarts.cli.console import console, make_progress

    return make_progress(console())


def _command() -> str:
    return shlex.join(["fastdarts", *sys.argv[1:]])


def main() -> None:
    """Run the command line; bad input is one line on standard error and exit code 2, divergence one and 1."""
    threads.spin_few_turns()
    printable_streams()
    try:
        with _ended_by_signals():
            if os.environ.get("FASTDARTS_IMPORT"):  # primitives of one's own; torch with them
                from fastdarts.nn import import_primitives

                import_primitives()
            code = app(standalone_mode=False)
        # What typer makes of KeyboardInterrupt, without a word.
        if code == 130:
            raise KeyboardInterrupt
    except UserError as error:
        typer.echo(f"fastdarts: {error}", err=True)
        code = 2
    except OSError as error:
        # What the system refuses where nobody expects it: a folder that cannot be listed, no file descriptor left.
        place = f": {os.fsdecode(error.filename)}" if isinstance(error.filename, (str, bytes)) else ""
        typer.echo(f"fastdarts: {error.strerror or error}{place}; check the disk, the path and its rights", err=True)
        code = 2
    except _USAGE_ERROR as error:
        message = error.format_message()
        # Without a command the message is the help itself; typer has printed it already where it comes out empty.
        no_command = type(error).__name__ == "NoArgsIsHelpError"
        if message:
            typer.echo(message if no_command else f"fastdarts: {message}; see fastdarts --help", err=True)
        code = 2
    except Diverged as error:
        typer.echo(f"fastdarts: {error}", err=True)
        code = 1
    except Interrupted as stop:
        typer.echo(f"fastdarts: {stop}; continue with: {how_to_continue(stop.path, _command())}", err=True)
        code = 130
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("fastdarts: stopped at once; --resume continues a run from its last checkpoint", err=True)
        code = 130
    raise SystemExit(code)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C does, and both are heard where they were ignored at the start, as SIGINT is in a script's
    background job: between two parts of the work nothing else would hear them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [(number, signal.signal(number, signal.default_int_handler)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
