"""A node: all candidates of all incoming edges, batch norms applied on the fly, summed in one pass over them.

The launchers of the kernels are in `_mixed_sum_<backend>.py`; here is the library op that anyone can call.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdarts._backend import backend_for
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops._checks import require_tensors
from fastdarts.ops._engine import computing, launchers
from fastdarts.ops._mixed_sum_checks import check, named, node_shape
from fastdarts.ops._records import Edge, SumBackward, SumForward, SumReduce
from fastdarts.reference.mixed_sum import node_sum as _reference

__all__ = ["Edge", "mixed_sum", "pool_moments"]

_NAME = "fastdarts::mixed_sum"
_BACKWARD = "fastdarts::mixed_sum_backward"
_MOMENTS = "fastdarts::pool_moments"
_INPUTS = (
    "Tensor[] ys, Tensor weights, Tensor mean, Tensor var, Tensor[] sources, int[] edges, Tensor edge_weights,"
    " Tensor pool_mean, Tensor pool_var, Tensor? bypass, int partial, float eps, bool training"
)
_TAGS = (torch.Tag.pt2_compliant_tag,)

torch.library.define(_NAME, f"({_INPUTS}) -> Tensor", tags=_TAGS)
torch.library.define(_BACKWARD, f"(Tensor grad, {_INPUTS}, bool need_ys, bool need_sources) -> Tensor[]", tags=_TAGS)
torch.library.define(_MOMENTS, "(Tensor x, int stride, bool max_pool, bool avg_pool) -> (Tensor, Tensor)", tags=_TAGS)


def mixed_sum(
    ys: Sequence[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: Sequence[Tensor],
    edges: Sequence[Edge],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None = None,
    partial: int = 1,
    eps: float = 1e-5,
    training: bool = True,
) -> Tensor:
    """A node from all candidates of all its incoming edges, the batch norms applied on the fly.

    With `xhat = (v - mu) r`, `r = 1 / sqrt(var + eps)`, of each candidate v before its batch norm, over the first
    C' = C / K channels:

    `mixed = sum_t weights[t] xhat_t + sum_e (edge_weights[e, 0] x_e + edge_weights[e, 1] xhat(max_e)
    + edge_weights[e, 2] xhat(avg_e))`; with K = 1 that is the node. Else the other channels are
    `rest = sum_e bypass[e] x_e` (the maxima of 2x2 windows at stride 2), and
    `node[m K + k] = concat(mixed, rest)[k C' + m]`.

    Backward, with g the gradient of `mixed`, M its pixels, and per channel `G = sum g`, `Q_t = sum g xhat_t`:
    `dweights[t] = sum_c Q_t`, the same for edge_weights, with `sum g x` for a skip and a bypass; for a y of weight w

    `dy = alpha g + beta y + gamma`, `alpha = w r`, `beta = - w r^2 Q / M`, `gamma = - alpha G / M - beta mu`

    in training, since the statistics are those of the batch, and `dy = w r g` in evaluation. Pools likewise, and on to
    the source: to the first of the largest pixels, or shared out over the pixels inside.

    Args:
        ys: T times [N, C', H', W'], float32 | bfloat16 | float64, before their batch norms.
        weights: [T], floating; mixing weights, times the edge weights where there are any.
        mean: [T, C'], floating; the statistics of the batch in training, running ones in evaluation.
        var: [T, C'], floating, biased.
        sources: E times [N, C, H, W] with ceil(H / stride) = H' and ceil(W / stride) = W', the dtype of the ys.
        edges: E times which candidates without weights there are; those of no source are unread.
        edge_weights: [E, 3], floating; of the skip, the maximum and the average.
        pool_mean: [E, 2, C'], floating; of the maximum and the average.
        pool_var: [E, 2, C'], floating, biased.
        bypass: [E], floating; weights of the channels that are not mixed; None for 1 each. Unread with K = 1.
        partial: K, the share of the channels that is mixed is 1/K.
        eps: added to the variances.
        training: whether mean and var are functions of the ys and the sources, through which gradients flow. The
            reference then computes them itself.

    Returns:
        The node [N, C, H', W'], the dtype of the ys, channels_last.

    Raises:
        ValueError: a shape that does not fit, an empty batch, nothing to add, or one pixel in all in training.
        TypeError: another dtype or type.
        RuntimeError: a second derivative of the fused op; `use_backend("reference")` has one.

    Source: Liu et al. 2019 (DARTS), Eq. 1 and 2; Xu et al. 2020 (PC-DARTS), Eq. 3 and 4.
    """
    tensors = named(ys, weights, mean, var, sources, edge_weights, pool_mean, pool_var, bypass)
    require_tensors("mixed_sum", tensors.items())
    for i, edge in enumerate(edges):
        if not isinstance(edge, Edge):
            raise TypeError(f"mixed_sum: edges[{i}] is a {type(edge).__name__}; expected an Edge")
    encoded = [part for e in edges for part in (e.stride, int(e.skip), int(e.max_pool), int(e.avg_pool))]
    given = (list(ys), weights, mean, var, list(sources), encoded, edge_weights, pool_mean, pool_var, bypass)
    if backend_for("mixed_sum", weights.device.type) == "reference":
        check(*given, partial, training)
        decoded = (*given[:5], list(edges), *given[6:])
        return _reference(*decoded, partial, eps, training)
    out: Tensor = torch.ops.fastdarts.mixed_sum(*given, partial, eps, training)
    return out


def pool_moments(x: Tensor, stride: int, *, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the 3x3 pools of a map, without the pooled maps.

    Args:
        x: [N, C, H, W], float32 | bfloat16 | float64, on a GPU float16 too.
        stride: 1 or 2, pixels.
        max_pool: whether the first row is wanted.
        avg_pool: whether the second row is wanted.

    Returns:
        (mean [2, C], var [2, C]), float64; rows: maximum, average of the pixels inside; 0 where not wanted.

    Raises:
        UserError: a wrong shape or stride.
        TypeError: another dtype.
    """
    mean, var = torch.ops.fastdarts.pool_moments(x, stride, max_pool, avg_pool)
    return mean, var


def _decode(edges: Sequence[int]) -> list[Edge]:
    return [
        Edge(stride, bool(skip), bool(largest), bool(average))
        for stride, skip, largest, average in zip(*(edges[i::4] for i in range(4)), strict=True)
    ]


def _factors(var: Tensor, pool_var: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """The reciprocal deviations [T, C'] and [E, 2, C'], and [E, 3, C'] with 1 for the skip, float64."""
    rstd, pool_rstd = (var.double() + eps).rsqrt(), (pool_var.double() + eps).rsqrt()
    ones = pool_rstd.new_ones(pool_rstd.shape[0], 1, pool_rstd.shape[2])
    return rstd, pool_rstd, torch.cat([ones, pool_rstd], 1)


def _mixed_sum(
    ys: list[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: list[Tensor],
    edges: list[int],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None,
    partial: int,
    eps: float,
    training: bool,
) -> Tensor:
    check(ys, weights, mean, var, sources, edges, edge_weights, pool_mean, pool_var, bypass, partial, training)
    out = maps.empty_maps(*node_shape(ys, sources, edges, partial), like=(ys or sources)[0])
    rstd, _, free_rstd = _factors(var, pool_var, eps)
    scale, free = weights.double()[:, None] * rstd, edge_weights.double()[:, :, None] * free_rstd
    sources = [maps.as_maps(x) for x in sources]
    given = (out, ys, scale, None, sources, _decode(edges), free, bypass, partial)
    _kernels(out).forward(SumForward(*given, mean=mean, pool_mean=pool_mean))
    return out


def _mixed_sum_backward(
    grad: Tensor,
    ys: list[Tensor],
    weights: Tensor,
    mean: Tensor,
    var: Tensor,
    sources: list[Tensor],
    edges: list[int],
    edge_weights: Tensor,
    pool_mean: Tensor,
    pool_var: Tensor,
    bypass: Tensor | None,
    partial: int,
    eps: float,
    training: bool,
    need_ys: bool,
    need_sources: bool,
) -> list[Tensor]:
    """The gradients of weights, edge_weights, bypass where given, and of the ys and the sources where needed."""
    decoded, sources = _decode(edges), [maps.as_maps(x) for x in sources]
    rstd, pool_rstd, free_rstd = _factors(var, pool_var, eps)
    mean = mean.double()
    kernels = _kernels(grad)
    given = (maps.as_maps(grad), ys, mean, rstd, sources, decoded, pool_mean, pool_rstd, partial)
    found = kernels.reduce(SumReduce(*given))
    pixels = grad.shape[0] * grad.shape[2] * grad.shape[3]
    gradients = [found.products.sum(1).to(weights.dtype), found.free.sum(2).to(edge_weights.dtype)]
    if bypass is not None:
        dbypass = torch.zeros_like(bypass) if found.bypass is None else found.bypass.to(bypass.dtype)
        gradients.append(dbypass)
    if need_ys:
        scale = weights.double()[:, None] * rstd
        mixed = found.g[:, : grad.shape[1] // partial]
        beta, gamma = -scale * rstd * found.products / pixels, -scale * found.total / pixels
        for t, y in enumerate(ys):
            gradients.append(_gradient(mixed, y, scale[t], (beta[t], mean[t], gamma[t]) if training else None))
    if need_sources:
        alpha = edge_weights.double()[:, :, None] * free_rstd
        beta = gamma = torch.zeros_like(alpha)
        if training:
            beta, gamma = -alpha * free_rstd * found.free / pixels, -alpha * found.total / pixels
        dx = [maps.zeros_maps(*x.shape, like=x) for x in sources]
        kernels.backward(SumBackward(found.g, sources, decoded, alpha, beta, gamma, bypass, dx, partial, pool_mean))
        gradients += dx
    return gradients


def _gradient(g: Tensor, y: Tensor, alpha: Tensor, batch: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
    """`alpha g + beta (y - mean) + gamma`, with batch = (beta, mean, gamma); `alpha g` without."""
    dtype = maps.arithmetic(y.dtype)
    dy = alpha.to(dtype)[:, None, None] * g
    if batch is not None:
        beta, mean, gamma = batch
        centre = mean.to(dtype)
        gamma = gamma + beta * (centre.double() - mean)  # what rounding the mean leaves behind
        beta, centre, gamma = (each.to(dtype)[:, None, None] for each in (beta, centre, gamma))
        dy += beta * (y - centre) + gamma
    return dy.to(y.dtype)


def _pool_moments(x: Tensor, stride: int, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
    maps.check_stored("mixed_sum", "x", x)
    if x.dim() != 4 or min(x.shape) < 1:
        raise UserError(f"pool_moments: x has shape {list(x.shape)}", "[N, C, H, W], each at least 1")
    if stride not in (1, 2):
        raise UserError(f"pool_moments: stride is {stride}", "1 or 2")
    found: tuple[Tensor, Tensor] = _kernels(x).pool_moments(
        maps.as_maps(x), stride, max_pool=max_pool, avg_pool=avg_pool
    )
    return found


def _kernels(x: Tensor) -> ModuleType:
    return launchers("mixed_sum", computing("mixed_sum", x))


for _name, _function in ((_NAME, _mixed_sum), (_BACKWARD, _mixed_sum_backward), (_MOMENTS, _pool_moments)):
    torch.library.impl(_name, ("cpu", "cuda"))(maps.on_its_device(_function))


@torch.library.register_fake(_NAME)
def _fake(ys: list[Tensor], *given: Any) -> Tensor:
    if given[0].device.type == "meta":  # a prediction of memory wants every allocation, the scratch too
        return _mixed_sum(ys, *given)
    check(ys, *given[:-2], *given[-1:])
    return maps.empty_maps(*node_shape(ys, given[3], given[4], given[-3]), like=(ys or given[3])[0])


@torch.library.register_fake(_BACKWARD)
def _fake_backward(grad: Tensor, ys: list[Tensor], *given: Any) -> list[Tensor]:
    if grad.device.type == "meta":
        return _mixed_sum_backward(grad, ys, *given)
    weights, sources, edge_weights, bypass, (need_ys, need_sources) = given[0], given[3], given[5], given[8], given[-2:]
    gradients = [torch.empty_like(each) for each in (weights, edge_weights, bypass) if each is not None]
    wanted = (list(ys) if need_ys else []) + (list(sources) if need_sources else [])
    return gradients + [maps.empty_maps(*x.shape, like=x) for x in wanted]


@torch.library.register_fake(_MOMENTS)
def _fake_moments(x: Tensor, stride: int, max_pool: bool, avg_pool: bool) -> tuple[Tensor, Tensor]:
    if x.device.type == "meta":
        return _pool_moments(x, stride, max_pool, avg_pool)
    mean, var = (x.new_empty((2, x.shape[1]), dtype=torch.float64) for _ in range(2))
    return mean, var


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ys, weights, mean, var, sources, ctx.edges, *single, ctx.partial, ctx.eps, ctx.training = inputs
    ctx.counts = len(ys), len(sources)
    ctx.save_for_backward(*ys, *sources, weights, mean, var, *single)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    terms, count = ctx.counts
    saved = ctx.saved_tensors
    ys, sources = list(saved[:terms]), list(saved[terms : terms + count])
    weights, mean, var, *single = saved[terms + count :]
    need_ys, need_sources = (any(wanted) if wanted else False for wanted in (ctx.needs_input_grad[i] for i in (0, 4)))
    given = (ys, weights, mean, var, sources, ctx.edges, *single, ctx.partial, ctx.eps, ctx.training)
    found = iter(torch.ops.fastdarts.mixed_sum_backward(grad, *given, need_ys, need_sources))
    dweights, dedge_weights = next(found), next(found)
    dbypass = next(found) if single[-1] is not None else None
    dys = [next(found) if need_ys else None for _ in ys]
    dsources = [next(found) if need_sources else None for _ in sources]
    # torch takes a list without elements for one of tensors.
    dedges: list[Tensor] | None = None if ctx.edges else []
    return dys, dweights, None, None, dsources, dedges, dedge_weights, None, None, dbypass, None, None, None


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError("mixed_sum has no second derivative; use_backend('reference') has one")


torch.library.register_autograd(_NAME, _autograd, setup_context=_setup)
torch.library.register_autograd(_BACKWARD, _no_second_derivative)
