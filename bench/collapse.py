"""The collapse of DARTS and its cures, measured against the truth: the study of docs/collapse.md.

    python -m bench.collapse --jobs 2                    # the table where there is none, every search, results and plot
    python -m bench.collapse --methods darts-first --seeds 0,1

Everything is resumable: what is finished in --runs is read, what was killed goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.collapse_plot import plot
from fastdarts.evaluate import Table, budget, mean_and_spread, tabulate, trajectory
from fastdarts.evaluate.tasks import Task, run_tasks
from fastdarts.runs import RunFolder
from fastdarts.search import Progress, configure
from fastdarts.search.environment import describe_environment, resolve_device
from fastdarts.spaces import Genotype, define_space

__all__ = ["main"]

RESULTS = Path(__file__).parent / "results" / "collapse"
DOCS = Path(__file__).parents[1] / "docs"

_EDGES = ((0, 2), (1, 2), (0, 3), (2, 3))

# 81 networks as in RobustDARTS' small space: three candidates on four edges. All are in the normal cell, so that what
# it carries decides; the reduction cell is fixed.
SPACE = define_space(
    "collapse",
    dict.fromkeys(_EDGES, ("skip_connect", "max_pool_3x3", "sep_conv_3x3")),
    reduce=dict.fromkeys(_EDGES, ("skip_connect",)),
    layers=4,
    keep=None,
    source="after the 81 networks of RobustDARTS, arXiv 1909.09656",
)
TABLE_SEEDS = (0, 1, 2)
TRAINING = {"epochs": 20, "channels": 4, "layers": 4, "batch_size": 128, "lr": 0.1, "device": "cpu"}
SEARCH = {"epochs": 60, "channels": 4, "layers": 4, "batch_size": 128, "lr": 0.1, "arch_lr": 0.1, "crop": 0}
SEARCH |= {"eigenvalue_every": 4, "save_every": 20, "device": "cpu"}
# As published, and not as the methods are made small for searches of 15 epochs.
_RULE = {"eigenvalue_every": 2, "start_epoch": 10}
METHODS: dict[str, dict[str, Any]] = {
    "darts-first": {},
    "darts-second": {},
    "r-darts-es": _RULE,
    "r-darts-ada": _RULE,
    "amended": {"hypergradient": "amended-exact", "cutout": 0, "dropout": 0.0, "auxiliary": 0.0},
    "sdarts-rs": {},
    "sdarts-adv": {},
}


class _Lines(Progress):
    def note(self, message: str) -> None:
        print(message, flush=True)


def truth(runs: Path, jobs: int) -> Table:
    """The committed table, or a new one where there is none."""
    path = RESULTS / "table.json"
    if not path.exists():
        settings = budget("digits", **TRAINING)
        table = tabulate(SPACE, runs / "table", settings=settings, seeds=TABLE_SEEDS, jobs=jobs, progress=_Lines())
        _write(path, table.to_json())
    table = Table.read(path)
    if (table.space, table.seeds) != (SPACE, TABLE_SEEDS):
        raise SystemExit(f"{path} is of another space or other seeds: remove it to build it anew")
    return table


def searches(runs: Path, methods: Sequence[str], seeds: Sequence[int]) -> dict[tuple[str, int], Task]:
    """One search a method and seed."""
    return {
        (name, seed): Task(
            runs / f"{name}-seed{seed}",
            configure(name, data="digits", space=SPACE.name, seed=seed, **(SEARCH | METHODS[name])),
            search_space=SPACE,
        )
        for name in methods
        for seed in seeds
    }


def measured(table: Table, task: Task) -> dict[str, Any]:
    """What a finished search found, and its way there."""
    folder = RunFolder.open(task.path)
    curve = trajectory(table, task.path)
    genotype = Genotype.from_json(folder.read_json("genotype.json"))
    return {
        "seed": task.config.seed,
        "genotype": genotype.text(),
        "regret": table.regret(genotype),
        "rank": table.rank(genotype),
        "skips": genotype.skips("normal"),
        "pools": genotype.counts("normal").get("max_pool_3x3", 0),
        "regrets": [round(point["regret"], 6) for point in curve],
        "skips_by_epoch": [point["skips"]["normal"] for point in curve],
        "eigenvalues": [[p["epoch"], p["eigenvalue"]] for p in curve if p["eigenvalue"] is not None],
        "guards": [[p["epoch"], p["guard"]["action"]] for p in curve if p["guard"]],
    }


def summary(table: Table, results: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """The table of the docs, in Markdown; percentages are points of test accuracy."""
    mean, spread = table.by_chance()
    count = len(table.networks)
    worst = table.regret(table.ranking[-1].genotype)
    chance = [f"{count} networks", _interval((mean, spread), 100), f"{100 * worst:.2f}", "", "", "1.3, 1.3", "20%", ""]
    rows = [["a network by chance (exact)", *chance]]
    for name, runs in results.items():
        tops = [max((value for _, value in run["eigenvalues"]), default=math.nan) for run in runs]
        rows.append(
            [
                name,
                f"{len(runs)}",
                _interval(mean_and_spread([run["regret"] for run in runs]), 100),
                f"{100 * max(run['regret'] for run in runs):.2f}",
                _interval(mean_and_spread([min(run["regrets"]) for run in runs]), 100),
                _interval(mean_and_spread([run["regrets"][-1] for run in runs]), 100),
                ", ".join(f"{mean_and_spread([run[kind] for run in runs])[0]:.1f}" for kind in ("skips", "pools")),
                f"{sum(run['skips'] + run['pools'] == len(_EDGES) for run in runs)}",
                "" if any(map(math.isnan, tops)) else _interval(mean_and_spread(tops), 1),
            ]
        )
    head = ["method", "searches", "test regret, %", "worst", "least of an epoch", "last epoch", "skips, pools of 4"]
    head += ["no convolution", "largest eigenvalue"]
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]


def correlation(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[float, float, int]:
    """Spearman's rho of the last eigenvalue and the last epoch's regret over all searches, its p-value, and how many.

    RobustDARTS' claim is that it is high (section 4.1 there).
    """
    from scipy import stats

    runs = [run for each in results.values() for run in each if run["eigenvalues"]]
    found = stats.spearmanr([run["eigenvalues"][-1][1] for run in runs], [run["regrets"][-1] for run in runs])
    return float(found.statistic), float(found.pvalue), len(runs)


def _interval(values: tuple[float, float], scale: float) -> str:
    return f"{scale * values[0]:.2f} ± {scale * values[1]:.2f}"


def main() -> None:
    """Build what is missing, and write the results, the plot and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/collapse"), help="where the run folders go")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="of the searches")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of: %(default)s")
    parser.add_argument("--table-only", action="store_true", help="build the truth and stop")
    given = parser.parse_args()
    # Of a GPU that nobody asked for.
    warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")
    table = truth(given.runs, given.jobs)
    if given.table_only:
        return
    tasks = searches(given.runs, given.methods.split(","), [int(seed) for seed in given.seeds.split(",")])
    run_tasks(list(tasks.values()), jobs=given.jobs, progress=_Lines())
    results: dict[str, list[dict[str, Any]]] = {}
    for (name, _), task in tasks.items():
        results.setdefault(name, []).append(measured(table, task))
    environment = describe_environment(resolve_device("cpu"), 1)
    study = {"environment": environment, "search": SEARCH, "own": METHODS, "methods": results}
    _write(RESULTS / "study.json", study)
    epochs = int(SEARCH["epochs"])
    (DOCS / "collapse.svg").write_text(plot(results, chance=table.by_chance()[0], epochs=epochs), encoding="utf-8")
    print("\n".join(summary(table, results)))
    print("Spearman's rho {:.2f}, p {:.2g}, {} searches".format(*correlation(results)))


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
