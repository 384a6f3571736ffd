"""`fastdarts tabulate`: the truth about a small space, as one file."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_result
from fastdarts.errors import UserError

__all__ = ["tabulate"]

Jobs = Annotated[int, typer.Option(help="Number of trainings to do at the same time. The table does not depend on it.")]
Layers = Annotated[int | None, typer.Option(help="Number of cells. (default: the space's)")]
Output = Annotated[Path | None, typer.Option(help="Also write the table to this file.")]
Portion = Annotated[float, typer.Option(help="Share of the training images used for training. The rest validates.")]
Run = Annotated[Path | None, typer.Option("--run", help="Folder of the table. The same command continues it.")]
Seeds = Annotated[
    str,
    typer.Option(help="Training seeds, e.g. 0,1,2, or how many: 3 means 0,1,2. Every network is trained with each."),
]
SpaceFile = Annotated[
    str | None, typer.Option("--space", help="A JSON file that describes a small space, or the name of a space.")
]


def tabulate(
    space: SpaceFile = None,
    data: options.Data = None,
    root: options.Root = None,
    run: Run = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: Layers = None,
    seeds: Seeds = "1",
    portion: Portion = 0.5,
    jobs: Jobs = 1,
    output: Output = None,
    settings: options.Settings = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train every network of a small space from scratch, and keep their accuracies in one file.

    Without --run the table is kept in runs/tabulate-SPACE-DATA. The same command continues it.
    """
    from fastdarts import evaluate
    from fastdarts.cli.console import console, make_progress
    from fastdarts.cli.settings import absolute, given, read_seeds, read_settings
    from fastdarts.cli.targets import read_space
    from fastdarts.runs.durable import replace_file
    from fastdarts.runs.error import storage_errors

    if space is None:
        raise UserError("no space was named", "a small one: --space FILE.json", "docs/spaces.md says how to write one")
    chosen, data = read_space(space), data or "digits"
    named: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "channels": channels,
        "layers": chosen.layers if layers is None else layers,
    }
    named |= {"data_root": absolute(root), "device": device, "backend": backend}
    overrides = given(named) | read_settings(settings, evaluate.RetrainConfig, named)
    path = run or Path("runs") / f"tabulate-{chosen.name}-{data}"
    table = evaluate.tabulate(
        chosen,
        path,
        settings=evaluate.budget(data, **overrides),
        seeds=read_seeds(seeds),
        portion=portion,
        jobs=jobs,
        progress=make_progress(console()),
        command=shlex.join(["fastdarts", *sys.argv[1:]]),
    )
    if output is not None:
        with storage_errors(str(output)):
            replace_file(output, (json.dumps(table.to_json(), indent=1) + "\n").encode("ascii"))
    print_result(_summary(table) | {"table": str(output or path / "table.json")}, as_json)


def _summary(table: Any) -> dict[str, Any]:
    best, worst = table.ranking[0], table.ranking[-1]
    mean, spread = table.by_chance()
    return {
        "networks": len(table.networks),
        "seeds": list(table.seeds),
        "best": best.genotype.text(),
        "best_accuracy": best.accuracy,
        "worst": worst.genotype.text(),
        "worst_accuracy": worst.accuracy,
        "mean_regret": mean,
        "std_regret": spread,
        "standard_error": table.noise(),
    }
