"""Operations of one's own: in the peers' tables, as modules, as registered primitives; and what is refused."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import plain_peers as plain
import pytest
import torch
from test_nn_fused import engine_only
from tolerance import assert_all_within
from torch import Tensor, nn

from fastdarts import use_backend
from fastdarts._backend import native
from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError
from fastdarts.nn import MixedOp, SepConv, Supernet, build_op, import_primitives, primitives, register_primitive
from fastdarts.nn.known import Known, as_known, elsewhere
from fastdarts.plan import unsupported
from fastdarts.spaces import _primitives as names
from fastdarts.spaces import define_space, parse_genotype

pytestmark = pytest.mark.skipif(native() is None, reason="fastdarts._C is not built")


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tables and registries end with the test."""
    for module in (darts, pcdarts):
        monkeypatch.setattr(module, "OPS", dict(module.OPS))
        monkeypatch.setattr(module, "PRIMITIVES", list(module.PRIMITIVES))
    known, own = dict(names._KNOWN), dict(primitives.OWN)
    yield
    for table, before in ((names._KNOWN, known), (primitives.OWN, own)):
        table.clear()
        table.update(before)


class Dense(nn.Module):
    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.bn = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x).tanh())


def network(peer: Any, channels: int, layers: int = 2) -> nn.Module:
    return peer.Network(channels, 3, layers, nn.CrossEntropyLoss(), steps=2, multiplier=2)


def assert_as_reference(model: nn.Module, *inputs: Tensor) -> list[str]:
    """In float64 the engine gives the reference's numbers; what ran on it is given back."""
    model, inputs = model.double(), tuple(x.double() for x in inputs)
    found = {}
    for backend in ("reference", "auto"):
        model.zero_grad()
        with use_backend(backend), engine_only() if backend == "auto" else nullcontext([]) as calls:
            y = model(*inputs)
            y.square().sum().backward()
        found[backend] = {name: weight.grad for name, weight in model.named_parameters()} | {"y": y.detach()}
        found[backend] = {name: value.clone() for name, value in found[backend].items() if value is not None}
    ref64, own = found["reference"], found["auto"]
    scale = max(float(value.abs().max()) for value in ref64.values())
    assert_all_within(*({n: v.float() for n, v in each.items()} for each in (own, ref64)), ref64, terms=scale)
    return calls


@pytest.mark.parametrize(("peer", "channels"), [(darts, 2), (pcdarts, 4)], ids=["darts", "pcdarts"])
def test_an_operation_in_the_peers_table(peer: Any, channels: int) -> None:
    peer.OPS["dense"] = Dense
    peer.PRIMITIVES.append("dense")
    model = network(peer, channels)
    assert model.alphas_normal.shape == (5, 9) and isinstance(model.cells[0]._ops[0]._ops[8], Dense)
    assert "Cell" in assert_as_reference(model, torch.randn(2, 3, 6, 6))
    with torch.no_grad():
        for alpha in model.arch_parameters()[:2]:
            alpha[:, 8] = 5.0
    genotype = model.genotype()
    assert {op for op, _ in genotype.normal} == {"dense"}
    derived = darts.NetworkCIFAR(2, 3, 2, False, genotype)
    assert darts.OPS.keys() < peer.OPS.keys() or isinstance(derived.cells[0]._ops[0], Dense)
    assert derived(torch.randn(2, 3, 6, 6))[0].shape == (2, 3)


WINDOWS = [
    names.Primitive("sep_conv_9x9", "sep_conv", 9),
    names.Primitive("dil_conv_3x3_4", "dil_conv", 3, 4),
    names.Primitive("max_pool_9x9", "pool", 9),
]


@pytest.mark.parametrize("row", WINDOWS, ids=lambda row: row.name)
def test_a_row_in_the_table_of_primitives_is_all_that_one_takes(
    row: names.Primitive, caplog: pytest.LogCaptureFixture
) -> None:
    """A window without a kernel: that candidate runs in plain torch, its cell stays on the engine, one line says so."""
    names._KNOWN[row.name] = row
    wide = define_space("wide", (row.name, "skip_connect", "sep_conv_3x3"), nodes=2)
    assert f"no fused kernel for {row.name}" == unsupported(wide)
    with caplog.at_level(logging.WARNING, logger="fastdarts"):
        calls = assert_as_reference(Supernet(wide, channels=2, layers=3), torch.randn(2, 3, 12, 12))
    assert "Cell" in calls
    assert len([line for line in caplog.messages if "candidates run in plain torch" in line]) == 1


def test_a_table_of_ones_own() -> None:
    def loud(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Sequential(build_op("sep_conv_3x3", channels, stride, affine, False), nn.Hardtanh())

    darts.OPS = {**darts.OPS, "sep_conv_3x3": loud}
    model = network(darts, 2)
    assert isinstance(model.cells[0]._ops[0]._ops[4][1], nn.Hardtanh)
    assert "Cell" in assert_as_reference(model, torch.randn(2, 3, 6, 6))
    darts.PRIMITIVES = ["none", "missing"]
    with pytest.raises(UserError, match=r"missing.*add its constructor|unknown primitive 'missing'"):
        network(darts, 2)


def test_an_operation_appended_with_a_column_of_alpha() -> None:
    model = network(darts, 2)
    for cell in model.cells:
        for edge in cell._ops:
            edge._ops.append(nn.Sequential(Dense(edge.channels, edge.stride, False)))
    with pytest.raises(UserError, match=r"mixing weights of edge 0 have shape \[8\]; expected \[9\]"):
        model(torch.randn(2, 3, 6, 6))
    model.alphas_normal, model.alphas_reduce = (torch.randn(5, 9, dtype=torch.float64) for _ in range(2))
    assert "Cell" in assert_as_reference(model, torch.randn(2, 3, 6, 6))


def test_operations_are_deleted_as_p_darts_and_s1_do() -> None:
    """Weight k is of the k-th operation that is left, as with the peers' `zip`."""
    x, weights = torch.randn(2, 4, 5, 5, dtype=torch.float64), torch.rand(8, dtype=torch.float64)
    ours, theirs = darts.MixedOp(4, 1).double(), plain.MixedOp(4, 1, darts.PRIMITIVES).double()
    theirs.load_state_dict(ours.state_dict())
    for op in (ours, theirs):
        del op._ops[5], op._ops[2]
    with engine_only() as calls:
        found = ours(x, weights)
    expected = theirs(x, weights).detach()
    assert calls == ["MixedOp"]
    assert_all_within({"y": found.float()}, {"y": expected.float()}, {"y": expected})


def test_an_operation_that_stands_in_two_columns_has_the_gradients_of_both() -> None:
    model = Supernet(define_space("pair", ("sep_conv_3x3", "skip_connect", "dil_conv_3x3"), nodes=1), channels=2)
    for cell in model.cells:
        for edge in cell._ops:
            edge._ops[2] = edge._ops[0]
    assert "Cell" in assert_as_reference(model, torch.randn(2, 3, 12, 12))


class Switched(MixedOp):
    """P-DARTS' mixed operation: what its switches leave, a dropout after skips."""

    def __init__(self, channels: int, stride: int, switch: list[bool], p: float) -> None:
        built = []
        for on, name in zip(switch, darts.PRIMITIVES, strict=True):
            if on:
                op = darts.OPS[name](channels, stride, False)
                if "pool" in name:
                    op = nn.Sequential(op, nn.BatchNorm2d(channels, affine=False))
                if isinstance(op, darts.Identity) and p > 0:
                    op = nn.Sequential(op, nn.Dropout(p))
                built.append(op)
        super().__init__(channels, stride, built, stacked=False)


def test_a_mixed_operation_of_modules_as_p_darts_builds_it() -> None:
    op = Switched(4, 1, [True, False, True, True, True, False, True, False], 0.5).double()
    assert op.primitives == ("Zero", "Sequential", "Sequential", "SepConv", "DilConv")
    x, weights = torch.randn(2, 4, 6, 6, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    found = {}
    for backend in ("reference", "auto"):
        torch.manual_seed(0)
        with use_backend(backend):
            found[backend] = op(x, weights).detach()
    torch.manual_seed(1)
    assert not torch.allclose(op(x, weights), found["auto"])
    assert_all_within({"y": found["auto"].float()}, {"y": found["reference"].float()}, {"y": found["reference"]})


def test_a_registered_primitive_is_one_for_spaces_and_genotypes(caplog: pytest.LogCaptureFixture) -> None:
    register_primitive("dense", Dense)
    space = define_space("own", ["none", "skip_connect", "sep_conv_3x3", "dense"], nodes=2, concat=(2, 3))
    net = Supernet(space, channels=2, layers=2, classes=3)
    with caplog.at_level(logging.WARNING, "fastdarts"):
        assert "Cell" in assert_as_reference(net, torch.randn(2, 3, 6, 6))
    genotype = net.genotype()
    assert parse_genotype(str(genotype)) == genotype
    assert space.from_json(space.to_json()) == space
    for name, message in (("sep_conv_3x3", "is a primitive of fastdarts"), ("a b", "expected an identifier")):
        with pytest.raises(UserError, match=message):
            register_primitive(name, Dense)
    with pytest.raises(TypeError, match="build is a str; expected a function"):
        register_primitive("other", "Dense")


def test_modules_that_register_primitives_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["from torch import nn", "from fastdarts.nn import register_primitive"]
    lines += ["register_primitive('conv_of_mine', lambda c, stride, affine: nn.Conv2d(c, c, 1, stride))"]
    (tmp_path / "operations_of_mine.py").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    monkeypatch.setenv("FASTDARTS_IMPORT", "operations_of_mine")
    import_primitives()
    assert isinstance(build_op("conv_of_mine", 4, 2, False, True), nn.Conv2d)
    monkeypatch.setenv("FASTDARTS_IMPORT", "there_is_none")
    with pytest.raises(UserError, match="FASTDARTS_IMPORT names 'there_is_none', and there is no such module"):
        import_primitives()


class Wrong(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 1:]


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            Wrong(),
            r"MixedOp: Wrong, candidate 1 of edge 0, gives \[2, 4, 4, 5\]; expected a map of shape \[2, 4, 5, 5\]",
        ),
        (nn.ReLU(inplace=True), "MixedOp: ReLU, candidate 1 of edge 0, writes into its input.*inplace=False"),
    ],
)
def test_modules_that_cannot_be_mixed_are_named(module: nn.Module, message: str) -> None:
    op = MixedOp(4, 1, ["sep_conv_3x3", module])
    assert isinstance(op._ops[0], SepConv)
    with torch.no_grad(), pytest.raises(UserError, match=message):
        op(torch.randn(2, 4, 5, 5), torch.ones(2))


def test_a_layer_that_is_given_its_own_parameter_leaves_the_stack() -> None:
    op = MixedOp(4, 1, ["sep_conv_3x3", "dil_conv_3x3"])
    conv = op._ops[0].op[2]
    before = dict(op.state_dict())
    with torch.no_grad():
        conv.weight += 1
    assert torch.equal(op.state_dict()["_ops.0.op.2.weight"], before["_ops.0.op.2.weight"] + 0)
    assert [name for name, _ in op.named_parameters()] == ["_stack.source_0"]
    conv.weight.data = torch.ones(4, 4, 1, 1)
    assert (op.state_dict()["_ops.0.op.2.weight"] == 1).all() and not list(op._ops.parameters())
    with pytest.raises(UserError, match=r"set the layer's weight to a new nn\.Parameter"):
        conv.weight.data = torch.ones(3, 4, 1, 1)
    conv.weight = nn.Parameter(torch.zeros(4, 4, 1, 1))
    assert type(conv) is nn.Conv2d and [name for name, _ in op._ops.named_parameters()] == ["0.op.2.weight"]
    op._ops[1].op[3].momentum = op._ops[1].op[3].momentum
    with engine_only() as calls:
        op(torch.randn(2, 4, 5, 5), torch.rand(2)).square().sum().backward()
    assert calls == ["MixedOp"] and conv.weight.grad is not None
    assert list(op.state_dict()) == list(before)


@pytest.mark.parametrize("name", ["sep_conv_3x3", "dil_conv_3x3", "skip_connect", "none", "noise"])
def test_a_subclass_of_a_candidate_is_called_as_what_it_is(name: str) -> None:
    own = build_op(name, 4, 1, False, True)
    kind = type(own)
    own.__class__ = type(f"Own{kind.__name__}", (kind,), {"forward": lambda self, x: 2 * kind.forward(self, x) + 1})
    assert isinstance(as_known(build_op(name, 4, 1, False, True), 4, 1), Known)
    assert as_known(own, 4, 1) == f"Own{kind.__name__}"


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        (0, type("OwnReLU", (nn.ReLU,), {"forward": lambda self, x: x})()),
        (4, nn.ReLU(inplace=True)),
        (3, nn.BatchNorm2d(4, affine=False, track_running_stats=False)),
        (3, nn.BatchNorm2d(4)),
        (2, nn.Conv2d(4, 4, 1)),
    ],
    ids=[
        "ReLU of a subclass",
        "ReLU in place",
        "norm without statistics",
        "norm with weights",
        "convolution with bias",
    ],
)
def test_a_candidate_with_another_layer_is_called_as_what_it_is(place: int, layer: nn.Module) -> None:
    sep = build_op("sep_conv_3x3", 4, 1, False, True)
    sep.op[place] = layer
    assert isinstance(as_known(sep, 4, 1), str)


def test_torchs_own_functions_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert elsewhere() == ""
    monkeypatch.setattr(torch.nn.functional, "relu", lambda x, inplace=False: x)
    assert elsewhere() == "torch's functions are replaced"
