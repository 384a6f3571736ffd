"""ProxylessNAS' binary gates: one path when weights learn, two or all of them when alphas do."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts import reference
from fastdarts.nn import Supernet
from fastdarts.reference.relaxation import paired
from fastdarts.search.choices import Mixing
from fastdarts.search.relaxation import present
from fastdarts.search.sampling import Drawn, active_of, noise

__all__ = ["BinaryGates"]


class BinaryGates(Drawn):
    """Binary gates: one path when weights learn and two when alphas do.

    The weight level's pass runs one operator an edge, drawn with the probabilities `p = softmax(alpha)`; only it moves.
    A pass that is differentiated by the alphas draws two of them without putting the first back, and forgets the
    others: with `q = softmax` over the two, one gate is 1 with probability q and the other 0, both operators run, and

    `dL/dalpha_i = sum_j dL/dg_j q_j (delta_ij - q_i)`,  `dL/dg_j = <dL/dy, o_j(x)>`  for i, j of the pair.

    After the update both of the pair are shifted by one number, so that the sum of their `exp(alpha)`, and with it the
    probability of every operator that was not drawn, is what it was. That holds exactly where Adam leaves alone what
    has no gradient: beta 1 and the weight decay 0, as published.

    With ``full`` one operator is drawn, all run, and i and j are all of them, with p for q: Eq. 3 without the paper's
    memory saving, and nothing is shifted. The authors' scripts do so by default, as `full_v2`, which computes the same.

    Args:
        full: the alphas' pass runs all operators and not two.
        undrawn_still: whether the weights of operators that did not run stay, as in the authors' code, where they have
            no gradient; else momentum and weight decay move them.
        skip_zero: whether an edge whose gate was given to ``none`` leaves its alphas as they are, Adam's moments too.

    Source: Cai, Zhu, Han: ProxylessNAS, ICLR 2019, Eq. 2 to 4 and section 3.2.1.
    """

    asks_host = True

    def __init__(self, full: bool = False, undrawn_still: bool = True, skip_zero: bool = True) -> None:
        self._full, self.moves_drawn, self.by_edge = full, undrawn_still, skip_zero
        # Between a pass and the update that follows it, so never part of a checkpoint.
        self._drawn: dict[str, tuple[Tensor, Tensor]] = {}
        self._gates: dict[str, Tensor] = {}

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        weights, index = {}, {}
        differentiated = torch.is_grad_enabled()
        pairs = differentiated and not self._full
        self._drawn, self._gates = {}, {}
        for key, alphas in model.arch.alphas.items():
            there = present(model, key)
            logits = alphas.detach() if there is None else alphas.detach().masked_fill(~there, -torch.inf)
            # The k largest of logits with Gumbel noise are k draws without replacement.
            drawn = (logits + noise(alphas)).topk(min(2, alphas.shape[1]) if pairs else 1).indices
            if differentiated and self._full:
                index[key] = torch.arange(alphas.shape[1], device=alphas.device).expand_as(alphas)
                chosen = drawn.squeeze(-1)
            else:
                index[key], two = drawn, logits.gather(-1, drawn)
                # Not the first draw: which of two came first does not have the probabilities of a choice between them.
                chosen = drawn.gather(-1, (two + noise(two)).argmax(-1, keepdim=True)).squeeze(-1)
            weights[key] = reference.straight_through(paired(alphas, index[key], there), chosen)
            if differentiated:
                self._gates[key] = chosen
            if pairs:
                self._drawn[key] = index[key], two
        return {"weights": weights, "edge_weights": model.edge_weights(), "active": active_of(index, model)}

    def skipped(self, model: Supernet) -> list[list[bool]]:
        without = {key: self._zero(model, key) for key in model.arch.alphas}
        return [*without.values(), *([False] * len(betas) for betas in model.arch.betas.values())]

    def _zero(self, model: Supernet, key: str) -> list[bool]:
        """Of each edge whether ``none`` had the gate."""
        edges = model.space.cell(key, model.layers).edges
        return [edge.primitives[gate] == "none" for edge, gate in zip(edges, self._gates[key].tolist(), strict=True)]

    @torch.no_grad()
    def learned(self, model: Supernet) -> None:
        """Shift the alphas that were drawn so that the others' probabilities stay."""
        for key, (pair, before) in self._drawn.items():
            alphas = model.arch.alphas[key]
            there = before.isfinite()
            after = alphas.gather(-1, pair).masked_fill(~there, -torch.inf)
            shift = before.logsumexp(-1, keepdim=True) - after.logsumexp(-1, keepdim=True)
            # What none was given the gate of has not moved, and a shift of its rounding is none.
            alphas.scatter_add_(-1, pair, shift * there)
        self._drawn, self._gates = {}, {}
