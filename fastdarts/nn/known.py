"""Which modules the fused engine takes for its own: those whose types, layers and attributes it knows, and no others.

A module is judged by what it is now, not by what it was built as: exchanged, hooked, wrapped, parametrised or of a
subclass it is another one, and put back it is the same again. What is not known here is called as the module it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as torch_modules

from fastdarts.nn.operations import DilConv, FactorizedReduce, Identity, Noise, ReLUConvBN, SepConv, Zero
from fastdarts.nn.stack import StackedConv2d, StackedNorm
from fastdarts.plan._stencils import DILATIONS, SIDES, WIDE_POOLS, WINDOWS

__all__ = [
    "ATTRIBUTES",
    "HOOKS",
    "Known",
    "as_known",
    "elsewhere",
    "never_inside",
    "preprocessing",
    "unhooked",
    "whole",
]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps what watches it run."""

_CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode")
ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: _CONVOLUTION,
    StackedConv2d: _CONVOLUTION,
    nn.ReLU: ("inplace",),
    nn.MaxPool2d: ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    nn.AvgPool2d: ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    Zero: ("stride",),
    Noise: ("stride",),
}
"""On what attributes the arithmetic of a type depends, beside its parameters; batch norms' may be any, all alike."""

_CONV, _NORM = (nn.Conv2d, StackedConv2d), (nn.BatchNorm2d, StackedNorm)
_TYPES = (
    *(*_CONV, *_NORM, nn.Sequential, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d),
    *(SepConv, DilConv, FactorizedReduce, ReLUConvBN, Identity, Zero, Noise),
)


def _arithmetic() -> list[Any]:
    """Whatever computes when these modules are called; a debugger or a counter may put something else in its place."""
    functions = [F.conv2d, F.batch_norm, F.relu, F.max_pool2d, F.avg_pool2d, nn.Conv2d._conv_forward]
    return [nn.Module.__call__, nn.Module._call_impl, *functions, *(each.forward for each in _TYPES)]


_OWN = _arithmetic()


class Known(NamedTuple):
    """What the engine needs of a module that it knows.

    Args:
        kind: of :data:`fastdarts.plan._cell.CANDIDATE_KINDS`; of a preprocessing `""`.
        kernel: side of the window, pixels.
        dilation: pixels between its taps.
        convs: its convolutions, in the plan's order, by their names in it.
        norms: its batch norms likewise.
        modules: itself and all that it is made of.
    """

    kind: str
    kernel: int
    dilation: int
    convs: dict[str, nn.Conv2d]
    norms: dict[str, nn.BatchNorm2d]
    modules: list[nn.Module]


class _Other(Exception):
    """It is another module; the message says in what."""


def elsewhere() -> str:
    """Why no module is what it seems: a global hook, or torch's own functions replaced; "" where all is as it was."""
    for hooks in (
        torch_modules._global_forward_hooks,
        torch_modules._global_forward_pre_hooks,
        torch_modules._global_backward_hooks,
        torch_modules._global_backward_pre_hooks,
    ):
        if hooks and not all(map(_sees_owners_only, hooks.values())):
            return "a global module hook"
    return "" if _arithmetic() == _OWN else "torch's functions are replaced"


def never_inside(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a global hook of fastdarts' own for which it is enough to see cells, without what is inside them."""
    hook._fastdarts_never_inside = True  # type: ignore[attr-defined]  # that is the mark
    return hook


def _sees_owners_only(hook: Callable[..., Any]) -> bool:
    return getattr(hook, "_fastdarts_never_inside", False)


def unhooked(module: nn.Module) -> bool:
    """Whether calling a module is running the methods of its class, watched by nobody."""
    own, kind = vars(module), cast(Any, type(module))
    return not any(own[name] for name in HOOKS) and own.keys().isdisjoint(_methods(kind))


@functools.cache
def _methods(kind: Any) -> frozenset[str]:
    return frozenset(name for name in dir(kind) if callable(getattr(kind, name, None)))


def as_known(module: nn.Module, channels: int, stride: int) -> Known | str:
    """What the engine needs of a candidate, or why it does not know it.

    Args:
        module: one operator on an edge.
        channels: C', of its input and output.
        stride: 1 or 2, pixels.
    """
    try:
        return _candidate(module, channels, stride)
    except _Other as other:
        return str(other)


def preprocessing(module: Any) -> Known | str:
    """The same of a cell's preprocessing: ReLU and 1x1 convolution, or a factorised reduction, and batch norm."""
    try:
        if type(module) is FactorizedReduce:
            return _reduction(module, int(module.conv_1.weight.shape[1]), sum(_widths(module)), "")
        if type(module) is not ReLUConvBN:
            raise _Other(_named(module))
        made, conv, norm = _relu_conv_norm(module)
        shape = conv.weight.shape if type(conv) in _CONV else (0, 0)
        _convolution(conv, made, (int(shape[0]), int(shape[1]), 1, 1))
        _norm(norm, made, int(shape[0]))
        return Known("", 1, 1, {"op.1": conv}, {"op.2": norm}, made)
    except _Other as other:
        return str(other)


def _candidate(module: Any, channels: int, stride: int) -> Known:
    kind = type(module)
    if kind is FactorizedReduce and stride == 2:
        return _reduction(module, channels, channels, "reduce")
    if kind is nn.Sequential:
        return _pool(module, channels, stride)
    if kind is ReLUConvBN:
        return _dense(module, channels, stride)
    if kind is SepConv or kind is DilConv:
        return _separable(module, channels, stride)
    if kind in (Zero, Noise) or (kind is Identity and stride == 1):
        made = _tree(module)
        if kind is not Identity and module.stride != stride:
            raise _Other(f"{kind.__name__} of another stride")
        return Known({Zero: "none", Noise: "noise", Identity: "skip"}[kind], 1, 1, {}, {}, made)
    raise _Other(_named(module))


def _separable(module: Any, channels: int, stride: int) -> Known:
    made = _tree(module, "op")
    layers = _layers(module.op, made)
    halves = 2 if type(module) is SepConv else 1
    if len(layers) != 4 * halves:
        raise _Other("layers were added or removed")
    window = layers[1].weight.shape[-1] if type(layers[1]) in _CONV else 0
    if window not in WINDOWS:
        raise _Other(_named(layers[1]))
    dilation = 1 if halves == 2 else int(layers[1].dilation[0])
    if dilation not in DILATIONS:
        raise _Other(f"a dilation of {dilation}")
    for half, (relu, depthwise, pointwise, norm) in enumerate(zip(*[iter(layers)] * 4, strict=True)):
        _relu(relu, made)
        step = stride if half == 0 else 1
        _convolution(depthwise, made, (channels, 1, window, window), step, dilation, groups=channels)
        _convolution(pointwise, made, (channels, channels, 1, 1))
        _norm(norm, made, channels)
    convs = {f"op.{place}": layers[place] for half in range(halves) for place in (4 * half + 1, 4 * half + 2)}
    norms = {f"op.{4 * half + 3}": layers[4 * half + 3] for half in range(halves)}
    return Known("sep" if halves == 2 else "dil", int(window), dilation, convs, norms, made)


def _reduction(module: Any, channels: int, out: int, kind: str) -> Known:
    names = [name for name in ("conv_1", "conv_2") if getattr(module, name) is not None]
    made = _tree(module, "relu", *names, "bn")
    _relu(module.relu, made)
    convs = {name: getattr(module, name) for name in names}
    for conv, width in zip(convs.values(), (out - out // 2, out // 2), strict=False):
        _convolution(conv, made, (width, channels, 1, 1), 2)
    if len(convs) != 1 + (out > 1):
        raise _Other("layers were added or removed")
    _norm(module.bn, made, out)
    return Known(kind, 1, 1, convs, {"bn": module.bn}, made)


def _widths(module: Any) -> list[int]:
    convs = [conv for conv in (module.conv_1, module.conv_2) if conv is not None]
    if any(type(conv) not in _CONV for conv in convs):
        raise _Other(", ".join(map(_named, convs)))
    return [int(conv.weight.shape[0]) for conv in convs]


def _pool(module: Any, channels: int, stride: int) -> Known:
    made: list[nn.Module] = []
    layers = _layers(module, made)
    if len(layers) != 2 or type(layers[0]) not in (nn.MaxPool2d, nn.AvgPool2d):
        raise _Other("Sequential")
    pool, norm = layers
    made += _tree(pool)
    side = pool.kernel_size if pool.kernel_size in WIDE_POOLS else 3
    expected: dict[str, Any] = {"kernel_size": side, "stride": stride, "padding": side // 2, "dilation": 1}
    expected |= {"ceil_mode": False}
    expected |= {"return_indices": False, "count_include_pad": False, "divisor_override": None}
    if any(getattr(pool, name) != expected[name] for name in ATTRIBUTES[type(pool)]):
        raise _Other(f"{_named(pool)} that was changed")
    _norm(norm, made, channels)
    found = "max_pool" if type(pool) is nn.MaxPool2d else "avg_pool"
    return Known(found if side == 3 else f"wide_{found}", side, 1, {}, {"1": norm}, made)


def _dense(module: Any, channels: int, stride: int) -> Known:
    made, conv, norm = _relu_conv_norm(module)
    window = int(conv.weight.shape[-1]) if type(conv) in _CONV else 0
    if window not in SIDES:
        raise _Other(_named(conv))
    _convolution(conv, made, (channels, channels, window, window), stride)
    _norm(norm, made, channels)
    return Known("dense", window, 1, {"op.1": conv}, {"op.2": norm}, made)


def _relu_conv_norm(module: Any) -> tuple[list[nn.Module], Any, Any]:
    """What a :class:`ReLUConvBN` is made of so far, its convolution and its batch norm."""
    made = _tree(module, "op")
    layers = _layers(module.op, made)
    if len(layers) != 3:
        raise _Other("layers were added or removed")
    relu, conv, norm = layers
    _relu(relu, made)
    return made, conv, norm


def _tree(module: Any, *children: str) -> list[nn.Module]:
    """The module, in a list, where it has just these children and nobody watches it."""
    if not unhooked(module):
        raise _Other("hooks")
    if tuple(module._modules) != children:
        raise _Other(f"{_named(module)} with other layers")
    return [module]


def _layers(module: Any, made: list[nn.Module]) -> list[Any]:
    if type(module) is not nn.Sequential:
        raise _Other(_named(module))
    made += _tree(module, *module._modules)
    return list(module._modules.values())


def _relu(module: Any, made: list[nn.Module]) -> None:
    if type(module) is not nn.ReLU:
        raise _Other(_named(module))
    made += _tree(module)
    if module.inplace:
        raise _Other("ReLU in place")


def _convolution(
    conv: Any,
    made: list[nn.Module],
    shape: tuple[int, int, int, int],
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> None:
    if type(conv) not in _CONV:
        raise _Other(_named(conv))
    made += _tree(conv)
    padding = dilation * (shape[-1] // 2)
    expected = ((stride, stride), (padding, padding), (dilation, dilation), groups, "zeros")
    weight: Any = conv._parameters.get("weight") if type(conv) is nn.Conv2d else conv.weight
    if (
        tuple(getattr(conv, name) for name in _CONVOLUTION) != expected
        or not (whole(weight) or type(conv) is StackedConv2d)
        or tuple(weight.shape) != shape
        or conv._parameters.get("bias", weight) is not None
    ):
        raise _Other("Conv2d that was changed")


def _norm(norm: Any, made: list[nn.Module], channels: int) -> None:
    if type(norm) not in _NORM:
        raise _Other(_named(norm))
    made += _tree(norm)
    if any(norm._parameters.get(name, norm) is not None for name in ("weight", "bias")):
        raise _Other("BatchNorm2d with a weight or a bias")
    statistics = norm._buffers.values() if type(norm) is nn.BatchNorm2d else ()
    mean = getattr(norm, "running_mean", None)
    if mean is None or any(each is None for each in statistics) or len(mean) != channels:
        raise _Other("BatchNorm2d without running statistics")


def whole(weight: object) -> bool:
    """Whether a weight is a tensor as torch's own, whose numbers are what is in its memory."""
    return type(weight) in (nn.Parameter, Tensor)


def _named(module: Any) -> str:
    return type(module).__name__ if isinstance(module, nn.Module) else str(module)
