"""A search as a GPU would run it, once as it is and once recorded and replayed by an emulated graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastdarts.search import SearchConfig, graph, job, search
from fastdarts.search._unattended import UnattendedStep
from tests import tiny
from tests.graph_emulator import Emulator

__all__ = ["assert_recorded_is_the_same"]


def assert_recorded_is_the_same(config: SearchConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Search twice on the tiny images and space; the recorded run must be the other one to the bit.

    Returns:
        The recorder, which counts what was recorded and replayed.
    """
    recorder = Emulator()
    monkeypatch.setattr(graph, "WARM_UPS", 1)
    monkeypatch.setattr(
        job,
        "new_step",
        lambda config, _, model, choices: UnattendedStep(model, config, choices.relaxation, choices.perturbation),
    )
    for name, each in (("plain", None), ("recorded", recorder)):
        monkeypatch.setattr(job, "new_recorder", lambda *_, each=each: each)
        search(config, path / name, train_set=tiny.images(), search_space=tiny.SPACE)
    tiny.assert_same_run(path / "plain", path / "recorded")
    return recorder
