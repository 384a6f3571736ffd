"""Stacked weights and statistics: a few tensors to optimisers and autograd, the peers' modules and keys to everyone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from golden.recipe import peer_gradients, peer_parameters
from tolerance import assert_within
from torch import Tensor, nn
from torch.func import functional_call

from fastdarts import use_backend
from fastdarts.compat import darts
from fastdarts.nn import Cell, MixedOp, Supernet, build_op
from fastdarts.nn.stack import Stack
from fastdarts.spaces import space

ALL = space("darts").normal.edges[0].primitives


@pytest.fixture
def reference() -> Iterator[None]:
    with use_backend("reference"):
        yield


def network(channels: int = 2, layers: int = 2) -> Supernet:
    return Supernet(space("darts"), channels=channels, layers=layers, classes=4)


def peer(channels: int = 2, layers: int = 2) -> darts.Network:
    return darts.Network(channels, 4, layers, nn.CrossEntropyLoss())


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    pairs = zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def test_a_supernet_has_one_parameter_a_source() -> None:
    net = Supernet(space("darts"), channels=16, layers=8)
    names = [name for name, _ in net.named_parameters() if name.startswith("cells.2.")]
    assert names == ["cells.2.preprocess0.op.1.weight", "cells.2.preprocess1.op.1.weight"] + [
        f"cells.2._stack.source_{source}" for source in range(5)
    ]
    assert len(net.weight_parameters()) == 63 and len(peer_parameters(net)) == 1401
    assert sum(weight.numel() for weight in net.weight_parameters()) == 1_930_618
    assert sum("_stack." in name for name, _ in net.named_buffers()) == 3 * 8


def test_a_mixed_op_draws_and_keeps_what_its_operations_draw() -> None:
    torch.manual_seed(3)
    op = MixedOp(3, 2, ALL)
    torch.manual_seed(3)
    alone = nn.ModuleDict({"_ops": nn.ModuleList(build_op(name, 3, 2, affine=False, pool_bn=True) for name in ALL)})
    assert same(op, alone) and [name for name, _ in op.named_parameters()] == ["_stack.source_0"]
    x, weights = torch.randn(2, 3, 5, 5), torch.rand(8)
    expected = sum(weight * op(x) for weight, op in zip(weights, alone["_ops"], strict=True))
    assert torch.equal(sum(weight * op(x) for weight, op in zip(weights, op._ops, strict=True)), expected)
    assert same(op, alone)


def test_edges_without_weights_have_no_parameter() -> None:
    op = MixedOp(3, 1, ("none", "skip_connect"))
    assert not list(op.parameters()) and not list(op.buffers()) and not op.state_dict()
    pools = MixedOp(3, 1, ("max_pool_3x3",))
    assert not list(pools.parameters()) and len(pools.state_dict()) == 3
    for each, count in ((op, 2), (pools, 1)):
        assert each(torch.randn(2, 3, 4, 4), torch.ones(count)).shape == (2, 3, 4, 4)


def test_modules_are_the_peers_and_their_tensors_views() -> None:
    cell = network().cells[0]
    sep = cell._ops[5]._ops[4]
    assert isinstance(sep.op[1], nn.Conv2d) and isinstance(sep.op[3], nn.BatchNorm2d)
    # What search code does to initialise a network.
    for layer in cell.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.constant_(layer.weight, 2.0)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.fill_(3.0)
    assert all((weight == 2).all() for weight in cell.parameters())
    assert (cell._stack.running_mean == 3).all()
    sep(torch.randn(2, 4, 4, 4)).square().sum().backward()
    gradients = [name for name, weight in cell.named_parameters() if weight.grad is not None]
    assert gradients == ["_stack.source_0"]
    assert sep.op[3].num_batches_tracked == 1 and cell._stack.num_batches_tracked.sum() == 2


def test_copies_and_conversions_stay_whole() -> None:
    model = network()
    twin = copy.deepcopy(model)
    assert same(twin, model)
    with torch.no_grad():
        for tensor in (*twin.parameters(), *twin.buffers()):
            tensor.add_(1)
    ours, theirs = model.state_dict(), twin.state_dict()
    assert all(not torch.equal(ours[key], theirs[key]) for key in ours)
    twin.load_state_dict(ours)
    twin.double()
    assert all(value.dtype in (torch.float64, torch.int64) for value in twin.state_dict().values())
    images = torch.randn(2, 3, 6, 6)
    with use_backend("reference"):
        exact, eager = twin(images.double()), copy.deepcopy(model)(images)
    assert_within("logits", model(images), eager, exact)
    edge = copy.deepcopy(model.cells[0]._ops[3])
    assert torch.equal(edge._ops[4].op[1].weight, model.cells[0]._ops[3]._ops[4].op[1].weight)


def test_checkpoints_under_any_prefix_are_files_of_their_own_size(tmp_path: Path) -> None:
    outer = nn.ModuleDict(
        {"a": nn.Sequential(Cell(space("darts").normal, 3, 3, 2, reduction=True, reduction_prev=True))}
    )
    keys = list(outer.state_dict())
    assert keys[0] == "a.0.preprocess0.conv_1.weight" and keys[-1] == "a.0._ops.13._ops.7.op.3.num_batches_tracked"
    torch.save(outer.state_dict(), tmp_path / "weights.pt")
    other = copy.deepcopy(outer)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    result = other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert same(other, outer) and not result.missing_keys and not result.unexpected_keys


def test_what_does_not_fit_is_named_as_the_peers_name_it() -> None:
    model = network()
    state = model.state_dict()
    prefix = "cells.0._ops.3._ops.4.op"
    del state[f"{prefix}.1.weight"], state[f"{prefix}.3.running_mean"]
    state[f"{prefix}.2.weight"] = torch.ones(3)
    state |= {f"{prefix}.2.bias": torch.ones(2), f"{prefix}.9.weight": torch.ones(2)}
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict(state)
    message = str(caught.value)
    assert f'Missing key(s) in state_dict: "{prefix}.1.weight", "{prefix}.3.running_mean".' in message
    assert f'Unexpected key(s) in state_dict: "{prefix}.9.weight", "{prefix}.2.bias".' in message
    assert f"size mismatch for {prefix}.2.weight: copying a param with shape torch.Size([3])" in message
    del state[f"{prefix}.2.weight"]
    result = model.load_state_dict(state, strict=False)
    assert len(result.missing_keys) == 3 and len(result.unexpected_keys) == 2


def test_assigning_takes_over_dtype_and_device() -> None:
    model = network().double()
    with torch.device("meta"):
        fresh = network()
    fresh.load_state_dict(model.state_dict(), assign=True)
    assert same(fresh, model) and all(isinstance(weight, nn.Parameter) for weight in fresh.parameters())
    state = model.state_dict()
    del state["cells.0._ops.0._ops.4.op.1.weight"]
    with torch.device("meta"):
        lacking = network()
    lacking.load_state_dict(state, strict=False, assign=True)
    assert lacking.cells[0]._ops[0]._ops[4].op[1].weight.isnan().all()
    assert torch.equal(lacking.cells[0]._ops[0]._ops[4].op[2].weight, state["cells.0._ops.0._ops.4.op.2.weight"])


def test_quark0s_own_architect_constructs_its_unrolled_model() -> None:
    """`_construct_model_from_theta`: weights cut from one vector by `named_parameters()`, put into the `state_dict`."""
    model = peer()
    theta = torch.randn(sum(weight.numel() for weight in model.parameters()))
    new, values, offset = model.new(), model.state_dict(), 0
    for name, weight in model.named_parameters():
        values[name] = theta[offset : offset + weight.numel()].view(weight.size())
        offset += weight.numel()
    new.load_state_dict(values)
    assert torch.equal(torch.cat([weight.flatten() for weight in new.parameters()]), theta)


def test_functional_call_reads_the_given_tensors_and_writes_the_given_statistics() -> None:
    model, other = network(), network()
    images = torch.randn(2, 3, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    found = functional_call(model, given, (images,))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    tracked = [value for name, value in other.state_dict().items() if name.endswith("tracked")]
    assert all(value == 1 for value in tracked)
    assert torch.equal(found, other(images))


def test_gradients_are_the_same_alone_and_stacked() -> None:
    model = network().double()
    model(torch.randn(2, 3, 6, 6, dtype=torch.float64)).square().sum().backward()
    gradients = peer_gradients(model.cells[0])
    twin, pieces = copy.deepcopy(model.cells[0]), {}
    assert all(gradient.any() for gradient in gradients.values())
    stack = twin._stack
    for flat in (stack.kernels(range(len(stack._kernels))), [stack.kernel(k) for k in range(len(stack._kernels))]):
        pieces[len(pieces)] = [kernel.grad_fn is not None and kernel.detach() for kernel in flat]
    own = [value for name, value in peer_parameters(twin).items() if "_ops" in name]
    for views in pieces.values():
        assert all(torch.equal(view, value) for view, value in zip(views, own, strict=True))


@pytest.mark.usefixtures("reference")
def test_momentum_and_decay_act_on_every_weight() -> None:
    """What SGD does to stacked weights it does to each: three steps beside a module that is not stacked."""
    torch.manual_seed(3)
    op = MixedOp(3, 1, ALL)
    torch.manual_seed(3)
    alone = nn.ModuleList(build_op(name, 3, 1, affine=False, pool_bn=True) for name in ALL)
    optimisers = [torch.optim.SGD(each.parameters(), 0.1, momentum=0.9, weight_decay=0.01) for each in (op, alone)]
    x, weights = torch.randn(4, 3, 5, 5), torch.rand(8)
    for _ in range(3):
        for optimiser in optimisers:
            optimiser.zero_grad()
        op(x, weights).square().sum().backward()
        sum(weight * each(x) for weight, each in zip(weights, alone, strict=True)).square().sum().backward()
        for optimiser in optimisers:
            optimiser.step()
    own: list[Tensor] = [value for name, value in op.state_dict().items() if name.endswith("weight")]
    assert all(torch.equal(a, b) for a, b in zip(own, alone.parameters(), strict=True))


def test_a_stack_of_a_cell_is_one_and_of_its_edges_none() -> None:
    model = network()
    assert not any(isinstance(module, Stack) for module in peer().modules())
    stacks = [name for name, module in model.named_modules() if isinstance(module, Stack)]
    assert stacks == ["cells.0._stack", "cells.1._stack"]
    model = peer()
    args = SimpleNamespace(momentum=0.9, weight_decay=3e-4, arch_learning_rate=3e-4, arch_weight_decay=1e-3)
    optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    x, y = torch.randn(2, 3, 6, 6), torch.tensor([0, 2])
    model._loss(x, y).backward()
    optimiser.step()
    darts.Architect(model, args).step(x, y, x, y, 0.1, optimiser, unrolled=True)
    assert all(buffer["momentum_buffer"].any() for buffer in optimiser.state.values())
