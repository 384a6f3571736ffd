"""Where a run happens: the device, what its numbers depend on, the switches that make them repeat, and returning."""

from __future__ import annotations

import os
import platform
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch

import fastdarts
from fastdarts._backend import native, use_backend
from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search.progress import Progress

__all__ = [
    "describe_environment",
    "note_environment",
    "reopened",
    "reproducible",
    "resolve_device",
    "seed_everything",
]


class _Placed(Protocol):
    """What every configuration says of where it runs."""

    @property
    def backend(self) -> str: ...


_Config = TypeVar("_Config", bound=_Placed)


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
    described = {
        "fastdarts": fastdarts.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads or torch.get_num_threads(),
    }
    if device.type == "cpu":
        # torch and the core choose each for themselves: wider vectors add up in another order.
        core = native()
        described |= {"torch_isa": torch.backends.cpu.get_cpu_capability(), "core_isa": core and core.isa()}
    return described


def note_environment(folder: RunFolder, device: torch.device, progress: Progress, threads: int = 0) -> None:
    """Tell and record that a run goes on elsewhere than so far: once, since what is recorded is then so far.

    Args:
        folder: an open run folder; its ``config.json`` has the ``environment`` it was begun in.
        device, threads: as for :func:`describe_environment`.
        progress: who is told.
    """
    before = dict(folder.config.get("environment", {}))
    for record in folder.metrics():
        if record.get("kind") == "environment":
            before |= record["environment"]
    now = describe_environment(device, threads)
    # What an older version did not record is not known to have changed.
    changed = [name for name, value in now.items() if name in before and before[name] != value]
    if changed:
        said = ", ".join(f"{name} {now[name]} instead of {before[name]}" for name in changed)
        progress.note(f"{folder.path.name} goes on with {said}: from here on its last bits may differ")
        folder.log({"kind": "environment", "environment": now, "changed": changed})


@contextmanager
def reopened(
    path: str | os.PathLike[str], kind: str, read: Callable[[Mapping[str, Any]], _Config]
) -> Iterator[tuple[RunFolder, _Config]]:
    """An earlier run, locked, with its configuration read and its backend in force while the block lasts.

    Args:
        path: the run folder.
        kind: what it must be, ``search`` or ``retrain``.
        read: makes a configuration of its JSON values.

    Raises:
        UserError: for a folder that is no run, or one of another kind or version.
    """
    with RunFolder.open(path) as folder:
        if folder.config.get("kind") != kind:
            raise UserError(f"{folder.path} holds a {folder.config.get('kind')} run", f"the run folder of a {kind}")
        config = read(folder.config.get("config", {}))
        with use_backend(config.backend):
            yield folder, config


@contextmanager
def reproducible(device: torch.device, threads: int = 0) -> Iterator[None]:
    """While the block runs: ``threads`` CPU threads (0: as it is), deterministic cuDNN algorithms, not timed, and
    ``device`` the one that kernels and graphs without a device of their own go to."""
    cudnn = torch.backends.cudnn
    before = torch.get_num_threads(), cudnn.deterministic, cudnn.benchmark
    torch.set_num_threads(threads or before[0])
    if device.type == "cuda":
        cudnn.deterministic, cudnn.benchmark = True, False
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
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
