"""Predicted bytes against measured ones, over random configurations: spaces, shapes, memory modes, dtypes, plain torch.

    python -m bench.predictions --count 210 --seed 0 --json bench/results/predictions.json

Every configuration is predicted on the meta device and run for real on the CPU; what is compared is every figure of a
pass and every share of its breakdown by part and operation. The exit code is 1 where one byte differs.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from bench.machine import describe
from fastdarts import use_backend
from fastdarts.nn import Supernet
from fastdarts.plan import MEMORY
from fastdarts.profile import Predictor, measure
from fastdarts.profile.ledger import Ledger
from fastdarts.spaces import Space, define_space, space, space_names

__all__ = ["Drawn", "compared", "draw"]

_FIGURES = ("kept_bytes", "peak_bytes", "weight_bytes", "gradient_bytes", "optimiser_bytes", "batch_bytes")
_CANDIDATES = (
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"),
    *("dil_conv_3x3", "dil_conv_5x5", "dil_conv_7x7", "dil_conv_3x3_d3", "max_pool_5x5", "avg_pool_5x5"),
    *("nor_conv_1x1", "nor_conv_3x3", "conv_7x1_1x7"),
)
Drawn = dict[str, Any]


def draw(seed: int) -> Drawn:
    """A configuration, the same for the same seed."""
    rng = random.Random(seed)
    partial = rng.choice((1, 1, 2, 4))
    drawn: Drawn = {
        "seed": seed,
        "space": rng.choice(("drawn", "drawn", "drawn", *space_names())),
        "memory": rng.choice(MEMORY),
        "dtype": rng.choice(("float32", "float32", "bfloat16", "float64")),
        "backend": rng.choice(("auto", "auto", "auto", "reference")),
        "partial": partial,
        "edge_normalisation": rng.random() < 0.5,
        "channels": partial * rng.randint(1, 8 // partial + 1),
        "layers": rng.randint(1, 4),
        "batch": rng.randint(2, 7),
        "size": [rng.randint(6, 20), rng.randint(6, 20)],
        "in_channels": rng.choice((1, 3)),
        "classes": rng.randint(2, 20),
        "stem": rng.choice(("cifar", "cifar", "cifar", "imagenet")),
        "stacked": rng.random() < 0.7,
        "threads": rng.choice((1, 2)),
    }
    if drawn["stem"] == "imagenet":
        drawn["size"] = [side * 4 for side in drawn["size"]]
    if drawn["space"] == "drawn":
        drawn["nodes"] = rng.randint(1, 4)
        # A space of `none` alone is refused: there would be nothing to choose.
        drawn["primitives"] = [rng.choice(_CANDIDATES[1:]), *rng.sample(_CANDIDATES, rng.randint(0, 5))]
        drawn["primitives"] = list(dict.fromkeys(drawn["primitives"]))
        drawn["shared"] = rng.random() < 0.7
    return drawn


def compared(drawn: Drawn) -> Drawn:
    """Predict and run it; what differs is under `differs`, predicted and measured."""

    def build() -> Supernet:
        names = ("channels", "layers", "classes", "in_channels", "stem", "partial", "edge_normalisation", "memory")
        return Supernet(_space(drawn), **{name: drawn[name] for name in names}, stacked=drawn["stacked"])

    dtype, before = getattr(torch, drawn["dtype"]), torch.get_num_threads()
    torch.set_num_threads(drawn["threads"])
    try:
        with use_backend(drawn["backend"]):
            predictor = Predictor(build, tuple(drawn["size"]), dtype=dtype)
            shares = predictor.shares(drawn["batch"])
            predicted, ledger = predictor(drawn["batch"]), Ledger()
            images = torch.randn(drawn["batch"], drawn["in_channels"], *drawn["size"]).to(dtype)
            labels = torch.arange(drawn["batch"]) % drawn["classes"]
            model = build().to(dtype)
            # The first pass of a process makes a few hundred bytes of index constants, which stay: no later one does.
            model(images)
            found = measure(model, images, labels, ledger)
    finally:
        torch.set_num_threads(before)
    figures = {name: (getattr(predicted, name), getattr(found, name)) for name in _FIGURES}
    differs: dict[str, Any] = {name: pair for name, pair in figures.items() if pair[0] != pair[1]}
    ours, theirs = ({(each.part, each.op): each for each in several} for several in (shares, ledger.shares()))
    apart = [key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)]
    if apart:
        differs["shares"] = sorted(f"{part}, {op}" for part, op in apart)
    return {**drawn, "measured": {name: pair[1] for name, pair in figures.items()}, "differs": differs}


def _space(drawn: Drawn) -> Space:
    if drawn["space"] != "drawn":
        return space(drawn["space"])
    given = {name: drawn[name] for name in ("nodes", "shared", "layers")}
    return define_space("drawn", drawn["primitives"], **given)


def main() -> None:
    """Compare, print a summary, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0, help="of the first; the others follow")
    parser.add_argument("--json", type=Path, help="file to write")
    given = parser.parse_args()
    started, rows = time.perf_counter(), []
    for seed in range(given.seed, given.seed + given.count):
        rows.append(compared(draw(seed)))
        if rows[-1]["differs"]:
            print(json.dumps(rows[-1]), flush=True)
    unequal = [row for row in rows if row["differs"]]
    counts = {name: dict(Counter(str(row[name]) for row in rows)) for name in ("memory", "dtype", "backend", "partial")}
    print(f"{len(rows) - len(unequal)} of {len(rows)} equal to the byte; {counts}")
    if given.json is not None:
        seconds = round(time.perf_counter() - started)
        summary = {"configurations": len(rows), "equal": len(rows) - len(unequal), "seconds": seconds, "drawn": counts}
        head = json.dumps({**summary, "machine": describe()}, indent=1)[:-2]
        lines = ",\n  ".join(json.dumps(row) for row in rows)  # a row a line
        given.json.write_text(f'{head},\n "rows": [\n  {lines}\n ]\n}}\n')
    sys.exit(bool(unequal))


if __name__ == "__main__":
    main()
