"""What was learnt up to earlier epochs, so that a guard can roll back to them. It is part of every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["Snapshots"]


class Snapshots:
    """Copies of states by the epoch of the run at whose end they were taken.

    Args:
        memory: how many epochs of the stage they last; 0 where nobody rolls back.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._kept: dict[int, tuple[int, dict[str, Any]]] = {}

    def keep(self, epoch: int, stage_epoch: int, state: Mapping[str, Any]) -> None:
        """Copy a state, and drop those that are too old to be asked for."""
        self._kept[epoch] = stage_epoch, _copied(state)
        oldest = stage_epoch - self._memory
        self._kept = {each: (at, kept) for each, (at, kept) in self._kept.items() if at >= oldest}

    def back_to(self, epoch: int) -> tuple[int, dict[str, Any]]:
        """The epoch of the stage and a copy of the state at the end of an epoch of the run; later ones are dropped."""
        if epoch not in self._kept:
            raise KeyError(f"no snapshot of epoch {epoch}; there are {sorted(self._kept)}")
        self._kept = {each: kept for each, kept in self._kept.items() if each <= epoch}
        stage_epoch, state = self._kept[epoch]
        return stage_epoch, _copied(state)

    def clear(self) -> None:
        """Drop all: a new stage has begun."""
        self._kept = {}

    def state_dict(self) -> dict[str, Any]:
        """All of them."""
        return {str(epoch): {"stage_epoch": at, "state": state} for epoch, (at, state) in self._kept.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._kept = {int(epoch): (kept["stage_epoch"], kept["state"]) for epoch, kept in state.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        # On the host: a GPU's memory is for the search.
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value
