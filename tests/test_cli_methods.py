"""Methods on the command line: the list, the help that repeats it, and `--set` for what is a method's own."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fastdarts import cli
from fastdarts.cli.settings import configured, read_settings
from fastdarts.errors import UserError
from fastdarts.search import METHODS, SearchConfig
from fastdarts.spaces import define_space

ROOT = Path(__file__).parents[1]
OPTIONS = {"rate": 0.5, "steps": 7, "greedy": False, "rule": "one", "kept": (5, 3), "rates": (0.0, 0.4), "none": ()}


def _run(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["fastdarts", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_the_list_has_a_line_a_method(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["methods"], monkeypatch) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == list(METHODS)
    assert all(len(line) == 3 and all(line) for line in lines)


def test_the_list_as_json_holds_every_published_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["methods", "--json"], monkeypatch) == 0
    told = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert list(told) == list(METHODS)
    assert told["pc-darts"]["published"]["partial"] == 4
    assert set(told["pc-darts"]) == {"name", "summary", "source", "published", "options", "small"}


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    assert _run(["methods"], monkeypatch) == 0
    out = capsys.readouterr().out
    assert "source" in out and "darts-second-exact" in out


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_tells_its_values_and_options(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["methods", name], monkeypatch) == 0
    out = capsys.readouterr().out
    chosen = METHODS[name]
    assert out.startswith(f"{name}: {chosen.summary}\nsource: {chosen.source}\n")
    assert all(f"  {each} " in out for each in (*chosen.options, *chosen.small))


def test_an_unknown_method_is_named_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(["methods", "pc-dart"], monkeypatch) == 2
    assert "did you mean pc-darts?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["search", "plan"])
def test_the_help_names_the_methods_that_exist(command: str) -> None:
    parameters = typer.main.get_command(cli.app).commands[command].params
    option = next(each for each in parameters if each.name == "method")
    assert set(option.help.split(";")[0].split(", ")) == set(METHODS)


def test_the_documents_name_the_methods_and_tests_that_exist() -> None:
    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    rows = [
        row.split("|")[1] for row in text.split("## The methods")[1].split("\n## ")[0].splitlines() if row[:3] == "| `"
    ]
    assert sorted(re.findall(r"`([^`]+)`", "".join(rows))) == sorted(METHODS)
    tests = set(re.findall(r"\btest_[\w*]+\.py", text))
    assert [name for name in sorted(tests) if not list((ROOT / "tests").glob(name))] == []
    assert f"[{len(METHODS)}, each a preset]" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", list(METHODS))
def test_a_methods_own_settings_shadow_none_of_the_search(name: str) -> None:
    chosen = METHODS[name]
    known = {field.name for field in fields(SearchConfig)}
    assert not set(chosen.options) & known
    assert set(chosen.defaults) <= known
    assert set(chosen.small) <= known | set(chosen.options)


@pytest.mark.parametrize("name", list(METHODS))
def test_every_option_can_be_set_to_its_own_value(name: str) -> None:
    """What `fastdarts methods NAME` prints is what `--set` takes, and it is the value that was meant."""
    from fastdarts.cli.methods import _text

    pairs = [f"{option}={_text(value)}" for option, value in METHODS[name].options.items()]
    config, _ = configured(name, "cifar10", None, {}, pairs)
    assert config.options == METHODS[name].options
    assert [type(value) for value in config.options.values()] == [type(v) for v in METHODS[name].options.values()]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("rate=1", 1.0),
        ("steps=3", 3),
        ("greedy=TRUE", True),
        ("rule=two", "two"),
        ("kept=4", (4,)),
        ("kept=6, 4,2", (6, 4, 2)),
        ("rates=1,0.5", (1.0, 0.5)),
        ("none=2", (2,)),
        ("weight_decay=1e-3", 1e-3),
    ],
    ids=lambda each: str(each).replace(" ", ""),
)
def test_options_are_read_by_the_type_of_their_default(text: str, value: Any) -> None:
    (read,) = read_settings([text], SearchConfig, {}, OPTIONS).values()
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["rate=fast"], "expected a value of type float"),
        (["steps=1.5"], "expected a value of type int"),
        (["greedy=1"], "expected a value of type bool, true or false"),
        (["kept=1,b"], "expected a value of type numbers with commas"),
        (["kept=0.5"], "expected a value of type numbers with commas"),
        (["rate=1", "rate=2"], "rate is given twice"),
        (["tau_max=1"], "expected NAME=VALUE with one of"),
    ],
    ids=lambda each: "+".join(each) if isinstance(each, list) else "",
)
def test_options_that_do_not_fit_are_refused(texts: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_settings(texts, SearchConfig, {}, OPTIONS)


def test_an_option_of_another_method_is_refused() -> None:
    own = next(name for each in METHODS.values() for name in each.options)
    with pytest.raises(UserError, match=f"--set {own}=1"):
        configured("darts-first", "digits", None, {}, [f"{own}=1"])


def test_the_space_is_the_methods_unless_one_is_named(tmp_path: Any) -> None:
    for name, chosen in METHODS.items():
        config, space = configured(name, "cifar10", None, {}, None)
        assert config.space == space.name == chosen.defaults.get("space", "darts"), name
    config, space = configured("darts-first", "cifar10", "s3", {"epochs": 3}, None)
    assert (config.space, space.name, config.epochs) == ("s3", "s3", 3)
    own = define_space("own", ("skip_connect", "sep_conv_3x3"), nodes=1, layers=5)
    (tmp_path / "own.json").write_text(json.dumps(own.to_json()))
    config, space = configured("darts-first", "cifar10", str(tmp_path / "own.json"), {}, None)
    assert (config.space, config.layers, space) == ("own", 5, own)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gdas", ["gdas runs some of the operators only; this is a step with all of them, the most"]),
        (
            "p-darts",
            [
                "p-darts searches in stages; this is its first supernet, of 3 cells",
                "while paths or skips are dropped a pass runs in plain torch, which keeps more",
            ],
        ),
        ("amended", ["the auxiliary head is not counted"]),
        ("r-darts-es", ["a measurement of the eigenvalue runs in plain torch, twice differentiable, which keeps more"]),
        ("sdarts-rs", []),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_a_plan_says_where_the_search_is_another(
    name: str, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--channels", "4", "--batch-size", "4", "--memory", "lean"]
    assert _run(["plan", "--method", name, *small, "--json"], monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == told
