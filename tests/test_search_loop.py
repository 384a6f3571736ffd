"""The loop end to end: records, learning, and resumption bit for bit after any kind of stop."""

from __future__ import annotations

import functools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from fastdarts.data import ImageSet
from fastdarts.errors import UserError
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, Progress, resume
from fastdarts.search import search as search_in
from fastdarts.search.job import SearchJob
from fastdarts.spaces import define_space, parse_genotype
from tests import tiny

search = functools.partial(search_in, search_space=tiny.SPACE)


def test_a_run_folder_holds_what_the_docs_promise(tmp_path: Path) -> None:
    config = tiny.config(hypergradient="second", check_hypergradient=(1,))
    result = search(config, tmp_path / "run", train_set=tiny.images(), command="as typed")
    folder = RunFolder.open(result.path)
    assert folder.config["config"] == config.to_json() | {"space": "tiny"}
    assert folder.config["command"] == "as typed"
    epochs = [each for each in folder.metrics() if each["kind"] == "epoch"]
    assert [each["epoch"] for each in epochs] == [0, 1]
    steps = epochs[0]["step"]
    assert epochs[1]["step"] == 2 * steps == 6
    for record in epochs:
        assert 0.0 <= record["valid_accuracy"] <= 1.0
        assert record["skips"].keys() == record["entropy"].keys() == {"normal", "reduce"}
        assert record["parameters"] > 0
        assert record["peak_bytes"] > 0
    checks = [each for each in folder.metrics() if each["kind"] == "hypergradient"]
    assert [(each["epoch"], each["method_kind"]) for each in checks] == [(1, "second")]
    assert folder.read_json("epochs/0001.json")["text"] == result.genotype.text()
    assert parse_genotype((result.path / "genotype.txt").read_text()) == result.genotype
    edges = folder.read_json("epochs/0000.json")["edges"]["normal"]
    assert len(edges) == 5
    assert edges[0]["primitives"] == list(tiny.SPACE.normal.edges[0].primitives)
    assert list(result.path.glob("events.out.tfevents.*"))
    assert result.to_json()["text"] == result.genotype.text()


def test_levels_have_their_own_images_and_draws_and_one_level_has_all() -> None:
    two, one = (
        SearchJob(tiny.config(name, **settings), tiny.images())
        for name, settings in (("darts-first", {}), ("darts-one-level", {"held_out": 0.0}))
    )
    assert sorted(torch.cat([two.train.indices, two.valid.indices]).tolist()) == list(range(48))
    assert sorted(one.train.indices.tolist()) == list(range(48))
    assert (two.steps, one.steps) == (3, 6)
    # Beyond the images' numbers: how each is cropped.
    assert not torch.equal(two.train.draw()[8:], two.valid.draw()[8:])


def test_it_learns(tmp_path: Path) -> None:
    config = tiny.config(epochs=6, lr=0.1, arch_lr=0.02)
    result = search(config, tmp_path / "run", train_set=tiny.images(96))
    epochs = [each for each in RunFolder.open(result.path).metrics() if each["kind"] == "epoch"]
    assert epochs[-1]["train_loss"] < 0.5 * epochs[0]["train_loss"]
    assert result.valid_accuracy > 0.8
    assert epochs[-1]["entropy"]["normal"] < epochs[0]["entropy"]["normal"]


def test_checking_the_hypergradient_changes_nothing(tmp_path: Path) -> None:
    plain = tiny.config("darts-second")
    search(plain, tmp_path / "plain", train_set=tiny.images())
    search(tiny.config("darts-second", check_hypergradient=(0, 1)), tmp_path / "checked", train_set=tiny.images())
    left, right = tiny.state_of(tmp_path / "plain"), tiny.state_of(tmp_path / "checked")
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_alphas_wait_until_their_epoch(tmp_path: Path) -> None:
    search(tiny.config("pc-darts", epochs=2, arch_start_epoch=1), tmp_path / "run", train_set=tiny.images())
    folder = RunFolder.open(tmp_path / "run")
    first, second = (folder.read_json(f"epochs/000{epoch}.json")["alphas"] for epoch in (0, 1))
    assert first != second
    records = [each for each in folder.metrics() if each["kind"] == "epoch"]
    assert "arch_loss" not in records[0]
    assert "arch_loss" in records[1]


def test_the_same_seed_gives_the_same_search_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 2), ("b", 2), ("c", 3)):
        search(tiny.config(seed=seed, epochs=1), tmp_path / name, train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "a", tmp_path / "b")
    assert tiny.metrics(tmp_path / "a") != tiny.metrics(tmp_path / "c")


def test_the_backends_search_alike(tmp_path: Path) -> None:
    """As near as rounding allows: tests/test_nn_fused_wrappers.py holds the numbers of a search."""
    found = []
    for name in ("auto", "reference"):
        result = search(tiny.config(backend=name, epochs=1), tmp_path / name, train_set=tiny.images())
        record = tiny.metrics(tmp_path / name)[-1]
        found.append((result.genotype, record["skips"], record["valid_accuracy"], record["train_accuracy"]))
    assert found[0] == found[1]


def test_memory_modes_search_the_same_to_the_bit(tmp_path: Path) -> None:
    for memory in ("fast", "balanced", "lean"):
        config = tiny.config(memory=memory, epochs=1)
        search(config, tmp_path / memory, train_set=tiny.images(), search_space=tiny.SPACE)
        assert RunFolder.open(tmp_path / memory).config["config"]["memory"] == memory
    assert tiny.metrics(tmp_path / "fast") == tiny.metrics(tmp_path / "balanced") == tiny.metrics(tmp_path / "lean")


def test_a_space_of_ones_own_survives_resumption(tmp_path: Path) -> None:
    edges = {(0, 2): ("skip_connect", "sep_conv_3x3"), (1, 2): ("max_pool_3x3",), (2, 3): ("none", "dil_conv_3x3")}
    own = define_space("own", edges, layers=3, keep=1)
    config = tiny.config(space="own", layers=3)
    search(config, tmp_path / "whole", train_set=tiny.images(), search_space=own)
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), search_space=own, progress=tiny.StopAt(2))
    resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_termination_is_as_gentle_as_an_interrupt(tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted):
        search(tiny.config(), tmp_path / "run", train_set=tiny.images(), progress=tiny.StopAt(3, signal.SIGTERM))
    assert signal.getsignal(signal.SIGTERM) is handler
    assert resume(tmp_path / "run", train_set=tiny.images()).epochs == 2


def test_checkpoints_are_saved_every_so_many_epochs_at_the_end_and_when_asked_to_stop(tmp_path: Path) -> None:
    config = tiny.config(epochs=3, save_every=2)
    search(config, tmp_path / "whole", train_set=tiny.images())
    assert RunFolder.open(tmp_path / "whole").steps() == [6, 9]
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), progress=tiny.StopAt(2))
    assert RunFolder.open(tmp_path / "cut").steps() == [2]


def test_a_finished_run_resumes_to_the_same_result(tmp_path: Path) -> None:
    done = search(tiny.config(epochs=1), tmp_path / "run", train_set=tiny.images())
    assert resume(tmp_path / "run", train_set=tiny.images()) == done


def test_the_checkpoint_before_gives_the_same_end(tmp_path: Path) -> None:
    search(tiny.config(), tmp_path / "whole", train_set=tiny.images())
    search(tiny.config(), tmp_path / "back", train_set=tiny.images())
    newest = sorted((tmp_path / "back" / "checkpoints").iterdir())[-1]
    tensors = newest / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    with pytest.raises(UserError, match="--previous"):
        resume(tmp_path / "back", train_set=tiny.images())
    resume(tmp_path / "back", train_set=tiny.images(), previous=True)
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "back")


def test_an_interrupt_in_the_last_step_is_heard_and_the_run_finishes(tmp_path: Path) -> None:
    config = tiny.config(epochs=1)
    search(config, tmp_path / "whole", train_set=tiny.images())
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), progress=tiny.StopAt(3))
    assert not (tmp_path / "cut" / "result.json").exists()
    resume(tmp_path / "cut", train_set=tiny.images())
    tiny.assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("other", [tiny.images(seed=5), tiny.images(classes=2), tiny.images(32)])
def test_other_data_are_refused_and_cost_nothing(other: ImageSet, tmp_path: Path) -> None:
    search(tiny.config(), tmp_path / "run", train_set=tiny.images())

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}

    before = files()
    with pytest.raises(UserError, match="the batches' state was saved with"):
        resume(tmp_path / "run", train_set=other, previous=True)
    assert files() == before


FORKING = """
import os, sys, traceback
import torch
from fastdarts.search import search, resume
from tests import tiny

torch.set_num_threads(1)
for line in sys.stdin:
    what, folder = line.strip().split(" ", 1)
    if (child := os.fork()) == 0:
        try:
            if what == "search":
                search(tiny.config(epochs=3), folder, train_set=tiny.images(), search_space=tiny.SPACE)
            else:
                resume(folder, train_set=tiny.images())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_kill_9_at_any_moment_then_resume_is_bit_for_bit(tmp_path: Path) -> None:
    """Each search and resumption is a process, forked from one that has imported torch and done nothing else."""
    root = Path(__file__).parents[1]
    cut, kills = tmp_path / "cut", 0
    with subprocess.Popen(
        [sys.executable, "-c", FORKING],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as forking:
        assert forking.stdin is not None and forking.stdout is not None

        def start(what: str, folder: Path) -> int:
            forking.stdin.write(f"{what} {folder}\n".encode())
            return int(forking.stdout.readline())

        def runs() -> bool:
            return not select.select([forking.stdout], [], [], 0)[0]

        # Without time limits: beside busy processes the imports alone have taken more than a minute.
        start("search", tmp_path / "whole")
        assert int(forking.stdout.readline()) == 0
        process = start("search", cut)
        for moment in ("metrics.jsonl", "checkpoints", "epochs/0001.json"):
            while not (cut / moment).exists() and runs():
                time.sleep(0.005)
            time.sleep(0.05)
            if runs():
                os.kill(process, signal.SIGKILL)
                kills += 1
            assert int(forking.stdout.readline()) in (0, -signal.SIGKILL)
            process = start("resume", cut)
        assert int(forking.stdout.readline()) == 0
    assert kills
    tiny.assert_same_run(tmp_path / "whole", cut)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda path: search(tiny.config(), path), "data 'custom' without a train_set"),
        (lambda path: search(tiny.config(batch_size=40), path, train_set=tiny.images()), "batch"),
        (lambda path: search_in(tiny.config(space="nowhere"), path, train_set=tiny.images()), "nowhere"),
        (
            lambda path: search(tiny.config(batch_size=1), path, train_set=tiny.images(size=2, classes=1 + 1)),
            "leaves batch norm one value",
        ),
        (lambda path: search(tiny.config(device="tpu"), path, train_set=tiny.images()), "unknown device 'tpu'"),
        (lambda path: search(tiny.config(device="cuda:99"), path, train_set=tiny.images()), "torch sees"),
    ],
)
def test_bad_input_writes_nothing(call: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        call(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_retraining_is_not_resumed_as_a_search(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "other", {"kind": "retrain", "config": {"genotype": "DARTS_V2"}})
    with pytest.raises(UserError, match="holds a retrain run"):
        resume(tmp_path / "other")


def test_a_foreign_configuration_is_told(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "other", {"kind": "search", "config": {}})
    with pytest.raises(UserError, match="unknown or missing fields"):
        resume(tmp_path / "other")


def test_the_configured_threads_are_used_and_given_back(tmp_path: Path) -> None:
    seen: list[int] = []

    class Listener(Progress):
        def epoch(self, record: Mapping[str, Any]) -> None:
            seen.append(torch.get_num_threads())

    threads = torch.get_num_threads()
    search(tiny.config(epochs=1, threads=threads + 1), tmp_path / "r", train_set=tiny.images(), progress=Listener())
    assert seen == [threads + 1]
    assert torch.get_num_threads() == threads
    assert RunFolder.open(tmp_path / "r").config["environment"]["threads"] == threads + 1
