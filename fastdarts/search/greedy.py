"""SGAS: edges are decided one after the other while the search runs, and what they lost no longer does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.nn.fused import constant
from fastdarts.search.choices import Action, Derivation, EpochEnd, Guard, Mixing, Relaxation, Rewire, Stage
from fastdarts.spaces import CellGenotype, CellSpace, Genotype, Space

__all__ = ["Decisions", "GreedyDecisions", "GreedyDerivation", "GreedyRelaxation", "scores"]

UNDECIDED, PRUNED = -1, -2


class Decisions:
    """What was decided so far, shared by a search's relaxation, guard and derivation.

    Attributes:
        chosen: {key: for each edge the column of its operator, UNDECIDED or PRUNED}; a key comes with its first
            decision.
    """

    def __init__(self) -> None:
        self.chosen: dict[str, list[int]] = {}

    def of(self, key: str, edges: int) -> list[int]:
        """The decisions of an architecture's edges."""
        return self.chosen.get(key) or [UNDECIDED] * edges

    def decide(self, key: str, cell: CellSpace, edge: int, column: int, keep: int | None) -> None:
        """Give an edge its operator; where its node then has all its inputs, its other edges are pruned."""
        chosen = self.chosen[key] = list(self.of(key, len(cell.edges)))
        chosen[edge] = column
        siblings = cell.into(cell.edges[edge].node)
        if keep is not None and sum(chosen[each] >= 0 for each in siblings) >= keep:
            for each in siblings:
                chosen[each] = PRUNED if chosen[each] == UNDECIDED else chosen[each]


class GreedyRelaxation(Relaxation):
    """Softmax where an edge is undecided; a decided edge runs its operator with weight 1, a pruned one does not run.

    The alphas of an edge that is decided or pruned stay as they are: Adam's moments and weight decay would go on.

    Source: Li et al. 2020 (SGAS), section 3 and Algorithm 1.
    """

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions
        # Between a pass and the update that follows it, so never part of a checkpoint.
        self._before: dict[str, Tensor] = {}

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        mixing = self.still(model)
        self._before = {key: model.arch.alphas[key].detach().clone() for key in self.decisions.chosen}
        if self.decisions.chosen:
            # Exactly what is left runs: neither what an edge lost nor a pruned edge costs anything.
            mixing["active"] = {key: self._active(model, key) for key in mixing["weights"]}
        return mixing

    def still(self, model: Supernet) -> Mixing:
        weights = {key: self._decided(key, rows) for key, rows in model.mixing_weights().items()}
        return {"weights": weights, "edge_weights": model.edge_weights()}

    def evaluated(self, model: Supernet) -> Mixing:
        return self(model, 1.0)

    @torch.no_grad()
    def learned(self, model: Supernet) -> None:
        """Put back the alphas of the edges that learn no more."""
        for key, before in self._before.items():
            alphas = model.arch.alphas[key]
            learning = tuple((edge == UNDECIDED,) for edge in self.decisions.chosen[key])
            alphas.copy_(torch.where(constant(learning, alphas.device), alphas, before))

    def _decided(self, key: str, rows: Tensor) -> Tensor:
        chosen = self.decisions.chosen.get(key)
        if chosen is None:
            return rows
        ones = tuple(tuple(float(column == edge) for column in range(rows.shape[1])) for edge in chosen)
        learning = tuple((edge == UNDECIDED,) for edge in chosen)
        return torch.where(constant(learning, rows.device), rows, constant(ones, rows.device).to(rows))

    def _active(self, model: Supernet, key: str) -> tuple[tuple[int, ...], ...]:
        counts = model.space.cell(key, model.layers).counts
        chosen = self.decisions.of(key, len(counts))
        return tuple(
            tuple(range(count)) if edge == UNDECIDED else () if edge == PRUNED else (edge,)
            for edge, count in zip(chosen, counts, strict=True)
        )


class GreedyDecisions(Guard):
    """Every few epochs decides one edge of each architecture: the one whose choice matters most and is clearest.

    After stage epoch `e`, if `e >= decide_from` and `(e - decide_from) % decide_every == 0`: of the undecided edges the
    one with the highest score, :func:`scores`, gets its strongest operator besides `none`. A decided edge keeps the row
    that it was decided on, with which the scores of the others are scaled. No rollback takes a decision back.

    Args:
        decisions: shared with the relaxation.
        decide_from: first epoch of a stage with a decision; 9.
        decide_every: epochs between decisions; 5.
        criterion: 1, importance and certainty; or 2, stability too.
        history: epochs over which stability is averaged; 4.
        batch_increase: images that a batch has more after every epoch with a decision, as the memory allows then; 8.

    Raises:
        UserError: a negative epoch or increase, an interval or history below 1, an unknown criterion.

    Source: Li et al. 2020 (SGAS), section 3 and Algorithm 1; the authors' settings for CIFAR-10.
    """

    def __init__(
        self,
        decisions: Decisions,
        *,
        decide_from: int = 9,
        decide_every: int = 5,
        criterion: int = 1,
        history: int = 4,
        batch_increase: int = 8,
    ) -> None:
        for name, value, least in (
            ("decide_from", decide_from, 0),
            ("batch_increase", batch_increase, 0),
            ("decide_every", decide_every, 1),
            ("history", history, 1),
        ):
            if value < least:
                raise UserError(f"{name} is {value}", f"{least} or more")
        if criterion not in (1, 2):
            raise UserError(f"criterion is {criterion}", "1 (importance, certainty) or 2 (stability too)")
        self.decisions, self.criterion = decisions, criterion
        self.decide_from, self.decide_every, self.history = decide_from, decide_every, history
        self.batch_increase = batch_increase
        # Rows of mixing weights by architecture: those of the last epochs, the newest last, and those decided on.
        self._past: dict[str, list[Tensor]] = {}
        self._frozen: dict[str, Tensor] = {}

    def after_epoch(self, end: EpochEnd) -> Action | None:
        space, layers, epoch = end.stage.space, end.stage.layers, end.stage_epoch - self.decide_from
        made = []
        for key, weights in end.model.mixing_weights().items():
            cell = space.cell(key, layers)
            rows = self._rows(key, cell, weights.detach().double().cpu())
            if epoch >= 0 and epoch % self.decide_every == 0:
                made += self._decide(key, cell, rows, space.keep)
            self._past[key] = [*self._past.get(key, []), rows][-self.history :]
        open_edges = sum(
            self.decisions.of(key, len(space.cell(key, layers).edges)).count(UNDECIDED)
            for key in space.arch_keys(layers)
        )
        if end.last and open_edges:
            end.note(f"SGAS: {open_edges} edges are undecided after the last epoch; their importance decides")
        return Rewire("SGAS: " + "; ".join(made), self.batch_increase) if made else None

    def check(self, stage: Stage) -> None:
        """Refuse a search that ends before its last edge is decided.

        Raises:
            UserError: naming the epochs that it takes.
        """
        space, layers = stage.space, stage.layers
        cells = {key: space.cell(key, layers) for key in space.arch_keys(layers)}
        most = max(sum(_kept(cell, node, space.keep) for node in cell.states) for cell in cells.values())
        epochs = self.decide_from + self.decide_every * (most - 1) + 1
        if stage.epochs < epochs:
            raise UserError(
                f"{stage.epochs} epochs with decide_from {self.decide_from} and decide_every {self.decide_every}: the "
                f"{most} decisions of a cell end after epoch {epochs}",
                f"at least {epochs} epochs, of which the authors add 5",
                "set a smaller decide_every, or decide_all=false to leave the rest to importance",
            )

    def _rows(self, key: str, cell: CellSpace, rows: Tensor) -> Tensor:
        open_edges = torch.tensor(self.decisions.of(key, len(cell.edges))) == UNDECIDED
        frozen = rows if key not in self._frozen else torch.where(open_edges[:, None], rows, self._frozen[key])
        self._frozen[key] = frozen
        return frozen

    def _decide(self, key: str, cell: CellSpace, rows: Tensor, keep: int | None) -> list[str]:
        chosen = self.decisions.of(key, len(cell.edges))
        open_edges = [edge for edge, column in enumerate(chosen) if column == UNDECIDED]
        if not open_edges:
            return []
        stability = self._past.get(key, []) if self.criterion == 2 else None
        score = scores(cell, rows, stability).tolist()
        edge = max(open_edges, key=lambda each: score[each])
        column = _strongest(cell, edge, rows[edge].tolist())
        self.decisions.decide(key, cell, edge, column, keep)
        place = cell.edges[edge]
        return [f"edge {place.source} -> {place.node} of the {key} cell is {place.primitives[column]}"]

    def state_dict(self) -> dict[str, Any]:
        return {"chosen": dict(self.decisions.chosen), "past": dict(self._past), "frozen": dict(self._frozen)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.decisions.chosen = {key: [int(edge) for edge in chosen] for key, chosen in state["chosen"].items()}
        self._past = {key: list(past) for key, past in state["past"].items()}
        self._frozen = dict(state["frozen"])


class GreedyDerivation(Derivation):
    """The decided edges with their operators; a node that lacks some takes the most important undecided ones.

    The edges of a node stand in the order of their sources, as the authors' code writes them.

    Source: Li et al. 2020 (SGAS), Algorithm 1.
    """

    def __init__(self, decisions: Decisions) -> None:
        self.decisions = decisions

    def __call__(self, space: Space, mixing: Mapping[str, Any], layers: int) -> Genotype:
        cells = {}
        for key in space.arch_keys(layers):
            cell = space.cell(key, layers)
            rows = mixing["weights"][key].detach().double().cpu()
            nodes = tuple(self._node(key, cell, rows, node, space.keep) for node in cell.states)
            cells[key] = CellGenotype(nodes, cell.concat, cell.inputs)
        return Genotype(cells)

    def _node(
        self, key: str, cell: CellSpace, rows: Tensor, node: int, keep: int | None
    ) -> tuple[tuple[str, int], ...]:
        chosen, edges = self.decisions.of(key, len(cell.edges)), cell.into(node)
        decided = [edge for edge in edges if chosen[edge] >= 0]
        lacking = _kept(cell, node, keep) - len(decided)
        importance = _importance(cell, rows).tolist()
        undecided = [edge for edge in edges if chosen[edge] == UNDECIDED]
        taken = sorted(undecided, key=lambda edge: -importance[edge])[:lacking]
        pairs = []
        for edge in sorted([*decided, *taken]):
            column = chosen[edge] if chosen[edge] >= 0 else _strongest(cell, edge, rows[edge].tolist())
            pairs.append((cell.edges[edge].primitives[column], cell.edges[edge].source))
        return tuple(pairs)


def _kept(cell: CellSpace, node: int, keep: int | None) -> int:
    edges = len(cell.into(node))
    return edges if keep is None else min(keep, edges)


def scores(cell: CellSpace, rows: Tensor, past: Sequence[Tensor] | None = None) -> Tensor:
    """How much an edge's choice matters, how clear it is and, given its past, how stable.

    With `p[e] = w[e]` without `none`, divided by its sum: importance `1 - w[e, none]`, certainty
    `1 - H(p[e]) / log(operators)`, stability the mean over the past of `sum_k min(p[e, k], p_past[e, k])`. Each is
    scaled over the edges to [0, 1] by its smallest and largest value, and they are multiplied. What is the same for all
    edges decides nothing and counts as 1: importance in a space without `none`, or stability without a past.

    Args:
        cell: the edges and their candidates.
        rows: [E, width], float64; mixing weights w after softmax.
        past: earlier rows; None for criterion 1.

    Returns:
        [E], float64.

    Source: Li et al. 2020 (SGAS), section 3: edge importance, selection certainty and stability, criteria 1 and 2.
    `1` for what decides nothing is ours: with 0, as in the authors' code, every edge would score the same.
    """
    chances = _chances(cell, rows)
    sizes = torch.tensor([len(edge.choices) for edge in cell.edges], dtype=torch.float64)
    # One operator is no choice: nothing is as certain. Its entropy is 0, whatever that is divided by.
    certainty = 1.0 - torch.special.entr(chances).sum(1) / sizes.log().clamp_min(math.log(2.0))
    score = _scaled(_importance(cell, rows)) * _scaled(certainty)
    if past:
        overlaps = [torch.minimum(chances, _chances(cell, each)).sum(1) for each in past]
        score = score * _scaled(torch.stack(overlaps).mean(0))
    return score


def _choices(cell: CellSpace, rows: Tensor) -> Tensor:
    """Which entries of ``rows`` are operators that an edge can get, [E, width]."""
    names = [[*edge.primitives, *["none"] * (rows.shape[1] - len(edge.primitives))] for edge in cell.edges]
    return torch.tensor([[name != "none" for name in row] for row in names])


def _chances(cell: CellSpace, rows: Tensor) -> Tensor:
    operators = rows * _choices(cell, rows)
    return operators / operators.sum(1, keepdim=True)


def _importance(cell: CellSpace, rows: Tensor) -> Tensor:
    # Not the sum of the others: without `none` that is 1 but for rounding, which must not decide.
    return 1.0 - (rows * ~_choices(cell, rows)).sum(1)


def _scaled(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    # Numbers of up to 1 that differ by rounding are the same.
    return (values - low) / (high - low) if high - low > 1e-12 else torch.ones_like(values)


def _strongest(cell: CellSpace, edge: int, row: list[float]) -> int:
    names = cell.edges[edge].primitives
    return max((k for k, name in enumerate(names) if name != "none"), key=lambda k: row[k])
