"""Did the search prefer anything at all? Read from the mixing weights that the genotype was derived from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fastdarts.report.history import answer_epoch
from fastdarts.report.records import RunRecords, number

__all__ = ["Decision", "decision_of"]

# Mixing weights of eight candidates reach 0.95 of the largest entropy when the largest is 0.30, and 0.99 at 0.20. The
# second bound finds what the first misses: one candidate given up, and no preference among the others.
_ENTROPY, _SHARE = 0.95, 1.25


@dataclass(frozen=True)
class Decision:
    """How clearly a search preferred some candidates.

    Args:
        entropy: mean over edges of ``H(w) / log K``, 1 where all K candidates weigh the same.
        share: mean over edges of ``K max(w)``, 1 where all candidates weigh the same.
        undecided: whether the search hardly preferred anything.
        headline: the same in a few words.
        text: with the numbers, and what to do where nothing was decided.
    """

    entropy: float
    share: float
    undecided: bool
    headline: str
    text: str


def decision_of(run: RunRecords) -> Decision | None:
    """Say whether a search preferred anything.

    A search is undecided where the entropy is at least 0.95 of the largest, or the largest weights are at most 1.25
    equal shares; with weights for whole edges too (PC-DARTS), where that is true of both kinds.

    Args:
        run: a search's records.

    Returns:
        None where the alphas learnt in no epoch, the weights are not on record, or the genotype was not derived from
        them but selected after the search.
    """
    if run.kind != "search" or not run.epoch_files or not any("arch_loss" in record for record in run.epochs):
        return None
    answer = answer_epoch(run)
    file = next((each for each in run.epoch_files if each["epoch"] == answer), run.epoch_files[-1])
    if run.result is not None and run.genotype is not None and file.get("text", "") != run.genotype.text():
        return None
    kinds = [figures for figures in (_figures(_operators(file)), _figures(_edges(file))) if figures is not None]
    if not kinds:
        return None
    undecided = all(entropy >= _ENTROPY or share <= _SHARE for entropy, share in kinds)
    entropy, share = kinds[0]
    text = (
        f"After epoch {file['epoch'] + 1} the largest mixing weight of an edge is on average {share:.2f} times an "
        f"equal share, and the entropy {100 * entropy:.1f}% of the largest possible."
    )
    if not undecided:
        return Decision(entropy, share, False, "The search had preferences", text)
    text += (
        " The genotype is the largest of nearly equal numbers: another seed may give another one, and nothing here "
        "shows that the search found anything. More epochs, more images or a larger arch_lr let it decide."
    )
    return Decision(entropy, share, True, "Undecided: the search hardly preferred anything", text)


def _operators(file: Mapping[str, Any]) -> Iterator[list[float]]:
    """The mixing weights of each edge, without padding."""
    for key, rows in (file.get("weights") or {}).items():
        for row, edge in zip(rows, (file.get("edges") or {}).get(key) or [], strict=False):
            yield [number(value) for value in row[: len(edge["primitives"])]]


def _edges(file: Mapping[str, Any]) -> Iterator[list[float]]:
    """The weights of the edges into each node."""
    for key, values in (file.get("edge_weights") or {}).items():
        into: dict[int, list[float]] = {}
        for value, edge in zip(values, (file.get("edges") or {}).get(key) or [], strict=False):
            into.setdefault(edge["node"], []).append(number(value))
        yield from into.values()


def _figures(rows: Iterator[Sequence[float]]) -> tuple[float, float] | None:
    """Mean relative entropy and mean largest share over the rows that hold a choice."""
    entropies, shares = [], []
    for row in rows:
        total = math.fsum(row)
        if len(row) < 2 or not total > 0:
            continue
        parts = [value / total for value in row]
        entropies.append(-math.fsum(p * math.log(p) for p in parts if p > 0) / math.log(len(parts)))
        shares.append(len(parts) * max(parts))
    if not entropies:
        return None
    return fmean(entropies), fmean(shares)
