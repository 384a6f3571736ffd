"""Does a search method beat random choice, and by how much? Several methods and random cells, seed by seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastdarts._backend import use_backend
from fastdarts.errors import Diverged, UserError
from fastdarts.evaluate.folders import continued, free_folder
from fastdarts.evaluate.paired import compare_paired
from fastdarts.evaluate.retrain import RetrainConfig, RetrainJob, Sets, begun, budget, images_of
from fastdarts.evaluate.tasks import Task, run_named
from fastdarts.search.config import SearchConfig
from fastdarts.search.interrupt import stoppable
from fastdarts.search.job import SearchJob
from fastdarts.search.methods import METHODS, configure, method
from fastdarts.search.progress import Progress, watcher
from fastdarts.spaces import Genotype, Space, random_genotype, space

__all__ = ["RANDOM", "compare_methods", "left_to_do", "methods_folder"]

RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What a comparison does, checked: one search per method and seed, and one training per network and seed."""

    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    data: str
    space: Space
    search: Mapping[str, Any]
    training: Mapping[str, Any]

    def searches(self) -> dict[tuple[str, int], SearchConfig]:
        def settings(name: str, seed: int) -> dict[str, Any]:
            return {**self.shared, **self.search.get(name, {}), "space": self.space.name, "seed": seed}

        return {
            (name, seed): configure(name, data=self.data, **settings(name, seed))
            for name in self.methods
            for seed in self.seeds
        }

    @property
    def shared(self) -> dict[str, Any]:
        """The settings of all searches, without those of one method."""
        return {key: value for key, value in self.search.items() if key not in METHODS}

    def random(self, seed: int) -> Genotype:
        """One of all genotypes, each as likely; at the depth that is searched, where every cell is its own."""
        return random_genotype(self.space, seed, layers=self.layers)

    @property
    def layers(self) -> int | None:
        if self.space.shared:
            return None
        depths = {config.layers for config in self.searches().values()}
        if len(depths) > 1:
            raise UserError(
                f"the methods search networks of {' and '.join(map(str, sorted(depths)))} cells",
                f"one depth, since every cell of space {self.space.name} is its own",
                "set layers for the searches",
            )
        return depths.pop()

    def trained(self, genotype: Genotype, seed: int) -> RetrainConfig:
        settings = budget(self.data, found=genotype, **self.training)
        return RetrainConfig(genotype=genotype.text(), **{**settings, "seed": seed})

    def record(self) -> dict[str, Any]:
        """What makes two comparisons parts of one. Neither methods, nor their own settings, nor seeds: all may be added
        later, and every search and training is held against its own record anyway."""
        record = {"kind": "compare-methods", "data": self.data, "space": self.space.to_json()}
        record |= {"search": self.shared, "training": budget(self.data, **self.training)}
        plain: dict[str, Any] = json.loads(json.dumps(record))
        return plain


def compare_methods(
    methods: Sequence[str],
    path: str | os.PathLike[str],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    data: str = "digits",
    search_space: Space | None = None,
    search: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    sets: Sets | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Set search methods beside random choice: same space, same seeds, same training of what is found.

    For each seed every method searches with it; the genotype it ends with is trained from scratch with that same seed
    and the same budget as all others, and tested once. ``random`` is one genotype per seed, drawn uniformly from the
    space, and costs no search. Networks of one seed thus share their training's random numbers, and the differences to
    ``random`` are taken seed by seed. The test set is read by these trainings only, after their last epoch.

    Every search and training is a run of its own below ``path``: what is finished is not done again, what was cut off
    continues, so calling this again after a kill gives the result of an uninterrupted call. A later call with more
    methods or more seeds adds to the same folder.

    Args:
        methods: names of :data:`fastdarts.search.METHODS`; ``random`` is always there and need not be named.
        path: the folder of the comparison, new or begun earlier with the same settings.
        seeds: of searches, random choice and trainings; at least 2 different ones.
        data: a data set's name, or ``custom``.
        search_space: the space of all; None for DARTS'.
        search: settings of all searches, as :func:`fastdarts.search.configure` takes them; under a method's name a
            mapping of settings for its searches only.
        training: settings of all trainings, as :func:`fastdarts.evaluate.budget` takes them.
        sets: (training, test) images for custom data.
        jobs: processes at a time.
        progress: who watches.
        command: how it was started, for the record.

    Returns:
        The record that is also written to ``comparison-methods.json``: ``seeds``, ``data``, ``space``, ``budget``,
        ``baseline`` and ``methods``, which holds for each name what :func:`fastdarts.evaluate.compare_paired` says of
        its test accuracies, and by seed ``texts`` of the genotypes, ``parameters``, ``search_seconds`` and the run
        folders ``searches`` and ``trainings``, relative to ``path``. Where something diverged, ``diverged`` says by
        ``NAME-seedSEED`` what. A method of which a search or training diverged has no figures, since those of its other
        seeds would flatter it; a seed of which random choice diverged is in nobody's.

    Raises:
        UserError: for bad arguments, before anything is written, or a folder begun with other settings.
        Diverged: where less than a method and 2 seeds are left.
        Interrupted: on SIGINT or SIGTERM.
    """
    plan = _plan(methods, seeds, data, search_space, search, training)
    root, progress = Path(path), watcher(progress)
    record = plan.record() | {"command": command}
    if jobs < 1:
        raise UserError(f"jobs is {jobs}", "at least 1")
    _try(plan, root, sets)
    told = {"differs": "another space, data set, search setting or budget"}
    told["expected"] = "the settings that began it; methods and seeds may differ"
    first = next(iter(plan.searches().values()))
    with continued(root, record, first, progress, **told) as folder, stoppable(root):
        result = _run(plan, root, sets, jobs, progress, command)
        folder.write_json("comparison-methods.json", result)
    return result


def methods_folder(
    base: Path,
    methods: Sequence[str],
    *,
    seeds: Sequence[int],
    data: str = "digits",
    search_space: Space | None = None,
    search: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Where a comparison belongs that was given no folder: the one that the same settings began, else a new one.

    Args:
        base: the first candidate; the others are ``base-2``, ``base-3`` and so on.
        methods, seeds, data, search_space, search, training: as for :func:`compare_methods`.

    Raises:
        UserError: for arguments that :func:`compare_methods` refuses too.
    """
    record = _plan(methods, seeds, data, search_space, search, training).record()
    return free_folder(base, record)


def left_to_do(
    methods: Sequence[str],
    path: Path,
    *,
    seeds: Sequence[int],
    data: str = "digits",
    search_space: Space | None = None,
    search: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
) -> tuple[list[SearchConfig], list[RetrainConfig]]:
    """The searches of a comparison in ``path`` that are not finished, and as many trainings as are missing.

    What the searches find is not known yet: a random network stands for each.

    Args:
        methods, path, seeds, data, search_space, search, training: as for :func:`compare_methods`.

    Raises:
        UserError: for arguments that :func:`compare_methods` refuses too.
    """
    plan = _plan(methods, seeds, data, search_space, search, training)
    left = [each for key, each in plan.searches().items() if not (_search_path(path, *key) / "result.json").exists()]
    done = len(list(path.glob("trainings/*/retrain.json")))
    trainings = [plan.trained(plan.random(seed), seed) for seed in plan.seeds for _ in range(len(plan.methods) + 1)]
    return left, trainings[min(done, len(trainings)) :]


def _plan(
    methods: Sequence[str],
    seeds: Sequence[int],
    data: str,
    search_space: Space | None,
    search: Mapping[str, Any] | None,
    training: Mapping[str, Any] | None,
) -> _Plan:
    names = tuple(name for name in methods if name != RANDOM)
    if not names or len(set(names)) != len(names):
        raise UserError(f"methods are {', '.join(methods) or 'none'}", "one or more different methods besides random")
    for name in names:
        method(name)
    if len(seeds) < 2 or len(set(seeds)) != len(seeds):
        raise UserError(
            f"seeds are {list(seeds)}", "at least 2 different ones, better 5", "an interval needs several values"
        )
    overrides = {key: value for key, value in (training or {}).items() if key != "seed"}
    plan = _Plan(names, tuple(seeds), data, search_space or space("darts"), dict(search or {}), overrides)
    plan.searches()
    plan.trained(plan.random(seeds[0]), seeds[0])
    return plan


def _try(plan: _Plan, root: Path, sets: Sets | None) -> None:
    """Begin a training, and a search of each method that has none, without a step: what cannot work is refused now."""
    searches = {name: config for (name, seed), config in plan.searches().items() if seed == plan.seeds[0]}
    new = [name for name in searches if not begun(_search_path(root, name, plan.seeds[0]))]
    if begun(root) and not new:
        return
    config = plan.trained(plan.random(plan.seeds[0]), plan.seeds[0])
    with use_backend(config.backend):
        images = images_of(config, sets)
        RetrainJob(config, images)
    for name in new:
        with use_backend(searches[name].backend):
            SearchJob(searches[name], images[0], plan.space)


def _run(plan: _Plan, root: Path, sets: Sets | None, jobs: int, progress: Progress, command: str) -> dict[str, Any]:
    train_set = None if sets is None else sets[0]
    tasks = {
        (name, seed): Task(_search_path(root, name, seed), config, plan.space, train_set, command)
        for (name, seed), config in plan.searches().items()
    }
    searched, diverged = run_named(tasks, jobs=jobs, progress=progress)
    genotypes = {key: Genotype.from_json(result["genotype"]) for key, result in searched.items()}
    genotypes |= {(RANDOM, seed): plan.random(seed) for seed in plan.seeds}
    configs = {key: plan.trained(genotype, key[1]) for key, genotype in genotypes.items()}
    # By content: a network that two methods found with one seed is trained once, and stays where it is when methods
    # are added.
    paths = {key: root / "trainings" / _training_name(config) for key, config in configs.items()}
    trainings = {paths[key]: Task(paths[key], config, images=sets) for key, config in configs.items()}
    trained, failed = run_named(trainings, jobs=jobs, progress=progress)
    results = {key: trained[path] for key, path in paths.items() if path in trained}
    diverged |= {key: failed[path] for key, path in paths.items() if path in failed}
    names, seeds = _left(plan, diverged, root)
    described = compare_paired(
        {name: [results[name, seed]["test_accuracy"] for seed in seeds] for name in names}, RANDOM
    )
    for name, entry in described.items():
        keys = [(name, seed) for seed in seeds]
        entry |= {
            "texts": [genotypes[key].text() for key in keys],
            "parameters": [results[key]["parameters"] for key in keys],
            "search_seconds": [searched[key]["seconds"] if key in searched else 0.0 for key in keys],
            "searches": [str(tasks[key].path.relative_to(root)) if key in tasks else None for key in keys],
            "trainings": [str(paths[key].relative_to(root)) for key in keys],
        }
    heading = _heading(plan, configs[RANDOM, plan.seeds[0]]) | {"seeds": seeds}
    images = {each["test_images"] for each in results.values() if "test_images" in each}
    heading["test_images"] = images.pop() if len(images) == 1 else None
    heading |= {"diverged": {f"{name}-seed{seed}": what for (name, seed), what in diverged.items()}} if diverged else {}
    return heading | {"methods": described}


def _left(plan: _Plan, diverged: Mapping[tuple[str, int], str], root: Path) -> tuple[list[str], list[int]]:
    """The names and seeds that are compared: those of which nothing diverged."""
    seeds = [seed for seed in plan.seeds if (RANDOM, seed) not in diverged]
    names = [name for name in plan.methods if not any((name, seed) in diverged for seed in plan.seeds)]
    if not names or len(seeds) < 2:
        raise Diverged(root, f"{len(diverged)} of its searches and trainings, which leaves nothing to compare")
    return [*names, RANDOM], seeds


def _heading(plan: _Plan, config: RetrainConfig) -> dict[str, Any]:
    kept = ("epochs", "channels", "layers", "batch_size")
    return {
        "seeds": list(plan.seeds),
        "data": plan.data,
        "space": plan.space.name,
        "search": dict(plan.search),
        "budget": {key: getattr(config, key) for key in kept},
        "baseline": RANDOM,
    }


def _search_path(root: Path, name: str, seed: int) -> Path:
    return root / "searches" / f"{name}-seed{seed}"


def _training_name(config: RetrainConfig) -> str:
    return f"seed{config.seed}-{hashlib.sha256(config.genotype.encode()).hexdigest()[:12]}"
