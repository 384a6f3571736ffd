"""P-DARTS: ever more cells and fewer candidates, dropout after skip connections, and in the end a limit on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from fastdarts.errors import UserError
from fastdarts.search.choices import Action, Begin, EpochEnd, Finished, Guard, Mixing, Stage, StrongestEdges
from fastdarts.spaces import Genotype, Space, derive, prune

__all__ = ["LimitedSkips", "Progressive", "SkipDropout", "Step", "limit_skips"]

# The weight of a skip connection that was set aside: below all that a softmax gives, a 0 by underflow included.
_ASIDE = -1.0


@dataclass(frozen=True)
class Step:
    """One stage as it is planned.

    Args:
        epochs: its length.
        layers: number of cells.
        candidates: the most that an edge may have; None for all of the space's.
        skip_dropout: probability at which the dropout of skip connections starts.
        wider: channels that the first cells have more than the search's.
    """

    epochs: int
    layers: int
    candidates: int | None = None
    skip_dropout: float = 0.0
    wider: int = 0


class Progressive(Guard):
    """Begins the next stage, deeper and of fewer candidates, when one is over.

    The candidates of an edge that go on are the heaviest by the mixing weights of the stage before. A stage begins on a
    fresh model: neither weights nor alphas go on, only what may be chosen. The stage says all there is to know, so
    there is no state to save.

    Args:
        steps: the stages.

    Source: Chen et al. 2019 (P-DARTS), section 3.2; docs/facts.md, 4.
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = tuple(steps)

    def first(self, whole: Stage) -> Stage:
        """The first stage of a search that would otherwise be ``whole``.

        Raises:
            UserError: a space whose candidates cannot be dropped.
        """
        if not whole.space.shared:
            raise UserError(
                f"P-DARTS on space {whole.space.name}, where every cell has an architecture of its own",
                "a space whose cells of a type share one: the further cells of a deeper stage have nothing to drop by",
                "use --space darts, or another method",
            )
        return self._stage(whole, 0)

    def after_epoch(self, end: EpochEnd) -> Action | None:
        """Begin the next stage when this one is over."""
        before, index = end.stage, end.stage.index + 1
        if not end.last or index == len(self.steps):
            return None
        most, space = self.steps[index].candidates, before.space
        if most is not None:
            space = prune(space, end.mixing["weights"], most, layers=before.layers)
        begun = self._stage(replace(before, start=before.end, space=space), index)
        had, has = _candidates(before.space), _candidates(space)
        why = f"stage {index + 1} of {len(self.steps)}: {begun.layers} cells, {has} of {had} candidates stay"
        return Begin(why, begun)

    def _stage(self, stage: Stage, index: int) -> Stage:
        step = self.steps[index]
        return replace(
            stage,
            epochs=step.epochs,
            layers=step.layers,
            index=index,
            after=sum(later.epochs for later in self.steps[index + 1 :]),
            skip_dropout=step.skip_dropout,
            wider=step.wider,
        )


def _candidates(space: Space) -> int:
    return sum(space.normal.counts) + sum(space.reduce.counts)


@dataclass(frozen=True)
class SkipDropout:
    """The probability of dropping an element after a skip connection, over a stage.

    With p0 = ``stage.skip_dropout`` and E epochs: ``p0 (E - e - 1) / E`` in the ``wait`` epochs in which only weights
    learn, and ``p0 exp(-decay (e - wait))`` from then on. So it returns to p0 when the alphas start: they begin without
    the head start that skip connections have from the easy learning before.

    Args:
        wait: first epoch of a stage in which the alphas learn.
        decay: per epoch.

    Source: Chen et al. 2019 (P-DARTS), section 3.3; the two formulae are the authors' code's (docs/facts.md, 4).
    """

    wait: int
    decay: float

    def __call__(self, stage: Stage, epoch: int) -> float:
        """The probability in an epoch of the stage, counted from its start."""
        if epoch < self.wait:
            return stage.skip_dropout * (stage.epochs - epoch - 1) / stage.epochs
        return stage.skip_dropout * math.exp(-self.decay * (epoch - self.wait))


class LimitedSkips(StrongestEdges):
    """The strongest edges after every epoch, and at the end not more than so many skip connections among them.

    Args:
        limit: the most skip connections of the normal cell.
        rule: of :func:`fastdarts.spaces.derive`; of exact ties the authors' code keeps the later edge and operator.
    """

    def __init__(self, limit: int, rule: str = "later") -> None:
        super().__init__(rule)
        self.limit = limit

    def final(self, finished: Finished) -> Genotype:
        """:func:`limit_skips` of the last stage."""
        mixing, model = finished.relaxation.still(finished.model), finished.model
        had = self(model.space, mixing, model.layers).skips("normal")
        genotype = limit_skips(model.space, mixing, self.limit, layers=model.layers, rule=self.rule)
        if had > self.limit:
            finished.note(
                f"{had} skip connections in the normal cell, at most {self.limit} wanted: "
                f"the weakest were replaced, {genotype.skips('normal')} are left"
            )
        return genotype

    def others(self, finished: Finished) -> dict[str, Genotype]:
        """The genotypes of all limits that give another one, as the authors' code prints them."""
        mixing, model = finished.relaxation.still(finished.model), finished.model
        had = self(model.space, mixing, model.layers).skips("normal")
        return {
            f"at most {limit} skip connections": limit_skips(
                model.space, mixing, limit, layers=model.layers, rule=self.rule
            )
            for limit in range(had, -1, -1)
            if limit != min(self.limit, had)
        }


def limit_skips(space: Space, mixing: Mixing, limit: int, *, layers: int, rule: str = "darts") -> Genotype:
    """Derive a genotype with at most ``limit`` skip connections in the normal cell.

    While there are more, the weakest of them is set aside and the cell derived again from what is left: the edge goes
    on with its next best operator, or another edge takes its place, which may bring a skip connection back in. The
    paper sets all but the strongest ``limit`` aside at once; that ends in the same cell, since whatever comes in
    instead is weaker than what went.

    Args:
        space: with shared cells.
        mixing: ``weights`` and ``edge_weights``, as :meth:`fastdarts.search.choices.Relaxation.still` gives them.
        limit: at least 0.
        layers: number of cells.
        rule: of :func:`fastdarts.spaces.derive`.

    Returns:
        The genotype; more than ``limit`` skip connections are left only where their edges have no other operator.

    Source: Chen et al. 2019 (P-DARTS), section 3.3; docs/facts.md, 4.
    """
    betas = mixing.get("edge_weights")
    weights = {key: rows.tolist() for key, rows in mixing["weights"].items()}
    edges = {(edge.source, edge.node): index for index, edge in enumerate(space.normal.edges)}
    rows = weights["normal"]
    factors = [1.0] * len(rows) if betas is None else betas["normal"].tolist()
    while True:
        genotype = derive(space, weights, layers=layers, edge_weights=betas, rule=rule)
        # By edge, not in the order of their weights: of equally weak ones the first goes.
        kept = sorted(edges[source, node] for op, source, node in genotype.edges("normal") if op == "skip_connect")
        places = [(edge, space.normal.edges[edge].primitives.index("skip_connect")) for edge in kept]
        present = [(edge, column) for edge, column in places if rows[edge][column] != _ASIDE]
        if len(kept) <= limit or not present:
            return genotype
        edge, column = min(present, key=lambda place: rows[place[0]][place[1]] * factors[place[0]])
        rows[edge][column] = _ASIDE
