"""Guards that end a search, or begin it anew, by the genotype alone: DARTS+ and restarts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastdarts.errors import UserError
from fastdarts.search.choices import Action, Begin, EpochEnd, Guard, Stage, Stop
from fastdarts.spaces import PRIMITIVES, Genotype

__all__ = ["Restart", "SkipLimit", "StableRanking"]


class SkipLimit(Guard):
    """DARTS+: stop when a normal cell of the genotype has too many skip connections; its genotype is the answer.

    The alphas start at random, so that a genotype of no meaning may have them too: the first epochs do not count.

    Args:
        skips: so many end the search; the paper's is 2.
        start_epoch: first epoch of a stage that counts. The paper names none.

    Raises:
        UserError: skips below 1, a negative epoch.

    Source: Liang et al. 2019 (DARTS+), arXiv 1909.06035: "two or more than two skip-connects in one normal cell".
    """

    def __init__(self, skips: int = 2, start_epoch: int = 0) -> None:
        if skips < 1:
            raise UserError(f"skips is {skips}", "at least 1", "DARTS+ stops at 2")
        self.skips, self.start_epoch = skips, _not_negative("start_epoch", start_epoch)

    def after_epoch(self, end: EpochEnd) -> Action | None:
        if end.stage_epoch < self.start_epoch:
            return None
        for key in _normal_keys(end.stage):
            found = end.genotype.skips(key)
            if found >= self.skips:
                return Stop(f"DARTS+: {found} skip connections in the {key} cell, {self.skips} end the search")
        return None


class StableRanking(Guard):
    """DARTS+: stop when the learnable operators of the normal cells have kept their order on every edge for a while.

    Args:
        epochs: so many epochs in a row with one ranking end the search; the paper's is 10.
        start_epoch: first epoch of a stage that counts: while the alphas wait, no ranking changes.

    Raises:
        UserError: less than 2 epochs, a negative epoch.

    Source: Liang et al. 2019 (DARTS+), arXiv 1909.06035: the ranking of the architecture parameters "for learnable
    operations becomes stable for a determined number of epochs (e.g., 10 epochs)".
    """

    def __init__(self, epochs: int = 10, start_epoch: int = 0) -> None:
        if epochs < 2:
            raise UserError(f"stable_epochs is {epochs}", "2 or more, or 0 for no such rule", "DARTS+ takes 10")
        self.epochs, self.start_epoch = epochs, _not_negative("start_epoch", start_epoch)
        self._run = _Run()

    def after_epoch(self, end: EpochEnd) -> Action | None:
        if end.stage_epoch < self.start_epoch:
            return None
        if self._run.extended(_ranking(end), end.stage.index) < self.epochs:
            return None
        return Stop(f"DARTS+: the learnable operators have kept their order for {self.epochs} epochs")

    def rolled_back(self, epoch: int) -> None:
        self._run = _Run()

    def state_dict(self) -> dict[str, Any]:
        return self._run.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._run.load_state_dict(state)


class Restart(Guard):
    """Begin anew, on a fresh model and fresh alphas, when the search is stuck at one network; the best attempt wins.

    Stuck: the genotype is the same, but for the order in which a node sums its inputs, for ``epochs`` epochs in a row
    in which the alphas learn. The new stage has the epochs that are left, and its schedules run over them; with fewer
    than it takes to be stuck again the search goes on instead. The answer is the stage whose last epoch has the highest
    validation accuracy, the earlier of equals, among those after which nothing else is planned.

    Args:
        epochs: N.
        arch_start_epoch: the epochs of a stage in which the alphas wait, and nothing can change.

    Raises:
        UserError: N below 2, since every epoch has one genotype.

    Source: Bingham: Ineffectiveness of Gradient-based Neural Architecture Search, conclusion: "random restarts any time
    the search becomes stuck at a single architecture for multiple epochs". The choice among the attempts is ours.
    """

    def __init__(self, epochs: int, arch_start_epoch: int = 0) -> None:
        if epochs < 2:
            raise UserError(f"restart_after is {epochs}", "2 or more epochs with one genotype, or 0 for never")
        self.epochs, self.arch_start_epoch = epochs, arch_start_epoch
        self._run = _Run()
        # By stage: its last epoch so far and that epoch's validation accuracy.
        self._ends: dict[int, tuple[int, float]] = {}

    def after_epoch(self, end: EpochEnd) -> Action | None:
        stage = end.stage
        if not stage.after:
            self._ends[stage.index] = end.epoch, float(end.record["valid_accuracy"])
        if end.stage_epoch < self.arch_start_epoch:
            return None
        run = self._run.extended(_network(end.genotype), stage.index)
        left = stage.end - (end.epoch + 1)
        if run < self.epochs or left < self.arch_start_epoch + self.epochs:
            return None
        fresh = Stage(end.epoch + 1, left, stage.space, stage.layers, stage.index + 1, stage.after, stage.skip_dropout)
        return Begin(f"one genotype for {run} epochs: the search starts anew, with the {left} epochs left", fresh)

    def rolled_back(self, epoch: int) -> None:
        self._run = _Run()

    def answer(self) -> int | None:
        # Without a restart the last epoch's genotype needs no opinion of this guard.
        if len(self._ends) < 2:
            return None
        return max(sorted(self._ends.values()), key=lambda each: each[1])[0]

    def state_dict(self) -> dict[str, Any]:
        ends = [[index, epoch, accuracy] for index, (epoch, accuracy) in self._ends.items()]
        return self._run.state_dict() | {"ends": ends}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._run.load_state_dict(state)
        self._ends = {index: (epoch, accuracy) for index, epoch, accuracy in state["ends"]}


class _Run:
    """How many epochs of a stage in a row have shown the same."""

    def __init__(self) -> None:
        self._seen, self._stage, self._length = "", -1, 0

    def extended(self, seen: str, stage: int) -> int:
        """Count an epoch that shows ``seen``; return the length of the run that it ends."""
        same = (self._seen, self._stage) == (seen, stage)
        self._seen, self._stage, self._length = seen, stage, self._length + 1 if same else 1
        return self._length

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self._seen, "stage": self._stage, "length": self._length}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._seen, self._stage, self._length = state["seen"], state["stage"], state["length"]


def _normal_keys(stage: Stage) -> list[str]:
    kinds = dict(zip(stage.space.keys(stage.layers), stage.space.kinds(stage.layers), strict=True))
    return [key for key, kind in kinds.items() if kind == "normal"]


def _ranking(end: EpochEnd) -> str:
    """The learnable operators of each edge of the normal cells, the strongest first, as text to be compared."""
    ranking = []
    for key in _normal_keys(end.stage):
        edges = end.stage.space.cell(key, end.stage.layers).edges
        for edge, row in zip(edges, end.mixing["weights"][key].tolist(), strict=True):
            learnable = [k for k, name in enumerate(edge.primitives) if not PRIMITIVES[name].parameter_free]
            ranking.append(sorted(learnable, key=row.__getitem__, reverse=True))
    return json.dumps(ranking)


def _network(genotype: Genotype) -> str:
    """The genotype without the order of a node's inputs, which a sum does not see, as text to be compared."""
    return json.dumps([[key, [sorted(node) for node in cell.nodes]] for key, cell in genotype.cells.items()])


def _not_negative(name: str, value: int) -> int:
    if value < 0:
        raise UserError(f"{name} is {value}", "0 or more")
    return value
