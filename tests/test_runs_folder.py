"""A run folder: what is one, who may use it, what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import CONFIG, is_state, state, three_epochs

from fastdarts.errors import UserError
from fastdarts.runs import RunFolder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power, and a busy disk takes its time to flush; test_runs_faults.py sees that it is asked to."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    with three_epochs(tmp_path / "run") as run:
        yield run


# Creating and opening


def test_create_then_open(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    RunFolder.create(path, {"size": (3, 4), "name": "f\udce9"}).close()
    assert RunFolder.open(path).config == {"size": [3, 4], "name": "f\udce9"}
    assert RunFolder.open(str(path)).path == path


def test_create_takes_an_empty_folder_and_refuses_a_filled_one(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG).close()
    (tmp_path / "other").mkdir()
    for name in "dcba":
        (tmp_path / "other" / name).touch()
    with pytest.raises(
        UserError, match=r"other is not empty: it holds a, b, c, \.\.\.; expected a new or empty folder"
    ):
        RunFolder.create(tmp_path / "other", CONFIG)
    assert sorted(os.listdir(tmp_path / "other")) == ["a", "b", "c", "d"]


def test_create_refuses_a_run_and_tells_how_to_continue_it(run: RunFolder) -> None:
    with pytest.raises(UserError, match=f"already a run.*--resume {run.path}"):
        RunFolder.create(run.path, CONFIG)


def test_create_refuses_a_file_and_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(UserError, match=f"{name} exists and is no folder"):
            RunFolder.create(tmp_path / name, CONFIG)
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.create(tmp_path / "file" / "run", CONFIG)


@pytest.mark.parametrize("config", [[1], {"path": Path()}, {"x": torch.ones(1)}], ids=str)
def test_create_refuses_what_is_no_json_before_it_writes(tmp_path: Path, config: Any) -> None:
    with pytest.raises(TypeError):
        RunFolder.create(tmp_path / "run", config)
    assert not (tmp_path / "run").exists()


def test_open_names_what_is_missing(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent does not exist"):
        RunFolder.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"config\.json is no folder"):
        RunFolder.open(run.path / "config.json")
    with pytest.raises(UserError, match=r"no run folder: config\.json and metrics\.jsonl missing"):
        RunFolder.open(tmp_path)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed/.lock").touch()
    with pytest.raises(UserError, match=r"killed while it made the folder: start the run again in it"):
        RunFolder.open(tmp_path / "killed")
    RunFolder.create(tmp_path / "killed", CONFIG).close()
    (run.path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"no run folder: metrics\.jsonl missing"):
        RunFolder.open(run.path)


@pytest.mark.parametrize(("text", "said"), [("{", "no JSON"), ("[]", "holds a list"), ("\ufffe", "no JSON")])
def test_open_refuses_a_damaged_configuration(run: RunFolder, text: str, said: str) -> None:
    (run.path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=rf"config\.json.*{said}"):
        RunFolder.open(run.path)


def test_a_link_to_a_run_is_that_run(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run.path)
    linked = RunFolder.open(tmp_path / "link")
    assert is_state(linked.load(), 30)
    with pytest.raises(UserError, match="in use"):
        linked.log({})
    run.close()
    with linked:
        linked.rewind(linked.load(previous=True))
        linked.save(21, state(21))
    assert is_state(run.load(), 21)


# One process at a time


def test_a_second_process_is_refused_with_the_id_of_the_first(run: RunFolder) -> None:
    code = (
        "import sys\nfrom fastdarts.runs import RunFolder\n"
        "run = RunFolder.open(sys.argv[1])\nprint(run.load().step)\nrun.log({})"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(run.path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout == "30\n"
    assert f"UserError: {run.path} is in use by process {os.getpid()} on " in done.stderr
    assert len(run.metrics()) == 3


def test_the_lock_ends_with_the_block_and_with_the_object(run: RunFolder) -> None:
    run.close()
    second = RunFolder.open(run.path)
    second.log({"epoch": 3})
    with pytest.raises(UserError, match="in use"), run:
        pass
    del second
    with run:
        run.log({"epoch": 4})
    with RunFolder.open(run.path) as third:
        assert [record["epoch"] for record in third.metrics()] == [0, 1, 2, 3, 4]


def test_a_failed_create_gives_the_lock_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match="No space left on device; free some disk space") as caught:
            RunFolder.create(tmp_path / "run", CONFIG)
    RunFolder.create(tmp_path / "run", CONFIG).close()
    assert caught.value.remedy


def test_a_file_system_without_locks_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with RunFolder.create(tmp_path / "run", CONFIG) as run:
        run.log({})
    assert "has no locks" in caplog.text


# A folder that cannot be written


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may write everywhere, so a test of permissions steps down for a moment."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_read_only_run_can_be_read_and_says_why_it_cannot_be_written() -> None:
    with tempfile.TemporaryDirectory() as parent:
        os.chmod(parent, 0o755)
        path = Path(parent) / "run"
        # Others may read what is made here, whatever whoever runs the tests lets them.
        before = os.umask(0o022)
        with RunFolder.create(path, CONFIG) as run:
            run.save(1, state(1))
        os.umask(before)
        os.chmod(path / ".lock", 0o444)
        os.chmod(path, 0o555)
        try:
            with as_nobody():
                reading = RunFolder.open(path)
                assert is_state(reading.load(), 1)
                assert reading.metrics() == []
                with pytest.raises(UserError, match=r"cannot write .*Permission denied; make the folder writable"):
                    reading.log({})
                with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
                    RunFolder.create(path / "inner", CONFIG)
            os.chmod(path, 0o000)
            with as_nobody(), pytest.raises(UserError, match=r"cannot read .*Permission denied; make it readable"):
                RunFolder.open(path)
        finally:
            os.chmod(path, 0o755)
