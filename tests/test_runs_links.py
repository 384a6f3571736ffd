"""Nothing inside a run folder is followed out of it: a stranger's run changes and shows no file of the user's."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from report_runs import make_run
from run_folders import three_epochs

from fastdarts.cli import main
from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search import resume

FILES = (
    *(".lock", "metrics.jsonl", "config.json", "result.json", "epochs/0001.json", ".tmp-metrics.jsonl"),
    *("events.out.tfevents.1", "checkpoints/step-00000030/state.json", "compare/trainings/found-seed0/.lock"),
)
FOLDERS = ("epochs", "checkpoints", "checkpoints/step-00000030", "checkpoints/.tmp-step-00000040", "compare")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    three_epochs(tmp_path / "run").close()
    return tmp_path / "run"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user's, with what a run folder's names would be in it."""
    (tmp_path / "mine").mkdir()
    for name in ("0000.json", "0001.json", "state.json", "step-00000001", ".tmp-precious", "letter.txt"):
        (tmp_path / "mine" / name).write_text("mine, do not touch\n")
    return tmp_path / "mine"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def plant(run: Path, name: str, target: Path) -> None:
    path = run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", FILES + FOLDERS)
def test_a_link_inside_is_refused_and_its_target_stays(run: Path, victim: Path, name: str) -> None:
    opened, before = RunFolder.open(run), contents(victim)
    plant(run, name, victim / "letter.txt" if name in FILES else victim)
    with pytest.raises(UserError, match=r"is a link to .*; expected files and folders only.*if you trust"):
        RunFolder.open(run)
    # A run that was opened before the link was there.
    with pytest.raises(UserError, match="is a link to"), opened:
        opened.rewind(None)
    with pytest.raises(UserError, match="is a link to"):
        opened.log({"kind": "epoch"})
    assert contents(victim) == before


def test_a_link_that_leads_nowhere_is_refused(run: Path, tmp_path: Path) -> None:
    plant(run, ".lock", tmp_path / "new")
    with pytest.raises(UserError, match="is a link to"):
        RunFolder.open(run)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "events.out.tfevents.1"])
def test_a_second_name_outside_is_not_written_to(run: Path, victim: Path, name: str) -> None:
    letter = victim / "letter.txt"
    if name == "metrics.jsonl":
        shutil.copyfile(run / name, letter)
    before = letter.read_bytes()
    (run / name).unlink(missing_ok=True)
    os.link(letter, run / name)
    folder = RunFolder.open(run)
    assert len(folder.metrics()) == 3, "such a run may be looked at: a copy made with cp -al is one"
    with pytest.raises(UserError, match=r"has another name outside the run \(a hard link\).*no-preserve=links"), folder:
        pass
    assert letter.read_bytes() == before


def test_a_fifo_inside_is_refused_at_once(run: Path) -> None:
    (run / "config.json").unlink()
    os.mkfifo(run / "config.json")
    with pytest.raises(UserError, match=r"config\.json is a FIFO"):
        RunFolder.open(run)


def test_a_run_folder_may_be_reached_by_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(run)
    with RunFolder.open(tmp_path / "latest") as folder:
        folder.log({"kind": "epoch", "epoch": 3})
    assert len(RunFolder.open(run).metrics()) == 4


def test_a_new_run_is_not_made_through_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "run").mkdir()
    for name in (".lock", ".tmp-config.json"):
        (tmp_path / "run" / name).symlink_to(victim / "letter.txt")
    before = contents(victim)
    with pytest.raises(UserError, match="is a link to"):
        RunFolder.create(tmp_path / "run", {})
    assert contents(victim) == before


def test_names_in_a_runs_files_do_not_lead_out_of_it(run: Path) -> None:
    folder = RunFolder.open(run)
    for name in ("../mine/letter.txt", "/etc/hostname", "epochs/../../x", "", "a\0b"):
        with pytest.raises(UserError, match="leads outside the run folder"):
            folder.read_json(name)


def test_the_commands_say_so_in_a_line(tmp_path: Path, victim: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run, before = make_run(tmp_path / "run"), contents(victim)
    shutil.rmtree(run / "epochs")
    (run / "epochs").symlink_to(victim)
    for command in (["search", "--resume"], ["show", "--report"]):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr("sys.argv", ["fastdarts", *command, str(run)])
            main()
        assert ended.value.code == 2
        assert capfd.readouterr().err.startswith(f"fastdarts: {run}/epochs is a link to {victim}; expected")
    with pytest.raises(UserError, match="is a link to"):
        resume(run)
    assert contents(victim) == before
