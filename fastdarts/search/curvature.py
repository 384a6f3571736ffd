"""Curvature of the validation loss by the alphas: its Hessian, and the Hessian's dominant eigenvalue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts._backend import use_backend
from fastdarts.errors import UserError
from fastdarts.hypergradient._kinds import second_derivative, slope_of
from fastdarts.hypergradient._passes import GeneratorStates, ModuleStates

if TYPE_CHECKING:
    from fastdarts.nn import Supernet
    from fastdarts.search.choices import Relaxation
    from fastdarts.search.config import SearchConfig

__all__ = ["HOW", "Curvature", "dominant_eigenvalue", "hessian", "measure"]

HOW = ("auto", "exact", "lanczos")
PRODUCTS = ("double-backward", "differences")

Loss = Callable[[], Tensor]
Product = Callable[[Tensor], Tensor]

# A row of the exact Hessian costs what a product of Lanczos costs, and Lanczos takes some 10 to 20 of them: S1's and
# S2's 56 rows stay exact as published, the 224 of the DARTS space do not (97 s against 12 s at C 4, 3 cells, batch 32).
_EXACT_ROWS = 64


@dataclass(frozen=True)
class Curvature:
    """A dominant eigenvalue, and how it was found.

    Args:
        value: the largest (algebraic) eigenvalue; nan where the loss or a derivative of it is not finite.
        how: ``exact`` or ``lanczos``.
        size: rows of the Hessian.
        steps: rows or products that were computed, each a double backward (or two gradients).
        residual: ``|H v - value v|`` of Lanczos' unit vector v, which bounds the distance to the nearest eigenvalue;
            0 where exact.
    """

    value: float
    how: str
    size: int
    steps: int
    residual: float = 0.0


def hessian(loss: Loss, alphas: Sequence[Tensor], *, present: Sequence[Tensor | None] | None = None) -> Tensor:
    """Hessian of a loss by all alphas as one vector, row by row with double backward.

    ``H[i, j] = d2 loss / (dalpha_i dalpha_j)``

    One evaluation of the loss, whose graph serves all rows. Module buffers, the ``grad`` of every tensor and torch's
    default generators are left as they were.

    Args:
        loss: computes the loss at the present alphas: a scalar tensor that can be differentiated twice, which the
            fused operations cannot: ``fastdarts.use_backend("reference")``.
        alphas: leaves, floating.
        present: for each alpha a bool tensor of its shape, which entries are candidates; None for all.

    Returns:
        [n, n], float64 on the CPU, n the number of present entries in the order of ``alphas``, rows first; not
        symmetrised, so that its asymmetry shows the rounding error.

    Raises:
        RuntimeError: the loss runs an operation without a second derivative.

    Source: Zela et al.: Understanding and Robustifying Differentiable Architecture Search, ICLR 2020, section 4.
    """
    entries = _Entries(alphas, present)
    with _untouched(), _twice(loss, entries) as product:
        unit = torch.eye(entries.size, dtype=torch.float64)
        return torch.stack([product(row) for row in unit])


def dominant_eigenvalue(
    loss: Loss,
    alphas: Sequence[Tensor],
    *,
    how: str = "auto",
    products: str = "double-backward",
    present: Sequence[Tensor | None] | None = None,
    weight_decay: float = 0.0,
    steps: int = 64,
    tolerance: float = 1e-2,
    radius: float = 1e-2,
    seed: int = 0,
) -> Curvature:
    """Largest eigenvalue of the Hessian of ``loss + weight_decay / 2 * |alpha|^2`` by the alphas.

    ``max eig (H + H^T) / 2 + weight_decay``

    ``exact`` takes it from all rows of the Hessian. ``lanczos`` needs products ``H v`` only: with full
    reorthogonalisation, from a random start vector of its own generator, until the residual is below ``tolerance``
    times the value (which is then much nearer: its error falls with the square of that) or ``steps`` are done. ``auto``
    is exact up to 64 rows. RobustDARTS computes the same matrix and asks a solver for general matrices, whose largest
    value is this one but for rounding, since a Hessian is symmetric.

    What a loss of softmaxed alphas is constant along (the same number added to all alphas of an edge) are
    eigenvectors of eigenvalue 0: with it the value is never below ``weight_decay``, but for rounding.

    Module buffers, the ``grad`` of every tensor, alphas and torch's default generators are left as they were; all
    evaluations of the loss see the same random numbers.

    Args:
        loss: computes the loss at the present alphas: a scalar tensor. What can be differentiated twice, or with
            ``differences`` once.
        alphas: leaves, floating.
        how: ``auto``, ``exact`` or ``lanczos``.
        products: ``double-backward``, or ``differences``: ``(g(alpha + R v) - g(alpha - R v)) / 2R`` of the gradient
            g for a unit v, for losses that the fused engine computes (Lanczos only). That is the mean curvature over
            R, the kinks of ReLU and max pooling included, of which the derivative here knows nothing: of an untrained
            supernet it was 4 to 110 times as large for R from 0.1 to 1e-3, and the same in float64 at 1e-7.
        present: for each alpha a bool tensor of its shape, which entries are candidates; None for all. The others
            have no row.
        weight_decay: L2 coefficient of the alphas' optimiser.
        steps: most products of Lanczos.
        tolerance: of Lanczos, relative.
        radius: R.
        seed: of the start vector.

    Raises:
        UserError: for an unknown choice or a number out of range.
        RuntimeError: the loss runs an operation without a second derivative.

    Source: Zela et al. 2020 (RobustDARTS), section 4; docs/facts.md, 6.1. Lanczos: Golub, Van Loan: Matrix
    Computations, section 10.1.
    """
    _check(how, products, steps, tolerance, radius)
    entries = _Entries(alphas, present)
    if how == "auto":
        how = "exact" if entries.size <= _EXACT_ROWS and products == "double-backward" else "lanczos"
    if how == "exact":
        matrix = hessian(loss, alphas, present=present)
        value = float(torch.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]) if matrix.isfinite().all() else math.nan
        return Curvature(value + weight_decay, how, entries.size, entries.size)
    multiplied = _twice(loss, entries) if products == "double-backward" else _differences(loss, entries, radius)
    with _untouched(), multiplied as product:
        value, done, residual = _lanczos(product, entries.size, steps=steps, tolerance=tolerance, seed=seed)
    return Curvature(value + weight_decay, how, entries.size, done, residual)


def measure(
    model: Supernet, relaxation: Relaxation, batch: tuple[Tensor, Tensor], config: SearchConfig
) -> dict[str, Any]:
    """The dominant eigenvalue that a search records.

    Of the cross-entropy of ``batch`` by the alphas of every cell, at the mixing without chance
    (``relaxation.still``), batch norm as in training, on the reference backend, with the alphas' weight decay.
    Edge weights (betas) are constants. The model's flags, buffers and the generators are left as they were. On a GPU
    the last bits may differ between runs, since plain torch adds up the gradients of max pooling in any order.

    Args:
        model: the supernet.
        relaxation: from alphas to mixing weights.
        batch: images [B, C, H, W] float32 and labels [B] int64 of the architecture level. RobustDARTS takes the last
            that the alphas learnt from; one and the same all along is as good and less noisy.
        config: of which ``eigenvalue`` and ``arch_weight_decay`` are used.

    Returns:
        ``eigenvalue``; ``eigenvalue_how``: ``exact`` or ``lanczos``.

    Source: docs/facts.md, 6.1.
    """
    keys = list(model.arch.alphas)
    cells = [model.space.cell(key, model.layers) for key in keys]
    present = [torch.arange(cell.width) < torch.tensor(cell.counts)[:, None] for cell in cells]
    images, labels = batch

    def loss() -> Tensor:
        with use_backend("reference"):
            return F.cross_entropy(model(images, **relaxation.still(model)), labels)

    with _as_in_training(model):
        found = dominant_eigenvalue(
            loss,
            [model.arch.alphas[key] for key in keys],
            how=config.eigenvalue,
            present=present,
            weight_decay=config.arch_weight_decay,
        )
    return {"eigenvalue": found.value, "eigenvalue_how": found.how}


class _Entries:
    """The candidates' entries of all alphas as one vector [n], and back."""

    def __init__(self, alphas: Sequence[Tensor], present: Sequence[Tensor | None] | None) -> None:
        self.alphas = list(alphas)
        if not self.alphas:
            raise UserError("alphas is empty", "at least one tensor")
        masks = [None] * len(self.alphas) if present is None else list(present)
        if len(masks) != len(self.alphas):
            raise UserError(f"present for {len(masks)} of {len(self.alphas)} alphas", "one for each")
        self._places = [
            torch.arange(alpha.numel()) if mask is None else mask.flatten().cpu().nonzero().flatten()
            for alpha, mask in zip(self.alphas, masks, strict=True)
        ]
        self.size = sum(map(len, self._places))

    def vector(self, tensors: Sequence[Tensor]) -> Tensor:
        """[n], float64 on the CPU."""
        pairs = zip(tensors, self._places, strict=True)
        return torch.cat([each.detach().cpu().double().flatten()[place] for each, place in pairs])

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """Tensors of the alphas' shapes, dtypes and devices; 0 where there is no candidate."""
        found = []
        parts = vector.split([len(place) for place in self._places])
        for alpha, place, part in zip(self.alphas, self._places, parts, strict=True):
            flat = torch.zeros(alpha.numel(), dtype=torch.float64)
            flat[place] = part
            found.append(flat.reshape(alpha.shape).to(alpha))
        return found


@contextmanager
def _untouched() -> Iterator[None]:
    """Generators and the buffers of every module that runs are put back when the block is left."""
    generators = GeneratorStates()
    try:
        with ModuleStates():
            yield
    finally:
        generators.restore()


@contextmanager
def _twice(loss: Loss, entries: _Entries) -> Iterator[Product]:
    """Products with the Hessian by double backward, all from one evaluation of the loss."""
    with torch.enable_grad():
        value = loss()
        slope = slope_of(value, entries.alphas) if value.requires_grad else []

    def product(vector: Tensor) -> Tensor:
        if not slope:
            return torch.zeros(entries.size, dtype=torch.float64)
        return entries.vector(second_derivative(slope, entries.alphas, entries.tensors(vector), keep_graph=True))

    yield product


@contextmanager
def _differences(loss: Loss, entries: _Entries, radius: float) -> Iterator[Product]:
    """Products with the Hessian by central differences of the gradient, at unit vectors."""
    alphas, start = entries.alphas, GeneratorStates()
    saved = [alpha.detach().clone() for alpha in alphas]

    def gradient(vector: Tensor, step: float) -> Tensor:
        start.restore()
        with torch.no_grad():
            torch._foreach_copy_(alphas, saved)
            torch._foreach_add_(alphas, entries.tensors(vector), alpha=step)
        with torch.enable_grad():
            value = loss()
            gradients = torch.autograd.grad(value, alphas, materialize_grads=True) if value.requires_grad else saved
        return entries.vector(gradients) * float(value.requires_grad)

    try:
        yield lambda vector: (gradient(vector, radius) - gradient(vector, -radius)) / (2 * radius)
    finally:
        with torch.no_grad():
            torch._foreach_copy_(alphas, saved)


def _lanczos(product: Product, size: int, *, steps: int, tolerance: float, seed: int) -> tuple[float, int, float]:
    """Largest eigenvalue of a symmetric operator, the products that it took, and the residual.

    Args:
        product: from v to H v, both [size], float64.
        size: n.
    """
    start = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    basis = [start / start.norm()]
    tridiagonal = torch.zeros(size + 1, size + 1, dtype=torch.float64)
    value, residual, most = 0.0, math.inf, min(steps, size)
    for step in range(most):
        following = product(basis[-1])
        if not following.isfinite().all():
            return math.nan, step + 1, math.nan
        tridiagonal[step, step] = following @ basis[-1]
        known = torch.stack(basis)
        # Against all vectors and twice: once leaves a remainder where most of the vector was cancelled, and from
        # lost orthogonality Lanczos finds eigenvalues anew.
        for _ in range(2):
            following = following - known.T @ (known @ following)
        length = float(following.norm())
        values, vectors = torch.linalg.eigh(tridiagonal[: step + 1, : step + 1])
        value, residual = float(values[-1]), length * abs(float(vectors[-1, -1]))
        largest = float(values.abs().max())
        # A length of rounding alone: the vectors so far span all that the operator reaches from the start vector.
        if residual <= tolerance * abs(value) or length <= 1e-14 * largest:
            return value, step + 1, residual
        tridiagonal[step, step + 1] = tridiagonal[step + 1, step] = length
        basis.append(following / length)
    return value, most, residual


@contextmanager
def _as_in_training(model: Supernet) -> Iterator[None]:
    """Training mode and constant weights inside the block; flags and the auxiliary head's logits as before after it."""
    modes = [(module, module.training) for module in model.modules()]
    weights = [(weight, weight.requires_grad) for weight in model.weight_parameters()]
    before = model.auxiliary_logits
    try:
        model.train()
        for weight, _ in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for weight, flag in weights:
            weight.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
        # They would keep the whole graph of the second derivative.
        model.auxiliary_logits = before


def _check(how: str, products: str, steps: int, tolerance: float, radius: float) -> None:
    for name, value, choices in (("how", how, HOW), ("products", products, PRODUCTS)):
        if value not in choices:
            raise UserError(f"{name} is {value!r}", f"one of {', '.join(choices)}")
    if how == "exact" and products != "double-backward":
        raise UserError(f"products is {products!r} with how 'exact'", "double-backward", "use how='lanczos'")
    if steps < 1:
        raise UserError(f"steps is {steps}", "at least 1")
    for name, number, most in (("tolerance", tolerance, 1.0), ("radius", radius, math.inf)):
        if not 0.0 < number <= most or not math.isfinite(number):
            raise UserError(f"{name} is {number}", "a positive number" + (", at most 1" if most == 1.0 else ""))
