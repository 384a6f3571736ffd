"""Edits that users make inside a network: the same function is done to our modules and to their plain twins.

An edit takes the model, the path of a candidate in it and the counts of whatever it makes watch; it says whether there was
something to do.
"""

from __future__ import annotations

import functools
import itertools
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["EDITS", "Edit", "candidates"]

Counts = Counter
Edit = Callable[[nn.Module, str, Counts], Any]
"""Gives True or a handle to remove where it did something."""

EDITS: dict[str, Edit] = {}


def candidates(model: nn.Module) -> list[str]:
    """The paths of all candidates: members of an `_ops` that hold none themselves."""
    paths = (name for name, _ in model.named_modules() if name.rpartition(".")[0].endswith("_ops"))
    return [path for path in paths if not hasattr(model.get_submodule(path), "_ops")]


def edit(function: Edit) -> Edit:
    EDITS[function.__name__.replace("_", " ")] = function
    return function


def on_layers(
    name: str, kind: type[nn.Module], which: int, change: Callable[[Any, Counts], nn.Module | None], **wanted: Any
) -> None:
    """An edit of one layer of a candidate, in `op` or of a factorised reduction: changed, or exchanged for what is given."""

    def apply(model: nn.Module, path: str, counts: Counts) -> bool:
        found = list(layers(model.get_submodule(path), kind, wanted))
        if len(found) <= which:
            return False
        holder, key, layer = found[which]
        other = change(layer, counts)
        if other is not None:
            holder._modules[key] = other
        return True

    EDITS[name] = apply


def layers(candidate: nn.Module, kind: type[nn.Module], wanted: Any) -> Iterator[tuple[nn.Module, str, Any]]:
    for holder in candidate.modules():
        for key, layer in holder._modules.items():
            fits = isinstance(layer, kind) and all(getattr(layer, k) == v for k, v in wanted.items())
            if fits and type(layer).__name__ in ("ReLU", "Conv2d", "BatchNorm2d", "StackedConv2d", "StackedNorm"):
                yield holder, key, layer


class Louder(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return 1.5 * super().forward(x)


def _as_louder(conv: nn.Conv2d, _: Counts) -> nn.Module:
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size
    settings = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": conv.groups}
    return Louder(*sizes, **settings, bias=False).double()


def _padded(mode: str) -> Callable[[nn.Conv2d, Counts], None]:
    def change(conv: nn.Conv2d, _: Counts) -> None:
        conv.padding_mode = mode
        conv._reversed_padding_repeated_twice = [side for side in reversed(conv.padding) for _ in range(2)]

    return change


def _dilated(conv: nn.Conv2d, _: Counts) -> None:
    more = conv.dilation[0] + 1
    conv.dilation, conv.padding = (more, more), ((conv.kernel_size[0] // 2) * more,) * 2


def _biased(conv: nn.Conv2d, _: Counts) -> None:
    conv.bias = nn.Parameter(torch.randn(conv.out_channels, dtype=torch.float64))


def _set_data(conv: nn.Conv2d, _: Counts) -> None:
    conv.weight.data = torch.randn(conv.weight.shape, dtype=torch.float64)


def _set_weight(conv: nn.Conv2d, _: Counts) -> None:
    conv.weight = nn.Parameter(torch.randn(conv.weight.shape, dtype=torch.float64))


def _filled(conv: nn.Conv2d, _: Counts) -> None:
    with torch.no_grad():
        conv.weight.normal_()


def _last(conv: nn.Conv2d, _: Counts) -> None:
    conv.to(memory_format=torch.channels_last)


def _overridden(layer: nn.Module, _: Counts) -> None:
    forward = layer.forward
    layer.forward = lambda x: forward(x) - 0.25 * x.mean()


def _patched(conv: nn.Conv2d, _: Counts) -> None:
    forward = type(conv)._conv_forward
    conv._conv_forward = types.MethodType(lambda self, x, w, b: forward(self, x, w, b).abs(), conv)


def _tracked(norm: nn.BatchNorm2d, _: Counts) -> None:
    norm.track_running_stats = False


def _forgetful(norm: nn.BatchNorm2d, _: Counts) -> None:
    norm.running_mean = norm.running_var = None


def _counting(kind: str) -> Callable[[nn.Module, Counts], None]:
    def change(layer: nn.Module, counts: Counts) -> None:
        def seen(*_: Any) -> None:
            counts[kind] += 1

        getattr(layer, f"register_{kind}")(seen)

    return change


def _changing(layer: nn.Module, _: Counts) -> None:
    layer.register_forward_hook(lambda _m, _i, out: out * 0.5 + 1)


def _given_more(layer: nn.Module, _: Counts) -> None:
    layer.register_forward_pre_hook(lambda _m, inputs: tuple(x + 0.125 for x in inputs))


def _hook_that_went(layer: nn.Module, _: Counts) -> None:
    layer.register_forward_hook(lambda *_: None).remove()


def _hooks_as_others_drop_them(layer: nn.Module, _: Counts) -> None:
    layer._forward_hooks = type(layer._forward_hooks)()
    layer.register_forward_hook(lambda _m, _i, out: out - 1)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight.tanh()


def _parametrized(make: Callable[[nn.Module], Any]) -> Callable[[nn.Module, Counts], None]:
    def change(conv: nn.Conv2d, _: Counts) -> None:
        # Of a stacked convolution torch finds no parameter: it has to have one of its own.
        conv.weight = nn.Parameter(conv.weight.detach().clone())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            make(conv)

    return change


def _set(**values: Any) -> Callable[[Any, Counts], None]:
    def change(layer: Any, _: Counts) -> None:
        for name, value in values.items():
            setattr(layer, name, value)

    return change


def _like(make: Callable[[int], nn.Module]) -> Callable[[nn.BatchNorm2d, Counts], nn.Module]:
    return lambda norm, _: make(norm.num_features).double()


for number, place in enumerate(("first", "second")):
    for name, activation in (("SiLU", nn.SiLU), ("ReLU6", nn.ReLU6), ("leaky", nn.LeakyReLU), ("identity", nn.Identity)):
        on_layers(f"{place} ReLU to {name}", nn.ReLU, number, lambda _l, _c, activation=activation: activation())
    on_layers(f"{place} ReLU overridden", nn.ReLU, number, _overridden)
    for name, other in {
        "affine": nn.BatchNorm2d,
        "GroupNorm": functools.partial(nn.GroupNorm, 1),
        "InstanceNorm": nn.InstanceNorm2d,
        "identity": lambda _: nn.Identity(),
        "without statistics": functools.partial(nn.BatchNorm2d, affine=False, track_running_stats=False),
        "new": functools.partial(nn.BatchNorm2d, affine=False),
    }.items():
        on_layers(f"{place} batch norm {name}", nn.BatchNorm2d, number, _like(other))
    for name, values in {"momentum": {"momentum": 0.5}, "cumulative": {"momentum": None}, "eps": {"eps": 1e-2}}.items():
        on_layers(f"{place} batch norm {name}", nn.BatchNorm2d, number, _set(**values))
    on_layers(f"{place} batch norm frozen", nn.BatchNorm2d, number, lambda norm, _: norm.eval() and None)
    on_layers(f"{place} batch norm untracked", nn.BatchNorm2d, number, _tracked)
    on_layers(f"{place} batch norm without buffers", nn.BatchNorm2d, number, _forgetful)
on_layers("second ReLU in place", nn.ReLU, 1, _set(inplace=True))
for number, place in enumerate(("first", "second", "last")):
    for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"):
        on_layers(f"{kind} on the {place} convolution", nn.Conv2d, number, _counting(kind))
    for name, change in {
        "of a subclass": _as_louder,
        "with bias": _biased,
        "with other data": _set_data,
        "with another weight": _set_weight,
        "filled": _filled,
        "frozen": lambda conv, _: conv.requires_grad_(False) and None,
        "overridden": _overridden,
        "patched": _patched,
        "with its output changed": _changing,
        "with its input changed": _given_more,
        "with a hook that went": _hook_that_went,
        "with its hooks dropped and another": _hooks_as_others_drop_them,
        "parametrised": _parametrized(lambda conv: parametrize.register_parametrization(conv, "weight", Doubled())),
        "weight-normed": _parametrized(weight_norm),
        "weight-normed by a hook": _parametrized(nn.utils.weight_norm),
        "pruned": _parametrized(lambda conv: prune.l1_unstructured(conv, "weight", 0.5)),
        "by class": lambda conv, _: setattr(conv, "__class__", Louder) if type(conv) is nn.Conv2d else _overridden(conv, _),
    }.items():
        on_layers(f"{place} convolution {name}", nn.Conv2d, number, change)
for mode in ("replicate", "circular"):
    on_layers(f"depthwise {mode}", nn.Conv2d, 0, _padded(mode))
on_layers("depthwise more dilated", nn.Conv2d, 0, _dilated)
on_layers("channels last", nn.Conv2d, 0, _last)
for kind in ("forward_hook", "full_backward_hook"):
    on_layers(f"{kind} on a batch norm", nn.BatchNorm2d, 0, _counting(kind))


def put(model: nn.Module, path: str, change: Callable[[nn.Module], nn.Module]) -> bool:
    holder, _, key = path.rpartition(".")
    own = model.get_submodule(holder)
    own._modules[key] = change(own._modules[key])
    return True


def stride_of(model: nn.Module, path: str) -> int:
    """The stride of a candidate, 1 or 2, from what it makes of a map."""
    candidate = model.get_submodule(path)
    return 2 if hasattr(candidate, "conv_1") or any(_strides(candidate)) else 1


def _strides(candidate: nn.Module) -> Iterator[bool]:
    for layer in candidate.modules():
        stride = getattr(layer, "stride", 1)
        yield (stride if isinstance(stride, int) else stride[0]) == 2


def width_of(model: nn.Module, path: str) -> int:
    holder = model.get_submodule(path.rpartition(".")[0])
    return next(layer.num_features for layer in holder.modules() if isinstance(layer, nn.BatchNorm2d))


@edit
def a_convolution_instead(model: nn.Module, path: str, counts: Counts) -> bool:
    c = width_of(model, path)
    other = nn.Conv2d(c, c, 3, stride=stride_of(model, path), padding=1).double()
    return put(model, path, lambda _: other)


@edit
def dropout_after_it(model: nn.Module, path: str, counts: Counts) -> bool:
    return put(model, path, lambda op: nn.Sequential(op, nn.Dropout(0.3)))


@edit
def wrapped(model: nn.Module, path: str, counts: Counts) -> bool:
    return put(model, path, lambda op: nn.Sequential(op, nn.Hardtanh()))


@edit
def a_layer_appended(model: nn.Module, path: str, counts: Counts) -> bool:
    op = getattr(model.get_submodule(path), "op", None)
    if not isinstance(op, nn.Sequential):
        return False
    op.append(nn.Tanh())
    return True


@edit
def a_layer_inserted(model: nn.Module, path: str, counts: Counts) -> bool:
    op = getattr(model.get_submodule(path), "op", None)
    if not isinstance(op, nn.Sequential):
        return False
    op.insert(2, nn.Hardswish())
    return True


@edit
def a_layer_removed(model: nn.Module, path: str, counts: Counts) -> bool:
    op = getattr(model.get_submodule(path), "op", None)
    if not isinstance(op, nn.Sequential):
        return False
    del op[0]
    return True


@edit
def operation_appended(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    if len(ops) != 8:
        return False
    c = width_of(model, path)
    stride = 2 if isinstance(ops[3], nn.Module) and hasattr(ops[3], "conv_1") else 1
    ops.append(nn.Sequential(nn.Conv2d(c, c, 1, stride=stride), nn.BatchNorm2d(c)).double())
    return True


@edit
def operation_deleted(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    if len(ops) < 7:
        return False
    del ops[int(path.rpartition(".")[2])]
    return True


@edit
def operations_swapped(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    ops[0], ops[len(ops) - 1] = ops[len(ops) - 1], ops[0]
    return True


@edit
def operation_twice(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    ops[0] = ops[1]
    return True


@edit
def hook_on_the_operation(model: nn.Module, path: str, counts: Counts) -> bool:
    return model.get_submodule(path).register_forward_hook(lambda _m, _i, out: out * 0.75) is not None


@edit
def backward_hook_on_the_operation(model: nn.Module, path: str, counts: Counts) -> bool:
    _counting("full_backward_hook")(model.get_submodule(path), counts)
    return True


@edit
def frozen(model: nn.Module, path: str, counts: Counts) -> bool:
    parameters = list(model.get_submodule(path).parameters())
    for parameter in parameters:
        parameter.requires_grad_(False)
    return bool(parameters)


@edit
def pool_counts_its_padding(model: nn.Module, path: str, counts: Counts) -> bool:
    pools = [layer for layer in model.get_submodule(path).modules() if isinstance(layer, nn.AvgPool2d)]
    for pool in pools:
        pool.count_include_pad = True
    return bool(pools)


@edit
def pool_of_another_kind(model: nn.Module, path: str, counts: Counts) -> bool:
    op = model.get_submodule(path)
    if not isinstance(op, nn.Sequential) or not isinstance(op[0], nn.MaxPool2d):
        return False
    op[0] = nn.AvgPool2d(3, stride=op[0].stride, padding=1)
    return True


@edit
def all_in_evaluation(model: nn.Module, path: str, counts: Counts) -> bool:
    model.get_submodule(path).eval()
    return True


@edit
def every_momentum(model: nn.Module, path: str, counts: Counts) -> bool:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum, layer.eps = 0.25, 1e-3
    return True


@edit
def every_norm_in_evaluation(model: nn.Module, path: str, counts: Counts) -> bool:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    return True


def edge_of(model: nn.Module, path: str) -> str:
    """The path of a candidate's mixed operation, where that is not the model itself; else ""."""
    return path.rpartition("._ops.")[0] if "_ops." in path.rpartition("._ops.")[0] else ""


@edit
def hook_on_the_edge(model: nn.Module, path: str, counts: Counts) -> bool:
    edge = edge_of(model, path)
    return bool(edge) and bool(model.get_submodule(edge).register_forward_hook(lambda _m, _i, out: out + 0.5))


class Linear(nn.Module):
    """An edge of someone's own: what it is given of the mixing weights scales a convolution."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        return weights[:2].sum() * self.conv(x)


@edit
def another_edge(model: nn.Module, path: str, counts: Counts) -> bool:
    edge = edge_of(model, path)
    if not edge:
        return False
    own = model.get_submodule(edge)
    channels = width_of(model, path) * own.partial
    other = Linear(channels, own.stride).double()
    return put(model, edge, lambda _: other)


@edit
def an_edge_with_a_forward_of_its_own(model: nn.Module, path: str, counts: Counts) -> bool:
    edge = edge_of(model, path)
    if not edge or model.get_submodule(edge).partial > 1:
        return False
    own = model.get_submodule(edge)
    own.forward = lambda x, weights: sum(w * op(x) for w, op in zip(weights, own._ops, strict=False)).sin()
    return True


def preprocessing(model: nn.Module, path: str) -> nn.Module | None:
    cell = model.get_submodule(path.partition("_ops")[0].rstrip("."))
    return getattr(cell, "preprocess1", None)


@edit
def preprocessing_with_SiLU(model: nn.Module, path: str, counts: Counts) -> bool:
    before = preprocessing(model, path)
    if before is not None:
        before.op[0] = nn.SiLU()
    return before is not None


@edit
def preprocessing_hooked(model: nn.Module, path: str, counts: Counts) -> bool:
    before = preprocessing(model, path)
    return before is not None and bool(before.op[1].register_forward_hook(lambda _m, _i, out: 2 * out))


@edit
def preprocessing_affine(model: nn.Module, path: str, counts: Counts) -> bool:
    before = preprocessing(model, path)
    if before is not None:
        before.op[2] = nn.BatchNorm2d(before.op[2].num_features).double()
    return before is not None


@edit
def global_hook(model: nn.Module, path: str, counts: Counts) -> Any:
    def seen(module: nn.Module, *_: Any) -> None:
        counts["global"] += isinstance(module, nn.Conv2d)

    return register_module_forward_hook(seen)


class _Replaced:
    """`F.relu` made another function; removed as a handle is."""

    def __init__(self) -> None:
        self._own, F.relu = F.relu, lambda x, inplace=False: x.clamp_min(0) * 0.5

    def remove(self) -> None:
        F.relu = self._own


@edit
def torchs_relu_replaced(model: nn.Module, path: str, counts: Counts) -> Any:
    return _Replaced()


assert len(EDITS) >= 40, list(itertools.islice(EDITS, 40))
