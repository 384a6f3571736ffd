"""Is it right? Cells and a whole step by each backend beside plain torch in float64; replays beside launches.

    python -m bench.gpu.parity --out results --only cuda

A row fails where a result is further from the float64 reference than the one tolerance rule (tests/tolerance.py)
allows: a cell's by name, a step's by kind, each as one vector, since of a thousand parameters' errors some are chance.
`bits` is the search's step recorded and replayed: its weights must be those of steps that were launched, bit by bit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.gpu.models import Fused, batch, engines, net, running
from bench.gpu.stage import Options, Stage, options, run
from fastdarts.nn import Supernet
from fastdarts.plan import CellPlan, cell_plan
from fastdarts.spaces import space

__all__ = ["main"]

sys.path.append(str(Path(__file__).parents[2] / "tests"))

# Channels, K, whether it reduces; at the batches and sizes that searches have, so that nothing else has to compile.
CELLS = {
    "DARTS": (16, 1, False, 64, 32),
    "DARTS, reduction": (32, 1, True, 64, 32),
    "PC-DARTS": (16, 4, False, 256, 32),
    "PC-DARTS, reduction": (32, 4, True, 256, 32),
}
STEPS = 6  # of the search: three as they are, one that records, and two that are replayed alone
# How much may stand between ours and eager's error where both are single draws, and what float32 rounds anyway.
_TWICE, _FLOOR = 2.0, 2.0**-20


def planned(channels: int, partial: int, reduction: bool) -> CellPlan:
    """The plan of a cell of DARTS' space."""
    which = space("darts").reduce if reduction else space("darts").normal
    found = cell_plan(which, channels, partial=partial, reduction=reduction)
    assert found is not None
    return found


def cell(given: Options, name: str, backend: str) -> dict[str, Any]:
    """Every result of a cell: its largest error over what the rule allows; raises where one is over it."""
    import cell_oracle as oracle
    from tolerance import assert_within, error

    from fastdarts.ops.cell import cell as op
    from fastdarts.reference.cell import cell as reference

    channels, partial, reduction, *size = CELLS[name]
    plan = planned(channels, partial, reduction)

    def drawn(count: int, side: int, *, small: bool) -> oracle.Given:
        return oracle.given_for(plan, *((2, 4, 4) if small else (count, side, side))).to(given.device)

    case = drawn(*size, small=given.small)
    with running("reference"):
        ref64, eager = (oracle.joined(oracle.outcome(reference, case, kind), True) for kind in _KINDS)
    if given.paper:
        case = drawn(*size, small=given.toy)
    with running(backend):
        own = oracle.joined(oracle.outcome(op, case, torch.float32), True)
    if given.paper:
        return {}
    largest = max(float(value.abs().max()) for value in ref64.values())
    errors = {key: (error(own[key], ref64[key]), error(eager[key], ref64[key])) for key in ref64}
    worst = max(errors, key=lambda key: errors[key][0] / max(errors[key][1], 1e-300))
    for key, expected in ref64.items():
        assert_within(key, own[key], eager[key], expected, terms=largest)
    return {"worst": worst, "apart": errors[worst][0], "eager_apart": errors[worst][1], "results": len(ref64)}


_KINDS = (torch.float64, torch.float32)


def step(given: Options, name: str, backend: str) -> dict[str, Any]:
    """Loss, gradients and statistics of a supernet's pass, by kind."""
    found = {}
    for label, kind in (("reference", torch.float64), ("eager", torch.float32), (backend, torch.float32)):
        engine = label == backend
        chosen = net(name, given.toy if engine else given.small)
        torch.manual_seed(0)
        shape = {"channels": chosen.channels, "layers": chosen.layers, "partial": chosen.partial}
        model = Supernet(chosen.searched, **shape).to(given.device, kind)
        images, labels = batch(chosen, given.device)
        with running(backend if engine else "reference"), _exact_convolutions():
            found[label] = _kinds(model, images.to(kind), labels)
        del model
    if given.paper:
        return {}
    errors = {key: tuple(_apart(found[who][key], found["reference"][key]) for who in (backend, "eager")) for key in _OF}
    for key, (own, eager) in errors.items():
        allowed = _TWICE * eager + _FLOOR
        assert own <= allowed, f"{key}: relative error {own:.3e}, eager's {eager:.3e}, allowed {allowed:.3e}"
    return {"apart": {key: {"own": own, "eager": eager} for key, (own, eager) in errors.items()}}


_OF = ("loss", "alphas", "weights", "statistics")


def _kinds(model: Supernet, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One vector of each kind, float64."""
    loss = F.cross_entropy(model(images), labels)
    alphas, weights = list(model.arch_parameters()), list(model.weight_parameters())
    gradients = torch.autograd.grad(loss, [*alphas, *weights])
    statistics = [each for each in model.buffers() if each.is_floating_point()]
    parts = [loss], gradients[: len(alphas)], gradients[len(alphas) :], statistics
    return {key: _vector(tensors) for key, tensors in zip(_OF, parts, strict=True)}


def _vector(tensors: Any) -> Tensor:
    return torch.cat([each.detach().double().flatten() for each in tensors])


def _apart(found: Tensor, expected: Tensor) -> float:
    """Relative to the reference's norm; not a number is infinitely far."""
    apart = float((found - expected).norm() / expected.norm().clamp_min(1e-300))
    return apart if apart == apart else float("inf")


def bits(given: Options, name: str, backend: str) -> dict[str, Any]:
    """The weights, alphas, statistics and optimisers' work of some steps, recorded and not."""
    found = []
    for graph in (True, False):
        with running(backend):
            model = Fused(net(name, given.toy), given.device)
            work = model.step(graph=graph)
            for _ in range(STEPS):
                work()
            found.append(({key: value.clone() for key, value in model.model.state_dict().items()}, model.notes))
    (replayed, notes), (launched, _) = found
    if given.paper:
        return {}
    assert not notes, notes[0]
    other = [key for key, value in launched.items() if not torch.equal(value, replayed[key])]
    assert not other, f"{len(other)} of {len(launched)} tensors differ, the first {other[0]}"
    assert all(bool(value.isfinite().all()) for value in launched.values() if value.is_floating_point())
    return {"tensors": len(launched), "steps": STEPS}


class _exact_convolutions:
    """A block in which cuDNN does not round float32 to TF32: the reference's error is float32's own."""

    def __enter__(self) -> None:
        self._before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *_: object) -> None:
        torch.backends.cudnn.allow_tf32 = self._before


def main(arguments: list[str] | None = None) -> Stage:
    """Check every backend."""
    given = options(arguments)
    stage = Stage("parity", given)
    for backend in engines(given):
        for name in CELLS:
            stage.row(f"cell, {name}, {backend}", lambda n=name, b=backend: cell(given, n, b), backend=backend)
        for name in ("DARTS", "PC-DARTS"):
            stage.row(f"step, {name}, {backend}", lambda n=name, b=backend: step(given, n, b), backend=backend)
            stage.row(f"bits, {name}, {backend}", lambda n=name, b=backend: bits(given, n, b), backend=backend)
    return stage


if __name__ == "__main__":
    run(main)
