"""The optimisers' steps on flat buffers against torch's optimisers on the parameters they are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tolerance import assert_all_within, assert_within
from torch import Tensor, nn

from fastdarts._backend import use_backend
from fastdarts.errors import UserError
from fastdarts.ops import maps
from fastdarts.ops.optim import adam_, sgd_
from fastdarts.reference import optim as reference

SHAPES = ((3, 1, 5, 5), (7,), (1, 1), (20, 11))
SIZE = 75 + 7 + 1 + 220
SGD = {"momentum_factor": 0.9, "weight_decay": 3e-4, "grad_clip": 5.0}
ADAM = {"beta1": 0.5, "beta2": 0.999, "eps": 1e-8, "weight_decay": 1e-3}
DTYPES = (torch.float32, torch.float64)

Step = Callable[..., Any]


def drawn(dtype: torch.dtype, steps: int = 4) -> tuple[Tensor, list[Tensor]]:
    """Weights and the gradients of some steps, flat; float32 numbers, whatever the dtype."""
    draw = torch.Generator().manual_seed(1)
    weights = torch.randn(SIZE, generator=draw)
    # Norms from 3.5 to 35: shorter than the clip and longer.
    return weights.to(dtype), [(torch.randn(SIZE, generator=draw) * (1 + i) / 5).to(dtype) for i in range(steps)]


def flat_step(device: torch.device | str, dtype: torch.dtype, *values: float) -> list[Tensor]:
    return [torch.tensor(value, dtype=dtype, device=device) for value in values]


def by_torch(kind: str, dtype: torch.dtype, options: dict[str, float], lr: float) -> dict[str, Tensor]:
    """Every buffer after the steps, by torch's own optimiser on separate parameters."""
    weights, gradients = drawn(dtype)
    sizes = [torch.Size(shape).numel() for shape in SHAPES]
    parameters = [nn.Parameter(part.view(shape)) for part, shape in zip(weights.split(sizes), SHAPES, strict=True)]
    if kind == "sgd":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            parameters, lr, momentum=options["momentum_factor"], weight_decay=options["weight_decay"]
        )
    else:
        betas = options["beta1"], options["beta2"]
        optimizer = torch.optim.Adam(parameters, lr, betas, options["eps"], options["weight_decay"])
    norms = []
    for gradient in gradients:
        for parameter, part in zip(parameters, gradient.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter).clone()
        if kind == "sgd":
            norms.append(torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters]))
        if options.get("grad_clip"):
            torch.nn.utils.clip_grad_norm_(parameters, options["grad_clip"])
        optimizer.step()
    kept = {"momentum_buffer": "momentum", "exp_avg": "exp_avg", "exp_avg_sq": "exp_avg_sq"}
    found = {"weights": parameters} | {
        ours: [optimizer.state[parameter][theirs] for parameter in parameters]
        for theirs, ours in kept.items()
        if optimizer.state[parameters[0]].get(theirs) is not None
    }
    flat = {name: torch.cat([each.detach().flatten() for each in parts]) for name, parts in found.items()}
    return flat | ({"norms": torch.stack(norms)} if norms else {})


def by_us(
    step: Step, kind: str, dtype: torch.dtype, options: dict[str, float], lr: float, device: torch.device
) -> dict[str, Tensor]:
    """The same by one flat step after the other."""
    weights, gradients = drawn(dtype)
    weights, rate = weights.to(device), torch.tensor(lr, dtype=torch.float64, device=device)
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    count = torch.zeros_like(rate)
    norms = []
    for gradient in gradients:
        before, gradient = gradient, gradient.to(device, copy=True)
        if kind == "sgd":
            norms.append(step(weights, gradient, first, rate, **options))
        else:
            assert step(weights, gradient, first, second, count, rate, **options) is None
        assert torch.equal(gradient.cpu(), before)
    if kind == "sgd":
        out = {"weights": weights, "norms": torch.stack(norms)}
        assert out["norms"].dtype == torch.float64
        return out | ({"momentum": first} if options["momentum_factor"] else {})
    assert torch.equal(count, torch.full_like(count, len(gradients)))
    return {"weights": weights, "exp_avg": first, "exp_avg_sq": second}


def held_to_torch(
    step: Step, kind: str, dtype: torch.dtype, options: dict[str, float], device: torch.device, lr: float = 0.1
) -> None:
    got = by_us(step, kind, dtype, options, lr, device)
    eager, ref64 = by_torch(kind, dtype, options, lr), by_torch(kind, torch.float64, options, lr)
    if "norms" in got:  # ours are float64 whatever the parameters are
        got["norms"] = got["norms"].to(dtype)
    for name, ref in ref64.items():
        assert_within(name, got.pop(name).cpu(), eager[name], ref)
    assert not got


SGD_CASES = {
    "clipped": SGD,
    "not clipped": SGD | {"grad_clip": 0.0},
    "no momentum": SGD | {"momentum_factor": 0.0},
    "no decay": SGD | {"weight_decay": 0.0},
}
ADAM_CASES = {
    "as DARTS": ADAM,
    "as torch": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    "no memory": ADAM | {"beta1": 0.0, "beta2": 0.0},
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SGD_CASES)
def test_sgd_is_torchs_on_the_parameters(case: str, dtype: torch.dtype, device: torch.device) -> None:
    held_to_torch(sgd_, "sgd", dtype, SGD_CASES[case], device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ADAM_CASES)
def test_adam_is_torchs_on_the_parameters(case: str, dtype: torch.dtype, device: torch.device) -> None:
    held_to_torch(adam_, "adam", dtype, ADAM_CASES[case], device, lr=3e-2)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The launchers with blocks that cut 303 elements into several of each kind, the last one ragged."""
    from fastdarts.ops import _optim_triton

    for name, elements in (("_SQUARES", 32), ("_PARTIALS", 4), ("_SGD", 64), ("_ADAM", 128)):
        monkeypatch.setattr(_optim_triton, name, elements)
    return _optim_triton


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", SGD_CASES)
def test_the_sgd_kernels(case: str, dtype: torch.dtype, triton_device: torch.device, small_blocks: Any) -> None:
    held_to_torch(small_blocks.sgd_, "sgd", dtype, SGD_CASES[case], triton_device)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ADAM_CASES)
def test_the_adam_kernel(case: str, dtype: torch.dtype, triton_device: torch.device, small_blocks: Any) -> None:
    held_to_torch(small_blocks.adam_, "adam", dtype, ADAM_CASES[case], triton_device, lr=3e-2)


def test_the_kernels_blocks_as_they_are(triton_device: torch.device) -> None:
    from fastdarts.ops import _optim_triton

    count = 10_001  # three partial sums and five blocks
    given = dict(zip(("weights", "gradient", "momentum"), torch.randn(3, count), strict=True))
    results = []
    for step, dtype, device in (
        (_optim_triton.sgd_, torch.float32, triton_device),
        (reference.sgd_, torch.float32, "cpu"),
        (reference.sgd_, torch.float64, "cpu"),
    ):
        (lr,) = flat_step(device, torch.float64, 0.1)
        buffers = {name: tensor.to(device, dtype, copy=True) for name, tensor in given.items()}
        buffers["norm"] = step(*buffers.values(), lr, **SGD).to(dtype)
        results.append({name: tensor.cpu() for name, tensor in buffers.items()})
    assert_all_within(*results)


def test_runs_agree_bit_for_bit(triton_device: torch.device, small_blocks: Any) -> None:
    first, second = (by_us(small_blocks.sgd_, "sgd", torch.float32, SGD, 0.1, triton_device) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # numpy's, where it plays the kernel
@pytest.mark.parametrize(("value", "finite"), [(float("nan"), 0), (float("inf"), SIZE - 1)])
def test_a_gradient_that_is_not_finite_acts_as_in_torch(
    value: float, finite: int, triton_device: torch.device, small_blocks: Any
) -> None:
    for step in (sgd_, small_blocks.sgd_):
        weights, (gradient, *_) = drawn(torch.float32)
        gradient[200] = value
        weights, gradient = weights.to(triton_device), gradient.to(triton_device)
        momentum, (lr,) = torch.zeros_like(weights), flat_step(triton_device, torch.float64, 0.1)
        norm = step(weights, gradient, momentum, lr, **SGD)
        # nan / x is nan for all; clip / inf is 0, which only the infinite one's product with is not a number.
        counts = torch.stack([each.isfinite().sum() for each in (norm, weights, momentum)])
        assert torch.equal(counts.cpu(), torch.tensor([0, finite, finite]))


def test_a_gradient_of_zeros_only_decays(triton_device: torch.device, small_blocks: Any) -> None:
    for step in (sgd_, small_blocks.sgd_):
        weights = torch.ones(SIZE, device=triton_device)
        momentum, (lr,) = torch.zeros_like(weights), flat_step(triton_device, torch.float64, 0.5)
        options = SGD | {"weight_decay": 0.25}
        norm = step(weights, torch.zeros_like(weights), momentum, lr, **options)
        for found, value in ((norm, 0.0), (weights, 0.875), (momentum, 0.25)):
            assert torch.equal(found, torch.full_like(found, value))


def arguments(kind: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    weights, (gradient, *_) = drawn(dtype)
    lr, count = flat_step("cpu", torch.float64, 0.1, 2.0)
    buffers = {"weights": weights, "gradient": gradient, "momentum": torch.ones_like(weights), "lr": lr}
    if kind == "adam":
        buffers = {"parameters": weights, "gradient": gradient, "exp_avg": torch.ones_like(weights)}
        buffers |= {"exp_avg_sq": torch.ones_like(weights), "step": count, "lr": lr}
    return {name: tensor.to(device) for name, tensor in buffers.items()}


def test_the_triton_backend_runs_the_kernels(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastdarts.ops import _optim_triton

    seen: list[str] = []
    for name in ("sgd_", "adam_"):
        kernel = getattr(_optim_triton, name)
        monkeypatch.setattr(_optim_triton, name, lambda *a, _k=kernel, _n=name, **o: (seen.append(_n), _k(*a, **o))[1])
    for backend in ("triton", "reference"):
        with use_backend(backend):
            sgd_(**arguments("sgd", device=str(triton_device)), **SGD)
            adam_(**arguments("adam", device=str(triton_device)), **ADAM)
    assert seen == ["sgd_", "adam_"]


def test_what_the_kernels_allocate_is_the_same_without_data(triton_device: torch.device) -> None:
    from fastdarts.ops import _optim_triton

    seen: dict[str, list[tuple[Any, ...]]] = {}
    for device in (str(triton_device), "meta"):
        allocated = seen.setdefault(device, [])
        with maps.observed(lambda tensor, into=allocated: into.append((tensor.shape, tensor.dtype))):
            norm = _optim_triton.sgd_(*arguments("sgd", device=device).values(), **SGD)
            _optim_triton.adam_(*arguments("adam", device=device).values(), **ADAM)
        assert norm.device.type == torch.device(device).type
    assert seen["meta"] == seen[str(triton_device)] != []


def test_autograd_sees_the_writes(triton_device: torch.device, small_blocks: Any) -> None:
    for step in (sgd_, small_blocks.sgd_):
        given = arguments("sgd", device=str(triton_device))
        before = {name: tensor._version for name, tensor in given.items()}
        step(*given.values(), **SGD)
        written = {name for name, tensor in given.items() if tensor._version > before[name]}
        assert written == {"weights", "momentum"}
    for step in (adam_, small_blocks.adam_):
        given = arguments("adam", device=str(triton_device))
        before = {name: tensor._version for name, tensor in given.items()}
        step(*given.values(), **ADAM)
        written = {name for name, tensor in given.items() if tensor._version > before[name]}
        assert written == {"parameters", "exp_avg", "exp_avg_sq", "step"}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opcheck(dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.fastdarts.sgd_, tuple(arguments("sgd", dtype).values()), SGD)
    torch.library.opcheck(torch.ops.fastdarts.adam_, tuple(arguments("adam", dtype).values()), ADAM)


def test_compiles_as_one_graph() -> None:
    given, twin = arguments("sgd"), arguments("sgd")
    step = torch.compile(lambda **tensors: sgd_(**tensors, **SGD) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(step(**given), sgd_(**twin, **SGD) * 2)
    assert all(torch.equal(given[name], twin[name]) for name in given)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("first", lambda t: t.view(3, 101), r"has shape \[3, 101\]; expected \[P\], P at least 1"),
        ("first", lambda t: t[:0], "P at least 1"),
        ("gradient", lambda t: t[1:], r"gradient has shape \[302\]; expected \[303\]"),
        ("gradient", lambda t: t.repeat_interleave(2)[::2], "gradient is not contiguous"),
        ("gradient", lambda t: t.to("meta"), "gradient is on meta, .* on cpu"),
        ("first", lambda t: t.requires_grad_(), r"requires gradients.*detach\(\), which shares its memory"),
        ("lr", lambda t: t[None], r"lr has shape \[1\]; expected \[\]"),
    ],
)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_what_does_not_fit_is_refused(kind: str, name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    given = arguments(kind)
    name = next(iter(given)) if name == "first" else name
    given[name] = change(given[name])
    step, packed = (sgd_, torch.ops.fastdarts.sgd_) if kind == "sgd" else (adam_, torch.ops.fastdarts.adam_)
    for door in (step, packed):
        with pytest.raises(UserError, match=message):
            door(**given, **(SGD if kind == "sgd" else ADAM))


@pytest.mark.parametrize(
    ("kind", "name", "change", "message"),
    [
        ("sgd", "weights", lambda t: t.bfloat16(), "sgd_: weights is bfloat16; expected float32 or float64"),
        ("sgd", "momentum", lambda t: t.double(), "sgd_: momentum is float64; expected float32"),
        ("sgd", "lr", lambda t: t.float(), "sgd_: lr is float32; expected float64"),
        ("sgd", "lr", lambda t: 0.1, "sgd_: lr is a float; expected a torch.Tensor"),
        ("adam", "step", lambda t: t.long(), "adam_: step is int64; expected float64"),
        ("adam", "parameters", lambda t: None, "adam_: parameters is a NoneType; expected a torch.Tensor"),
    ],
)
def test_wrong_types_are_refused(kind: str, name: str, change: Callable[[Tensor], Any], message: str) -> None:
    given: dict[str, Any] = arguments(kind)
    given[name] = change(given[name])
    with pytest.raises(TypeError, match=message):
        sgd_(**given, **SGD) if kind == "sgd" else adam_(**given, **ADAM)
