"""DARTS-ADA's guard against the paper's recursion, and against the authors' code, on synthetic eigenvalues."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from fastdarts.search.choices import Rollback
from fastdarts.search.early_stopping import AdaptiveWeightDecay, Rise
from tests.eigenvalues import EPOCHS, end_of, measured_at, published, saved, walk

Event = tuple[int, int, float]


def world(seed: int) -> Callable[[int, float], float]:
    """The eigenvalue by epoch and weight decay: the more decay, the slower the rise."""
    wander = walk(seed)

    def value(epoch: int, decay: float) -> float:
        return wander[epoch] ** 0.4 * math.exp(0.02 * (seed % 3) * epoch / (1 + decay / 1e-3))

    return value


def recursion(value: Callable[[int, float], float], first: int, known: dict[int, float], decay: float) -> list[Event]:
    """DARTS-ADA as published: train to a rise, go back, and train on with more decay; no guard, no state."""
    final = round(math.log(0.03) / math.log(decay), 1) == 1.0
    for epoch in range(first, EPOCHS):
        if not measured_at(epoch, 2):
            continue
        known = known | {epoch: value(epoch, decay)}
        back = published(known) if epoch < EPOCHS - 1 else None
        if back is not None and not final:
            kept = {each: seen for each, seen in known.items() if each <= back}
            return [(epoch, back, decay), *recursion(value, back + 1, kept, decay * 10)]
    return []


def code_of_the_authors(value: Callable[[int, float], float]) -> list[Event]:
    """What RobustDARTS' train_search.py does: one tracker for all runs, whose averages and epochs are counted apart.

    It agrees with that file and its EVLocalAvg, run beside, on 2000 of these sequences.
    """
    events: list[Event] = []
    seen: list[float] = []
    averages: list[float] = []

    def train(epoch: int, decay: float) -> None:
        for now in range(epoch, EPOCHS - 1):
            if now % 2:
                continue
            seen.append(value(now, decay))
            if len(seen) >= 3:
                averages.append(sum(seen[-5:]) / len(seen[-5:]))
            risen = now - 4 - 8 >= 10 and averages[-1] / averages[-5] > 1.3
            if risen and round(math.log(0.03) / math.log(decay), 1) != 1.0:
                events.append((now, now - 12, decay))
                return train(now - 12 + 1, decay * 10)

    train(0, 3e-4)
    return events


def run_guard(value: Callable[[int, float], float], history: str = "paper") -> Iterator[Event]:
    """The guard in a loop as the search's, which saves and loads it after every epoch."""

    def new() -> AdaptiveWeightDecay:
        return AdaptiveWeightDecay(Rise(), 2, weight_decay=3e-4, factor=10.0, largest=0.03, history=history)

    guard, decay, start, epoch = new(), 3e-4, 0, -1
    kept: dict[int, int] = {}
    while epoch + 1 < start + EPOCHS:
        epoch += 1
        at = epoch - start
        if guard.keeps(at):
            kept[epoch] = at
            kept = {run: old for run, old in kept.items() if old >= at - guard.memory}
        seen = value(at, decay) if measured_at(at, 2) else None
        action = guard.after_epoch(end_of(epoch, start, seen, []))
        if action is not None:
            assert isinstance(action, Rollback)
            yield at, kept[action.epoch], decay
            decay = action.settings["weight_decay"]
            kept = {run: old for run, old in kept.items() if run <= action.epoch}
            start = epoch - kept[action.epoch]
            guard.rolled_back(action.epoch)
        guard = saved(guard, new)  # type: ignore[assignment]


def test_adapting_against_the_published_recursion() -> None:
    found = {seed: list(run_guard(world(seed))) for seed in range(60)}
    for seed, events in found.items():
        due = recursion(world(seed), 0, {}, 3e-4)
        assert [event[:2] for event in events] == [event[:2] for event in due]
        assert [event[2] for event in events] == pytest.approx([event[2] for event in due])
    # At 0.03 it ends: never more than two, and all cases occur.
    assert {len(events) for events in found.values()} == {0, 1, 2}


def test_the_published_code_forgets_to_forget() -> None:
    """`ada_history=published`: averages after a rollback are over what was taken back too."""
    other = 0
    for seed in range(190):
        due = code_of_the_authors(world(seed))
        found = list(run_guard(world(seed), "published"))
        assert [event[:2] for event in found] == [event[:2] for event in due]
        other += [event[:2] for event in run_guard(world(seed))] != [event[:2] for event in due]
    assert other > 10


def test_a_history_of_before_is_the_papers() -> None:
    guard = AdaptiveWeightDecay(Rise(), 2, weight_decay=3e-4, factor=10.0, largest=0.03, history="published")
    guard.after_epoch(end_of(0, 0, 1.0, []))
    state = guard.state_dict()
    del state["history"]["all"]
    guard.load_state_dict(state)
    assert guard.state_dict()["history"]["all"] == [[0, 0, 1.0]]


def test_a_rise_soon_after_a_rollback_leads_behind_it() -> None:
    """One after epoch 28 leads to 16; the next, after epoch 24 with more decay, to 12."""

    def value(epoch: int, decay: float) -> float:
        return 10.0 if epoch >= (28 if decay < 1e-3 else 24) else 1.0

    assert [event[:2] for event in run_guard(value)] == [(28, 16), (24, 12)]
    assert [event[:2] for event in recursion(value, 0, {}, 3e-4)] == [(28, 16), (24, 12)]


@pytest.mark.parametrize(
    ("decay", "factor", "largest", "steps"),
    [(3e-4, 10.0, 0.03, [3e-3, 0.03]), (3e-4, 3.0, 243e-4, [9e-4, 27e-4, 81e-4, 243e-4]), (0.02, 10.0, 0.03, [0.03])],
)
def test_weight_decays_that_it_takes(decay: float, factor: float, largest: float, steps: list[float]) -> None:
    rule = Rise(window=1, delta=1, factor=1.3, start_epoch=0)
    guard = AdaptiveWeightDecay(rule, 1, weight_decay=decay, factor=factor, largest=largest)
    taken, start = [], 0
    for epoch in range(12):
        action = guard.after_epoch(end_of(epoch, start, 2.0**epoch, []))
        if action is not None:
            taken.append(action.settings["weight_decay"])  # type: ignore[attr-defined]
            start += 1
            guard.rolled_back(epoch - 1)
    assert taken == pytest.approx(steps)
    assert guard.final
    assert not guard.keeps(0)


def test_only_epochs_to_which_it_may_go_back_are_kept() -> None:
    settings = {"factor": 10.0, "largest": 0.03}
    guard = AdaptiveWeightDecay(Rise(start_epoch=3), 2, weight_decay=3e-4, **settings)
    assert [epoch for epoch in range(9) if guard.keeps(epoch)] == [4, 6, 8]
    assert not any(map(AdaptiveWeightDecay(Rise(start_epoch=3), 2, weight_decay=0.03, **settings).keeps, range(9)))
