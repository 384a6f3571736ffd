"""README and docs: the programs run, and the command line takes every command."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typer.main
from command import run_command
from data_layouts import CIFAR10, TARS, cifar_records, tar
from torch import nn

from fastdarts import cli, evaluate
from fastdarts.cli import agree, plan, searches, targets
from fastdarts.search import Progress, methods, search
from fastdarts.spaces import published
from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(```+)([^\n]*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS: dict[str, Any] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
# Pages whose programs run in a test of their own, which checks what came of them.
ELSEWHERE = {
    "docs/first-hour.md": "test_first_hour.py",
    "docs/drop-in.md": "test_compat.py",
    "docs/spaces.md": "test_spaces.py",
}


def blocks(page: str, *kinds: str) -> list[str]:
    return [text for _, kind, text in BLOCK.findall(TEXTS[page]) if kind.strip() in kinds]


def prose(page: str) -> str:
    return BLOCK.sub("", TEXTS[page])


def test_every_block_says_what_it_is() -> None:
    kinds = {kind.strip() for page in TEXTS for _, kind, _ in BLOCK.findall(TEXTS[page])}
    assert kinds <= {"bibtex", "console", "diff", "python", "sh", "text"}


# Python

# What makes a program one of seconds, each text once in the page's programs.
SMALLER = {
    "README.md": {"epochs=5": 'epochs=1, channels=4, layers=3, batch_size=256, space="s2"'},
    "docs/data.md": {"batch_size=64": "batch_size=4"},
    "docs/plan.md": {'space("darts"))': 'space("s2"), channels=4, layers=3)'},
    "docs/runs.md": {'"darts-first"': '"darts-first", epochs=1, channels=4, layers=3, batch_size=256, space="s2"'},
}


def _data() -> dict[str, Any]:
    """The reader's archive, and a data set of theirs."""
    Path("data").mkdir()
    archive, folder, files = TARS["cifar10"]
    Path("data", archive).write_bytes(tar(cifar_records(files)[0], folder))
    assert files is CIFAR10
    pairs = [(image.numpy(), int(label)) for image, label in zip(*_images(14, classes=7), strict=True)]
    return {"MyTrainingSet": lambda: pairs, "MyTestSet": lambda: pairs[:7]}


def _images(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = tiny.images(count, classes=3)
    return made.images, torch.arange(count) % classes


def _problem() -> dict[str, Any]:
    """A model of the reader's own, with alphas."""
    alphas = [torch.zeros(2, dtype=torch.float64, requires_grad=True)]
    layers = nn.ModuleList([nn.Linear(3, 2, dtype=torch.float64), nn.Linear(3, 2, dtype=torch.float64)])
    weights = list(layers.parameters())

    def model(x: torch.Tensor) -> torch.Tensor:
        mixed = alphas[0].softmax(0)
        return mixed[0] * layers[0](x).tanh() + mixed[1] * layers[1](x)

    x, y = torch.randn(6, 3, dtype=torch.float64), torch.arange(6) % 2
    given = {"model": model, "criterion": nn.CrossEntropyLoss(), "weights": weights, "alphas": alphas}
    given |= {"x_train": x, "y_train": y, "x_valid": x + 1, "y_valid": y, "sgd": torch.optim.SGD(weights, 0.025)}
    return given


def _training() -> dict[str, Any]:
    model = nn.Linear(2, 2)
    return {"model": model, "optimiser": torch.optim.SGD(model.parameters(), 0.1), "step": 1}


# What a page takes for granted: files and names that are the reader's.
GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "docs/data.md": _data,
    "docs/hypergradients.md": _problem,
    "docs/runs.md": _training,
}
PROGRAMS = [page for page in TEXTS if page not in ELSEWHERE and blocks(page, "python")]


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_programs_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In their order, one after the other in the same names, as a reader pastes them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names: dict[str, Any] = GIVEN.get(page, dict)()
    smaller = dict(SMALLER.get(page, {}))
    for program in blocks(page, "python"):
        for text in [each for each in smaller if each in program]:
            assert program.count(text) == 1
            program = program.replace(text, smaller.pop(text))
        exec(compile(program, page, "exec"), names)
    assert not smaller, f"{page} has no longer what is made smaller: {smaller}"


def test_the_method_of_the_page_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {}
    (program,) = blocks("docs/methods.md", "python")
    exec(program, names)
    (own,) = names["METHODS"]
    monkeypatch.setattr(methods, "METHODS", {own.name: own})
    config = tiny.config(own.name, epochs=1)
    assert config.options == {"heat": 2.0} and config.hypergradient == "first"
    found = search(config, tmp_path / "run", search_space=tiny.SPACE, train_set=tiny.images(), progress=Progress())
    tiny.SPACE.check(found.genotype)


def test_the_other_programs_run_in_tests_of_their_own() -> None:
    for page, test in ELSEWHERE.items():
        assert blocks(page, "python")
        assert Path(page).name in (ROOT / "tests" / test).read_text(encoding="utf-8")


# Commands


def lines(text: str) -> Iterator[str]:
    """The commands of a block, without their comments."""
    for line in text.splitlines():
        command = line.partition(" #")[0].strip()
        if command and not command.startswith("#"):
            yield command


FENCED = [
    (page, command)
    for page in TEXTS
    for block in blocks(page, "sh")
    for command in lines(block)
    if page not in ELSEWHERE
]
OURS = sorted({command for _, command in FENCED if command.startswith("fastdarts ")})


# Commands that end in a moment, or are stopped where they begin to work; any other is parsed.
STOPPED = {"search", "retrain", "compare", "show", "runs", "methods", "plan", "tabulate", "doctor"}


class WorkBegins(Exception):
    """All that was typed is understood, and was found to fit; what takes long would come now."""


@pytest.fixture
def no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stops where work begins, and where something is read that only the reader has."""

    def stop(*arguments: Any, **named: Any) -> None:
        raise WorkBegins

    def target(text: str) -> targets.Target:
        return targets.Target(published("DARTS_V2"), "mine") if text.startswith("runs/") else known(text)

    known = targets.read_target
    monkeypatch.setattr(targets, "read_target", target)
    for name in ("announce_searches", "announce_training", "announce_comparison", "announce_methods"):
        monkeypatch.setattr(agree, name, stop)
    monkeypatch.setattr(searches, "holds_several", stop)
    monkeypatch.setattr(evaluate, "tabulate", stop)
    monkeypatch.setattr(plan, "_predictor", stop)
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps(tiny.SPACE.to_json()), encoding="utf-8")


@pytest.mark.parametrize("command", OURS)
def test_the_command_line_takes_every_command(command: str, no_work: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options, their values, methods, spaces, settings; what is done in a moment is done."""
    name, *words = shlex.split(command)[1:]
    if name not in STOPPED:
        COMMANDS[name].make_context(name, words)
        return
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises((WorkBegins, SystemExit)) as end:
        cli.main()
    assert isinstance(end.value, WorkBegins) or not end.value.code


def test_a_plan_is_printed_as_the_page_has_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (shown,) = blocks("docs/plan.md", "console")
    command, printed = shown.split("\n", 1)
    assert run_command(*shlex.split(command)[2:], monkeypatch=monkeypatch) == 0
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == printed.splitlines()


@pytest.mark.parametrize(("page", "command"), [each for each in FENCED if each[1] not in OURS])
def test_what_the_other_commands_start_is_there(page: str, command: str) -> None:
    """Targets of the Makefile, modules, scripts, extras."""
    program, *words = shlex.split(command)
    if program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert re.search(rf"^{words[0]}:", makefile, re.MULTILINE)
    elif program == "python":
        assert words[0] == "-m" and importlib.util.find_spec(words[1])
    elif program == "pip":
        extras = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")[1]
        assert all(re.search(rf"^{each} = ", extras, re.MULTILINE) for each in re.findall(r"\w+(?=[],])", words[1]))
    else:
        assert (ROOT / program).is_file()


def _named_commands() -> Iterator[tuple[str, str]]:
    """What the prose names as `fastdarts compare --seeds N`; and `--seeds N` alone, of whatever command."""
    for page in TEXTS:
        for span in SPAN.findall(prose(page)):
            if span.startswith(("fastdarts ", "--")) and page != "docs/facts.md":
                yield page, span


SPAN = re.compile(r"`([^`]+)`")


@pytest.mark.parametrize(("page", "span"), sorted(set(_named_commands())))
def test_commands_and_options_in_the_text_exist(page: str, span: str) -> None:
    first, *words = span.split()
    known = {name: {flag for each in command.params for flag in each.opts} for name, command in COMMANDS.items()}
    known[""] = {"--help", "--version"}.union(*known.values(), OTHERS)
    if first.startswith("--"):
        command, words = "", [first, *words]
    else:
        command = words[0] if words and not words[0].startswith("-") else ""
        assert command in known
    for option in (word.partition("=")[0] for word in words if word.startswith("-")):
        assert option in known[command] | {"--help", "--json"}


# Options of other programs that the pages speak of: of bench/, tests/ and quark0's scripts.
OTHERS = {"--compile", "--dry", "--tests", "--toy"}
