"""`fastdarts profile`: real steps of a search, their bytes and seconds beside what was predicted, and how they grow."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fastdarts.cli import options
from fastdarts.cli import plan as planning
from fastdarts.cli.printing import print_json

__all__ = ["profile"]

Compile = Annotated[bool, typer.Option("--compile", help="Measure torch.compile beside it; compiling takes minutes.")]
Eager = Annotated[bool, typer.Option("--eager", help="Measure plain torch beside it: same arithmetic, same run.")]
Html = Annotated[Path | None, typer.Option(help="Write a page of it to this .html file: bytes, timeline, growth.")]
Steps = Annotated[int, typer.Option(help="Timed steps of each measurement; the median counts.")]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUES",
        help="Measure over a setting: batch=16:256:x2, layers=8,14,20, memory=all, operators, nodes, or what "
        "--set takes. Repeatable: every combination.",
    ),
]
WarmUp = Annotated[int, typer.Option(help="Steps before them, besides a first one.")]


def profile(
    method: options.Method = "darts-first",
    space: options.Space = None,
    data: options.Data = None,
    image_size: planning.ImageSize = None,
    classes: planning.Classes = None,
    batch_size: options.BatchSize = None,
    channels: options.Channels = None,
    layers: options.Layers = None,
    dtype: planning.Dtype = "float32",
    memory: planning.Memory = "all",
    budget: planning.Budget = None,
    eager: Eager = False,
    compiled: Compile = False,
    steps: Steps = 5,
    warm_up: WarmUp = 2,
    sweep: Sweep = None,
    settings: options.Settings = None,
    device: options.Device = "auto",
    backend: options.Backend = "auto",
    html: Html = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure real steps of a search: bytes and seconds by cell and operation, beside what `plan` predicts.

    Each measurement runs in a process of its own, on noise of the data set's shape; it reads and leaves no files.
    """
    from fastdarts.cli.console import console, make_progress
    from fastdarts.cli.profiling.asked import Asked
    from fastdarts.cli.profiling.pages import check_page, write_page
    from fastdarts.cli.profiling.show import show

    named: dict[str, Any] = {"batch_size": batch_size, "channels": channels, "layers": layers}
    named |= {"image_size": image_size, "classes": classes, "dtype": dtype, "memory": memory}
    asked = Asked(
        method=method,
        data=data or "digits",
        space=space,
        named=named,
        settings=settings or [],
        placed={"device": device, "backend": backend},
        sweeps=sweep or [],
        contenders=("fastdarts", *(["eager"] if eager else []), *(["compile"] if compiled else [])),
        steps=(steps, warm_up),
        budget=budget,
    )
    check_page(html)
    progress = make_progress(console())
    try:
        found = asked.answer(progress.note)
    except KeyboardInterrupt:
        typer.echo("fastdarts: stopped; a profile leaves nothing behind", err=True)
        sys.exit(130)
    if html is not None:
        found["page"] = str(write_page(found, html))
    if as_json:
        print_json(found)
    else:
        show(found)
