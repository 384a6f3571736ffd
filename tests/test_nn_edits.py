"""Whatever is done to a network's inside, on the engine it computes what the same network of plain modules computes."""

from __future__ import annotations

import copy
import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import plain_peers as plain
import pytest
import torch
from edits import candidates
from edits_of_operations import EDITS
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerance import a_rounding_off, assert_all_within, furthest
from torch import Tensor, nn

from fastdarts._backend import native
from fastdarts.compat import darts, pcdarts
from fastdarts.compat.genotypes import from_genotype
from fastdarts.nn import Cell, MixedOp, Supernet
from fastdarts.nn.stack import StackedConv2d
from fastdarts.spaces import define_space, published

pytestmark = pytest.mark.skipif(native() is None, reason="fastdarts._C is not built")

PRIMITIVES = darts.PRIMITIVES
NODES = 2
EDGES = 5
SPACE = define_space("edited", PRIMITIVES, nodes=NODES, concat=(2, 3))
# How many compositions run; `make test-all` runs 10,000.
EXAMPLES = int(os.environ.get("FASTDARTS_EDITS", "150"))
# How often the plain network is computed with inputs and weights a rounding off: what that moves, rounding may move.
ROUNDINGS = 10
Named = dict[str, Tensor]
Chosen = list[tuple[str, float, int]]
"""Edits by name, each with where it is done, of 1, and a seed."""


@dataclass
class Subject:
    """A layer or network, its plain twin, and how each is called.

    Args:
        ours, plain: of the same `state_dict`.
        shapes: of the inputs, by name; `weights`, `alphas` and so on have one column more than there are operations.
        call, twin: give the output.
    """

    ours: nn.Module
    plain: nn.Module
    shapes: dict[str, tuple[int, ...]]
    call: Callable[[nn.Module, Named], Tensor]
    twin: Callable[[nn.Module, Named], Tensor]


def mixed_op(stride: int, partial: int, stacked: bool) -> Subject:
    def call(op: nn.Module, named: Named) -> Tensor:
        return op(named["x"], named["weights"])

    ours = MixedOp(2 * partial, stride, PRIMITIVES, partial=partial, stacked=stacked)
    shapes = {"x": (2, 2 * partial, 5, 4), "weights": (9,)}
    return Subject(ours, plain.MixedOp(2 * partial, stride, PRIMITIVES, partial), shapes, call, call)


def cell(reduction: bool, partial: int, stacked: bool) -> Subject:
    def call(one: nn.Module, named: Named) -> Tensor:
        return one(named["s0"], named["s1"], named["weights"], named.get("edges"))

    sizes = {"reduction": reduction, "reduction_prev": not reduction, "partial": partial}
    ours = Cell(SPACE.normal, 4, 3, 2 * partial, **sizes, stacked=stacked)
    twin = plain.Cell(NODES, 4, 3, 2 * partial, PRIMITIVES, **sizes)
    shapes = {"s0": (2, 4, 6, 4) if reduction else (2, 4, 11, 8), "s1": (2, 3, 6, 4), "weights": (EDGES, 9)}
    return Subject(ours, twin, shapes | ({"edges": (EDGES,)} if partial > 1 else {}), call, call)


def network(peer: Any, channels: int, partial: int) -> Subject:
    def call(model: nn.Module, named: Named) -> Tensor:
        model.alphas_normal, model.alphas_reduce = named["normal"], named["reduce"]
        if partial > 1:
            model.betas_normal, model.betas_reduce = named["edges"], named["edges reduced"]
        return model(named["x"])

    def twin(model: nn.Module, named: Named) -> Tensor:
        betas = [named["edges"], named["edges reduced"]] if partial > 1 else ()
        return model(named["x"], [named["normal"], named["reduce"]], betas)

    ours = peer.Network(channels, 3, 2, nn.CrossEntropyLoss(), steps=NODES, multiplier=NODES)
    shapes = {"x": (2, 3, 6, 6), "normal": (EDGES, 9), "reduce": (EDGES, 9)}
    shapes |= {"edges": (EDGES,), "edges reduced": (EDGES,)} if partial > 1 else {}
    return Subject(ours, plain.Network(channels, 3, 2, NODES, PRIMITIVES, partial), shapes, call, twin)


def supernet() -> Subject:
    def call(model: nn.Module, named: Named) -> Tensor:
        return model(named["x"], {key: named[key].softmax(-1) for key in ("normal", "reduce")})

    def twin(model: nn.Module, named: Named) -> Tensor:
        return model(named["x"], [named["normal"], named["reduce"]])

    shapes = {"x": (2, 3, 6, 6), "normal": (EDGES, 9), "reduce": (EDGES, 9)}
    ours = Supernet(SPACE, channels=2, layers=2, classes=3)
    return Subject(ours, plain.Network(2, 3, 2, NODES, PRIMITIVES), shapes, call, twin)


def derived() -> Subject:
    genotype = from_genotype(published("DARTS_V1"))
    model = darts.NetworkCIFAR(2, 3, 2, False, genotype)
    twin = plain.Derived(2, 3, 2, genotype.normal, genotype.reduce)
    return Subject(model, twin, {"x": (2, 3, 6, 6)}, lambda m, named: m(named["x"])[0], lambda m, named: m(named["x"]))


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "mixed op": lambda: mixed_op(1, 1, False),
    "mixed op, stride 2": lambda: mixed_op(2, 1, True),
    "mixed op, partial": lambda: mixed_op(2, 2, False),
    "cell": lambda: cell(False, 1, False),
    "reduction cell": lambda: cell(True, 1, True),
    "cell of partial channels": lambda: cell(True, 2, False),
    "darts": lambda: network(darts, 2, 1),
    "pc-darts": lambda: network(pcdarts, 4, 4),
    "supernet": supernet,
    "derived": derived,
}


STACKED = ("mixed op, stride 2", "reduction cell", "supernet")


def gradients(model: nn.Module) -> Named:
    """The gradient of every weight by the peers' name, 0 where there is none."""
    found = {name: weight.grad for name, weight in model.named_parameters() if ".source_" not in f".{name}"}
    for name, layer in model.named_modules():
        if isinstance(layer, StackedConv2d):
            found[f"{name}.weight"] = layer._part.stack.gradient(layer._part.place)
    return {name: torch.zeros(()) if grad is None else grad for name, grad in found.items() if "arch." not in name}


def outcome(model: nn.Module, call: Callable[[nn.Module, Named], Tensor], named: Named) -> Named:
    """A pass with its gradients, what it left in the buffers, and one in evaluation."""
    leaves = {name: value.clone().requires_grad_() for name, value in named.items()}
    torch.manual_seed(2)
    y = call(model, leaves)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    if y.requires_grad:
        y.backward(upstream)
    found = {"output": y.detach()}
    found |= {f"gradient of {name}": leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    found |= {f"gradient of {name}": value for name, value in gradients(model).items()}
    found |= {name: value for name, value in model.state_dict().items() if "arch." not in name}
    with torch.no_grad():
        found["evaluation"] = call(model.eval(), leaves).detach()
    return {name: value.double().clone() for name, value in found.items()}


def done(edit: str, model: nn.Module, where: float, counts: Counter) -> Any:
    """Do it at the first candidate from there on where there is something to do."""
    paths = candidates(model)
    first = int(where * len(paths))
    return next(filter(None, (EDITS[edit](model, path, counts) for path in paths[first:] + paths[:first])), None)


class Outcomes(NamedTuple):
    """What a network gave after edits, what its plain twin did, and how copies of that do a rounding off."""

    ours: Named
    theirs: Named
    draws: Callable[[], Iterator[Named]]
    our_counts: Counter
    their_counts: Counter


def edited(
    model: nn.Module, call: Callable[[nn.Module, Named], Tensor], chosen: Chosen, training: bool, named: Named
) -> tuple[Named, Counter]:
    """The outcome of a model after edits, and the calls that they counted."""
    call(model.train(training), named)  # it has run, as a network has that someone opens
    model.train(training)
    counts: Counter = Counter()
    handles = []
    try:
        for number, (edit, where, seed) in enumerate(chosen):
            torch.manual_seed(seed + number)
            handles.append(done(edit, model, where, counts))
        return outcome(model, call, named), counts
    finally:
        for handle in reversed(handles):
            if hasattr(handle, "remove"):
                handle.remove()


def compose(name: str, chosen: Chosen, training: bool) -> Outcomes | None:
    """The outcomes and counts after the same edits at the same places; None where plain torch cannot do them."""
    torch.manual_seed(0)
    subject = SUBJECTS[name]()
    subject.ours.double(), subject.plain.double()
    missing, unexpected = subject.ours.load_state_dict(subject.plain.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("arch.") for key in missing)
    generator = torch.Generator().manual_seed(3)
    named = {key: torch.randn(shape, generator=generator, dtype=torch.float64) for key, shape in subject.shapes.items()}
    try:
        theirs, their_counts = edited(subject.plain, subject.twin, chosen, training, named)
    except (RuntimeError, TypeError, ValueError):
        return None

    def draws() -> Iterator[Named]:
        torch.manual_seed(0)
        fresh = SUBJECTS[name]().plain.double()
        for draw in range(ROUNDINGS):
            twin = copy.deepcopy(fresh)
            weights = {key: a_rounding_off(weight, draw) for key, weight in twin.named_parameters()}
            twin.load_state_dict(weights, strict=False)
            moved = {key: a_rounding_off(value, draw) for key, value in named.items()}
            yield edited(twin, subject.twin, chosen, training, moved)[0]

    ours, our_counts = edited(subject.ours, subject.call, chosen, training, named)
    return Outcomes(ours, theirs, draws, our_counts, their_counts)


def check(name: str, chosen: Chosen, training: bool) -> None:
    # Weights that are stacked have one `requires_grad`, as docs/drop-in.md says.
    chosen = [each for each in chosen if "frozen" not in each[0] or name not in STACKED or "norm" in each[0]]
    found = compose(name, chosen, training)
    if found is None:
        return
    ours, theirs = found.ours, found.theirs
    assert found.our_counts == found.their_counts
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    shaped = {key: value for key, value in ours.items() if value.shape == theirs[key].shape}
    for key in ours.keys() - shaped.keys():  # one has no gradient, the other zeros
        assert not ours[key].any() and not theirs[key].any(), key
    expected = {key: theirs[key] for key in shaped}
    largest = max(1.0, *(float(value.abs().max()) for value in expected.values() if value.numel()))
    # Where it is more than four roundings off: what do as many do to plain torch? Each further draw allows more.
    moved, missed = expected, None
    for draw in itertools.chain([expected], found.draws()):
        moved = furthest([moved, draw], expected)
        try:
            return assert_all_within(shaped, moved, expected, terms=largest)
        except AssertionError as error:
            missed = error
    raise missed


def test_there_are_many_edits() -> None:
    assert len(EDITS) > 100


@pytest.mark.parametrize("name", SUBJECTS)
def test_untouched(name: str) -> None:
    check(name, [], True)


@pytest.mark.parametrize("edit", EDITS)
def test_each_edit_alone(edit: str) -> None:
    """Of one of the layers and networks, which turn with the edit."""
    turn = list(EDITS).index(edit)
    check(list(SUBJECTS)[turn % len(SUBJECTS)], [(edit, 0.37 * turn % 1, turn)], turn % 4 != 0)


@settings(max_examples=EXAMPLES)
@given(
    st.sampled_from(list(SUBJECTS)),
    st.lists(
        st.tuples(st.sampled_from(list(EDITS)), st.floats(0, 1, exclude_max=True), st.integers(0, 99)), max_size=4
    ),
    st.booleans(),
)
def test_compositions(name: str, chosen: Chosen, training: bool) -> None:
    check(name, chosen, training)
