"""The supernet: the whole network against the oracle, spaces of every form, one path, keys, refusals."""

from __future__ import annotations

from collections.abc import Iterator

import nn_oracle as oracle
import pytest
import torch
from test_nn_cell import counted
from torch import Tensor

from fastdarts import use_backend
from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError
from fastdarts.nn import Supernet
from fastdarts.spaces import define_space, published, random_genotype, space, space_names

TINY = define_space("three", ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3"), nodes=2)


@pytest.fixture(autouse=True, params=["reference", "auto"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test in plain torch and, where the native core is there, on the fused engine."""
    with use_backend(request.param):
        yield


def by_hand(net: Supernet, named: oracle.Named) -> Tensor:
    """The network of a supernet, from its parameters' names alone."""

    def stem_norm(x: Tensor, key: str) -> Tensor:
        return oracle.normalised(x, named, key)

    if "stem.0.weight" in named:
        older = newer = stem_norm(oracle.conv(named["x"], named["stem.0.weight"]), "stem.1")
    else:
        x = stem_norm(oracle.conv(named["x"], named["stem0.0.weight"], (2, 2)), "stem0.1")
        older = stem_norm(oracle.conv(oracle.relu(x), named["stem0.3.weight"], (2, 2)), "stem0.4")
        newer = stem_norm(oracle.conv(oracle.relu(older), named["stem1.1.weight"], (2, 2)), "stem1.2")
    reduction_prev = "stem.0.weight" not in named
    for layer, (key, kind) in enumerate(zip(net.space.keys(net.layers), net.space.kinds(net.layers), strict=True)):
        cell = net.space.cell(key, net.layers)
        rows = zip(named[f"arch.alphas.{key}"], cell.counts, strict=True)
        weights = torch.stack([oracle.softmax(alpha, count) for alpha, count in rows])
        betas = named.get(f"arch.betas.{key}")
        if betas is not None:
            betas = torch.cat([oracle.softmax(betas[list(cell.into(n))], len(cell.into(n))) for n in cell.states])
        new = oracle.cell(
            cell,
            older,
            newer,
            weights,
            betas,
            named,
            f"cells.{layer}.",
            reduction=kind == "reduce",
            reduction_prev=reduction_prev,
            partial=net.partial,
        )
        older, newer, reduction_prev = newer, new, kind == "reduce"
    features = newer.mean((2, 3))
    return features @ named["classifier.weight"].T + named["classifier.bias"]


NETWORKS = {
    "darts": lambda: Supernet(space("darts"), channels=2, layers=3, classes=3),
    "pc-darts": lambda: Supernet(space("darts"), channels=4, layers=3, classes=2, partial=2),
    "robustdarts s1": lambda: Supernet(space("s1"), channels=2, layers=3, in_channels=1),
    "amended, unshared": lambda: Supernet(space("amended-s2"), channels=2, layers=4),
    "imagenet stem": lambda: Supernet(TINY, channels=1, layers=2, stem="imagenet"),
    "edges without partial channels": lambda: Supernet(TINY, channels=3, layers=1, edge_normalisation=True),
    "partial channels without edges": lambda: Supernet(TINY, channels=2, layers=2, partial=2, edge_normalisation=False),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_supernet_is_the_papers(name: str) -> None:
    net = NETWORKS[name]()
    inputs = {"x": oracle.images(3, net.in_channels, 11, 6), **oracle.weights_of(net)}
    oracle.assert_formula(oracle.called(net, "x"), lambda named: by_hand(net, named), inputs)


def test_supernet_in_float32_rounds_as_plain_torch() -> None:
    net = Supernet(TINY, channels=4, layers=3, partial=2)
    inputs = {"x": oracle.images(4, 3, 12, 12), **oracle.weights_of(net)}

    def plain(named: oracle.Named) -> torch.Tensor:
        return by_hand(net, named)

    oracle.assert_rounding(oracle.called(net, "x"), plain, inputs, eager=plain)


def test_one_seed_one_network_as_the_peers() -> None:
    for network, channels, partial in ((darts.Network, 4, 1), (pcdarts.Network, 8, 4)):
        torch.manual_seed(7)
        peer = network(channels, 5, 4, torch.nn.CrossEntropyLoss())
        torch.manual_seed(7)
        net = Supernet(space("darts"), channels=channels, layers=4, classes=5, partial=partial)
        own = net.state_dict()
        assert list(own)[: len(peer.state_dict())] == list(peer.state_dict())
        assert all(torch.equal(own[key], value) for key, value in peer.state_dict().items())
        pairs = zip(net.arch_parameters(), peer.arch_parameters(), strict=True)
        assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
        x = torch.randn(2, 3, 8, 8)
        assert torch.equal(net(x), peer(x))
        assert darts.to_genotype(peer.genotype()) == net.genotype()


def test_parameters_are_of_one_level_each() -> None:
    net = Supernet(space("darts"), channels=4, layers=2, partial=2)
    arch, weights = net.arch_parameters(), net.weight_parameters()
    assert [list(p.shape) for p in arch] == [[14, 8], [14, 8], [14], [14]]
    assert {id(p) for p in arch}.isdisjoint(map(id, weights)) and len(arch) + len(weights) == len(
        list(net.parameters())
    )
    assert [key for key in net.state_dict() if "arch" in key] == [
        f"arch.{kind}.{key}" for kind in ("alphas", "betas") for key in ("normal", "reduce")
    ]


@pytest.mark.parametrize("name", ["s1", "s3", "amended-s1"])
def test_padding_is_masked_from_start_to_finish(name: str) -> None:
    cells = space(name)
    net = Supernet(cells, channels=2, layers=3, alpha_scale=1.0)
    net(torch.randn(2, 3, 6, 6)).square().sum().backward()
    for key, weights in net.mixing_weights().items():
        counts = torch.tensor(cells.cell(key, 3).counts)[:, None]
        beyond = torch.arange(weights.shape[1]) >= counts
        alphas = net.arch.alphas[key]
        assert not weights[beyond].any() and not alphas[beyond].any()
        assert torch.allclose(weights.sum(1), torch.ones(len(weights)))
        assert alphas.grad is not None and not alphas.grad[beyond].any()


def test_uneven_space_of_ones_own_masks_its_padding() -> None:
    uneven = define_space(
        "uneven", {(0, 2): ("skip_connect",), (1, 2): ("none", "sep_conv_3x3", "max_pool_3x3")}, keep=1
    )
    net = Supernet(uneven, channels=2, layers=3, alpha_scale=1.0)
    net(torch.randn(2, 3, 5, 5)).square().sum().backward()
    alphas = net.arch.alphas["normal"]
    assert alphas.shape == (2, 3) and alphas[0, 1:].tolist() == [0, 0]
    assert alphas.grad[0].tolist() == [0, 0, 0] and alphas.grad[1].all()
    assert net.mixing_weights()["normal"][0].tolist() == [1, 0, 0]
    net.double()
    assert net.mixing_weights()["normal"].dtype == torch.float64


@pytest.mark.parametrize("partial", [1, 2])
def test_one_path_equals_the_one_hot_supernet_and_runs_nothing_else(partial: int) -> None:
    cells = space("darts")
    net = Supernet(cells, channels=4, layers=3, partial=partial)
    genotype = random_genotype(cells, 3, layers=3)
    path = net.one_path(genotype)
    one_hot, edges = {}, {}
    for key, chosen in path.items():
        one_hot[key] = torch.zeros_like(net.arch.alphas[key])
        for edge, indices in enumerate(chosen):
            one_hot[key][edge, list(indices)] = 1.0
        # An edge that does not exist has no bypass either.
        used = torch.tensor([float(bool(indices)) for indices in chosen])
        edges[key] = used if partial == 1 else net.edge_weights()[key] * used
    x = torch.randn(2, 3, 9, 7)
    torch.testing.assert_close(net(x, active=path), net(x, weights=one_hot, edge_weights=edges))
    with use_backend("reference"):
        expected = net(x, weights=one_hot, edge_weights=edges)
        with counted(net) as calls:
            found = net(x, active=path)
        assert torch.equal(found, expected)
        assert torch.equal(net(x, weights=one_hot, active=path), expected)
    assert len(calls) == 3 * 8 and set(calls.values()) == {1}
    cell = cells.normal
    named = {
        (cell.edges[int(edge)].primitives[int(k)], cell.edges[int(edge)].source, cell.edges[int(edge)].node)
        for layer, _, edge, _, k in (name.removeprefix("cells.").split(".") for name in calls)
        if layer == "0"
    }
    assert named == set(genotype.edges("normal"))


def test_mixing_weights_of_the_callers_own() -> None:
    net = Supernet(TINY, channels=2, layers=3)
    x = torch.randn(2, 3, 6, 6)
    expected = net(x)
    assert torch.equal(net(x, weights=net.mixing_weights()), expected)
    rows = {key: list(weights.unbind()) for key, weights in net.mixing_weights().items()}
    assert torch.equal(net(x, weights=rows), expected)
    ones = {key: torch.ones(5) for key in ("normal", "reduce")}
    assert torch.allclose(net(x, edge_weights=ones), expected, rtol=0, atol=1e-6)
    assert not torch.equal(net(x, edge_weights={key: each * 2 for key, each in ones.items()}), expected)


def test_genotype_follows_alphas_and_betas() -> None:
    net = Supernet(space("darts"), channels=4, layers=2, partial=2)
    with torch.no_grad():
        for alphas in net.arch.alphas.values():
            alphas.zero_()[:, 4] = 1.0
        for betas in net.arch.betas.values():
            betas.zero_()
        net.arch.betas["normal"][11:13] = 1.0
    genotype = net.genotype()
    assert genotype.normal.nodes[3] == (("sep_conv_3x3", 2), ("sep_conv_3x3", 3))
    assert genotype.reduce.nodes[3] == (("sep_conv_3x3", 0), ("sep_conv_3x3", 1))


def test_every_preset_builds_runs_and_derives() -> None:
    for name in space_names():
        cells = space(name)
        net = Supernet(cells, channels=1, layers=3, classes=2)
        assert net(torch.randn(2, 3, 5, 4)).shape == (2, 2)
        cells.check(net.genotype(), 3)


def test_alpha_scale_zero_starts_all_candidates_equal() -> None:
    net = Supernet(space("amended-s2"), channels=1, layers=2, alpha_scale=0.0)
    assert all(torch.equal(w, torch.full_like(w, 0.5)) for w in net.mixing_weights().values())


def test_a_single_pixel_and_a_single_image() -> None:
    net = Supernet(TINY, channels=2, layers=3)
    assert net(torch.randn(2, 3, 1, 1)).isfinite().all()
    assert net(torch.randn(1, 3, 5, 5)).isfinite().all()
    assert net.eval()(torch.randn(1, 3, 1, 1)).isfinite().all()
    before = {key: value.clone() for key, value in net.train().state_dict().items()}
    with pytest.raises(UserError, match=r"Supernet: one image with a map of 1x1.*use a larger batch or image"):
        net(torch.randn(1, 3, 4, 3))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


REFUSED = {
    "partial": ({"channels": 6, "partial": 4}, "partial is 4 and does not divide 6 channels"),
    "classes": ({"classes": 0}, "classes is 0; expected at least 1"),
    "layers": ({"layers": 0}, "0 layers"),
    "channels": ({"channels": 0}, "channels is 0"),
    "images": ({"in_channels": 0}, "in_channels is 0"),
    "stem": ({"stem": "mnist"}, "stem is 'mnist'; expected one of cifar, imagenet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_supernet_refuses(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(UserError, match=message):
        Supernet(TINY, **arguments)


def test_forward_refuses() -> None:
    net = Supernet(TINY, channels=2, layers=3)
    x = torch.randn(2, 3, 6, 6)
    with pytest.raises(UserError, match=r"shape \[2, 1, 6, 6\]; expected \[N, 3, H, W\]"):
        net(x[:, :1])
    with pytest.raises(UserError, match=r"the input is empty, shape \[0, 3, 6, 6\]"):
        net(x[:0])
    with pytest.raises(UserError, match="weights lack reduce; expected the keys normal, reduce, reduce"):
        net(x, weights={"normal": torch.ones(5, 4)})
    with pytest.raises(UserError, match=r"edge_weights has shape \[4\]"):
        net(x, edge_weights={"normal": torch.ones(4), "reduce": torch.ones(4)})
    with pytest.raises(TypeError, match="expected a Space"):
        Supernet("darts")


def test_one_path_refuses_a_genotype_of_another_space() -> None:
    net = Supernet(space("s2"), channels=2, layers=3)
    with pytest.raises(UserError, match="dil_conv_3x3 on edge"):
        net.one_path(published("DARTS_V2"))
    with pytest.raises(UserError, match="cells"):
        net.one_path(random_genotype(space("amended-s2"), 0, layers=3))
