"""RobustDARTS' guards: stop, or go back and regularise more, when the dominant eigenvalue rises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from fastdarts.errors import UserError
from fastdarts.search.choices import Action, EpochEnd, Guard, Rollback, Stop

__all__ = ["HISTORIES", "AdaptiveWeightDecay", "EarlyStopping", "EigenvalueHistory", "Measured", "Rise"]


HISTORIES = ("paper", "published")
"""What DARTS-ADA's averages are of after a rollback."""


class Measured(NamedTuple):
    """A dominant eigenvalue.

    Args:
        epoch: of the run, at whose end it was measured.
        stage_epoch: of the stage.
        value: the eigenvalue.
    """

    epoch: int
    stage_epoch: int
    value: float


@dataclass(frozen=True)
class Rise:
    """When eigenvalues have risen too fast, and the epoch before they did.

    ``la(k) / la(k - delta) > factor`` with the local average ``la(k) = mean(v[max(0, k - window + 1)], ..., v[k])`` of
    the measurements v. The average at k stands for the measurement in the middle of its window, ``k - window // 2``,
    so the last one that is trusted is ``k - window // 2 - delta``: with the published values and a measurement every
    second epoch, 12 epochs ago. Before ``start_epoch`` none is, which makes epoch 22 the first that can be judged.

    RobustDARTS divides whatever the two averages are. Here an average of zero or less, from which no ratio says
    anything, is never a rise; with softmax and weight decay on the alphas it cannot occur
    (:func:`fastdarts.search.curvature.dominant_eigenvalue`).

    Args:
        window: measurements in an average.
        delta: measurements between the two averages.
        factor: largest ratio that is no rise.
        start_epoch: earliest epoch of the stage to go back to.

    Raises:
        UserError: for a number out of range.

    Source: Zela et al.: Understanding and Robustifying Differentiable Architecture Search, ICLR 2020, section 4;
    docs/facts.md, 6.1.
    """

    window: int = 5
    delta: int = 4
    factor: float = 1.3
    start_epoch: int = 10

    def __post_init__(self) -> None:
        for name, least in (("window", 1), ("delta", 1), ("start_epoch", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}", f"at least {least}")
        if not self.factor > 0.0:
            raise UserError(f"factor is {self.factor}", "a positive number", "RobustDARTS uses 1.3")

    @property
    def lag(self) -> int:
        """Measurements between the one that shows a rise and the last that is trusted."""
        return self.window // 2 + self.delta

    def first_check(self, every: int) -> int:
        """The first epoch of a stage that can show a rise, with a measurement every ``every`` epochs."""
        return math.ceil(self.start_epoch / every) * every + self.lag * every

    def before(self, history: Sequence[Measured], averaged: Sequence[Measured] | None = None) -> Measured | None:
        """The last trusted measurement, where the newest one shows a rise; else None.

        Args:
            history: the measurements that led to where the search stands.
            averaged: those whose averages are compared, the newest last; None for the same.
        """
        trusted = len(history) - 1 - self.lag
        if trusted < 0 or history[trusted].stage_epoch < self.start_epoch:
            return None
        averaged = history if averaged is None else averaged
        last = len(averaged) - 1
        now, earlier = self._average(averaged, last), self._average(averaged, last - self.delta)
        return history[trusted] if earlier > 0.0 and now / earlier > self.factor else None

    def _average(self, history: Sequence[Measured], last: int) -> float:
        return fmean(each.value for each in history[max(0, last - self.window + 1) : last + 1])


class EigenvalueHistory:
    """The eigenvalues of the stage under way, as its epochs ended; after a rollback those up to where it stands.

    Attributes:
        measured: they.
        all: those taken back too, in the order in which they were measured.
    """

    def __init__(self) -> None:
        self.measured: list[Measured] = []
        self.all: list[Measured] = []
        self._stage = 0

    def see(self, end: EpochEnd) -> bool:
        """Take an epoch's eigenvalue, if it has one; returns whether it has."""
        if end.stage.index != self._stage:
            self.measured, self.all, self._stage = [], [], end.stage.index
        if "eigenvalue" not in end.record:
            return False
        self.measured.append(Measured(end.epoch, end.stage_epoch, end.record["eigenvalue"]))
        self.all.append(self.measured[-1])
        return True

    def rolled_back(self, epoch: int) -> None:
        """Forget what was measured after an epoch of the run."""
        self.measured = [each for each in self.measured if each.epoch <= epoch]

    def state_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "stage": self._stage,
            "measured": [list(each) for each in self.measured],
            "all": [list(each) for each in self.all],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._stage, self.measured = state["stage"], [Measured(*each) for each in state["measured"]]
        # A search begun by a version that did not keep them had its history as the paper says.
        self.all = [Measured(*each) for each in state.get("all", state["measured"])]


class EarlyStopping(Guard):
    """DARTS-ES: at a rise the search stops, and answers with the genotype before it.

    The last epoch of a stage is not judged, as published: nothing is left to stop.

    Args:
        rule: what a rise is.
        every: epochs between measurements.

    Source: Zela et al. 2020, section 4; docs/facts.md, 6.1.
    """

    def __init__(self, rule: Rise, every: int) -> None:
        _check_every(every)
        self.rule, self.every = rule, every
        self._history = EigenvalueHistory()
        self._answer: int | None = None

    def after_epoch(self, end: EpochEnd) -> Action | None:
        before = _judged(self._history, self.rule, self.every, end)
        if before is None:
            return None
        self._answer = before.epoch
        return Stop(f"the dominant eigenvalue rises: stopped, with the genotype of epoch {before.epoch + 1}")

    def rolled_back(self, epoch: int) -> None:
        self._history.rolled_back(epoch)

    def answer(self) -> int | None:
        return self._answer

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.state_dict(), "answer": self._answer}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history.load_state_dict(state["history"])
        self._answer = state["answer"]


class AdaptiveWeightDecay(Guard):
    """DARTS-ADA: at a rise the search goes back to before it, and on with more weight decay.

    ``weight_decay <- min(factor * weight_decay, largest)``, until ``round(log(largest) / log(weight_decay), 1) = 1``:
    3e-4, 3e-3, 3e-2 as published. RobustDARTS has no minimum there, so that other values could pass the largest.

    The paper goes back with everything, the history of the eigenvalues too. The published code restores that history
    and then does not hand it to the run that goes on: averages there are over all that was ever measured, what was
    taken back included. ``history="published"`` does the same.

    Args:
        rule: what a rise is.
        every: epochs between measurements.
        weight_decay: of the weights, at first.
        factor: that it is multiplied by.
        largest: weight decay.
        history: ``paper`` or ``published``, what the averages are of after a rollback.

    Raises:
        UserError: for numbers with which it could not rise, or another history.

    Source: Zela et al. 2020, section 5; docs/facts.md, 6.1.
    """

    def __init__(
        self, rule: Rise, every: int, *, weight_decay: float, factor: float, largest: float, history: str = "paper"
    ) -> None:
        _check_every(every)
        if history not in HISTORIES:
            raise UserError(f"ada_history is {history!r}", f"one of {', '.join(HISTORIES)}")
        if not factor > 1.0:
            raise UserError(f"decay_factor is {factor}", "a number above 1", "RobustDARTS uses 10")
        if not 0.0 < weight_decay <= largest < 1.0:
            raise UserError(
                f"weight_decay {weight_decay:g} with max_weight_decay {largest:g}",
                "0 < weight_decay <= max_weight_decay < 1",
                "RobustDARTS uses 3e-4 and 0.03",
            )
        self.rule, self.every = rule, every
        self.factor, self.largest, self.weight_decay, self.history = factor, largest, weight_decay, history
        # A rise soon after a rollback leads back behind where that one led.
        self.memory = max(1, self._rollbacks()) * rule.lag * every
        self._history = EigenvalueHistory()

    @property
    def final(self) -> bool:
        """Whether the weight decay has arrived, so that there is no further rollback."""
        return self._arrived(self.weight_decay)

    def _arrived(self, weight_decay: float) -> bool:
        return weight_decay >= self.largest or round(math.log(self.largest) / math.log(weight_decay), 1) == 1

    def _rollbacks(self) -> int:
        """How many there can be."""
        count, weight_decay = 0, self.weight_decay
        while not self._arrived(weight_decay):
            count, weight_decay = count + 1, min(weight_decay * self.factor, self.largest)
        return count

    def keeps(self, stage_epoch: int) -> bool:
        return stage_epoch % self.every == 0 and stage_epoch >= self.rule.start_epoch and not self.final

    def after_epoch(self, end: EpochEnd) -> Action | None:
        before = _judged(self._history, self.rule, self.every, end, everything=self.history == "published")
        if before is None or self.final:
            return None
        self.weight_decay = min(self.weight_decay * self.factor, self.largest)
        return Rollback(
            f"the dominant eigenvalue rises: back to the end of epoch {before.epoch + 1}, "
            f"with weight decay {self.weight_decay:g}",
            before.epoch,
            {"weight_decay": self.weight_decay},
        )

    def rolled_back(self, epoch: int) -> None:
        self._history.rolled_back(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.state_dict(), "weight_decay": self.weight_decay}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history.load_state_dict(state["history"])
        self.weight_decay = state["weight_decay"]


def _judged(
    history: EigenvalueHistory, rule: Rise, every: int, end: EpochEnd, *, everything: bool = False
) -> Measured | None:
    """Take note of an epoch; the last trusted measurement where it, or all that was ever measured, shows a rise."""
    first = rule.first_check(every)
    if end.stage_epoch == 0 and first >= end.stage.epochs - 1:
        end.note(
            f"no rise of the eigenvalue can be seen in {end.stage.epochs} epochs, the first after epoch {first + 1}: "
            "set more epochs, or a smaller start_epoch, window or delta"
        )
    if not history.see(end) or end.last:
        return None
    return rule.before(history.measured, history.all if everything else None)


def _check_every(every: int) -> None:
    if every < 1:
        raise UserError(f"eigenvalue_every is {every}", "at least 1, since the guard watches it", "RobustDARTS uses 2")
