"""A whole cell from its plan: the mixed operations of every edge, added up at the nodes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts.reference.batch_norm import NormFunction, batch_norm
from fastdarts.reference.convolution import dil_conv, relu_conv_bn, sep_conv
from fastdarts.reference.factorised_reduce import factorised_reduce
from fastdarts.reference.mixed_sum import weighted_sum
from fastdarts.reference.parameter_free import avg_pool, max_pool, zero
from fastdarts.reference.partial_channels import bypass as bypassed
from fastdarts.reference.partial_channels import channel_shuffle

__all__ = ["cell"]


class Candidate(Protocol):
    """One operator on an edge, as :class:`fastdarts.plan.Candidate`."""

    @property
    def kind(self) -> str: ...
    @property
    def column(self) -> int: ...
    @property
    def kernel(self) -> int: ...
    @property
    def dilation(self) -> int: ...


class Edge(Protocol):
    """One edge, as :class:`fastdarts.plan.EdgePlan`."""

    @property
    def source(self) -> int: ...
    @property
    def node(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def candidates(self) -> Sequence[Candidate]: ...


class Plan(Protocol):
    """What a cell computes, as :class:`fastdarts.plan.CellPlan`."""

    @property
    def inputs(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def ready(self) -> int: ...
    @property
    def concat(self) -> Sequence[int]: ...
    @property
    def channels(self) -> int: ...
    @property
    def partial(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def edges(self) -> Sequence[Edge]: ...


def cell(
    sources: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    plan: Plan,
    *,
    bypass: Tensor | None = None,
    noise: Sequence[Tensor] = (),
    mean: Tensor | None = None,
    var: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix every edge's candidates and add them up at the nodes.

    `s_j = sum_e shuffle(concat(sum_k weights[e, k] * op_k(s_source(e)), bypass[e] * rest(s_source(e))))` over the edges
    e into node j, with `op_k(x) = (y_k(x) - mean_k) / sqrt(var_k + eps)`; and concatenated: `[s_j for j in concat]`.

    Args:
        sources: the plan's inputs [N, C, H, W], floating, one dtype and shape; then the nodes that are ready.
        weights: [E, >= width], floating; mixing weights by edge and column, edge weights multiplied in.
        parameters: of each edge and candidate in turn: sep dw1, pw1, dw2, pw2; dil dw, pw; reduce conv_1, conv_2 (none
            for one channel); floating.
        plan: what is computed.
        bypass: [E], floating; edge weights of the channels that are not mixed, None for 1 each.
        noise: [N, C / partial, H', W'] for each candidate that is handed in: noise, or what a module computed.
        mean: [B], floating; running means, C / partial for each batch norm in turn: sep 2, dil, reduce and pools 1.
            None for those of the batch.
        var: [B], floating; running variances, with mean.
        eps: added to the variance.

    Returns:
        (out [N, C * len(concat), H', W'], the dtype of the sources; mean [B], float64; var [B], float64, biased): the
        statistics that were used, without gradients.

    Source: Liu et al. 2019 (DARTS), Eq. 1 and 2; Xu et al. 2020 (PC-DARTS), Eq. 3 and 4.
    """
    own, drawn = (each.to(sources[0].dtype) for each in parameters), iter(noise)
    statistics = _Statistics(mean, var, plan.channels // plan.partial, eps)
    states = list(sources)
    for node in range(plan.inputs + plan.ready, plan.inputs + plan.nodes):
        terms = []
        for e, edge in enumerate(plan.edges):
            if edge.node == node and edge.candidates:
                x = states[edge.source]
                mixed = _mix(x[:, : statistics.channels], weights[e], edge, own, drawn, statistics)
                if plan.partial > 1:
                    rest = bypassed(x[:, statistics.channels :], stride=edge.stride)
                    mixed = torch.cat([mixed, rest if bypass is None else bypass[e] * rest], dim=1)
                terms.append(channel_shuffle(mixed, plan.partial))
        states.append(weighted_sum(terms) if terms else zero(states[0], stride=plan.stride))
    return torch.cat([states[node] for node in plan.concat], dim=1), *statistics.used(sources[0].device)


class _Statistics:
    """One batch norm after the other: the statistics that it used, or the given ones that it uses."""

    def __init__(self, mean: Tensor | None, var: Tensor | None, channels: int, eps: float) -> None:
        self.channels, self.eps = channels, eps
        self._means: list[Tensor] = []
        self._vars: list[Tensor] = []
        self._given: Iterator[tuple[Tensor, Tensor]] | None = None
        if mean is not None and var is not None:
            self._given = zip(mean.split(channels), var.split(channels), strict=True)

    def __call__(self, y: Tensor) -> Tensor:
        if self._given is not None:
            mean, var = next(self._given)
            self._means.append(mean.double())
            self._vars.append(var.double())
            # In the arithmetic of batch norm: a map of half precision takes statistics of single.
            kind = y.dtype if y.dtype == torch.float64 else torch.float32
            return F.batch_norm(y, mean.to(kind), var.to(kind), training=False, eps=self.eps)
        var, mean = torch.var_mean(y.detach().double(), (0, 2, 3), correction=0)
        self._means.append(mean)
        self._vars.append(var)
        return batch_norm(y, eps=self.eps)

    def used(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """mean and var of all, [B] float64."""
        none = [torch.empty(0, dtype=torch.float64, device=device)]
        return torch.cat(none + self._means), torch.cat(none + self._vars)


def _mix(
    x: Tensor, weights: Tensor, edge: Edge, parameters: Iterator[Tensor], noise: Iterator[Tensor], norm: _Statistics
) -> Tensor:
    """An edge's mixed operation: `sum_k weights[k] * op_k(x)`."""
    terms = [weights[each.column] * _run(x, each, edge.stride, parameters, noise, norm) for each in edge.candidates]
    return weighted_sum(terms)


def _run(
    x: Tensor,
    candidate: Candidate,
    stride: int,
    parameters: Iterator[Tensor],
    noise: Iterator[Tensor],
    norm: NormFunction,
) -> Tensor:
    match candidate.kind:
        case "none":
            return zero(x, stride=stride)
        case "skip":
            return x
        case "max_pool":
            return max_pool(x, stride=stride, norm=norm)
        case "avg_pool":
            return avg_pool(x, stride=stride, norm=norm)
        case "sep":
            kernels = [next(parameters) for _ in range(4)]
            return sep_conv(x, *kernels, stride=stride, norm_1=norm, norm_2=norm)
        case "dil":
            dilation = candidate.dilation
            return dil_conv(x, next(parameters), next(parameters), stride=stride, dilation=dilation, norm=norm)
        case "reduce":
            first = next(parameters)
            return factorised_reduce(x, first, next(parameters) if x.shape[1] > 1 else None, norm=norm)
        case "dense":
            return relu_conv_bn(x, next(parameters), stride=stride, norm=norm)
        case "wide_max_pool":
            return max_pool(x, kernel=candidate.kernel, stride=stride, norm=norm)
        case "wide_avg_pool":
            return avg_pool(x, kernel=candidate.kernel, stride=stride, norm=norm)
        case "noise" | "module":
            return next(noise)
    raise AssertionError(candidate.kind)
