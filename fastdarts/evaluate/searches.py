"""Several searches instead of one, over seeds or a grid of settings; the best by validation is the answer."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from fastdarts._backend import use_backend
from fastdarts.data import ImageSet, load_images, split_levels
from fastdarts.errors import Diverged, UserError
from fastdarts.evaluate.retrain import RetrainConfig, RetrainJob, Sets, budget
from fastdarts.evaluate.tasks import Task, run_named
from fastdarts.runs import RunFolder
from fastdarts.search.config import SearchConfig
from fastdarts.search.environment import describe_environment, note_environment, resolve_device
from fastdarts.search.interrupt import stoppable
from fastdarts.search.job import SearchJob
from fastdarts.search.origin import describe_origin
from fastdarts.search.progress import Progress, watcher
from fastdarts.search.result import SearchResult
from fastdarts.spaces import Genotype, Space, random_genotype, space

__all__ = ["best_search", "continue_many", "search_many", "selection_budget"]

# "pick the best cell based on its validation performance obtained by training from scratch for a short period
# (100 epochs on CIFAR-10)": Liu et al. 2019, section 3.2.
_SELECTION_EPOCHS = 100


def selection_budget(data: str = "digits", **overrides: Any) -> dict[str, Any]:
    """The training by which searches are told apart: the evaluation's, for 100 epochs, for digits as it is.

    Args:
        data: a data set's name, or ``custom``.
        overrides: any fields of :class:`fastdarts.evaluate.RetrainConfig` but the genotype.

    Returns:
        Settings for :func:`search_many`.

    Raises:
        UserError: for an unknown field.

    Source: Liu et al. 2019 (DARTS), section 3.2.
    """
    short = {} if data == "digits" else {"epochs": _SELECTION_EPOCHS}
    return budget(data, **(short | overrides))


def search_many(
    configs: Mapping[str, SearchConfig],
    path: str | os.PathLike[str],
    *,
    search_space: Space | None = None,
    train_set: ImageSet | None = None,
    selection: Mapping[str, Any] | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
    command: str = "",
    after: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Search several times, and let validation choose.

    Each found network is trained from scratch on the images of the weight level and judged on those of the architecture
    level, all by the split of the first configuration and with its seed; the test set is not read. Networks that
    several searches found are trained once. One run folder holds everything: each search below ``searches/`` and each
    training below ``selection/`` is a run of its own, so what is finished is not done again after a kill.

    Args:
        configs: the searches by name, at least two, all on the same data; a name is a folder's too.
        path: the run folder to create.
        search_space: the space of all, instead of the one they name.
        train_set: images for custom data.
        selection: settings of the trainings; None for :func:`selection_budget`.
        jobs: processes at a time.
        progress: who watches.
        command: how it was started, for the record.
        after: what the caller will do with the best one; kept so that a resumption can too.

    Returns:
        The record that is also written to ``searches.json``: ``best``, a name; ``searches`` by name, each with
        ``varied`` (the settings in which they differ), ``text``, ``epochs``, ``seconds``, ``supernet_accuracy`` and
        ``valid_accuracy`` [fractions; the supernet's and the trained network's on the architecture level's images],
        ``parameters`` and the run folders ``search`` and ``training``, relative to ``path``; ``selection``, the
        trainings' budget; and ``images``, how many train and how many judge. The best one's genotype is also in
        ``genotype.json`` and ``genotype.txt``. A search that diverged, or whose training did, is not in ``searches``;
        ``diverged``, there only then, says by its name what happened.

    Raises:
        UserError: for bad arguments, before anything is written.
        Diverged: where no search is left.
        Interrupted: on SIGINT or SIGTERM; continue with :func:`continue_many`.

    Source: Liu et al. 2019 (DARTS), section 3.2 (four seeds); Zela et al. 2020 (RobustDARTS), section 5 (a grid of
        weight decays); Bingham 2019 (several searches instead of one long one).
    """
    first = _check(configs, jobs)
    with use_backend(first.backend):
        job = _Many(configs, search_space, train_set, selection)
        record = job.record() | {"command": command, "after": dict(after or {})}
        environment = describe_environment(resolve_device(first.device), first.threads)
        record |= {"environment": environment, "origin": describe_origin()}
        with RunFolder.create(path, record) as folder:
            return job.run(folder, jobs, watcher(progress))


def continue_many(
    path: str | os.PathLike[str],
    *,
    train_set: ImageSet | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Continue :func:`search_many`; the result is bit for bit that of an uninterrupted call.

    Args:
        path: the run folder.
        train_set: the same images as before, for custom data.
        jobs: processes at a time, then or now.
        progress: who watches.

    Raises:
        UserError: for a folder that holds no such searches.
        Interrupted: on SIGINT or SIGTERM.
    """
    with RunFolder.open(path) as folder:
        if folder.config.get("kind") != "searches":
            raise UserError(f"{folder.path} holds a {folder.config.get('kind')} run", "the folder of several searches")
        configs = {name: SearchConfig.from_json(values) for name, values in folder.config["searches"].items()}
        first = _check(configs, jobs)
        with use_backend(first.backend):
            job = _Many(configs, Space.from_json(folder.config["space"]), train_set, folder.config["selection"])
            return job.run(folder, jobs, watcher(progress))


def best_search(path: str | os.PathLike[str]) -> SearchResult:
    """The result of the search that :func:`search_many` chose, in its own run folder.

    Args:
        path: the folder of all searches, finished.

    Raises:
        UserError: if it is no such folder, or not finished.
    """
    root = Path(path)
    folder = RunFolder.open(root)
    found = folder.read_json("searches.json")
    best = folder.inside(found["searches"][found["best"]]["search"])
    return SearchResult.from_json(RunFolder.open(best).read_json("result.json"), best)


def _check(configs: Mapping[str, SearchConfig], jobs: int) -> SearchConfig:
    """The first configuration, by whose seed, split and device the networks are judged."""
    if len(configs) < 2:
        raise UserError(f"searches to choose among: {len(configs)}", "at least 2", "use search() for a single one")
    bad = [name for name in configs if not name or Path(name).name != name or name.startswith(".")]
    if bad:
        raise UserError(f"a search is named {bad[0]!r}", "the name of a folder")
    if jobs < 1:
        raise UserError(f"jobs is {jobs}", "at least 1")
    first = next(iter(configs.values()))
    for name, config in configs.items():
        for field in ("data", "data_root", "device", "backend", "space"):
            if getattr(config, field) != getattr(first, field):
                raise UserError(
                    f"search {name} has {field} {getattr(config, field)!r}",
                    f"{getattr(first, field)!r} as the others",
                    "networks are judged on one data set and found in one space",
                )
    return first


class _Many:
    """Several searches and the trainings that tell them apart, checked."""

    def __init__(
        self,
        configs: Mapping[str, SearchConfig],
        search_space: Space | None,
        train_set: ImageSet | None,
        selection: Mapping[str, Any] | None,
    ) -> None:
        self.first = next(iter(configs.values()))
        self.space = search_space or space(self.first.space)
        # A space of one's own has a name too.
        self.configs = {key: dataclasses.replace(each, space=self.space.name) for key, each in configs.items()}
        self.train_set = train_set
        if (self.first.data == "custom") != (train_set is not None):
            raise UserError("data 'custom' without a train_set, or a train_set with other data", "both, or neither")
        images = load_images(self.first.data, self.first.data_root)[0] if train_set is None else train_set
        placed = {"device": self.first.device, "backend": self.first.backend}
        self.selection = dict(selection_budget(self.first.data, **placed) if selection is None else selection)
        self.levels = _levels(images, self.first)
        RetrainJob(self._trained(random_genotype(self.space, 0, layers=self.first.layers)), self.levels)
        # Those that differ in their seed only are refused alike.
        alike = {json.dumps(each.to_json() | {"seed": 0}): each for each in self.configs.values()}
        for config in alike.values():
            SearchJob(config, images, self.space)

    def record(self) -> dict[str, Any]:
        """What the run folder keeps: all configurations, and the first one's as the run's own."""
        listed = {name: config.to_json() for name, config in self.configs.items()}
        record = {"kind": "searches", "config": self.first.to_json(), "space": self.space.to_json()}
        return record | {"searches": listed, "selection": self.selection}

    def run(self, folder: RunFolder, jobs: int, progress: Progress) -> dict[str, Any]:
        """Search, train, choose, and write the result."""
        note_environment(folder, resolve_device(self.first.device), progress, self.first.threads)
        with stoppable(folder.path):
            found = self._found(folder.path, jobs, progress)
            chosen = RunFolder.open(folder.inside(f"searches/{found['best']}"))
            best = Genotype.from_json(chosen.read_json("genotype.json"))
            folder.write_json("genotype.json", best.to_json())
            folder.write_text("genotype.txt", best.text() + "\n")
            folder.write_json("searches.json", found)
        return found

    def _found(self, root: Path, jobs: int, progress: Progress) -> dict[str, Any]:
        searches = {
            name: Task(root / "searches" / name, config, self.space, self.train_set)
            for name, config in self.configs.items()
        }
        found, diverged = run_named(searches, jobs=jobs, progress=progress)
        trainings: dict[str, Task] = {}
        for name, result in found.items():
            config = self._trained(Genotype.from_json(result["genotype"]))
            # The first search that found a network gives its training the name.
            trainings.setdefault(result["text"], Task(root / "selection" / name, config, images=self.levels))
        trained, failed = run_named(trainings, jobs=jobs, progress=progress)
        entries: dict[str, dict[str, Any]] = {}
        varied = _varied(self.configs)
        for name, result in found.items():
            text = result["text"]
            if text in failed:
                diverged[name] = f"the training of what it found: {failed[text]}"
                continue
            entries[name] = {
                "varied": varied[name],
                "text": text,
                "epochs": result["epochs"],
                "seconds": result["seconds"],
                "supernet_accuracy": result["valid_accuracy"],
                # What a training calls its test set are here the architecture level's images.
                "valid_accuracy": trained[text]["test_accuracy"],
                "parameters": trained[text]["parameters"],
                "search": f"searches/{name}",
                "training": str(trainings[text].path.relative_to(root)),
            }
        if not entries:
            raise Diverged(root, f"all {len(diverged)} searches")
        best = max(entries, key=lambda name: entries[name]["valid_accuracy"])
        images = [len(each) for each in self.levels]
        trained_as = next(iter(trainings.values())).config
        settings = {key: getattr(trained_as, key) for key in ("epochs", "channels", "layers", "batch_size", "seed")}
        record = {"best": best, "searches": entries, "selection": settings, "images": images}
        return record | ({"diverged": diverged} if diverged else {})

    def _trained(self, genotype: Genotype) -> RetrainConfig:
        settings = {**self.selection, "data": "custom", "data_root": None, "seed": self.first.seed}
        if genotype.layers is not None:
            settings["layers"] = genotype.layers
        return RetrainConfig(genotype=genotype.text(), **settings)


def _levels(images: ImageSet, config: SearchConfig) -> Sets:
    """The images of the weight level and those of the architecture level, as two sets."""
    parts = split_levels(len(images), config.train_portion, config.seed)

    def taken(indices: torch.Tensor) -> ImageSet:
        return dataclasses.replace(images, images=images.images[indices], labels=images.labels[indices])

    return taken(parts[0]), taken(parts[1])


def _varied(configs: Mapping[str, SearchConfig]) -> dict[str, dict[str, Any]]:
    """The settings, options included, in which the searches are not all alike."""
    flat = {name: config.to_json() for name, config in configs.items()}
    flat = {name: {**each, **each.pop("options", {})} for name, each in flat.items()}
    first = next(iter(flat.values()))
    differing = [key for key in first if len({json.dumps(each.get(key)) for each in flat.values()}) > 1]
    return {name: {key: each[key] for key in differing} for name, each in flat.items()}
