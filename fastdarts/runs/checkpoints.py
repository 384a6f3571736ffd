"""Checkpoints of a run: folders `checkpoints/step-00000123/`, each whole, verified on reading and tied to its run.

`state.json` holds the format tag and version, the step, what the other files must be (bytes and SHA-256 of
`tensors.safetensors` and of the records so far, the digest of the run's configuration), what the records were made of,
the JSON tree of `pack`, and a seal: the SHA-256 of all that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.reading import conform, open_regular, parse_json
from fastdarts.runs import metrics
from fastdarts.runs.durable import drop_folder, replace_folder
from fastdarts.runs.error import CheckpointError
from fastdarts.runs.packing import pack, unpack
from fastdarts.runs.seal import digest

__all__ = ["Checkpoint", "Records", "prune", "read", "recorded", "steps", "write"]

FORMAT = "fastdarts-checkpoint"
VERSION = 1
KEPT = 2
TENSORS = "tensors.safetensors"
STATE = "state.json"
_NAME = re.compile(r"step-(\d{8,18})", re.ASCII)
# Of `state.json`, which holds what is no tensor.
_LIMIT = 64 << 20
_MOST_VALUES = 2_000_000
_FILE = {"bytes!": int, "sha256!": str}
_SCHEMA = {"step!": int, "config_sha256!": str, "tensors!": _FILE, "metrics!": _FILE, "epochs!": [str]}
_SCHEMA |= {"events!": {str: int}, "state!": object}


@dataclass(frozen=True)
class Records:
    """What the run had recorded when a checkpoint was saved; `RunFolder.rewind` goes back to it.

    Args:
        metrics_bytes: length of `metrics.jsonl`.
        metrics_sha256: SHA-256 of it.
        epochs: names of the files in `epochs/`.
        events: length in bytes of each TensorBoard event file.
    """

    metrics_bytes: int
    metrics_sha256: str
    epochs: tuple[str, ...]
    events: dict[str, int]


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Args:
        step: training steps done when it was saved.
        state: the nested value that was saved; its tensors are on the CPU.
        path: its folder.
        records: what the run had recorded by then.
    """

    step: int
    state: Any
    path: Path
    records: Records


def steps(root: Path) -> list[int]:
    """The steps of the checkpoints below a run folder, rising; nothing is verified."""
    folder = root / "checkpoints"
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name)))


def locate(root: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return root / "checkpoints" / f"step-{step:08d}"


def write(root: Path, step: int, state: object, *, config_digest: str, records: Records) -> Path:
    """Write a checkpoint, in place of one of the same step, and return its folder.

    Raises:
        TypeError: if `pack` cannot take the state; nothing is written then.
        OSError: what the system said; the checkpoints are then what they were.
    """
    tensors, tree = pack(state)
    data = safetensors.torch.save(tensors)
    body = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "config_sha256": config_digest,
        "tensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "metrics": {"bytes": records.metrics_bytes, "sha256": records.metrics_sha256},
        "epochs": list(records.epochs),
        "events": records.events,
        "state": tree,
    }
    text = json.dumps({**body, "seal": digest(body)}, indent=1)
    if len(text) > _LIMIT or text.count(",") >= _MOST_VALUES:
        raise TypeError(
            f"the state without its tensors is {len(text)} bytes of JSON; expected at most {_LIMIT}, and "
            f"{_MOST_VALUES} values: keep long lists of numbers as tensors"
        )
    path = locate(root, step)
    replace_folder(path, {TENSORS: data, STATE: text.encode("ascii")})
    return path


def prune(root: Path) -> None:
    """Remove all checkpoints but the newest two."""
    for step in steps(root)[:-KEPT]:
        drop_folder(locate(root, step))


def read(root: Path, step: int, *, config_digest: str) -> Checkpoint:
    """Read and verify the checkpoint of a step.

    Raises:
        CheckpointError: naming the file and what was found, if anything at all is not as it was saved.
    """
    path = locate(root, step)
    header = _checked(path, step, config_digest)
    records = _records(header)
    with _unreadable(path):
        _verify_records(root, path, records)
        tensors = _tensors(path / TENSORS, header["tensors"]["bytes"], header["tensors"]["sha256"])
    return Checkpoint(step, unpack(tensors, header["state"]), path, records)


def recorded(root: Path, step: int, *, config_digest: str) -> Records:
    """What the run had recorded when a step's checkpoint was saved, without its tensors being read.

    Raises:
        CheckpointError: if `state.json` is not as it was saved.
    """
    return _records(_checked(locate(root, step), step, config_digest))


def _records(header: dict[str, Any]) -> Records:
    return Records(
        header["metrics"]["bytes"], header["metrics"]["sha256"], tuple(header["epochs"]), dict(header["events"])
    )


def _checked(path: Path, step: int, config_digest: str) -> dict[str, Any]:
    with _unreadable(path):
        header = _header(path / STATE)
    if header["step"] != step:
        raise CheckpointError(f"{path} holds the checkpoint of step {header['step']}", f"the one of step {step}")
    if header["config_sha256"] != config_digest:
        raise CheckpointError(
            f"{path} is of another run, or config.json was changed since: it was saved for a configuration with "
            f"SHA-256 {header['config_sha256'][:12]}..., this run's is {config_digest[:12]}..."
        )
    return header


@contextmanager
def _unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"{error.filename} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename or path} cannot be read: {error.strerror or error}") from error


def _header(path: Path) -> dict[str, Any]:
    with os.fdopen(open_regular(path, follow=False), "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise CheckpointError(f"{path} is damaged: it has more than {_LIMIT} bytes")
    try:
        header = parse_json(data, "it", _MOST_VALUES)
    except UserError as error:
        raise CheckpointError(f"{path} is damaged: {len(data)} bytes that are not JSON ({error})") from error
    found = header.get("format") if type(header) is dict else None
    if found != FORMAT:
        raise CheckpointError(f"{path} has the format {found!r}", repr(FORMAT))
    if header.get("version") != VERSION:
        raise CheckpointError(f"{path} has version {header.get('version')!r} of the format", f"version {VERSION}")
    seal = header.pop("seal", None)
    if seal != digest(header):
        raise CheckpointError(f"{path} is damaged: its content does not match its seal")
    try:
        checked: dict[str, Any] = conform(header, _SCHEMA, str(path))
        return checked
    except UserError as error:
        raise CheckpointError(error.what, error.expected) from error


def _verify_records(root: Path, path: Path, records: Records) -> None:
    file = root / "metrics.jsonl"
    size, sha256 = metrics.prefix(file, records.metrics_bytes)
    if size < records.metrics_bytes:
        raise CheckpointError(
            f"{file} holds {size} bytes", f"the {records.metrics_bytes} that {path.name} was saved with"
        )
    if sha256 != records.metrics_sha256:
        raise CheckpointError(
            f"{path} is of another run, or {file} was changed since: its first {size} bytes are not "
            "those it was saved with"
        )


def _tensors(path: Path, size: int, sha256: str) -> dict[str, Tensor]:
    with os.fdopen(open_regular(path, follow=False), "rb") as file:
        # Before it is read into memory.
        found = os.fstat(file.fileno()).st_size
        if found != size:
            raise CheckpointError(f"{path} is {'truncated' if found < size else 'too long'}: {found} bytes", f"{size}")
        data = file.read()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{path} is damaged: its {size} bytes do not match their SHA-256")
    # Clones own aligned memory; safetensors' own views of the file's bytes do not.
    return {name: tensor.clone() for name, tensor in safetensors.torch.load(data).items()}
