"""A whole cell, or one mixed operation, as one library op: every candidate of every edge, mixed into the nodes."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from fastdarts._backend import backend_for
from fastdarts.ops import _cell_cpu, _cell_launched, maps
from fastdarts.ops._cell_given import Asked, Given
from fastdarts.ops._engine import computing
from fastdarts.ops.constant import constant_when_compiled
from fastdarts.plan import MEMORY, CellPlan
from fastdarts.plan._schedule import kept_rows
from fastdarts.reference.cell import cell as _reference

__all__ = ["cell", "on_reference"]

_NAME = "fastdarts::cell"
_BACKWARD = "fastdarts::cell_backward"
_GIVEN = (
    "Tensor[] sources, Tensor weights, Tensor? bypass, Tensor[] parameters, int[] places, Tensor[] noise,"
    " Tensor? mean, Tensor? var, str plan, str memory, float eps"
)

torch.library.define(
    _NAME,
    f"({_GIVEN}) -> (Tensor, Tensor, Tensor, Tensor[])",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    _BACKWARD,
    f"(Tensor grad, {_GIVEN}, Tensor out, Tensor[] kept, bool training, str backend,"
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
    places: Sequence[int] = (),
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
        places: for each parameter of the plan which of `parameters` it lies in, and its first element there; these are
            then flat tensors, a few for a cell, and so are their gradients: 0 where no parameter lies.
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
    text = plan if isinstance(plan, str) else plan.encode()
    several = list(sources), weights, bypass, list(parameters), list(places), list(noise)
    given = Given(*several, mean, var, text, memory, eps)
    given.check_tensors()
    if on_reference(sources[0].device.type):
        given.check()
        decoded = CellPlan.decode(plan) if isinstance(plan, str) else plan
        kernels = given.kernels()
        return _reference(sources, weights, kernels, decoded, bypass=bypass, noise=noise, mean=mean, var=var, eps=eps)
    if memory in MEMORY and not _any_gradient(*sources, *parameters, *noise, weights, bypass):
        given = given._replace(memory="lean")
    maps.count_flops()
    out: Tensor
    out, mean, var, _ = torch.ops.fastdarts.cell(*given)
    return out, mean, var


def _any_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in tensors)


# torch.compile asks once and takes the answer as a constant: neither a context variable nor a cache can be traced.
@constant_when_compiled
def on_reference(device: str) -> bool:
    """Whether cells on a device of this type are computed in plain torch, by the backend in force."""
    return backend_for("cell", device) == "reference"


# The library op. Its arguments are the fields of `Given`; those of its backward are the output's gradient, these, what
# forward left, and whose gradients are asked.


def _executor(backend: str, plan: CellPlan) -> ModuleType:
    """What runs a cell: one call of the native core on the CPU, the kernels one by one elsewhere, and with torch's."""
    return _cell_cpu if backend == "cpu" and not plan.plain else _cell_launched


def _cell(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    given = Given(*arguments)
    given.check()
    backend = computing("cell", given.sources[0])
    found: tuple[Tensor, Tensor, Tensor, list[Tensor]] = _executor(backend, given.decoded).forward(given, backend)
    return found


def _cell_backward(grad: Tensor, *arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    given, (out, kept, training, backend), asked = _backward_arguments(arguments)
    found: tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]] = _executor(backend, given.decoded).backward(
        given, grad, out, kept, asked, training=training, backend=backend
    )
    return found


def _backward_arguments(arguments: Sequence[Any]) -> tuple[Given, Sequence[Any], Asked]:
    fields = len(Given._fields)
    sources, noise, *others = arguments[fields + 4 :]
    return Given(*arguments[:fields]), arguments[fields : fields + 4], Asked(tuple(sources), tuple(noise), *others)


for _name, _function in ((_NAME, _cell), (_BACKWARD, _cell_backward)):
    torch.library.impl(_name, ("cpu", "cuda"))(maps.on_its_device(_function))


@torch.library.register_fake(_NAME)
def _fake(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    given = Given(*arguments)
    x, plan = given.sources[0], given.decoded
    if not isinstance(x, FakeTensor):  # a prediction of memory wants every allocation, those in between too
        return _cell(*arguments)
    given.check()
    height, width = (-(-size // plan.stride) for size in x.shape[2:])
    hidden = len(plan.computed) - len(plan.concat)
    channels = [plan.mixed] * len(kept_rows(plan, given.memory)) + [plan.channels] * hidden
    out, *kept = (
        maps.empty_maps(x.shape[0], each, height, width, like=x)
        for each in (plan.channels * len(plan.concat), *channels)
    )
    own_mean, own_var = (x.new_empty(len(plan.norms) * plan.mixed, dtype=torch.float64) for _ in range(2))
    return out, own_mean, own_var, kept


@torch.library.register_fake(_BACKWARD)
def _fake_backward(grad: Tensor, *arguments: Any) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    if not isinstance(grad, FakeTensor):
        return _cell_backward(grad, *arguments)
    given, _, asked = _backward_arguments(arguments)
    mixing = [given.weights] * asked.weights
    mixing += [given.bypass] if asked.bypass and given.bypass is not None else []
    parameters = given.parameters if asked.parameters else []
    return (
        [maps.empty_maps(*x.shape, like=x) for x, needed in zip(given.sources, asked.sources, strict=True) if needed],
        [torch.empty_like(each, memory_format=torch.contiguous_format) for each in mixing],
        [torch.empty_like(each, memory_format=torch.contiguous_format) for each in parameters],
        [maps.empty_maps(*x.shape, like=x) for x, needed in zip(given.noise, asked.noise, strict=True) if needed],
    )


class _Differentiable(torch.autograd.Function):
    """The op under autograd, its lists laid out flat.

    `torch.library.register_autograd` does the same through pytrees, which for the 168 parameters of a DARTS cell took
    1.8 ms a step: as long as the cell itself on small maps.
    """

    @staticmethod
    def forward(ctx: Any, keys: Any, given: Given, *tensors: Tensor) -> tuple[Tensor, ...]:
        # The tensors of `given` once more: autograd looks at what it is handed, and in lists it does not look.
        ctx.counts = (len(given.sources), len(given.parameters), len(given.noise))
        given = _with(given, tensors, ctx.counts)
        with torch._C._AutoDispatchBelowAutograd():
            out, mean, var, kept = torch.ops.fastdarts.cell.default.redispatch(keys, *given)
        ctx.training = given.mean is None
        ctx.rest = given.places, given.plan, given.memory, given.eps
        # Backward may run in a thread of its own, where the choice of backend that is in force here is not.
        ctx.backend = computing("cell", given.sources[0])
        # Without this autograd would make a map of zeros for each of `kept`.
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(mean, var, *kept)
        ctx.save_for_backward(out, mean, var, *kept, *tensors)
        return out, mean, var, *kept

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Any, ...]:
        needed = ctx.needs_input_grad[2:]
        if grad is None:
            return (None,) * (2 + len(needed))
        out, mean, var, *saved = ctx.saved_tensors
        kept, tensors = saved[: len(saved) - len(needed)], saved[len(saved) - len(needed) :]
        places, plan, memory, eps = ctx.rest
        given = _with(Given([], out, None, [], places, [], mean, var, plan, memory, eps), tensors, ctx.counts)
        sources, parameters, noise, mixing = _split(needed, ctx.counts)
        asked = (sources, noise, mixing[0], any(mixing[1:]), any(parameters))
        dsources, dmixing, dparameters, dnoise = torch.ops.fastdarts.cell_backward(
            grad, *given, out, kept, ctx.training, ctx.backend, *asked
        )
        return (
            *(None, None),
            *_spread(dsources, sources),
            *(dparameters or [None] * len(parameters)),
            *_spread(dnoise, noise),
            *_spread(dmixing, mixing),
        )


def _with(given: Given, tensors: Sequence[Any], counts: tuple[int, int, int]) -> Given:
    """The same with these tensors."""
    sources, parameters, noise, (weights, *bypass) = _split(tensors, counts)
    return given._replace(
        sources=sources,
        parameters=parameters,
        noise=noise,
        weights=weights,
        bypass=bypass[0] if bypass else None,
    )


def _split(flat: Sequence[Any], counts: tuple[int, int, int]) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """What belongs to the sources, to the parameters, to the noise, and to the weights and the bypass."""
    one, two, three = counts[0], counts[0] + counts[1], sum(counts)
    return list(flat[:one]), list(flat[one:two]), list(flat[two:three]), list(flat[three:])


def _spread(found: list[Tensor], needed: list[bool]) -> list[Tensor | None]:
    each = iter(found)
    return [next(each) if need else None for need in needed]


def _with_autograd(keys: Any, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    below, given = keys & torch._C._after_autograd_keyset, Given(*arguments)
    mixing = [given.weights] if given.bypass is None else [given.weights, given.bypass]
    tensors = (*given.sources, *given.parameters, *given.noise, *mixing)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        out, mean, var, *kept = _Differentiable.apply(below, given, *tensors)
        return out, mean, var, kept
    with torch._C._AutoDispatchBelowAutograd():
        found: tuple[Tensor, Tensor, Tensor, list[Tensor]] = torch.ops.fastdarts.cell.default.redispatch(below, *given)
    return found


def _no_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError("cell has no second derivative; use_backend('reference') has one")


_LIBRARY = torch.library.Library("fastdarts", "FRAGMENT")
_LIBRARY.impl("cell", _with_autograd, "Autograd", with_keyset=True)
torch.library.register_autograd(_BACKWARD, _no_second_derivative)
