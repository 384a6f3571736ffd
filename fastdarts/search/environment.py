"""Where a run happens: the device, what its numbers depend on, and the switches that make them repeat."""

from __future__ import annotations

import platform
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

import fastdarts
from fastdarts.errors import UserError

__all__ = ["check_environment", "describe_environment", "reproducible", "resolve_device", "seed_everything"]


def resolve_device(name: str) -> torch.device:
    """The device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises:
        UserError: for another name, or a GPU that torch does not see.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"unknown device {name!r}", "auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"device {name!r} asked for, torch sees {torch.cuda.device_count()} GPUs",
            remedy="use --device cpu, or see what `fastdarts doctor` says",
        )
    return device


def describe_environment(device: torch.device, threads: int = 0) -> dict[str, Any]:
    """What the last bits of a run's numbers depend on; ``threads`` is the configured number, 0 for torch's own."""
    return {
        "fastdarts": fastdarts.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads or torch.get_num_threads(),
    }


def check_environment(recorded: Mapping[str, Any], device: torch.device, threads: int = 0) -> list[str]:
    """One line for each thing that differs from when the run was started, so that its last bits may differ."""
    now = describe_environment(device, threads)
    return [
        f"the run was started with {name} {recorded.get(name)}, this is {value}: its last bits may differ"
        for name, value in now.items()
        if recorded.get(name) != value
    ]


@contextmanager
def reproducible(device: torch.device, threads: int = 0) -> Iterator[None]:
    """While the block runs: ``threads`` CPU threads (0: as it is), and deterministic cuDNN algorithms, not timed."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads or before[0])
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device, and Python's and numpy's, which a user's data set may draw from."""
    import numpy

    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)
