"""A small run for the tests of run folders, and what its checkpoints hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from fastdarts.runs import Checkpoint, RunFolder

CONFIG = {"space": "darts", "seed": 0}


def state(step: int) -> dict[str, Any]:
    return {"step": step, "weight": torch.full((50,), float(step)), "lr": 0.1}


def three_epochs(path: Path) -> RunFolder:
    """A run of three epochs, the last two of which have their checkpoint kept: steps 20 and 30."""
    run = RunFolder.create(path, CONFIG)
    for epoch in range(3):
        run.log({"kind": "epoch", "epoch": epoch})
        run.write_json(f"epochs/{epoch:04d}.json", {"epoch": epoch})
        run.save(10 * (epoch + 1), state(10 * (epoch + 1)))
    return run


def is_state(checkpoint: Checkpoint, step: int) -> bool:
    return checkpoint.step == checkpoint.state["step"] == step and torch.equal(
        checkpoint.state["weight"], state(step)["weight"]
    )
