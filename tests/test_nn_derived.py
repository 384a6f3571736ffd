"""The derived network against the oracle; heads, drop-path, stems, unshared cells, refusals."""

from __future__ import annotations

import nn_oracle as oracle
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fastdarts import reference
from fastdarts.errors import UserError
from fastdarts.nn import AuxiliaryHeadCIFAR, AuxiliaryHeadImageNet, DerivedCell, DerivedNetwork
from fastdarts.spaces import CellGenotype, Genotype, parse_genotype, published, random_genotype, space

DARTS = published("DARTS_V2")


def cell_by_hand(genotype: CellGenotype, named: oracle.Named, reduction: bool, reduction_prev: bool) -> Tensor:
    preprocess = oracle.factorised_reduce if reduction_prev else oracle.relu_conv_bn
    states = [preprocess(named["s0"], named, "preprocess0"), oracle.relu_conv_bn(named["s1"], named, "preprocess1")]
    index = 0
    for pairs in genotype.nodes:
        total = torch.zeros((), dtype=named["s0"].dtype)
        for name, source in pairs:
            stride = 2 if reduction and source < 2 else 1
            total = total + oracle.primitive(name, states[source], stride, named, f"_ops.{index}", pool_bn=False)
            index += 1
        states.append(total)
    return torch.cat([states[node] for node in genotype.concat], 1)


@pytest.mark.parametrize("name", ["DARTS_V1", "DARTS_V2", "PC_DARTS_cifar", "AmoebaNet", "NASNet"])
@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduce"])
def test_cell_is_the_genotypes(name: str, reduction: bool) -> None:
    genotype = published(name).reduce if reduction else published(name).normal
    for reduction_prev, older, newer in ((False, (5, 3), (5, 3)), (True, (9, 6), (5, 3))):
        cell = DerivedCell(genotype, 3, 4, 2, reduction=reduction, reduction_prev=reduction_prev)
        inputs = {
            "s0": oracle.images(2, 3, *older),
            "s1": oracle.images(2, 4, *newer, seed=1),
            **oracle.weights_of(cell),
        }
        oracle.assert_formula(
            oracle.called(cell, "s0", "s1"),
            lambda named, prev=reduction_prev: cell_by_hand(genotype, named, reduction, prev),
            inputs,
        )


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("size", [(8, 8), (13, 9), (1, 2), (33, 31)], ids=str)
def test_any_image_size(stem: str, size: tuple[int, int]) -> None:
    net = DerivedNetwork(DARTS, channels=4, layers=5, classes=3, in_channels=1, auxiliary=True, stem=stem)
    logits, auxiliary = net(torch.randn(2, 1, *size))
    assert logits.shape == auxiliary.shape == (2, 3) and logits.isfinite().all()
    (logits.sum() + auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    logits, auxiliary = net.eval()(torch.randn(2, 1, *size))
    assert logits.shape == (2, 3) and auxiliary is None


@pytest.mark.parametrize(("head", "size", "stride"), [(AuxiliaryHeadCIFAR, 8, 3), (AuxiliaryHeadImageNet, 7, 2)])
def test_auxiliary_head_pools_as_the_papers_at_their_size(head: type, size: int, stride: int) -> None:
    layer = head(4, 3).features[1]
    x = torch.randn(2, 4, size, size)
    assert torch.equal(layer(x), torch.nn.AvgPool2d(5, stride=stride, padding=0, count_include_pad=False)(x))
    for other in ((1, 1), (4, 6), (size, 5), (14, 14)):
        y = torch.randn(2, 4, *other)
        assert torch.equal(layer(y), F.adaptive_avg_pool2d(y, 2))


def test_auxiliary_head_sits_after_the_second_reduction_and_leaves_the_classifier_alone() -> None:
    torch.manual_seed(0)
    plain = DerivedNetwork(DARTS, channels=4, layers=3, classes=3)
    headed = DerivedNetwork(DARTS, channels=4, layers=3, classes=3, auxiliary=True)
    headed.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(plain(x)[0], headed(x)[0]) and plain(x)[1] is None
    assert headed.auxiliary_head.features[2].in_channels == headed.classifier.in_features == 64


def test_head_with_batch_norm_at_its_end_refuses_one_image() -> None:
    net = DerivedNetwork(DARTS, channels=2, layers=3, classes=3, auxiliary=True)
    with pytest.raises(UserError, match="AuxiliaryHeadCIFAR: a batch of 1 in training; expected at least 2"):
        net(torch.randn(1, 3, 32, 32))
    assert net.eval()(torch.randn(1, 3, 32, 32))[0].shape == (1, 3)
    imagenet = DerivedNetwork(DARTS, channels=2, layers=3, classes=3, auxiliary=True, stem="imagenet")
    assert imagenet(torch.randn(1, 3, 64, 64))[1].shape == (1, 3)


def test_drop_path_spares_identities_and_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    dropped: list[float] = []
    monkeypatch.setattr(reference, "drop_path", lambda x, probability: dropped.append(probability) or x)
    cell = DerivedCell(DARTS.normal, 4, 4, 4, reduction=False, reduction_prev=False)
    x = torch.randn(2, 4, 6, 6)
    cell(x, x, 0.3)
    assert dropped == [0.3] * (8 - DARTS.skips("normal"))
    dropped.clear()
    reduce = DerivedCell(DARTS.reduce, 4, 4, 4, reduction=True, reduction_prev=False)
    reduce(x, x, 0.3)
    strided = sum(1 for op, source, _ in DARTS.edges("reduce") if op == "skip_connect" and source < 2)
    assert len(dropped) == 8 - DARTS.skips("reduce") + strided
    dropped.clear()
    cell.eval()(x, x, 0.3)
    assert not dropped


def test_drop_path_prob_is_a_property_of_the_epoch() -> None:
    net = DerivedNetwork(DARTS, channels=4, layers=3, classes=3)
    x, state = torch.randn(4, 3, 8, 8), torch.get_rng_state()
    expected = net(x)[0]
    assert net.drop_path_prob == 0.0 and torch.equal(torch.get_rng_state(), state)
    net.drop_path_prob = 0.4
    dropped = []
    for _ in range(2):
        torch.manual_seed(3)
        dropped.append(net(x)[0])
    assert torch.equal(*dropped) and not torch.equal(dropped[0], expected)


def test_unshared_cells_bring_their_own_depth() -> None:
    genotype = random_genotype(space("amended-s2"), 1, layers=4)
    net = DerivedNetwork(genotype, channels=4, layers=20, classes=3)
    assert net.layers == len(net.cells) == 4
    assert [cell.genotype for cell in net.cells] == list(genotype.cells.values())
    assert [cell.reduction for cell in net.cells] == [False, True, True, False]
    assert net(torch.randn(2, 3, 9, 9))[0].shape == (2, 3)


def test_a_node_may_take_one_state_twice() -> None:
    pair = (("avg_pool_3x3", 0), ("avg_pool_3x3", 0))
    cell = DerivedCell(CellGenotype((pair,), (2,)), 2, 2, 2, reduction=False, reduction_prev=False)
    x = torch.randn(2, 2, 4, 4)
    once = F.avg_pool2d(cell.preprocess0(x), 3, 1, 1, count_include_pad=False)
    assert torch.equal(cell(x, x), once + once)


def test_the_meta_device_is_enough_to_count() -> None:
    with torch.device("meta"):
        net = DerivedNetwork(DARTS, channels=36, layers=20, classes=10)
    assert sum(parameter.numel() for parameter in net.parameters()) == 3_349_342


REFUSED = {
    "recurrent": (lambda: parse_genotype("Genotype(recurrent=[('tanh', 0)], concat=[1])"), {}, "the cells recurrent"),
    "nas-bench-201": (
        lambda: parse_genotype("|skip_connect~0|+|none~0|none~1|+|none~0|none~1|nor_conv_1x1~2|"),
        {},
        "the cells cell; expected cells normal and reduce",
    ),
    "no layers": (lambda: DARTS, {"layers": None}, "layers is not given"),
    "layers": (lambda: DARTS, {"layers": 0}, "layers is 0; expected at least 1"),
    "classes": (lambda: DARTS, {"classes": 0}, "classes is 0; expected at least 1"),
    "channels": (lambda: DARTS, {"channels": -1}, "channels is -1"),
    "stem": (lambda: DARTS, {"stem": "svhn"}, "stem is 'svhn'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_derived_network_refuses(name: str) -> None:
    genotype, arguments, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        DerivedNetwork(genotype(), **({"channels": 2, "layers": 3, "classes": 2} | arguments))


def test_wrong_inputs() -> None:
    with pytest.raises(TypeError, match="genotype is a str"):
        DerivedNetwork("DARTS_V2", channels=2, layers=3, classes=2)
    net = DerivedNetwork(Genotype(DARTS.cells), channels=2, layers=3, classes=2)
    with pytest.raises(UserError, match=r"DerivedNetwork: the input has shape \[2, 1, 8, 8\]"):
        net(torch.randn(2, 1, 8, 8))
    with pytest.raises(UserError, match="leaves batch norm one value per channel"):
        net(torch.randn(1, 3, 4, 4))
