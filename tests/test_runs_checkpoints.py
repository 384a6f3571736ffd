"""Checkpoints: what is kept, what is verified, what each refusal tells."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from run_folders import CONFIG, is_state, state, three_epochs

from fastdarts.errors import UserError
from fastdarts.runs import CheckpointError, RunFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes its time to flush; test_runs_faults.py sees that it is asked to."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with three_epochs(tmp_path / "run") as run:
        yield run


def test_the_newest_two_are_kept(run: RunFolder) -> None:
    assert sorted(os.listdir(run.path / "checkpoints")) == ["step-00000020", "step-00000030"]
    assert is_state(run.load(), 30)
    assert is_state(run.load(previous=True), 20)
    assert run.load().path == run.path / "checkpoints/step-00000030"


def test_the_same_step_again_takes_its_place(run: RunFolder) -> None:
    run.save(30, {"second": True})
    assert run.steps() == [20, 30]
    assert run.load().state == {"second": True}


def test_a_step_before_the_newest_is_refused(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"step is 25; expected at least 30.*rewind"):
        run.save(25, {})
    with pytest.raises(TypeError, match="step is a bool"):
        run.save(True, {})
    assert run.steps() == [20, 30]


def test_a_first_step_below_zero_is_refused(tmp_path: Path) -> None:
    with (
        RunFolder.create(tmp_path / "run", {}) as run,
        pytest.raises(UserError, match="step is -1; expected at least 0"),
    ):
        run.save(-1, {})


def test_a_state_that_cannot_be_packed_leaves_everything(run: RunFolder) -> None:
    with pytest.raises(TypeError, match=r"x is a builtins\.object"):
        run.save(40, {"x": object()})
    assert run.steps() == [20, 30]


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "run", CONFIG) as run:
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            run.load()
        run.save(1, {})
        with pytest.raises(CheckpointError, match=r"no checkpoint before the one of step 1; resume without --previous"):
            run.load(previous=True)


def test_rewind_takes_the_records_back(run: RunFolder) -> None:
    known = (run.path / "metrics.jsonl").read_bytes()
    run.log({"kind": "step", "step": 31})
    run.write_json("epochs/0003.json", {})
    run.rewind(run.load())
    assert (run.path / "metrics.jsonl").read_bytes() == known
    assert sorted(os.listdir(run.path / "epochs")) == ["0000.json", "0001.json", "0002.json"]

    run.rewind(run.load(previous=True))
    assert [record["epoch"] for record in run.metrics()] == [0, 1]
    assert sorted(os.listdir(run.path / "epochs")) == ["0000.json", "0001.json"]
    assert run.steps() == [20]
    assert is_state(run.load(), 20)


def test_rewind_to_the_start(run: RunFolder) -> None:
    run.scalar("loss", 1.0, 1)
    run.rewind(None)
    assert run.metrics() == []
    assert run.steps() == []
    assert not os.listdir(run.path / "epochs")
    assert not list(run.path.glob("events.*"))


def test_rewind_refuses_a_checkpoint_that_is_not_there(run: RunFolder, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "other", CONFIG) as other:
        other.save(20, {})
        with pytest.raises(UserError, match="is no checkpoint of"):
            run.rewind(other.load())
    stale = run.load()
    run.rewind(run.load(previous=True))
    with pytest.raises(UserError, match="is no checkpoint of"):
        run.rewind(stale)


def flip(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 4
    path.write_bytes(data)


def newest(run: RunFolder, name: str) -> Path:
    return run.path / "checkpoints/step-00000030" / name


PREVIOUS = r"; use the one before it, of step 20: --previous$"


@pytest.mark.parametrize("at", [i / 20 for i in range(21)])
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_flipped_bit_is_found(run: RunFolder, name: str, at: float) -> None:
    flip(newest(run, name), at)
    with pytest.raises(CheckpointError, match=rf"step-00000030/{name}.*{PREVIOUS}"):
        run.load()
    assert is_state(run.load(previous=True), 20)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_named(run: RunFolder, share: float) -> None:
    path = newest(run, "tensors.safetensors")
    whole = path.stat().st_size
    os.truncate(path, int(share * whole))
    found = rf"tensors\.safetensors is truncated: {int(share * whole)} bytes; expected {whole}"
    with pytest.raises(CheckpointError, match=found + PREVIOUS):
        run.load()
    os.truncate(path, 2 * whole)
    with pytest.raises(CheckpointError, match="too long"):
        run.load()
    path = newest(run, "state.json")
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match=r"state\.json is damaged.*" + PREVIOUS):
        run.load()


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
def test_a_missing_file_is_named(run: RunFolder, name: str) -> None:
    newest(run, name).unlink()
    with pytest.raises(CheckpointError, match=rf"step-00000030/{name} is missing" + PREVIOUS):
        run.load()


def test_a_file_in_place_of_the_folder_is_named(run: RunFolder) -> None:
    shutil.rmtree(newest(run, ""))
    newest(run, "").touch()
    with pytest.raises(CheckpointError, match=r"step-00000030/state\.json cannot be read: Not a directory" + PREVIOUS):
        run.load()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", "other", "has the format 'other'; expected 'fastdarts-checkpoint'"),
        ("version", 2, "has version 2 of the format; expected version 1"),
        ("step", 31, "does not match its seal"),
    ],
)
def test_another_format_or_version_is_refused(run: RunFolder, key: str, value: Any, said: str) -> None:
    path = newest(run, "state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(CheckpointError, match=said + PREVIOUS):
        run.load()


def test_a_renamed_checkpoint_is_refused(run: RunFolder) -> None:
    newest(run, "").rename(run.path / "checkpoints/step-00000031")
    with pytest.raises(
        CheckpointError, match="step-00000031 holds the checkpoint of step 30; expected the one of step 31"
    ):
        run.load()


def test_a_checkpoint_of_another_run_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "other", {**CONFIG, "seed": 1}) as other:
        copied = run.path / "checkpoints/step-00000099"
        shutil.copytree(other.save(99, state(99)), copied)
    with pytest.raises(CheckpointError, match=r"step-00000099 is of another run.*--previous"):
        run.load()
    run.rewind(run.load(previous=True))
    assert run.steps() == [20, 30]


def test_a_checkpoint_of_a_run_with_the_same_configuration_is_refused(run: RunFolder, tmp_path: Path) -> None:
    with RunFolder.create(tmp_path / "other", CONFIG) as other:
        other.log({"kind": "epoch", "epoch": 1})
        shutil.copytree(other.save(99, state(99)), run.path / "checkpoints/step-00000099")
    with pytest.raises(CheckpointError, match=r"step-00000099 is of another run, or .*metrics\.jsonl was changed"):
        run.load()


def test_cut_records_are_named(run: RunFolder) -> None:
    os.truncate(run.path / "metrics.jsonl", 40)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl holds 40 bytes; expected the \d+ that step-00000030"):
        run.load()


def test_a_changed_configuration_is_named_and_its_layout_is_not(run: RunFolder) -> None:
    run.close()
    config = run.path / "config.json"
    config.write_text(json.dumps(dict(reversed(CONFIG.items()))))
    assert is_state(RunFolder.open(run.path).load(), 30)
    config.write_text(json.dumps({**CONFIG, "seed": 1}))
    with pytest.raises(CheckpointError, match=r"config\.json was changed.*no other checkpoint of this run can be used"):
        RunFolder.open(run.path).load()


def test_the_remedy_is_one_that_works(run: RunFolder) -> None:
    flip(run.path / "checkpoints/step-00000020/tensors.safetensors", 0.5)
    with pytest.raises(CheckpointError, match="use the newest one, of step 30: resume without --previous"):
        run.load(previous=True)
    flip(newest(run, "tensors.safetensors"), 0.5)
    for previous in (False, True):
        with pytest.raises(CheckpointError, match="no other checkpoint of this run can be used either"):
            run.load(previous=previous)
    shutil.rmtree(run.path / "checkpoints/step-00000020")
    with pytest.raises(CheckpointError, match="there is no other checkpoint: start the run again"):
        run.load()
