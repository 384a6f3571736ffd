"""Training that goes on from a checkpoint equals training that was never stopped, bit for bit."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_runs_packing import same
from torch import nn
from torch.optim import lr_scheduler

from fastdarts.runs import CheckpointError, RunFolder, generators_state, restore_generators

Optimiser = torch.optim.Optimizer
STEPS, SAVED = 5, 2

OPTIMISERS: dict[str, Callable[[Any], Optimiser]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=3e-4),
    "sgd plain": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3),
    "adamw amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
}
SCHEDULERS: dict[str, Callable[[Optimiser], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=1e-3),
    "multi-step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 3], gamma=0.1),
    "warm-up": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=2), lr_scheduler.ExponentialLR(o, 0.97)], milestones=[3]
    ),
    "one-cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=STEPS + 1, cycle_momentum=False),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0),
}


class Training:
    """The smallest thing with every kind of state: weights, batch-norm buffers, moments, a schedule, a generator."""

    def __init__(self, optimiser: str, scheduler: str) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(8, 2)
        )
        self.optimiser = OPTIMISERS[optimiser](self.model.parameters())
        self.scheduler = SCHEDULERS[scheduler](self.optimiser)
        self.generator = torch.Generator().manual_seed(2)

    def step(self) -> None:
        self.optimiser.zero_grad()
        loss = self.model(torch.randn(3, 1, 4, 4, generator=self.generator)).square().mean() + random.random()
        loss.backward()
        self.optimiser.step()
        plateau = isinstance(self.scheduler, lr_scheduler.ReduceLROnPlateau)
        self.scheduler.step(loss.item()) if plateau else self.scheduler.step()

    def state(self) -> dict[str, Any]:
        return {
            "model": dict(self.model.state_dict()),
            "optimiser": self.optimiser.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generators": generators_state({"data": self.generator}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.scheduler.load_state_dict(state["scheduler"])
        restore_generators({"data": self.generator}, state["generators"])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_continues_bit_for_bit(tmp_path: Path, optimiser: str, scheduler: str) -> None:
    training = Training(optimiser, scheduler)
    with RunFolder.create(tmp_path / "run", {}) as run:
        for step in range(STEPS):
            if step == SAVED:
                run.save(step, training.state())
            training.step()

    resumed = Training(optimiser, scheduler)
    random.seed(99)
    checkpoint = RunFolder.open(tmp_path / "run").load()
    resumed.restore(checkpoint.state)
    assert not same(resumed.state(), training.state())
    for _ in range(checkpoint.step, STEPS):
        resumed.step()
    assert same(resumed.state(), training.state())


def draws(generator: torch.Generator) -> list[Any]:
    return [
        torch.randn(3, generator=generator),
        torch.randn(3),
        random.gauss(0, 1),
        np.random.standard_normal(3).tolist(),
    ]


def test_all_generators_continue() -> None:
    generator = torch.Generator().manual_seed(5)
    draws(generator)  # an odd number of normal draws leaves a second one waiting in Python's and numpy's states
    state = generators_state({"data": generator})
    expected = draws(generator)
    draws(generator)
    restore_generators({"data": generator}, state)
    assert same(draws(generator), expected)


def test_generators_of_other_names_are_refused_untouched() -> None:
    state = generators_state({"data": torch.Generator()})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=r"'data'.*'drop'"):
        restore_generators({"data": torch.Generator(), "drop": torch.Generator()}, state)
    assert same(torch.get_rng_state(), before)


def test_generators_of_another_device_are_refused() -> None:
    state = generators_state({"data": torch.Generator()})
    state["named"]["data"]["device"] = "cuda"
    with pytest.raises(CheckpointError, match=r"'data' is on cpu; expected cuda.*resume on the kind of device"):
        restore_generators({"data": torch.Generator()}, state)


def test_more_cuda_devices_than_there_are_are_refused() -> None:
    state = generators_state({})
    state["cuda"] = [torch.zeros(16, dtype=torch.uint8)] * (torch.cuda.device_count() + 1)
    with pytest.raises(CheckpointError, match="CUDA devices"):
        restore_generators({}, state)


@pytest.mark.gpu
def test_cuda_generators_continue() -> None:
    generator = torch.Generator(device="cuda").manual_seed(1)
    torch.randn(1, device="cuda")
    state = generators_state({"data": generator})
    expected = [torch.randn(3, device="cuda"), torch.randn(3, device="cuda", generator=generator)]
    restore_generators({"data": generator}, state)
    assert same([torch.randn(3, device="cuda"), torch.randn(3, device="cuda", generator=generator)], expected)
