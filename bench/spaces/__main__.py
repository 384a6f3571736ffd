"""Large spaces, planned at full size, measured and searched at a reduced one; docs/large-spaces.md shows the record.

    python -m bench.spaces plan                      # every space, predicted without allocating it: two minutes
    python -m bench.spaces measure                   # images a second beside eager torch, on an idle machine only
    python -m bench.spaces search kernel-zoo         # a real search on the digits, three epochs, and its genotype

Each adds its part to bench/results/large-spaces.json; `python -m bench.spaces show` writes the page's tables from it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdarts._backend import use_backend
from fastdarts.bench.machine import describe, load_average, processor
from fastdarts.nn import Supernet
from fastdarts.plan import MEMORY
from fastdarts.profile import Predictor, Tracker
from fastdarts.profile.eager import PlainSupernet
from fastdarts.report.words import as_bytes
from fastdarts.search import configure, search
from fastdarts.spaces import space

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "bench/results/large-spaces.json"
PAGE = ROOT / "docs/large-spaces.md"
_BLOCK = re.compile(r"(<!-- large spaces: (\w+) -->\n).*?(<!-- /large spaces -->)", re.DOTALL)
ROUNDS = 5
# Memory of the devices that eager torch's needs are set beside, in 1e9 bytes.
DEVICES = (8, 11, 16, 24, 40, 80)


@dataclass(frozen=True)
class Size:
    """Of a network: channels of its first cells, cells, and images of 3x32x32 a batch."""

    channels: int
    layers: int
    batch: int

    def __str__(self) -> str:
        return f"C {self.channels}, {self.layers} cells, batch {self.batch}"


# The papers' sizes, and some that two cores search in minutes.
FULL = {
    "amended-s2-full": Size(36, 20, 96),
    "darts-own": Size(16, 20, 64),
    "darts-8-nodes": Size(16, 8, 64),
    "kernel-zoo": Size(16, 8, 64),
    "nas-bench-201": Size(16, 17, 64),
}
REDUCED = {
    "amended-s2-full": Size(16, 8, 8),
    "darts-own": Size(8, 8, 8),
    "darts-8-nodes": Size(8, 5, 8),
    "kernel-zoo": Size(8, 5, 8),
    "nas-bench-201": Size(16, 8, 16),
}


def plan(name: str) -> dict[str, Any]:
    """Bytes of a search step at full size, predicted: eager torch's, and those of each memory mode."""
    size = FULL[name]
    predict = Predictor(
        lambda: Supernet(space(name), channels=size.channels, layers=size.layers), (32, 32), dtype=torch.float32
    )
    modes = {mode: predict(size.batch, mode) for mode in MEMORY}
    usage = modes["fast"]
    always = usage.weight_bytes + usage.optimiser_bytes + usage.batch_bytes
    kept, peak = _eager_bytes(name, size)
    found = {"eager": {"kept_bytes": kept, "total_bytes": peak + always}}
    found |= {mode: {"kept_bytes": use.kept_bytes, "total_bytes": use.total_bytes} for mode, use in modes.items()}
    return {"size": str(size), "needs": found}


def _eager_bytes(name: str, size: Size) -> tuple[int, int]:
    """Kept for backward, and the peak of a pass, of the network in eager torch, by a pass without data."""
    with torch.device("meta"), use_backend("reference"):
        model = PlainSupernet(space(name), channels=size.channels, layers=size.layers)
        images, labels = torch.empty(size.batch, 3, 32, 32), torch.empty(size.batch, dtype=torch.int64)
        with Tracker([*model.parameters(), *model.buffers(), images, labels]) as tracker:
            loss = F.cross_entropy(model(images), labels)
            kept = tracker.kept()
            loss.backward()
        return kept, tracker.peak


def measure(name: str) -> dict[str, Any]:
    """Images a second of forward and backward at the reduced size: the medians of paired rounds."""
    size = REDUCED[name]
    torch.manual_seed(0)
    eager = PlainSupernet(space(name), channels=size.channels, layers=size.layers)
    ours = Supernet(space(name), channels=size.channels, layers=size.layers)
    ours.load_state_dict(eager.state_dict())
    images, labels = torch.randn(size.batch, 3, 32, 32), torch.arange(size.batch) % 10
    contenders: dict[str, nn.Module] = {"eager": eager, **dict.fromkeys(MEMORY, ours)}
    seconds: dict[str, list[float]] = {each: [] for each in contenders}
    load = load_average()
    for turn in range(ROUNDS + 1):  # the first does not count
        for each, model in contenders.items():
            taken = _seconds(model, each, images, labels)
            if turn:
                seconds[each].append(taken)
    rates = {each: size.batch / statistics.median(taken) for each, taken in seconds.items()}
    return {"size": str(size), "images_per_second": rates, "seconds": seconds, "load_average": load}


def _seconds(model: nn.Module, contender: str, images: Tensor, labels: Tensor) -> float:
    if isinstance(model, Supernet):
        for cell in model.cells:
            cell.memory = contender  # type: ignore[assignment]
    with use_backend("reference" if contender == "eager" else "auto"):
        start = time.perf_counter()
        # NAS-Bench-201's cell leaves c_{k-2}, whose preprocessing then has no gradient.
        loss = F.cross_entropy(model(images), labels)
        torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return time.perf_counter() - start


def searched(name: str) -> dict[str, Any]:
    """A search on the digits for three epochs: what it found, and how well its supernet classifies."""
    chosen = space(name)
    small = {"epochs": 3, "channels": 4, "layers": 5 if chosen.shared else 8, "batch_size": 64, "seed": 0}
    config = configure("darts-first", space=name, **small)
    with tempfile.TemporaryDirectory() as folder:
        found = search(config, Path(folder) / "run")
    chosen.check(found.genotype, config.layers)
    return {"settings": small, "valid_accuracy": found.valid_accuracy, "genotype": found.genotype.to_json()}


WORK = {"plan": plan, "measure": measure, "search": searched}


def shown(record: dict[str, Any], part: str) -> str:
    """A part of the record in Markdown."""
    rows = record.get(part, {})
    if not rows:
        return f"To be measured on an idle machine: `python -m bench.spaces {part}`.\n"
    if part == "plan":
        lines = ["| space | size | eager torch | out of memory on | fast | balanced | lean |"]
        lines.append("|---|---|---:|---|---:|---:|---:|")
        for name, row in rows.items():
            eager, *ours = (row["needs"][each]["total_bytes"] for each in ("eager", *MEMORY))
            most = max((each for each in DEVICES if each * 1e9 < eager), default=None)
            cells = [as_bytes(eager, 3), f"up to {most} GB" if most else "none of them"]
            cells += [as_bytes(each, 3) for each in ours]
            lines.append(f"| `{name}` | {row['size']} | {' | '.join(cells)} |")
    elif part == "measure":
        lines = ["| space | size | eager torch | fast | balanced | lean | load |", "|---|---|---:|---:|---:|---:|---:|"]
        for name, row in rows.items():
            rates = [f"{row['images_per_second'][each]:.3g}" for each in ("eager", *MEMORY)]
            lines.append(f"| `{name}` | {row['size']} | {' | '.join(rates)} | {row['load_average']} |")
    else:
        lines = ["| space | settings | supernet's validation accuracy |", "|---|---|---:|"]
        for name, row in rows.items():
            settings = ", ".join(f"{key} {value}" for key, value in row["settings"].items())
            lines.append(f"| `{name}` | {settings} | {row['valid_accuracy']:.1%} |")
    return "\n".join(lines) + "\n"


def page(text: str, record: dict[str, Any]) -> str:
    """The page with its tables as the record says."""
    return _BLOCK.sub(lambda found: f"{found[1]}\n{shown(record, found[2])}\n{found[3]}", text)


def main(arguments: list[str]) -> None:
    """Do a part for some spaces, or write the page."""
    parser = argparse.ArgumentParser(prog="python -m bench.spaces", description=__doc__.partition("\n")[0])
    parser.add_argument("part", choices=(*WORK, "show"))
    parser.add_argument("names", nargs="*", metavar="SPACE", help=", ".join(FULL))
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(FULL)
    if unknown:
        parser.error(f"no large space is called {', '.join(sorted(unknown))}; expected one of {', '.join(FULL)}")
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
    for name in (given.names or FULL) if given.part != "show" else ():
        record.setdefault(given.part, {})[name] = WORK[given.part](name)
        record["machine"] = {**processor(), **describe()} | {"command": "python -m bench.spaces"}
        print(json.dumps({name: {k: v for k, v in record[given.part][name].items() if k != "genotype"}}), flush=True)
        RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
