"""The options of the commands, each said once. Methods, spaces and data sets are spelt out here because asking the
packages for them would import torch for `--help`; `tests/test_cli.py` holds the lists to be true."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

__all__ = [
    "MOST",
    "TARGET_HELP",
    "AsJson",
    "Backend",
    "BatchSize",
    "Channels",
    "CheckHypergradient",
    "CompareRun",
    "Data",
    "Device",
    "Epochs",
    "Graph",
    "Hypergradient",
    "Layers",
    "Memory",
    "Method",
    "Png",
    "Previous",
    "RandomCells",
    "Report",
    "Resume",
    "RetrainBatchSize",
    "RetrainChannels",
    "RetrainEpochs",
    "RetrainLayers",
    "Root",
    "Run",
    "Seed",
    "Settings",
    "Space",
    "Svg",
    "Target",
]

# Seeds, searches, cells of a grid: more were not meant.
MOST = 1000
TARGET_HELP = "A run folder, a published name (DARTS_V2), a file, FILE:NAME of several, or a genotype's text."

AsJson = Annotated[
    bool, Option("--json", help="Print the result as JSON on standard output; progress goes to standard error as ever.")
]
Backend = Annotated[
    str, Option(help="Who computes: auto, reference, cpu, triton or cuda; `fastdarts doctor` tells which are live.")
]
BatchSize = Annotated[int | None, Option(help="Images a step. (default: as published; digits 64)")]
Channels = Annotated[int | None, Option(help="C, the width of the first cells. (default: as published; digits 8)")]
CheckHypergradient = Annotated[
    str, Option(help="Compare finite differences with the exact gradient after so many epochs: 0,10.")
]
CompareRun = Annotated[Path | None, Option("--run", help="Folder of the comparison; the same call continues it.")]
Data = Annotated[
    str | None,
    Option(help="digits (shipped), cifar10, cifar100, svhn, mnist or fashion-mnist. (default: the run's, or digits)"),
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Epochs = Annotated[
    int | None,
    Option(
        help="Passes over the training images; with --resume, extend a finished run. (default: as published; digits 15)"
    ),
]
Graph = Annotated[
    str, Option(help="On a GPU, a step as one CUDA graph: auto (where it can be one) or off. The numbers are the same.")
]
Hypergradient = Annotated[str | None, Option(help="Another kind than the method's, e.g. second-exact or amended.")]
Layers = Annotated[int | None, Option(help="Number of cells. (default: as published; digits 3)")]
Memory = Annotated[str, Option(help="What a step keeps: fast, balanced (half as much) or lean (least; slower).")]
_METHODS = (
    *("darts-one-level", "darts-first", "darts-second", "darts-second-exact", "pc-darts", "pc-darts-imagenet"),
    *("p-darts", "gdas", "i-darts", "snas", "proxyless", "sdarts-rs", "sdarts-adv", "pc-sdarts-rs", "pc-sdarts-adv"),
    *("darts-plus", "sgas", "amended", "amended-s2", "amended-s2-full", "r-darts-l2", "r-darts-es", "r-darts-ada"),
    *("darts-pt", "beta-darts", "gaea-darts", "gaea-pc-darts", "random-search", "random-ws"),
)
Method = Annotated[str, Option(help=f"{', '.join(_METHODS)}; `fastdarts methods` says what they are.")]
Png = Annotated[Path | None, Option(help="Write the drawing to this .png file.")]
Previous = Annotated[bool, Option("--previous", help="With --resume: use the checkpoint before the newest one.")]
RandomCells = Annotated[int, Option(help="Compare with so many random cells, retrained alike.")]
Report = Annotated[bool, Option("--report", help="Write the run's report.html anew.")]
Resume = Annotated[
    Path | None,
    Option(
        metavar="RUN", help="Continue this run, bit for bit, with its own settings; --epochs N extends a finished one."
    ),
]
RetrainBatchSize = Annotated[int | None, Option(help="Of the networks trained after the search: images a step.")]
RetrainChannels = Annotated[int | None, Option(help="Of these: width. (default: as published, 36; digits 8)")]
RetrainLayers = Annotated[int | None, Option(help="Of these: number of cells. (default: as published, 20; digits 3)")]
RetrainEpochs = Annotated[
    int | None, Option(help="Then retrain and test the genotype; 0: do not. (default: 15 for digits, else 0)")
]
Root = Annotated[str | None, Option(help="Folder or file of the data set; docs/data.md says which file to get.")]
Run = Annotated[Path | None, Option(help="Run folder to create. (default: runs/ and what, on what, when)")]
Seed = Annotated[int | None, Option(help="Of everything random.")]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other hyper-parameter, e.g. weight_decay=1e-3, or an option of the method's own. Repeatable.",
    ),
]
Space = Annotated[
    str | None,
    Option(
        help="darts, darts-without-none, s1 to s4, amended-s1, amended-s2, amended-s2-full, or a JSON file. "
        "(default: the run's, or the method's)"
    ),
]
Svg = Annotated[Path | None, Option(help="Write the drawing to this .svg file.")]
Target = Annotated[str | None, Argument(help=TARGET_HELP)]
