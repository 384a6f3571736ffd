"""The tabular truth: every network once, trained as `retrain` trains it, resumable, and regrets read from it."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from command import run_command

from fastdarts import cli
from fastdarts.data import split_levels
from fastdarts.errors import UserError
from fastdarts.evaluate import (
    Network,
    RetrainConfig,
    Table,
    budget,
    genotypes,
    mean_and_spread,
    retrain,
    tabulate,
    trajectory,
)
from fastdarts.evaluate.retrain import RetrainJob
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, search
from fastdarts.spaces import CellGenotype, Genotype, Space, define_space, random_genotype
from tests import tiny

FEW = define_space(
    "few", {(0, 2): ("skip_connect",), (1, 2): ("skip_connect", "max_pool_3x3")}, nodes=1, layers=3, keep=None
)
UNEQUAL = define_space(
    "unequal",
    {
        (0, 2): ("none", "skip_connect"),
        (1, 2): ("skip_connect", "sep_conv_3x3"),
        (0, 3): ("noise",),
        (1, 3): ("skip_connect", "max_pool_3x3", "none"),
        (2, 3): ("skip_connect", "sep_conv_3x3"),
    },
    reduce={(0, 2): ("skip_connect",), (1, 2): ("noise", "skip_connect"), (0, 3): ("noise",), (2, 3): ("noise",)},
)
UNSHARED = define_space("unshared", ("skip_connect", "noise"), nodes=1, layers=3, shared=False, keep=1)
SETTINGS = budget("custom", epochs=1, batch_size=8, channels=4, layers=3, crop=1, device="cpu", auxiliary=0.0)


def _sets() -> tuple[Any, Any]:
    return tiny.images(48), tiny.images(24, seed=1)


def _table(tmp_path: Path, **arguments: Any) -> Table:
    return tabulate(FEW, tmp_path / "table", **({"settings": SETTINGS, "sets": _sets()} | arguments))


@pytest.mark.parametrize("space", [FEW, UNEQUAL, UNSHARED], ids=lambda space: space.name)
def test_every_genotype_of_a_space_comes_once(space: Space) -> None:
    found = list(genotypes(space))
    assert len(found) == len(set(found)) == space.size()
    for genotype in found:
        space.check(genotype)
    drawn = {random_genotype(space, seed) for seed in range(60)}
    assert drawn <= set(found)
    # 60 draws of this few miss none but by a chance below 1e-6.
    assert len(drawn) == space.size() or space.size() > 4


def _by_hand(tests: dict[tuple[str, str], tuple[float, float]]) -> Table:
    networks = tuple(
        Network(_genotype(*ops), 7, valid=(0.5, 0.5), test=accuracies) for ops, accuracies in tests.items()
    )
    return Table(FEW, 3, 0.5, (0, 1), {}, networks, {})


def _genotype(normal: str, reduce: str, *, swapped: bool = False) -> Genotype:
    def cell(op: str) -> CellGenotype:
        pairs = (("skip_connect", 0), (op, 1))
        return CellGenotype((pairs[::-1] if swapped else pairs,), (2,))

    return Genotype({"normal": cell(normal), "reduce": cell(reduce)})


S, M = "skip_connect", "max_pool_3x3"
HAND = {(S, S): (0.80, 0.90), (S, M): (0.90, 0.94), (M, S): (0.70, 0.80), (M, M): (0.94, 0.90)}


def test_regret_rank_chance_and_noise_by_hand() -> None:
    """Means .85, .92, .75, .92: regrets .07, 0, .17, 0; their mean .06, their squares' sum .0049 + .0289."""
    table = _by_hand(HAND)
    assert [table.regret(_genotype(*ops)) for ops in HAND] == pytest.approx([0.07, 0.0, 0.17, 0.0])
    assert [table.rank(_genotype(*ops)) for ops in HAND] == [3, 1, 4, 1]
    mean, spread = table.by_chance()
    assert mean == pytest.approx(0.06)
    assert spread == pytest.approx(((0.0049 + 0.0289 - 4 * 0.0036) / 4) ** 0.5)
    # Variances of two numbers d apart are d^2 / 2: .005, .0008, .005, .0008; their mean .0029, over two seeds.
    assert table.noise() == pytest.approx((0.0029 / 2) ** 0.5)
    assert table.ranking[-1].accuracy == pytest.approx(0.75)


def test_the_order_in_which_edges_are_written_does_not_matter() -> None:
    table = _by_hand(HAND)
    assert table.find(_genotype(S, M, swapped=True)).genotype == _genotype(S, M)


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    table = _by_hand(HAND)
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table.to_json()), encoding="ascii")
    assert Table.read(path) == table


def _change(**values: Any) -> dict[str, Any]:
    return _by_hand(HAND).to_json() | values


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([], "not the JSON of a table"),
        (_change(format="fastdarts-space/1"), "not the JSON of a table"),
        (_change(networks=_by_hand(HAND).to_json()["networks"][:3]), "a table of 3 networks"),
        (_change(networks=[_by_hand(HAND).to_json()["networks"][0]] * 4), "4 networks, 1 of them different"),
        (_change(seeds=[0]), "2 test and 2 validation accuracies"),
        (_change(space=UNEQUAL.to_json()), "1 nodes"),
        (_change(networks=[{}]), "malformed"),
    ],
    ids=["list", "space", "missing", "twice", "seeds", "foreign", "empty"],
)
def test_what_is_no_whole_table_is_refused(data: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Table.from_json(data)


def test_a_file_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{", encoding="ascii")
    with pytest.raises(UserError, match=r"table\.json cannot be read"):
        Table.read(tmp_path / "table.json")


def test_a_network_is_trained_as_retrain_trains_it_and_validated_on_the_other_part(tmp_path: Path) -> None:
    """The parts are those of a search with the same seed."""
    table = _table(tmp_path, seeds=(5, 2), portion=0.75)
    train, test = _sets()
    part, other = split_levels(len(train.labels), 0.75, 2)
    half = dataclasses.replace(train, images=train.images[part], labels=train.labels[part])
    rest = dataclasses.replace(train, images=train.images[other], labels=train.labels[other])
    settings = SETTINGS | {"threads": 1}
    for number, genotype in enumerate(genotypes(FEW)):
        kept = json.loads((tmp_path / "table" / "networks" / f"{number:05d}-seed2.json").read_text(encoding="ascii"))
        for name, judged in (("test", test), ("valid", rest)):
            config = RetrainConfig(genotype.text(), seed=2, **settings)
            alone = retrain(config, tmp_path / f"{name}-{number}", sets=(half, judged))
            assert kept[f"{name}_accuracy"] == alone["test_accuracy"]
            assert kept[f"{name}_loss"] == alone["test_loss"]
        assert kept["parameters"] == alone["parameters"]
        network = table.find(genotype)
        assert (network.valid[1], network.test[1]) == (kept["valid_accuracy"], kept["test_accuracy"])
    assert table.seeds == (5, 2)
    assert Table.read(tmp_path / "table" / "table.json") == table


def test_a_killed_table_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _table(tmp_path / "whole", seeds=(0, 1))
    steps = []
    own = RetrainJob.step

    def step(job: RetrainJob, epoch: int, position: int) -> Any:
        steps.append(position)
        if len(steps) == 8:
            os.kill(os.getpid(), signal.SIGINT)
        return own(job, epoch, position)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(RetrainJob, "step", step)
        _table(tmp_path, seeds=(0, 1))
    # Three steps a training: two were finished, and the third was not kept.
    networks = tmp_path / "table" / "networks"
    done = {path: path.stat().st_mtime_ns for path in networks.iterdir()}
    assert len(done) == 2
    assert not (tmp_path / "table" / "table.json").exists()
    assert _table(tmp_path, seeds=(0, 1)) == whole
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_more_seeds_join_those_that_are_there(tmp_path: Path) -> None:
    one = _table(tmp_path)
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "table" / "networks").iterdir()}
    two = _table(tmp_path, seeds=(0, 1))
    assert [network.test[:1] for network in two.networks] == [network.test for network in one.networks]
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.slow
def test_several_processes_make_the_same_table(tmp_path: Path) -> None:
    assert _table(tmp_path / "two", jobs=2) == _table(tmp_path / "one")


def test_an_unshared_space_has_its_own_depth(tmp_path: Path) -> None:
    space = define_space("two", {(1, 2): ("skip_connect", "max_pool_3x3")}, nodes=1, layers=2, shared=False, keep=None)
    settings = {name: value for name, value in SETTINGS.items() if name != "layers"}
    table = tabulate(space, tmp_path / "table", settings=settings, sets=_sets())
    assert (table.layers, len(table.networks)) == (2, 4)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"settings": SETTINGS | {"batch_size": 99}}, "batch size 99"),
        ({"seeds": ()}, "seeds are"),
        ({"seeds": (1, 1)}, "seeds are"),
        ({"portion": 1.0}, "a portion of 1.0"),
        ({"sets": None}, "without sets"),
        ({"jobs": 0}, "jobs is 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_bad_arguments_write_nothing(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        _table(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_space_too_large_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"space tiny has 1\.\d+e\+04 networks|at most 20,000"):
        tabulate(define_space("large", (S, M, "noise"), nodes=4), tmp_path / "table", settings=SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_budget_is_refused(tmp_path: Path) -> None:
    _table(tmp_path)
    with pytest.raises(UserError, match="begun with another space, budget or portion"):
        _table(tmp_path, settings=SETTINGS | {"epochs": 2})


def test_the_trajectory_of_a_search_is_what_the_table_says(tmp_path: Path) -> None:
    config = tiny.config(epochs=3, arch_lr=0.5)
    path = tmp_path / "run"
    result = search(config, path, train_set=tiny.images(), search_space=FEW)
    table = _by_hand(HAND)
    curve = trajectory(table, path)
    assert [point["epoch"] for point in curve] == [0, 1, 2]
    folder = RunFolder.open(path)
    for point in curve:
        kept = Genotype.from_json(folder.read_json(f"epochs/{point['epoch']:04d}.json")["genotype"])
        assert (point["regret"], point["rank"]) == (table.regret(kept), table.rank(kept))
        assert point["skips"] == {key: kept.skips(key) for key in ("normal", "reduce")}
        assert point["eigenvalue"] is None
    assert curve[-1]["regret"] == table.regret(result.genotype)
    with pytest.raises(UserError, match="nodes"):
        trajectory(dataclasses.replace(table, space=UNEQUAL, networks=tuple(_networks(UNEQUAL))), path)


def _networks(space: Space) -> list[Network]:
    return [Network(genotype, 1, (0.5, 0.5), (0.5, 0.5)) for genotype in genotypes(space, 3)]


def test_mean_and_spread_by_hand() -> None:
    assert mean_and_spread([1.0, 2.0, 6.0]) == pytest.approx((3.0, 7.0**0.5))
    assert mean_and_spread([4.0]) == (4.0, 0.0)


def test_help_names_every_option_with_a_sentence() -> None:
    import typer.main

    for parameter in typer.main.get_command(cli.app).commands["tabulate"].params:
        assert parameter.help or parameter.name == "help", parameter.name


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("few.json").write_text(json.dumps(FEW.to_json()), encoding="ascii")
    arguments = ["tabulate", "--space", "few.json", "--epochs", "1", "--channels", "2", "--batch-size", "256"]
    arguments += ["--seeds", "3,4", "--device", "cpu", "--output", "kept/truth.json", "--json"]
    assert run_command(*arguments, monkeypatch=monkeypatch) == 0
    said = json.loads(capsys.readouterr().out)
    table = Table.read("kept/truth.json")
    assert table == Table.read("runs/tabulate-few-digits/table.json")
    assert (said["networks"], said["seeds"], said["table"]) == (4, [3, 4], "kept/truth.json")
    assert said["best"] == table.ranking[0].genotype.text()
    assert run_command(*arguments[:-1], monkeypatch=monkeypatch) == 0
    assert "best_accuracy" in capsys.readouterr().out
    assert run_command("tabulate", monkeypatch=monkeypatch) == 2
    assert "no space was named" in capsys.readouterr().err
    assert run_command("tabulate", "--space", "darts", monkeypatch=monkeypatch) == 2
    assert "fastdarts: space darts has" in capsys.readouterr().err
