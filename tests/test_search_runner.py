"""What keeps the host out of the device's way between steps: sums, clocks and sparing checkpoints."""

from __future__ import annotations

import pytest
import torch

from fastdarts.search.runner import _Position, _Saving


def test_sums_are_their_own_and_exact() -> None:
    position, given = _Position(), torch.tensor([0.1, 0.2], dtype=torch.float64)
    for _ in range(3):
        position.add({"loss": given[0], "accuracy": given[1]})
    # What a step hands out may be written over by the next one.
    given.fill_(100.0)
    assert position.sums["loss"].item() == 0.1 + 0.1 + 0.1
    assert position.means() == {"loss": (0.1 + 0.1 + 0.1) / 3, "accuracy": (0.2 + 0.2 + 0.2) / 3}
    position.add({"loss": torch.tensor(1.0), "late": torch.tensor(2.0)})
    assert position.sums["late"].dtype == torch.float64
    assert position.sums["late"].item() == 2.0


def test_a_resumed_epoch_leaves_the_checkpoints_sums_alone() -> None:
    position, resumed = _Position(), _Position()
    position.add({"loss": torch.tensor(1.0)})
    resumed.load_state_dict(position.state_dict(), 3)
    resumed.add({"loss": torch.tensor(2.0)})
    assert (position.sums["loss"].item(), resumed.sums["loss"].item()) == (1.0, 3.0)


@pytest.mark.parametrize(("device", "saved"), [("cpu", [2, 4, 6, 8]), ("cuda", [2, 8])])
def test_checkpoints_on_a_gpu_take_a_fortieth_of_the_time(device: str, saved: list[int]) -> None:
    now = 0.0
    saving = _Saving(2, torch.device(device), lambda: now)
    found = []
    for epoch in range(1, 9):
        now += 4.0
        if saving.due(epoch):
            found.append(epoch)
            with saving.timed():
                now += 0.5
    assert found == saved
