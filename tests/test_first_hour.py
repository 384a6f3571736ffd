"""docs/first-hour.md: every command and the program on it run, in their order, at sizes of seconds."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from command import run_command
from PIL import Image

from tests import tiny

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGE = BLOCK.findall((ROOT / "docs" / "first-hour.md").read_text(encoding="utf-8"))
COMMANDS = [line for kind, text in PAGE if kind == "sh" for line in text.splitlines()]
# What makes a command one of seconds; of an option that is given twice the last counts.
SMALL = "--epochs 1 --channels 4 --layers 3 --batch-size 256"
SMALLER = {
    "search --run": f"{SMALL} --space s2 --retrain-epochs 1 --retrain-batch-size 256 --random-cells 2",
    "compare runs/first --random": f"{SMALL} --random-cells 2 --seeds 1",
    "compare --methods": f"{SMALL} --methods random-ws --space s2 --seeds 2 --search-set epochs=1 "
    "--search-set channels=4 --search-set batch_size=256 "
    "--search-set random-ws:samples=2 --search-set random-ws:finalists=1",
    "retrain": SMALL,
}


def _run(command: str, monkeypatch: pytest.MonkeyPatch) -> int:
    options = next((more for start, more in SMALLER.items() if command.startswith(f"fastdarts {start}")), "")
    return run_command(*shlex.split(command)[1:], *options.split(), monkeypatch=monkeypatch)


def _search_stopped(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a person stops it, in a training of the comparison."""
    from fastdarts.cli.console import LineProgress

    def stop(self: Any) -> bool:
        if self.title.startswith("retrain random"):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    with monkeypatch.context() as patch:
        patch.setattr(LineProgress, "wants_step", stop)
        assert _run(command, patch) == 130


def _folders() -> None:
    """A folder a class, as the page has them."""
    for part, count in (("train", 12), ("test", 6)):
        images = tiny.images(count, seed=count)
        for at, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            folder = Path("images", part, f"class{label}")
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(folder / f"{at}.png")


def _program() -> str:
    (text,) = (text for kind, text in PAGE if kind == "python")
    for name, value in (("epochs", 1), ("channels", 4), ("batch_size", 2)):
        text, count = re.subn(rf"\b{name}=\d+", f"{name}={value}", text)
        assert count == 2
    return text.replace("settings=settings, sets", "settings=settings, random_cells=2, sets")


def test_every_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    done = set()
    for command in COMMANDS:
        if command == "pip install '.[lab]'":
            # Into a fresh environment, by tests/test_packaging.py.
            continue
        if command.startswith("fastdarts search --run"):
            _search_stopped(command, monkeypatch)
            assert "continue with: fastdarts search --resume runs/first" in capsys.readouterr().err
        elif command == "python own.py":
            _folders()
            Path("own.py").write_text(_program(), encoding="utf-8")
            runpy.run_path("own.py")
            assert "runs/own/report.html" in capsys.readouterr().out
        elif command.startswith("fastdarts "):
            # The tests' search has one epoch.
            command = command.replace("/0007.json", "/0000.json")
            assert _run(command, monkeypatch) == 0, (command, capsys.readouterr().err)
        else:
            subprocess.run(shlex.split(command), check=True)
        done.add(command.split()[0])
    assert done == {"fastdarts", "python", "tar"}
    for made in (
        "cell.svg",
        "first.tar.gz",
        "runs/first/report.html",
        "runs/first/comparison.json",
        "runs/own/result.json",
    ):
        assert Path(made).stat().st_size > 0, made
