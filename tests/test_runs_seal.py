"""Every file that a result depends on is under a digest: what was edited, swapped or damaged is refused in a line."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import comparison_of, make_run

from fastdarts.errors import UserError
from fastdarts.report import write_report
from fastdarts.runs import RunFolder
from fastdarts.search import resume, search
from tests import tiny

EDITED = r"is damaged, was edited, or is of another run: its content does not match its digest; restore it from a copy"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "run")
    with RunFolder.open(path) as folder:
        folder.write_json("comparison.json", comparison_of(0.9, [0.8, 0.95]))
        folder.write_json("retrain.json", {"test_accuracy": 0.9})
    return path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("searched") / "run"
    search(tiny.config(), path, train_set=tiny.images(), search_space=tiny.SPACE)
    return path


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    "name", ["epochs/0001.json", "genotype.json", "result.json", "retrain.json", "comparison.json", "config.json"]
)
def test_an_edited_file_is_refused_by_name(run: Path, name: str) -> None:
    def read() -> object:
        folder = RunFolder.open(run)
        return folder.config if name == "config.json" else folder.read_json(name)

    before = read()
    edit(run / name, lambda value: value)
    assert read() == before, "another layout is the same content"
    changed = (run / name).read_text().replace("0.", "1.", 1).replace("skip_connect", "sep_conv_3x3", 1)
    (run / name).write_text(changed.replace("digits", "cifar10"))
    with pytest.raises(UserError, match=rf"{name} {EDITED}"):
        read()


def test_a_file_of_another_name_or_run_is_refused(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "epochs/0000.json", run / "epochs/0001.json")
    with pytest.raises(UserError, match=rf"epochs/0001\.json {EDITED}"):
        RunFolder.open(run).read_json("epochs/0001.json")
    other = make_run(tmp_path / "other", seed=8)
    shutil.copy(other / "epochs/0002.json", run / "epochs/0002.json")
    with pytest.raises(UserError, match=rf"epochs/0002\.json {EDITED}"):
        RunFolder.open(run).read_json("epochs/0002.json")


def test_a_file_of_a_run_inside_is_verified_as_that_runs(run: Path) -> None:
    inner = make_run(run / "searches" / "one", seed=9)
    assert RunFolder.open(run).read_json("searches/one/result.json") == RunFolder.open(inner).read_json("result.json")
    edit(inner / "result.json", lambda value: value | {"valid_accuracy": 1.0})
    with pytest.raises(UserError, match=rf"one/result\.json {EDITED}"):
        RunFolder.open(run).read_json("searches/one/result.json")


def test_a_resumption_does_not_take_its_answer_from_an_edited_file(searched: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(searched, tmp_path / "run"))

    def other(value: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(value["genotype"])
        genotype = text.replace("max_pool_3x3", "sep_conv_3x3").replace("skip_connect", "sep_conv_3x3")
        return value | {"genotype": json.loads(genotype), "valid_accuracy": 1.0}

    edit(run / "epochs/0001.json", other)
    (run / "result.json").unlink()
    with pytest.raises(UserError, match=rf"epochs/0001\.json {EDITED}"):
        resume(run, train_set=tiny.images())
    assert not (run / "result.json").exists()


@pytest.mark.parametrize("kept", [True, False], ids=["with checkpoints", "without"])
def test_edited_records_are_noticed_while_anything_vouches_for_them(searched: Path, tmp_path: Path, kept: bool) -> None:
    run = Path(shutil.copytree(searched, tmp_path / "run"))
    if not kept:
        shutil.rmtree(run / "checkpoints")
    assert len(RunFolder.open(run).metrics()) == 2
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text + '{"kind": "environment", "environment": {}, "changed": []}\n')
    assert len(RunFolder.open(run).metrics()) == 3, "what was added later is not vouched for"
    said = r"metrics\.jsonl was damaged or edited: its first \d+ bytes are not those that "
    for changed in (text.replace('"epoch": 1', '"epoch": 2'), text[: len(text) // 2]):
        (run / "metrics.jsonl").write_text(changed)
        with pytest.raises(UserError, match=said + ("the checkpoint of step 6" if kept else r"result\.json")):
            RunFolder.open(run).metrics()
        with pytest.raises(UserError, match=said):
            write_report(run)


def test_what_a_result_keeps_of_the_records_is_not_shown(searched: Path) -> None:
    assert "records" in json.loads((searched / "result.json").read_text())
    assert not {"records", "seal"} & RunFolder.open(searched).read_json("result.json").keys()


def test_a_run_of_before_there_were_digests_is_read_and_it_is_said_once(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (*run.glob("*.json"), *run.glob("epochs/*.json")):
        edit(path, lambda value: {key: each for key, each in value.items() if key != "seal"})
    with caplog.at_level(logging.WARNING, "fastdarts"):
        assert RunFolder.open(run).read_json("epochs/0001.json")["epoch"] == 1
        write_report(run)
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"{run}: config.json has no digest, as of before there were any: damage to the run would not be noticed"
    ]


def test_a_member_called_seal_is_the_folders_own(run: Path) -> None:
    with RunFolder.open(run) as folder, pytest.raises(TypeError, match="has a member 'seal'"):
        folder.write_json("mine.json", {"seal": 1})


# Nonsense in a file without a digest, such as one of before there were any: types are checked all the same.

NONSENSE: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("epochs/0002.json", lambda v: v | {"epoch": "2"}, r"epoch is '2'; expected a whole number"),
    ("epochs/0002.json", lambda v: v | {"weights": {"normal": [1]}}, r"weights\.normal\[0\] is 1; expected a list"),
    ("epochs/0002.json", lambda v: v | {"weights": {"normal": []}}, r"weights\.normal has 0 rows; expected 5, one an"),
    ("epochs/0002.json", lambda v: v | {"edges": {}}, r"weights\.normal has 5 rows; expected 0"),
    ("epochs/0002.json", lambda v: v | {"edges": {"normal": [{"source": 0, "node": 2}]}}, r"has no .*primitives"),
    ("epochs/0002.json", lambda v: v | {"edge_weights": {"normal": [1]}}, r"edge_weights\.normal has 1 values"),
    ("epochs/0002.json", lambda v: [v], r"its content is \[.*; expected a JSON object"),
    ("result.json", lambda v: v | {"epoch": True}, r"epoch is True; expected a whole number"),
    ("comparison.json", lambda v: v | {"random": [3]}, r"random\[0\] is 3; expected a JSON object"),
    ("comparison.json", lambda v: v | {"interval95": "wide"}, r"interval95 is 'wide'; expected a list or null"),
    ("retrain.json", lambda v: {"test_accuracy": [1]}, r"test_accuracy is \[1\]; expected a number or null"),
]


@pytest.mark.parametrize(("name", "change", "said"), NONSENSE)
def test_nonsense_is_told_by_place_and_no_page_is_lost(
    run: Path, name: str, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    edit(run / name, lambda value: change({key: each for key, each in value.items() if key != "seal"}))
    with pytest.raises(UserError, match=said):
        RunFolder.open(run).read_json(name)
    assert f"{name} was left out" in write_report(run).read_text()


def test_an_edge_to_a_node_far_away_makes_no_giant_page(run: Path) -> None:
    def far(value: dict[str, Any]) -> dict[str, Any]:
        value["edges"]["normal"][0]["node"] = 10**9
        return {key: each for key, each in value.items() if key != "seal"}

    edit(run / "epochs/0002.json", far)
    with pytest.raises(UserError, match=r"edge 0 -> 1000000000 of the normal cell; expected 0 <= source < node <= 6"):
        RunFolder.open(run).read_json("epochs/0002.json")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("5", r"line 4 is b'5'; expected a JSON object"),
        ("{}", r"line 4 has no kind; expected a text"),
        ('{"kind": "epoch"}', r"line 4 has no epoch; expected a whole number"),
        ('{"kind": "epoch", "epoch": 3, "train_loss": "low"}', r"line 4: train_loss is 'low'; expected a number"),
        ('{"kind": "epoch", "epoch": 3, "skips": [1]}', r"line 4: skips is \[1\]"),
        ('{"kind": "epoch", "epoch": 3, "alarms": [1]}', r"line 4: alarms\[0\] is 1"),
        ('{"kind": "environment", "changed": ["torch"]}', r"line 4 has no environment"),
        ('{"kind": "epoch", "epoch": 3, "lr": ' + "9" * 400 + "}", r"line 4 is b'\{\"kind\": \"epoch\""),
        ("[" * 900 + "]" * 900, r"line 4 is b'\[\[\["),
    ],
)
def test_nonsense_among_the_records_is_told_with_its_line(run: Path, line: str, said: str) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write(line + '\n{"kind": "step"}\n')
    for read in (lambda: RunFolder.open(run).metrics(), lambda: write_report(run)):
        with pytest.raises(UserError, match=rf"metrics\.jsonl {said}"):
            read()
