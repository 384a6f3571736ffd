"""The command line as a user meets it: results, help, bad input in one line with exit code 2, and resumption."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main
from command import run_command
from tiny import SPACE

import fastdarts
from fastdarts import cli

TINY = ["--epochs", "1", "--channels", "4", "--layers", "3", "--device", "cpu", "--set", "batch_size=256"]
TINY += ["--space", "s2"]
BRIEF = ["--retrain-batch-size", "256", "--retrain-channels", "4"]


@pytest.fixture(scope="module")
def least(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A search of the least space: five edges to search, train and draw instead of fourteen."""
    path = tmp_path_factory.mktemp("space") / "tiny.json"
    path.write_text(json.dumps(SPACE.to_json()))
    return [*TINY[:-2], "--space", str(path)]


@pytest.fixture
def small(least: list[str]) -> list[str]:
    """The same, for a training in as few steps."""
    return [*least, *BRIEF]


@pytest.fixture(scope="module")
def run(least: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search with its retraining and comparison."""
    path = tmp_path_factory.mktemp("cli") / "run"
    with pytest.MonkeyPatch.context() as patch:
        after = ["--retrain-epochs", "1", "--random-cells", "2"]
        assert run_command("search", "--run", path, *least, *after, monkeypatch=patch) == 0
    return path


@pytest.fixture
def own(run: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_search_ends_with_genotype_accuracy_comparison_and_report(run: Path) -> None:
    for name in ("genotype.json", "genotype.svg", "genotype.png", "result.json", "retrain.json", "comparison.json"):
        assert (run / name).stat().st_size > 0, name
    html = (run / "report.html").read_text()
    accuracy = json.loads((run / "retrain.json").read_text())["test_accuracy"]
    assert f"{accuracy:.1%}"[:-1] in html
    assert json.loads((run / "comparison.json").read_text())["seeds"] == [0]


def test_a_finished_search_prints_the_same_again(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("search", "--resume", run, "--json", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    summary = json.loads(out.out)
    assert summary["report"] == str(run / "report.html")
    assert summary["test_accuracy"] == json.loads((run / "retrain.json").read_text())["test_accuracy"]
    assert "network" not in out.err, "nothing is left to train"
    assert summary["verdict"] and summary["undecided"] is True
    assert run_command("search", "--resume", run, monkeypatch=monkeypatch) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert summary["verdict"] in told and "2 random cells can show that a search did poorly, never that" in told
    accuracy = json.loads((run / "comparison.json").read_text())["found"]["mean"]
    assert f"test accuracy {accuracy:.2%} after 1 epoch, 3 cells, 8 channels, 64 images a batch" in told
    assert "one image is 0.28 points" in told and "parameters, the random ones" in told


def test_a_finished_search_is_extended_knowingly(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_command("search", "--resume", own, "--epochs", "2", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads((own / "result.json").read_text())["epochs"] == 2


def test_results_go_to_stdout_and_progress_to_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("search", "--run", tmp_path / "r", *TINY, "--retrain-epochs", "0", monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    assert "Genotype(normal=" in out.out
    assert "report" in out.out
    # Drawn, in words, and no bare numbers.
    assert "normal cell" in out.out and "node 0  =" in out.out and "concat(0, 1, 2, 3)" in out.out
    assert "Undecided: the search hardly preferred anything" in out.out and "beaten_by" not in out.out
    assert "ms/step" in out.err
    assert "MiB" in out.err
    assert "ms/step" not in out.out


def test_an_interrupted_search_says_how_to_continue(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastdarts.cli.console import LineProgress

    monkeypatch.setattr(LineProgress, "wants_step", lambda self: os.kill(os.getpid(), signal.SIGINT) or False)
    options = [*small, "--retrain-epochs", "1"]
    assert run_command("search", "--run", tmp_path / "r", *options, monkeypatch=monkeypatch) == 130
    assert f"continue with: fastdarts search --resume {tmp_path / 'r'}" in capsys.readouterr().err
    monkeypatch.undo()
    assert run_command("search", "--resume", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
    assert "test_accuracy" in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("after", [["--retrain-epochs", "2"], ["--retrain-epochs", "2", "--random-cells", "2"]])
def test_an_interrupt_after_the_search_names_the_search(
    after: list[str],
    small: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from fastdarts.cli.console import LineProgress

    def stop_in_retraining(self: LineProgress) -> bool:
        if self.title.startswith("retrain"):
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(LineProgress, "wants_step", stop_in_retraining)
    options = [*small, "--set", "train_portion=0.7", *after]
    assert run_command("search", "--run", tmp_path / "r", *options, monkeypatch=monkeypatch) == 130
    assert f"continue with: fastdarts search --resume {tmp_path / 'r'}\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert run_command("search", "--resume", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
    assert "test_accuracy" in json.loads(capsys.readouterr().out)


def test_compare_continues_inside_the_run(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--channels", "4", "--layers", "3", "--random-cells", "2", "--seeds", "0,1", "--json"]
    options += ["--batch-size", "256"]
    out = own.parent / "again"
    assert run_command("compare", own, "--run", out, *options, monkeypatch=monkeypatch) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["seeds"] == [0, 1]
    assert summary["path"] == str(out)
    # It has fewer channels than the search's own, which stays the headline.
    assert json.loads((own / "comparison.json").read_text())["seeds"] == [0]
    kept = json.loads((own / "comparisons.json").read_text())["comparisons"]
    assert [each["seeds"] for each in kept] == [[0], [0, 1]]
    assert run_command("compare", own, "--run", out, *options, monkeypatch=monkeypatch) == 0


def test_retrain_takes_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--epochs", "1", "--channels", "4", "--layers", "3", "--batch-size", "256"]
    options += ["--run", tmp_path / "r", "--json"]
    assert run_command("retrain", "PC_DARTS_cifar", *options, monkeypatch=monkeypatch) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["data"] == "digits"
    assert run_command("retrain", "--resume", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == result["test_accuracy"]


@pytest.mark.parametrize("source", ["run", "name", "text", "text file", "json file"])
def test_show_draws_whatever_names_a_genotype(
    source: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastdarts.spaces import published

    genotype = published("DARTS_V1")
    (tmp_path / "g.txt").write_text(genotype.text())
    (tmp_path / "g.json").write_text(json.dumps(genotype.to_json()))
    targets = {"run": str(run), "name": "darts_v1", "text": genotype.text()}
    targets |= {"text file": str(tmp_path / "g.txt"), "json file": str(tmp_path / "g.json")}
    options = ["--svg", tmp_path / "a.svg", "--png", tmp_path / "a.png"]
    assert run_command("show", targets[source], *options, monkeypatch=monkeypatch) == 0
    out = capsys.readouterr()
    assert "Genotype(" in out.out
    assert "c_{k-2}" in out.err or "c_k-2" in out.err
    assert (tmp_path / "a.svg").read_text().lstrip().startswith("<")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_comparison_with_other_settings_goes_beside(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The search has made one in RUN/compare; the README's next command asks for more."""
    options = ["--epochs", "1", "--channels", "4", "--random-cells", "3", "--batch-size", "256", "--json"]
    for _ in range(2):
        assert run_command("compare", own, *options, monkeypatch=monkeypatch) == 0
        assert json.loads(capsys.readouterr().out)["path"] == str(own / "compare-2")
    assert run_command("show", own / "compare-2", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["text"] == (own / "genotype.txt").read_text().strip()


def test_a_space_in_a_file_is_searched_at_its_own_depth_and_unshared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastdarts.spaces import define_space, parse_genotype

    own = define_space("own", ("skip_connect", "sep_conv_3x3"), nodes=1, shared=False, layers=4)
    (tmp_path / "own.json").write_text(json.dumps(own.to_json()))
    options = ["--space", tmp_path / "own.json", "--epochs", "1", "--channels", "4", "--layers", "4"]
    options += ["--batch-size", "256", "--retrain-epochs", "1", "--random-cells", "2", *BRIEF[:2]]
    options += ["--run", tmp_path / "r (1) [x]"]
    assert run_command("search", *options, "--json", monkeypatch=monkeypatch) == 0
    found = parse_genotype(json.loads(capsys.readouterr().out)["genotype"])
    assert found.layers == 4
    comparison = json.loads((tmp_path / "r (1) [x]" / "comparison.json").read_text())
    assert comparison["budget"]["layers"] == 4
    options = ["--epochs", "1", "--channels", "4", "--batch-size", "256", "--run", tmp_path / "t", "--json"]
    assert run_command("retrain", tmp_path / "r (1) [x]", *options, monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 4


def test_an_unfinished_search_is_named_as_such(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fastdarts.cli.console import LineProgress

    def stop_in_the_second_epoch(self: LineProgress) -> bool:
        self.steps_seen = getattr(self, "steps_seen", 0) + 1
        if self.steps_seen == self.steps + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return False

    monkeypatch.setattr(LineProgress, "wants_step", stop_in_the_second_epoch)
    options = [*small[2:], "--epochs", "3"]
    run = tmp_path / "a run"
    assert run_command("search", "--run", run, *options, monkeypatch=monkeypatch) == 130
    assert f"continue with: fastdarts search --resume '{run}'" in capsys.readouterr().err
    assert run_command("show", run, monkeypatch=monkeypatch) == 0
    assert "is not finished; its newest genotype is that of epoch 1" in capsys.readouterr().err
    assert run_command("compare", run, monkeypatch=monkeypatch) == 2
    assert "expected a finished search" in capsys.readouterr().err
    assert not (run / "compare").exists()


def test_a_retraining_killed_while_its_folder_was_made_is_begun_again(
    small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("search", "--run", tmp_path / "r", *small, "--retrain-epochs", "1", monkeypatch=monkeypatch) == 0
    for path in (tmp_path / "r" / "retrain").iterdir():
        if path.name.startswith(("events", "config", "retrain")):
            path.unlink()
    (tmp_path / "r" / "retrain" / "metrics.jsonl").write_text("")
    (tmp_path / "r" / "retrain" / "checkpoints").rename(tmp_path / "aside")
    before = json.loads((tmp_path / "r" / "retrain.json").read_text())["test_accuracy"]
    capsys.readouterr()
    assert run_command("search", "--resume", tmp_path / "r", "--json", monkeypatch=monkeypatch) == 0
    assert json.loads(capsys.readouterr().out)["test_accuracy"] == before


def test_a_log_hears_of_a_long_epoch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdarts.search import console

    now = [5.0]
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: now[0]))
    out = console.LineProgress(console.console())
    out.begin("retrain [x]", 600, 100, done=50)
    assert not out.wants_step()
    now[0] += 1000.0
    assert out.wants_step()
    record = {"train_loss": 1.0, "train_accuracy": 0.5, "step_ms": 7.0, "peak_bytes": 2**20}
    out.step(1, 50, record)
    err = capsys.readouterr().err
    assert "retrain [x] 2/600 | step 50/100 | train 1.000" in err
    # A hundred steps in 1000 seconds, and 59,850 to go.
    assert "6 days, 22:15:00" in err
    out.begin("retrain " + "x" * 80, 600, 100)
    assert len(capsys.readouterr().err.splitlines()) == 1, "a log is not wrapped"


def test_a_terminal_of_80_columns_shows_step_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from fastdarts.cli.console import TerminalProgress

    out = Console(stderr=True, force_terminal=True, width=80, markup=False, color_system=None)
    bar = TerminalProgress(out)
    bar.begin("retrain random-001-seed0", 15, 22, done=3)
    bar.step(0, 4, {"train_loss": 1.5, "train_accuracy": 0.5, "step_ms": 7.0, "peak_bytes": 2**20})
    bar.bar.refresh()
    bar.end()
    err = capsys.readouterr().err
    for shown in ("epoch 1/15", "4/330", "-:--:--", "train 1.500", "7 ms/step", "peak 1 MiB"):
        assert shown in err, shown


@pytest.mark.parametrize(
    ("typed", "code", "said"),
    [
        ("--help", 0, "Differentiable architecture search"),
        ("-h", 0, "Differentiable architecture search"),
        ("--version", 0, f"fastdarts {fastdarts.__version__}"),
        ("search -h", 0, "--hypergradient"),
        ("serch", 2, "Did you mean 'search'"),
        ("search --metod gdas", 2, "No such option: --metod"),
        ("search --epochs many", 2, "Invalid value for '--epochs'"),
    ],
)
def test_help_and_mistyped_commands_come_before_torch(typed: str, code: int, said: str) -> None:
    end = "assert 'torch' not in sys.modules"
    script = f"import sys\ntry:\n    from fastdarts.cli import main\n    main()\nfinally:\n    {end}"
    done = subprocess.run([sys.executable, "-c", script, *typed.split()], capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert said in (done.stderr if code else done.stdout)


def test_without_a_command_there_is_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_command(monkeypatch=monkeypatch)
    out = capsys.readouterr()
    assert "compare" in out.out + out.err
    assert "fastdarts: " not in out.out + out.err


def test_doctor_in_both_forms(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("doctor", monkeypatch=monkeypatch) == 0
    assert "reference" in capsys.readouterr().out
    assert run_command("doctor", "--json", monkeypatch=monkeypatch) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search", "--method", "dart-first"], "did you mean darts-first"),
        (["methods", "dart-first"], "did you mean darts-first"),
        (["search", "--method", "sdarts-rs", "--set", "tau_max=1"], "--set tau_max=1"),
        (["search", "--method", "sdarts-rs", "--set", "perturbation=big"], "expected a value of type float"),
        (["search", "--epochs", "0"], "epochs is 0; expected at least 1"),
        (["search", "--epochs", "many"], "--epochs"),
        (["search", "--set", "lr"], "--set lr; expected NAME=VALUE"),
        (["search", "--set", "lr=fast"], "--set lr=fast; expected a value of type float"),
        (["search", "--set", "flip=1"], "expected a value of type bool"),
        (["search", "--check-hypergradient", "0;1"], "no list of numbers"),
        (["search", "--resume", "nowhere"], "nowhere"),
        (["search", "--resume", "nowhere", "--layers", "3"], "--layers was given beside --resume"),
        (["search", "--data", "imagenet"], "imagenet"),
        (["search", "--data", "cifar10", "--root", "/nonexistent"], "/nonexistent"),
        (["search", "--backend", "warp"], "warp"),
        (["search", "--backend", "cuda"], "cuda"),
        (["retrain"], "no genotype was named"),
        (["retrain", "DARTS_V9"], "'DARTS_V9' is no run folder, no file and no published genotype"),
        (["retrain", "Genotype(normal=[('sep_conv_9x9', 0)])"], "sep_conv_9x9"),
        (["compare", "DARTS_V2", "--random-cells", "1"], "random_cells is 1"),
        (["show", "DARTS_V2", "--report"], "is no search"),
        (["search", "--previous"], "--previous was given without --resume"),
        (["retrain", "DARTS_V2", "--previous"], "--previous was given without --resume"),
        (["retrain", "DARTS_V2", "--resume", "nowhere"], "a genotype was given beside --resume"),
        (["search", "--retrain-epochs", "-1"], "retrain_epochs is -1"),
        (["search", "--retrain-epochs", "0", "--random-cells", "2"], "--retrain-epochs 0 with --random-cells 2"),
        (["search", "--set", "space=s2"], "use --space"),
        (["search", "--set", "method=pc-darts"], "use --method"),
        (["search", "--epochs", "1", "--set", "epochs=2"], "--set epochs=2: epochs is given twice"),
        (["search", "--set", "lr=1", "--set", "lr=2"], "--set lr=2: lr is given twice"),
        (["search", "--method", "pc-darts", "--set", "arch_start_epoch=15"], "the alphas would never learn"),
        (["search", "--data", "custom"], "from Python"),
        (["search", "--space", "mine.json"], "mine.json"),
        (["search", "--batch-size", "1000"], "batch size 1000"),
        (["retrain", "DARTS_V2", "--epochs", "1", "--set", "epochs=2"], "epochs is given twice"),
        (["retrain", "DARTS_V2", "--set", "genotype=x"], "use the argument TARGET"),
        (["retrain", "|skip_connect~0|+|skip_connect~0|none~1|"], "stacks convolutional cells"),
        (["retrain", "DARTS_V2", "--batch-size", "1", "--set", "auxiliary=0.4"], "a batch of 1"),
        (["compare", "DARTS_V2", "--set", "seed=3"], "use --seeds"),
        (["compare", "DARTS_V2", "--batch-size", "5000"], "batch size 5000"),
        (["compare", "AmoebaNet"], "the genotype is not of space darts"),
        (["compare", "DARTS_V2", "--space", "s2"], "the genotype is not of space s2"),
        (["sing"], "sing"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(*arguments, monkeypatch=monkeypatch) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.startswith("fastdarts: ")
    assert told in out.err
    assert "Traceback" not in out.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", typer.main.get_command(cli.app).commands)
def test_help_names_every_option_with_a_sentence(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(command, "--help", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out
    for parameter in typer.main.get_command(cli.app).commands[command].params:
        assert parameter.help or parameter.name == "help", parameter.name
