"""When a search is recorded, and the recorder's dealings with torch: by a stand-in for torch.cuda, and on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.runs import RunFolder
from fastdarts.search import METHODS, Interrupted, Progress, configure, resume, search
from fastdarts.search._unattended import UnattendedStep
from fastdarts.search.choices import Choices, Relaxation, Softmax
from fastdarts.search.graph import CudaRecorder, Replayed, new_recorder, new_step, obstacle
from fastdarts.search.methods import compose
from fastdarts.search.step import SearchStep
from fastdarts.spaces import Space, define_space
from tests import tiny
from tests.recorded import NOT_RECORDED

CUDA = torch.device("cuda")
NOISY = define_space("noisy", ("noise", "sep_conv_3x3"), nodes=2, layers=3)


def _step(
    kind: str = "first", space: Space = tiny.SPACE, relaxation: Relaxation | None = None, **settings: Any
) -> SearchStep:
    model = Supernet(space, channels=4, layers=3, classes=3, in_channels=1)
    return SearchStep(model, tiny.config(hypergradient=kind, **settings), relaxation or Softmax())


class _Asking(Softmax):
    asks_host = True


class _Drawing(Softmax):
    draws = True


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "second-exact"}, "hypergradient 'second-exact' differentiates twice"),
        ({"relaxation": _Asking()}, "the relaxation of 'darts-first' decides on the host"),
        ({"kind": "second", "space": NOISY}, "evaluates a loss again with the same random numbers"),
        ({"kind": "amended", "relaxation": _Drawing()}, "evaluates a loss again with the same random numbers"),
    ],
)
def test_what_cannot_be_recorded_is_told_in_one_line(arguments: dict[str, Any], told: str) -> None:
    step, notes = _step(**arguments), list[str]()
    assert new_recorder(CUDA, step, notes.append) is None
    assert len(notes) == 1
    assert notes[0].startswith("no CUDA graph, every step launches its own kernels: ")
    assert told in notes[0]
    # Such a step asks the host, with a recorder or without.
    assert type(new_step(step.config, CUDA, step.model, Choices(step.relaxation))) is SearchStep


@pytest.mark.parametrize("graph", ["auto", "off"])
def test_a_cpu_takes_torchs_own_steps_and_says_nothing(graph: str) -> None:
    step, notes = _step(graph=graph), list[str]()
    assert new_recorder(torch.device("cpu"), step, notes.append) is None
    assert type(new_step(step.config, torch.device("cpu"), step.model, Choices())) is SearchStep
    assert notes == []


@pytest.mark.parametrize("arguments", [{}, {"relaxation": _Drawing()}, {"space": NOISY}, {"kind": "second"}])
def test_without_a_graph_a_gpu_takes_the_same_steps(arguments: dict[str, Any]) -> None:
    step, notes = _step(**arguments, graph="off"), list[str]()
    assert new_recorder(CUDA, step, notes.append) is None
    assert type(new_step(step.config, CUDA, step.model, Choices(step.relaxation))) is UnattendedStep
    assert notes == []


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(UserError, match="graph is 'on'; expected one of auto, off"):
        configure("darts-first", graph="on")


# The recorder and torch.cuda.


class _Cuda:
    """What the recorder uses of torch.cuda, writing down the order."""

    def __init__(self, patch: pytest.MonkeyPatch, breaks: BaseException | None, at_end: bool) -> None:
        self.calls: list[str] = []
        self.stream_now = self._stream("main")
        self.breaks, self.at_end = breaks, at_end
        self.generator = SimpleNamespace(
            clone_state=lambda: "state before", graphsafe_set_state=lambda state: self.calls.append(f"restore {state}")
        )
        own = self

        class CUDAGraph:
            def register_generator_state(self, generator: Any) -> None:
                assert generator is own.generator
                own.calls.append("register")

            def replay(self) -> None:
                own.calls.append("replay")

        names = {
            "CUDAGraph": CUDAGraph,
            "Stream": lambda device: self._stream("side"),
            "current_stream": lambda device: self.stream_now,
            "default_generators": [self.generator],
            "empty_cache": lambda: self.calls.append("empty cache"),
            "graph": self.graph,
            "graph_pool_handle": lambda: "pool",
            "set_stream": self.set_stream,
            "stream": self.stream,
        }
        for name, value in names.items():
            patch.setattr(torch.cuda, name, value)

    def _stream(self, name: str) -> Any:
        def wait(other: Any) -> None:
            self.calls.append(f"{name} waits for {other.name}")

        return SimpleNamespace(name=name, device_index=0, wait_stream=wait)

    def set_stream(self, stream: Any) -> None:
        self.stream_now = stream

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.stream_now = self.stream_now, stream
        yield
        self.stream_now = before

    @contextmanager
    def graph(self, graph: Any, pool: Any, stream: Any) -> Iterator[None]:
        """As torch's: where ending the capture raises, the side stream stays the current one."""
        assert pool == "pool"
        self.calls.append("capture")
        before, self.stream_now = self.stream_now, stream
        yield
        if self.at_end and self.breaks is not None:
            raise self.breaks
        self.stream_now = before

    def work(self) -> None:
        self.calls.append(f"work on {self.stream_now.name}")
        if self.stream_now.name == "side" and "capture" in self.calls and self.breaks is not None and not self.at_end:
            raise self.breaks


def test_the_recorder_warms_up_and_captures_on_one_side_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(monkeypatch, None, False)
    recorder = CudaRecorder(CUDA, pytest.fail)
    recorder.warm_up(cuda.work)
    assert cuda.calls == ["side waits for main", "work on side", "main waits for side"]
    cuda.calls.clear()
    replay = recorder.record(cuda.work)
    assert replay is not None
    replay()
    assert cuda.calls == ["register", "capture", "work on side", "replay"]
    assert cuda.stream_now.name == "main"


@pytest.mark.parametrize("at_end", [False, True])
@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: operation not permitted\nmore"), torch.OutOfMemoryError("too much")]
)
def test_a_capture_that_breaks_leaves_the_stream_and_the_generator_as_they_were(
    error: RuntimeError, at_end: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda, notes = _Cuda(monkeypatch, error, at_end), list[str]()
    recorder = CudaRecorder(CUDA, notes.append)
    replayed = Replayed(cuda.work, recorder)
    replayed._left = 0
    replayed()
    assert cuda.stream_now.name == "main"
    assert cuda.calls == ["register", "capture", "work on side", "restore state before", "empty cache", "work on main"]
    assert len(notes) == 1
    assert "\n" not in notes[0]
    assert str(error).partition("\n")[0] in notes[0]
    # It is not tried again, neither for this work nor for another.
    cuda.calls.clear()
    replayed()
    Replayed(cuda.work, recorder)()
    assert cuda.calls == ["work on main"] * 2


def test_an_interrupt_during_a_capture_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(monkeypatch, KeyboardInterrupt(), False)
    with pytest.raises(KeyboardInterrupt):
        CudaRecorder(CUDA, pytest.fail).record(cuda.work)
    assert cuda.stream_now.name == "main"


# On a GPU.


class _Notes(Progress):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, message: str) -> None:
        self.heard.append(message)


def _on_gpu(path: Path, name: str = "darts-first", progress: Progress | None = None, **settings: Any) -> list[Any]:
    config = tiny.config(name, **({"device": "cuda", "flip": True} | settings))
    search(config, path, train_set=tiny.images(), search_space=tiny.SPACE, progress=progress)
    return _records(path)


def _records(path: Path) -> list[Any]:
    return tiny.untimed(RunFolder.open(path).metrics())


def _assert_same(left: Path, right: Path) -> None:
    ours, theirs = (
        {name: value for name, value in tiny.state_of(path).items() if not name.endswith(("elapsed", "step_seconds"))}
        for path in (left, right)
    )
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert _records(left) == _records(right)


# One of each that runs something else; a GPU is lent by the minute.
ON_GPU = ("darts-first", "darts-one-level", "darts-second", "pc-darts", "p-darts", "gdas", "snas", "sdarts-adv", "sgas")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_GPU)
def test_on_a_gpu_a_graph_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    for graph in ("off", "auto"):
        notes = _Notes()
        _on_gpu(tmp_path / graph, name, notes, graph=graph)
        told = [line for line in notes.heard if line.startswith("no CUDA graph")]
        assert bool(told) == (graph == "auto" and name in NOT_RECORDED)
    _assert_same(tmp_path / "off", tmp_path / "auto")


def test_these_methods_ask_the_host() -> None:
    found = set()
    for name in METHODS:
        config = tiny.config(name)
        model = Supernet(tiny.SPACE, channels=config.channels, layers=3, partial=config.partial, dropout=config.dropout)
        choices = compose(config)
        if obstacle(SearchStep(model, config, choices.relaxation, choices.perturbation)):
            found.add(name)
    assert found == NOT_RECORDED


@pytest.mark.gpu
def test_on_a_gpu_plain_torch_can_be_a_graph_too(tmp_path: Path) -> None:
    """Not to the bit: the backward of torch's own max pool adds in any order."""
    notes = _Notes()
    _on_gpu(tmp_path / "run", progress=notes, backend="reference")
    assert notes.heard == []


@pytest.mark.gpu
def test_on_a_gpu_a_stopped_search_continues_bit_for_bit(tmp_path: Path) -> None:
    _on_gpu(tmp_path / "whole", epochs=3)
    with pytest.raises(Interrupted):
        _on_gpu(tmp_path / "cut", progress=tiny.StopAt(7), epochs=3)
    resume(tmp_path / "cut", train_set=tiny.images())
    _assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.gpu
def test_on_a_gpu_random_numbers_are_those_of_steps_without_a_graph() -> None:
    found = []
    for recorder in (None, CudaRecorder(CUDA, pytest.fail)):
        torch.cuda.manual_seed(3)
        total = torch.zeros(8, device="cuda")
        replayed = Replayed(lambda total=total: total.add_(torch.randn_like(total)), recorder)
        for _ in range(6):
            replayed()
        found.append((total.tolist(), torch.cuda.get_rng_state().tolist()))
    assert found[0] == found[1]


@pytest.mark.gpu
def test_on_a_gpu_a_broken_capture_costs_nothing() -> None:
    """The host asks for a value: torch refuses that under capture. Streams, generators and memory go on working."""
    notes: list[str] = []
    total = torch.zeros((), device="cuda")

    def work() -> None:
        total.add_(1.0 + 0.0 * torch.randn_like(total))
        float(total)

    replayed = Replayed(work, CudaRecorder(CUDA, notes.append))
    for _ in range(6):
        replayed()
    assert total.item() == 6.0
    assert len(notes) == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    torch.cuda.manual_seed(0)
    assert torch.randn(4, device="cuda").isfinite().all()
    assert torch.cuda.get_rng_state().numel()


@pytest.mark.gpu
def test_on_a_gpu_what_cannot_be_recorded_runs_and_is_told(tmp_path: Path) -> None:
    notes = _Notes()
    _on_gpu(tmp_path / "run", progress=notes, hypergradient="second-exact", epochs=1)
    assert [each for each in notes.heard if each.startswith("no CUDA graph")] == notes.heard[:1] == notes.heard
