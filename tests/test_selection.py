"""The selection by shared weights: against one written out, what it reads and leaves alone, and in a search."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.runs import RunFolder
from fastdarts.search import Interrupted, Progress, configure, resume, search
from fastdarts.search.choices import Finished
from fastdarts.search.methods import compose
from fastdarts.search.sampling import UniformPath
from fastdarts.search.selection import SharedWeights
from fastdarts.spaces import Genotype, define_space, random_genotype
from tests import tiny

SPACE = define_space("nine", ("skip_connect", "sep_conv_3x3", "none", "max_pool_3x3"), nodes=1, layers=3, keep=2)


def _model() -> Supernet:
    torch.manual_seed(0)
    model = Supernet(SPACE, channels=4, layers=3, classes=3, in_channels=1)
    for images, _ in _batches():
        model(images)
    return model


def _batches() -> list[tuple[Tensor, Tensor]]:
    """Four batches of eight, then one of four."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(36, 1, 6, 6, generator=generator)
    labels = torch.randint(0, 3, (36,), generator=generator)
    return list(zip(images.split(8), labels.split(8), strict=True))


class _Valid:
    """The validation set; counts what is read."""

    def __init__(self) -> None:
        self.passes, self.read = 0, 0

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        for batch in _batches():
            self.read += 1
            yield batch


def _finished(model: Supernet, seed: int = 3) -> tuple[Finished, _Valid, list[str]]:
    valid, notes = _Valid(), list[str]()
    return Finished(model, UniformPath(), valid, seed, notes.append), valid, notes


def _exact(model: Supernet) -> Supernet:
    exact = Supernet(SPACE, channels=4, layers=3, classes=3, in_channels=1).double().eval()
    exact.load_state_dict(model.state_dict())
    return exact


@torch.no_grad()
def _figures(exact: Supernet, genotype: Genotype, count: int) -> tuple[float, float]:
    """Wrong answers and loss in float64, by weights of 0 and 1 instead of leaving operators out."""
    weights = {key: torch.zeros_like(alphas) for key, alphas in exact.arch.alphas.items()}
    for key in weights:
        edges = SPACE.cell(key, 3).edges
        for op, source, node in genotype.edges(key):
            row = next(e for e, edge in enumerate(edges) if (edge.source, edge.node) == (source, node))
            weights[key][row, edges[row].primitives.index(op)] = 1.0
    wrong, loss = 0, 0.0
    for images, labels in _batches()[:count]:
        logits = exact(images.double(), weights)
        wrong += int((logits.argmax(1) != labels).sum())
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
    return wrong, loss


def test_it_selects_what_a_selection_written_out_does() -> None:
    model = _model()
    exact = _exact(model)
    for seed, samples, finalists, count in ((3, 6, 2, 2), (4, 20, 4, 1), (5, 3, 9, 9)):
        generator = torch.Generator().manual_seed(seed)
        seeds = [int(torch.randint(2**62, (1,), generator=generator)) for _ in range(samples)]
        drawn = {random_genotype(SPACE, each, layers=3) for each in seeds}
        best = sorted(drawn, key=lambda each: _figures(exact, each, count))[:finalists]
        expected = min(best, key=lambda each: _figures(exact, each, 5))
        assert SharedWeights(samples, finalists, count).final(_finished(model, seed)[0]) == expected


def test_it_reads_what_it_says_and_validates_no_architecture_twice() -> None:
    model = _model()
    finished, valid, notes = _finished(model)
    passes = []
    model.register_forward_pre_hook(lambda module, inputs: passes.append(len(inputs[0])))
    SharedWeights(300, 4, 2).final(finished)
    # 9 of a cell's wirings (3 x 3 operators on its two edges), for each of the two cells.
    assert SPACE.size() == 81
    distinct = int(notes[0].split()[1])
    assert 60 < distinct <= 81
    assert len(passes) == 2 * distinct + 4 * 5
    assert sum(passes[2 * distinct :]) == 4 * 36
    assert valid.passes == 1 + 4
    assert notes[0] == f"validating {distinct} random architectures on 2 batches each"
    assert notes[1].startswith("the best of 4 finalists: validation accuracy 0.")


def test_it_leaves_everything_as_it_was_and_depends_on_nothing_else() -> None:
    model = _model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        states = torch.get_rng_state(), random.getstate()
        found.append(SharedWeights(10, 3, 1).final(_finished(model)[0]))
        assert torch.equal(torch.get_rng_state(), states[0])
        assert random.getstate() == states[1]
    assert found[0] == found[1]
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_published_numbers_and_small_ones() -> None:
    published = compose(configure("random-ws", data="cifar10")).derivation
    small = compose(configure("random-ws")).derivation
    assert isinstance(published, SharedWeights)
    assert isinstance(small, SharedWeights)
    same = {"batches": 10, "per_round": 1000, "with_none": False, "rule": "darts"}
    assert vars(published) == {"samples": 1000, "finalists": 10, **same}
    assert vars(small) == {"samples": 100, "finalists": 5, **same}


class _Notes(Progress):
    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, message: str) -> None:
        self.told.append(message)


def test_a_search_ends_with_the_selected_one_after_a_kill_too(tmp_path: Path) -> None:
    config = tiny.config("random-ws", samples=12, finalists=3, batches=2)
    notes = _Notes()
    whole = search(config, tmp_path / "whole", train_set=tiny.images(), search_space=tiny.SPACE, progress=notes)
    assert sum("random architectures" in each for each in notes.told) == 1
    folder = RunFolder.open(tmp_path / "whole")
    assert folder.read_json("result.json")["text"] == whole.genotype.text()
    # The epochs' genotype is that of the untrained alphas.
    assert {folder.read_json(f"epochs/000{epoch}.json")["text"] for epoch in range(2)} != {whole.genotype.text()}
    with pytest.raises(Interrupted):
        search(config, tmp_path / "cut", train_set=tiny.images(), search_space=tiny.SPACE, progress=tiny.StopAt(6))
    assert not (tmp_path / "cut" / "result.json").exists()
    assert resume(tmp_path / "cut", train_set=tiny.images()).genotype == whole.genotype
    assert resume(tmp_path / "cut", train_set=tiny.images()).genotype == whole.genotype
