"""Run folders without a search, and their pages as a reader meets them, for the tests of the report."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from fastdarts.report import write_report
from fastdarts.runs import RunFolder
from fastdarts.spaces import Genotype, Space, define_space, derive

# Two nodes, five edges: every section of the page, in a fraction of the time of the 14 edges of DARTS.
SMALL = define_space("small", ("none", "skip_connect", "sep_conv_3x3"), nodes=2)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Text, elements and addresses of a page; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def softmax(row: list[float]) -> list[float]:
    total = math.fsum(map(math.exp, row))
    return [math.exp(value) / total for value in row]


def epoch_file(searched: Space, layers: int, epoch: int) -> dict[str, Any]:
    """The content of epochs/NNNN.json for alphas that drift apart along straight lines."""
    drift = random.Random(1)
    alphas, weights, betas, edges = {}, {}, {}, {}
    for key in searched.arch_keys(layers):
        cell = searched.cell(key, layers)
        alphas[key] = [[drift.gauss(0, 0.25 * epoch**0.8) for _ in edge.primitives] for edge in cell.edges]
        weights[key] = [softmax(row) for row in alphas[key]]
        betas[key] = [drift.random() for _ in cell.edges]
        edges[key] = [{"source": e.source, "node": e.node, "primitives": list(e.primitives)} for e in cell.edges]
    genotype = derive(searched, weights, layers=layers)
    return {
        "epoch": epoch,
        "genotype": genotype.to_json(),
        "text": genotype.text(),
        "alphas": alphas,
        "weights": weights,
        "edge_weights": betas if searched.shared else None,
        "edges": edges,
    }


def comparison_of(found: float, others: list[float], text: str = "Genotype(...)") -> dict[str, Any]:
    mean = math.fsum(others) / len(others)
    return {
        "found": {"text": text, "accuracies": [found], "mean": found, "parameters": 34567},
        "random": [
            {"text": text, "index": k, "accuracies": [each], "mean": each, "parameters": 30000 + k}
            for k, each in enumerate(others)
        ],
        "random_mean": mean,
        "random_std": 0.0123,
        "interval95": [mean - 0.01, mean + 0.01],
        "beaten_by": sum(each > found for each in others) / len(others),
        "beaten_by95": [0.008, 0.906],
        "seeds": [0],
        "budget": {"epochs": 15, "channels": 8, "layers": 4, "batch_size": 64},
        "dataset": "digits",
        "test_images": 360,
    }


def make_run(
    path: Path,
    *,
    searched: Space = SMALL,
    layers: int = 4,
    epochs: int = 3,
    finished: bool = True,
    more: Callable[[int], dict[str, Any]] = lambda epoch: {},
    command: str = "fastdarts search --seed 7",
    **config: Any,
) -> Path:
    """A run folder as the search leaves it, without a search; ``more`` adds entries to the epochs' records."""
    settings = {"method": "darts-second", "space": searched.name, "data": "digits", "seed": 7, "epochs": max(epochs, 3)}
    settings |= {"channels": 8, "layers": layers, "arch_start_epoch": 1, "weight_decay": 3e-4, "data_root": None}
    record = {"kind": "search", "config": settings | config, "command": command}
    record |= {"environment": {"fastdarts": "0.1.0", "torch": "2.13.0"}, "space": searched.to_json()}
    origin = {"started": "2026-11-30T18:40:24+00:00", "processor": "A processor", "cores": 2, "system": "Linux 6.1"}
    record["origin"] = origin | {"commit": "c23990a6ef19"}
    drift, files = random.Random(3), []
    with RunFolder.create(path, record) as run:
        for epoch in range(epochs):
            files.append(epoch_file(searched, layers, epoch))
            run.write_json(f"epochs/{epoch:04d}.json", files[-1])
            genotype = Genotype.from_json(files[-1]["genotype"])
            run.log(
                {
                    "kind": "epoch",
                    "epoch": epoch,
                    "step": 11 * (epoch + 1),
                    "train_loss": 2.3 * 0.8**epoch + 0.02 * drift.random(),
                    "train_accuracy": 1 - 0.9 * 0.8**epoch,
                    "arch_loss": 2.4 * 0.82**epoch,
                    "arch_accuracy": 1 - 0.91 * 0.82**epoch,
                    "valid_loss": 2.4 * 0.82**epoch + 0.05 * drift.random(),
                    "valid_accuracy": 1 - 0.91 * 0.82**epoch,
                    "lr": 0.025,
                    "skips": {key: genotype.skips(key) for key in genotype.cells},
                    "entropy": dict.fromkeys(genotype.cells, 2.08 - 0.1 * epoch),
                    "parameters": 30123 + 100 * epoch,
                    "step_ms": 123.456,
                    "peak_bytes": 345_000_000,
                    "elapsed_s": 12.5 * (epoch + 1),
                }
                | more(epoch)
            )
        if finished:
            run.write_json("genotype.json", files[-1]["genotype"])
            run.write_json("result.json", {"valid_accuracy": 0.5, "text": files[-1]["text"]})
    return path


def page_of(path: Path, **options: Any) -> Page:
    return Page(write_report(path, **options).read_text(encoding="utf-8"))
