"""A search as a GPU would run it, once as it is and once recorded and replayed by an emulated graph."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fastdarts.nn import Supernet
from fastdarts.search import SearchConfig, graph, job, search
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Choices
from tests import tiny
from tests.graph_emulator import Emulator

__all__ = ["NOT_RECORDED", "assert_recorded_is_the_same", "emulated"]

# They draw on the host what runs, differentiate twice, or evaluate a loss again with the same random numbers.
NOT_RECORDED = {
    "gaea-darts",
    "gaea-pc-darts",
    "gdas",
    "gdas-reinmax",
    "proxyless",
    "random-search",
    "random-ws",
    "darts-second-exact",
}
NOT_RECORDED |= {"amended", "amended-s2", "amended-s2-full"}


def emulated(monkeypatch: pytest.MonkeyPatch, recorder: Emulator | None, warm_ups: int = 1) -> None:
    """Let searches take a GPU's steps, and this recorder record them; None runs them as they are."""
    monkeypatch.setattr(graph, "WARM_UPS", warm_ups)
    monkeypatch.setattr(job, "new_step", _unattended)
    monkeypatch.setattr(job, "new_recorder", lambda *_: recorder)


def assert_recorded_is_the_same(config: SearchConfig, path: Path, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """Search twice on the tiny images and space; the recorded run must be the other one to the bit.

    Returns:
        The recorder, which counts what was recorded and replayed.
    """
    recorder = Emulator()
    for name, each in (("plain", None), ("recorded", recorder)):
        emulated(monkeypatch, each)
        search(config, path / name, train_set=tiny.images(), search_space=tiny.SPACE)
    tiny.assert_same_run(path / "plain", path / "recorded")
    return recorder


def _unattended(config: SearchConfig, _: torch.device, model: Supernet, choices: Choices) -> UnattendedStep:
    return UnattendedStep(model, config, choices.relaxation, choices.perturbation)
