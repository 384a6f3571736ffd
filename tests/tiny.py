"""Small things that the search's tests share: images that can be learnt, and configurations of seconds."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdarts.data import ImageSet
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, SearchConfig, configure
from fastdarts.spaces import define_space

# Five edges instead of fourteen, half of the primitives: everything that the loop meets, in a fifth of the time.
SPACE = define_space("tiny", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), nodes=2, layers=3)

# What differs between two runs of the same computation.
TIMING = ("step_ms", "elapsed_s", "peak_bytes", "seconds", "path")


def images(count: int = 48, seed: int = 0, classes: int = 3, size: int = 6) -> ImageSet:
    """Noise with a bright square whose place is the label."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 100, (count, 1, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % classes
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[:, 2 * label : 2 * label + 2, 1:3] = 250
    return ImageSet("squares", pixels, labels, classes, (0.3,), (0.25,))


# What a method needs besides, so that all of it happens in a few epochs of three steps.
_METHODS: dict[str, dict[str, Any]] = {
    # Enough images to validate on for whole batches.
    "darts-one-level": {"held_out": 0.5},
    "snas": {"held_out": 0.5},
    "darts-pt": {"select_tune_epochs": 1},
    "pc-darts": {"arch_start_epoch": 1, "channels": 8},
    "gaea-pc-darts": {"channels": 8},
    "pc-darts-imagenet": {"arch_start_epoch": 1, "stem": "cifar"},
    "p-darts": {"epochs": 6, "arch_start_epoch": 1, "deeper": (0, 0, 1), "candidates": (3, 2)},
    "sdarts-adv": {"attack_steps": 2},
    "pc-sdarts-adv": {"attack_steps": 2},
    # A measurement by the few products that it takes; by all forty rows it takes longer than the search: r-darts-es.
    "r-darts-ada": {"eigenvalue": "lanczos"},
    "sgas": {"epochs": 4, "decide_from": 0, "decide_every": 1},
    "amended": {"cutout": 2},
    "amended-s2": {"cutout": 2},
    "amended-s2-full": {"cutout": 2},
    "random-ws": {"samples": 6, "finalists": 2, "batches": 1},
}


def config(name: str = "darts-first", **overrides: Any) -> SearchConfig:
    """A search of seconds on :func:`images`."""
    small = {"epochs": 2, "batch_size": 8, "channels": 4, "layers": 3, "crop": 1, "device": "cpu"}
    return configure(name, data="custom", **(small | _METHODS.get(name, {}) | overrides))


def state_of(path: Path) -> dict[str, Tensor]:
    """Every tensor of the newest checkpoint, by its path in the nested state."""
    found: dict[str, Tensor] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Tensor):
            found[prefix] = value
        elif isinstance(value, dict):
            for key, each in value.items():
                walk(f"{prefix}/{key}", each)
        elif isinstance(value, (list, tuple)):
            for index, each in enumerate(value):
                walk(f"{prefix}/{index}", each)

    walk("", RunFolder.open(path).load().state)
    return found


def untimed(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what the clock decides."""
    return [{key: value for key, value in record.items() if key not in TIMING} for record in records]


def metrics(path: Path) -> list[dict[str, Any]]:
    """The records of a run without what the clock decides."""
    return untimed(RunFolder.open(path).metrics())


def assert_same_run(left: Path, right: Path) -> None:
    """Two runs are the same: every tensor of the newest checkpoints bit for bit, the records and the epochs' files."""
    ours, theirs = state_of(left), state_of(right)
    assert ours.keys() == theirs.keys()
    # The seconds spent are the only part of the state that the clock decides; they are plain numbers, not tensors.
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert metrics(left) == metrics(right)
    names = sorted(each.name for each in (left / "epochs").iterdir())
    assert names == sorted(each.name for each in (right / "epochs").iterdir())
    for name in names:
        one, other = (json.loads((run / "epochs" / name).read_text(encoding="utf-8")) for run in (left, right))
        # The seal says whose file it is, and with a run's name or its beginning it differs.
        assert one.pop("seal") and other.pop("seal")
        assert one == other


class StopAt(Progress):
    """Sends this process a signal when a certain step was done."""

    def __init__(self, step: int, number: int = signal.SIGINT) -> None:
        self.left, self.number = step, number

    def wants_step(self) -> bool:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return False
