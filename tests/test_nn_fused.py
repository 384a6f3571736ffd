"""Layers on the fused engine beside plain torch: numbers, statistics, modes and layouts, and when plain torch runs."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import nn_oracle as oracle
import pytest
import torch
from golden.recipe import peer_gradients
from tolerance import assert_all_within
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts._backend import native
from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp, Supernet, fused
from fastdarts.plan import MEMORY
from fastdarts.spaces import CellSpace, Edge, define_space, random_genotype, space

pytestmark = pytest.mark.skipif(native() is None, reason="fastdarts._C is not built")

DARTS = space("darts").normal
ALL = DARTS.edges[0].primitives
# One at which neither eager's nor the engine's rounding carries a value across a kink of ReLU or max-pool: such steps,
# which either of the two makes at other seeds, are no matter of accuracy.
SEED = 3
TINY = define_space("tiny", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3"), nodes=2)
UNEVEN = CellSpace(
    (
        Edge(0, 2, ("skip_connect", "dil_conv_3x3")),
        Edge(1, 2, ("max_pool_3x3",)),
        Edge(0, 3, ("noise", "sep_conv_7x7", "avg_pool_3x3")),
        Edge(2, 3, ("skip_connect",)),
    ),
    nodes=2,
    concat=(3,),
)

Build = Callable[..., nn.Module]
LAYERS: dict[str, tuple[Build, tuple[tuple[int, ...], ...]]] = {
    "mixed op": (lambda **k: MixedOp(5, 1, ALL, **k), ((3, 5, 9, 6), (8,))),
    "mixed op, stride 2": (lambda **k: MixedOp(6, 2, ALL, **k), ((2, 6, 7, 5), (8,))),
    "mixed op, partial": (lambda **k: MixedOp(8, 2, ALL, partial=4, **k), ((3, 8, 6, 5), (8,))),
    "cell": (
        lambda **k: Cell(DARTS, 6, 5, 4, reduction=False, reduction_prev=True, **k),
        ((4, 6, 11, 8), (4, 5, 6, 4), (14, 8)),
    ),
    "reduction cell": (
        lambda **k: Cell(DARTS, 3, 5, 4, reduction=True, reduction_prev=False, **k),
        ((4, 3, 7, 6), (4, 5, 7, 6), (14, 8)),
    ),
    "cell of partial channels": (
        lambda **k: Cell(DARTS, 5, 5, 8, reduction=True, reduction_prev=False, partial=2, **k),
        ((3, 5, 7, 6), (3, 5, 7, 6), (14, 8), (14,)),
    ),
    "uneven cell with noise and edge weights": (
        lambda **k: Cell(UNEVEN, 3, 3, 4, reduction=False, reduction_prev=False, **k),
        ((3, 3, 6, 6), (3, 3, 6, 6), (4, 3), (4,)),
    ),
    "supernet": (lambda **k: Supernet(TINY, channels=4, layers=3, **k), ((4, 3, 10, 8),)),
    "pc-darts": (lambda **k: Supernet(TINY, channels=8, layers=3, partial=4, in_channels=1, **k), ((4, 1, 8, 8),)),
    "imagenet stem": (lambda **k: Supernet(TINY, channels=4, layers=3, stem="imagenet", **k), ((2, 3, 33, 40),)),
}


def arguments(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> list[Tensor]:
    made = [oracle.images(*shape, *[1] * (4 - len(shape)), seed=i).reshape(shape) for i, shape in enumerate(shapes)]
    made = [each.softmax(-1) if each.ndim < 3 else each for each in made]
    return [each.to(dtype).requires_grad_() for each in made]


Tensors = dict[str, Tensor]


def outcome(module: nn.Module, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, backend: str) -> Tensors:
    """Two training passes and one in evaluation: outputs, gradients of everything, running statistics."""
    module, inputs = copy.deepcopy(module).to(dtype), arguments(shapes, dtype)
    found: dict[str, Tensor] = {}
    torch.manual_seed(1)
    with use_backend(backend):
        for number in range(2):
            y = module(*inputs)
            upstream = torch.randn(y.shape, dtype=torch.float64).to(dtype)
            (y * upstream).sum().backward()
            found[f"output {number}"] = y.detach()
        found |= {f"gradient of input {i}": each.grad for i, each in enumerate(inputs)}
        found |= {f"gradient of {name}": value for name, value in peer_gradients(module).items()}
        found |= {name: value for name, value in module.state_dict().items() if "running" in name}
        found["tracked"] = sum(v.to(dtype) for name, v in module.state_dict().items() if name.endswith("tracked"))
        found["evaluation"] = module.eval()(*inputs).detach()
    return found


@contextmanager
def engine_only() -> Iterator[list[str]]:
    """Fails where a cell or a mixed operation turns to plain torch."""
    calls: list[str] = []
    run = fused.Engine.run

    def counted(self: fused.Engine, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(self.owner)
        return run(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused.Engine, "run", counted)
        patch.setattr("fastdarts.nn.cell.reference.mixed_sum", lambda *_: pytest.fail("plain torch ran"))
        yield calls


def assert_as_reference(build: Build, shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, **options: Any) -> None:
    torch.manual_seed(SEED)
    module = build()
    ref64 = outcome(module, shapes, torch.float64, "reference")
    eager = outcome(module, shapes, dtype, "reference")
    torch.manual_seed(SEED)
    module = build(**options)
    with engine_only() as calls:
        got = outcome(module, shapes, dtype, "cpu")
    assert calls
    assert_near(got, eager, ref64)


def assert_near(got: Tensors, eager: Tensors, ref64: Tensors) -> None:
    """The tolerance rule; in float64, where eager is the reference itself, to float32's resolution.

    A number's rounding is a matter of chance: below float64 all of a sort are held to the largest error of their sort.
    """
    if all(value.dtype == torch.float64 for value in got.values()):
        got, eager = ({name: value.float() for name, value in each.items()} for each in (got, eager))
        largest = max(float(value.abs().max()) for value in ref64.values())
        assert_all_within(got, eager, ref64, terms=largest)
        return
    assert got.keys() == eager.keys() == ref64.keys()
    assert_all_within(*map(sorts, (got, eager, ref64)))


def sorts(named: Tensors) -> dict[str, Tensor]:
    """All outputs, all gradients, all means and all variances as one vector each."""
    found: dict[str, list[Tensor]] = {}
    for name, value in named.items():
        sort = next((each for each in ("gradient", "running_mean", "running_var") if each in name), "output")
        found.setdefault(sort, []).append(value.flatten())
    return {sort: torch.cat(values) for sort, values in found.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_give_the_reference_s_numbers(name: str, dtype: torch.dtype) -> None:
    build, shapes = LAYERS[name]
    assert_as_reference(build, shapes, dtype)


@pytest.mark.parametrize("name", LAYERS)
def test_memory_modes_give_the_same_bits(name: str) -> None:
    build, shapes = LAYERS[name]
    found = []
    for memory in MEMORY:
        torch.manual_seed(0)
        found.append(outcome(build(memory=memory), shapes, torch.float32, "cpu"))
    assert all(torch.equal(found[0][key], other[key]) for other in found[1:] for key in found[0])


@pytest.mark.parametrize("peer", [darts, pcdarts], ids=["darts", "pcdarts"])
def test_compat_networks_give_the_reference_s_numbers(peer: Any) -> None:
    torch.manual_seed(0)
    model = peer.Network(4, 5, 3, nn.CrossEntropyLoss(), steps=2, multiplier=2)
    found = {}
    for key, dtype, backend in (
        ("got", torch.float32, "cpu"),
        ("eager", torch.float32, "reference"),
        ("ref64", torch.float64, "reference"),
    ):
        twin, images = copy.deepcopy(model).to(dtype), oracle.images(4, 3, 9, 8).to(dtype)
        with use_backend(backend):
            twin._loss(images, torch.arange(4)).backward()
            found[key] = {f"gradient of alpha {i}": alpha.grad for i, alpha in enumerate(twin.arch_parameters())}
            found[key] |= {f"gradient of {name}": value for name, value in peer_gradients(twin).items()}
            found[key]["output"] = twin.eval()(images).detach()
    assert_near(**found)


@pytest.mark.parametrize("partial", [1, 2])
def test_one_path(partial: int) -> None:
    def build(**options: Any) -> nn.Module:
        net = Supernet(space("darts"), channels=4, layers=3, partial=partial, **options)
        path = net.one_path(random_genotype(net.space, 3, layers=3))
        forward = type(net).forward
        net.forward = lambda x: forward(net, x, active=path)
        return net

    torch.manual_seed(0)
    found = {}
    for key, dtype, backend in (
        ("got", torch.float32, "cpu"),
        ("eager", torch.float32, "reference"),
        ("ref64", torch.float64, "reference"),
    ):
        torch.manual_seed(0)
        net, x = build().to(dtype), oracle.images(3, 3, 9, 7).to(dtype)
        with use_backend(backend):
            y = net(x)
            y.square().sum().backward()
        gradients = {f"gradient of {n}": p.grad for n, p in net.named_parameters() if p.grad is not None}
        found[key] = {"output": y.detach()} | gradients | {n: value.to(dtype) for n, value in net.named_buffers()}
    assert_near(**found)


@pytest.mark.parametrize("name", ["mixed op", "mixed op, stride 2", "cell", "cell of partial channels"])
def test_the_output_lies_as_the_input(name: str) -> None:
    build, shapes = LAYERS[name]
    module = build().eval()
    inputs = arguments(shapes, torch.float32)
    last = [x.detach().to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    buffer = torch.full((*inputs[0].shape[:1], 16, *inputs[0].shape[2:]), torch.nan).to(
        memory_format=torch.channels_last
    )
    part = buffer[:, 2 : 2 + inputs[0].shape[1]]
    part.copy_(inputs[0].detach())
    expected = module(*inputs)
    assert expected.is_contiguous()
    for given in (last, [part, *last[1:]]):
        found = module(*given)
        assert found.is_contiguous(memory_format=torch.channels_last) and not found.is_contiguous()
        reference = module.double()(*(x.double() for x in inputs))
        eager = expected if torch.equal(found, expected) else module.float()(*inputs)
        assert_all_within({"y": found}, {"y": eager}, {"y": reference}, terms=4.0)
        module.float()


def test_inside_a_supernet_nothing_changes_its_layout() -> None:
    net = Supernet(TINY, channels=4, layers=3, in_channels=1)
    seen = []
    for cell in net.cells:
        cell.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[:2]))
        cell.register_forward_hook(lambda *args: seen.append(args[-1]))
    with engine_only() as calls:
        net(torch.randn(2, 1, 8, 8))
    assert calls == ["Cell"] * 3
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in seen)


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("momentum", [0.3, None])
def test_statistics_follow_the_norms_settings(momentum: float | None, stacked: bool) -> None:
    def build(**options: Any) -> nn.Module:
        cell = Cell(DARTS, 3, 3, 4, reduction=True, reduction_prev=False, stacked=stacked, **options)
        for module in cell.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum, module.eps = momentum, 1e-2
        return cell

    assert_as_reference(build, ((3, 3, 6, 5), (3, 3, 6, 5), (14, 8)), torch.float32)


def test_norms_without_tracking_keep_their_statistics() -> None:
    cell = Cell(UNEVEN, 3, 3, 4, reduction=True, reduction_prev=False)
    for module in cell.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
    before = {name: value.clone() for name, value in cell.named_buffers()}
    x = torch.randn(2, 3, 6, 6)
    with engine_only() as calls:
        cell(x, x, torch.rand(4, 3))
    assert calls and all(torch.equal(value, before[name]) for name, value in cell.named_buffers())


def test_unread_weights_may_be_anything() -> None:
    cell = Cell(UNEVEN, 3, 3, 4, reduction=False, reduction_prev=False)
    weights, betas = torch.rand(4, 5), torch.rand(4, requires_grad=True)
    weights[:, 3:] = torch.nan
    weights[0, 2], weights[1, 1:], weights[3, 1:] = torch.nan, torch.inf, torch.nan
    weights.requires_grad_()
    x = torch.randn(2, 3, 6, 6)
    with engine_only() as calls:
        cell(x, x, weights, betas).square().sum().backward()
        # An inactive candidate's weight is unread as well.
        with torch.no_grad():
            weights[2, 2] = torch.nan
        y = cell(x, x, weights, betas, [(0, 1), (), (1,), (0,)])
    assert calls == ["Cell"] * 2 and y.isfinite().all()
    assert betas.grad.isfinite().all() and weights.grad.isfinite().all()
    assert not weights.grad[:, 3:].any() and weights.grad[2, :3].all()


def plain(module: nn.Module, *inputs: Any, **keywords: Any) -> tuple[bool, Tensor]:
    """Whether plain torch runs, and what comes out."""
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        run = fused.Engine.run
        patch.setattr(fused.Engine, "run", lambda self, *a, **k: (calls.append(self.owner), run(self, *a, **k))[1])
        return not module(*inputs, **keywords).isnan().any() and not calls, module(*inputs, **keywords)


def test_when_plain_torch_runs_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    fused._say.cache_clear()
    x, weights = torch.randn(2, 4, 6, 6), torch.rand(8)
    hook, norm, swap = (MixedOp(4, 1, ALL) for _ in range(3))
    hook._ops[3].register_forward_hook(lambda *_: None)
    norm._ops[4].op[3].eval()
    swap._ops[5] = nn.Conv2d(4, 4, 3, padding=1)
    dense = MixedOp(4, 1, ("none", "conv_7x1_1x7"))
    twice = MixedOp(4, 1, ("skip_connect", "skip_connect"))
    with caplog.at_level(logging.WARNING, "fastdarts"):
        for op in (hook, norm, swap):
            # The others stay on the engine.
            assert not plain(op, x, weights)[0] and not plain(op, x, weights)[0]
        assert plain(dense, x, weights[:2])[0] and not plain(twice, x, weights[:2])[0]
    assert [record.getMessage() for record in caplog.records] == [
        "MixedOp: candidates run in plain torch (hooks)",
        "MixedOp: candidates run in plain torch (batch norms that differ in mode, momentum or eps)",
        "MixedOp: candidates run in plain torch (Conv2d)",
        "MixedOp: candidates run in plain torch (Conv7x1)",
        "MixedOp: candidates run in plain torch (two candidates of kind skip on an edge)",
    ]
    caplog.clear()
    with use_backend("reference"):
        assert plain(MixedOp(4, 1, ALL), x, weights)[0]
    assert not plain(MixedOp(4, 1, ALL), x, weights)[0] and not caplog.records


def test_an_edge_that_is_more_than_a_mixed_op_is_called(caplog: pytest.LogCaptureFixture) -> None:
    class Louder(darts.MixedOp):
        def forward(self, x: Tensor, *arguments: Any) -> Tensor:
            return 2 * super().forward(x, *arguments)

    class Own(darts.Cell):
        def _build_edge(self, channels: int, stride: int, *_: object) -> darts.MixedOp:
            return Louder(channels, stride)

    torch.manual_seed(0)
    own = Own(2, 2, 4, 4, 4, False, False)
    torch.manual_seed(0)
    cell = darts.Cell(2, 2, 4, 4, 4, False, False)
    x, weights = torch.randn(2, 4, 6, 6), torch.rand(5, 8)
    watched: list[Tensor] = []
    fused._say.cache_clear()
    assert not torch.equal(own(x, x, weights), cell(x, x, weights))
    cell._ops[2].register_forward_hook(lambda *args: watched.append(args[-1]))
    cell(x, x, weights)
    assert len(watched) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "Cell: candidates run in plain torch (an edge is a Louder with a forward of its own)",
        "Cell: candidates run in plain torch (edges have hooks)",
    ]


def test_edges_other_than_the_space_s_run_as_they_are() -> None:
    class Own(darts.Cell):
        def _build_edge(self, channels: int, stride: int, *_: object) -> MixedOp:
            return MixedOp(channels, stride, ("sep_conv_5x5",))

    cell = Own(2, 2, 4, 4, 4, False, False).double()
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.rand(5, 8, dtype=torch.float64)
    twin = copy.deepcopy(cell)
    with engine_only() as calls:
        found = cell(x, x, weights)
    with use_backend("reference"):
        expected = twin(x, x, weights)
    assert calls == ["Cell"]
    assert_near({"y": found.detach()}, *[{"y": expected.detach()}] * 2)
    assert_near(*[{k: v for k, v in each.state_dict().items() if "running" in k} for each in (cell, twin, twin)])
    with pytest.raises(UserError, match=r"Cell: mixing weights of edge 0 have shape \[0\]; expected \[1\]"):
        cell(x, x, weights[:, :0])


def test_unknown_memory_is_refused() -> None:
    for build in (
        lambda: MixedOp(4, 1, ALL, memory="small"),
        lambda: Cell(DARTS, 4, 4, 4, reduction=False, reduction_prev=False, memory="small"),
        lambda: Supernet(TINY, channels=4, layers=1, memory="small"),
    ):
        with pytest.raises(UserError, match="memory is 'small'; expected one of fast, balanced, lean"):
            build()


def test_every_preset_runs_on_the_engine() -> None:
    from fastdarts.spaces import space_names

    for name in space_names():
        net = Supernet(space(name), channels=2, layers=3, classes=2)
        with engine_only() as calls:
            net(torch.randn(2, 3, 6, 5)).square().sum().backward()
        assert calls == ["Cell"] * 3
