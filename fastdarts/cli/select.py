"""`fastdarts select`: another architecture from a finished search's supernet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastdarts.cli import options
from fastdarts.cli.printing import print_result

__all__ = ["select"]

Run = Annotated[Path, typer.Argument(help="The run folder of a finished search.")]
By = Annotated[
    str, typer.Option(help="perturbation (DARTS-PT), weights (the method's rule) or sampled (random search).")
]
TuneEpochs = Annotated[int, typer.Option(help="Epochs between two decisions by perturbation; 0 for none.")]
Samples = Annotated[int, typer.Option(help="Random architectures to choose from by their shared weights.")]


def select(
    run: Run,
    by: By = "perturbation",
    tune_epochs: TuneEpochs = 10,
    samples: Samples = 1000,
    as_json: options.AsJson = False,
) -> None:
    """Select another architecture from the supernet of a finished search; the run stays as it is."""
    from fastdarts.search.select import select as choose

    found = choose(run, by, tune_epochs=tune_epochs, samples=samples)
    print_result({"text": found.text(), "file": str(run / f"selected-{by}.json")}, as_json)
