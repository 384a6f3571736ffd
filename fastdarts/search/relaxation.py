"""Relaxations without chance: all operators run, and the alphas alone decide how much of each is mixed."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts import reference
from fastdarts.nn import Supernet
from fastdarts.nn.fused import constant
from fastdarts.search.choices import Mixing, Relaxation, Softmax

__all__ = ["JointSoftmax", "Softmax", "present"]


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
