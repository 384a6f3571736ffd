"""Digests in the JSON files of a run: what was damaged, edited, renamed or taken from another run is noticed.

A sealed object has one member more, `seal`: the SHA-256 of its other members, of the file's name and of the run that it
belongs to. It travels with the file, in one rename, so that no kill can part the two. Files of before there were seals
are read, and it is said once that they cannot be verified.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import PurePosixPath
from typing import Any

from fastdarts.errors import UserError

__all__ = ["SEAL", "digest", "sealed", "unsealed"]

SEAL = "seal"
_told: set[str] = set()


def digest(value: object) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys and the layout of its file."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")).hexdigest()


def sealed(value: Any, owner: str, name: str) -> Any:
    """What JSON makes of a value, with a seal where it is an object.

    Args:
        value: what `json` can write.
        owner: digest of the configuration of the run that the file belongs to.
        name: of the file, inside the run.

    Raises:
        TypeError: if it is no JSON.
    """
    value = json.loads(json.dumps(value))
    if type(value) is not dict:
        return value
    if SEAL in value:
        raise TypeError(f"the value of {name} has a member {SEAL!r}, which is the run folder's")
    return {**value, SEAL: _seal(value, owner, name)}


def unsealed(value: Any, owner: str, name: str, path: str, run: str) -> Any:
    """The value of a file without its seal, verified.

    Args:
        value: what the file holds.
        owner, name: as for :func:`sealed`.
        path: the file, for the error.
        run: the folder, for the word about files of before there were seals.

    Raises:
        UserError: if the content is not what was sealed.
    """
    if type(value) is not dict:
        return value
    value = dict(value)
    seal = value.pop(SEAL, None)
    if seal is None:
        if run not in _told:
            _told.add(run)
            logging.getLogger("fastdarts").warning(
                "%s: %s has no digest, as of before there were any: damage to the run would not be noticed",
                run,
                name,
            )
    elif seal != _seal(value, owner, name):
        raise UserError(
            f"{path} is damaged, was edited, or is of another run: its content does not match its digest",
            remedy="restore it from a copy of the run",
        )
    return value


def _seal(value: dict[str, Any], owner: str, name: str) -> str:
    return digest([owner, str(PurePosixPath(name)), value])
