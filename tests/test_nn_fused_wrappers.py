"""The fused engine inside what people wrap around layers: autocast, compile, functional calls, DDP, searches."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_nn_fused import TINY, assert_near, engine_only
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from fastdarts import use_backend
from fastdarts._backend import native
from fastdarts.nn import Cell, MixedOp, Supernet, fused
from fastdarts.search import configure, hypergradient
from fastdarts.search.choices import Softmax
from fastdarts.search.step import SearchStep
from fastdarts.spaces import space

pytestmark = pytest.mark.skipif(native() is None, reason="fastdarts._C is not built")

DARTS = space("darts").normal
ALL = DARTS.edges[0].primitives


def supernet(**options: Any) -> Supernet:
    torch.manual_seed(0)
    return Supernet(TINY, channels=4, layers=3, classes=5, **options)


def batch(seed: int, count: int = 4, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64)
    return images.to(dtype), torch.randint(0, 5, (count,), generator=generator)


@pytest.mark.parametrize("layer", ["mixed op", "cell", "supernet"])
def test_autocast(layer: str) -> None:
    """Maps in bfloat16, statistics and parameters in float32, an error no larger than eager autocast's."""
    build, shapes = {
        "mixed op": (lambda: MixedOp(6, 2, ALL), [(3, 6, 8, 7), (8,)]),
        "cell": (
            lambda: Cell(DARTS, 4, 4, 4, reduction=False, reduction_prev=True, partial=2),
            [(3, 4, 8, 7), (3, 4, 4, 4), (14, 8), (14,)],
        ),
        "supernet": (supernet, [(3, 3, 8, 8)]),
    }[layer]
    found = {}
    for key, dtype, backend in (
        ("got", torch.float32, "cpu"),
        ("eager", torch.float32, "reference"),
        ("ref64", torch.float64, "reference"),
    ):
        torch.manual_seed(0)
        module = build().to(dtype)
        # Eager pools in float32 what the engine casts first: values that bfloat16 has.
        drawn = [torch.randn(shape, dtype=torch.float64).bfloat16().to(dtype) for shape in shapes]
        inputs = [each.requires_grad_() for each in drawn]
        with use_backend(backend), torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float64):
            y = module(*inputs)
        # An eager mixed operation pools in float32, which makes its sum float32.
        assert key != "got" or y.dtype == torch.bfloat16
        y.double().square().sum().backward()
        named = {f"gradient of {name}": weight.grad for name, weight in module.named_parameters()}
        named |= {f"gradient of input {i}": x.grad for i, x in enumerate(inputs)}
        named |= {name: value for name, value in module.named_buffers() if "running" in name}
        assert all(value.dtype == dtype for value in named.values())
        found[key] = named | {"output": y.detach().to(dtype)}
    assert_near(**found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize("layer", ["mixed op", "cell", "supernet"])
def test_compile_takes_the_whole_graph(layer: str) -> None:
    build, shapes = {
        "mixed op": (lambda: MixedOp(4, 2, ALL, partial=2), [(3, 4, 6, 6), (8,)]),
        "cell": (
            lambda: Cell(TINY.normal, 4, 4, 4, reduction=True, reduction_prev=False),
            [(3, 4, 6, 6), (3, 4, 6, 6), (5, 5), (5,)],
        ),
        "supernet": (supernet, [(3, 3, 8, 8)]),
    }[layer]
    torch.manual_seed(0)
    module = build()
    inputs = [torch.randn(shape, requires_grad=True) for shape in shapes]
    results = []
    for compiled in (False, True):
        twin = copy.deepcopy(module)
        call = torch.compile(twin, fullgraph=True, backend="aot_eager") if compiled else twin
        with engine_only():
            y = call(*inputs)
        gradients = torch.autograd.grad(y.square().sum(), [*inputs, *twin.parameters()])
        evaluated = (torch.compile(twin.eval(), fullgraph=True, backend="aot_eager") if compiled else twin.eval())(
            *inputs
        )
        results.append([y, *gradients, *twin.buffers(), evaluated])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_functional_call_of_parameters_and_statistics() -> None:
    net, other = supernet(), supernet()
    x, _ = batch(0)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    given = {
        name: value.clone() for name, value in {**dict(other.named_parameters()), **dict(other.named_buffers())}.items()
    }
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with engine_only():
        found, expected = functional_call(net, given, (x,)), other(x)
    assert torch.equal(found, expected)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(value, given[name]) for name, value in other.named_buffers())


def test_copies_run_on_their_own() -> None:
    net = supernet()
    x, _ = batch(0)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
    with engine_only():
        expected = supernet()(x)
        assert torch.equal(twin(x), expected)
    assert not net._modules["cells"][0]._stack.num_batches_tracked.any()
    edge = copy.deepcopy(twin.cells[1]._ops[2])
    assert torch.equal(
        edge(torch.ones(2, 8, 4, 4), torch.ones(5)), twin.cells[1]._ops[2](torch.ones(2, 8, 4, 4), torch.ones(5))
    )


def test_meta_tensors_pass() -> None:
    with torch.device("meta"):
        net = supernet()
        y = net(torch.empty(4, 3, 8, 8))
    y.sum().backward()
    assert y.shape == (4, 5) and all(weight.grad.is_meta for weight in net.parameters())


def _distributed(rank: int, meeting: Path, queue: Any) -> None:
    torch.set_num_threads(1)
    # A file and not a port: between finding a free one and taking it, another process of this machine may.
    store = torch.distributed.FileStore(str(meeting), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        net = DistributedDataParallel(supernet())
        x, y = batch(rank)
        F.cross_entropy(net(x), y).backward()
        queue.put((rank, {name: weight.grad.numpy() for name, weight in net.module.named_parameters()}))
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_their_gradients(tmp_path: Path) -> None:
    spawn = torch.multiprocessing.get_context("spawn")
    queue = spawn.Queue()
    processes = [spawn.Process(target=_distributed, args=(rank, tmp_path / "meeting", queue)) for rank in range(2)]
    for process in processes:
        process.start()
    found: dict[int, Any] = {}
    while len(found) < len(processes):
        # As long as both live, however busy the machine is.
        assert all(process.exitcode in (None, 0) for process in processes)
        with suppress(Empty):
            found |= [queue.get(timeout=1.0)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    alone = []
    for rank in range(2):
        net = supernet()
        x, y = batch(rank)
        F.cross_entropy(net(x), y).backward()
        alone.append({name: weight.grad for name, weight in net.named_parameters()})
    for name in alone[0]:
        ours, theirs = (torch.from_numpy(found[rank][name]) for rank in range(2))
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, (alone[0][name] + alone[1][name]) / 2)


def searched(kind: str, dtype: torch.dtype, backend: str, steps: int = 4, **options: Any) -> dict[str, Any]:
    """A short seeded search: alphas, weights, statistics and genotype after it."""
    config = configure("darts-first", data="cifar10", hypergradient=kind, arch_lr=0.02)
    with use_backend(backend):
        net = supernet(alpha_scale=0.1, **options)
        step = SearchStep(net.to(dtype), config, Softmax())
        for number in range(steps):
            step(batch(2 * number, dtype=dtype), batch(2 * number + 1, dtype=dtype), number / steps)
    state = {name: value for name, value in net.state_dict().items() if value.is_floating_point()}
    return {"genotype": net.genotype(), **state}


@pytest.mark.parametrize("partial", [1, 2])
def test_a_search_takes_the_reference_s_way(partial: int) -> None:
    with engine_only() as calls:
        got = searched("first", torch.float32, "cpu", partial=partial)
    # A pass of each level in each step.
    assert calls == ["Cell"] * 3 * 2 * 4
    eager, ref64 = (searched("first", dtype, "reference", partial=partial) for dtype in (torch.float32, torch.float64))
    assert got.pop("genotype") == eager.pop("genotype") == ref64.pop("genotype")
    sort = {name: f"gradient {name}" if "running" not in name else name for name in got}
    assert_near(*({sort[name]: value for name, value in each.items()} for each in (got, eager, ref64)))


@pytest.mark.parametrize("kind", ["second", "amended"])
def test_finite_differences_run_on_the_engine(kind: str) -> None:
    """In float64: in float32 a step of 0.01 crosses other kinks after another rounding."""
    with engine_only() as calls:
        got = searched(kind, torch.float64, "cpu", steps=2)
    assert len(calls) == 3 * 2 * (1 + {"second": 4, "amended": 5}[kind])
    eager = searched(kind, torch.float64, "reference", steps=2)
    assert got.pop("genotype") == eager.pop("genotype")
    assert_near(got, eager, eager)


@pytest.mark.parametrize("kind", ["second-exact", "amended-exact"])
def test_exact_kinds_refuse_the_engine_with_the_remedy(kind: str) -> None:
    net = supernet()
    x, y = batch(0)

    def loss() -> Tensor:
        return F.cross_entropy(net(x), y)

    problem: dict[str, Any] = {"loss_train": loss, "loss_val": loss, "lr": 0.1}
    problem |= {"weights": net.weight_parameters(), "alphas": net.arch_parameters()}
    with pytest.raises(RuntimeError, match=r"use kind '\w+' \(finite differences\).*use_backend\('reference'\)"):
        hypergradient(kind, **problem)
    with use_backend("reference"):
        expected = hypergradient(kind, **problem)
    assert all(gradient.any() for gradient in expected)
    step = SearchStep(net, configure("darts-first", data="cifar10", hypergradient=kind), Softmax())
    calls: list[str] = []
    run = fused.Engine.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused.Engine, "run", lambda self, *a, **k: (calls.append(self.owner), run(self, *a, **k))[1])
        step(batch(0), batch(1), 0.0)
    # The validation pass and the weight step; the pass that is differentiated twice is plain torch.
    assert len(calls) == 3 * 2


def test_the_check_of_finite_differences_runs_in_a_search() -> None:
    step = SearchStep(supernet(), configure("darts-second", data="cifar10"), Softmax())
    before = {name: value.clone() for name, value in step.model.state_dict().items()}
    error = step.check(batch(0), batch(1), 0.0)
    assert -1 <= error.cosine <= 1 and error.exact_norm > 0
    assert all(torch.equal(value, before[name]) for name, value in step.model.state_dict().items())


def test_a_subclass_with_a_loop_of_its_own_runs_its_edges_on_the_engine() -> None:
    class Loop(Cell):
        def forward(self, s0: Tensor, s1: Tensor, weights: Tensor) -> Tensor:
            states = [self.preprocess0(s0), self.preprocess1(s1)]
            for node in self.space.states:
                states.append(
                    sum(self._ops[e](states[self.space.edges[e].source], weights[e]) for e in self.space.into(node))
                )
            return torch.cat([states[node] for node in self.space.concat], 1)

    found = []
    for build in (Loop, Cell):
        torch.manual_seed(0)
        cell = build(DARTS, 4, 4, 4, reduction=True, reduction_prev=False).double()
        x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.rand(14, 8, dtype=torch.float64)
        with engine_only() as calls:
            y = cell(x, x, weights)
        y.square().sum().backward()
        statistics = {name: value for name, value in cell.state_dict().items() if "running" in name}
        found.append({"output": y.detach(), **statistics})
        found[-1] |= {f"gradient of {name}": weight.grad for name, weight in cell.named_parameters()}
        assert calls == (["MixedOp"] * 14 if build is Loop else ["Cell"])
        assert set(cell._stack.num_batches_tracked.tolist()) == {1}
    assert_near(found[0], found[1], found[1])


def test_modules_without_a_batch_norm_are_not_asked_for_one() -> None:
    op = MixedOp(4, 1, ("none", "skip_connect"))
    x, weights = torch.randn(1, 4, 1, 2), torch.tensor([0.5, 2.0])
    with engine_only() as calls:
        assert torch.equal(op(x, weights), 2 * x)
    assert calls == ["MixedOp"] and isinstance(op._ops[0], nn.Module)
