"""How the numbers under tests/golden were made: exact weights and batches, one forward pass, one search loop.

Nothing here depends on the platform: weights, alphas and images are multiples of 2^-10 from seeded integers, so the
peers' code and fastdarts start from the same bits everywhere.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

FOLDER = Path(__file__).parent
CHANNELS = {"darts": 4, "pcdarts": 8}
LAYERS, CLASSES, BATCH, SIZE, STEPS = 3, 10, 4, 8, 3
# Chosen so that no ReLU or max-pool of the peer lies so near its kink that float32 and float64 part there.
SALT = 0
ARGS = SimpleNamespace(
    learning_rate=0.025,
    learning_rate_min=0.001,
    momentum=0.9,
    weight_decay=3e-4,
    grad_clip=5,
    arch_learning_rate=3e-4,
    arch_weight_decay=1e-3,
)
# Every kind of edge in every cell, without storing all of some 600 batch norms.
STATISTICS = ("stem.", "preprocess", "._ops.0._ops.", "._ops.13._ops.")


def load(name: str) -> dict[str, Any]:
    """The recorded numbers of a peer's model."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def exact(name: str, shape: Iterable[int], dtype: torch.dtype) -> Tensor:
    """Multiples of 2^-10 from -1 to 1, the same for a name on every machine and in every dtype."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {SALT}".encode()))
    return torch.randint(-1024, 1025, tuple(shape), generator=generator).to(dtype) / 1024


def batch(name: str, size: int, count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images [count, 3, size, size] and labels [count]."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {SALT}".encode()))
    return exact(name, (count, 3, size, size), dtype), torch.randint(CLASSES, (count,), generator=generator)


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Set weights, statistics and, where there are any, architecture tensors to exact values."""
    for key, value in sorted(model.state_dict().items()):
        if not value.is_floating_point():
            continue
        noise = exact(key, value.shape, value.dtype)
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            value.copy_(1 + noise / 4)
        elif value.ndim == 1:
            value.copy_(noise / 8)
        else:
            fan_in = value[0].numel()
            value.copy_(noise * 2.0 ** round(0.5 - math.log2(fan_in) / 2))
    for index, alpha in enumerate(getattr(model, "arch_parameters", list)()):
        alpha.copy_(exact(f"alpha {index}", alpha.shape, alpha.dtype) / 2)


def projections(tensors: Mapping[str, Tensor]) -> Tensor:
    """One number a tensor: its scalar product with signs that its name gives, in float64."""
    return torch.stack([(value.double() * _signs(name, value.shape)).sum() for name, value in tensors.items()])


def _signs(name: str, shape: torch.Size) -> Tensor:
    return torch.where(exact(f"sign {name}", shape, torch.float64) < 0, -1.0, 1.0)


def exponents(tensors: Mapping[str, Tensor]) -> list[int]:
    """Powers of two nearest to the tensors' norms, by which their projections become comparable."""
    return [round(math.log2(max(float(value.double().norm()), 2.0**-60))) for value in tensors.values()]


def digest(model: nn.Module) -> str:
    """SHA-256 of the `state_dict`'s keys and shapes in order."""
    return digest_of(model.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names and shapes in order."""
    lines = (f"{key} {list(value.shape)}\n" for key, value in tensors.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def peer_parameters(model: nn.Module) -> dict[str, Tensor]:
    """What a model learns apart from architecture tensors outside it, by the `state_dict`'s keys, detached.

    In the peers' own models these are `named_parameters()`; fastdarts stacks them.
    """
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return {key: value for key, value in model.state_dict().items() if not key.endswith(buffers)}


@torch.no_grad()
def peer_gradients(model: nn.Module) -> dict[str, Tensor]:
    """The gradients of :func:`peer_parameters`, by the same names."""
    twin = copy.deepcopy(model)
    for theirs, ours in zip(twin.parameters(), model.parameters(), strict=True):
        theirs.copy_(ours.grad)
    return peer_parameters(twin)


def search_forward(network: type[nn.Module], channels: int, dtype: torch.dtype) -> dict[str, Any]:
    """Logits, loss and every gradient of one training pass, then logits in evaluation, and the genotype."""
    model = network(channels, CLASSES, LAYERS, nn.CrossEntropyLoss()).to(dtype)
    fill(model)
    genotype = repr(tuple(model.genotype()))
    images, labels = batch("forward", SIZE, BATCH, dtype)
    loss = model._loss(images, labels)
    loss.backward()
    weights = peer_gradients(model)
    alphas = torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()])
    statistics = _statistics(model)
    model.eval()
    with torch.no_grad():
        logits = model(images)
    return {
        "genotype": genotype,
        "digest": digest(model),
        "loss": loss.detach().reshape(1),
        "alpha_gradients": alphas,
        "weight_gradients": weights,
        "statistics": statistics,
        "eval_logits": logits.flatten(),
    }


def search_loop(
    network: type[nn.Module], architect: Callable[..., Any], channels: int, dtype: torch.dtype, unrolled: bool
) -> dict[str, Any]:
    """Three steps of quark0's `train_search.train`, one step an epoch."""
    model = network(channels, CLASSES, LAYERS, nn.CrossEntropyLoss()).to(dtype)
    fill(model)
    optimizer = torch.optim.SGD(
        model.parameters(), ARGS.learning_rate, momentum=ARGS.momentum, weight_decay=ARGS.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=ARGS.learning_rate_min)
    half = architect(model, ARGS)
    losses, gradients = [], []
    for step in range(STEPS):
        lr = scheduler.get_last_lr()[0]
        model.train()
        images, labels = batch(f"train {step}", SIZE, BATCH, dtype)
        images_search, labels_search = batch(f"search {step}", SIZE, BATCH, dtype)
        half.step(images, labels, images_search, labels_search, lr, optimizer, unrolled=unrolled)
        gradients.append(torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()]))
        optimizer.zero_grad()
        loss = model._criterion(model(images), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), ARGS.grad_clip)
        optimizer.step()
        scheduler.step()
        losses.append(loss.detach())
    return {
        "genotype": repr(tuple(model.genotype())),
        "losses": torch.stack(losses),
        "first_alpha_gradient": gradients[0],
        "last_alpha_gradient": gradients[-1],
        "alphas": torch.cat([alpha.detach().flatten() for alpha in model.arch_parameters()]),
        "weights": peer_parameters(model),
        "statistics": _statistics(model),
        "batches_tracked": sorted({int(v) for k, v in model.state_dict().items() if k.endswith("batches_tracked")}),
    }


def derived_forward(network: Callable[..., nn.Module], genotype: Any, size: int, dtype: torch.dtype) -> dict[str, Any]:
    """Logits of both heads and every gradient of one training pass, then logits in evaluation."""
    model = network(4, CLASSES, 4, True, genotype).to(dtype)
    model.drop_path_prob = 0.0
    fill(model)
    images, labels = batch("derived", size, BATCH, dtype)
    logits, auxiliary = model(images)
    loss = nn.functional.cross_entropy(logits, labels) + 0.4 * nn.functional.cross_entropy(auxiliary, labels)
    loss.backward()
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    model.eval()
    with torch.no_grad():
        evaluated = model(images)[0]
    return {
        "digest": digest(model),
        "loss": loss.detach().reshape(1),
        "auxiliary": auxiliary.detach().flatten(),
        "weight_gradients": gradients,
        "eval_logits": evaluated.flatten(),
    }


def _statistics(model: nn.Module) -> dict[str, Tensor]:
    return {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.endswith(("running_mean", "running_var")) and any(part in key for part in STATISTICS)
    }
