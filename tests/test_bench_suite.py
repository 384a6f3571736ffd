"""`fastdarts bench`: paired rounds of twins that agree, what its files hold, what --compare and the tables say."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from bench import tables as pages
from fastdarts import bench as suite
from fastdarts._backend import native
from fastdarts.bench import cases, machine
from fastdarts.bench.record import FORMAT, quartiles, ratios
from fastdarts.cli import app
from fastdarts.cli.bench import ENVIRONMENTS
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.profile.eager import PlainSupernet
from fastdarts.spaces import space

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    cases.Case(
        "mixed-op",
        "a mixed operation",
        {"space_name": "darts", "channels": 4, "batch": 2, "side": 6, "stride": 1},
        cases._mixed_op,
        (3, 4),
    ),
    cases.Case("cell", "a cell", {"space_name": "s2", "channels": 4, "batch": 2, "side": 6}, cases._cell, (3, 3)),
    cases.Case(
        "pc-darts",
        "a network",
        {"space_name": "s2", "channels": 4, "layers": 3, "batch": 4, "side": 8, "partial": 2},
        cases._network,
        (2, 2),
    ),
)
needs_core = pytest.mark.skipif(native() is None, reason="no native core: there is nothing to measure")


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CACHE_MIB", "MEMORY_MIB"):
            patch.setattr(machine, name, 1)
        patch.setattr(machine, "SGEMM", 32)
        return suite.run_suite("quick", SMALL, compiled=False, apart=False)


@pytest.fixture
def written(record: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(record), encoding="utf-8")
    return path


@needs_core
def test_a_record_is_read_as_it_was_written(record: dict[str, Any], written: Path) -> None:
    assert suite.read(written) == record
    assert [case["name"] for case in record["cases"]] == ["mixed-op", "cell", "pc-darts"]
    for case, rounds in zip(record["cases"], (3, 3, 2), strict=True):
        assert list(case["contenders"]) == ["eager", "fast", "balanced", "lean"]
        kept = [facts["kept_bytes"] for facts in case["contenders"].values()]
        assert kept == sorted(kept, reverse=True)
        for facts in case["contenders"].values():
            assert len(facts["seconds"]) == rounds
        # What a step holds between its halves is a part of the most that it holds.
        assert all(facts["peak_bytes"] >= facts["kept_bytes"] for facts in case["contenders"].values())
        assert set(case["errors"]) == {"eager", "fast"} and case["gflop"] > 0
    assert record["machine"]["isa"] in record["machine"]["isas"]


@needs_core
def test_nothing_is_timed_where_the_twins_disagree(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(**settings: Any) -> cases.Twins:
        twins = cases._mixed_op(**settings)
        return twins._replace(ours=_Half(twins.ours))

    case = cases.Case("mixed-op", "wrong", SMALL[0].settings, wrong, (1, 1))
    monkeypatch.setattr(cases.Case, "twins", lambda self: self.build(**self.settings))
    with pytest.raises(RuntimeError, match="nothing is timed"):
        suite.run_case(case, 1, compiled=False)


class _Half(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.inner(*inputs)


def test_the_twins_have_the_same_keys() -> None:
    for case in suite.CASES:
        settings = {**case.settings, **({"channels": 4, "batch": 2, "layers": 3} if "layers" in case.settings else {})}
        with torch.device("meta"):
            twins = case.build(**settings)
        assert set(twins.ours.state_dict()) == set(twins.eager.state_dict()), case.name
        assert twins.gflop is not None


def test_the_twin_of_a_network_whose_cells_are_unlike() -> None:
    own = space("amended-s2")
    eager, ours = (made(own, channels=2, layers=3) for made in (PlainSupernet, Supernet))
    ours.load_state_dict(eager.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(eager(x), ours(x), atol=1e-4)


def test_quartiles_and_paired_ratios() -> None:
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)
    # Of the rounds, not of the medians: a slow moment that meets both contenders does not count.
    assert ratios([1.0, 10.0, 2.0], [0.5, 5.0, 1.0]) == {"median": 2.0, "low": 2.0, "high": 2.0}


def _made(**contenders: list[float]) -> dict[str, Any]:
    facts = {
        name: {"seconds": seconds, "first_seconds": 1.0, "kept_bytes": 8 if name == "eager" else 2, "peak_bytes": 9}
        for name, seconds in contenders.items()
    }
    case = {"name": "cell", "title": "a cell", "settings": {"batch": 2}, "gflop": 1.0, "load_average": 0.1}
    rates = {"gflops": 100.0, "cache_gbs": 50.0, "memory_gbs": 20.0}
    host = {"processor": "a processor", "isa": "avx2", "threads": 2, "torch": "2.13", "load_average": 0.1}
    head = {"format": FORMAT, "suite": "quick", "label": "", "date": "2026-01-02T03:04:05", "machine": host}
    return {**head, "roofline": {"before": rates, "after": rates}, "cases": [{**case, "contenders": facts}]}


def test_compare_says_what_is_within_the_spread() -> None:
    first = _made(eager=[1.0, 1.1, 1.2], fast=[0.1, 0.11, 0.12], lean=[0.2, 0.2, 0.2])
    second = _made(eager=[1.1, 1.15, 1.3], fast=[0.2, 0.22, 0.24], lean=[0.1, 0.1, 0.1])
    rows = {row["contender"]: row for row in suite.compare(first, second)["rows"]}
    assert rows["eager"]["time_verdict"] == "within the spread" and "speed_up" not in rows["eager"]
    assert rows["fast"]["time"] == pytest.approx(2.0) and rows["fast"]["time_verdict"] == "slower"
    assert rows["fast"]["speed_up_verdict"] == "less"
    assert rows["lean"]["time_verdict"] == "faster" and rows["lean"]["speed_up_verdict"] == "more"
    same = suite.compare(first, copy.deepcopy(first))
    assert {row["time_verdict"] for row in same["rows"]} == {"within the spread"} and not same["notes"]


def test_compare_leaves_out_what_is_not_the_same_and_says_so() -> None:
    first, second = _made(eager=[1.0]), _made(eager=[1.0])
    second["cases"][0]["settings"] = {"batch": 4}
    with pytest.raises(UserError, match="no case in common"):
        suite.compare(first, second)
    more = copy.deepcopy(second["cases"][0]) | {"name": "darts"}
    first["cases"].append(more)
    second["cases"].append(copy.deepcopy(more))
    second["machine"] |= {"isa": "avx512", "load_average": 3.0}
    second["label"] = "AVX2 kernels on an AVX-512 machine"
    found = suite.compare(first, second)
    assert [row["case"] for row in found["rows"]] == ["darts"] and found["left_out"] == ["cell"]
    notes = " | ".join(found["notes"])
    assert "isa: A avx2, B avx512" in notes and "B began at a load of 3.0" in notes and "B is AVX2 kernels" in notes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data.update(format="other"), "no record of this suite"),
        (lambda data: data.pop("cases"), "has no cases"),
        (lambda data: data["cases"][0]["contenders"]["eager"].update(seconds=["x"]), "seconds"),
        (lambda data: data["cases"][0]["contenders"]["eager"].update(seconds=[0.0]), "no seconds of a step"),
        (lambda data: data["cases"][0]["contenders"]["eager"].update(seconds=[]), "no seconds of a step"),
        (lambda data: data["cases"][0]["contenders"]["fast"].update(seconds=[1.0, 2.0]), "no paired rounds"),
        (lambda data: data["cases"][0]["contenders"].pop("eager"), "no paired rounds"),
    ],
)
def test_damaged_records_are_refused(damage: Any, message: str, tmp_path: Path) -> None:
    data = _made(eager=[1.0], fast=[0.1])
    damage(data)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UserError, match=message):
        suite.read(path)


def test_tables_are_what_their_files_say(tmp_path: Path) -> None:
    wide, narrow = _made(eager=[1.0], fast=[0.1], balanced=[0.2], lean=[0.25]), _made(eager=[1.0], fast=[0.2])
    narrow["cases"][0]["contenders"] |= {"balanced": wide["cases"][0]["contenders"]["fast"]}
    narrow["cases"][0]["contenders"] |= {"lean": wide["cases"][0]["contenders"]["fast"]}
    wide["machine"]["isa"] = "avx512"
    for name, data in (("wide", wide), ("narrow", narrow)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    mark = "before\n<!-- bench short: wide.json narrow.json -->\nold\n<!-- /bench -->\nafter"
    new, missing = pages.renewed(mark, tmp_path)
    assert not missing and "old" not in new and new.startswith("before") and new.endswith("after")
    assert "| a cell | 10x, 5x, 4x | 5x, 10x, 10x | 4x, 4x, 4x |" in new
    assert pages.renewed(new, tmp_path)[0] == new
    other = mark.replace("short", "long").replace("narrow.json", "none.json")
    long, missing = pages.renewed(other, tmp_path)
    assert missing == ["none.json"] and "| a cell | fast | 100 (100 to 100) | 10 (10 to 10) | 10 (10%) |" in long
    assert pages.renewed(mark, tmp_path / "nowhere")[0] == mark


def test_the_pages_are_up_to_date() -> None:
    assert pages.main(["--check"]) == 0
    assert "<!-- bench short:" in (ROOT / "README.md").read_text(encoding="utf-8")


@needs_core
def test_the_command(monkeypatch: pytest.MonkeyPatch, record: dict[str, Any], tmp_path: Path) -> None:
    asked: dict[str, Any] = {}

    def run(name: str, chosen: Any, **options: Any) -> dict[str, Any]:
        asked.update(options, suite=name, cases=[case.name for case in chosen])
        return record

    monkeypatch.setattr(suite, "run_suite", run)
    out = tmp_path / "out.json"
    found = CliRunner().invoke(app, ["bench", "--suite", "full", "--only", "darts", "--out", str(out), "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["cases"] == json.loads(json.dumps(record["cases"]))
    assert asked["cases"] == ["darts"] and asked["compiled"] is True and suite.read(out) == record
    shown = CliRunner().invoke(app, ["bench", "--compare", str(out), str(out)])
    assert shown.exit_code == 0 and "within the spread" in shown.stdout
    again = CliRunner().invoke(app, ["bench", "--out", str(out)])
    assert isinstance(again.exception, UserError) and "a new file" in str(again.exception)
    assert "eager / it" in CliRunner().invoke(app, ["bench"]).stdout and asked["compiled"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "dart"], "unknown case 'dart'"),
        (["--suite", "long"], "suite 'long'"),
        (["--threads", "0"], "0 threads"),
        (["--isa", "avx1"], "isa 'avx1'"),
        (["--isa", "avx2"], "torch is loaded already"),
        (["--compare", "a.json", "b.json", "--isa", "avx2"], "--compare measures nothing"),
        (["--compare", "no-such-folder/a.json", "no-such-folder/b.json"], "no-such-folder"),
        (["--out", "no-such-folder/out.json"], "cannot be made"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    found = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(found.exception, UserError) and message in str(found.exception)


def test_held_instructions_are_those_of_the_tests_machines() -> None:
    from tests import machines

    assert ENVIRONMENTS == {"base": machines._SSE, "avx2": machines._AVX2}
    assert "torch" in sys.modules  # why --isa is refused here: it must be the first to ask
