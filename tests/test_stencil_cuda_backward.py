"""The CUDA kernels of the stencil's backward pass, on the host's shim and on a GPU, against the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from cuda_shim import shim
from hypothesis import given, settings
from hypothesis import strategies as st
from stencil_cases import EVERY, FOUR, Case, Inputs, cast, draw
from tolerance import assert_within
from torch import Tensor

from fastdarts.ops import _stencil_cuda, maps
from fastdarts.ops._records import StencilBackward
from fastdarts.reference.stencil import Conv, stencil_backward

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ORDERS = ("ascending", "descending", "shuffled")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def where(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Where the kernels run: behind the shim with tensors of the CPU, or on the GPU."""
    if request.param == "cpu":
        module = shim()
        monkeypatch.setattr(_stencil_cuda, "core", lambda: module)
        yield torch.device("cpu")
        module.choose_order("ascending")
    else:
        yield torch.device("cuda")


@dataclass(frozen=True)
class Problem:
    """A case with the gradients of its outputs, the outputs, and the batch norms' coefficients."""

    case: Case
    exact: Inputs
    low: Inputs
    ys: list[Tensor] | None
    coefficients: list[Tensor]

    @classmethod
    def of(cls, case: Case, *, with_ys: bool = True) -> Problem:
        exact = draw(case)
        low = exact.change(lambda tensor: cast(tensor, case.dtype))
        low.gradients = [maps.as_maps(g) for g in low.gradients]
        generator = torch.Generator().manual_seed(case.seed + 1)
        shape = (3, len(case.convs), case.channels)
        coefficients = list(torch.randn(shape, generator=generator).bfloat16().double())
        if not with_ys:
            coefficients[1].zero_()
            return cls(case, exact, low, None, coefficients)
        ys = [maps.as_maps(torch.randn(g.shape, generator=generator).to(case.dtype)) for g in low.gradients]
        return cls(case, exact, low, ys, coefficients)

    def statistics(self) -> dict[str, Tensor]:
        return self.exact.keywords()

    def dys(self) -> list[Tensor]:
        found = []
        for i, g in enumerate(self.low.gradients):
            alpha, beta, gamma = (each[i][:, None, None] for each in self.coefficients)
            y = 0.0 if self.ys is None else beta * self.ys[i].double()
            found.append(alpha * g.double() + y + gamma)
        return found

    def reference(self, dtype: torch.dtype) -> dict[str, Tensor]:
        inputs = self.exact if dtype == torch.float64 else self.low
        dys = [dy.to(dtype) for dy in self.dys()]
        arguments = inputs.sources, self.case.convs, inputs.depthwise, inputs.pointwise, dys
        return named(self.case, stencil_backward(*arguments, **self.statistics()))

    def magnitudes(self) -> dict[str, Tensor]:
        """The sums of absolute values behind each result."""
        large = self.exact.change(torch.abs)
        dys = [dy.abs() for dy in self.dys()]
        statistics = self.statistics()
        if statistics:
            statistics["mean"] = -statistics["mean"].abs()
        arguments = large.sources, self.case.convs, large.depthwise, large.pointwise, dys
        return named(self.case, stencil_backward(*arguments, **statistics))

    def launch(
        self, device: torch.device, *, weights: bool = True, dx: list[Tensor] | None = None
    ) -> dict[str, Tensor]:
        def there(tensors: list[Tensor] | None) -> list[Tensor] | None:
            return None if tensors is None else [tensor.to(device) for tensor in tensors]

        low = self.low
        statistics = {key: value.to(device) for key, value in self.statistics().items()}
        given = there(low.sources), self.case.convs, there(low.depthwise), there(low.pointwise)
        rest = there(low.gradients), there(self.ys), *(there(self.coefficients) or [])
        got = _stencil_cuda.backward(StencilBackward(*given, *rest, **statistics, dx=dx, weights=weights))  # type: ignore[arg-type]
        return named(self.case, got)


def named(case: Case, results: tuple[list[Tensor] | Tensor | None, ...]) -> dict[str, Tensor]:
    names = [f"{c.kernel}x{c.kernel} dilation {c.dilation} stride {c.stride} ({i})" for i, c in enumerate(case.convs)]
    found = {f"dx{i}": dx for i, dx in enumerate(results[0] or ())}
    for kind, each in zip(("ddepthwise", "dpointwise"), results[1:3], strict=True):
        found.update({f"{kind} {name}": d for name, d in zip(names, each or (), strict=False)})
    if case.normalised:
        found.update({"sums": results[3], "products": results[4]})  # type: ignore[dict-item]
    return found  # type: ignore[return-value]


def assert_parity(problem: Problem, got: dict[str, Tensor]) -> None:
    exact, eager = problem.reference(torch.float64), problem.reference(problem.case.dtype)
    terms = problem.magnitudes()
    arithmetic = maps.arithmetic(problem.case.dtype)
    for key, mine in got.items():
        expected = problem.case.dtype if key.startswith("dx") else arithmetic
        assert mine.dtype == (torch.float64 if key in ("sums", "products") else expected), key
        # Sums leave in float64 with the errors of the values that they are of, and a product with bfloat16's gradients
        # in the matrix unit has TF32's: more than eager's where that happens to round little.
        coarse = key in ("sums", "products") or problem.case.dtype == torch.bfloat16
        precision = problem.case.dtype if coarse else mine.dtype
        scale = float(terms[key].abs().max())
        unit = scale if coarse and scale > 0 else 1.0  # float16 ends at 65504
        mine, plain, right = (x.cpu() if unit == 1 else x.cpu() / unit for x in (mine, eager[key], exact[key].double()))
        assert_within(key, mine.to(precision), plain.to(precision), right, terms=scale / unit)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("channels", [1, 3, 20])
def test_parity(where: torch.device, channels: int, normalised: bool, dtype: torch.dtype) -> None:
    case = Case(count=2, channels=channels, normalised=normalised, dtype=dtype, extra=3)
    problem = Problem.of(case)
    assert_parity(problem, problem.launch(where))


@settings(max_examples=25)
@given(
    count=st.integers(1, 5),
    channels=st.integers(1, 40),
    sizes=st.lists(st.tuples(st.integers(1, 21), st.integers(1, 37)), min_size=1, max_size=3),
    convs=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(EVERY)), min_size=1, max_size=4),
    normalised=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    extra=st.integers(0, 4),
    seed=st.integers(0, 2**31),
    with_ys=st.booleans(),
    weights=st.booleans(),
    order=st.sampled_from(ORDERS),
)
def test_parity_of_any_shape(
    sizes: list[tuple[int, int]],
    convs: list[tuple[int, Conv]],
    with_ys: bool,
    weights: bool,
    order: str,
    **rest: object,
) -> None:
    module = shim()
    module.choose_order(order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_stencil_cuda, "core", lambda: module)
        every = tuple(replace(conv, source=source % len(sizes)) for source, conv in convs)
        problem = Problem.of(Case(sizes=tuple(sizes), convs=every, **rest), with_ys=with_ys)  # type: ignore[arg-type]
        got = problem.launch(torch.device("cpu"), weights=weights)
    module.choose_order("ascending")
    assert weights == any(key.startswith("ddepthwise") for key in got)
    assert_parity(problem, got)


@pytest.mark.parametrize("size", [(32, 32), (16, 16), (8, 8), (28, 20)], ids=str)
@pytest.mark.parametrize("channels", [16, 36])
def test_tiles_of_the_shapes_that_searches_have(where: torch.device, channels: int, size: tuple[int, int]) -> None:
    convs = (Conv(0, 3, 1, 1), Conv(0, 5, 1, 2), Conv(0, 3, 2, 1), Conv(0, 5, 2, 1))
    problem = Problem.of(Case(count=2, channels=channels, sizes=(size,), convs=convs))
    assert_parity(problem, problem.launch(where))


def test_many_channels(where: torch.device) -> None:
    """More rows of dP than a block has, and a last part of them that is not full."""
    problem = Problem.of(Case(count=1, channels=150, sizes=((5, 9),), convs=FOUR[:2], normalised=True))
    assert_parity(problem, problem.launch(where))


def test_more_sources_than_a_launch_takes(where: torch.device) -> None:
    count = 35
    convs = tuple(Conv(i, 3, 1 + i % 2, 1) for i in range(count))
    case = Case(count=1, channels=4, sizes=((3, 5),) * count, convs=convs, normalised=True)
    problem = Problem.of(case)
    assert_parity(problem, problem.launch(where))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("extra", [1, 4, 7])
def test_dx_is_added_where_it_is_given(where: torch.device, extra: int, dtype: torch.dtype) -> None:
    case = Case(sizes=((6, 7), (5, 3)), convs=FOUR, channels=6, dtype=dtype)
    problem = Problem.of(case, with_ys=False)
    fresh = problem.launch(where, weights=False)
    shapes = [(case.count, h, w, case.channels + extra) for h, w in case.sizes]
    wide = [torch.randn(shape).to(dtype).to(where).permute(0, 3, 1, 2) for shape in shapes]
    before = [buffer.clone() for buffer in wide]
    given = [buffer[:, 1 : 1 + case.channels] for buffer in wide]
    got = problem.launch(where, weights=False, dx=given)
    exact = problem.reference(torch.float64)
    for i, (buffer, old) in enumerate(zip(wide, before, strict=True)):
        mine = got[f"dx{i}"]
        assert mine.data_ptr() == given[i].data_ptr()
        right = old[:, 1 : 1 + case.channels].cpu().double() + exact[f"dx{i}"]
        plain = (old[:, 1 : 1 + case.channels] + fresh[f"dx{i}"]).cpu()
        assert_within(f"dx{i}", mine.cpu(), plain, right, terms=float(exact[f"dx{i}"].abs().max()))
        outside = [0, *range(1 + case.channels, case.channels + extra)]
        assert torch.equal(buffer[:, outside], old[:, outside])


def test_a_source_without_convolutions_has_no_gradient(where: torch.device) -> None:
    problem = Problem.of(Case(sizes=((4, 4), (5, 3)), convs=(Conv(1, 3, 1, 1),), channels=3))
    got = problem.launch(where)
    assert torch.equal(got["dx0"].cpu(), torch.zeros(3, 3, 4, 4))


def test_one_rounding_to_tf32_where_torch_allows_it(where: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of factors that TF32 holds, the product is the same: values of bfloat16, and dz is exact before the stencils."""
    monkeypatch.setattr(_stencil_cuda, "tf32_allowed", lambda: True)
    problem = Problem.of(Case(channels=9, sizes=((7, 10),), convs=(Conv(0, 1, 1, 1), Conv(0, 1, 1, 1))), with_ys=False)
    problem.coefficients[0].fill_(1)
    problem.coefficients[2].zero_()
    problem.low.depthwise = [torch.ones_like(weight) for weight in problem.low.depthwise]
    problem.exact.depthwise = [torch.ones_like(weight) for weight in problem.exact.depthwise]
    assert_parity(problem, problem.launch(where))


def test_dy_does_not_cancel_where_means_are_large(where: torch.device) -> None:
    """beta y + gamma is the centred y: |mean| / std of 1e4 must not cost four digits."""
    x = torch.randn(4, 8, 6, 6).contiguous(memory_format=torch.channels_last)
    y = (1e4 + torch.randn(4, 8, 6, 6)).contiguous(memory_format=torch.channels_last)
    one, mean = torch.ones(1, 8, dtype=torch.float64), y.double().mean((0, 2, 3))[None]
    weights = [torch.ones(8, 1, 1, 1)], [torch.eye(8)[:, :, None, None].contiguous()]
    tensors = [x.abs() + 1, *(weight[0] for weight in weights), torch.zeros_like(y), y, one, -mean]
    source, spread, mix, g, y_there, one_there, gamma = (tensor.to(where) for tensor in tensors)
    got, *_ = _stencil_cuda.backward(
        StencilBackward(
            [source], [Conv(0, 1, 1, 1)], [spread], [mix], [g], [y_there], one_there, one_there, gamma, weights=False
        )
    )
    centred = y.double() - mean[0][:, None, None]
    assert_within("dx", got[0].cpu(), centred.float(), centred)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channels", [4, 17])
def test_not_a_number_and_infinity_stay_where_eager_has_them(where: torch.device, channels: int, value: float) -> None:
    case = Case(channels=channels, sizes=((9, 11), (7, 6)), convs=(*FOUR, Conv(0, 7, 2, 1)))
    problem = Problem.of(case, with_ys=False)
    for inputs in (problem.exact, problem.low):
        inputs.sources[0][1, 2, 8, 10] = value  # in reach of tiles' outputs beyond the map
        inputs.sources[1][0, 0, 0, 0] = -value
        inputs.gradients[2][1, 1, 3, 2] = value
    got, exact = problem.launch(where), problem.reference(torch.float64)
    for key, right in exact.items():
        assert torch.equal(got[key].cpu().isnan(), right.isnan()), key
        assert torch.equal(got[key].cpu().isinf(), right.isinf()), key


@pytest.fixture
def order() -> Iterator[Callable[[str], None]]:
    yield shim().choose_order
    shim().choose_order("ascending")


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("channels", [4, 20])
def test_no_bit_depends_on_the_order_of_threads_and_blocks(
    order: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    monkeypatch.setattr(_stencil_cuda, "core", shim)
    problem = Problem.of(Case(channels=channels, sizes=((13, 21), (8, 8)), convs=FOUR, normalised=True))
    once = problem.launch(torch.device("cpu"))
    assert all(result.isfinite().all() for result in once.values())
    for name in ORDERS:
        order(name)
        again = problem.launch(torch.device("cpu"))
        assert all(torch.equal(once[key], again[key]) for key in once)


def test_launches_depend_on_shapes_only(order: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_stencil_cuda, "core", shim)
    case = Case(channels=16, sizes=((8, 8),), convs=FOUR[:2], normalised=True)
    seen = []
    for seed in range(2):
        shim().launches()
        Problem.of(replace(case, seed=seed)).launch(torch.device("cpu"))
        seen.append(shim().launches())
    assert seen[0] == seen[1]
    assert len(seen[0]) == 4  # the sources, their sums, the weights, theirs
    # A launch copies its parameters: the folds are handed what they read, not the kernels' 15 and 26 KB.
    assert [size for name, *_, size in seen[0] if "fold" in name] == [416, 4112]
