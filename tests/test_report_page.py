"""The report: from every state a run folder can be in, one self-contained page that invents nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_runs import Page, comparison_of, make_run, page_of

from fastdarts.errors import UserError
from fastdarts.report import write_report
from fastdarts.report.records import read_run
from fastdarts.report.verdict import judge
from fastdarts.runs import RunFolder
from fastdarts.spaces import random_genotype, space


def test_full_report_says_every_number(tmp_path: Path) -> None:
    run = make_run(tmp_path / "mine", searched=space("darts"))
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison_of(0.9731, [0.9615, 0.9812, 0.9544]))
        history = [{"epoch": k, "train_loss": 2.0 - k / 10, "train_accuracy": k / 20} for k in range(15)]
        retrained = {"test_accuracy": 0.9731, "epochs": 15, "parameters": 34567, "history": history}
        folder.write_json("retrain.json", retrained)
        check = {"kind": "hypergradient", "epoch": 1, "step": 11, "method_kind": "second"}
        folder.log(check | {"cosine": 0.8765, "relative_error": 0.5808, "norm": 0.01, "exact_norm": 0.02})
    path = write_report(run)
    assert path == run / "report.html"
    assert path.stat().st_size < 3_000_000
    page = Page(path.read_text(encoding="utf-8"))
    for words in (
        "Search report: mine",
        "Search space darts with method darts-second on data digits",
        "97.31% test accuracy",
        "0.74 points above the mean of 3 random cells, 96.57%",
        "95% interval of that mean: 95.57% to 97.57%",
        "1 of the 3 random cells (33%) beat it",
        "between 1% and 91% of all random cells would",
        "2 in 4 (50%)",
        "98.12%",
        "+0.81 points",
        "34,567",
        "0.8765",
        "0.5808",
        "fastdarts search --seed 7",
        "2.13.0",
        "123.5 ms",
        "345 MB",
        "weight_decay 0.0003",
        "37.5 s",
        "360 images: one image is 0.28 points",
    ):
        assert words in page.text, words
    final = json.loads((run / "epochs/0002.json").read_text())["text"]
    assert final in page.text
    assert "not recorded" not in page.text
    # Two cells; comparison, curves, retraining, mixing and edge weights of both cells, counts, hypergradient, each for
    # wide and for narrow screens.
    assert page.count("svg") == 2 + 2 * 9
    assert "equal weights would be 0.125" in page.text


def test_page_is_self_contained(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison_of(0.9, [0.8, 0.95]))
    text = write_report(run).read_text(encoding="utf-8")
    assert not re.search(r"https?:|@import|url\((?!#)", text)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in page.elements}
    references = [attrs.get("href") for _, attrs in page.elements if attrs.get("href")]
    references += ["#" + match for match in re.findall(r"url\(#([^)]+)\)", text)]
    ids = [attrs["id"] for _, attrs in page.elements if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert {str(each).removeprefix("#") for each in references} <= set(ids)
    assert "prefers-color-scheme:dark" in text and "@media print" in text


def test_names_cannot_inject_markup(tmp_path: Path) -> None:
    evil = "<script>alert('1')</script>&\"x"
    run = make_run(tmp_path / "a<script>b", epochs=1, data=evil)
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison_of(0.9, [0.8, 0.95], evil) | {"dataset": evil})
    text = write_report(run, title=evil).read_text(encoding="utf-8")
    assert "<script" not in text
    page = Page(text)
    assert page.text.count(evil) >= 4
    assert "a<script>b" in page.text


def test_search_without_comparison_claims_nothing(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    assert "has not been compared with random cells" in page.text
    assert "Against random choice" not in page.text
    assert "Test accuracy of the derived network not recorded the derived network was not retrained" in page.text
    assert "beat it" not in page.text


def test_run_without_an_epoch_says_so(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run", epochs=0, finished=False))
    assert "No epoch of 3 has been finished" in page.text
    assert page.count("svg") == 0


def test_unfinished_run_shows_the_newest_epoch_and_takes_no_lock(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=2, finished=False)
    with RunFolder.open(run), open(run / "metrics.jsonl", "a", encoding="utf-8") as records:
        records.write('{"kind": "epoch", "epo')
        records.flush()
        page = page_of(run)
    assert "2 of 3 epochs are on record" in page.text
    assert "The genotype after epoch 2" in page.text


def test_an_epoch_written_twice_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=3)
    with RunFolder.open(run) as folder:
        folder.log(folder.metrics()[1] | {"train_loss": 77.125})
    records = read_run(run)
    assert [record["train_loss"] == 77.125 for record in records.epochs] == [False, True, False]


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("comparison.json", lambda text: text[: len(text) // 2], "comparison.json was left out"),
        ("comparison.json", lambda text: '{"found": {}}', "it has no random"),
        ("comparison.json", lambda text: '{"found": {}, "random": [3]}', "random[0] is 3; expected a JSON object"),
        ("genotype.json", lambda text: text.replace("conv", "konv").replace("skip", "leap"), "genotype.json was left"),
        ("retrain.json", lambda text: "[]", "retrain.json was left out"),
        ("epochs/0001.json", lambda text: "", "epochs/0001.json was left out"),
    ],
)
def test_damaged_file_is_named_and_left_out(
    tmp_path: Path, name: str, damage: Callable[[str], str], words: str
) -> None:
    run = make_run(tmp_path / "run")
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison_of(0.9, [0.8, 0.95]))
        folder.write_json("retrain.json", {"test_accuracy": 0.9})
    file = run / name
    file.write_text(damage(file.read_text(encoding="utf-8")), encoding="utf-8")
    records = read_run(run)
    assert len(records.notes) == 1
    assert words in records.notes[0]
    assert len(records.epochs) == 3 and records.genotype is not None


def test_what_was_left_out_is_told_on_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    (run / "comparison.json").write_text('{"found"', encoding="utf-8")
    page = page_of(run)
    assert "comparison.json was left out" in page.text
    assert "has not been compared with random cells" in page.text


def test_not_a_number_is_shown_and_plotted_around(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RunFolder.open(run) as folder:
        folder.log(folder.metrics()[0] | {"epoch": 3, "train_loss": math.nan, "valid_loss": math.inf})
        check = {"kind": "hypergradient", "epoch": 0, "step": 0, "method_kind": "second"}
        folder.log(check | {"cosine": math.nan, "relative_error": math.inf, "norm": 0.0, "exact_norm": 0.0})
    page = page_of(run)
    assert "nan" in page.text and "inf" in page.text


def test_unshared_space_gets_the_compact_forms(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", searched=space("amended-s2"), layers=20, epochs=2)
    path = write_report(run)
    page = Page(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 3_000_000
    assert "20 unshared cells" in page.text
    assert "cell 19" in page.text
    assert page.count("svg") == 1 + 2 * 3


def test_retraining_and_python_runs_have_reports_too(tmp_path: Path) -> None:
    genotype = random_genotype(space("darts"), 0, layers=4).text()
    with RunFolder.create(tmp_path / "r", {"kind": "retrain", "config": {"genotype": genotype, "seed": 3}}) as folder:
        folder.log({"kind": "epoch", "epoch": 0, "train_loss": 2.0, "train_accuracy": 0.25, "elapsed_s": 1.0})
        folder.write_json("retrain.json", {"test_accuracy": 0.5, "epochs": 1, "parameters": 10, "history": []})
    page = page_of(tmp_path / "r")
    assert "Retrain report: r" in page.text and "50.00%" in page.text
    with RunFolder.create(tmp_path / "c", {"kind": "compare", "trainings": {"found-seed0": {}}}) as folder:
        folder.write_json("comparison.json", comparison_of(0.9731, [0.9615, 0.9812]))
    page = page_of(tmp_path / "c")
    assert "97.31% test accuracy" in page.text and "1 of the 2 random cells (50%) beat it" in page.text
    run = make_run(tmp_path / "s", epochs=0, finished=False)
    config = json.loads((run / "config.json").read_text()) | {"command": ""}
    del config["seal"]
    (run / "config.json").write_text(json.dumps(config))
    assert "SearchConfig.from_json(config)" in page_of(run).text


def test_report_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", epochs=0, finished=False)
    path = write_report(run)
    before = path.read_bytes()
    assert write_report(run, tmp_path / "elsewhere.html") == tmp_path / "elsewhere.html"

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_report(run)
    assert path.read_bytes() == before
    assert not list(run.glob(".report-*"))


def test_long_search_is_thinned_and_keeps_both_ends(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1)
    value = json.loads((run / "epochs/0000.json").read_text(encoding="utf-8"))
    text = json.dumps({name: each for name, each in value.items() if name != "seal"})
    for epoch in range(1, 12_000, 7):
        (run / f"epochs/{epoch:04d}.json").write_text(text.replace('"epoch": 0', f'"epoch": {epoch}'), encoding="utf-8")
    epochs = [each["epoch"] for each in read_run(run).epoch_files]
    assert len(epochs) == 120
    assert (epochs[0], epochs[-1]) == (0, 11_999 - 11_998 % 7)
    assert epochs == sorted(epochs)


def test_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        write_report(tmp_path / "nothing")


def test_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=2)
    first = write_report(run, tmp_path / "a.html").read_bytes()
    assert write_report(run, tmp_path / "b.html").read_bytes() == first


@pytest.mark.parametrize(
    ("found", "others", "tone", "chance"),
    [
        (0.9, [0.8] * 19, "better", 1 / 20),
        (0.9, [0.8] * 18, "unsure", 1 / 19),
        (0.9, [0.8] * 18 + [0.95], "unsure", 2 / 20),
        (0.9, [0.9] * 30, "worse", 1.0),
        (0.7, [0.8, 0.75], "worse", 1.0),
    ],
)
def test_verdict_follows_the_rank(found: float, others: list[float], tone: str, chance: float) -> None:
    verdict = judge(comparison_of(found, others))
    assert verdict is not None
    assert (verdict.tone, verdict.chance) == (tone, chance)


def test_verdict_needs_accuracies() -> None:
    assert judge({"found": {"mean": None}, "random": [{"mean": 0.5}]}) is None
    assert judge({"found": {"mean": 0.5}, "random": []}) is None
