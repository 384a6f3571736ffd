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
TARGET_HELP = (
    "A run folder, a published name (DARTS_V2), a file (FILE:NAME picks one of several), or a genotype's text."
)

AsJson = Annotated[
    bool, Option("--json", help="Print the result as JSON on standard output. Progress stays on standard error.")
]
Backend = Annotated[
    str, Option(help="Kernels to use: auto, reference, cpu, triton or cuda. `fastdarts doctor` shows which work here.")
]
BatchSize = Annotated[int | None, Option(help="Images per step. (default: as published; digits 64)")]
Channels = Annotated[int | None, Option(help="C, the width of the first cells. (default: as published; digits 8)")]
CheckHypergradient = Annotated[
    str, Option(help="Epochs after which finite differences are compared with the exact gradient, e.g. 0,10.")
]
CompareRun = Annotated[Path | None, Option("--run", help="Folder of the comparison. The same command continues it.")]
Data = Annotated[
    str | None,
    Option(help="digits (shipped), cifar10, cifar100, svhn, mnist or fashion-mnist. (default: the run's, or digits)"),
]
Device = Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")]
Epochs = Annotated[
    int | None,
    Option(
        help="Passes over the training images. With --resume: extend a finished run. (default: as published; digits 15)"
    ),
]
Graph = Annotated[
    str, Option(help="On a GPU, run each step as one CUDA graph: auto (where possible) or off. Results are identical.")
]
Hypergradient = Annotated[
    str | None, Option(help="Use this hypergradient instead of the method's, e.g. second-exact or amended.")
]
Layers = Annotated[int | None, Option(help="Number of cells. (default: as published; digits 3)")]
Memory = Annotated[
    str, Option(help="What a step keeps in memory: fast, balanced (half as much) or lean (least, but slower).")
]
_METHODS = (
    *("darts-one-level", "darts-first", "darts-second", "darts-second-exact", "pc-darts", "pc-darts-imagenet"),
    *("p-darts", "gdas", "i-darts", "snas", "proxyless", "sdarts-rs", "sdarts-adv", "pc-sdarts-rs", "pc-sdarts-adv"),
    *("darts-plus", "sgas", "amended", "amended-s2", "amended-s2-full", "r-darts-l2", "r-darts-es", "r-darts-ada"),
    *("darts-pt", "beta-darts", "gaea-darts", "gaea-pc-darts", "gdas-reinmax", "random-search", "random-ws"),
)
Method = Annotated[str, Option(help=f"{', '.join(_METHODS)}; `fastdarts methods` describes them.")]
Png = Annotated[Path | None, Option(help="Write the drawing to this .png file.")]
Previous = Annotated[bool, Option("--previous", help="With --resume: use the checkpoint before the newest one.")]
RandomCells = Annotated[int, Option(help="Number of random cells to compare with, trained in the same way.")]
Report = Annotated[bool, Option("--report", help="Rewrite the run's report.html.")]
Resume = Annotated[
    Path | None,
    Option(
        metavar="RUN", help="Continue this run, bit for bit, with its own settings. --epochs N extends a finished run."
    ),
]
RetrainBatchSize = Annotated[
    int | None, Option(help="Images per step of the trainings after the search. (default: as published, 96; digits 64)")
]
RetrainChannels = Annotated[
    int | None, Option(help="Width of the networks trained after the search. (default: as published, 36; digits 8)")
]
RetrainLayers = Annotated[
    int | None, Option(help="Number of cells of these networks. (default: as published, 20; digits 3)")
]
RetrainEpochs = Annotated[
    int | None,
    Option(
        help="Epochs of training the found cell from scratch, to test it. 0: do neither. (default: digits 15, else 0)"
    ),
]
Root = Annotated[str | None, Option(help="Folder or file of the data set. docs/data.md says which file to get.")]
Run = Annotated[
    Path | None, Option(help="Run folder to create. (default: a new one in runs/, named after the run and the time)")
]
Seed = Annotated[int | None, Option(help="Seed of all random numbers.")]
Settings = Annotated[
    list[str] | None,
    Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any other hyper-parameter, e.g. weight_decay=1e-3, or an option of the method. Repeatable.",
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
