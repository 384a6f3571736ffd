"""Before long work: say how many networks, epochs, hours and gigabytes it takes, and ask whether to start."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fastdarts.evaluate import Estimate, RetrainConfig
    from fastdarts.search import SearchConfig
    from fastdarts.spaces import Space

__all__ = ["Yes", "agree", "announce_comparison", "announce_methods", "announce_searches", "announce_training"]

# Shorter work is announced, but not asked about.
_ASK_SECONDS = 600.0

Yes = Annotated[
    bool,
    typer.Option(
        "--yes", "-y", help="Start trainings of over ten minutes without asking. (Only a terminal is ever asked.)"
    ),
]
Note = Callable[[str], None]


def announce_training(config: RetrainConfig, path: Path, yes: bool, note: Note) -> None:
    """Announce one training in a new folder; nothing is said for a folder in which it will be refused."""
    from fastdarts import evaluate

    if not path.exists():
        agree(evaluate.estimate_trainings([config]), yes, note)


def announce_comparison(left: Sequence[RetrainConfig], yes: bool, note: Note) -> None:
    """Announce the trainings that a comparison still has to do, if there are any."""
    from fastdarts import evaluate

    if left:
        agree(evaluate.estimate_trainings(left), yes, note)


def announce_searches(
    configs: Sequence[SearchConfig],
    space: Space,
    after: Mapping[str, Any],
    path: Path,
    yes: bool,
    note: Note,
    *,
    selection: Mapping[str, Any] | None = None,
    jobs: int = 1,
) -> None:
    """Announce searches in a new folder and the trainings that follow; nothing is said where none follow.

    Args:
        configs: the searches.
        space: theirs.
        after: what follows, from :func:`fastdarts.cli.settings.plan_after`.
        path: the folder.
        yes, note: as for :func:`agree`.
        selection: settings of the trainings that choose among several searches.
        jobs: processes at a time for the searches and these trainings.
    """
    from fastdarts import evaluate
    from fastdarts.cli.settings import trained_after
    from fastdarts.spaces import random_genotype

    if path.exists() or (not after["retrain_epochs"] and selection is None):
        return
    first = configs[0]
    # What will be found is not known yet: a random network of the same space and size stands for it.
    found = random_genotype(space, 0, layers=first.layers)
    own = {} if found.layers is None else {"layers": found.layers}
    parts = evaluate.estimate_searches(configs, search_space=space)
    several = []
    if selection is not None:
        settings = {**selection, **own, "data_root": first.data_root}
        several = evaluate.estimate_trainings([evaluate.RetrainConfig(found.text(), **settings)] * len(configs))
        # They learn from the weight level's images only.
        several = [dataclasses.replace(each, steps=max(1, int(each.steps * first.train_portion))) for each in several]
    last = []
    if after["retrain_epochs"]:
        settings = trained_after(after, vars(first), found)
        count = 1 + after["random_cells"]
        last = evaluate.estimate_trainings([evaluate.RetrainConfig(found.text(), **settings)] * count)
    agree([*parts, *several, *last], yes, note, jobs=jobs)


def announce_methods(
    searches: Sequence[SearchConfig], trainings: Sequence[RetrainConfig], space: Space, yes: bool, note: Note, jobs: int
) -> None:
    """Announce what a comparison of methods still has to do, if there is anything."""
    from fastdarts import evaluate

    parts = evaluate.estimate_searches(searches, search_space=space)
    parts += evaluate.estimate_trainings(trainings)
    if parts:
        agree(parts, yes, note, jobs=jobs)


def agree(parts: Sequence[Estimate], yes: bool, note: Note, *, jobs: int = 1) -> None:
    """Say what is to come; if it takes long and a person sits at the terminal, ask first.

    Args:
        parts: what is to come.
        yes: whether it was already agreed to (``--yes``).
        note: prints a line for a person.
        jobs: processes at a time.

    Raises:
        typer.Exit: with code 1, if the answer is no.
    """
    note(in_words(parts, jobs))
    long = sum(part.seconds for part in parts) > _ASK_SECONDS * jobs
    if long and not yes and sys.stdin.isatty() and sys.stderr.isatty() and not typer.confirm("Start?", err=True):
        note("nothing was started; fewer epochs, channels, layers or random cells take less time")
        raise typer.Exit(1)


def in_words(parts: Sequence[Estimate], jobs: int = 1) -> str:
    """``1 search of 50 epochs, 2.1 hours; 21 networks of 600 epochs, 39 hours each, 830 in all; ...``."""
    told = []
    for part in parts:
        plural = {"search": "searches", "network": "networks to train"}[part.what]
        single = {"search": "search", "network": "network to train"}[part.what]
        name = single if part.count == 1 else plural
        text = f"{part.count} {name} for {part.epochs} epoch{'s' * (part.epochs != 1)}"
        each = "" if part.count == 1 else " each"
        told.append(f"{text}{each}, about {_time(part.seconds / part.count)}{each}")
    whole = sum(part.seconds for part in parts) / jobs
    sizes = f"{_gigabytes(max(part.memory_bytes for part in parts))} of memory"
    if jobs > 1:
        sizes += f" in each of {jobs} processes"
    sizes += f", {_gigabytes(sum(part.disk_bytes for part in parts))} on the disk"
    return f"{'; '.join(told)}; in all about {_time(whole)}, measured on two steps of each; {sizes}"


def _time(seconds: float) -> str:
    if seconds < 120.0:
        return f"{seconds:.0f} s"
    if seconds < 7200.0:
        return f"{seconds / 60.0:.0f} minutes"
    days = f" ({seconds / 86400.0:.1f} days)" if seconds >= 2 * 86400.0 else ""
    return f"{seconds / 3600.0:.1f} hours{days}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2g} GB" if count >= 1e7 else "under 0.01 GB"
