"""Relaxations without chance: all operators run, and the alphas alone decide how much of each is mixed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastdarts import reference
from fastdarts.nn import Supernet
from fastdarts.nn.fused import constant
from fastdarts.search.choices import Mixing, Relaxation, Softmax

__all__ = ["BetaDecay", "JointSoftmax", "Softmax", "epoch_of", "present"]


class JointSoftmax(Relaxation):
    """One softmax over all operators of all edges into a node.

    `w[e, k] = exp(alpha[e, k]) / sum over the edges f into the node of e and their operators j of exp(alpha[f, j])`

    So the edges of a node compete: a weight says how much of the node an operator is, not how much of its edge. The
    genotype needs no rule of its own: :func:`fastdarts.spaces.derive` keeps a node's edges by their strongest operator
    besides ``none``, and only here these are shares of one whole. The paper's recurrent cells keep one edge a node and,
    where that is the first state's, the second strongest instead; and it may keep two operators between the same two
    nodes. Cells of images keep ``space.keep`` different inputs, as DARTS' do.

    Not to be confused with iDARTS (Zhang et al., ICML 2021), which differentiates implicitly.

    Source: Jiang et al.: Improved Differentiable Architecture Search for Language Modeling and Named Entity
    Recognition, EMNLP 2019, section 3.
    """

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        return self.still(model)

    def still(self, model: Supernet) -> Mixing:
        weights = {}
        for key, alphas in model.arch.alphas.items():
            cell = model.space.cell(key, model.layers)
            counts = [len(cell.into(node)) for node in cell.states]
            weights[key] = reference.joint_softmax(alphas, counts, present(model, key))
        return {"weights": weights, "edge_weights": None}


class BetaDecay(Softmax):
    """DARTS' softmax, and a penalty that keeps its logits from growing: beta-DARTS.

    `L = L_val + l(e) mean over edges of log sum_k exp(alpha[e, k])`, `l(e) = l_max e / E` in epoch e of E: a decay of
    the mixing weights where weight decay would be one of the alphas. The edges of all cells count alike.

    Args:
        largest: l_max.
        epochs: E.

    Source: Ye et al.: beta-DARTS, CVPR 2022, section 3.2, and its authors' `optimizers/darts/architect.py`.
    """

    def __init__(self, largest: float, epochs: int) -> None:
        self.largest, self.epochs = largest, epochs

    def penalty(self, model: Supernet, progress: float | Tensor) -> Tensor:
        rows = []
        for key, alphas in model.arch.alphas.items():
            there = present(model, key)
            rows.append((alphas if there is None else alphas.masked_fill(~there, -torch.inf)).logsumexp(-1))
        strength = self.largest * epoch_of(progress, self.epochs) / self.epochs
        return torch.cat(rows).double().mean() * strength


def epoch_of(progress: float | Tensor, epochs: int) -> float | Tensor:
    """The epoch, from 0, in which a stage of so many epochs has this share behind it; a tensor for a tensor."""
    # The share of an epoch's first step may be a rounding below the epoch, and no epoch has a million steps.
    exact = progress * epochs + 1e-6
    return exact.floor() if isinstance(exact, Tensor) else float(math.floor(exact))


def present(model: Supernet, key: str) -> Tensor | None:
    """Which entries of a key's alphas are candidates.

    Args:
        model: the supernet.
        key: of its alphas.

    Returns:
        [E, width], bool, on their device; None where all are. A constant of the process, for a CUDA graph too.
    """
    counts = model.space.cell(key, model.layers).counts
    width = max(counts)
    if min(counts) == width:
        return None
    rows = tuple(tuple(column < count for column in range(width)) for count in counts)
    found: Tensor = constant(rows, model.arch.alphas[key].device)
    assert found.dtype == torch.bool
    return found
