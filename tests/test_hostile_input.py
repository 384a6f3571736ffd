"""Whatever is on the command line or in a file ends with exit code 0 or 2 and, where refused, in one line."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import run_command
from report_runs import make_run

from fastdarts.errors import UserError
from fastdarts.reading import conform, kind_of, parse_json, read_bytes, read_text
from fastdarts.spaces import Space, space
from tests import tiny

DIGITS = "9" * 5000
DEEP = "[" * 100_000 + "]" * 100_000


def one_line(text: str) -> None:
    """One line that says so, after notes; a genotype's error shows the place in two more."""
    lines = text.rstrip("\n").split("\n")
    told = [number for number, line in enumerate(lines) if line.startswith("fastdarts: ")]
    assert len(told) == 1, text
    assert len(lines) - told[0] == (3 if "column" in lines[told[0]] and "no JSON" not in lines[told[0]] else 1), text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = make_run(tmp_path_factory.mktemp("hostile") / "run", **tiny.config().to_json() | {"data": "digits"})
    (path / "config.json").write_text(json.dumps(unsealed(path / "config.json")))
    return path


def unsealed(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text())
    return {name: each for name, each in value.items() if name != "seal"}


SPACE = space("s2").to_json()
HUGE = 10**250

FILES: dict[str, bytes | str] = {
    "deep": DEEP,
    "deep objects": '{"a":' * 5000 + "1" + "}" * 5000,
    "digits": DIGITS,
    "digits in a space": json.dumps(SPACE | {"layers": 7777}).replace("7777", DIGITS),
    "no utf-8": b'{"format": "\xff\xfe"}',
    "utf-16": json.dumps(SPACE).encode("utf-16"),
    "empty": "",
    "null": "null",
    "a number": "5",
    "infinity": "1e999",
    "nothing but commas": "[" + "0," * 600_000 + "0]",
    "open string": '"' + "a" * 100_000,
    "nul": "\0\0\0\0",
}
FILES |= {
    f"{name}={value!r}"[:40]: json.dumps(SPACE | {name: value})
    for name in ("layers", "keep", "shared", "name", "normal")
    for value in (True, 1.5, HUGE, 2**64, -1, "x", [], None, {})
    if (name, value) not in (("keep", None), ("shared", True), ("keep", 2**64), ("keep", HUGE), ("name", "x"))
}
FILES |= {
    f"cell {name}={value!r}"[:40]: json.dumps(SPACE | {"normal": SPACE["normal"] | {name: value}})
    for name in ("nodes", "concat", "edges")
    for value in (True, 1.5, HUGE, 2**64, "x", [1.5], [True], [None], [[]], {})
}
GENOTYPE = {"format": "fastdarts-genotype/1"}
CELL = {"inputs": 2, "nodes": [[["skip_connect", 0], ["skip_connect", 1]]], "concat": [2]}
FILES |= {
    f"genotype {name}={value!r}"[:40]: json.dumps(
        GENOTYPE | {"cells": {"normal": CELL, "reduce": CELL | {name: value}}}
    )
    for name in CELL
    for value in (1.5, HUGE, -1, "x", [2.0], [True], [[["skip_connect", 2**64]]], [[[[], 0]]], None, {})
}


@pytest.mark.parametrize("name", FILES)
def test_nonsense_in_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    path = tmp_path / "mine.json"
    content = FILES[name]
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in (["show", str(path)], ["plan", "--space", str(path)]):
        assert run_command(*command, monkeypatch=monkeypatch) == 2
        one_line(capfd.readouterr().err)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150 << 10


CONFIGS: list[tuple[str, object]] = [
    (name, value)
    for name in ("channels", "layers", "seed", "epochs", "threads", "lr", "method", "options", "data", "space")
    for value in (HUGE, 2**64, True, [1], {"a": 1}, None, "x", -1)
    if (name, value) not in (("lr", HUGE), ("lr", 2**64))
]


@pytest.mark.parametrize(
    ("name", "value"), [*CONFIGS, ("environment", 5), ("after", [1]), ("space", 7), ("config", [])]
)
def test_nonsense_in_a_configuration(
    finished: Path, tmp_path: Path, name: str, value: object, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    path = tmp_path / "run"
    path.mkdir()
    shutil.copy(finished / "metrics.jsonl", path)
    config = unsealed(finished / "config.json")
    (config if (name, value) not in CONFIGS else config["config"])[name] = value
    (path / "config.json").write_text(json.dumps(config))
    assert run_command("search", "--resume", str(path), monkeypatch=monkeypatch) == 2
    one_line(capfd.readouterr().err)


COMMANDS: list[list[str]] = [
    ["show", "FIFO"], ["show", "FIFO:last"], ["show", "FOLDER"], ["show", "\0"], ["show", "a" * 5000],
    ["show", "(" * 5000], ["show", "{" * 40], ["show", "\udcff"], ["show", "\udcff.json"], ["show", "FOLDER/no.json"],
    ["show", "DARTS_V2", "--svg", "FOLDER"], ["show", "DARTS_V2", "--png", "FOLDER"],
    ["show", "DARTS_V2", "--svg", "FOLDER/no/such/a.svg"], ["show", "RUN/config.json/x"],
    ["plan", "--space", "FIFO.json"], ["plan", "--space", "FOLDER.json"], ["plan", "--space", "\udcff.json"],
    ["plan", "--layers", DIGITS], ["plan", "--layers", str(2**64)], ["plan", "--channels", str(2**64)],
    ["plan", "--batch-size", str(HUGE)], ["plan", "--set", f"lr={DIGITS}"], ["plan", "--set", f"momentum={HUGE}"],
    ["plan", "--image-size", "0"], ["plan", "--budget", "-1"], ["plan", "--data", "\udcff"],
    ["plan", "--method", "\udcff"],
    ["search", "--epochs", str(2**64)], ["search", "--seed", str(2**64)], ["search", "--channels", str(HUGE)],
    ["search", "--layers", str(2**40)], ["search", "--batch-size", str(2**64)], ["search", "--random-cells", str(HUGE)],
    ["search", "--retrain-epochs", str(-HUGE)], ["search", "--searches", str(HUGE)], ["search", "--resume", "FIFO"],
    ["search", "--resume", "\udcff"], ["search", "--resume", "FOLDER"], ["search", "--resume", "\0"],
    ["search", "--data", "mnist", "--root", "FIFO"], ["search", "--data", "cifar10", "--root", "\udcff"],
    ["search", "--data", "svhn", "--root", "\0"], ["search", "--check-hypergradient", DIGITS],
    ["search", "--data", "cifar10", "--root", "FIFO.tar"], ["search", "--space", "FIFO.json"],
    ["retrain", "DARTS_V2", "--epochs", str(2**64)], ["retrain", "DARTS_V2", "--seed", str(2**64)],
    ["retrain", "FIFO"], ["retrain", "\udcff"], ["compare", "DARTS_V2", "--random-cells", str(HUGE)],
    ["compare", "DARTS_V2", "--seeds", DIGITS], ["compare", "FIFO"], ["compare", "--methods", "\udcff"],
    ["compare", "--methods", "darts-first", "--seeds", str(HUGE)], ["tabulate", "--space", "FIFO.json"],
    ["tabulate", "--space", "s2", "--layers", str(2**64)], ["methods", "\udcff"],
]  # fmt: skip


@pytest.mark.parametrize(
    "command", COMMANDS, ids=lambda command: " ".join(command)[:50].encode("ascii", "replace").decode()
)
def test_nonsense_on_the_command_line(
    finished: Path, tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    for name in ("fifo", "fifo.json", "fifo.tar"):
        os.mkfifo(tmp_path / name)
    for name in ("folder", "folder.json"):
        (tmp_path / name).mkdir()
    places = {"FIFO": tmp_path / "fifo", "FOLDER": tmp_path / "folder", "RUN": finished}
    monkeypatch.chdir(tmp_path)
    words = []
    for word in command:
        for mark, place in places.items():
            word = word.replace(mark, str(place))
        words.append(word)
    assert run_command(*words, monkeypatch=monkeypatch) == 2
    one_line(capfd.readouterr().err)
    assert not (tmp_path / "runs").exists(), "nothing is written for what is refused"


def test_a_path_that_is_no_utf_8_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    path = tmp_path / "caf\udce9"
    shutil.copytree(make_run(tmp_path / "run", epochs=1), path)
    assert run_command("show", str(path), "--report", monkeypatch=monkeypatch) == 0
    out, _ = capfd.readouterr()
    assert "caf\\udce9" in out and (path / "report.html").stat().st_size > 0


CALLS = [(call, code) for call in ("scandir", "stat", "open") for code in (errno.EIO, errno.EMFILE, errno.EACCES)]


@pytest.mark.parametrize(("call", "code"), [*CALLS, ("listdir", errno.EIO)])
def test_what_the_system_refuses_is_one_line(
    finished: Path, call: str, code: int, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    real = getattr(os, call)

    def fails(path: Any = ".", *rest: Any, **named: Any) -> Any:
        if isinstance(path, (str, os.PathLike)) and str(finished) in os.fspath(path):
            raise OSError(code, os.strerror(code), os.fspath(path))
        return real(path, *rest, **named)

    for command in (
        ["show", str(finished)],
        ["show", str(finished), "--report"],
        ["search", "--resume", str(finished)],
    ):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, fails)
            ended = run_command(*command, monkeypatch=patch)
        assert ended == 2 if call in ("scandir", "stat", "open") else ended in (0, 2)
        told = capfd.readouterr().err
        if ended == 2:
            one_line(told)


# The door and the reader themselves


def test_json_within_the_bounds_is_read_exactly() -> None:
    for value in ({"a": [1, -2, 3.5, 1e300, None, True, '[[{"]']}, 2**900, "," * 600_000, {"é": "\ud800"}):
        assert parse_json(json.dumps(value), "it") == value
    assert parse_json("[" * 64 + "]" * 64, "it") is not None
    assert str(parse_json("[NaN, -Infinity]", "it")) == "[nan, -inf]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 65 + "]" * 65, "it is nested more than 64 deep; expected at most 64"),
        ('{"a": ' + "9" * 301 + "}", "an integer of 301 digits"),
        ("[" + "1," * 500_000 + "1]", "it holds 500001 values; expected at most 500000"),
        ("{", "it is no JSON"),
        ("1 2", "it is no JSON"),
    ],
)
def test_json_beyond_the_bounds_is_refused(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        parse_json(text, "it")


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        (True, int, "its content is True; expected a whole number"),
        (1.0, int, "its content is 1.0; expected a whole number"),
        ("1", float, "its content is '1'; expected a number"),
        ({"a": {"b": [1, "x"]}}, {"a": {"b": [int]}}, r"a\.b\[1\] is 'x'; expected a whole number"),
        ({}, {"a!": (str, None)}, "it has no a; expected a text or null"),
        ({"a": 1}, {str: str}, "a is 1; expected a text"),
    ],
)
def test_a_value_of_another_type_is_named(value: object, schema: object, said: str) -> None:
    with pytest.raises(UserError, match=said):
        conform(value, schema, "it")


def test_the_door_takes_regular_files_of_a_bounded_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a\r\nb")
    os.truncate(tmp_path / "file", 4)
    assert read_bytes(tmp_path / "file") == b"a\r\nb" and read_text(tmp_path / "file") == "a\nb"
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: read_bytes(tmp_path / "sparse"), rf"sparse has {1 << 40} bytes; expected at most"),
        (lambda: read_bytes(tmp_path / "fifo"), r"fifo is a FIFO; expected a file"),
        (lambda: read_bytes(tmp_path), r"is a folder; expected a file"),
        (lambda: read_bytes("/dev/zero"), r"is a device; expected a file"),
        (lambda: read_bytes(tmp_path / "link", follow=False), r"link is a link; expected a file"),
        (lambda: read_bytes(tmp_path / "file", limit=3), r"file has 4 bytes; expected at most 3"),
        (lambda: read_bytes("a\0b"), r"is no path"),
        (lambda: read_bytes(tmp_path / "none"), r"cannot read .*none: No such file"),
    ]
    for read, said in refused:
        with pytest.raises(UserError, match=said):
            read()
    kinds = {name: kind_of(tmp_path / name) for name in ("file", "fifo", "link", "", "none", "x" * 999, "a\0")}
    assert list(kinds.values()) == ["file", "other", "file", "folder", "", "", ""]


def test_spaces_of_users_are_read_as_before() -> None:
    for name in ("darts", "s1", "amended-s2-full"):
        assert Space.from_json(json.loads(json.dumps(space(name).to_json()))) == space(name)
