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
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.gpu.models import Net, engines, net, running
from bench.gpu.record import Row
from bench.gpu.stage import Options, Stage, options, run
from fastdarts.data import ImageSet
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, SearchConfig, search

__all__ = ["main"]

EPOCHS = 50
_WAITING = 15  # epochs in which PC-DARTS' alphas do not learn yet


def generated(given: Net, count: int) -> ImageSet:
    """Random images and labels, of CIFAR-10's shape where the network is a real one."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, given.side, given.side), generator=draw, dtype=torch.uint8)
    return ImageSet("generated", images, torch.arange(count) % 10, 10, (0.5,) * 3, (0.25,) * 3)


class _Watcher(Progress):
    """Puts every epoch into the record, should the search be cut short."""

    def __init__(self, told: Callable[[Row], None]) -> None:
        self._told = told
        self.notes: list[str] = []

    def epoch(self, record: Mapping[str, Any]) -> None:
        self._told({key: record[key] for key in ("epoch", "elapsed_s", "step_ms", "valid_loss")})

    def note(self, message: str) -> None:
        self.notes.append(message)


def searched(config: SearchConfig, given: Net, images: ImageSet, watcher: Progress) -> tuple[list[Row], float]:
    """The records of a search's epochs, and the seconds of the whole call."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = search(config, Path(folder, "run"), train_set=images, search_space=given.searched, progress=watcher)
        seconds = time.perf_counter() - start
        with RunFolder.open(result.path) as opened:
            return [record for record in opened.metrics() if record["kind"] == "epoch"], seconds


def few(given: Net, images: ImageSet, device: torch.device, watcher: Progress) -> Row:
    """Four epochs, and the sum that fifty are."""
    waits = given.method == "pc-darts"
    config = _config(given, device, epochs=4, arch_start_epoch=2 if waits else 0)
    records, seconds = searched(config, given, images, watcher)
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


def whole(given: Net, images: ImageSet, device: torch.device, watcher: Progress) -> Row:
    """Fifty epochs by the clock."""
    records, seconds = searched(_config(given, device, epochs=EPOCHS), given, images, watcher)
    return {"fifty_seconds": seconds, "epoch_seconds": statistics.median(_lengths(records)), "whole": True}


def _config(given: Net, device: torch.device, **overrides: Any) -> SearchConfig:
    return given.config(device=device.type, crop=4, flip=True, **overrides)


def _lengths(records: list[dict[str, Any]]) -> list[float]:
    ends = [0.0, *(record["elapsed_s"] for record in records)]
    return [end - begin for begin, end in itertools.pairwise(ends)]


def _images(given: Options, net: Net) -> int:
    """CIFAR-10's; on paper as many as make two steps, and the evaluation's last batch what it is there."""
    if given.toy:
        return 24
    return 2 * (2 * net.batch + 25_000 % net.batch) if given.paper else 50_000


def _measure(stage: Stage, name: str, backend: str) -> None:
    given: Options = stage.options
    chosen = net(name, given.toy)
    chosen = replace(chosen, batch=4) if given.toy else chosen
    images = generated(chosen, _images(given, chosen))
    facts = {"net": name, "backend": backend}

    def row(what: str, measure: Callable[..., Row]) -> Row:
        label = f"{name}, {backend}, {what}"
        watcher = _Watcher(lambda epoch: stage.so_far(label, epoch))

        def work() -> Row:
            with running(backend):
                found = measure(chosen, images, given.device, watcher)
            return found | ({"notes": watcher.notes} if watcher.notes else {})

        return stage.row(label, work, **facts)

    found = row("four epochs", few)
    if found.get("fifty_seconds", 1e9) < 0.9 * stage.left and not given.toy:
        row("fifty epochs", whole)


def main(arguments: list[str] | None = None) -> Stage:
    """Measure both searches."""
    stage = Stage("epochs", options(arguments))
    for backend in engines(stage.options)[:1]:
        for name in ("PC-DARTS", "DARTS"):
            if stage.wants(f"{name}, {backend}, four epochs"):
                _measure(stage, name, backend)
    return stage


if __name__ == "__main__":
    run(main)
