"""What regularises a supernet in the search: auxiliary head, dropouts and drop-path."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import nn_oracle as oracle
import pytest
import torch
from scipy.stats import binomtest
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts import current_backend, use_backend
from fastdarts.errors import UserError
from fastdarts.nn import Cell, MixedOp, Supernet, fused
from fastdarts.spaces import CellSpace, Edge, define_space, space

DARTS = space("darts").normal
TINY = define_space("tiny", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), nodes=2, layers=3)
NAMES = TINY.normal.edges[0].primitives
SEED = 11


@pytest.fixture(autouse=True, params=["reference", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in plain torch and, where the native core is there, on the fused engine."""
    with use_backend(request.param):
        yield


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the layers have said of plain torch since the last question."""
    fused._say.cache_clear()

    def messages() -> list[str]:
        found = [record.message for record in caplog.records if "plain torch" in record.message]
        caplog.clear()
        return found

    with caplog.at_level(logging.WARNING, logger="fastdarts"):
        yield messages
    fused._say.cache_clear()


def seeded(function: Callable[[oracle.Named], Tensor]) -> Callable[[oracle.Named], Tensor]:
    """The function from one state of torch's generator."""

    def call(named: oracle.Named) -> Tensor:
        torch.manual_seed(SEED)
        return function(named)

    return call


def untouched() -> bool:
    """Whether nothing was drawn since the generator was seeded with SEED."""
    return torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(SEED).get_state())


def head_by_hand(x: Tensor, named: oracle.Named, prefix: str) -> Tensor:
    """The CIFAR head on a map of 8x8: means of 5x5 at stride 3, of the pixels inside."""
    x = oracle.relu(x)
    corners = [x[:, :, i : i + 5, j : j + 5].mean((2, 3)) for i in (0, 3) for j in (0, 3)]
    y = torch.stack(corners, -1).unflatten(-1, (2, 2))
    y = oracle.normalised(oracle.conv(y, named[f"{prefix}.features.2.weight"]), named, f"{prefix}.features.3")
    y = torch.einsum("nchw,ochw->no", oracle.relu(y), named[f"{prefix}.features.5.weight"])[:, :, None, None]
    y = oracle.relu(oracle.normalised(y, named, f"{prefix}.features.6"))[:, :, 0, 0]
    return y @ named[f"{prefix}.classifier.weight"].T + named[f"{prefix}.classifier.bias"]


def test_the_auxiliary_head_classifies_what_its_cell_gives() -> None:
    net = Supernet(TINY, channels=2, layers=1, classes=3, auxiliary=True)
    x = oracle.images(3, 3, 16, 16)
    both = nn.ModuleDict({"net": net})
    both.forward = lambda x: torch.cat([net(x), net.auxiliary_logits], 1)

    def by_hand(named: oracle.Named) -> Tensor:
        own = {name.removeprefix("net."): value for name, value in named.items()}
        stem = oracle.normalised(oracle.conv(own["x"], own["stem.0.weight"]), own, "stem.1")
        (key,) = net.space.keys(1)
        cell = TINY.cell(key, 1)
        weights = torch.stack([oracle.softmax(row, len(NAMES)) for row in own[f"arch.alphas.{key}"]])
        reduction = net.cells[0].reduction
        y = oracle.cell(
            cell, stem, stem, weights, None, own, "cells.0.", reduction=reduction, reduction_prev=False, partial=1
        )
        logits = y.mean((2, 3)) @ own["classifier.weight"].T + own["classifier.bias"]
        return torch.cat([logits, head_by_hand(y, own, "auxiliary_head")], 1)

    assert net.cells[0].reduction, "the only cell of a network halves 16x16 to the head's 8x8"
    inputs = {"x": x, **{f"net.{name}": value for name, value in oracle.weights_of(net).items()}}
    oracle.assert_formula(oracle.called(both, "x"), by_hand, inputs)


@pytest.mark.parametrize(("layers", "place"), [(1, 0), (3, 2), (5, 3), (8, 5)])
def test_the_head_stands_where_the_derived_networks_does(layers: int, place: int) -> None:
    net = Supernet(TINY, channels=2, layers=layers, auxiliary=True)
    seen: dict[str, Any] = {}
    net.cells[place].register_forward_hook(lambda _m, _x, y: seen.update(cell=y))
    net.auxiliary_head.register_forward_hook(lambda _m, x, y: seen.update(given=x[0], logits=y))
    net(torch.randn(2, 3, 16, 16))
    assert torch.equal(seen["given"], seen["cell"]) and net.auxiliary_logits is seen["logits"]
    assert net.auxiliary_logits.shape == (2, 10)
    net.auxiliary_logits.sum().backward()
    reached = [any(p.grad is not None for p in cell.parameters()) for cell in net.cells]
    assert reached == [layer <= place for layer in range(layers)]
    assert all(alphas.grad is not None for key, alphas in net.arch.alphas.items() if key in net._keys[: place + 1])


def test_the_head_is_there_in_training_only_and_is_no_burden() -> None:
    net = Supernet(TINY, channels=2, auxiliary=True)
    x = torch.randn(2, 3, 8, 8)
    assert net.auxiliary_logits is None
    net(x)
    assert net.auxiliary_logits.requires_grad
    twin = copy.deepcopy(net)
    assert twin.auxiliary_logits is None and net.auxiliary_logits is not None
    assert all(torch.equal(*pair) for pair in zip(net.state_dict().values(), twin.state_dict().values(), strict=True))
    net.eval()
    net(x)
    assert net.auxiliary_logits is None
    bare = Supernet(TINY, channels=2)
    bare(x)
    assert bare.auxiliary_logits is None
    own = [name for name in net.state_dict() if not name.startswith("auxiliary_head.")]
    assert own == list(bare.state_dict()), "the head adds keys and changes none"
    names = {name for name, _ in net.named_parameters() if name.startswith("auxiliary_head.")}
    assert names and len(net.weight_parameters()) == len(bare.weight_parameters()) + len(names)


def test_the_imagenet_stem_has_the_imagenet_head() -> None:
    net = Supernet(TINY, channels=2, layers=2, auxiliary=True, stem="imagenet")
    net(torch.randn(2, 3, 64, 64))
    assert type(net.auxiliary_head).__name__ == "AuxiliaryHeadImageNet" and net.auxiliary_logits.shape == (2, 10)


def test_dropout_drops_pooled_features_and_scales_the_others() -> None:
    net = Supernet(TINY, channels=4, layers=1, classes=16, dropout=0.25).double()
    with torch.no_grad():
        net.classifier.weight.copy_(torch.eye(16))
        net.classifier.bias.zero_()
    x = oracle.images(8, 3, 6, 6)
    net.dropout = 0.0
    torch.manual_seed(SEED)
    whole = net(x)
    assert untouched(), "without dropout nothing is drawn"
    net.dropout = 0.25
    dropped = torch.stack([net(x) for _ in range(8)]).detach()
    lost = dropped == 0
    expected = (whole / 0.75).expand_as(dropped)
    assert_within("kept", dropped[~lost], expected[~lost], expected[~lost])
    assert binomtest(int(lost.sum()), lost.numel(), 0.25).pvalue > 1e-3
    net.eval()
    torch.manual_seed(SEED)
    net(x)
    assert untouched()


def cell_by_hand(cell: Cell, *, path: float, skip: float) -> Callable[[oracle.Named], Tensor]:
    """A cell whose edges, and elements after identities, are dropped; drawn edge by edge, elements first."""

    def mixed(x: Tensor, row: Tensor, stride: int, names: tuple[str, ...], named: oracle.Named, e: int) -> Tensor:
        terms = []
        for k, name in enumerate(names):
            y = oracle.primitive(name, x, stride, named, f"_ops.{e}._ops.{k}")
            if name == "skip_connect" and stride == 1 and skip:
                y = y * torch.empty(x.shape, dtype=x.dtype).bernoulli_(1 - skip) / (1 - skip)
            terms.append(row[k] * y)
        return torch.stack(terms).sum(0)

    def by_hand(named: oracle.Named) -> Tensor:
        states = [
            oracle.relu_conv_bn(named["s0"], named, "preprocess0"),
            oracle.relu_conv_bn(named["s1"], named, "preprocess1"),
        ]
        for node in cell.space.states:
            terms = []
            for e in cell.space.into(node):
                edge = cell.space.edges[e]
                stride = 2 if cell.reduction and edge.source < 2 else 1
                y = mixed(states[edge.source], named["weights"][e], stride, edge.primitives, named, e)
                if path:
                    y = y * torch.empty(len(y), 1, 1, 1, dtype=y.dtype).bernoulli_(1 - path) / (1 - path)
                terms.append(y)
            states.append(torch.stack(terms).sum(0))
        return torch.cat([states[node] for node in cell.space.concat], 1)

    return by_hand


def cell_inputs(cell: Cell, n: int = 4) -> dict[str, Tensor]:
    edges, width = len(cell.space.edges), cell.space.width
    return {
        "s0": oracle.images(n, cell.c_prev_prev, 5, 4),
        "s1": oracle.images(n, cell.c_prev, 5, 4, seed=1),
        "weights": oracle.images(edges, width, 1, 1, seed=2).flatten(1).softmax(1),
        **oracle.weights_of(cell),
    }


@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduce"])
@pytest.mark.parametrize(("path", "skip"), [(0.4, 0.0), (0.0, 0.4), (0.3, 0.6)], ids=str)
def test_cell_drops_edges_and_elements_as_drawn(path: float, skip: float, reduction: bool) -> None:
    cell = Cell(DARTS, 3, 5, 2, reduction=reduction, reduction_prev=False)
    layer = oracle.called(cell, "s0", "s1", "weights", drop_path_prob=path, skip_dropout=skip)
    oracle.assert_formula(seeded(layer), seeded(cell_by_hand(cell, path=path, skip=skip)), cell_inputs(cell))


def test_cell_that_drops_rounds_as_plain_torch() -> None:
    cell = Cell(TINY.normal, 4, 4, 4, reduction=False, reduction_prev=False)
    layer = seeded(oracle.called(cell, "s0", "s1", "weights", drop_path_prob=0.3, skip_dropout=0.3))
    plain = seeded(cell_by_hand(cell, path=0.3, skip=0.3))
    fused_engine = current_backend() != "reference"
    # One mask for all dtypes: a uniform number that rounds across the probability would drop another element.
    draws = [cell_inputs(cell)]
    masks = [drawn_mask(dtype) for dtype in (torch.float32, torch.float64)]
    assert torch.equal(*masks)
    oracle.assert_rounding(layer, plain, *draws, eager=oracle.in_plain_torch(layer) if fused_engine else plain)


def drawn_mask(dtype: torch.dtype) -> Tensor:
    torch.manual_seed(SEED)
    return torch.empty(4, 4, 5, 4, dtype=dtype).bernoulli_(0.7).bool()


ONE_EDGE = CellSpace((Edge(0, 2, ("skip_connect", "sep_conv_3x3")),), nodes=1, concat=(2,))


def test_an_edge_of_an_image_is_dropped_whole_identity_and_all() -> None:
    cell = Cell(ONE_EDGE, 4, 4, 4, reduction=False, reduction_prev=False)
    s0, s1 = torch.randn(64, 4, 3, 3), torch.randn(64, 4, 3, 3)
    weights = torch.tensor([[0.7, 0.3]])
    whole = cell(s0, s1, weights)
    found = torch.cat([cell(s0, s1, weights, drop_path_prob=0.25) for _ in range(8)]).detach()
    gone = (found == 0).flatten(1).all(1)
    assert binomtest(int(gone.sum()), len(gone), 0.25).pvalue > 1e-3
    kept = (whole / 0.75).repeat(8, 1, 1, 1)[~gone].detach()
    assert_within("kept", found[~gone], kept, kept.double(), terms=100 * float(kept.abs().max()))


def test_noise_and_masks_are_drawn_edge_by_edge_as_robustdarts_draws_them() -> None:
    """S4: an edge's noise, its mask, then the next edge's; by hand from the generator, nothing of the cell's."""
    noise = define_space("noise", ("noise",), nodes=2).normal
    cell = Cell(noise, 4, 4, 4, reduction=False, reduction_prev=False)
    states = torch.randn(2, 6, 4, 3, 5)
    torch.manual_seed(SEED)
    found = cell(*states, torch.ones(5, 1), drop_path_prob=0.4)
    torch.manual_seed(SEED)
    nodes = []
    for edges in (2, 3):
        terms = []
        for _ in range(edges):
            drawn = torch.empty(6, 4, 3, 5).normal_()
            terms.append(drawn / 0.6 * torch.empty(6, 1, 1, 1).bernoulli_(0.6))
        nodes.append(torch.stack(terms).double().sum(0))
    expected = torch.cat(nodes, dim=1)
    assert_within("output", found.detach(), expected.float(), expected, terms=100.0)


@pytest.mark.parametrize("active", [None, (0,), (1,), (0, 1)], ids=str)
@pytest.mark.parametrize(("partial", "stride"), [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)])
def test_mixed_op_drops_elements_after_identities_only(
    partial: int, stride: int, active: tuple[int, ...] | None
) -> None:
    names = ("skip_connect", "sep_conv_3x3")
    op = MixedOp(8, stride, names, partial=partial)
    wrapped = nn.ModuleDict({"op": op})
    wrapped.forward = lambda x, weights: op(x, weights, active, skip_dropout=0.4)

    def by_hand(named: oracle.Named) -> Tensor:
        x, sampled = named["x"], 8 // partial
        runs = torch.tensor([1.0 if active is None or k in active else 0.0 for k in range(2)], dtype=x.dtype)
        weights = named["weights"] * runs
        if stride == 2 or not runs[0]:
            return oracle.mixed(x, weights, stride, names, named, "op", partial)
        # The identity's map enters as a candidate that gives back x; what is dropped of it is taken away again.
        mask = torch.empty_like(x[:, :sampled]).bernoulli_(0.6) / 0.6
        lost = torch.cat([x[:, :sampled] * (mask - 1), torch.zeros_like(x[:, sampled:])], 1) * weights[0]
        order = [group * sampled + place for place in range(sampled) for group in range(partial)]
        return oracle.mixed(x, weights, stride, names, named, "op", partial) + lost[:, order]

    inputs = {
        "x": oracle.images(2, 8, 5, 4),
        "weights": torch.tensor([0.3, 0.7], dtype=torch.float64),
        **{f"op.{name}": value for name, value in oracle.weights_of(op).items()},
    }
    oracle.assert_formula(seeded(oracle.called(wrapped, "x", "weights")), seeded(by_hand), inputs)
    if stride == 2 or active == (1,):
        torch.manual_seed(SEED)
        op(inputs["x"], inputs["weights"], active, skip_dropout=0.4)
        assert untouched()


def test_evaluation_drops_nothing() -> None:
    net = Supernet(TINY, channels=4, partial=2, dropout=0.5, skip_dropout=0.5, channel_sampling=True)
    net.drop_path_prob = 0.5
    plain = Supernet(TINY, channels=4, partial=2, channel_sampling=True)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(2, 3, 8, 8)
    torch.manual_seed(SEED)
    assert torch.equal(net.eval()(x), plain.eval()(x)) and untouched()


def test_the_engine_stays_but_where_it_cannot_and_says_so_once(said: Callable[[], list[str]]) -> None:
    net = Supernet(TINY, channels=4, partial=2, auxiliary=True, dropout=0.3, channel_sampling=True)
    fused_engine = current_backend() != "reference"
    x = torch.randn(2, 3, 8, 8)
    net(x)
    assert not said()
    for name, words in (("drop_path_prob", "whole edges"), ("skip_dropout", "elements of skips")):
        setattr(net, name, 0.2)
        net(x)
        net(x)
        expected = f"Cell: plain torch ({words} are dropped: each edge runs on its own)"
        assert said() == ([expected] if fused_engine else [])
        setattr(net, name, 0.0)
    net(x)
    assert not said(), "the mixed operations stay on the engine, and so do the cells from the next epoch on"


@pytest.mark.parametrize("name", ["dropout", "skip_dropout", "drop_path_prob"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")], ids=str)
def test_what_is_no_probability_is_refused(name: str, value: float) -> None:
    net = Supernet(TINY, channels=2, layers=1)
    with pytest.raises(UserError, match=f"{name} is {value}; expected a probability from 0 to below 1"):
        setattr(net, name, value)
    assert getattr(net, name) == 0.0


def test_other_settings_are_refused_before_anything_is_built() -> None:
    with pytest.raises(UserError, match="dropout is 2"):
        Supernet(TINY, channels=2, layers=1, dropout=2)
    with pytest.raises(TypeError, match="skip_dropout is True of type bool; expected a float"):
        Supernet(TINY, channels=2, layers=1, skip_dropout=True)
