"""Methods against random choice: the statistics by hand, resumption, additions, the test set, the page, the command."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import signal
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from command import run_command
from scipy import stats

from fastdarts.errors import UserError
from fastdarts.evaluate import compare_methods, compare_paired, methods_folder
from fastdarts.evaluate.paired import bootstrap_interval, holm, signed_rank, t_interval, t_test
from fastdarts.evaluate.tasks import Task, run_tasks
from fastdarts.report.methods import methods_rows, methods_words, plot_methods
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, Progress
from fastdarts.spaces import define_space, random_genotype
from tests import tiny

SEARCH = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "crop": 1, "device": "cpu"}
TRAINING = {"epochs": 1, "batch_size": 8, "channels": 4, "layers": 3, "device": "cpu"}


def _sets() -> tuple[Any, Any]:
    return tiny.images(32), tiny.images(24, seed=1)


def _compare(path: Path, methods: tuple[str, ...] = ("darts-first",), **more: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {"seeds": (0, 1), "data": "custom", "search_space": tiny.SPACE, "sets": _sets()}
    arguments |= {"search": SEARCH, "training": TRAINING}
    return compare_methods(methods, path, **(arguments | more))


def _untimed(result: dict[str, Any]) -> dict[str, Any]:
    methods = {name: each | {"search_seconds": None} for name, each in result["methods"].items()}
    return result | {"methods": methods}


@pytest.mark.parametrize("count", [2, 5, 9])
def test_the_t_test_is_that_of_scipy_and_of_the_formula(count: int) -> None:
    rng = np.random.default_rng(count)
    a, b = rng.normal(0.9, 0.02, count), rng.normal(0.88, 0.02, count)
    t, p = t_test((a - b).tolist())
    expected = stats.ttest_rel(a, b)
    assert (t, p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert t_interval((a - b).tolist()) == pytest.approx(list(expected.confidence_interval(0.95)))


def test_the_t_interval_by_hand() -> None:
    """Mean .92, standard deviation .02, t(0.975, 2) = 4.302653: half width 4.302653 * .02 / sqrt 3."""
    half = 4.302652729911275 * 0.02 / 3**0.5
    assert t_interval([0.90, 0.92, 0.94]) == pytest.approx([0.92 - half, 0.92 + half])


@pytest.mark.parametrize(
    ("differences", "expected"), [([0.0, 0.0], (0.0, 1.0)), ([0.1, 0.1], (None, None)), ([1.0, -1.0], (0.0, 1.0))]
)
def test_the_t_test_where_the_spread_is_nothing(differences: list[float], expected: Any) -> None:
    assert t_test(differences) == expected


@pytest.mark.parametrize(
    "differences",
    [
        [0.3],
        [0.1, 0.2, 0.3, 0.4, 0.5],
        [0.1, -0.2, 0.3, -0.4, 0.5, 0.6],
        [0.1, 0.1, -0.1, 0.2, -0.3],
        [0.2, 0.2, 0.2, -0.2],
        [0.0, 0.5, -0.1, 0.0, 0.1],
    ],
    ids=["one", "all-won", "mixed", "ties", "all-tied", "zeros"],
)
def test_the_signed_rank_test_counts_all_signs(differences: list[float]) -> None:
    """All 2^n signs written out, on ranks that the definition gives: with ties, their mean."""
    kept = [abs(each) for each in differences if each]
    ranks = [sum(b < a for b in kept) + (sum(b == a for b in kept) + 1) / 2 for a in kept]
    observed = sum(rank for rank, each in zip(ranks, [d for d in differences if d], strict=True) if each > 0)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    middle = sum(ranks) / 2
    expected = sum(abs(each - middle) >= abs(observed - middle) for each in sums) / len(sums)
    assert signed_rank(differences) == pytest.approx(expected)


def test_the_signed_rank_test_is_scipys_without_ties_and_reaches_its_least() -> None:
    differences = np.random.default_rng(0).normal(0.3, 1.0, 12)
    assert signed_rank(differences.tolist()) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)
    assert signed_rank([0.1 * k for k in range(1, 6)]) == 2 / 2**5
    assert signed_rank([0.0, 0.0]) == 1.0


def test_holm_by_hand() -> None:
    """.01 * 4, then .02 * 3, then .03 * 2 = .06, which is not below the one before, then .5."""
    assert holm([0.5, 0.01, 0.03, 0.02]) == pytest.approx([0.5, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.01, None]) == [0.02, None]
    assert holm([]) == []


def test_the_bootstrap_is_seeded_and_near_the_normal_interval() -> None:
    sample = np.random.default_rng(1).normal(0.0, 1.0, 200)
    torch.manual_seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    low, high = bootstrap_interval(sample.tolist())
    assert [low, high] == bootstrap_interval(sample.tolist())
    half = 1.96 * float(sample.std()) / math.sqrt(200)
    assert (low, high) == pytest.approx((sample.mean() - half, sample.mean() + half), abs=0.1 * half)
    assert torch.equal(before[0], torch.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_paired_statistics_take_the_differences_seed_by_seed() -> None:
    found = compare_paired({"a": [0.9, 0.8, 0.7], "b": [0.95, 0.8, 0.5], "random": [0.8, 0.8, 0.8]}, "random")
    assert found["random"]["against"] is None
    against = found["a"]["against"]
    assert against["differences"] == pytest.approx([0.1, 0.0, -0.1])
    assert (against["wins"], against["ties"], against["losses"]) == (1, 1, 1)
    assert found["b"]["against"]["mean"] == pytest.approx(-0.05)
    chances = [found[name]["against"]["p_t"] for name in ("a", "b")]
    assert [found[name]["against"]["p_t_holm"] for name in ("a", "b")] == holm(chances)
    for bad in ({"a": [1.0, 2.0]}, {"a": [1.0], "random": [1.0]}, {"a": [1.0, 2.0], "random": [1.0, 2.0, 3.0]}):
        with pytest.raises(UserError):
            compare_paired(bad, "random")


def test_every_method_meets_random_choice_on_the_same_seeds(tmp_path: Path) -> None:
    result = _compare(tmp_path / "c", ("darts-first", "pc-darts"), seeds=(3, 5))
    assert list(result["methods"]) == ["darts-first", "pc-darts", "random"]
    random = result["methods"]["random"]
    assert random["texts"] == [random_genotype(tiny.SPACE, seed).text() for seed in (3, 5)]
    assert random["search_seconds"] == [0.0, 0.0]
    for name, entry in result["methods"].items():
        for k, seed in enumerate((3, 5)):
            trained = RunFolder.open(tmp_path / "c" / entry["trainings"][k])
            assert trained.config["config"]["seed"] == seed
            assert trained.config["config"]["genotype"] == entry["texts"][k]
            assert trained.read_json("retrain.json")["test_accuracy"] == entry["values"][k]
            if name != "random":
                searched = RunFolder.open(tmp_path / "c" / entry["searches"][k])
                assert searched.config["config"] | {"seed": seed, "method": name} == searched.config["config"]
                assert searched.read_json("result.json")["text"] == entry["texts"][k]
    budgets = {json.dumps(c | {"genotype": "", "seed": 0}) for c in _configs(tmp_path / "c" / "trainings")}
    assert len(budgets) == 1
    assert RunFolder.open(tmp_path / "c").read_json("comparison-methods.json") == result


def _configs(folder: Path) -> list[dict[str, Any]]:
    return [RunFolder.open(path).config["config"] for path in folder.iterdir()]


@pytest.mark.parametrize("steps", [3, 9, 15])
def test_a_comparison_continues_and_equals_an_uninterrupted_one(steps: int, whole: Any, tmp_path: Path) -> None:
    """Stopped in the second search, and in the second and the last of the trainings (two and four steps each)."""
    with pytest.raises(Interrupted) as stop:
        _compare(tmp_path / "cut", progress=tiny.StopAt(steps))
    assert stop.value.path == tmp_path / "cut"
    assert _untimed(_compare(tmp_path / "cut")) == _untimed(whole)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _compare(tmp_path_factory.mktemp("methods") / "whole")


class _StopAfterOne(Progress):
    stopped = False

    def note(self, message: str) -> None:
        if "has ended" in message and not self.stopped:
            self.stopped = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow
def test_processes_are_stopped_with_their_parent_and_give_the_same(whole: Any, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        _compare(tmp_path / "cut", jobs=2, progress=_StopAfterOne())
    done = [path for path in (tmp_path / "cut" / "searches").iterdir() if (path / "result.json").exists()]
    assert done
    # The locks are free again, so the processes have ended.
    assert _untimed(_compare(tmp_path / "cut")) == _untimed(whole)


@pytest.mark.slow
def test_what_a_process_refuses_or_dies_of_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    refused = [Task(tmp_path / name, tiny.config(batch_size=25), tiny.SPACE, tiny.images()) for name in "ab"]
    with pytest.raises(UserError, match="batch size 25 is larger"):
        run_tasks(refused, jobs=2)
    no_config: Any = "what only a fault of ours could send"
    dying = [Task(tmp_path / name, no_config) for name in "cd"]
    with pytest.raises(RuntimeError, match="ended with 1"):
        run_tasks(dying, jobs=2)
    assert "TypeError" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_methods_and_seeds_are_added_without_repetition(whole: Any, tmp_path: Path) -> None:
    assert _untimed(_compare(tmp_path / "c")) == _untimed(whole)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("metrics.jsonl")}
    more = _compare(tmp_path / "c", ("darts-first", "darts-one-level"), seeds=(1, 0, 2))
    for path, changed in before.items():
        assert path.stat().st_mtime_ns == changed, path
    assert more["methods"]["darts-first"]["values"][:2] == whole["methods"]["darts-first"]["values"][::-1]
    assert len(more["methods"]["darts-one-level"]["values"]) == 3
    for change in ({"training": TRAINING | {"epochs": 2}}, {"search": SEARCH | {"epochs": 2}}):
        with pytest.raises(UserError, match="was begun with another"):
            _compare(tmp_path / "c", **change)
    with pytest.raises(UserError, match="darts-first-seed0 was begun with another configuration"):
        _compare(tmp_path / "c", search=SEARCH | {"darts-first": {"lr": 0.5}})


def test_a_network_found_twice_with_one_seed_is_trained_once(tmp_path: Path) -> None:
    """A space of a single network: every method and chance find it."""
    only = define_space("only", ("skip_connect",), nodes=1, layers=3, keep=2)
    result = _compare(tmp_path / "c", search_space=only)
    assert result["methods"]["darts-first"]["trainings"] == result["methods"]["random"]["trainings"]
    assert len(list((tmp_path / "c" / "trainings").iterdir())) == 2
    against = result["methods"]["darts-first"]["against"]
    assert (against["mean"], against["p_t"], against["p_wilcoxon"], against["ties"]) == (0.0, 1.0, 1.0, 2)


def test_the_test_set_is_read_by_the_last_step_only(whole: Any, tmp_path: Path) -> None:
    """With blank test images everything before it comes out the same, to the bit."""
    train, test = _sets()
    blank = dataclasses.replace(test, images=torch.zeros_like(test.images))
    result = _compare(tmp_path / "blank", sets=(train, blank))
    for name in ("texts", "parameters", "trainings"):
        assert result["methods"]["darts-first"][name] == whole["methods"]["darts-first"][name]
    assert result["methods"]["random"]["values"] != whole["methods"]["random"]["values"]


def test_settings_decide_the_folder(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"seeds": (0, 1), "data": "custom", "search_space": tiny.SPACE, "search": SEARCH}
    base = tmp_path / "compare-methods"
    assert methods_folder(base, ["darts-first"], **arguments, training=TRAINING) == base
    _compare(base)
    assert methods_folder(base, ["pc-darts"], **(arguments | {"seeds": (7, 8, 9)}), training=TRAINING) == base
    other = methods_folder(base, ["darts-first"], **arguments, training=TRAINING | {"epochs": 2})
    assert other == tmp_path / "compare-methods-2"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"methods": ("dart-first",)}, "did you mean darts-first"),
        ({"methods": ()}, "one or more different methods"),
        ({"methods": ("random",)}, "besides random"),
        ({"methods": ("darts-first", "darts-first")}, "different methods"),
        ({"seeds": (1,)}, "at least 2 different"),
        ({"seeds": (1, 1)}, "at least 2 different"),
        ({"jobs": 0}, "jobs is 0"),
        ({"search": SEARCH | {"epoch": 2}}, "unknown setting 'epoch'"),
        ({"search": SEARCH | {"batch_size": 17}}, "batch size 17 is larger"),
        ({"training": TRAINING | {"batch_size": 99}}, "batch size 99 is larger"),
        ({"methods": ("darts-first", "pc-darts"), "search": SEARCH | {"channels": 6}}, "channels 6 with partial 4"),
        ({"sets": None}, "without sets"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_arguments_write_nothing(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        _compare(tmp_path / "c", **change)
    assert list(tmp_path.iterdir()) == []


def _comparison(seeds: int = 5) -> dict[str, Any]:
    base = [0.95 + 0.003 * math.sin(7 * k) for k in range(seeds)]
    values = {"bad": [each - 0.02 - 0.001 * k for k, each in enumerate(base)], "good": [each + 0.001 for each in base]}
    methods = compare_paired(values | {"random": base}, "random")
    for name, entry in methods.items():
        entry |= {"texts": ["<g>"] * seeds, "parameters": [1234] * seeds, "trainings": ["t"] * seeds}
        entry |= {"search_seconds": [60.0 * (name != "random")] * seeds}
        entry |= {"searches": [None if name == "random" else "s"] * seeds}
    heading = {"seeds": list(range(seeds)), "data": "digits", "space": "darts", "search": {}, "baseline": "random"}
    return heading | {"budget": {"epochs": 15}, "methods": methods}


def test_the_table_ranks_by_accuracy_and_says_what_is_shown() -> None:
    comparison = _comparison()
    header, *rows = methods_rows(comparison)
    assert [row[0] for row in rows] == ["good", "random", "bad"]
    assert all(len(row) == len(header) for row in rows)
    first, second, images, last = methods_words(comparison)
    assert "was not recorded" in images
    told = methods_words(comparison | {"test_images": 400})[-2]
    assert "400 images: one image is 0.25 points, so the difference of 0.10 points is 0.4 images" in told
    assert first.startswith("good: +0.10 points") and "no test can judge" in first
    assert second.startswith("bad: worse than random choice: \u22122.20 points")
    assert "cannot be below 0.0625, and 0.125 after Holm" in last and "it needs 7 seeds" in last
    assert "show nothing" not in methods_words(_comparison(8))[-1]


def test_the_plot_shows_every_method_and_seed() -> None:
    svg = plot_methods(_comparison(6))
    tree = ElementTree.fromstring(svg)
    texts = {"".join(node.itertext()).strip() for node in tree.iter("{http://www.w3.org/2000/svg}text")}
    assert {"good", "bad", "random", "Test accuracy", "Difference to random", "percent"} <= texts
    # Six dots in three rows at the left and two at the right, and a mean in each.
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}use"))) >= 5 * 7


def test_the_command_prints_a_table_and_writes_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--search-set", "epochs=1", "--search-set", "channels=4", "--search-set", "batch_size=256"]
    small += ["--epochs", "1", "--channels", "4", "--space", "s2", "--device", "cpu", "--batch-size", "256"]
    small += ["--search-set", "darts-first:lr=0.05", "--seeds", "2"]
    assert run_command("compare", "--methods", "darts-first", *small, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr().out
    assert out.startswith("Method ") and "p (Wilcoxon, Holm)" in out
    folder = Path("runs/compare-methods-digits")
    page = (folder / "report.html").read_text()
    assert "How to repeat it" in page and "--search-set darts-first:lr=0.05" in page and "<script" not in page
    assert (folder / "comparison-methods.svg").read_text().startswith("<svg")
    searched = RunFolder.open(folder / "searches" / "darts-first-seed1").config["config"]
    assert (searched["lr"], searched["space"], searched["epochs"]) == (0.05, "s2", 1)
    assert run_command("compare", "--methods", "darts-first", *small, "--json", monkeypatch=monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["path"], result["seeds"]) == (str(folder), [0, 1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["DARTS_V2", "--methods", "darts-first"], "a genotype was given beside --methods"),
        (["--methods", "darts-first", "--random-cells", "3"], "--random-cells was given beside --methods"),
        (["DARTS_V2", "--search-set", "epochs=1"], "--search-set was given without --methods"),
        (["DARTS_V2", "--jobs", "2"], "--jobs was given without --methods"),
        (["--methods", "darts-first", "--seeds", "1"], "at least 2 different ones"),
        (["--methods", "darts-first", "--seeds", "x"], "no list of numbers"),
        (["--methods", "darts-first", "--search-set", "seed=1"], "use --seeds"),
        (["--methods", "darts-first", "--search-set", "pc-darts:lr=1"], "METHOD:NAME=VALUE with one of darts-first"),
        (["--methods", "darts-first", "--set", "seed=1"], "use --seeds"),
        (["--methods", "dart-first"], "did you mean darts-first"),
    ],
    ids=lambda value: "-" if isinstance(value, list) else value[:20],
)
def test_bad_input_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command("compare", *arguments, monkeypatch=monkeypatch) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
