"""P-DARTS: a search in stages that come ever nearer to the depth of the network that is trained at the end."""

from __future__ import annotations

import math
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.progressive import LimitedSkips, Progressive, SkipDropout, Step

__all__ = ["METHODS"]


def _progressive(config: SearchConfig) -> Choices:
    """Three stages of equal length; options:

    deeper: cells that each stage has more than ``layers``.
    candidates: what an edge keeps after each stage but the last.
    skip_dropout: where the dropout after skip connections starts in each stage; CIFAR-10's values of the paper. The
        authors' README starts the first stage at 0.1; CIFAR-100: 0.1, 0.2, 0.3.
    skip_decay: of that dropout, per epoch.
    skip_limit: the most skip connections of the normal cell that is derived at the end; the genotypes of the other
        limits are in `others.json`.
    wider: channels that each stage has more than ``channels``, the authors' `add_width`; none for none.
    later_ties: whether of equal weights the later edge and operator are kept.
    """
    _check(config)
    options = config.options
    count, candidates = len(options["deeper"]), (None, *options["candidates"])
    starts = [config.epochs * index // count for index in range(count + 1)]
    steps = [
        Step(
            starts[i + 1] - starts[i],
            config.layers + options["deeper"][i],
            candidates[i],
            options["skip_dropout"][i],
            options["wider"][i] if options["wider"] else 0,
        )
        for i in range(count)
    ]
    shortest = min(step.epochs for step in steps)
    if config.arch_start_epoch >= shortest:
        raise UserError(
            f"arch_start_epoch is {config.arch_start_epoch} in stages of {shortest} epochs: the alphas would not learn",
            f"below {shortest}, a share of the {config.epochs} epochs",
            f"set more epochs, or arch_start_epoch={max(shortest // 2, 0)}",
        )
    stages = Progressive(steps)
    return Choices(
        guards=(stages,),
        derivation=LimitedSkips(options["skip_limit"], "later" if options["later_ties"] else "darts"),
        first=stages.first,
        skip_dropout=SkipDropout(config.arch_start_epoch, options["skip_decay"]),
    )


def _check(config: SearchConfig) -> None:
    options = config.options
    deeper, candidates, dropout = options["deeper"], options["candidates"], options["skip_dropout"]
    if not deeper or len(dropout) != len(deeper) or len(candidates) != len(deeper) - 1:
        raise UserError(
            f"{len(deeper)} numbers for deeper, {len(candidates)} for candidates, {len(dropout)} for skip_dropout",
            "one for each stage, and for candidates one for each stage but the first",
            "P-DARTS has deeper=0,6,12 candidates=5,3 skip_dropout=0,0.4,0.7",
        )
    if options["wider"] and len(options["wider"]) != len(deeper):
        raise UserError(f"{len(options['wider'])} numbers for wider", f"{len(deeper)}, one for each stage, or none")
    _each("deeper", deeper, whole=True, least=0)
    _each("wider", options["wider"], whole=True, least=0)
    for wider in options["wider"]:
        if wider % config.partial:
            raise UserError(f"wider is {wider} with partial {config.partial}", "a multiple of partial")
    _each("candidates", candidates, whole=True, least=1)
    _each("skip_dropout", dropout, whole=False, least=0, below=1.0)
    if list(candidates) != sorted(candidates, reverse=True):
        raise UserError(f"candidates is {candidates}", "numbers that fall: a dropped candidate does not come back")
    if not 0.0 <= options["skip_decay"] < math.inf:
        raise UserError(f"skip_decay is {options['skip_decay']}", "0 or more")
    if options["skip_limit"] < 0:
        raise UserError(f"skip_limit is {options['skip_limit']}", "0 or more")
    if config.epochs < len(deeper):
        raise UserError(f"{config.epochs} epochs in {len(deeper)} stages", "at least one for each stage")


def _each(name: str, values: tuple[Any, ...], *, whole: bool, least: int, below: float = math.inf) -> None:
    kind = int if whole else (int, float)
    for value in values:
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value < below:
            wanted = f"whole numbers, {least} or more" if whole else f"numbers from {least} to below {below:g}"
            raise UserError(f"{name} names {value!r}", wanted)


METHODS = (
    Method(
        "p-darts",
        "three stages of 5, 11 and 17 cells with 8, 5 and 3 candidates an edge, at most 2 skips at the end",
        "Chen, Xie, Wu, Tian: P-DARTS, ICCV 2019, sections 3.2 and 3.3",
        {
            "hypergradient": "first",
            "epochs": 75,
            "batch_size": 96,
            "layers": 5,
            "arch_start_epoch": 10,
            "lr_min": 0.0,
            "arch_lr": 6e-4,
            "arch_grad_clip": 5.0,
        },
        options={
            "deeper": (0, 6, 12),
            "candidates": (5, 3),
            "skip_dropout": (0.0, 0.4, 0.7),
            "skip_decay": 0.2,
            "skip_limit": 2,
            "wider": (),
            "later_ties": True,
        },
        # Digits are 8 x 8 pixels: a fourth cell is all the depth they bear. A stage's 3 epochs of alphas are a fifth of
        # the published 15, so the dropout decays five times as fast.
        small={"deeper": (0, 0, 1), "skip_decay": 1.0},
        compose=_progressive,
        earlier={"wider": (), "later_ties": False},
    ),
)
