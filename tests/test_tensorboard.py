"""What TensorBoard shows of a search: curves a cell, histograms of alphas, settings, and the test accuracy."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from fastdarts.evaluate import RetrainConfig, budget, retrain
from fastdarts.runs import RunFolder
from fastdarts.search import resume, search
from tests import tiny


def events_of(path: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"histograms": 0})
    accumulator.Reload()
    return accumulator


def settings_of(events: Any) -> dict[str, Any]:
    """The values of the HPARAMS tab; each kind is written once."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found: dict[str, Any] = {}
    for content in events.summary_metadata.values():
        if content.plugin_data.plugin_name == "hparams":
            data = HParamsPluginData.FromString(content.plugin_data.content)
            for name, value in data.session_start_info.hparams.items():
                kind = value.WhichOneof("kind")
                found[name] = getattr(value, kind)
    return found


def test_a_search_shows_each_cell_its_alphas_and_its_settings(tmp_path: Path) -> None:
    config = tiny.config("darts-first", epochs=2)
    run = tmp_path / "run"
    result = search(config, run, train_set=tiny.images(), search_space=tiny.SPACE)
    for again in (False, True):
        if again:
            # A finished run that is resumed says nothing twice.
            resume(run, train_set=tiny.images())
        events, records = events_of(run), [each for each in RunFolder.open(run).metrics() if each["kind"] == "epoch"]
        keys = list(records[0]["entropy"])
        for key in keys:
            shown = [event.value for event in events.Scalars(f"entropy/{key}")]
            assert shown == pytest.approx([record["entropy"][key] for record in records])
            skips = [event.value for event in events.Scalars(f"skips/{key}")]
            assert skips == [record["skips"][key] for record in records]
            alphas = events.Histograms(f"alphas/{key}")
            file = RunFolder.open(run).read_json("epochs/0001.json")
            offered = [len(edge["primitives"]) for edge in file["edges"][key]]
            assert [event.step for event in alphas] == [record["step"] for record in records]
            assert alphas[-1].histogram_value.num == sum(offered)
            values = [value for row, count in zip(file["alphas"][key], offered, strict=True) for value in row[:count]]
            assert alphas[-1].histogram_value.sum == pytest.approx(math.fsum(values))
        assert [event.value for event in events.Scalars("parameters")] == [each["parameters"] for each in records]
        assert events.Scalars("valid_accuracy")[-1].value == pytest.approx(result.valid_accuracy)
        shown = settings_of(events)
        assert shown["method"] == "darts-first" and shown["epochs"] == 2 and shown["lr"] == config.lr
    assert not [entry for entry in run.iterdir() if entry.is_dir() and entry.name not in ("checkpoints", "epochs")]


def test_a_training_ends_with_its_test_accuracy(tmp_path: Path) -> None:
    from fastdarts.spaces import published

    small = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "device": "cpu"}
    config = RetrainConfig(genotype=published("DARTS_V2").text(), **budget("custom", **small))
    sets = tiny.images(32), tiny.images(24, seed=1)
    result = retrain(config, tmp_path / "r", sets=sets)
    (event,) = events_of(tmp_path / "r").Scalars("test_accuracy")
    assert event.value == pytest.approx(result["test_accuracy"]) and event.step == 4
    assert settings_of(events_of(tmp_path / "r"))["channels"] == 4
    assert result["test_images"] == 24


def test_numbers_that_are_not_finite_have_no_place_in_a_histogram(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", {}) as run:
        run.histogram("a", [1.0, math.nan, math.inf, 3.0], 1)
        run.histogram("b", [math.nan], 1)
    events = events_of(tmp_path / "run")
    assert events.Tags()["histograms"] == ["a"]
    assert events.Histograms("a")[0].histogram_value.num == 2
