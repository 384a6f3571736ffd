"""Hypergradients against closed forms, dense Hessians and their own limits, all in float64."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypergradient_problems import FINITE, Mixture, Problem, Quadratic, flat, mixture, relative_error, toy
from tolerance import assert_within
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev

from fastdarts.hypergradient import KINDS, HypergradientError, hypergradient, hypergradient_error

EPS64 = torch.finfo(torch.float64).eps


def test_kinds_are_the_documented_ones() -> None:
    assert KINDS == ("one-level", "first", "second", "second-exact", "amended", "amended-exact")


@pytest.mark.parametrize("kind", KINDS)
def test_toy_of_appendix_a1_equals_its_closed_form(kind: str) -> None:
    # Every number is a power of two or a short sum of them, so float64 holds each step exactly.
    w, alpha, lr, eta = 0.75, 1.0, 0.25, 0.125
    unrolled = w - lr * 2 * (w - alpha)
    expected = {
        "one-level": -2 * (w - alpha),
        "first": -2 * (2 * w - alpha),
        "second": -2 * (2 * unrolled - alpha) + lr * 2 * 4 * (2 * unrolled - alpha),
        "amended": -2 * (2 * w - alpha) + eta * 2 * 2 * 4 * (2 * w - alpha),
    }[kind.removesuffix("-exact")]
    # |v| = 3 at the unrolled weight, 2 at w: this epsilon makes R a power of two for both levels' directions.
    epsilon = 3 * 2.0**-6 if kind == "second" else 2.0**-6
    (gradient,) = hypergradient(kind, **toy(w, alpha, lr=lr, eta=eta, epsilon=epsilon).arguments)
    assert gradient.item() == expected


@pytest.mark.parametrize("kind", ["amended", "amended-exact"])
def test_amended_term_of_the_toy_at_the_optimum(kind: str) -> None:
    # A.1 at w = w*(alpha) = alpha: g1 = -2 alpha, exact g2 = 4 alpha. Eq. 6 gives g2' = 16 eta alpha: H = 2 and
    # the paper puts H where the implicit function theorem has 1/H, so both agree at eta = 1/H^2 = 1/4.
    alpha = 0.5
    (first,) = hypergradient("first", **toy(alpha, alpha).arguments)
    assert first.item() == -2 * alpha
    for eta in (0.0, 0.125, 0.25):
        (gradient,) = hypergradient(kind, **toy(alpha, alpha, eta=eta, epsilon=2.0**-6).arguments)
        assert gradient.item() - first.item() == 16 * eta * alpha
    assert gradient.item() == 2 * alpha


SETTINGS = {"lr": 0.25, "momentum": 0.5, "weight_decay": 0.125, "eta": 0.25}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in FINITE])
def test_quadratic_problem_solved_on_paper(kind: str) -> None:
    quadratic = Quadratic()
    gradient = hypergradient(kind, **quadratic.problem(**SETTINGS).arguments)
    assert [each.shape for each in gradient] == [torch.Size(shape) for shape in quadratic.alpha_shapes]
    assert torch.equal(flat(gradient), quadratic.solution(kind, **SETTINGS))


@pytest.mark.parametrize("kind", FINITE)
def test_quadratic_problem_has_the_same_quotient_at_any_step(kind: str) -> None:
    # Peers' bug (facts 11.1): (p - n) / 2. * eps multiplies by the step instead of dividing by it. A quadratic has
    # no error of truncation; what is left is the rounding of gradients over 2R, R = epsilon / |d|.
    quadratic = Quadratic()
    expected = quadratic.solution(kind, **SETTINGS)
    hessian, (slope, _) = quadratic.train[0], quadratic.slope(quadratic.train, quadratic.w)
    direction = hessian @ quadratic.slope(quadratic.val, quadratic.w)[0]
    for epsilon in (2.0**10, 1.0, 2.0**-10):
        gradient = hypergradient(kind, **quadratic.problem(epsilon=epsilon, **SETTINGS).arguments)
        rounding = EPS64 * slope.norm() * direction.norm() / min(epsilon, 1.0)
        # H turns the rounding of Hv into one of the amended term; its norm also bounds the second kind's factor.
        assert (flat(gradient) - expected).norm() < hessian.norm() * rounding < 1e-6 * expected.norm()


@pytest.mark.parametrize("kind", FINITE)
def test_both_ends_of_a_difference_are_epsilon_away_over_all_weights(kind: str) -> None:
    _, problem = mixture(epsilon=0.01)
    seen: list[Tensor] = []
    inner = problem.loss_train

    def loss_train() -> Tensor:
        seen.append(flat(problem.weights) - start)
        return inner()

    start = flat(problem.weights)
    problem.loss_train = loss_train
    hypergradient(kind, **problem.arguments)
    lengths = [float(moved.norm()) for moved in seen[-2:]]
    assert lengths == pytest.approx([0.01, 0.01])
    assert torch.allclose(seen[-2], -seen[-1])


def test_second_first_term_is_taken_after_sgds_own_step() -> None:
    # With a training loss that does not know the alphas the hypergradient is dL_val/dalpha at SGD's next weights.
    model = nn.Linear(4, 3).double()
    alpha = torch.randn(3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(6, 4, dtype=torch.float64)
    sgd = torch.optim.SGD(model.parameters(), 0.3, momentum=0.9, weight_decay=0.05)

    def loss_train() -> Tensor:
        return model(x).tanh().square().mean()

    def loss_val() -> Tensor:
        return (model(x) * alpha.softmax(0)).cos().mean()

    for _ in range(3):
        arguments = Problem(loss_train, loss_val, list(model.parameters()), [alpha]).arguments
        buffers = [sgd.state[weight].get("momentum_buffer") for weight in model.parameters()]
        settings: dict[str, Any] = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.05, "momentum_buffers": buffers}
        gradients = [hypergradient(kind, **arguments, **settings)[0] for kind in ("second", "second-exact")]
        sgd.zero_grad()
        loss_train().backward()
        sgd.step()
        (expected,) = torch.autograd.grad(loss_val(), [alpha])
        for gradient in gradients:
            assert float((gradient - expected).norm() / expected.norm()) < 16 * EPS64


def dense(kind: str, model: Mixture, problem: Problem) -> Tensor:
    """The same gradient from whole matrices of second derivatives, by torch.func and matrix products."""
    model = copy.deepcopy(model)
    torch.func.replace_all_batch_norm_modules_(model)
    names = [name for name, _ in model.named_parameters()]
    sizes, shapes = [w.numel() for w in problem.weights], [w.shape for w in problem.weights]
    w, a, settings = flat(problem.weights), flat(problem.alphas), problem.settings

    def loss(level: int, w: Tensor, a: Tensor) -> Tensor:
        parameters = {n: p.reshape(s) for n, p, s in zip(names, w.split(sizes), shapes, strict=True)}
        model.alphas = list(a.split(2))
        images, labels = model.batches[level]
        return F.cross_entropy(functional_call(model, parameters, (images,)), labels)

    mixed = jacrev(grad(loss, argnums=1), argnums=2)(0, w, a).T
    if kind == "amended-exact":
        curvature = jacrev(grad(loss, argnums=1), argnums=1)(0, w, a)
        return grad(loss, argnums=2)(1, w, a) - settings["eta"] * mixed @ curvature @ grad(loss, argnums=1)(1, w, a)
    buffers = [torch.zeros(s) if m is None else m for s, m in zip(shapes, settings["momentum_buffers"], strict=True)]
    slope = settings["momentum"] * flat(buffers) + grad(loss, argnums=1)(0, w, a) + settings["weight_decay"] * w
    unrolled = w - settings["lr"] * slope
    v = grad(loss, argnums=1)(1, unrolled, a)
    return grad(loss, argnums=2)(1, unrolled, a) - settings["lr"] * mixed @ v


@pytest.mark.parametrize("kind", ["second-exact", "amended-exact"])
def test_exact_kinds_equal_dense_second_derivatives(kind: str) -> None:
    model, problem = mixture()
    expected = dense(kind, model, problem)
    gradient = flat(hypergradient(kind, **problem.arguments))
    # Two orders of summation over about a hundred weights.
    assert float((gradient - expected).norm() / expected.norm()) < 100 * EPS64
    first = flat(hypergradient("first", **problem.arguments))
    assert float((gradient - first).norm() / expected.norm()) > 1e-3, "the second term must matter here"


@pytest.mark.parametrize("kind", FINITE)
def test_finite_differences_converge_at_second_order(kind: str) -> None:
    # A central difference errs by c R^2: a tenth of the step, a hundredth of the error.
    _, problem = mixture(eta=10.0)
    exact = hypergradient(f"{kind}-exact", **problem.arguments)
    errors = []
    for epsilon in (1e-2, 1e-3, 1e-4):
        problem.settings["epsilon"] = epsilon
        errors.append(relative_error(hypergradient(kind, **problem.arguments), exact))
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(100, rel=0.2)


def test_tensors_that_a_loss_does_not_use_have_gradient_zero() -> None:
    _, problem = mixture()
    step = hypergradient_step(problem)
    expected = {kind: flat(hypergradient(kind, **problem.arguments)) for kind in KINDS}
    rounded = {kind: otherwise_rounded(kind, problem, step, expected[kind]) for kind in KINDS}
    spare_weight, spare_alpha = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    problem.weights.insert(2, spare_weight)
    problem.settings["momentum_buffers"].insert(2, None)
    problem.alphas.insert(1, spare_alpha)
    for kind in KINDS:
        gradient = hypergradient(kind, **problem.arguments)
        assert torch.equal(gradient[1], torch.zeros(3, dtype=torch.float64))
        # The spare weight adds zeros to every norm and product: their sums are longer, and may round otherwise.
        assert_within(kind, flat([gradient[0], gradient[2]]), rounded[kind], expected[kind])


def hypergradient_step(problem: Problem) -> float:
    return problem.settings.get("epsilon", inspect.signature(hypergradient).parameters["epsilon"].default)


def otherwise_rounded(kind: str, problem: Problem, step: float, expected: Tensor) -> Tensor:
    """What a step of finite differences gives that is a rounding longer or shorter: the furthest of four."""
    found = []
    for roundings in (-2, -1, 1, 2):
        arguments = problem.arguments | {"epsilon": step * (1 + roundings * EPS64)}
        found.append(flat(hypergradient(kind, **arguments)))
    return max(found, key=lambda gradient: float((gradient - expected).abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_losses_that_know_only_one_level(kind: str) -> None:
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    a = torch.randn(3, dtype=torch.float64, requires_grad=True)
    only_weights = Problem(lambda: w.square().sum(), lambda: w.sin().sum(), [w], [a], {"lr": 0.1}).arguments
    assert torch.equal(hypergradient(kind, **only_weights)[0], torch.zeros(3, dtype=torch.float64))
    # Here v = 0 and R is infinite: the second term is zero, not nan.
    only_alphas = Problem(lambda: a.exp().sum(), lambda: a.square().sum(), [w], [a], {"lr": 0.1}).arguments
    expected = a.detach().exp() if kind == "one-level" else 2 * a.detach()
    assert torch.equal(hypergradient(kind, **only_alphas)[0], expected)


@pytest.mark.parametrize("kind", ["amended", "amended-exact"])
def test_flat_training_loss_makes_the_amended_term_zero(kind: str) -> None:
    # L_train linear in w: H v = 0 with v != 0, though the mixed derivative is not zero.
    w = torch.randn(3, dtype=torch.float64, requires_grad=True)
    a = torch.randn(3, dtype=torch.float64, requires_grad=True)
    arguments = Problem(lambda: (w * a).sum(), lambda: (w * a).square().sum(), [w], [a]).arguments
    assert torch.equal(hypergradient(kind, **arguments)[0], 2 * (w.square() * a).detach())


def test_subnormal_direction_counts_as_zero() -> None:
    # epsilon / |v| is beyond float32 here, and torch refuses such a factor.
    w, a = (torch.ones(2, requires_grad=True) for _ in range(2))
    arguments = Problem(lambda: (w * a).sum(), lambda: (w * 1e-42).sum() + a.sum(), [w], [a], {"lr": 1.0}).arguments
    assert torch.equal(hypergradient("second", **arguments)[0], torch.ones(2))


@pytest.mark.parametrize("kind", FINITE)
def test_exploding_direction_is_no_crash(kind: str) -> None:
    # |v| / 2 epsilon is beyond float32 here.
    w, a = (torch.ones(2, requires_grad=True) for _ in range(2))
    arguments = Problem(lambda: (w * a).square().sum(), lambda: (w * 1e37).sum() + a.sum(), [w], [a]).arguments
    assert not hypergradient(kind, **arguments, lr=1e-37)[0].isfinite().any()
    assert torch.equal(w, torch.ones(2))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("level", ["loss_train", "loss_val"])
def test_loss_that_is_not_finite_gives_no_finite_gradient(kind: str, bad: float, level: str) -> None:
    # Added, not multiplied: the gradient itself stays finite, as it does when a sum of squares overflows.
    _, problem = mixture()
    arguments = problem.arguments
    clean = hypergradient(kind, **arguments)
    arguments[level] = lambda loss=arguments[level]: loss() + bad
    gradient = hypergradient(kind, **arguments)
    used = {"one-level": "loss_train", "first": "loss_val"}.get(kind, level) == level
    assert all(each.isnan().all() for each in gradient) if used else all(map(torch.equal, gradient, clean))


@pytest.mark.parametrize("kind", KINDS)
def test_infinite_slope_is_no_crash(kind: str) -> None:
    w, a = (torch.zeros(2, requires_grad=True) for _ in range(2))
    arguments = Problem(lambda: (w + a).abs().sqrt().sum(), lambda: (w + a).abs().sqrt().sum(), [w], [a], {"lr": 1.0})
    assert not hypergradient(kind, **arguments.arguments)[0].isfinite().any()
    assert torch.equal(w, torch.zeros(2))


def test_weights_of_several_dtypes(device: torch.device) -> None:
    dtypes = (torch.float64, torch.float32, torch.float64)
    quadratic = Quadratic()
    base = quadratic.problem(epsilon=0.5, **SETTINGS)
    reference = {kind: hypergradient(kind, **base.arguments) for kind in KINDS}
    weights = [
        w.detach().to(device if i else "cpu", d) for i, (w, d) in enumerate(zip(base.weights, dtypes, strict=True))
    ]
    weights = [w.requires_grad_() for w in weights]
    alphas = [base.alphas[0], base.alphas[1].detach().to(device, torch.float32).requires_grad_()]
    buffers = [m.to(w) for m, w in zip(base.settings["momentum_buffers"], weights, strict=True)]

    def loss(level: tuple[Tensor, ...]) -> Tensor:
        a, b, c, d, e = level
        w, x = (torch.cat([each.reshape(-1).cpu().double() for each in leaves]) for leaves in (weights, alphas))
        return w @ a @ w / 2 + w @ b @ x + x @ c @ x / 2 + d @ w + e @ x

    settings = base.settings | {"momentum_buffers": buffers}
    mixed = Problem(lambda: loss(quadratic.train), lambda: loss(quadratic.val), weights, alphas, settings)
    for kind in KINDS:
        gradient = hypergradient(kind, **mixed.arguments)
        assert [each.dtype for each in gradient] == [each.dtype for each in alphas]
        assert [each.device for each in gradient] == [each.device for each in alphas]
        # One float32 weight rounds by 2^-24, the quotient divides by 2R with R = 0.5 / |v|; H multiplies it again.
        error = relative_error([each.cpu().double() for each in gradient], reference[kind])
        assert error < 11 * 11 * torch.finfo(torch.float32).eps


def test_sparse_gradients_are_taken() -> None:
    table = nn.Embedding(5, 3, sparse=True).double()
    a = torch.randn(3, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 2, 2])

    def loss(sparse: bool) -> Tensor:
        found = table(rows) if sparse else table.weight[rows]
        return (found * a.softmax(0)).tanh().square().sum()

    for kind in ("second", "amended"):
        sparse, full = (
            hypergradient(
                kind, **Problem(lambda s=s: loss(s), lambda s=s: loss(s), [table.weight], [a], {"lr": 0.1}).arguments
            )
            for s in (True, False)
        )
        assert torch.equal(sparse[0], full[0])


class _OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return 2 * g * ctx.saved_tensors[0]


@pytest.mark.parametrize("kind", FINITE)
def test_missing_second_derivative_is_named_with_its_alternative(kind: str) -> None:
    w, a = (torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(2))

    def loss() -> Tensor:
        return (_OnceDifferentiable.apply(w) * a).sum()

    arguments = Problem(loss, loss, [w], [a], {"lr": 0.1}).arguments
    with pytest.raises(RuntimeError, match=rf"'{kind}-exact'.*once_differentiable.*use kind '{kind}'.*'reference'"):
        hypergradient(f"{kind}-exact", **arguments)
    assert hypergradient(kind, **arguments)[0].isfinite().all()


def test_running_out_of_memory_is_not_reported_as_a_missing_derivative() -> None:
    w, a = (torch.randn(3, requires_grad=True) for _ in range(2))

    def exhausted(_: Tensor) -> None:
        raise torch.OutOfMemoryError("no memory")

    def loss_train() -> Tensor:
        product = w * a
        product.register_hook(exhausted)
        return product.square().sum()

    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        hypergradient("amended-exact", **Problem(loss_train, lambda: (w * a).sum(), [w], [a]).arguments)


@pytest.mark.parametrize("kind", FINITE)
def test_error_is_the_distance_to_the_exact_kind(kind: str) -> None:
    _, problem = mixture(epsilon=1.0, eta=10.0)
    finite, exact = (flat(hypergradient(k, **problem.arguments)) for k in (kind, f"{kind}-exact"))
    error = hypergradient_error(kind, **problem.arguments)
    assert error == HypergradientError(
        kind=kind,
        cosine=float(finite @ exact / (finite.norm() * exact.norm())),
        relative_error=float((finite - exact).norm() / exact.norm()),
        norm=float(finite.norm()),
        exact_norm=float(exact.norm()),
    )
    assert error.relative_error > 0 and error.cosine < 1


def test_error_of_zero_gradients_is_not_a_number() -> None:
    w, a = (torch.ones(2, requires_grad=True) for _ in range(2))
    error = hypergradient_error("second", **Problem(w.sum, w.sum, [w], [a], {"lr": 0.1}).arguments)
    assert (error.norm, error.exact_norm) == (0, 0)
    assert math.isnan(error.cosine) and math.isnan(error.relative_error)
