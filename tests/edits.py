"""Edits that users make inside a network: the same function is done to our modules and to their plain twins.

An edit takes the model, the path of a candidate in it and the counts of whatever it makes watch; it says whether there
was something to do.
"""

from __future__ import annotations

import functools
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

__all__ = ["EDITS", "Edit", "candidates", "counting"]

Counts = Counter
Edit = Callable[[nn.Module, str, Counts], Any]
"""Gives True or a handle to remove where it did something."""

EDITS: dict[str, Edit] = {}


def candidates(model: nn.Module) -> list[str]:
    """The paths of all candidates: members of an `_ops` that hold none themselves."""
    paths = (name for name, _ in model.named_modules() if name.rpartition(".")[0].endswith("_ops"))
    return [path for path in paths if not hasattr(model.get_submodule(path), "_ops")]


def on_layers(
    name: str, kind: type[nn.Module], which: int, change: Callable[[Any, Counts], nn.Module | None], **wanted: Any
) -> None:
    """An edit of one layer of a candidate, in `op` or of a factorised reduction: changed, or another in its place."""

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


def _reclassed(conv: nn.Conv2d, _: Counts) -> None:
    conv.weight = nn.Parameter(conv.weight.detach().clone())  # one that is stacked is of a class of its own
    conv.__class__ = Louder


def _tracked(norm: nn.BatchNorm2d, _: Counts) -> None:
    norm.track_running_stats = False


def _forgetful(norm: nn.BatchNorm2d, _: Counts) -> None:
    norm.running_mean = norm.running_var = None


def counting(kind: str) -> Callable[[nn.Module, Counts], None]:
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
    for name, activation in (
        ("SiLU", nn.SiLU),
        ("ReLU6", nn.ReLU6),
        ("leaky", nn.LeakyReLU),
        ("identity", nn.Identity),
    ):
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
        on_layers(f"{kind} on the {place} convolution", nn.Conv2d, number, counting(kind))
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
        "of another class": _reclassed,
    }.items():
        on_layers(f"{place} convolution {name}", nn.Conv2d, number, change)
for mode in ("replicate", "circular"):
    on_layers(f"depthwise {mode}", nn.Conv2d, 0, _padded(mode))
on_layers("depthwise more dilated", nn.Conv2d, 0, _dilated)
on_layers("channels last", nn.Conv2d, 0, _last)
for kind in ("forward_hook", "full_backward_hook"):
    on_layers(f"{kind} on a batch norm", nn.BatchNorm2d, 0, counting(kind))
