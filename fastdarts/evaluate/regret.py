"""The tabular truth of a small space, and how far a search is from the best network in it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any

from fastdarts.errors import UserError
from fastdarts.reading import read_json
from fastdarts.runs import RunFolder
from fastdarts.spaces import Genotype, Space, parse_genotype

__all__ = ["Network", "Table", "trajectory"]

_FORMAT = "fastdarts-table/1"
# Of a table's file: 20,000 networks with 20 seeds.
_LIMIT = 64 << 20
_MOST_VALUES = 2_000_000


@dataclass(frozen=True)
class Network:
    """One network of a table.

    Args:
        genotype: its architecture.
        parameters: its number of weights.
        valid: accuracy on the images that it was not trained on, one per training seed.
        test: accuracy on the test set, one per training seed.
    """

    genotype: Genotype
    parameters: int
    valid: tuple[float, ...]
    test: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """Mean test accuracy over the training seeds."""
        return fmean(self.test)


@dataclass(frozen=True)
class Table:
    """Every network of a space, each trained from scratch with the same budget: :func:`fastdarts.evaluate.tabulate`.

    The regret of a genotype is ``max_a accuracy(a) - accuracy(genotype)``, where accuracy is the mean test accuracy
    over the training seeds. The maximum of noisy means is a little too high, so every regret is too, all by the same.

    Args:
        space: whose networks these are.
        layers: number of cells of each.
        portion: share of the training set that the weights were trained on.
        seeds: of the trainings, in the order of the accuracies.
        settings: the budget, as of :class:`fastdarts.evaluate.RetrainConfig`.
        networks: all of them.
        environment: versions and machine.

    Raises:
        UserError: for a network that is missing, given twice or of another space, or accuracies that do not fit.
    """

    space: Space
    layers: int
    portion: float
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    networks: tuple[Network, ...]
    environment: Mapping[str, Any]

    def __post_init__(self) -> None:
        for network in self.networks:
            self.space.check(network.genotype, self.layers, counted=True)
            if not len(network.test) == len(network.valid) == len(self.seeds):
                raise UserError(
                    f"{len(network.test)} test and {len(network.valid)} validation accuracies of a network",
                    f"{len(self.seeds)}, one per seed",
                )
        if len(self._by_edges) != len(self.networks) or len(self.networks) != self.space.size(self.layers):
            raise UserError(
                f"a table of {len(self.networks)} networks, {len(self._by_edges)} of them different",
                f"the {self.space.size(self.layers)} networks of space {self.space.name}, each once",
            )

    @cached_property
    def _by_edges(self) -> dict[object, Network]:
        return {_edges(network.genotype): network for network in self.networks}

    @cached_property
    def ranking(self) -> tuple[Network, ...]:
        """The networks, the best first; of equal ones in the order of the table."""
        return tuple(sorted(self.networks, key=lambda network: -network.accuracy))

    def find(self, genotype: Genotype) -> Network:
        """The network of a genotype, in whatever order its edges are written.

        Raises:
            UserError: it is not of this space.
        """
        self.space.check(genotype, self.layers, counted=True)
        return self._by_edges[_edges(genotype)]

    def regret(self, genotype: Genotype) -> float:
        """How much better the best network is on the test set, as a fraction.

        Raises:
            UserError: it is not of this space.
        """
        return self.ranking[0].accuracy - self.find(genotype).accuracy

    def rank(self, genotype: Genotype) -> int:
        """1 for the best network, ``len(networks)`` for the worst; equal ones share the better rank."""
        accuracy = self.find(genotype).accuracy
        return 1 + sum(network.accuracy > accuracy for network in self.networks)

    def by_chance(self) -> tuple[float, float]:
        """Mean and standard deviation of the regret of a network drawn uniformly; exact, nothing is drawn."""
        best = self.ranking[0].accuracy
        regrets = [best - network.accuracy for network in self.networks]
        mean = fmean(regrets)
        return mean, math.sqrt(math.fsum((each - mean) ** 2 for each in regrets) / len(regrets))

    def noise(self) -> float | None:
        """Standard error of a network's accuracy: what one training seed adds, pooled over all, over ``sqrt(seeds)``.

        Returns:
            A fraction; None where there is one seed.
        """
        count = len(self.seeds)
        if count < 2:
            return None
        squares = (math.fsum((each - net.accuracy) ** 2 for each in net.test) / (count - 1) for net in self.networks)
        return math.sqrt(math.fsum(squares) / len(self.networks) / count)

    def to_json(self) -> dict[str, Any]:
        """The table as JSON data; :meth:`from_json` gives an equal one back."""
        networks = [
            {
                "genotype": network.genotype.text(),
                "parameters": network.parameters,
                "valid": list(network.valid),
                "test": list(network.test),
            }
            for network in self.networks
        ]
        head = {"format": _FORMAT, "space": self.space.to_json(), "layers": self.layers, "portion": self.portion}
        head |= {"seeds": list(self.seeds), "settings": dict(self.settings), "environment": dict(self.environment)}
        return head | {"networks": networks}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Table:
        """Rebuild a table from :meth:`to_json`.

        Raises:
            UserError: the data is no table, or not a whole one.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise UserError("not the JSON of a table", f'an object with "format": "{_FORMAT}"')
        try:
            networks = tuple(
                Network(parse_genotype(n["genotype"]), n["parameters"], tuple(n["valid"]), tuple(n["test"]))
                for n in data["networks"]
            )
            space, seeds = Space.from_json(data["space"]), tuple(data["seeds"])
            return cls(space, data["layers"], data["portion"], seeds, data["settings"], networks, data["environment"])
        except (KeyError, TypeError) as error:
            raise UserError(f"the JSON of a table is malformed: {error}", "what Table.to_json writes") from None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Table:
        """Read a table from its file.

        Raises:
            UserError: the file cannot be read, or holds no table.
        """
        try:
            data = read_json(path, limit=_LIMIT, values=_MOST_VALUES)
        except UserError as error:
            raise UserError(
                f"{os.fspath(path)} cannot be read: {error.what}", "a table of `fastdarts tabulate`", error.remedy
            ) from error
        return cls.from_json(data)


def _edges(genotype: Genotype) -> object:
    """What two genotypes share that are one network: a node sums its inputs in whatever order."""
    return tuple((key, frozenset(cell.edges()), frozenset(cell.concat)) for key, cell in genotype.pairs)


def trajectory(table: Table, path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The regret of every epoch's genotype of a search in a table's space.

    Args:
        table: of the space, at the search's number of layers.
        path: the run folder of the search, finished or not.

    Returns:
        For each epoch that has ended, in order: ``epoch``, ``regret`` [fraction], ``rank``, ``skips`` {key: count},
        ``valid_accuracy``, ``eigenvalue`` (None where it was not measured) and ``guard`` (what a guard did, or None).

    Raises:
        UserError: the folder holds no search, or one of another space or depth.
    """
    folder = RunFolder.open(path)
    curve = []
    for record in folder.metrics():
        if record["kind"] != "epoch":
            continue
        kept = folder.read_json(f"epochs/{record['epoch']:04d}.json")
        genotype = Genotype.from_json(kept["genotype"])
        point = {"epoch": record["epoch"], "regret": table.regret(genotype), "rank": table.rank(genotype)}
        point |= {"skips": record["skips"], "valid_accuracy": record["valid_accuracy"]}
        curve.append(point | {name: record.get(name) for name in ("eigenvalue", "guard")})
    return curve
