"""A short seeded search on digits with each backend: do they find the same cell, and how far do the alphas part?

    python -m bench.search_parity darts-first 3

All runs start from the same bits and draw the same batches; what parts them is rounding, which every step enlarges. The
yardstick is the reference beside itself: plain torch with the convolutions of oneDNN switched off.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from fastdarts.runs import RunFolder
from fastdarts.search import SearchResult, configure, search

__all__ = ["compare", "main"]

RUNS = {"reference": ("reference", True), "reference, other convolutions": ("reference", False), "cpu": ("cpu", True)}


def compare(method: str, epochs: int, folder: Path) -> list[str]:
    """Search once with each; one line a run: genotype, seconds, and the largest difference of an alpha after it all.

    Args:
        method: a name of `fastdarts.search.METHODS`.
        epochs: of each search.
        folder: where the run folders go.
    """
    lines, first = [], None
    for name, (backend, onednn) in RUNS.items():
        config = configure(method, epochs=epochs, backend=backend)
        with torch.backends.mkldnn.flags(enabled=onednn):
            result = search(config, folder / name.replace(", ", "-").replace(" ", "-"))
        alphas = _alphas(result)
        first = first or (result.genotype, alphas)
        parted = max(float((each - first[1][key]).abs().max()) for key, each in alphas.items())
        moved = max(float(each.abs().max()) for each in alphas.values())
        same = "same genotype" if result.genotype == first[0] else "ANOTHER genotype"
        lines.append(f"{name}: {same}, {result.seconds:.1f} s, alphas part by {parted:.2e} (largest alpha {moved:.2e})")
    return lines


def _alphas(result: SearchResult) -> dict[str, Tensor]:
    with RunFolder.open(result.path) as folder:
        model = folder.load().state["job"]["model"]
    return {name: value for name, value in model.items() if name.startswith("arch.")}


def main(method: str = "darts-first", epochs: str = "3") -> None:
    """Print the comparison."""
    # Of a GPU that nobody asked for.
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({"method": method, "epochs": int(epochs), "threads": torch.get_num_threads()}))
        print("\n".join(compare(method, int(epochs), Path(folder))))


if __name__ == "__main__":
    main(*sys.argv[1:])
