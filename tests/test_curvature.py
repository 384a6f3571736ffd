"""Hessians and dominant eigenvalues against torch's own functional Hessian, closed forms and numpy's general solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from hypergradient_problems import Quadratic, flat, mixture
from torch import Tensor
from torch.func import functional_call

from fastdarts import use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.search.choices import Softmax
from fastdarts.search.curvature import _lanczos, dominant_eigenvalue, hessian, measure
from fastdarts.spaces import define_space
from tests import tiny

# One candidate more on some edges than on others: alphas with padding.
UNEQUAL = define_space(
    "unequal",
    {
        (0, 2): ("skip_connect", "avg_pool_3x3", "sep_conv_3x3"),
        (1, 2): ("skip_connect", "sep_conv_3x3"),
        (2, 3): ("none", "skip_connect", "dil_conv_3x3"),
    },
    layers=2,
    keep=1,
)


def largest(matrix: Tensor) -> float:
    """As RobustDARTS takes it: of a general matrix."""
    return float(numpy.linalg.eigvals(matrix.numpy()).real.max())


def batch(count: int = 6, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, 6, 6, dtype=torch.float64, generator=generator), torch.arange(count) % 3


def supernet(space: Any = UNEQUAL, **settings: Any) -> Supernet:
    torch.manual_seed(1)
    settings = {"channels": 4, "classes": 3, "in_channels": 1, "alpha_scale": 1.0} | settings
    return Supernet(space, **settings).double()


def full(model: Supernet, images: Tensor, labels: Tensor) -> Tensor:
    """The Hessian by all entries of all alphas, padding included, without any code under test."""
    keys = list(model.arch.alphas)

    def loss(*alphas: Tensor) -> Tensor:
        names = {f"arch.alphas.{key}": alpha for key, alpha in zip(keys, alphas, strict=True)}
        with use_backend("reference"):
            return F.cross_entropy(functional_call(model, names, (images,)), labels)

    start = torch.get_rng_state()
    values = tuple(model.arch.alphas[key].detach().clone() for key in keys)
    blocks = torch.autograd.functional.hessian(loss, values)
    torch.set_rng_state(start)
    sizes = [value.numel() for value in values]
    rows = [[block.reshape(sizes[i], sizes[j]) for j, block in enumerate(row)] for i, row in enumerate(blocks)]
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def test_the_hessian_of_a_quadratic_is_its_matrix() -> None:
    torch.manual_seed(0)
    quadratic = Quadratic()
    problem = quadratic.problem()
    assert torch.equal(hessian(problem.loss_val, problem.alphas), quadratic.val[2])
    found = dominant_eigenvalue(problem.loss_val, problem.alphas, how="exact", weight_decay=0.5)
    assert found.value == pytest.approx(largest(quadratic.val[2]) + 0.5, rel=1e-12)
    assert (found.how, found.size, found.steps, found.residual) == ("exact", 7, 7, 0.0)


def test_only_present_entries_have_rows() -> None:
    torch.manual_seed(0)
    quadratic = Quadratic()
    problem = quadratic.problem()
    present = [torch.tensor([[True, False], [True, True]]), None]
    kept = torch.tensor([0, 2, 3, 4, 5, 6])
    expected = quadratic.val[2][kept][:, kept]
    assert torch.equal(hessian(problem.loss_val, problem.alphas, present=present), expected)
    for how in ("exact", "lanczos"):
        found = dominant_eigenvalue(problem.loss_val, problem.alphas, how=how, present=present, tolerance=1e-9)
        assert found.value == pytest.approx(largest(expected), rel=1e-12)
        assert found.size == 6


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize(
    "settings",
    [
        {"how": "exact"},
        {"how": "lanczos", "tolerance": 1e-7},
        {"how": "lanczos", "tolerance": 1e-7, "products": "differences", "radius": 1e-4},
    ],
    ids=["exact", "lanczos", "differences"],
)
def test_a_smooth_network_against_torchs_own_hessian(settings: dict[str, Any], dropout: float) -> None:
    torch.manual_seed(2)
    model, problem = mixture(dropout)
    alphas = list(model.alphas)
    images, labels = model.batches[1]

    def loss(*given: Tensor) -> Tensor:
        model.alphas = list(given)
        return F.cross_entropy(model(images), labels)

    torch.manual_seed(5)
    blocks = torch.autograd.functional.hessian(loss, tuple(alphas))
    expected = torch.cat([torch.cat(row, dim=1) for row in blocks])
    model.alphas = alphas
    torch.manual_seed(5)
    found = dominant_eigenvalue(problem.loss_val, alphas, **settings)
    assert found.value == pytest.approx(largest(expected), rel=1e-6 if "products" in settings else 1e-10)


@pytest.mark.parametrize("how", ["exact", "lanczos", "differences"])
def test_it_leaves_no_trace(how: str) -> None:
    torch.manual_seed(2)
    model, problem = mixture(0.4)
    for leaf in (*model.parameters(), *model.alphas):
        leaf.grad = torch.ones_like(leaf)
    tensors = [*model.state_dict().values(), *model.alphas, *(leaf.grad for leaf in model.parameters())]
    before = [each.detach().clone() for each in tensors]
    state = torch.get_rng_state()
    settings = {"how": "lanczos", "products": how} if how == "differences" else {"how": how}
    values = [dominant_eigenvalue(problem.loss_val, problem.alphas, **settings) for _ in range(2)]
    assert values[0] == values[1]
    assert all(torch.equal(left, right) for left, right in zip(tensors, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(alpha.grad, torch.ones_like(alpha)) for alpha in problem.alphas)


def test_a_loss_that_raises_leaves_no_trace_either() -> None:
    model, problem = mixture(0.4)
    calls = []

    def loss() -> Tensor:
        calls.append(problem.loss_val())
        if len(calls) == 3:
            raise KeyError("the third time")
        return calls[-1]

    before = [each.detach().clone() for each in (*model.state_dict().values(), *problem.alphas)]
    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        dominant_eigenvalue(loss, problem.alphas, how="lanczos", products="differences")
    after = (*model.state_dict().values(), *problem.alphas)
    assert all(torch.equal(left, right) for left, right in zip(after, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


SPECTRA: dict[str, Callable[[], Tensor]] = {
    "random": lambda: torch.randn(40, dtype=torch.float64),
    "all-negative": lambda: -1 - torch.rand(30, dtype=torch.float64),
    "a-large-negative-one": lambda: torch.cat([torch.tensor([-100.0]), torch.rand(29)]).double(),
    "mostly-zero": lambda: torch.cat([torch.tensor([0.3, 0.2]), torch.zeros(48)]).double(),
    "many-equal": lambda: torch.cat([torch.full((20,), 2.0), torch.full((20,), 1.0)]).double(),
    "tiny": lambda: 1e-12 * torch.rand(20, dtype=torch.float64),
    "zero": lambda: torch.zeros(12, dtype=torch.float64),
    "one-row": lambda: torch.tensor([-3.0], dtype=torch.float64),
    "two-rows": lambda: torch.tensor([1.0, 4.0], dtype=torch.float64),
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SPECTRA)
def test_lanczos_finds_the_largest_eigenvalue_of_any_symmetric_matrix(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    spectrum = SPECTRA[name]()
    size = len(spectrum)
    basis = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(spectrum) @ basis.T
    value, steps, residual = _lanczos(matrix.mv, size, steps=size, tolerance=1e-9, seed=seed)
    scale = float(spectrum.abs().max())
    assert value == pytest.approx(float(spectrum.max()), abs=1e-12 * scale + 1e-300)
    # The bound of Lanczos: an eigenvalue lies within the residual.
    assert float((spectrum - value).abs().min()) <= residual + 1e-12 * scale
    assert steps <= size
    if name == "many-equal":
        assert steps == 2


def test_lanczos_stops_at_its_tolerance_and_at_its_steps() -> None:
    torch.manual_seed(0)
    matrix = torch.diag(torch.linspace(0, 1, 200, dtype=torch.float64))
    loose = _lanczos(matrix.mv, 200, steps=200, tolerance=1e-2, seed=0)
    tight = _lanczos(matrix.mv, 200, steps=200, tolerance=1e-6, seed=0)
    assert loose[1] < tight[1] < 200
    assert abs(tight[0] - 1) < abs(loose[0] - 1) < loose[2] <= 1e-2
    value, steps, residual = _lanczos(matrix.mv, 200, steps=3, tolerance=1e-6, seed=0)
    assert steps == 3
    assert value < 1 < value + residual


def test_a_loss_that_is_not_finite_gives_nan() -> None:
    alpha = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for how in ("exact", "lanczos"):
        assert numpy.isnan(dominant_eigenvalue(lambda: (alpha * torch.nan).pow(2).sum(), [alpha], how=how).value)


def test_a_loss_without_the_alphas_is_flat() -> None:
    alpha = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for settings in ({"how": "exact"}, {"how": "lanczos"}, {"how": "lanczos", "products": "differences"}):
        found = dominant_eigenvalue(lambda: torch.ones(()), [alpha], weight_decay=0.25, **settings)
        assert found.value == 0.25


def test_auto_is_exact_for_small_counts_only() -> None:
    def how(size: int) -> str:
        alpha = torch.ones(size, dtype=torch.float64, requires_grad=True)
        return dominant_eigenvalue(lambda: alpha.pow(3).sum(), [alpha]).how

    assert (how(64), how(65)) == ("exact", "lanczos")


def test_an_operation_without_second_derivative_is_refused() -> None:
    model, (images, labels) = supernet().float(), batch()
    with pytest.raises(RuntimeError, match="reference"):
        hessian(lambda: F.cross_entropy(model(images.float()), labels), list(model.arch.alphas.values()))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"how": "power"}, "how is 'power'"),
        ({"products": "adjoint"}, "products is 'adjoint'"),
        ({"how": "exact", "products": "differences"}, "use how='lanczos'"),
        ({"steps": 0}, "steps is 0"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"tolerance": 2.0}, "at most 1"),
        ({"radius": float("nan")}, "radius is nan"),
        ({"present": [None, None]}, "present for 2 of 1 alphas"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_refusals(settings: dict[str, Any], told: str) -> None:
    alpha = torch.zeros(3, requires_grad=True)
    with pytest.raises(UserError, match=told):
        dominant_eigenvalue(lambda: alpha.sum(), [alpha], **settings)
    with pytest.raises(UserError, match="alphas is empty"):
        hessian(lambda: alpha.sum(), [])


@pytest.mark.parametrize("how", ["exact", "lanczos"])
@pytest.mark.parametrize("partial", [1, 2])
def test_what_a_search_records(how: str, partial: int) -> None:
    model = supernet(partial=partial)
    images, labels = batch()
    matrix = full(model, images, labels)
    counts = [torch.tensor(model.space.cell(key).counts) for key in model.arch.alphas]
    present = torch.cat([(torch.arange(3) < each[:, None]).flatten() for each in counts])
    expected = largest(matrix[present][:, present]) + 0.01
    # Nothing depends on an entry that is no candidate, whatever it is.
    for alphas in model.arch.alphas.values():
        alphas.data[1, 2] = 7.0
    model.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    config = tiny.config(eigenvalue=how, arch_weight_decay=0.01)
    record = measure(model, Softmax(), (images, labels), config)
    assert record["eigenvalue"] == pytest.approx(expected, rel=1e-4 if how == "lanczos" else 1e-9)
    assert record["eigenvalue_how"] == how
    assert int(present.sum()) == 16
    assert not model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("how", ["exact", "lanczos"])
def test_what_drops_at_random_drops_the_same_for_all_rows_and_leaves_no_trace(how: str) -> None:
    model = supernet(auxiliary=True, dropout=0.3, layers=3)
    model.drop_path_prob = 0.5
    config = tiny.config(eigenvalue=how)
    images, labels = batch()
    torch.manual_seed(8)
    state = torch.get_rng_state()
    first = measure(model, Softmax(), (images, labels), config)
    assert torch.equal(torch.get_rng_state(), state)
    # The graph of the second derivative hangs on these.
    assert model.auxiliary_logits is None
    assert measure(model, Softmax(), (images, labels), config) == first
    torch.manual_seed(9)
    assert measure(model, Softmax(), (images, labels), config)["eigenvalue"] != first["eigenvalue"]


def test_the_same_number_on_all_alphas_of_an_edge_is_flat() -> None:
    model, (images, labels) = supernet(tiny.SPACE), batch()
    keys = list(model.arch.alphas)
    alphas = [model.arch.alphas[key] for key in keys]
    with use_backend("reference"):
        matrix = hessian(lambda: F.cross_entropy(model(images), labels), alphas)
    assert matrix.shape == (40, 40)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    for edge in range(10):
        along = torch.zeros(40, dtype=torch.float64)
        along[4 * edge : 4 * edge + 4] = 1
        assert float((matrix @ along).abs().max()) < 1e-13
    assert float(torch.linalg.eigvalsh(matrix)[-1]) > 1e-4
    assert flat(alphas).numel() == 40
