"""A whole cell, or one mixed operation, as one library op: every candidate of every edge, mixed into the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastdarts._backend import backend_for
from fastdarts.ops import _cell_cpu, maps
from fastdarts.ops._cell_backward import Asked, Backward
from fastdarts.ops._cell_checks import check, check_tensors
from fastdarts.ops._cell_forward import Statistics, Work, forward, with_zero
from fastdarts.ops._cell_layout import Layout, layout
from fastdarts.ops._engine import computing, engine
from fastdarts.plan import MEMORY, CellPlan, kept_rows
from fastdarts.reference.cell import cell as _reference

__all__ = ["cell", "on_reference"]

_NAME = "fastdarts::cell"
_BACKWARD = "fastdarts::cell_backward"

torch.library.define(
    _NAME,
    "(Tensor[] sources, Tensor weights, Tensor? bypass, Tensor[] parameters, Tensor[] noise, Tensor? mean, Tensor? var,"
    " str plan, str memory, float eps) -> (Tensor, Tensor, Tensor, Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _BACKWARD,
    "(Tensor grad, Tensor[] sources, Tensor weights, Tensor? bypass, Tensor[] parameters, Tensor[] noise, Tensor out,"
    " Tensor mean, Tensor var, Tensor[] kept, str plan, str memory, float eps, bool training, str backend,"
    " bool[] need_sources, bool[] need_noise, bool need_weights, bool need_bypass, bool need_parameters)"
    " -> (Tensor[], Tensor[], Tensor[], Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def cell(
    sources: Sequence[Tensor],
    weights: Tensor,
    parameters: Sequence[Tensor],
    plan: CellPlan | str,
    *,
    bypass: Tensor | None = None,
    noise: Sequence[Tensor] = (),
    mean: Tensor | None = None,
    var: Tensor | None = None,
    memory: str = "fast",
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor, Tensor]:
    """Mix every edge's candidates and add them up at the nodes, in one pass a node.

    `s_j = sum_e shuffle(concat(sum_k weights[e, k] * op_k(s_source(e)), bypass[e] * rest(s_source(e))))` over the edges
    e into node j, with `op_k(x) = (y_k(x) - mean_k) / sqrt(var_k + eps)`; and concatenated: `[s_j for j in concat]`.
    Computed as `sum a (y - mean)` with `a = weights / sqrt(var + eps)`: no normalised map and no edge's sum exist.

    What is kept for backward beside the sources, the nodes and the statistics:

    ========  ==============================================================================
    fast      every value y before a batch norm (a separable convolution has two)
    balanced  those of separable convolutions' first halves; backward computes the others again
    lean      none; backward computes all again
    ========  ==============================================================================

    Backward computes them again for one node at a time; all three give the same numbers, bit for bit. Where nothing
    requires gradients nothing is kept.

    Args:
        sources: the plan's inputs [N, C, H, W], float32 | bfloat16 | float64, one dtype and shape; then the nodes that
            are ready, [N, C, H', W']. Maps (:mod:`fastdarts.ops.maps`, channels_last is one) are read as they lie,
            others are copied.
        weights: [E, >= width], floating; mixing weights by edge and column, edge weights multiplied in. What no
            candidate of the plan has is not read, and its gradient is 0.
        parameters: of the shapes in `plan.parameters`, in that order, floating.
        plan: what is computed; encoded too.
        bypass: [E], floating; edge weights of the channels that are not mixed, None for 1 each. Only with partial > 1.
        noise: a map [N, C / partial, H', W'] for each candidate of the plan that is handed in, noise or what a module
            computed; the dtype of the sources.
        mean: [B], floating; running means in the order of `plan.norms`, C / partial each. None for the batch's.
        var: [B], floating; running variances, with mean.
        memory: `fast`, `balanced` or `lean`.
        eps: added to the variance.

    Returns:
        (out [N, C * len(concat), H', W'], the dtype of the sources, channels_last; mean [B], float64; var [B], float64,
        biased): the statistics that were used, without gradients.

    Raises:
        UserError: shapes that are not the plan's, an empty batch, one value a channel in training, mixed devices.
        TypeError: what is no tensor, or a dtype that is not listed.
        RuntimeError: a second derivative; ``use_backend("reference")`` has one.

    Source: Liu et al. 2019 (DARTS), Eq. 1 and 2; Xu et al. 2020 (PC-DARTS), Eq. 3 and 4.
    """
    arguments = (list(sources), weights, bypass, list(parameters), list(noise), mean, var)
    check_tensors(*arguments)
    if on_reference(sources[0].device.type):
        decoded = CellPlan.decode(plan) if isinstance(plan, str) else plan
        check(*arguments, decoded, memory)
        given = (sources, weights, parameters, decoded)
        return _reference(*given, bypass=bypass, noise=noise, mean=mean, var=var, eps=eps)
    if memory in MEMORY and not _any_gradient(*sources, *parameters, *noise, weights, bypass):
        memory = "lean"
    maps.count_flops()
    out: Tensor
    text = plan if isinstance(plan, str) else plan.encode()
    out, mean, var, _ = torch.ops.fastdarts.cell(*arguments, text, memory, eps)
    return out, mean, var


def _any_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


# torch.compile asks once and takes the answer as a constant: neither a context variable nor a cache can be traced.
@torch.compiler.assume_constant_result
def on_reference(device: str) -> bool:
    """Whether cells on a device of this type are computed in plain torch, by the backend in force."""
    return backend_for("cell", device) == "reference"


# The library op.


def _work(
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    statistics: Statistics,
    chosen: Layout,
    backend: str,
) -> Work:
    plan, beta = chosen.plan, None
    if plan.partial > 1:
        edges = len(plan.edges)
        beta = weights.new_ones(edges, dtype=torch.float64) if bypass is None else bypass.detach().to(torch.float64)
    states, noise = [maps.as_maps(x) for x in sources], [maps.as_maps(x) for x in noise]
    return Work(engine(backend), chosen, states, parameters, noise, statistics, with_zero(weights), beta)


def _cell(
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
    plan: str,
    memory: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    decoded = CellPlan.decode(plan)
    check(sources, weights, bypass, parameters, noise, mean, var, decoded, memory)
    backend = computing("cell", sources[0])
    if backend == "cpu":
        given = _cell_cpu.Given(sources, weights, bypass, parameters, noise, plan, memory, eps)
        return _cell_cpu.forward(given, mean, var)
    device, asked = sources[0].device, (True,) * len(sources)
    chosen = layout(plan, memory, weights.shape[1], str(device), asked, True)
    maps.keep_if_captured(chosen, device)
    if mean is None or var is None:
        statistics = Statistics.unknown(decoded.mixed, eps, device)
    else:
        statistics = Statistics.known(mean, var, chosen, eps)
    work = _work(sources, weights, bypass, parameters, noise, statistics, chosen, backend)
    out, kept = forward(work)
    if mean is None or var is None:
        return out, *statistics.used(chosen), kept
    # Of the op's own: an output of an op must not be one of its inputs.
    return out, mean.to(torch.float64, copy=True), var.to(torch.float64, copy=True), kept


def _cell_backward(
    grad: Tensor,
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    out: Tensor,
    mean: Tensor,
    var: Tensor,
    kept: list[Tensor],
    plan: str,
    memory: str,
    eps: float,
    training: bool,
    backend: str,
    need_sources: list[bool],
    need_noise: list[bool],
    need_weights: bool,
    need_bypass: bool,
    need_parameters: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    asked = Asked(tuple(need_sources), tuple(need_noise), need_weights, need_bypass, need_parameters)
    if backend == "cpu":
        given = _cell_cpu.Given(sources, weights, bypass, parameters, noise, plan, memory, eps)
        return _cell_cpu.backward(given, grad, out, mean, var, kept, asked, training=training)
    chosen = layout(plan, memory, weights.shape[1], str(grad.device), asked.sources, need_parameters)
    maps.keep_if_captured(chosen, grad.device)
    statistics = Statistics.known(mean, var, chosen, eps)
    work = _work(sources, weights, bypass, parameters, noise, statistics, chosen, backend)
    restore(work, out, kept)
    backward = Backward(work, grad, asked, training=training)
    backward.run()
    return gradients(backward, weights, bypass)


def restore(work: Work, out: Tensor, kept: Sequence[Tensor]) -> None:
    """Give a work what its forward left: the nodes, and the values that are kept."""
    chosen, plan = work.layout, work.layout.plan
    hidden = iter(kept[len(chosen.kept) :])
    for node in plan.computed:
        start = plan.concat.index(node) * plan.channels if node in plan.concat else -1
        work.states.append(next(hidden) if start < 0 else out[:, start : start + plan.channels])
    work.values.update(zip(chosen.kept, kept, strict=False))


def gradients(
    backward: Backward, weights: Tensor, bypass: Tensor | None
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """What a backward has found: of the sources; of the weights and the bypass; of the parameters; of the noise."""
    asked, edges = backward.asked, len(backward.work.layout.plan.edges)
    mixing = [backward.weights(*weights.shape).to(weights.dtype)] if asked.weights else []
    if asked.bypass and bypass is not None:
        mixing.append(backward.bypass(edges).to(bypass.dtype))
    return backward.sources(), mixing, backward.parameters() if asked.parameters else [], backward.noise()


for _name, _function in ((_NAME, _cell), (_BACKWARD, _cell_backward)):
    torch.library.impl(_name, ("cpu", "cuda"))(maps.on_its_device(_function))


@torch.library.register_fake(_NAME)
def _fake(
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    mean: Tensor | None,
    var: Tensor | None,
    plan: str,
    memory: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    x, decoded = sources[0], CellPlan.decode(plan)
    if not isinstance(x, FakeTensor):  # a prediction of memory wants every allocation, those in between too
        return _cell(sources, weights, bypass, parameters, noise, mean, var, plan, memory, eps)
    check(sources, weights, bypass, parameters, noise, mean, var, decoded, memory)
    height, width = (-(-size // decoded.stride) for size in x.shape[2:])
    hidden = len(decoded.computed) - len(decoded.concat)
    channels = [decoded.mixed] * len(kept_rows(decoded, memory)) + [decoded.channels] * hidden
    out, *kept = (
        maps.empty_maps(x.shape[0], each, height, width, like=x)
        for each in (decoded.channels * len(decoded.concat), *channels)
    )
    own_mean, own_var = (x.new_empty(len(decoded.norms) * decoded.mixed, dtype=torch.float64) for _ in range(2))
    return out, own_mean, own_var, kept


@torch.library.register_fake(_BACKWARD)
def _fake_backward(
    grad: Tensor,
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    out: Tensor,
    mean: Tensor,
    var: Tensor,
    kept: list[Tensor],
    plan: str,
    memory: str,
    eps: float,
    training: bool,
    backend: str,
    need_sources: list[bool],
    need_noise: list[bool],
    need_weights: bool,
    need_bypass: bool,
    need_parameters: bool,
) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    if not isinstance(grad, FakeTensor):
        needs = (need_sources, need_noise, need_weights, need_bypass, need_parameters)
        saved = (sources, weights, bypass, parameters, noise, out, mean, var, kept)
        return _cell_backward(grad, *saved, plan, memory, eps, training, backend, *needs)
    mixing = [weights] * need_weights + ([bypass] if need_bypass and bypass is not None else [])
    return (
        [maps.empty_maps(*x.shape, like=x) for x, needed in zip(sources, need_sources, strict=True) if needed],
        [torch.empty_like(each, memory_format=torch.contiguous_format) for each in mixing],
        [torch.empty_like(each, memory_format=torch.contiguous_format) for each in parameters if need_parameters],
        [maps.empty_maps(*x.shape, like=x) for x, needed in zip(noise, need_noise, strict=True) if needed],
    )


class _Differentiable(torch.autograd.Function):
    """The op under autograd, its lists laid out flat.

    `torch.library.register_autograd` does the same through pytrees, which for the 168 parameters of a DARTS cell took
    1.8 ms a step: as long as the cell itself on small maps.
    """

    @staticmethod
    def forward(
        ctx: Any, keys: Any, counts: tuple[int, int, int], others: tuple[Any, ...], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        sources, parameters, noise, (weights, *rest) = _split(tensors, counts)
        mean, _, ctx.plan, ctx.memory, ctx.eps = others
        bypass = rest[0] if rest else None
        with torch._C._AutoDispatchBelowAutograd():
            out, own_mean, own_var, kept = torch.ops.fastdarts.cell.default.redispatch(
                keys, sources, weights, bypass, parameters, noise, *others
            )
        ctx.training, ctx.counts = mean is None, counts
        # Backward may run in a thread of its own, where the choice of backend that is in force here is not.
        ctx.backend = computing("cell", sources[0])
        # Without this autograd would make a map of zeros for each of `kept`.
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(own_mean, own_var, *kept)
        ctx.save_for_backward(out, own_mean, own_var, *kept, *tensors)
        return out, own_mean, own_var, *kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[3:]
        if grad is None:
            return (None,) * (3 + len(needed))
        out, mean, var, *given = ctx.saved_tensors
        sources, parameters, noise, (weights, *rest) = _split(given[len(given) - len(needed) :], ctx.counts)
        need_sources, need_parameters, need_noise, need_mixing = _split(needed, ctx.counts)
        kept, bypass = given[: len(given) - len(needed)], rest[0] if rest else None
        saved = (sources, weights, bypass, parameters, noise, out, mean, var, kept)
        asked = (need_sources, need_noise, need_mixing[0], any(need_mixing[1:]), any(need_parameters))
        dsources, dmixing, dparameters, dnoise = torch.ops.fastdarts.cell_backward(
            grad, *saved, ctx.plan, ctx.memory, ctx.eps, ctx.training, ctx.backend, *asked
        )
        return (
            *(None, None, None),
            *_spread(dsources, need_sources),
            *(dparameters or [None] * len(parameters)),
            *_spread(dnoise, need_noise),
            *_spread(dmixing, need_mixing),
        )


def _split(flat: Sequence[Any], counts: tuple[int, int, int]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """What belongs to the sources, to the parameters, to the noise, and to the weights and the bypass."""
    one, two, three = counts[0], counts[0] + counts[1], sum(counts)
    return list(flat[:one]), list(flat[one:two]), list(flat[two:three]), list(flat[three:])


def _spread(found: list[Tensor], needed: list[bool]) -> list[Tensor | None]:
    each = iter(found)
    return [next(each) if need else None for need in needed]


def _with_autograd(
    keys: Any,
    sources: list[Tensor],
    weights: Tensor,
    bypass: Tensor | None,
    parameters: list[Tensor],
    noise: list[Tensor],
    *others: Any,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    below = keys & torch._C._after_autograd_keyset
    mixing = [weights] if bypass is None else [weights, bypass]
    tensors = (*sources, *parameters, *noise, *mixing)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        counts = (len(sources), len(parameters), len(noise))
        out, mean, var, *kept = _Differentiable.apply(below, counts, others, *tensors)
        return out, mean, var, kept
    with torch._C._AutoDispatchBelowAutograd():
        result: tuple[Tensor, Tensor, Tensor, list[Tensor]] = torch.ops.fastdarts.cell.default.redispatch(
            below, sources, weights, bypass, parameters, noise, *others
        )
    return result


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError("cell has no second derivative; use_backend('reference') has one")


_LIBRARY = torch.library.Library("fastdarts", "FRAGMENT")
_LIBRARY.impl("cell", _with_autograd, "Autograd", with_keyset=True)
torch.library.register_autograd(_BACKWARD, _no_second_derivative)
