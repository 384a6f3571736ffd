"""Did the search beat random choice? The found cell beside random cells of its space, at the same budget."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from fastdarts._backend import use_backend
from fastdarts.errors import Diverged, UserError
from fastdarts.evaluate.folders import continued, free_folder
from fastdarts.evaluate.retrain import RetrainConfig, RetrainJob, Sets, begun, images_of, retrain_once
from fastdarts.report.intervals import logit_interval, mean_and_spread
from fastdarts.search.interrupt import stoppable
from fastdarts.search.progress import Progress, watcher
from fastdarts.spaces import Genotype, Space, random_genotype

__all__ = ["compare", "comparison_folder", "left_to_train", "statistics"]

_MOST = 10_000


def compare(
    found: Genotype,
    path: str | os.PathLike[str],
    *,
    search_space: Space,
    settings: Mapping[str, Any],
    random_cells: int = 5,
    seeds: Sequence[int] = (0,),
    sets: Sets | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Retrain ``found`` and random genotypes of its space with the same budget and seeds, and compare.

    Every network is a run of its own below ``path``; a finished one is not trained again and an unfinished
    one continues, so calling this again after a kill gives the result of an uninterrupted call.

    Args:
        found: the genotype to judge.
        path: the folder of the comparison, new or begun earlier with the same arguments.
        search_space: the space of ``found``, where the random genotypes come from; cell ``i`` is
            ``random_genotype(..., seed=i)``.
        settings: the budget, from :func:`fastdarts.evaluate.budget`.
        random_cells: how many random genotypes, at least 2.
        seeds: training seeds; every genotype is trained with each of them.
        sets: (training, test) images for custom data.
        progress: who watches; None for a bar in a terminal and silence elsewhere, ``Progress()`` for silence.
        command: how it was started, for the record.

    Returns:
        The record that is also written to ``comparison.json``: see :func:`statistics`. A random genotype whose training
        diverged is not in it; ``diverged``, there only then, says of such trainings by name what happened.

    Raises:
        UserError: for bad arguments, before anything is written, or a folder begun with other ones.
        Diverged: where the found genotype's training diverged, or too many to leave 2 random ones.
        Interrupted: on SIGINT or SIGTERM.
    """
    names, configs = _trainings(found, search_space, settings, random_cells, seeds)
    record = _record(search_space, configs) | {"command": command}
    root, progress = Path(path), watcher(progress)
    first = next(iter(configs.values()))
    if not begun(root):
        with use_backend(first.backend):
            RetrainJob(first, images_of(first, sets))
    told = {"differs": "another genotype, space, seed or budget", "expected": "the arguments that began it"}
    with continued(root, record, first, progress, **told) as folder, stoppable(root):
        results, diverged = _train(configs, folder.path / "trainings", sets, progress)
        grouped: list[list[Any]] = [[results.get(f"{name}-seed{seed}") for seed in seeds] for name in names]
        kept = [index for index, each in enumerate(grouped[1:]) if None not in each]
        if len(kept) < 2:
            raise Diverged(root, f"{random_cells - len(kept)} of {random_cells} random cells, and 2 are needed")
        comparison = statistics(grouped[0], [grouped[1 + index] for index in kept])
        for each, index in zip(comparison["random"], kept, strict=True):
            each["index"] = index
        comparison |= {"diverged": diverged} if diverged else {}
        comparison |= {"seeds": list(seeds), "dataset": first.data, "space": search_space.name}
        # Trainings of before it was recorded have none.
        comparison["test_images"] = results[f"found-seed{seeds[0]}"].get("test_images")
        size = ("epochs", "channels", "layers", "batch_size")
        comparison["budget"] = {key: getattr(first, key) for key in size}
        folder.write_json("comparison.json", comparison)
    return comparison


def _train(
    configs: Mapping[str, RetrainConfig], root: Path, sets: Sets | None, progress: Progress
) -> tuple[dict[str, Any], dict[str, str]]:
    """The results of all trainings by name, and what happened to those that diverged; the found one's may not."""
    results, diverged = {}, {}
    for name, config in configs.items():
        try:
            results[name] = retrain_once(config, root / name, sets=sets, progress=progress)
        except Diverged as error:
            if name.startswith("found"):
                raise
            diverged[name] = error.what
            progress.note(f"{error}; the comparison leaves that cell out")
    return results, diverged


def comparison_folder(
    base: Path,
    found: Genotype,
    *,
    search_space: Space,
    settings: Mapping[str, Any],
    random_cells: int = 5,
    seeds: Sequence[int] = (0,),
) -> Path:
    """Where a comparison belongs that was given no folder: the one that the same arguments began, else a new one.

    Args:
        base: the first candidate; the others are ``base-2``, ``base-3`` and so on.
        found, search_space, settings, random_cells, seeds: as for :func:`compare`.

    Raises:
        UserError: for arguments that :func:`compare` refuses too.
    """
    record = _record(search_space, _trainings(found, search_space, settings, random_cells, seeds)[1])
    return free_folder(base, record)


def left_to_train(
    path: Path,
    found: Genotype,
    *,
    search_space: Space,
    settings: Mapping[str, Any],
    random_cells: int = 5,
    seeds: Sequence[int] = (0,),
) -> list[RetrainConfig]:
    """The trainings of a comparison in ``path`` that are not finished, the found genotype's first.

    Args:
        path: its folder, there or not.
        found, search_space, settings, random_cells, seeds: as for :func:`compare`.

    Raises:
        UserError: for arguments that :func:`compare` refuses too.
    """
    configs = _trainings(found, search_space, settings, random_cells, seeds)[1]
    return [each for name, each in configs.items() if not (path / "trainings" / name / "retrain.json").exists()]


def _trainings(
    found: Genotype, search_space: Space, settings: Mapping[str, Any], random_cells: int, seeds: Sequence[int]
) -> tuple[list[str], dict[str, RetrainConfig]]:
    """The genotypes' names, the found one's first, and every training's configuration by its name."""
    if random_cells > _MOST:
        raise UserError(f"random_cells is {random_cells}", f"at most {_MOST}", "20 are enough for most questions")
    if random_cells < 2:
        raise UserError(f"random_cells is {random_cells}", "at least 2, better 20", "an interval needs several values")
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds are {list(seeds)}", "one or more different numbers")
    settings = {key: value for key, value in settings.items() if key != "seed"}
    layers = found.layers or settings.get("layers", RetrainConfig.layers)
    try:
        search_space.check(found, layers)
    except UserError as error:
        raise UserError(
            f"the genotype is not of space {search_space.name}: {error.what}",
            error.expected,
            "name its own space (--space NAME or a JSON file): random cells of another one say nothing about it",
        ) from error
    randoms = [random_genotype(search_space, index, layers=layers) for index in range(random_cells)]
    names = ["found"] + [f"random-{index:03d}" for index in range(random_cells)]
    configs = {
        f"{name}-seed{seed}": RetrainConfig(genotype=genotype.text(), seed=seed, **settings)
        for name, genotype in zip(names, [found, *randoms], strict=True)
        for seed in seeds
    }
    return names, configs


def _record(search_space: Space, configs: Mapping[str, RetrainConfig]) -> dict[str, Any]:
    """What makes two comparisons the same."""
    trainings = {name: dataclasses.asdict(config) for name, config in configs.items()}
    return {"kind": "compare", "space": search_space.to_json(), "trainings": trainings}


def statistics(found: Sequence[Mapping[str, Any]], randoms: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Where the found genotype stands among the random ones.

    Args:
        found: the found genotype's results, one per training seed, as :func:`fastdarts.evaluate.retrain` returns.
        randoms: the same for each random genotype.

    Returns:
        ``random_mean`` and ``random_std`` (over genotypes, n - 1) of the test accuracy, ``interval95`` of that mean
        (:func:`fastdarts.report.intervals.logit_interval`, within 0 and 1), ``random_parameters`` (their mean),
        ``beaten_by`` (share of random genotypes whose mean is above the found one's) with its exact 95% interval
        ``beaten_by95`` (Clopper and Pearson 1934), and the single results.
    """
    from scipy import stats

    def summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        accuracies = [result["test_accuracy"] for result in results]
        return {
            "text": results[0]["text"],
            "accuracies": accuracies,
            "mean": fmean(accuracies),
            "parameters": results[0]["parameters"],
        }

    chosen, others = summary(found), [{"index": i} | summary(each) for i, each in enumerate(randoms)]
    means = [each["mean"] for each in others]
    count = len(means)
    mean, spread = mean_and_spread(means)
    better = sum(each > chosen["mean"] for each in means)
    exact = stats.binomtest(better, count).proportion_ci(0.95, "exact")
    return {
        "found": chosen,
        "random": others,
        "random_mean": mean,
        "random_std": spread,
        "random_parameters": fmean(each["parameters"] for each in others),
        "interval95": list(logit_interval(means)),
        "beaten_by": better / count,
        "beaten_by95": [float(exact.low), float(exact.high)],
    }
