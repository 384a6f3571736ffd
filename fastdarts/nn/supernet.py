"""The supernet: every candidate of every edge, and the architecture parameters that weigh them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn.casting import for_modules, laid_out
from fastdarts.nn.cell import Active, Cell, Weights
from fastdarts.nn.checks import Probability, check_partial, check_sampling
from fastdarts.nn.derived import auxiliary_head
from fastdarts.nn.fused import check_memory
from fastdarts.nn.trunk import Place, Trunk
from fastdarts.spaces import Genotype, Space, derive

__all__ = ["Architecture", "Supernet"]

STEM_MULTIPLIER = 3


class Architecture(nn.Module):
    """The architecture parameters of a supernet, apart from its weights.

    Args:
        space: the search space.
        layers: number of cells.
        edge_normalisation: whether edges have parameters of their own.
        scale, mean: alphas start as mean + scale * normal(0, 1), betas as scale * normal(0, 1).

    Attributes:
        alphas: {key: [E, width]}; entries beyond an edge's candidates are 0 and get no gradient.
        betas: {key: [E]}; empty without edge normalisation.

    Source: Liu et al. 2019 (DARTS), section 2.2; Xu et al. 2020 (PC-DARTS), section 3.3.
    """

    def __init__(self, space: Space, layers: int, *, edge_normalisation: bool, scale: float, mean: float = 0.0) -> None:
        super().__init__()
        self._cells = {key: space.cell(key, layers) for key in space.arch_keys(layers)}
        self.alphas, self.betas = nn.ParameterDict(), nn.ParameterDict()
        for key, cell in self._cells.items():
            start = mean + scale * torch.randn(len(cell.edges), cell.width)
            present = torch.arange(cell.width) < torch.tensor(cell.counts)[:, None]
            padded = min(cell.counts) < cell.width
            self.register_buffer(f"_present_{key}", present if padded else None, persistent=False)
            self.alphas[key] = nn.Parameter(start.masked_fill(~present, 0.0) if padded else start)
        if edge_normalisation:
            for key, cell in self._cells.items():
                self.betas[key] = nn.Parameter(scale * torch.randn(len(cell.edges)))

    def mixing_weights(self) -> dict[str, Tensor]:
        """Softmax of the alphas of each edge, {key: [E, width]}; exactly 0 beyond an edge's candidates."""
        return {
            key: reference.mixing_weights(alphas, getattr(self, f"_present_{key}"))
            for key, alphas in self.alphas.items()
        }

    def edge_weights(self) -> dict[str, Tensor] | None:
        """Softmax of the betas over the edges into each node, {key: [E]}; None without edge normalisation."""
        if not self.betas:
            return None
        cells = self._cells
        return {
            key: reference.edge_normalisation(betas, [len(cells[key].into(node)) for node in cells[key].states])
            for key, betas in self.betas.items()
        }


class Supernet(Trunk):
    """A network of searched cells with its architecture parameters.

    Args:
        space: the search space.
        channels: C of the first cell.
        layers: number of cells; None for the space's own.
        classes: number of classes.
        in_channels: channels of the images.
        stem: `cifar` or `imagenet`; both with 3 * channels channels.
        partial: K of partial channels; 1 mixes all.
        edge_normalisation: whether edges have weights of their own; None for yes where channels are partial.
        alpha_scale, alpha_mean: alphas start as alpha_mean + alpha_scale * normal(0, 1), drawn after the weights, and
            betas without the mean; a scale of 0 starts all candidates equal.
        memory: what the fused engine keeps for backward: `fast`, `balanced` or `lean`; :func:`fastdarts.ops.cell`.
        auxiliary: whether there is an auxiliary head after cell 2 * layers // 3, the derived network's.
        dropout: probability that a pooled feature is dropped before the classifier.
        skip_dropout: probability that an element is dropped after an identity.
        channel_sampling: with partial channels, whether each pass of a cell mixes C/K channels drawn at random instead
            of the first ones; in evaluation the first ones.
        stacked: as of :class:`fastdarts.nn.Cell`; False is the fair layout for plain torch, each module with weights of
            its own.

    Attributes:
        auxiliary_logits: [N, classes], the auxiliary head's in the last pass; None in evaluation or without a head. It
            holds that pass' graph: read it before the next one.
        dropout: probability, from 0 to below 1; as the next two in training only, and may be set between passes.
        skip_dropout: likewise.
        drop_path_prob: probability that an edge of an image is dropped, with all of its candidates; 0 at first.

    Where `drop_path_prob` or `skip_dropout` is above 0 the cells run edge by edge, which the log says once.

    Raises:
        UserError: a count below 1, an unknown stem or memory mode, K that does not divide the channels, channels to
            sample where all are mixed, no probability.
        TypeError: no space.

    Source: Liu et al. 2019 (DARTS), section 3.1; Xu et al. 2020 (PC-DARTS), Eq. 3; Bi et al. 2019 (Amended-DARTS),
        section 4.1.2 (head and dropout); Chen et al. 2019 (P-DARTS), section 3.3 (dropout of skips); Zela et al. 2020
        (RobustDARTS), section 5.1 (drop-path in the search); docs/facts.md, 1, 3, 4, 6 and 9.
    """

    dropout, skip_dropout, drop_path_prob = Probability(), Probability(), Probability()

    def __init__(
        self,
        space: Space,
        *,
        channels: int = 16,
        layers: int | None = None,
        classes: int = 10,
        in_channels: int = 3,
        stem: str = "cifar",
        partial: int = 1,
        edge_normalisation: bool | None = None,
        alpha_scale: float = 1e-3,
        alpha_mean: float = 0.0,
        memory: str = "fast",
        auxiliary: bool = False,
        dropout: float = 0.0,
        skip_dropout: float = 0.0,
        channel_sampling: bool = False,
        stacked: bool = True,
    ) -> None:
        if not isinstance(space, Space):
            raise TypeError(f"space is a {type(space).__name__}; expected a Space, as fastdarts.spaces.space(name)")
        check_partial(channels, partial)
        check_memory(memory)
        check_sampling(channel_sampling, partial)
        layers = space.layers if layers is None else layers
        kinds = space.kinds(layers)

        def build_cell(place: Place) -> Cell:
            return Cell(
                space.cell(space.keys(layers)[place.layer], layers),
                place.c_prev_prev,
                place.c_prev,
                place.channels,
                reduction=place.reduction,
                reduction_prev=place.reduction_prev,
                partial=partial,
                memory=memory,
                channel_sampling=channel_sampling,
                stacked=stacked,
            )

        super().__init__(
            build_cell,
            channels=channels,
            layers=layers,
            reductions=[layer for layer, kind in enumerate(kinds) if kind == "reduce"],
            classes=classes,
            in_channels=in_channels,
            stem=stem,
            stem_channels=STEM_MULTIPLIER * channels,
            build_auxiliary=(lambda c_prev: auxiliary_head(stem, c_prev, classes)) if auxiliary else None,
        )
        self.space, self.partial = space, partial
        self.auxiliary, self.channel_sampling = auxiliary, channel_sampling
        self.dropout, self.skip_dropout, self.drop_path_prob = dropout, skip_dropout, 0.0
        self.auxiliary_logits: Tensor | None = None
        self._keys = space.keys(layers)
        edges = partial > 1 if edge_normalisation is None else edge_normalisation
        self.arch = Architecture(space, layers, edge_normalisation=edges, scale=alpha_scale, mean=alpha_mean)

    def forward(
        self,
        x: Tensor,
        weights: Mapping[str, Weights] | None = None,
        edge_weights: Mapping[str, Tensor] | None = None,
        active: Mapping[str, Active] | None = None,
    ) -> Tensor:
        """Classify.

        Args:
            x: [N, in_channels, H, W], floating.
            weights: mixing weights {key: [E, >= K_e], or E tensors [K_e]}; None for the softmax of the alphas, or,
                where `active` is given, for 1 each: the network in which only those operators exist.
            edge_weights: {key: [E]}; None for the softmax of the betas, or for none where there are no betas.
            active: {key: for each edge the indices of the operators that run}, as :meth:`one_path` gives it; None for
                all. What is not active is not computed and does not touch its batch-norm statistics.

        Returns:
            Logits [N, classes].

        Raises:
            UserError: wrong shapes, an empty batch, missing keys, indices that do not exist.
            TypeError: no tensors, or no floating dtype.
        """
        if weights is None and active is not None:
            weights = {key: torch.ones_like(alphas) for key, alphas in self.arch.alphas.items()}
        weights = self.mixing_weights() if weights is None else weights
        edge_weights = self.edge_weights() if edge_weights is None else edge_weights
        for name, given in (("weights", weights), ("edge_weights", edge_weights), ("active", active)):
            missing = [] if given is None else sorted(set(self._keys) - set(given))
            if missing:
                raise UserError(f"Supernet: {name} lack {', '.join(missing)}", f"the keys {', '.join(self._keys)}")
        self.auxiliary_logits = None
        dropped = {"drop_path_prob": self.drop_path_prob, "skip_dropout": self.skip_dropout} if self.training else {}
        older, newer = map(laid_out, self.begin(for_modules(x)))
        for layer, (key, cell) in enumerate(zip(self._keys, self.cells, strict=True)):
            of_edges = None if edge_weights is None else edge_weights[key]
            of_paths = None if active is None else active[key]
            older, newer = newer, cell(older, newer, weights[key], of_edges, of_paths, **dropped)
            if self.auxiliary and self.training and layer == 2 * self.layers // 3:
                self.auxiliary_logits = self.auxiliary_head(for_modules(newer))
        return self.classify(for_modules(newer), self.dropout)

    @property
    def draws(self) -> bool:
        """Whether a pass in training draws random numbers, from torch's default generator of its device."""
        cells = (self.space.cell(key, self.layers) for key in self.space.arch_keys(self.layers))
        noise = any("noise" in edge.primitives for cell in cells for edge in cell.edges)
        return noise or self.channel_sampling or any((self.dropout, self.skip_dropout, self.drop_path_prob))

    def __getstate__(self) -> dict[str, Any]:
        # What a pass left behind is no part of the model, and torch copies no tensor that has a history.
        return self.__dict__ | {"auxiliary_logits": None}

    def arch_parameters(self) -> list[nn.Parameter]:
        """Alphas, then betas, each in the order of the space's keys."""
        return list(self.arch.parameters())

    def weight_parameters(self) -> list[nn.Parameter]:
        """All parameters that are no architecture parameters, in quark0's order."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("arch.")]

    def mixing_weights(self) -> dict[str, Tensor]:
        """Softmax of the alphas of each edge, {key: [E, width]}; exactly 0 beyond an edge's candidates."""
        return self.arch.mixing_weights()

    def edge_weights(self) -> dict[str, Tensor] | None:
        """Softmax of the betas over the edges into each node, {key: [E]}; None without edge normalisation."""
        return self.arch.edge_weights()

    def genotype(self) -> Genotype:
        """The discrete architecture of the present alphas and betas; :func:`fastdarts.spaces.derive`."""
        return derive(self.space, self.mixing_weights(), layers=self.layers, edge_weights=self.edge_weights())

    def one_path(self, genotype: Genotype) -> dict[str, tuple[tuple[int, ...], ...]]:
        """The `active` argument of :meth:`forward` that runs only a genotype's operators.

        Args:
            genotype: an architecture of this supernet's space and depth.

        Returns:
            {key: for each edge the indices of its operators, () where the genotype has no such edge}.

        Raises:
            UserError: the genotype is of another space or depth.
        """
        self.space.check(genotype, self.layers)
        path: dict[str, tuple[tuple[int, ...], ...]] = {}
        for key in self.space.arch_keys(self.layers):
            chosen = set(genotype.edges(key))
            path[key] = tuple(
                tuple(k for k, op in enumerate(edge.primitives) if (op, edge.source, edge.node) in chosen)
                for edge in self.space.cell(key, self.layers).edges
            )
        return path
