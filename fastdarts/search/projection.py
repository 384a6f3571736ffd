"""DARTS-PT: an operator is worth what the supernet loses without it, whatever its alpha says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search.choices import Mixing, Relaxation
from fastdarts.search.schedule import cosine
from fastdarts.search.step import SearchStep, accuracy
from fastdarts.search.stepper import Stepper, batch_statistics
from fastdarts.spaces import CellGenotype, Genotype, Space

if TYPE_CHECKING:
    from fastdarts.search.job import SearchJob

__all__ = ["Projection", "check_tuning", "project"]

Rows = Mapping[str, Tensor]


class Projection:
    """Which operators and edges were decided, and how the next is.

    Args:
        space: the search space.
        layers: number of cells.

    Attributes:
        operators: {key: for each edge the column of its operator; None while it is open}.
        removed: {key: edges that their node does without}.

    Source: Wang et al.: Rethinking Architecture Selection in Differentiable NAS, ICLR 2021, Algorithm 1 and section
    4.3; the authors' `sota/cnn/projection.py`.
    """

    def __init__(self, space: Space, layers: int) -> None:
        self.space, self.layers = space, layers
        self.cells = {key: space.cell(key, layers) for key in space.arch_keys(layers)}
        self.operators: dict[str, list[int | None]] = {
            key: [None] * len(cell.edges) for key, cell in self.cells.items()
        }
        self.removed: dict[str, set[int]] = {key: set() for key in self.cells}

    def weights(self, rows: Rows) -> dict[str, Tensor]:
        """Mixing weights [E, width] of each key, 1 and 0 where an edge is decided, 0 where it was removed."""
        found = {}
        for key, each in rows.items():
            hard = torch.zeros_like(each)
            open_edges = torch.zeros(len(each), 1, dtype=torch.bool, device=each.device)
            for edge, column in enumerate(self.operators[key]):
                if edge in self.removed[key]:
                    continue
                if column is None:
                    open_edges[edge] = True
                else:
                    hard[edge, column] = 1.0
            found[key] = torch.where(open_edges, each, hard)
        return found

    def choose_operator(self, key: str, edge: int, rows: Rows, merit: Callable[[Rows], float]) -> int:
        """Give an open edge the operator without which the merit is the lowest; of equal ones the first.

        The others' weights stay as they are, and `none` is not to be chosen.
        """
        weights = self.weights({name: each.detach() for name, each in rows.items()})
        names = self.cells[key].edges[edge].primitives
        merits = {}
        for column in (column for column, name in enumerate(names) if name != "none"):
            if len(self.cells[key].edges[edge].choices) == 1:
                merits[column] = 0.0
            else:
                without = weights[key].clone()
                without[edge, column] = 0.0
                merits[column] = merit({**weights, key: without})
        chosen = min(merits, key=merits.__getitem__)
        self.operators[key][edge] = chosen
        return chosen

    def choose_edges(self, key: str, node: int, rows: Rows, merit: Callable[[Rows], float]) -> list[int]:
        """Remove edges into a node until it has as many as a genotype keeps, each time the one that is missed least.

        Of equal ones the last goes, as in the authors' code.
        """
        kept = list(self.cells[key].into(node))
        while self.space.keep is not None and len(kept) > self.space.keep:
            weights = self.weights({name: each.detach() for name, each in rows.items()})
            merits = {}
            for edge in kept:
                without = weights[key].clone()
                without[edge] = 0.0
                merits[edge] = merit({**weights, key: without})
            worst = max(reversed(kept), key=merits.__getitem__)
            kept.remove(worst)
            self.removed[key].add(worst)
        return kept

    def genotype(self) -> Genotype:
        """What was decided, once everything is; the edges of a node in the order of their sources."""
        cells = {}
        for key, cell in self.cells.items():
            nodes = []
            for node in cell.states:
                pairs = []
                for edge in cell.into(node):
                    column = self.operators[key][edge]
                    if edge not in self.removed[key] and column is not None:
                        pairs.append((cell.edges[edge].primitives[column], cell.edges[edge].source))
                nodes.append(tuple(pairs))
            cells[key] = CellGenotype(tuple(nodes), cell.concat, cell.inputs)
        return Genotype(cells)

    def crowded(self, key: str) -> list[int]:
        """The nodes with more edges than a genotype keeps."""
        cell, keep = self.cells[key], self.space.keep
        return [] if keep is None else [node for node in cell.states if len(cell.into(node)) > keep]


class _Projected(Relaxation):
    """The search's mixture, where it is still one, and what was decided else; nothing else runs."""

    def __init__(self, inner: Relaxation, projection: Projection) -> None:
        self.inner, self.projection = inner, projection

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        mixing = self.inner.still(model)
        weights = self.projection.weights(mixing["weights"])
        return {**mixing, "weights": weights, "active": _running(model, weights)}


def _running(model: Supernet, weights: Rows) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The operators of which there is any."""
    found = {}
    for key, rows in weights.items():
        counts = model.space.cell(key, model.layers).counts
        table = rows.detach().tolist()
        found[key] = tuple(
            tuple(k for k in range(count) if row[k] != 0.0) for row, count in zip(table, counts, strict=True)
        )
    return found


def project(
    job: SearchJob,
    tune_epochs: int,
    seed: int,
    note: Callable[[str], None],
    decided: Callable[[], None] = lambda: None,
) -> Genotype:
    """Select the architecture of a search's supernet by perturbation, and tune the supernet between the decisions.

    One edge of each cell type after the other, in random order, gets the operator without which the validation accuracy
    falls furthest; then one node after the other loses the edges that it misses least. Validation normalises by batch
    statistics. Between two decisions both levels learn for ``tune_epochs`` epochs, the weights at a tenth of the rate
    of the search, by cosine to ``lr_min``, with fresh momenta.

    Args:
        job: a search after its last epoch. Its model learns on.
        tune_epochs: the authors' `proj_intv`; 0: decide on the supernet as it is.
        seed: of the order in which edges and nodes are decided.
        note: tells a person one line.
        decided: called between decisions; it may raise to end the selection.

    Raises:
        UserError: tuning a search whose passes run draws, which has no mixture to tune.
    """
    relaxation, model = job.choices.relaxation, job.model
    check_tuning(relaxation, tune_epochs, job.config.method)
    projection = Projection(job.stage.space, job.stage.layers)
    draw = Random(seed)
    orders = {key: draw.sample(range(len(cell.edges)), len(cell.edges)) for key, cell in projection.cells.items()}
    nodes = {key: draw.sample(projection.crowded(key), len(projection.crowded(key))) for key in orders}
    decisions = max(map(len, orders.values())) + max(map(len, nodes.values()))
    tuning = _Tuning(job, projection, tune_epochs * (decisions - 1) + 1)
    edge_weights = relaxation.still(model)["edge_weights"]

    def merit(weights: Rows) -> float:
        mixing: Mixing = {"weights": weights, "edge_weights": edge_weights, "active": _running(model, weights)}
        return _accuracy(model, mixing, job.valid.once())

    for number in range(decisions):
        rows = relaxation.still(model)
        edge_weights = rows["edge_weights"]
        for key, cell in projection.cells.items():
            at = number - len(orders[key])
            if at < 0:
                edge = orders[key][number]
                column = projection.choose_operator(key, edge, rows["weights"], merit)
                place = cell.edges[edge]
                note(f"{key} {number + 1}: edge {place.source} -> {place.node} is {place.primitives[column]}")
            elif at < len(nodes[key]):
                kept = projection.choose_edges(key, nodes[key][at], rows["weights"], merit)
                note(f"{key}: node {nodes[key][at]} keeps {', '.join(str(cell.edges[edge].source) for edge in kept)}")
        decided()
        if number + 1 < decisions:
            tuning.epochs(tune_epochs)
    return projection.genotype()


def check_tuning(relaxation: Relaxation, tune_epochs: int, method: str) -> None:
    """Refuse to tune the supernet of a method that never ran the mixture.

    Raises:
        UserError: naming the method.
    """
    if tune_epochs and (relaxation.draws or relaxation.asks_host or not relaxation.learns):
        raise UserError(
            f"selection by perturbation with tuning after {method}, whose passes do not run the mixture",
            "0 epochs of tuning (--tune-epochs 0, select_tune_epochs=0)",
        )


class _Tuning:
    def __init__(self, job: SearchJob, projection: Projection, total: int) -> None:
        self.job, self.total, self.done = job, total, 0
        config = replace(job.config, lr=job.config.lr / 10)
        self.step = SearchStep(job.model, config, _Projected(job.choices.relaxation, projection))
        # The alphas' optimiser goes on, the weights' begins anew.
        self.step.arch_optimizer.load_state_dict(job.step_both.arch_optimizer.state_dict())
        self.step.cost = job.step_both.cost
        self.stepper = Stepper(self.step, job.train, None if config.one_level else job.valid, None)

    def epochs(self, count: int) -> None:
        config = self.step.config
        for _ in range(count):
            self.step.set_lr(cosine(self.done, self.total, config.lr, min(config.lr_min, config.lr)))
            self.job.model.train()
            for _ in range(self.job.steps):
                self.stepper(self.stepper.draw(), 1.0, alphas=True)
            self.done += 1


@torch.no_grad()
def _accuracy(model: Supernet, mixing: Mixing, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    correct, count = [], 0
    with batch_statistics(model):
        for images, labels in batches:
            correct.append(accuracy(model(images, **mixing), labels) * len(labels))
            count += len(labels)
    return float(torch.stack(correct).sum()) / count
