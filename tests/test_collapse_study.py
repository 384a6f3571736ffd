"""The study of docs/collapse.md: what is committed belongs together, and comes from the code that is committed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from bench import collapse
from bench.collapse_plot import continued, plot
from fastdarts.evaluate import Table
from fastdarts.evaluate.tasks import run_tasks
from fastdarts.spaces import Genotype, parse_genotype


@pytest.fixture(scope="module")
def table() -> Table:
    return Table.read(collapse.RESULTS / "table.json")


@pytest.fixture(scope="module")
def study() -> dict[str, Any]:
    return json.loads((collapse.RESULTS / "study.json").read_text(encoding="ascii"))


def test_the_truth_is_whole_and_spreads(table: Table) -> None:
    assert table.space == collapse.SPACE
    assert len(table.networks) == table.space.size() == 81
    assert table.seeds == collapse.TABLE_SEEDS
    assert {name: table.settings[name] for name in collapse.TRAINING} == collapse.TRAINING
    # The best and the worst differ by far more than the trainings of one network do.
    assert table.regret(table.ranking[-1].genotype) > 10 * table.noise()


def test_the_study_is_of_this_truth(table: Table, study: dict[str, Any]) -> None:
    assert study["search"] == collapse.SEARCH
    assert list(study["methods"]) == list(collapse.METHODS)
    for runs in study["methods"].values():
        assert len({run["seed"] for run in runs}) == len(runs) >= 5
        for run in runs:
            genotype = parse_genotype(run["genotype"])
            assert run["regret"] == pytest.approx(table.regret(genotype), abs=1e-9)
            assert (run["rank"], run["skips"]) == (table.rank(genotype), genotype.skips("normal"))


def test_the_docs_show_the_study(table: Table, study: dict[str, Any]) -> None:
    page = (collapse.DOCS / "collapse.md").read_text(encoding="utf-8").splitlines()
    missing = [line for line in collapse.summary(table, study["methods"]) if line not in page]
    assert not missing, missing
    epochs = int(collapse.SEARCH["epochs"])
    drawn = plot(study["methods"], chance=table.by_chance()[0], epochs=epochs)
    words = [line for line in drawn.splitlines() if "<text" in line]
    kept = (collapse.DOCS / "collapse.svg").read_text(encoding="utf-8")
    # Not the whole file: another matplotlib writes other paths.
    assert [line for line in kept.splitlines() if "<text" in line] == words


def test_a_search_is_measured_against_the_table(table: Table, tmp_path: Path) -> None:
    tasks = collapse.searches(tmp_path, ["darts-first"], [3])
    short = {
        key: dataclasses.replace(task, config=dataclasses.replace(task.config, epochs=3, batch_size=256))
        for key, task in tasks.items()
    }
    (result,) = run_tasks(list(short.values()))
    run = collapse.measured(table, short["darts-first", 3])
    found = Genotype.from_json(result["genotype"])
    assert (run["seed"], run["genotype"], run["regret"]) == (3, found.text(), table.regret(found))
    assert len(run["regrets"]) == len(run["skips_by_epoch"]) == 3
    assert run["regrets"][-1] == pytest.approx(run["regret"], abs=1e-6)
    assert [epoch for epoch, _ in run["eigenvalues"]] == [0, 2]
    assert run["guards"] == []


def _run(regrets: list[float], **values: Any) -> dict[str, Any]:
    last = regrets[-1]
    run = {"seed": 0, "regrets": regrets, "regret": last, "skips": 1, "pools": 0}
    return run | {"eigenvalues": [], "guards": []} | values


def test_a_search_that_stopped_early_goes_on_as_its_answer() -> None:
    assert continued([0.3, 0.2], 0.1, 4) == [0.3, 0.2, 0.1, 0.1]
    assert continued([0.3, 0.2], 0.1, 2) == [0.3, 0.2]


def test_the_plot_names_every_method_and_marks_what_guards_did() -> None:
    runs = [_run([0.3, 0.2, 0.4], eigenvalues=[[0, 0.1], [2, 0.5]]), _run([0.3, 0.1], guards=[[1, "stop"]])]
    names = ["darts", "es", "ada", "rs", "random"]
    drawn = plot(dict.fromkeys(names, runs) | {"random": [_run([0.3])]}, chance=0.2, epochs=4)
    assert all(f">{name}</text>" in drawn for name in names)
    assert drawn == plot(dict.fromkeys(names, runs) | {"random": [_run([0.3])]}, chance=0.2, epochs=4)
    marked, plain = (plot({"es": [run]}, chance=0.2, epochs=2) for run in (runs[1], _run([0.3, 0.1])))
    assert marked != plain


def test_the_summary_by_hand(table: Table) -> None:
    """Answers 10% and 20%, least 5% and 20%, last 30% and 20%: means 15, 12.5, 25, deviations 7.07, 10.61, 7.07."""
    runs = [_run([0.05, 0.3], regret=0.1), _run([0.4, 0.2], skips=3, pools=1)]
    line = collapse.summary(table, {"x": runs})[-1]
    assert line == "| x | 2 | 15.00 ± 7.07 | 20.00 | 12.50 ± 10.61 | 25.00 ± 7.07 | 2.0, 0.5 | 1 |  |"


def test_the_correlation_is_of_ranks() -> None:
    """The last eigenvalues .1, .9, .3 and the last regrets .2, .4, .3 have one order; one search has no eigenvalue."""
    runs = [_run([0.9, r], eigenvalues=[[0, 7.0], [1, e]]) for e, r in ((0.1, 0.2), (0.9, 0.4), (0.3, 0.3))]
    rho, _, count = collapse.correlation({"x": [*runs, _run([0.1])]})
    assert (rho, count) == (pytest.approx(1.0), 3)
