"""The truth about a small space: every network of it trained from scratch, once, kept in one small file."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from fastdarts._backend import use_backend
from fastdarts.data import Batches, ImageSet, split_levels
from fastdarts.errors import Diverged, UserError
from fastdarts.evaluate.folders import continued
from fastdarts.evaluate.regret import Network, Table
from fastdarts.evaluate.retrain import RetrainConfig, RetrainJob, Sets, begun, images_of
from fastdarts.evaluate.tasks import Task, run_tasks
from fastdarts.reading import conform, read_json
from fastdarts.runs.durable import replace_file
from fastdarts.runs.seal import digest, sealed, unsealed
from fastdarts.search.divergence import WORST, check_losses
from fastdarts.search.environment import reproducible
from fastdarts.search.figures import evaluate
from fastdarts.search.interrupt import Stop, stoppable
from fastdarts.search.progress import Progress
from fastdarts.spaces import CellGenotype, CellSpace, Genotype, Space, parse_genotype

__all__ = ["Training", "genotypes", "tabulate"]

# 15,625 networks, all of NAS-Bench-201, took its authors 100 GPU days: what is larger was probably not meant.
_MOST = 20_000
_RESULT = {
    "parameters!": int,
    **dict.fromkeys(("valid_loss!", "valid_accuracy!", "test_loss!", "test_accuracy!"), float),
}


def genotypes(space: Space, layers: int | None = None) -> Iterator[Genotype]:
    """Every genotype of a space once, in a fixed order: the last edge's operator changes fastest.

    Args:
        space: the search space.
        layers: number of cells; None takes the space's own.

    Yields:
        ``space.size(layers)`` genotypes; inside a node the edges are ordered by source.
    """
    keys = space.arch_keys(layers)
    choices = [list(_cells(space.cell(key, layers), space.keep)) for key in keys]
    for cells in itertools.product(*choices):
        yield Genotype(dict(zip(keys, cells, strict=True)))


def _cells(cell: CellSpace, keep: int | None) -> Iterator[CellGenotype]:
    nodes = []
    for node in cell.states:
        edges = [cell.edges[index] for index in cell.into(node)]
        kept = len(edges) if keep is None else min(keep, len(edges))
        nodes.append(
            [
                tuple((op, edge.source) for op, edge in zip(ops, chosen, strict=True))
                for chosen in itertools.combinations(edges, kept)
                for ops in itertools.product(*(edge.choices for edge in chosen))
            ]
        )
    for wired in itertools.product(*nodes):
        yield CellGenotype(wired, cell.concat, cell.inputs)


def tabulate(
    space: Space,
    path: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any],
    seeds: Sequence[int] = (0,),
    portion: float = 0.5,
    jobs: int = 1,
    sets: Sets | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Table:
    """Train every network of ``space`` from scratch with the same budget and keep their accuracies.

    Each is trained on the weight level's part of the training set, as a search with the same seed parts it, validated
    on the architecture level's, and tested on the test set, both once, after the last epoch. A finished network is kept
    at once: after a kill the same call trains those that are left, and its table is that of an uninterrupted call.

    Args:
        space: at most some thousand networks.
        path: the folder of the table, new or begun earlier with the same arguments; with more seeds only those are
            trained that are not there.
        settings: the budget, from :func:`fastdarts.evaluate.budget`.
        seeds: of the trainings and of the parting of the training set; every network is trained with each.
        portion: share of the training set that trains weights; the rest validates.
        jobs: processes at a time. A training takes one thread unless ``settings`` has more ``threads``, so that the
            table does not depend on how many there are.
        sets: (training, test) images for custom data.
        progress: who watches.
        command: how it was started, for the record.

    Returns:
        The table; it is also written to ``table.json`` in the folder.

    Raises:
        UserError: for bad arguments, before anything is written, or a folder begun with other ones.
        Diverged: where a training did, once the others are done: a table has all networks.
        Interrupted: on SIGINT or SIGTERM.

    Source: RobustDARTS (Zela et al. 2020, arXiv 1909.09656) for its space of 81 networks; Ying et al. 2019,
    NAS-Bench-101, for the idea.
    """
    if jobs < 1:
        raise UserError(f"jobs is {jobs}", "at least 1")
    settings, configs = _trainings(space, settings, seeds)
    first = configs[0][0]
    record = {"kind": "table", "space": space.to_json(), "portion": portion, "settings": settings}
    record = json.loads(json.dumps(record))
    root, progress = Path(path), progress or Progress()
    if not begun(root):
        with use_backend(first.backend):
            train, _, test = _parts(images_of(first, sets), portion, first.seed)
            RetrainJob(first, (train, test))
    told = {"differs": "another space, budget or portion", "expected": "the arguments that began it"}
    with continued(root, record | {"command": command}, first, progress, **told) as folder, stoppable(root):
        # Seed by seed: an unfinished table has all networks with the first.
        trainings = [
            Training(root / "networks" / f"{number:05d}-seed{config.seed}.json", config, images=sets, portion=portion)
            for row in zip(*configs, strict=True)
            for number, config in enumerate(row)
        ]
        results = run_tasks(trainings, jobs=jobs, progress=progress)
        diverged = [training.path.stem for training, each in zip(trainings, results, strict=True) if "diverged" in each]
        if diverged:
            raise Diverged(root, f"{len(diverged)} of {len(trainings)} trainings, the first of them {diverged[0]}")
        networks = tuple(_network(row[0], results[number :: len(configs)]) for number, row in enumerate(configs))
        layers, environment = settings["layers"], folder.config["environment"]
        table = Table(space, layers, portion, tuple(seeds), settings, networks, environment)
        folder.write_json("table.json", table.to_json())
    return table


def _trainings(
    space: Space, settings: Mapping[str, Any], seeds: Sequence[int]
) -> tuple[dict[str, Any], list[list[RetrainConfig]]]:
    """The budget, and for each network in order its trainings' configurations, one per seed."""
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"seeds are {list(seeds)}", "one or more different numbers")
    layers = settings.get("layers", RetrainConfig.layers) if space.shared else space.layers
    count = space.size(layers)
    if count > _MOST:
        raise UserError(
            f"space {space.name} has {count:.3g} networks at {layers} layers",
            f"at most {_MOST:,} to train one by one",
            "define a smaller space, or compare with random cells (fastdarts compare)",
        )
    settings = {name: value for name, value in settings.items() if name != "seed"} | {"layers": layers}
    settings["threads"] = settings.get("threads") or 1
    texts = [genotype.text() for genotype in genotypes(space, layers)]
    return settings, [[RetrainConfig(genotype=text, seed=seed, **settings) for seed in seeds] for text in texts]


def _parts(sets: Sets, portion: float, seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """The weight level's images, the architecture level's and the test set."""
    train, test = sets
    weight_level, arch_level = (
        dataclasses.replace(train, images=train.images[part], labels=train.labels[part])
        for part in split_levels(len(train.labels), portion, seed)
    )
    return weight_level, arch_level, test


def _network(config: RetrainConfig, results: Sequence[Mapping[str, Any]]) -> Network:
    valid, test = (tuple(each[f"{part}_accuracy"] for each in results) for part in ("valid", "test"))
    return Network(parse_genotype(config.genotype), results[0]["parameters"], valid, test)


@dataclass(frozen=True)
class Training(Task):
    """One network with one seed; its path is the file of its result, not a run folder.

    A training of a table is short, so one that was killed begins anew.

    Args:
        portion: share of the training set that trains weights.
    """

    portion: float = 0.5

    @property
    def finished(self) -> bool:
        return self.path.exists()

    def run(self, progress: Progress) -> dict[str, Any]:
        if not self.finished:
            with stoppable(self.path.parent.parent) as stop:
                result = self._train(stop)
                text = json.dumps(sealed(result, self._owner, self.path.name))
                replace_file(self.path, (text + "\n").encode("ascii"))
        where, run = str(self.path), str(self.path.parent.parent)
        found = unsealed(read_json(self.path, follow=False), self._owner, self.path.name, where, run)
        checked: dict[str, Any] = conform(found, _RESULT, where)
        return checked

    @property
    def _owner(self) -> str:
        return digest([dataclasses.asdict(cast(RetrainConfig, self.config)), self.portion])

    def _train(self, stop: Stop) -> dict[str, Any]:
        config = cast(RetrainConfig, self.config)
        with use_backend(config.backend):
            train, valid, test = _parts(images_of(config, self.images), self.portion, config.seed)
            job = RetrainJob(config, (train, test))
            with reproducible(job.device, config.threads):
                for epoch in range(job.epochs):
                    job.begin_epoch(epoch)
                    for position in range(job.steps):
                        job.step(epoch, position)
                        stop.check(self.path)
                body = (weight.numel() for name, weight in job.model.named_parameters() if "auxiliary" not in name)
                result: dict[str, Any] = {"parameters": sum(body)}
                for name, images in (("valid", valid), ("test", test)):
                    batches = Batches(
                        images, batch_size=config.batch_size, seed=0, device=job.device, shuffle=False, drop_last=False
                    )
                    result[f"{name}_loss"], result[f"{name}_accuracy"] = evaluate(job.model, batches.once())
        check_losses(result, self.path, worst=WORST)
        return result
