"""A whole search by the clock: epochs on images of CIFAR-10's shape, and what fifty of them come to.

    python -m bench.gpu.epochs --out results

Four epochs through `fastdarts.search.search`, with augmentation, evaluation, records and checkpoints, as a user's. Of
PC-DARTS the first two learn the weights alone, as its first fifteen do. `fifty_seconds` adds up fifty such epochs from
the first, the second and the fourth; where that fits into the stage's time, the fifty are run as well.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu.models import Net, engines, net, running
from bench.gpu.stage import Options, Stage, options
from fastdarts.data import ImageSet
from fastdarts.runs import RunFolder
from fastdarts.search import SearchConfig, search

__all__ = ["main"]

EPOCHS = 50
_WAITING = 15  # epochs in which PC-DARTS' alphas do not learn yet


def generated(given: Net, count: int) -> ImageSet:
    """Random images and labels, of CIFAR-10's shape where the network is a real one."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, given.side, given.side), generator=draw, dtype=torch.uint8)
    return ImageSet("generated", images, torch.arange(count) % 10, 10, (0.5,) * 3, (0.25,) * 3)


def searched(config: SearchConfig, given: Net, images: ImageSet) -> tuple[list[dict[str, Any]], float]:
    """The records of a search's epochs, and the seconds of the whole call."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = search(config, Path(folder, "run"), train_set=images, search_space=given.searched)
        seconds = time.perf_counter() - start
        with RunFolder.open(result.path) as run:
            return [record for record in run.metrics() if record["kind"] == "epoch"], seconds


def few(given: Net, images: ImageSet, device: torch.device) -> dict[str, Any]:
    """Four epochs, and the sum that fifty are."""
    waits = given.method == "pc-darts"
    config = _config(given, device, epochs=4, arch_start_epoch=2 if waits else 0)
    records, seconds = searched(config, given, images)
    epochs = _lengths(records)
    waiting = _WAITING if waits else 0
    # The first epoch captures, and so does the first in which the alphas learn.
    later = epochs[0] + (waiting - 1) * epochs[1] + epochs[2] if waits else epochs[0]
    fifty = later + (EPOCHS - waiting - 1) * epochs[3]
    steps = len(images.labels) // 2 // config.batch_size
    return {
        "epoch_seconds": epochs,
        "setup_seconds": seconds - sum(epochs),
        "fifty_seconds": fifty + seconds - sum(epochs),
        "steps": steps,
        "step_ms": records[-1]["step_ms"],
        "outside_share": 1.0 - steps * records[-1]["step_ms"] / 1e3 / epochs[3],
    }


def whole(given: Net, images: ImageSet, device: torch.device) -> dict[str, Any]:
    """Fifty epochs by the clock."""
    records, seconds = searched(_config(given, device, epochs=EPOCHS), given, images)
    return {"fifty_seconds": seconds, "epoch_seconds": statistics.median(_lengths(records)), "whole": True}


def _config(given: Net, device: torch.device, **overrides: Any) -> SearchConfig:
    return given.config(device=device.type, crop=4, flip=True, **overrides)


def _lengths(records: list[dict[str, Any]]) -> list[float]:
    ends = [0.0, *(record["elapsed_s"] for record in records)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _measure(stage: Stage, name: str, backend: str) -> None:
    given: Options = stage.options
    chosen = net(name, given.toy)
    chosen = replace(chosen, batch=4) if given.toy else chosen
    images = generated(chosen, 24 if given.toy else 50_000)
    facts = {"net": name, "backend": backend}

    def run(measure: Any) -> dict[str, Any]:
        with running(backend):
            found: dict[str, Any] = measure(chosen, images, given.device)
            return found

    row = stage.row(f"{name}, {backend}, four epochs", lambda: run(few), **facts)
    if row.get("fifty_seconds", 1e9) < 0.9 * stage.left and not given.toy:
        stage.row(f"{name}, {backend}, fifty epochs", lambda: run(whole), **facts)


def main(arguments: list[str] | None = None) -> None:
    """Measure both searches."""
    stage = Stage("epochs", options(arguments))
    for backend in engines(stage.options.toy)[:1]:
        for name in ("PC-DARTS", "DARTS"):
            _measure(stage, name, backend)


if __name__ == "__main__":
    main()
