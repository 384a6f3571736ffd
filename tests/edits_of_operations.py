"""Edits of whole operations, edges and preprocessings; :mod:`edits` has those of layers."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F
from edits import EDITS, Edit, counting
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

__all__ = ["EDITS"]


def edit(function: Edit) -> Edit:
    EDITS[function.__name__.replace("_", " ")] = function
    return function


def put(model: nn.Module, path: str, change: Callable[[nn.Module], nn.Module]) -> bool:
    holder, _, key = path.rpartition(".")
    own = model.get_submodule(holder)
    own._modules[key] = change(own._modules[key])
    return True


def is_mixed(model: nn.Module, path: str) -> bool:
    """Whether a candidate is one of a mixed operation's; else it is an edge of a derived cell."""
    return hasattr(model.get_submodule(path.rpartition("_ops")[0].rstrip(".")), "partial")


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
    if len(ops) != 8 or not is_mixed(model, path):
        return False
    c = width_of(model, path)
    stride = 2 if isinstance(ops[3], nn.Module) and hasattr(ops[3], "conv_1") else 1
    ops.append(nn.Sequential(nn.Conv2d(c, c, 1, stride=stride), nn.BatchNorm2d(c)).double())
    return True


@edit
def operation_deleted(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    if len(ops) < 7 or not is_mixed(model, path):
        return False
    del ops[int(path.rpartition(".")[2])]
    return True


@edit
def operations_swapped(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    if not is_mixed(model, path):
        return False
    ops[0], ops[len(ops) - 1] = ops[len(ops) - 1], ops[0]
    return True


@edit
def operation_twice(model: nn.Module, path: str, counts: Counts) -> bool:
    ops = model.get_submodule(path.rpartition(".")[0])
    op = model.get_submodule(path)
    # With a batch norm plain torch fails in backward.
    if not is_mixed(model, path) or any(isinstance(layer, nn.BatchNorm2d) for layer in op.modules()):
        return False
    ops[1] = op
    return True


@edit
def hook_on_the_operation(model: nn.Module, path: str, counts: Counts) -> bool:
    return model.get_submodule(path).register_forward_hook(lambda _m, _i, out: out * 0.75) is not None


@edit
def backward_hook_on_the_operation(model: nn.Module, path: str, counts: Counts) -> bool:
    counting("full_backward_hook")(model.get_submodule(path), counts)
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
