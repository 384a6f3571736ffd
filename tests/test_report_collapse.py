"""The report's section on collapse, its marks in the curves, and old runs that know nothing of either."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
from report_runs import SMALL, epoch_file, make_run, page_of

from fastdarts.report import plot_counts, plot_curves, plot_mixing, write_report
from fastdarts.report.history import alarms, events, segments, with_stages
from fastdarts.report.marks import broken, explain_events
from fastdarts.runs import RunFolder
from fastdarts.search import search
from fastdarts.spaces import random_genotype
from tests import tiny

WHY = "the eigenvalue rose by more than 1.3"


def rolled_back(epoch: int) -> dict[str, Any]:
    """Records of an adaptive search: after epoch 5 back to the end of epoch 2, so that epoch 6 is the stage's third."""
    entry: dict[str, Any] = {"stage": 0, "stage_epoch": epoch if epoch < 6 else epoch - 3}
    if epoch % 2 == 0:
        entry |= {"eigenvalue": 0.1 + 0.25 * epoch, "eigenvalue_how": "exact"}
    if epoch == 5:
        settings = {"weight_decay": 3e-3}
        entry["guard"] = [
            {"action": "rollback", "guard": "AdaptiveDecay", "why": WHY, "epoch": 2, "settings": settings}
        ]
    if epoch >= 4:
        entry["alarms"] = [{"kind": "eigenvalue", "text": f"it is {epoch} times as large; try r-darts-es"}]
    return entry


def staged(epoch: int) -> dict[str, Any]:
    """Records of three planned stages of two epochs each."""
    return {"stage": epoch // 2, "stage_epoch": epoch % 2}


def records(count: int, more: Any = rolled_back) -> list[dict[str, Any]]:
    return [{"epoch": epoch, "skips": {"normal": 1}, "train_loss": 1.0} | more(epoch) for epoch in range(count)]


def test_a_rollback_and_alarms_are_told_in_words(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=8, more=rolled_back)
    page = page_of(run)
    for words in (
        "Did it collapse?",
        "1 alarm: eigenvalue",
        "Eigenvalue, epochs 5 to 8: it is 7 times as large; try r-darts-es",
        "(exact): 0.1 at epoch 1, 1.6 at epoch 7, at most 1.6 at epoch 7",
        "(1) after epoch 6 AdaptiveDecay rolled back to the end of epoch 3, weight_decay 0.003",
        WHY,
        "Stage Epochs of the run Epochs of the stage",
        "1 1 to 6 1 to 6",
        "1 7 to 8 4 to 5",
        "Dominant eigenvalue",
    ):
        assert words in page.text, words


def test_skips_are_counted_against_the_edges_that_a_cell_keeps(tmp_path: Path) -> None:
    def counted(epoch: int) -> dict[str, Any]:
        return {"skips": {"normal": epoch, "reduce": 0}, "stage": 0, "stage_epoch": epoch}

    page = page_of(make_run(tmp_path / "run", epochs=4, more=counted))
    assert "in the normal cell 3 of 4 edges (0 after the first epoch)" in page.text
    assert "in the reduction cell 0 of 4 edges (0 after the first epoch)" in page.text
    assert "No alarm" in page.text and "the eigenvalue was not measured" in page.text
    assert "What happened" not in page.text and "Epochs of the stage" not in page.text


def test_a_run_from_before_alarms_claims_nothing(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path / "run"))
    assert "Did it collapse? Not known" in page.text
    assert "No alarm" not in page.text and "Dominant eigenvalue" not in page.text


def test_a_search_without_alphas_has_nothing_to_watch(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", more=lambda epoch: {"stage": 0, "stage_epoch": epoch})
    text = (run / "metrics.jsonl").read_text(encoding="utf-8")
    (run / "metrics.jsonl").write_text(text.replace('"arch_', '"other_'), encoding="utf-8")
    page = page_of(run)
    assert "No alphas The alphas learnt in none of these epochs" in page.text and "No alarm" not in page.text


def test_a_guards_entry_may_be_one_object_and_a_word_nobody_knows() -> None:
    entry = {"action": "prune", "guard": "New", "why": "so"}
    (found,) = events([{"epoch": 3, "guard": entry}])
    assert (found.epoch, found.guard, found.done, found.why) == (3, "New", "prune", "so")
    assert events([{"epoch": 3, "guard": "nonsense", "alarms": 5}, {"epoch": 4, "guard": None}]) == []


def test_stages_that_were_planned_are_events_too_and_begun_ones_only_once() -> None:
    planned = events(records(6, staged))
    assert [(event.epoch, event.done) for event in planned] == [(1, "stage 2 began"), (3, "stage 3 began")]
    begun = records(6, staged)
    for epoch in (1, 3):
        begun[epoch]["guard"] = {"action": "begin", "guard": "Progressive", "why": "the stage is over"}
    assert [(event.epoch, event.guard) for event in events(begun)] == [(1, "Progressive"), (3, "Progressive")]


@pytest.mark.parametrize(
    ("more", "stretches"),
    [(rolled_back, [(0, 5), (6, 7)]), (staged, [(0, 1), (2, 3), (4, 5), (6, 7)]), (lambda epoch: {}, [(0, 7)])],
    ids=["rollback", "stages", "neither"],
)
def test_epochs_are_split_where_a_model_ends(more: Any, stretches: list[tuple[int, int]]) -> None:
    found = records(8, more)
    assert [segment.epochs for segment in segments(found)] == stretches
    x, y = broken(found, [float(k) for k in range(8)])
    # The first epoch is drawn at 1.
    assert [value for value in x if not math.isnan(value)] == [value + 1 for value in y if not math.isnan(value)]
    assert sum(map(math.isnan, y)) == len(stretches) - 1


def test_thinned_files_of_one_model_are_one_stretch() -> None:
    every = records(50, lambda epoch: {"stage": 0, "stage_epoch": epoch})
    files = with_stages([{"epoch": epoch} for epoch in range(0, 50, 7)], every)
    assert len(segments(files)) == 1


def test_alarms_keep_their_newest_words_and_all_their_epochs() -> None:
    several = [{"epoch": 1, "alarms": [{"kind": "skips", "text": "2 of 8"}, {"kind": "entropy", "text": "low"}]}]
    several += [{"epoch": 2}, {"epoch": 4, "alarms": [{"kind": "skips", "text": "5 of 8"}]}]
    assert [(alarm.kind, alarm.epochs, alarm.text) for alarm in alarms(several)] == [
        ("skips", (1, 4), "5 of 8"),
        ("entropy", (1,), "low"),
    ]


def test_curves_break_at_a_rollback_and_are_marked() -> None:
    found = [record | {"train_accuracy": 0.5} for record in records(8)]
    happened = events(found)
    svg = plot_curves(found, arch_start_epoch=1, events=happened)
    assert svg.count("alphas start") == 2
    assert len(re.findall(r">1</text>", svg)) >= 2
    assert explain_events(happened).startswith("Dashed lines: (1) after epoch 6 AdaptiveDecay rolled back")
    assert "Dominant eigenvalue" in plot_counts(found, events=happened)
    assert explain_events([]) == ""


def test_the_eigenvalue_has_a_dot_a_measurement_and_survives_what_is_no_number() -> None:
    found = records(8)
    found[2]["eigenvalue"] = math.inf
    dots = re.findall(r"<use [^>]*c04a00", plot_counts(found))
    assert len(dots) == 3


def test_a_line_ends_where_its_primitive_was_dropped() -> None:
    """Columns mean other primitives after a stage: what is drawn goes by name."""
    files = [{"epoch": epoch} | staged(epoch) for epoch in range(4)]
    for each in files:
        primitives = ["none", "skip_connect", "sep_conv_3x3"] if each["stage"] == 0 else ["sep_conv_3x3"]
        row = [0.2, 0.3, 0.5] if each["stage"] == 0 else [1.0]
        each |= {
            "edges": {"normal": [{"source": 0, "node": 2, "primitives": primitives}]},
            "weights": {"normal": [row]},
        }
    svg = plot_mixing(files, "normal")
    assert {"none", "skip", "sep 3x3"} <= set(re.findall(r">([^<]+)</text>", svg))
    # The convolution is drawn in both stages with a gap between, the skip in one.
    assert [max(line.count("M") for line in _lines(svg, colour)) for colour in ("#0063a6", "#008f68")] == [2, 1]


def _lines(svg: str, colour: str) -> list[str]:
    return re.findall(rf'<path d="([^"]*)"[^>]*stroke: {colour}', svg)


def test_the_genotypes_epoch_is_told_where_it_is_not_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=4, more=staged)
    with RunFolder.open(run) as folder:
        answer = next(record for record in folder.metrics() if record["epoch"] == 1)
        folder.write_json("genotype.json", epoch_file(SMALL, 4, 1)["genotype"])
        folder.write_json("result.json", {name: answer[name] for name in ("valid_loss", "valid_accuracy")})
    assert "It is that of epoch 2, not of the last one, 4" in page_of(run).text
    with RunFolder.open(run) as folder:
        folder.write_json("genotype.json", random_genotype(SMALL, 5, layers=4).to_json())
    assert "It was selected after the search; the one derived after epoch 2 is another" in page_of(run).text


def test_the_settings_of_the_method_are_listed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=1, options={"perturbation": 0.3, "steps": 7})
    assert "options perturbation 0.3, steps 7" in page_of(run).text


def test_an_alarm_cannot_inject_markup(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    more = {"alarms": [{"kind": evil, "text": evil}], "guard": [{"action": evil, "guard": evil, "why": evil}]}
    run = make_run(tmp_path / "run", more=lambda epoch: more)
    assert "<script" not in write_report(run).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("p-darts", {}, ["Progressive began a new stage", "1 1 to 2 1 to 2 4", "3 5 to 6 1 to 2 2"]),
        (
            "r-darts-ada",
            {"window": 1, "delta": 1, "factor": 1e-9, "start_epoch": 0, "eigenvalue_every": 1, "epochs": 3},
            ["AdaptiveWeightDecay rolled back to the end of epoch 1", "with weight decay 0.003", "Dominant eigenvalue"],
        ),
    ],
    ids=["p-darts", "r-darts-ada"],
)
def test_what_a_search_records_is_what_the_page_reads(
    name: str, settings: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    config = tiny.config(name, **settings)
    search(config, tmp_path / "run", train_set=tiny.images(), search_space=tiny.SPACE)
    page = page_of(tmp_path / "run")
    for words in told:
        assert words in page.text, words
    assert "not recorded" not in page.text.split("Did it collapse?")[1].split("Evolution of the mixing")[0]
