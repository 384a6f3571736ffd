"""What the report must not overstate: intervals, few test images, unequal sizes, few random cells, no preference."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from report_runs import comparison_of, make_run, page_of
from scipy import stats

from fastdarts.cli.afterwards import keep_comparison
from fastdarts.evaluate import compare_paired, statistics
from fastdarts.report.decision import decision_of
from fastdarts.report.intervals import logit_interval, wilson
from fastdarts.report.records import read_run
from fastdarts.report.verdict import interval_of, judge, sampling_words, size_words
from fastdarts.report.words import as_budget, without_paths
from fastdarts.runs import RunFolder


def learnt(epoch: int) -> dict[str, Any]:
    return {"stage": 0, "stage_epoch": epoch}


def with_weights(run: Path, *rows: list[float], edge_weights: list[float] | None = None) -> Path:
    """Give every edge of every epoch's file one of these rows of mixing weights, in turn."""
    with RunFolder.open(run) as folder:
        for file in (run / "epochs").glob("*.json"):
            content = folder.read_json(f"epochs/{file.name}")
            for key, edges in content["edges"].items():
                content["weights"][key] = [rows[k % len(rows)] for k in range(len(edges))]
            content["edge_weights"] = edge_weights and dict.fromkeys(content["edges"], edge_weights)
            folder.write_json(f"epochs/{file.name}", content)
    return run


@pytest.mark.parametrize(("hits", "count"), [(0, 10), (5, 10), (10, 10), (1, 360), (359, 360)])
def test_wilson_is_scipys_and_stays_within_0_and_1(hits: int, count: int) -> None:
    expected = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    low, high = wilson(hits / count, count)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert 0.0 <= low < high <= 1.0


def test_the_mean_of_accuracies_has_an_interval_within_0_and_1() -> None:
    """Half and half: logit(0.5) = 0, s = 0.4 sqrt 2, t(0.975, 1) = 12.7062, so the ends are expit(-+20.33)."""
    half = 12.706204736432095 * 0.4 / 0.25
    assert logit_interval([0.1, 0.9]) == pytest.approx((1 / (1 + math.exp(half)), 1 / (1 + math.exp(-half))))
    # A small spread: Student's own interval.
    low, high = logit_interval([0.5, 0.501, 0.502])
    ends = 4.302652729911275 * 0.001 / math.sqrt(3)
    assert (low, high) == pytest.approx((0.501 - ends, 0.501 + ends), abs=1e-7)
    assert logit_interval([1.0, 1.0]) == (1.0, 1.0)
    assert logit_interval([0.7, 0.7]) == (0.7, 0.7)


def test_no_statistic_leaves_0_to_100_percent() -> None:
    def result(accuracy: float) -> dict[str, Any]:
        return {"text": "g", "test_accuracy": accuracy, "parameters": 10}

    out = statistics([result(0.9)], [[result(0.1)], [result(0.98)]])
    assert 0.0 < out["interval95"][0] < 0.54 < out["interval95"][1] < 1.0
    found = compare_paired({"a": [0.99, 0.1], "random": [0.1, 0.99]}, "random")
    assert all(0.0 < end < 1.0 for entry in found.values() for end in entry["interval95"])
    assert found["a"]["against"]["interval95"] == [-1.0, 1.0]


def test_an_interval_recorded_beyond_100_percent_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    comparison = comparison_of(0.5, [0.11, 0.82]) | {"interval95": [-0.1394, 1.0719]}
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison)
    low, high = interval_of(comparison)
    page = page_of(run)
    assert "107.19" not in page.text and "13.94" not in page.text
    assert f"95% interval of that mean: {100 * low:.2f}% to {100 * high:.2f}%" in page.text


def test_the_number_of_test_images_is_told_and_what_it_allows(tmp_path: Path) -> None:
    told = sampling_words(360, 0.95, 0.005)
    low, high = wilson(0.95, 360)
    assert "360 images: one image is 0.28 points" in told
    assert "0.50 points is 1.8 images" in told
    assert f"between {100 * low:.2f}% and {100 * high:.2f}%" in told
    assert "not known" in sampling_words(None, 0.95)
    run = make_run(tmp_path / "run", epochs=1)
    with RunFolder.open(run) as folder:
        folder.write_json("retrain.json", {"test_accuracy": 0.95, "test_images": 360, "history": []})
    assert sampling_words(360, 0.95) in page_of(run).text


def test_sizes_stand_beside_each_other(tmp_path: Path) -> None:
    comparison = comparison_of(0.9, [0.8, 0.7])
    comparison["found"]["parameters"] = 15000
    assert "15,000 parameters, the random ones 30,000 on average (30,000 to 30,001)" in size_words(comparison)
    assert "0.50 times as large, which alone can move an accuracy" in size_words(comparison)
    comparison["found"]["parameters"] = 30500
    assert "times as large" not in size_words(comparison)
    run = make_run(tmp_path / "run")
    with RunFolder.open(run) as folder:
        folder.write_json("comparison.json", comparison)
    assert "Parameters 30,500 of the retrained network; random cells: 30,000 on average" in page_of(run).text


def test_cells_that_diverged_are_told_to_be_missing() -> None:
    verdict = judge(comparison_of(0.9, [0.8, 0.7]) | {"diverged": {"random-001-seed0": "the loss is nan"}})
    assert verdict is not None and "Not counted: 1 training of random cells that diverged." in verdict.numbers


@pytest.mark.parametrize("found", [0.99, 0.5])
def test_five_random_cells_say_what_they_cannot_answer(found: float) -> None:
    few, enough = (judge(comparison_of(found, [0.9 + k / 1e3 for k in range(count)])) for count in (5, 19))
    assert few is not None and enough is not None
    assert "5 random cells can show that a search did poorly, never that it beat chance" in few.certainty
    assert "chance of 17%" in few.certainty and "--random-cells 19" in few.certainty
    assert "never that it beat chance" not in enough.certainty


@pytest.mark.parametrize(
    ("rows", "undecided"),
    [
        ([[0.34, 0.33, 0.33]], True),
        # One candidate given up and no preference among the others: the entropy alone would not tell.
        ([[0.02, 0.49, 0.49]], False),
        ([[0.9, 0.05, 0.05]], False),
        ([[0.34, 0.33, 0.33], [0.9, 0.05, 0.05]], False),
    ],
)
def test_weights_that_are_nearly_equal_decided_nothing(
    rows: list[list[float]], undecided: bool, tmp_path: Path
) -> None:
    run = with_weights(make_run(tmp_path / "run", more=learnt), *rows)
    decision = decision_of(read_run(run))
    assert decision is not None and decision.undecided is undecided
    page = page_of(run)
    assert ("Undecided: the search hardly preferred anything" in page.text) is undecided
    assert ("No alarm, but undecided" in page.text) is undecided
    green = [attributes for tag, attributes in page.elements if attributes.get("class") == "verdict better"]
    assert bool(green) is not undecided


def test_the_issues_entropy_is_undecided(tmp_path: Path) -> None:
    """A largest weight of 0.135 where equal would be 0.125: entropy 2.079 of 2.079."""
    from fastdarts.spaces import space

    row = [0.135] + [0.865 / 7] * 7
    run = with_weights(make_run(tmp_path / "run", searched=space("darts"), epochs=1, more=learnt), row)
    decision = decision_of(read_run(run))
    assert decision is not None and decision.undecided
    assert decision.share == pytest.approx(8 * 0.135)
    assert decision.entropy == pytest.approx(-sum(p * math.log(p) for p in row) / math.log(8))
    # Seven candidates of equal weight and one without: the second bound.
    run = with_weights(run, [0.0] + [1 / 7] * 7)
    decision = decision_of(read_run(run))
    assert decision is not None and decision.undecided and decision.entropy < 0.95


def test_edges_that_were_preferred_are_a_decision_too(tmp_path: Path) -> None:
    equal = [1 / 3] * 3
    run = with_weights(make_run(tmp_path / "run", more=learnt), equal, edge_weights=[0.95, 0.05, 0.9, 0.05, 0.05])
    decision = decision_of(read_run(run))
    assert decision is not None and not decision.undecided


def test_a_page_may_be_shown_to_others(tmp_path: Path) -> None:
    """Date, machine, commit and versions, and no absolute path."""
    command = f"fastdarts search --run {tmp_path / 'mine'} --root /home/somebody/data"
    run = make_run(tmp_path / "mine", data_root="/home/somebody/data", command=command)
    (run / "retrain.json").write_text("[]")
    page = page_of(run)
    assert "Begun 2026-11-30 18:40 UTC; A processor, 2 cores; fastdarts 0.1.0 (commit c23990a6ef19)" in page.text
    assert "torch 2.13.0" in page.text
    assert "--run \u2026/mine --root \u2026/data" in page.text
    assert str(tmp_path) not in page.text and "/home" not in page.text


def test_only_paths_are_shortened() -> None:
    text = "a --root '/x/y z' --set w=/p/q https://h/i S1/S2 1/3 s/image"
    assert without_paths(text) == "a --root '\u2026/y z' --set w=\u2026/q https://h/i S1/S2 1/3 s/image"


def test_a_budget_in_words() -> None:
    budget = {"epochs": 1, "channels": 8, "layers": 3, "batch_size": 64}
    assert as_budget(budget) == "1 epoch, 3 cells, 8 channels, 64 images a batch"
    assert as_budget(None) == ""


def test_epochs_are_counted_as_in_the_terminal(tmp_path: Path) -> None:
    """From 1 everywhere: three epochs are 1 to 3 in the table, the headings and the plots."""
    run = make_run(tmp_path / "run", epochs=3, finished=False)
    page = page_of(run)
    assert "The genotype after epoch 3" in page.text and "after epoch 0" not in page.text
    assert "after epoch 3, on the architecture level's images" in page.text
    assert "After epoch 3 the operators kept" in page.text


def compared(found: float, others: list[float], **budget: int) -> dict[str, Any]:
    full = {"epochs": 15, "channels": 8, "layers": 4, "batch_size": 64} | budget
    return comparison_of(found, others) | {"budget": full}


def test_a_quick_comparison_never_takes_the_headline(tmp_path: Path) -> None:
    """Its 11.67% once stood beside a curve that said 76%; whichever comes first, the larger budget heads the page."""
    thorough, quick = compared(0.9731, [0.96, 0.98]), compared(0.1167, [0.1, 0.2], epochs=1)
    for name, order in (("a", (thorough, quick)), ("b", (quick, thorough))):
        run = make_run(tmp_path / name)
        with RunFolder.open(run) as folder:
            for each in order:
                heads = keep_comparison(folder, each)
        assert heads == thorough
        assert RunFolder.open(run).read_json("comparison.json") == thorough
        records = read_run(run)
        assert records.comparison == thorough and list(records.others) == [quick] and not records.notes
        page = page_of(run)
        assert "Test accuracy of the derived network 97.31% one training of 15 epochs, 4 cells, 8 channels" in page.text
        assert "The found cell reached 97.31% test accuracy after 15 epochs" in page.text
        assert "After 1 epoch, 4 cells, 8 channels, 64 images a batch: found 11.67%" in page.text
        assert "1 epoch, 4 cells, 8 channels, 64 images a batch 11.67% 1 2 random cells, 1 seed" in page.text


def test_a_comparison_of_less_than_the_retraining_does_not_replace_its_accuracy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    trained = {"test_accuracy": 0.8056, "epochs": 15, "channels": 8, "layers": 4, "batch_size": 64, "parameters": 10}
    with RunFolder.open(run) as folder:
        folder.write_json("retrain.json", trained | {"history": []})
        keep_comparison(folder, compared(0.1167, [0.1, 0.2], epochs=1))
    page = page_of(run)
    assert "Test accuracy of the derived network 80.56% one training of 15 epochs" in page.text
    assert "The same in the comparison 11.67% after 1 epoch" in page.text
    assert "64 images a batch 80.56% 1 alone" in page.text


def test_the_same_comparison_is_kept_once_and_a_broken_one_is_told(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with RunFolder.open(run) as folder:
        keep_comparison(folder, compared(0.9, [0.8, 0.7]))
        keep_comparison(folder, compared(0.91, [0.8, 0.7]))
        assert not (run / "comparisons.json").exists()
        keep_comparison(folder, compared(0.5, [0.4, 0.6], epochs=2))
        kept = folder.read_json("comparisons.json")["comparisons"]
        assert [each["found"]["mean"] for each in kept] == [0.91, 0.5]
        folder.write_json("comparisons.json", {"comparisons": [*kept, {"found": 3}]})
    records = read_run(run)
    assert records.notes == ["of comparisons.json was left out what is no comparison"]
    assert len(records.others) == 1
