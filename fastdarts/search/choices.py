"""The choices that a search is composed of. The loop calls them by these names and knows no other.

A method (:mod:`fastdarts.search.methods`) makes them anew for every search, so that a choice may keep a state; what of
it decides the future is in its ``state_dict``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fastdarts.nn import Supernet
from fastdarts.spaces import Genotype, Space, derive

__all__ = [
    "Action",
    "Begin",
    "Choices",
    "Derivation",
    "EpochEnd",
    "Finished",
    "Guard",
    "Mixing",
    "Perturbation",
    "Relaxation",
    "Rewire",
    "Rollback",
    "Softmax",
    "Stage",
    "Stop",
    "StrongestEdges",
]

Mixing = dict[str, Any]
"""Keyword arguments of `Supernet.forward`: `weights`, `edge_weights`, and `active` where only some operators run."""


class Relaxation:
    """Chooses what a forward pass of the supernet mixes.

    Attributes:
        draws: whether a pass draws random numbers.
        asks_host: whether it looks at values on the host to decide what runs, so that no CUDA graph can hold the step.
        learns: whether the alphas learn; where they do not, no step of theirs is made.
        moves_drawn: whether the weights of operators that a pass did not run stay as they are, where otherwise momentum
            and weight decay move them; only where every pass has ``active``.
        by_edge: whether every edge's alphas are a parameter of their own, which some updates leave out (``skipped``).
        exponentiated: whether the alphas move by exponentiated gradients of their softmax, and not by Adam.
    """

    draws = False
    asks_host = False
    learns = True
    moves_drawn = False
    by_edge = False
    exponentiated = False

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        """The arguments of one forward pass, differentiable by the alphas. Called anew for every pass.

        Args:
            model: the supernet.
            progress: share of the stage behind, from 0 to 1: a float on the CPU, on a GPU a scalar float64 tensor that
                a CUDA graph reads anew at each step.
        """
        raise NotImplementedError

    def still(self, model: Supernet) -> Mixing:
        """``weights`` and ``edge_weights`` without chance: what is recorded and genotypes are derived from."""
        return {"weights": model.mixing_weights(), "edge_weights": model.edge_weights()}

    def evaluated(self, model: Supernet) -> Mixing:
        """What a validation pass runs."""
        return self.still(model)

    def skipped(self, model: Supernet) -> list[list[bool]]:
        """For each of the alphas, and of the betas, which edges have no gradient now; asked where ``by_edge``."""
        return [[False] * len(each) for each in model.arch_parameters()]

    def penalty(self, model: Supernet, progress: float | Tensor) -> Tensor | None:
        """What is added to the loss that the alphas descend, a scalar differentiable by them; None for nothing."""
        return None

    def learned(self, model: Supernet) -> None:
        """Called after every update of the alphas, which may be corrected here in place."""


class Softmax(Relaxation):
    """Softmax over the operators of each edge (DARTS, Eq. 2), and over the edges of a node where edges have weights
    (PC-DARTS, Eq. 4)."""

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        return self.still(model)


class Perturbation:
    """Changes the mixing weights of the weight level's pass, and of no other.

    Attributes:
        draws, asks_host: as of :class:`Relaxation`.
    """

    draws = True
    asks_host = False

    def __call__(
        self, model: Supernet, mixing: Mixing, progress: float | Tensor, loss: Callable[[Mixing], Tensor]
    ) -> Mixing:
        """The mixing that the weights learn under. Called without gradients being recorded.

        Args:
            model: the supernet.
            mixing: the relaxation's.
            progress: as of :class:`Relaxation`.
            loss: the training batch's loss under a mixing, differentiable by it where gradients are recorded.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Stage:
    """Epochs on one model: its start is a fresh model with fresh optimisers, and the schedules run over its epochs.

    Args:
        start: epoch of the run at which its epoch 0 stands. The run's epochs only rise: after a rollback the stage's
            start moves instead.
        epochs: of the stage.
        space: what is searched.
        layers: number of cells.
        index: 0 for the first stage of a run.
        after: epochs that are planned after this stage.
        skip_dropout: probability at which the stage's dropout of skip connections starts.
        wider: channels that its first cells have more than the search's.
    """

    start: int
    epochs: int
    space: Space
    layers: int
    index: int = 0
    after: int = 0
    skip_dropout: float = 0.0
    wider: int = 0

    @property
    def end(self) -> int:
        """The run's epoch after its last."""
        return self.start + self.epochs

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"space": self.space.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Stage:
        """Inverse of :meth:`to_json`."""
        return cls(**(dict(values) | {"space": Space.from_json(values["space"])}))


@dataclass(frozen=True)
class Finished:
    """A search after its last epoch.

    Args:
        model: the supernet; its state may not be changed.
        relaxation: the search's.
        valid: one pass, not augmented, over the architecture level's images [B, C, H, W] and labels [B].
        seed: the search's.
        note: tells a person one line.
    """

    model: Supernet
    relaxation: Relaxation
    valid: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    seed: int
    note: Callable[[str], None]


class Derivation:
    """From mixing weights to a genotype."""

    def __call__(self, space: Space, mixing: Mixing, layers: int) -> Genotype:
        """The genotype after an epoch.

        Args:
            space: the stage's.
            mixing: what :meth:`Relaxation.still` gives.
            layers: number of cells.
        """
        raise NotImplementedError

    def final(self, finished: Finished) -> Genotype | None:
        """The genotype that the search ends with; None for that of the answer's epoch.

        It is computed anew when a run that was killed here is continued, so it must depend on ``finished`` only.
        """
        return None

    def others(self, finished: Finished) -> dict[str, Genotype]:
        """Further genotypes that the search could have ended with, by what tells them apart."""
        return {}


class StrongestEdges(Derivation):
    """quark0's rule, or another of :func:`fastdarts.spaces.derive`.

    Args:
        rule: its name.
    """

    rule = "darts"

    def __init__(self, rule: str = "darts") -> None:
        self.rule = rule

    def __call__(self, space: Space, mixing: Mixing, layers: int) -> Genotype:
        edge_weights = mixing.get("edge_weights")
        return derive(space, mixing["weights"], layers=layers, edge_weights=edge_weights, rule=self.rule)


@dataclass(frozen=True)
class Action:
    """What a guard wants.

    Args:
        why: one line for a person.
    """

    why: str


@dataclass(frozen=True)
class Stop(Action):
    """This epoch was the last."""


@dataclass(frozen=True)
class Rollback(Action):
    """Go back to the end of an earlier epoch of this stage: weights, alphas and optimisers.

    The guards keep their states and are told; the batches, and what else draws, go on.

    Args:
        epoch: epoch of the run.
        settings: fields of :class:`fastdarts.search.SearchConfig` that change; ``weight_decay`` is the one that can.
    """

    epoch: int
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Begin(Action):
    """Begin a stage, on a fresh model.

    Args:
        stage: it starts at the next epoch of the run.
    """

    stage: Stage


@dataclass(frozen=True)
class Rewire(Action):
    """What a pass runs has changed, so that a recorded step no longer holds, and the epoch's genotype is derived anew.

    Args:
        larger_batch: images a batch has more from here on.
    """

    larger_batch: int = 0


@dataclass
class EpochEnd:
    """What a guard looks at.

    Args:
        epoch: of the run, the one that ended.
        stage: the current one.
        model: the supernet.
        genotype: derived after this epoch.
        mixing: what :meth:`Relaxation.still` gives now.
        record: the epoch's record; entries may be added.
        note: tells a person one line.
    """

    epoch: int
    stage: Stage
    model: Supernet
    genotype: Genotype
    mixing: Mixing
    record: dict[str, Any]
    note: Callable[[str], None]

    @property
    def stage_epoch(self) -> int:
        """The epoch of the stage that ended."""
        return self.epoch - self.stage.start

    @property
    def last(self) -> bool:
        """Whether the stage is over."""
        return self.epoch + 1 == self.stage.end


class Guard:
    """Looks after every epoch and may intervene.

    Attributes:
        memory: how many epochs back it may roll; 0 for a guard that never does.
    """

    memory = 0

    def after_epoch(self, end: EpochEnd) -> Action | None:
        """Called after every epoch, in the guards' order; the first action counts, all guards are called."""
        raise NotImplementedError

    def keeps(self, stage_epoch: int) -> bool:
        """Whether it may roll back to this epoch, so that its end must be kept."""
        return self.memory > 0

    def rolled_back(self, epoch: int) -> None:
        """The search stands at the end of this epoch of the run again, though the next one has the next number."""

    def answer(self) -> int | None:
        """Epoch of the run whose genotype the search returns; None for no opinion."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """JSON values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""


@dataclass(frozen=True)
class Choices:
    """What a search is composed of.

    Args:
        relaxation: from alphas to the mixing weights of a pass.
        perturbation: of the weight level's mixing.
        guards: who may intervene after an epoch.
        derivation: from mixing weights to genotypes.
        first: makes the first stage of the one over all epochs, and refuses a space that it cannot search; None where
            the search has one stage.
        skip_dropout: probability of dropping an element after a skip connection, by stage and epoch of the stage.
        check: refuses a search that would not come to its end, given its first stage.
    """

    relaxation: Relaxation = field(default_factory=Softmax)
    perturbation: Perturbation | None = None
    guards: tuple[Guard, ...] = ()
    derivation: Derivation = field(default_factory=StrongestEdges)
    first: Callable[[Stage], Stage] | None = None
    skip_dropout: Callable[[Stage, int], float] | None = None
    check: Callable[[Stage], None] | None = None
