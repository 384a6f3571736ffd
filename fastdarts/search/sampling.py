"""Relaxations by chance: which operators run is drawn anew for every pass.

All draws come from torch's default generators, which a checkpoint holds, and are the same on the reference and the
fused engine. An operator that does not run gets no gradient; what a cell learns lies in one tensor per source, though,
so its weights go on along their momentum and shrink by the weight decay whenever another operator of the source ran. So
they do in the published code, where a gradient that is not computed is zero and not missing; ProxylessNAS' is another
(:mod:`fastdarts.search.gates`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdarts import reference
from fastdarts.nn import Supernet
from fastdarts.search.choices import Mixing, Relaxation
from fastdarts.search.relaxation import epoch_of, present
from fastdarts.spaces import Genotype, derive, random_genotype

__all__ = ["Concrete", "Drawn", "GumbelPath", "RandomArchitecture", "UniformPath", "active_of", "noise"]


class Drawn(Relaxation):
    """Trains on single operators, or soon will, and is therefore validated with the most probable one of each edge.

    The softmax of the alphas, DARTS' mixture, is a network that no training pass of these has ever run.
    """

    draws = True

    def evaluated(self, model: Supernet) -> Mixing:
        """Weight 1 for the largest alpha of each edge, ``none`` among the candidates, 0 for the others."""
        soft = {key: weights.detach() for key, weights in model.mixing_weights().items()}
        index = {key: weights.argmax(-1, keepdim=True) for key, weights in soft.items()}
        weights = {key: reference.straight_through(soft[key], index[key].squeeze(-1)) for key in soft}
        mixing: Mixing = {"weights": weights, "edge_weights": model.edge_weights()}
        # Who does not ask the host in training does not here: all operators run then, and a CUDA graph can hold them.
        return mixing | {"active": active_of(index, model)} if self.asks_host else mixing


class GumbelPath(Drawn):
    """GDAS: one operator an edge, drawn with Gumbel noise; only it runs, and the gradient goes straight through.

    `w = onehot(argmax_k p_k)` forward and `dw = dp` backward, with `p = softmax((log softmax(alpha) + G) / t)` and the
    temperature `t(e) = t_max - (t_max - t_min) e / (E - 1)` in epoch e of E.

    The gradient of the alphas is that of the drawn operator's weight alone, `dL/dalpha_j = <dL/dy, o_i(x)> p_i
    (delta_ij - p_j) / t` for the drawn i, as the paper has it: only what comes back through the arg-max counts. The
    authors' code (xautodl) adds the zero-valued weights of the other operators to the edge's map as bare numbers, which
    gives each of them the sum of `dL/dy` over the map for a gradient, as if its operator put out ones: a product of how
    it was written, the same for every operator, and it is not repeated here.

    Args:
        tau_max, tau_min: the temperature at the first and the last epoch.
        epochs: E.

    Source: Dong, Yang: Searching for A Robust Neural Architecture in Four GPU Hours, CVPR 2019, section 3.2;
    docs/facts.md, 5.
    """

    asks_host = True

    def __init__(self, tau_max: float, tau_min: float, epochs: int) -> None:
        self._tau_max, self._tau_min, self._epochs = tau_max, tau_min, epochs

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        weights, index = {}, {}
        tau = self.temperature(progress)
        for key, alphas in model.arch.alphas.items():
            soft = reference.concrete(alphas, noise(alphas), tau, present(model, key))
            index[key] = soft.argmax(-1, keepdim=True)
            weights[key] = reference.straight_through(soft, index[key].squeeze(-1))
        return {"weights": weights, "edge_weights": model.edge_weights(), "active": active_of(index, model)}

    def temperature(self, progress: float | Tensor) -> float | Tensor:
        """t at this share of the stage: the same during a whole epoch."""
        behind = epoch_of(progress, self._epochs) / max(self._epochs - 1, 1)
        return self._tau_max - (self._tau_max - self._tau_min) * behind


class Concrete(Drawn):
    """SNAS: a draw from the concrete distribution on every edge; all operators run.

    `w = softmax((log softmax(alpha) + G) / t)`, with `t(e) = t_min + (t_max - t_min) (1 - (e + 1) / E)` in epoch e of
    E: soft at first, nearly one operator an edge at the end.

    Args:
        tau_max: what the temperature falls from: an epoch's share below it in the first one.
        tau_min: the temperature of the last epoch.
        epochs: E.
        ends: whether it ends at ``tau_min``; else it is t(e - 1) in epoch e, which stays above.

    Source: Xie, Zheng, Liu, Lin: SNAS, ICLR 2019, section 2.2. The paper says that the temperature falls, its authors'
    code (SNAS-Series) from 1 to 0.03 by a straight line.
    """

    def __init__(self, tau_max: float, tau_min: float, epochs: int, ends: bool = True) -> None:
        self._tau_max, self._tau_min, self._epochs, self._ends = tau_max, tau_min, epochs, ends

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        tau = self.temperature(progress)
        weights = {
            key: reference.concrete(alphas, noise(alphas), tau, present(model, key))
            for key, alphas in model.arch.alphas.items()
        }
        return {"weights": weights, "edge_weights": model.edge_weights()}

    def temperature(self, progress: float | Tensor) -> float | Tensor:
        """t at this share of the stage: the same during a whole epoch."""
        left = 1.0 - (epoch_of(progress, self._epochs) + self._ends) / self._epochs
        return self._tau_min + (self._tau_max - self._tau_min) * left


class UniformPath(Relaxation):
    """Random search with weight sharing: every pass runs one architecture, each of the space with equal probability.

    The alphas do not learn. Until the search has ended and :class:`fastdarts.search.selection.SharedWeights` selects,
    its genotype is that of the alphas as they were drawn, a random one; the validation pass runs that one's path, which
    makes the epochs comparable.

    The authors draw a node's two inputs and their operators, ``none`` among them, each uniformly, so that 88% of their
    architectures hold a ``none``: ``with_none``. Else the genotypes of the space are equally probable, which differs
    where a space's edges have different numbers of candidates, and ``none``, which no genotype names, is never drawn.

    Args:
        with_none: draw as the authors do.

    Source: Li, Talwalkar: Random Search and Reproducibility for NAS, UAI 2019, section 3.2; docs/facts.md, 6.1.
    """

    draws = True
    asks_host = True
    learns = False

    def __init__(self, with_none: bool = False) -> None:
        self._with_none = with_none

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        seed = int(torch.randint(2**62, ()))
        return path(model, random_genotype(model.space, seed, layers=model.layers, with_none=self._with_none))

    def evaluated(self, model: Supernet) -> Mixing:
        still = self.still(model)
        found = derive(model.space, still["weights"], layers=model.layers, edge_weights=still["edge_weights"])
        return path(model, found)


class RandomArchitecture(Relaxation):
    """Random search: one architecture an epoch, each of the space with equal probability, and nothing else.

    The epoch's passes run its path only, at what one path costs, and the epoch's genotype is the one that was drawn: a
    search of E epochs lists E independent architectures, as DARTS lists one after every epoch. Its answer is that of
    the last epoch, one uniform draw: the policy that the papers compare with is *a single* random architecture, trained
    from scratch. The best by validation would be another method, since one epoch on weights that others have left says
    more about when it was drawn than about how good it is; :class:`UniformPath` makes that selection in earnest.

    Args:
        seed: the architectures are a function of it and of the epoch.
        epochs: of the search.

    Source: Sciuto et al.: Evaluating the Search Phase of NAS, ICLR 2020, section 3.1.2 (uniform probabilities for all
    operations, one architecture an epoch); Bingham: Ineffectiveness of Gradient-based NAS, section 3.1.
    """

    asks_host = True
    learns = False

    def __init__(self, seed: int, epochs: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self._seeds = torch.randint(2**62, (epochs,), generator=generator).tolist()
        self._epoch = 0

    def __call__(self, model: Supernet, progress: float | Tensor) -> Mixing:
        # Every epoch has a pass before anything asks for its architecture, after a resumption too.
        self._epoch = min(int(epoch_of(progress, len(self._seeds))), len(self._seeds) - 1)
        return path(model, self.architecture(model))

    def architecture(self, model: Supernet) -> Genotype:
        """The epoch's."""
        return random_genotype(model.space, self._seeds[self._epoch], layers=model.layers)

    def still(self, model: Supernet) -> Mixing:
        """1 for the operators of the epoch's architecture, 0 for all others: its genotype is that architecture."""
        weights = {}
        for key, edges in model.one_path(self.architecture(model)).items():
            rows = [[float(k in chosen) for k in range(model.arch.alphas[key].shape[1])] for chosen in edges]
            weights[key] = model.arch.alphas[key].new_tensor(rows)
        return {"weights": weights, "edge_weights": None}

    def evaluated(self, model: Supernet) -> Mixing:
        return path(model, self.architecture(model))


def path(model: Supernet, genotype: Genotype) -> Mixing:
    """A pass that runs an architecture of the supernet's space only, as though there were nothing else.

    Args:
        model: the supernet.
        genotype: of its space and depth.

    Returns:
        ``active`` for its operators; all mixing weights and edge weights are 1.

    Raises:
        UserError: a genotype of another space or depth.
    """
    edge_weights = {key: torch.ones_like(betas) for key, betas in model.arch.betas.items()}
    return {
        "weights": {key: torch.ones_like(alphas) for key, alphas in model.arch.alphas.items()},
        "edge_weights": edge_weights or None,
        "active": model.one_path(genotype),
    }


def noise(like: Tensor) -> Tensor:
    return reference.gumbel(torch.empty_like(like).exponential_())


def active_of(index: dict[str, Tensor], model: Supernet) -> dict[str, tuple[tuple[int, ...], ...]]:
    """The operators to run, from [E, n] indices of each key, brought to the host by one copy.

    What is no candidate of its edge is left out: the second of two draws where there is only one.
    """
    flat = iter(torch.cat([each.flatten() for each in index.values()]).tolist())
    found = {}
    for key, each in index.items():
        counts = model.space.cell(key, model.layers).counts
        rows = [[next(flat) for _ in range(each.shape[1])] for _ in counts]
        found[key] = tuple(tuple(sorted(k for k in row if k < count)) for row, count in zip(rows, counts, strict=True))
    return found
