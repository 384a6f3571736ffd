"""The layers once more, written from the papers in sums over taps and indices, without a module or a fused call.

Weights come by quark0's `state_dict` names, so that every gradient has a name; any floating dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from golden.recipe import peer_parameters
from tolerance import assert_all_within
from torch import Tensor, nn
from torch.func import functional_call

from fastdarts import use_backend
from fastdarts.nn.stack import Stack, StackedConv2d
from fastdarts.spaces import PRIMITIVES, CellSpace

Named = Mapping[str, Tensor]
EPS = 1e-5


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def framed(x: Tensor, height: int, width: int, fill: float, top: int = 0, left: int = 0) -> Tensor:
    """x at (top, left) in a larger map of the given size."""
    canvas = x.new_full((*x.shape[:2], height, width), fill)
    canvas[:, :, top : top + x.shape[2], left : left + x.shape[3]] = x
    return canvas


def taps(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], dilation: int, fill: float) -> Tensor:
    """[kh * kw, N, C, ceil(H / sh), ceil(W / sw)]: what each tap of a centred window sees."""
    (kh, kw), (sh, sw), (h, w) = kernel, stride, x.shape[2:]
    up, left = dilation * (kh // 2), dilation * (kw // 2)
    canvas = framed(x, h + 2 * up, w + 2 * left, fill, up, left)
    views = [
        canvas[:, :, i * dilation : i * dilation + h : sh, j * dilation : j * dilation + w : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return torch.stack(views)


def conv(x: Tensor, weight: Tensor, stride: tuple[int, int] = (1, 1), dilation: int = 1) -> Tensor:
    depthwise = weight.shape[1] == 1 and weight.shape[0] == x.shape[1]
    if x.dtype != torch.float64:
        # As eager in the same dtype: torch's algorithms round more than a sum over taps, and may.
        padding = tuple(dilation * (k // 2) for k in weight.shape[2:])
        return F.conv2d(x, weight, None, stride, padding, dilation, x.shape[1] if depthwise else 1)
    seen = taps(x, tuple(weight.shape[2:]), stride, dilation, 0.0)
    kernel = weight.flatten(2)
    if depthwise:
        return torch.einsum("tnchw,ct->nchw", seen, kernel[:, 0])
    return torch.einsum("tnchw,oct->nohw", seen, kernel)


def normalised(x: Tensor, named: Named | None = None, prefix: str = "") -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    y = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + EPS).sqrt()
    if named is not None and f"{prefix}.weight" in named:
        y = y * named[f"{prefix}.weight"][:, None, None] + named[f"{prefix}.bias"][:, None, None]
    return y


def factorised_reduce(x: Tensor, named: Named, prefix: str) -> Tensor:
    x = relu(x)
    h, w = (-(-size // 2) for size in x.shape[2:])
    shifted = framed(x, 2 * h + 1, 2 * w + 1, 0.0)
    halves = [torch.einsum("nchw,oc->nohw", x[:, :, ::2, ::2], named[f"{prefix}.conv_1.weight"][:, :, 0, 0])]
    if f"{prefix}.conv_2.weight" in named:
        odd = shifted[:, :, 1 : 2 * h : 2, 1 : 2 * w : 2]
        halves.append(torch.einsum("nchw,oc->nohw", odd, named[f"{prefix}.conv_2.weight"][:, :, 0, 0]))
    return normalised(torch.cat(halves, 1), named, f"{prefix}.bn")


def relu_conv_bn(x: Tensor, named: Named, prefix: str, stride: int = 1) -> Tensor:
    y = conv(relu(x), named[f"{prefix}.op.1.weight"], (stride, stride))
    return normalised(y, named, f"{prefix}.op.2")


def separable(x: Tensor, named: Named, prefix: str, first: int, stride: int, dilation: int) -> Tensor:
    y = conv(relu(x), named[f"{prefix}.op.{first}.weight"], (stride, stride), dilation)
    return normalised(conv(y, named[f"{prefix}.op.{first + 1}.weight"]), named, f"{prefix}.op.{first + 2}")


def pooled(x: Tensor, name: str, kernel: int, stride: int) -> Tensor:
    window, step = (kernel, kernel), (stride, stride)
    if name.startswith("max"):
        return taps(x, window, step, 1, -torch.inf).amax(0)
    return taps(x, window, step, 1, 0.0).sum(0) / taps(torch.ones_like(x), window, step, 1, 0.0).sum(0)


def primitive(name: str, x: Tensor, stride: int, named: Named, prefix: str, pool_bn: bool = True) -> Tensor:
    known = PRIMITIVES[name]
    match known.family:
        case "none":
            return torch.zeros_like(x[:, :, ::stride, ::stride])
        case "skip":
            return x if stride == 1 else factorised_reduce(x, named, prefix)
        case "pool":
            y = pooled(x, name, known.kernel, stride)
            return normalised(y) if pool_bn else y
        case "sep_conv":
            return separable(separable(x, named, prefix, 1, stride, 1), named, prefix, 5, 1, 1)
        case "dil_conv":
            return separable(x, named, prefix, 1, stride, known.dilation)
        case "conv" if name.startswith("nor"):
            return relu_conv_bn(x, named, prefix, stride)
        case "conv":
            y = conv(relu(x), named[f"{prefix}.1.weight"], (1, stride))
            return normalised(conv(y, named[f"{prefix}.2.weight"], (stride, 1)), named, f"{prefix}.3")
    raise AssertionError(name)


def mixed(
    x: Tensor, weights: Tensor, stride: int, primitives: Sequence[str], named: Named, prefix: str, partial: int = 1
) -> Tensor:
    c, h, w = x.shape[1:]
    sampled = c // partial
    terms = [
        weights[k] * primitive(name, x[:, :sampled], stride, named, f"{prefix}._ops.{k}")
        for k, name in enumerate(primitives)
    ]
    y = torch.stack(terms).sum(0)
    if partial == 1:
        return y
    rest = x[:, sampled:]
    if stride == 2:
        even = framed(rest, h + h % 2, w + w % 2, -torch.inf)
        rest = torch.stack([even[:, :, i::2, j::2] for i in range(2) for j in range(2)]).amax(0)
    joined = torch.cat([y, rest], 1)
    order = [group * (c // partial) + place for place in range(c // partial) for group in range(partial)]
    return joined[:, order]


def cell(
    space: CellSpace,
    s0: Tensor,
    s1: Tensor,
    weights: Tensor,
    edge_weights: Tensor | None,
    named: Named,
    prefix: str,
    *,
    reduction: bool,
    reduction_prev: bool,
    partial: int = 1,
) -> Tensor:
    preprocess = factorised_reduce if reduction_prev else relu_conv_bn
    states = [preprocess(s0, named, f"{prefix}preprocess0"), relu_conv_bn(s1, named, f"{prefix}preprocess1")]
    for node in space.states:
        total = torch.zeros((), dtype=s0.dtype)
        for e in space.into(node):
            edge = space.edges[e]
            stride = 2 if reduction and edge.source < 2 else 1
            y = mixed(states[edge.source], weights[e], stride, edge.primitives, named, f"{prefix}_ops.{e}", partial)
            total = total + (y if edge_weights is None else edge_weights[e] * y)
        states.append(total)
    return torch.cat([states[node] for node in space.concat], 1)


def softmax(alphas: Tensor, count: int) -> Tensor:
    powers = alphas[:count].exp()
    return torch.cat([powers / powers.sum(), alphas.new_zeros(len(alphas) - count)])


def outcome(function: Callable[[Named], Tensor], inputs: Named, dtype: torch.dtype) -> dict[str, Tensor]:
    """The output of `function` and its gradient by each input, for a fixed gradient of the output."""
    leaves = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
    y = function(leaves)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    # An oracle of what is constant has no graph: its gradients are zero.
    y = y if y.requires_grad else y + sum(leaf.sum() for leaf in leaves.values()) * 0
    found = torch.autograd.grad(y, list(leaves.values()), upstream, materialize_grads=True)
    return {"output": y.detach(), **{f"gradient of {name}": g for name, g in zip(leaves, found, strict=True)}}


def assert_formula(got: Callable[[Named], Tensor], oracle: Callable[[Named], Tensor], inputs: Named) -> None:
    """Both in float64 are one function, to float32's resolution: no rounding hides a wrong index or factor.

    Inputs and gradients are of size 1, and batch norm of next to nothing cancels down from there.
    """
    ref64 = outcome(oracle, inputs, torch.float64)
    found = {name: value.float() for name, value in outcome(got, inputs, torch.float64).items()}
    assert_all_within(found, {name: value.float() for name, value in ref64.items()}, ref64, terms=1.0)


def assert_rounding(
    got: Callable[[Named], Tensor], oracle: Callable[[Named], Tensor], *draws: Named, eager: Callable[[Named], Tensor]
) -> None:
    """In float32 `got` is as near to the oracle in float64 as `eager` is: the tolerance rule, over all draws.

    One scale for all: a gradient that cancels is made of terms as large as one that does not. Of one draw the error of
    a gradient of a few numbers is chance, eager's too; of several the larger one belongs to the worse arithmetic.
    """
    plain, ref64, own = (
        [outcome(function, inputs, dtype) for inputs in draws]
        for function, dtype in ((eager, torch.float32), (oracle, torch.float64), (got, torch.float32))
    )
    largest = max(float(value.abs().max()) for outcomes in ref64 for value in outcomes.values())
    assert_all_within(_stacked(own), _stacked(plain), _stacked(ref64), terms=largest)


def in_plain_torch(function: Callable[[Named], Tensor]) -> Callable[[Named], Tensor]:
    """The function of layers, on the reference: what eager is to the fused engine."""

    def plain(named: Named) -> Tensor:
        with use_backend("reference"):
            return function(named)

    return plain


def _stacked(outcomes: Sequence[Named]) -> dict[str, Tensor]:
    return {name: torch.stack([each[name] for each in outcomes]) for name in outcomes[0]}


def called(module: nn.Module, *arguments: str, **others: object) -> Callable[[Named], Tensor]:
    """`module` as a function of named tensors: its parameters, and the inputs that `arguments` name."""

    def function(named: Named) -> Tensor:
        inputs = [named[name] for name in arguments]
        module.to(inputs[0].dtype)
        own = {name: value for name, value in named.items() if name not in arguments}
        return functional_call(module, stacked(module, own), tuple(inputs), others)

    return function


def stacked(module: nn.Module, named: Named) -> dict[str, Tensor]:
    """Values by the peers' names as values by the module's own: those of mixed operations put together."""
    own, parts = dict(named), {}
    for name, layer in module.named_modules():
        if isinstance(layer, StackedConv2d):
            stack, index = layer._part
            parts.setdefault((stack, stack.name(index)), []).append((index, own.pop(f"{name}.weight")))
    for name, stack in module.named_modules():
        for parameter in stack._parameters if isinstance(stack, Stack) else ():
            pieces = sorted(parts[stack, parameter], key=lambda piece: piece[0])
            own[f"{name}.{parameter}"] = torch.cat([value.flatten() for _, value in pieces])
    return own


def weights_of(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """A random value for every weight of a module, by the peers' names, float64; batch norms' away from 1 and 0."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64) / max(1, value[0].numel()) ** 0.5
        + (1.5 if value.ndim == 1 and name.endswith("weight") else 0.0)
        for name, value in peer_parameters(module).items()
    }


def images(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal values, float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
