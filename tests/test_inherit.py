"""Weights of a search network in the network derived from it."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_within
from torch import Tensor, nn

from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.spaces import Genotype, define_space, parse_genotype

# No pools: a searched one has a batch norm behind it, a derived one has none.
GENOTYPE = parse_genotype(
    "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 0), ('sep_conv_5x5', 2)], "
    "normal_concat=[2, 3], reduce=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 2), "
    "('sep_conv_3x3', 1)], reduce_concat=[2, 3])"
)


def trained(network: nn.Module) -> nn.Module:
    """With weights and statistics that nobody begins with."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    network(torch.randn(8, 3, 9, 9))
    return network.eval()


@torch.no_grad()
def path_of(network: nn.Module, genotype: Genotype, images: Tensor) -> Tensor:
    """What the search network gives where the genotype's operators alone run, each with weight one."""
    older = newer = network.stem(images)
    for cell in network.cells:
        kept = {(source, node): op for op, source, node in genotype.edges("reduce" if cell.reduction else "normal")}
        weights = torch.zeros(len(cell.space.edges), cell.space.width, dtype=images.dtype)
        for row, edge in zip(weights, cell.space.edges, strict=True):
            if (edge.source, edge.node) in kept:
                row[edge.primitives.index(kept[edge.source, edge.node])] = 1.0
        older, newer = newer, cell(older, newer, weights)
    return network.classifier(newer.mean((2, 3)))


def test_a_derived_network_computes_what_its_path_did() -> None:
    searched = trained(darts.Network(4, 10, 3, nn.CrossEntropyLoss(), steps=2, multiplier=2)).double()
    derived = darts.NetworkCIFAR(4, 10, 3, True, GENOTYPE).double().eval()
    left = darts.inherit_weights(derived, searched)
    affine = {
        name for name, _ in derived.named_parameters() if name.startswith("cells") and name not in state(searched)
    }
    assert {key for key in left if not key.startswith("auxiliary_head")} <= {*affine, *scales(derived)}
    assert any(key.startswith("auxiliary_head") for key in left)
    images = torch.randn(3, 3, 9, 9, dtype=torch.float64)
    expected = path_of(searched, GENOTYPE, images)
    # Two ways through three cells: what one multiplies by one the other leaves alone.
    assert_within("logits", derived(images)[0].detach(), expected, expected, terms=100.0)
    assert torch.equal(derived.stem[0].weight, searched.stem[0].weight)
    assert derived.stem[0].weight is not searched.stem[0].weight


def state(network: nn.Module) -> set[str]:
    return set(network.state_dict())


def scales(network: nn.Module) -> list[str]:
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    return [f"{name}.{part}" for name in norms for part in ("weight", "bias")]


def test_a_supernet_of_own_cells_gives_too() -> None:
    own = define_space("own", ("skip_connect", "sep_conv_3x3"), nodes=1, shared=False, layers=3)
    searched = trained(Supernet(own, channels=4))
    text = ", ".join(f"cell{n}=[('sep_conv_3x3', 0), ('skip_connect', 1)], cell{n}_concat=[2]" for n in range(3))
    derived = darts.NetworkCIFAR(4, 10, 3, False, f"Genotype({text})")
    assert set(darts.inherit_weights(derived, searched)) == {*scales(derived)} - state(searched)
    key = "cells.1._ops.0.op.6.weight"
    assert torch.equal(derived.state_dict()[key], searched.state_dict()["cells.1._ops.0._ops.1.op.6.weight"])


@pytest.mark.parametrize(
    ("derived", "searched", "message"),
    [
        (lambda: (4, 10, 5), lambda: darts.Network(4, 10, 3, None), "5 cells that reduces in 1, 3; expected 3 cells"),
        (
            lambda: (8, 10, 3),
            lambda: darts.Network(4, 10, 3, None),
            r"stem\.0\.weight of the search network is \[12, 3",
        ),
        (lambda: (8, 10, 3), lambda: pcdarts.Network(8, 10, 3, None), r"_ops\.\d+\.op.*operators on part of the chann"),
        (lambda: (4, 9, 3), lambda: darts.Network(4, 10, 3, None), r"classifier\.weight of the search.*same.*classes"),
    ],
)
def test_networks_that_do_not_fit_are_left_alone(derived, searched, message: str) -> None:
    network = darts.NetworkCIFAR(*derived(), False, "DARTS_V2")
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(UserError, match=message):
        darts.inherit_weights(network, searched())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_a_genotype_of_another_space_is_named() -> None:
    own = define_space("own", ("skip_connect", "sep_conv_3x3"), layers=3)
    network = darts.NetworkCIFAR(4, 10, 3, False, "DARTS_V2")
    with pytest.raises(
        UserError, match="dil_conv_3x3 on edge 2 -> 5 of cell 0; expected one of skip_connect, sep_conv_3x3"
    ):
        darts.inherit_weights(network, Supernet(own, channels=4))
    chain = define_space("chain", {(0, 2): ["sep_conv_3x3"], (1, 2): ["sep_conv_3x3"]}, layers=3)
    with pytest.raises(
        UserError, match="on edge 0 -> 3 of cell 0; expected an edge that was searched; take the genotype"
    ):
        darts.inherit_weights(network, Supernet(chain, channels=4))
