"""The collapse alarm: looks at every search for the signs of DARTS' failure, and says what to do. It never acts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdarts.search.choices import Action, EpochEnd, Guard
from fastdarts.search.early_stopping import EigenvalueHistory, Rise
from fastdarts.spaces import PRIMITIVES, CellSpace, Genotype, Space

__all__ = ["CollapseAlarm", "chance_of_skips", "normal_cells", "settled"]

# Half of the edges is what RobustDARTS' and DARTS+' degenerate cells have at least; but of two candidates skip is one,
# and half of them is what a coin gives.
_SHARE, _CHANCE = 0.5, 0.05
# DARTS after its 50 epochs is far above the first (docs/facts.md, 9 has what 200 epochs do: `none` at 0.97).
_ENTROPY, _MASS = 0.25, 0.5
_REMEDY = "search with r-darts-es, sdarts-rs or --hypergradient amended, or with ten times the weight_decay"


class CollapseAlarm(Guard):
    """Adds ``alarms`` to the record of an epoch that shows a sign of collapse, and tells each kind once.

    ``skips``: at least half of the edges of the normal cells are skip connections, and so many that uniformly drawn
    operators would have them in less than one of twenty genotypes. ``entropy``: the mixing weights have settled (mean
    entropy below a quarter of the largest) and over half of them lies on operators without weights. ``eigenvalue``:
    RobustDARTS' early stopping would stop now (:class:`fastdarts.search.early_stopping.Rise`), where the search
    measures the eigenvalue. The first two are looked at in epochs in which the alphas learn.

    An alarm is {"kind", "text"}; the text says what was seen, which earlier genotype was without it, and what helps.
    """

    def __init__(self) -> None:
        self._history = EigenvalueHistory()
        self._told: list[str] = []
        # Stage, epoch of the run and skips of the last genotype without an alarm.
        self._sound: list[int] = []

    def after_epoch(self, end: EpochEnd) -> Action | None:
        found = {"eigenvalue": self._eigenvalue(end)}
        if "arch_loss" in end.record:
            found |= {"skips": self._skips(end), "entropy": _entropy(end)}
        alarms = [{"kind": kind, "text": text} for kind, text in sorted(found.items()) if text]
        if alarms:
            end.record["alarms"] = alarms
        for alarm in alarms:
            if alarm["kind"] not in self._told:
                self._told.append(alarm["kind"])
                end.note(f"alarm after epoch {end.epoch + 1}: {alarm['text']}")
        return None

    def rolled_back(self, epoch: int) -> None:
        self._history.rolled_back(epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self._history.state_dict(), "told": list(self._told), "sound": list(self._sound)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._history.load_state_dict(state["history"])
        self._told, self._sound = list(state["told"]), list(state["sound"])

    def _skips(self, end: EpochEnd) -> str:
        cells = normal_cells(end.stage.space, end.stage.layers)
        edges = [edge for key in cells for edge in end.genotype.edges(key)]
        count = sum(primitive == "skip_connect" for primitive, _, _ in edges)
        if count < _SHARE * len(edges) or chance_of_skips(end.genotype, cells, count) >= _CHANCE:
            self._sound = [end.stage.index, end.epoch, count]
            return ""
        where = "the normal cell" if len(cells) == 1 else "the normal cells"
        text = f"{count} of {len(edges)} edges of {where} are skip connections"
        if self._sound and self._sound[0] == end.stage.index:
            _, epoch, then = self._sound
            return (
                f"{text}; after epoch {epoch + 1} they were {then}: take that genotype ({_file(epoch)}), or {_REMEDY}"
            )
        return f"{text}: {_REMEDY}"

    def _eigenvalue(self, end: EpochEnd) -> str:
        rule = Rise(start_epoch=end.stage.epochs // 5)
        before = rule.before(self._history.measured) if self._history.see(end) else None
        if before is None:
            return ""
        return (
            f"the dominant eigenvalue rises, from {before.value:.3g} after epoch {before.epoch + 1} to "
            f"{end.record['eigenvalue']:.3g}: RobustDARTS would return the genotype of that epoch "
            f"({_file(before.epoch)}); take it, or search with r-darts-es or r-darts-ada"
        )


def normal_cells(space: Space, layers: int) -> dict[str, CellSpace]:
    """The cells that keep the resolution, by architecture key; all where there is none."""
    keys = space.arch_keys(layers)
    kinds = keys if space.shared else space.kinds(layers)
    found = {key: space.cell(key, layers) for key, kind in zip(keys, kinds, strict=True) if kind == "normal"}
    return found or {key: space.cell(key, layers) for key in keys}


def chance_of_skips(genotype: Genotype, cells: Mapping[str, CellSpace], count: int) -> float:
    """Probability that the genotype's edges have at least ``count`` skips, each with a uniformly drawn operator.

    The sum of Bernoulli variables, skip being one of ``|choices|`` on every edge that offers it, by convolution.

    Args:
        genotype: its edges count, not its operators.
        cells: the cell spaces, by the keys that count.
        count: skips.
    """
    distribution = [1.0]
    for key, cell in cells.items():
        choices = {(edge.source, edge.node): edge.choices for edge in cell.edges}
        for _, source, node in genotype.edges(key):
            offered = choices[source, node]
            skip = 1.0 / len(offered) if "skip_connect" in offered else 0.0
            distribution = [
                one * (1.0 - skip) + other * skip
                for one, other in zip([*distribution, 0.0], [0.0, *distribution], strict=True)
            ]
    return sum(distribution[count:])


def settled(cells: Mapping[str, CellSpace], weights: Mapping[str, Any]) -> tuple[float, float]:
    """How far mixing weights have settled, and on what.

    Means over the edges with a choice: of ``H(w) / log K`` for the K weights w of an edge, whose sum is made 1, and of
    the part of w on operators without weights.

    Args:
        cells: the cell spaces, by the keys that count.
        weights: {key: [E, width], or E tensors [>= K]}.

    Returns:
        Relative entropy and weight-free share; (1, 0) where no edge has a choice.
    """
    entropies, shares = [], []
    for key, cell in cells.items():
        for row, edge in zip(_rows(weights[key]), cell.edges, strict=True):
            w = row[: len(edge.primitives)]
            if len(w) > 1 and float(w.sum()) > 0.0:
                w = w / w.sum()
                entropies.append(float(torch.special.entr(w).sum() / torch.tensor(float(len(w))).log()))
                free = torch.tensor([PRIMITIVES[name].parameter_free for name in edge.primitives])
                shares.append(float(w[free].sum()))
    return (_mean(entropies), _mean(shares)) if entropies else (1.0, 0.0)


def _entropy(end: EpochEnd) -> str:
    entropy, free = settled(normal_cells(end.stage.space, end.stage.layers), end.mixing["weights"])
    if entropy >= _ENTROPY or free <= _MASS:
        return ""
    return (
        f"the mixing weights have settled (mean entropy {entropy:.0%} of the largest) and {free:.0%} of them lies on "
        f"operators without weights: search fewer epochs, or {_REMEDY}"
    )


def _rows(weights: Any) -> Iterable[Tensor]:
    if isinstance(weights, Tensor):
        # One copy from the device.
        return weights.detach().double().cpu()
    return [row.detach().double().cpu() for row in weights]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _file(epoch: int) -> str:
    return f"epochs/{epoch:04d}.json"
