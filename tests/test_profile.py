"""The memory harness against hand counts and the cost model's traces; predictions against measurements."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.nn import MixedOp, Supernet
from fastdarts.plan import MEMORY, cell_plan
from fastdarts.plan import kept_bytes as cell_bytes
from fastdarts.profile import Predictor, Usage, kept_bytes, largest_batch, measure, supernet_flops
from fastdarts.spaces import define_space, space

SIZE = (12, 10)
SMALL = define_space("small", space("darts").normal.edges[0].primitives, nodes=2)


def test_counts_by_hand() -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(5, 3)
    # x @ w.T keeps x (given) and the weight (given); tanh keeps its output, 5 x 4 floats.
    assert kept_bytes(lambda: torch.tanh(x @ weight.T), [weight, x]) == 5 * 4 * 4
    # The same storage kept twice counts once; not given, x counts too.
    assert kept_bytes(lambda: (x * weight[:1]).exp() + (x * weight[:1]), [weight]) == 2 * 5 * 3 * 4


def test_eager_keeps_29_times_the_input_of_a_mixed_operation() -> None:
    """none 1, max 4 (indices are int64), avg 2, skip 0, separable 7 each, dilated 4 each, in units of N C H W."""
    with torch.device("meta"):
        op = MixedOp(16, 1, space("darts").normal.edges[0].primitives)
        x = torch.empty(64, 16, 32, 32, requires_grad=True)
        weights = torch.full((8,), 0.125, requires_grad=True)
    unit = 4 * x.numel()
    with use_backend("reference"):
        assert kept_bytes(lambda: op(x, weights), [x, weights, *op.parameters()]) == pytest.approx(29 * unit, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "partial", "channels", "layers", "batch", "gigabytes"),
    [("darts", 1, 16, 8, 64, 8.03), ("darts", 4, 16, 8, 256, 10.21), ("amended-s2", 1, 36, 20, 96, 11.96)],
)
def test_eager_supernets_keep_what_the_peers_were_traced_to_keep(
    name: str, partial: int, channels: int, layers: int, batch: int, gigabytes: float
) -> None:
    with torch.device("meta"):
        model = Supernet(space(name), channels=channels, layers=layers, partial=partial)
        x, y = torch.empty(batch, 3, 32, 32), torch.empty(batch, dtype=torch.int64)
    with use_backend("reference"):
        kept = kept_bytes(lambda: F.cross_entropy(model(x), y), [*model.parameters(), x, y])
    assert kept / 1e9 == pytest.approx(gigabytes, abs=0.006)


def builder(memory: str = "fast", partial: int = 1) -> Callable[[], Supernet]:
    """DARTS' candidates on the five edges of two nodes: a normal cell and two reductions."""
    return lambda: Supernet(SMALL, channels=8, layers=3, partial=partial, memory=memory)


def measured(build: Callable[[], Supernet], dtype: torch.dtype, batch: int) -> Usage:
    model = build().to(dtype)
    return measure(model, torch.randn(batch, 3, *SIZE).to(dtype), torch.zeros(batch, dtype=torch.int64))


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_predicted_is_what_is_measured(dtype: torch.dtype, partial: int, memory: str) -> None:
    build = builder(memory, partial)
    predicted, found = Predictor(build, SIZE, dtype=dtype)(4), measured(build, dtype, 4)
    assert predicted == found
    assert predicted.total_bytes > predicted.peak_bytes > predicted.kept_bytes > 0


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_is_what_torch_computes_for_the_engine(dtype: torch.dtype, memory: str) -> None:
    names = ("nor_conv_3x3", "nor_conv_1x1", "max_pool_5x5", "avg_pool_5x5", "sep_conv_3x3", "max_pool_3x3")
    plain = define_space("plain", names, nodes=2)

    def build() -> Supernet:
        return Supernet(plain, channels=4, layers=3, memory=memory)

    assert Predictor(build, SIZE, dtype=dtype)(4) == measured(build, dtype, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eager_is_predicted_too(dtype: torch.dtype) -> None:
    with use_backend("reference"):
        build = builder()
        predicted, found = Predictor(build, SIZE, dtype=dtype)(4), measured(build, dtype, 4)
    assert predicted == found


def test_modes_keep_what_their_plans_say() -> None:
    """The difference of two modes is that of their cells' closed forms, to the byte."""
    predict = Predictor(builder(), (16, 16), dtype=torch.float32)
    usage = {memory: predict(4, memory) for memory in MEMORY}
    assert predict(4) == usage["fast"], "the supernet's own mode is as it was"
    plans = dict.fromkeys(MEMORY, 0)
    model, side = builder()(), 16
    for cell in model.cells:
        plan = cell_plan(cell.space, cell.channels, reduction=cell.reduction)
        for memory in MEMORY:
            plans[memory] += cell_bytes(plan, 4, side, side, 4, memory)
        side //= 1 + cell.reduction
    for memory in ("balanced", "lean"):
        assert usage["fast"].kept_bytes - usage[memory].kept_bytes == plans["fast"] - plans[memory]
    assert plans["fast"] < usage["fast"].kept_bytes < 1.3 * plans["fast"]
    assert usage["fast"].peak_bytes > usage["balanced"].peak_bytes > usage["lean"].peak_bytes


def test_the_other_lines_of_a_budget() -> None:
    model = builder()()
    found = measured(builder(), torch.float32, 4)
    weights = sum(p.numel() for p in model.weight_parameters())
    alphas = sum(p.numel() for p in model.arch_parameters())
    buffers = sum(b.nbytes for b in model.buffers())
    assert found.gradient_bytes == 4 * (weights + alphas)
    assert found.weight_bytes == 4 * (weights + alphas) + buffers
    assert found.optimiser_bytes == 4 * (weights + 2 * alphas)
    assert found.batch_bytes == 2 * (4 * 4 * 3 * 12 * 10 + 4 * 8)


def test_flops_of_supernets_as_the_cost_model_traced_them() -> None:
    """performance.md, section 1: GFLOP forward, depthwise and pointwise."""
    for name, partial, channels, batch, stencil, pointwise, rounded in (
        ("darts", 1, 16, 64, 12.7, 25.7, 0.06),
        ("darts", 4, 16, 256, 12.7, 16.3, 0.06),
        ("amended-s2", 1, 36, 96, 11.5, 128, 0.5),
    ):
        with torch.device("meta"):
            model = Supernet(space(name), channels=channels, partial=partial)
        found = supernet_flops(model, batch, 32, 32, memory="fast")
        assert found.forward.stencil / 1e9 == pytest.approx(stencil, abs=rounded)
        assert found.forward.pointwise / 1e9 == pytest.approx(pointwise, abs=rounded)
        arch = supernet_flops(model, batch, 32, 32, memory="fast", weights=False)
        assert arch.forward == found.forward
        assert arch.backward.pointwise < found.backward.pointwise


def test_imagenet_stems_and_dense_convolutions() -> None:
    with torch.device("meta"):
        model = Supernet(space("darts"), channels=16, layers=8, partial=2, stem="imagenet")
        own = Supernet(define_space("own", ["skip_connect", "conv_7x1_1x7"], nodes=1), channels=4, layers=1)
    assert supernet_flops(model, 128, 224, 224, memory="fast").forward.stencil / 1e9 == pytest.approx(9.7, abs=0.06)
    assert supernet_flops(own, 2, 8, 8, memory="fast") is None


class Affine:
    """A usage that grows by `each` bytes an image and by `late` more from an image on; counts how often it is asked."""

    def __init__(self, start: int, each: int, late: tuple[int, int] = (0, 0)) -> None:
        self.start, self.each, self.late, self.asked = start, each, late, set()

    def __call__(self, batch: int) -> Usage:
        self.asked.add(batch)
        peak = self.start + self.each * batch + self.late[1] * max(0, batch - self.late[0])
        return Usage(batch, 0, peak, 0, 0, 0, 0, None)


@pytest.mark.parametrize("budget", [1_000, 10_007, 99_999, 1_234_567])
@pytest.mark.parametrize(("start", "each"), [(0, 100), (37, 64), (500, 7)])
@pytest.mark.parametrize("late", [(0, 0), (20, 50), (100, 1000), (3, 1)])
@pytest.mark.parametrize("begin", [1, 16, 3000])
def test_the_largest_batch_is_the_last_that_fits(
    budget: int, start: int, each: int, late: tuple[int, int], begin: int
) -> None:
    predict = Affine(start, each, late)
    found = largest_batch(predict, budget, start=begin)
    assert {found, found + 1} <= predict.asked
    assert predict(found).total_bytes <= budget < predict(found + 1).total_bytes
    assert len(predict.asked) <= (5 if late == (0, 0) else 30)


def test_no_batch_fits_and_every_batch_fits() -> None:
    assert largest_batch(Affine(900, 100), 1_000) == 0
    assert largest_batch(Affine(900, 100), 1_000, start=64) == 0
    assert largest_batch(Affine(800, 100), 1_000) == 2
    with pytest.raises(UserError, match="every batch fits"):
        largest_batch(Affine(10, 0), 1_000)


def test_a_prediction_allocates_nothing() -> None:
    """A terabyte is predicted in an instant, and the largest batch of one too."""
    predict = Predictor(builder(), (32, 32), dtype=torch.float32)
    usage = predict(10**6)
    assert usage.peak_bytes > 10**12
    assert {parameter.device.type for parameter in predict.model.parameters()} == {"meta"}
    assert all(parameter.grad is None for parameter in predict.model.parameters())
    assert predict(10**6) is usage
    assert largest_batch(predict, usage.total_bytes) == 10**6
