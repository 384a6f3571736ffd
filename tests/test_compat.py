"""Code written for the peers, unchanged but for the import: the loop, checkpoints, devices, refusals."""

from __future__ import annotations

import argparse
import collections
import copy
import re
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn as nn
from golden.recipe import ARGS, batch

from fastdarts import reference, spaces, use_backend
from fastdarts.compat import darts, pcdarts
from fastdarts.errors import UserError

PEERS = [pytest.param(darts, 2, id="darts"), pytest.param(pcdarts, 4, id="pcdarts")]


def network(peer: ModuleType, channels: int, layers: int = 2) -> nn.Module:
    return peer.Network(channels, 4, layers, nn.CrossEntropyLoss())


def test_search_loop_as_a_darts_user_has_it() -> None:
    """quark0's train_search.py from the model to the end of the epochs; only the imports name fastdarts."""
    from fastdarts.compat.darts import Architect, Network

    args = argparse.Namespace(**vars(ARGS), epochs=3, init_channels=2, layers=3, unrolled=True)
    torch.manual_seed(2)
    images, labels = torch.randn(8, 3, 6, 6), torch.randint(4, (8,))
    train_queue = [(images[:4], labels[:4])]
    valid_queue = [(images[4:], labels[4:])]

    criterion = nn.CrossEntropyLoss()
    model = Network(args.init_channels, 4, args.layers, criterion)
    optimizer = torch.optim.SGD(
        model.parameters(), args.learning_rate, momentum=args.momentum, weight_decay=args.weight_decay
    )
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, float(args.epochs), eta_min=args.learning_rate_min
    )
    architect = Architect(model, args)
    start = [alpha.detach().clone() for alpha in model.arch_parameters()]
    objs = []
    for _ in range(args.epochs):
        lr = scheduler.get_last_lr()[0]
        genotype = model.genotype()
        model.train()
        for (input, target), (input_search, target_search) in zip(train_queue, valid_queue, strict=True):
            architect.step(input, target, input_search, target_search, lr, optimizer, unrolled=args.unrolled)
            optimizer.zero_grad()
            logits = model(input)
            loss = criterion(logits, target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), args.grad_clip)
            optimizer.step()
            objs.append(loss.item())
        scheduler.step()
    model.eval()
    with torch.no_grad():
        assert model(valid_queue[0][0]).isfinite().all()
    assert objs[-1] < objs[0]
    moved = [(now - before).abs().max().item() for now, before in zip(model.arch_parameters(), start, strict=True)]
    # Adam moves an entry by about its rate in each of the three steps.
    assert all(2 * args.arch_learning_rate < by < 4 * args.arch_learning_rate for by in moved), moved
    assert [len(genotype.normal), genotype.normal_concat] == [8, range(2, 6)]
    assert scheduler.get_last_lr() == [pytest.approx(args.learning_rate_min)]


@pytest.mark.parametrize(("peer", "channels"), PEERS)
def test_architecture_tensors_stay_outside_and_move_in_place(peer: ModuleType, channels: int) -> None:
    model = network(peer, channels, layers=3)
    alphas = model.arch_parameters()
    expected = [(14, 8), (14, 8)] + [(14,), (14,)] * (peer is pcdarts)
    assert [tuple(alpha.shape) for alpha in alphas] == expected
    assert not {id(alpha) for alpha in alphas} & {id(parameter) for parameter in model.parameters()}
    assert not any("alpha" in key or "beta" in key for key in model.state_dict())
    assert all(type(alpha) is torch.Tensor and alpha.is_leaf and alpha.requires_grad for alpha in alphas)
    optimizer = peer.Architect(model, ARGS).optimizer
    values = [alpha.detach().double() for alpha in alphas]
    model._loss(*_images()).backward()
    model.double()
    assert model.arch_parameters() is alphas and model.alphas_normal is alphas[0]
    assert optimizer.param_groups[0]["params"] == alphas
    assert all(
        torch.equal(alpha, value) and alpha.grad.dtype == torch.float64
        for alpha, value in zip(alphas, values, strict=True)
    )
    optimizer.step()
    assert not torch.equal(model.alphas_normal, values[0])


def _images(size: int = 5, count: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = batch("compat", size, count, torch.float32)
    return images, labels % 4


@pytest.mark.parametrize(("peer", "channels"), PEERS)
def test_new_copies_sizes_and_alphas(peer: ModuleType, channels: int) -> None:
    model = peer.Network(channels, 4, 2, nn.CrossEntropyLoss(), steps=2, multiplier=1, stem_multiplier=2).double()
    fresh = model.new()
    assert type(fresh) is type(model) and fresh.alphas_normal.dtype == torch.float64
    assert [value.shape for value in fresh.state_dict().values()] == [v.shape for v in model.state_dict().values()]
    pairs = list(zip(fresh.arch_parameters(), model.arch_parameters(), strict=True))
    assert all(torch.equal(ours, theirs) and ours is not theirs for ours, theirs in pairs)
    assert not torch.equal(fresh.stem[0].weight, model.stem[0].weight)
    assert model.genotype().normal_concat == range(3, 4) and len(model.genotype().normal) == 4


def test_a_deep_copy_has_alphas_of_its_own() -> None:
    model = network(darts, 2, layers=1)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.alphas_normal.add_(1)
    assert twin.arch_parameters()[0] is twin.alphas_normal
    assert not torch.equal(twin.alphas_normal, model.alphas_normal)


@pytest.mark.parametrize(("peer", "channels"), PEERS)
def test_checkpoints_load_strictly(peer: ModuleType, channels: int) -> None:
    model, other, third = (network(peer, channels, layers=1) for _ in range(3))
    images, labels = _images()
    model._loss(images, labels).backward()
    other.load_state_dict(model.state_dict(), strict=True)
    # The peers' own torch, 0.3, counted no batches.
    old = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    third.load_state_dict(collections.OrderedDict(old), strict=True)
    for loaded in (other, third):
        with torch.no_grad():
            for ours, theirs in zip(loaded.arch_parameters(), model.arch_parameters(), strict=True):
                ours.copy_(theirs)
        assert torch.equal(loaded.eval()(images), model.eval()(images))


def test_genotype_is_the_peers_named_tuple() -> None:
    foreign = collections.namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
    model = network(darts, 2)
    genotype = model.genotype()
    assert genotype == foreign(*genotype) and repr(genotype) == repr(foreign(*genotype))
    assert spaces.parse_genotype(repr(genotype)) == darts.to_genotype(foreign(*genotype))
    assert all(isinstance(edge, tuple) for edge in genotype.normal)


def test_derived_networks_take_any_genotype_with_the_four_fields() -> None:
    published = spaces.published("DARTS_V2")
    pairs = [edge for node in published.normal.nodes for edge in node]
    foreign = SimpleNamespace(
        normal=pairs, normal_concat=range(2, 6), reduce=[list(pair) for pair in pairs], reduce_concat=[2, 3, 4, 5]
    )
    own = darts.Genotype(pairs, [2, 3, 4, 5], pairs, range(2, 6))
    for genotype in (foreign, own, published):
        model = darts.NetworkCIFAR(4, 3, 4, False, genotype)
        model.drop_path_prob = 0.2
        assert model(torch.randn(2, 3, 8, 8))[0].shape == (2, 3)
    with pytest.raises(UserError, match="in the normal cell, an odd number of inputs, 3; expected 2 for each node"):
        darts.NetworkCIFAR(4, 3, 4, False, own._replace(normal=pairs[:3]))
    with pytest.raises(TypeError, match="expected the fields normal, normal_concat, reduce, reduce_concat"):
        darts.NetworkCIFAR(4, 3, 4, False, ["DARTS_V2"])
    named = darts.NetworkCIFAR(4, 3, 4, False, "DARTS_V2").genotype
    assert named == spaces.published("DARTS_V2") == darts.NetworkCIFAR(4, 3, 4, False, str(named)).genotype
    with pytest.raises(UserError, match="no published genotype 'DARTS_V3'"):
        darts.NetworkCIFAR(4, 3, 4, False, "DARTS_V3")


@pytest.mark.parametrize("unrolled", [False, True], ids=["first order", "unrolled"])
def test_architect_leaves_weights_and_moves_statistics_as_quark0(unrolled: bool) -> None:
    model = network(darts, 2, layers=3)
    optimizer = torch.optim.SGD(model.parameters(), 0.025, momentum=0.9)
    weights = [weight.detach().clone() for weight in model.parameters()]
    alphas = [alpha.detach().clone() for alpha in model.arch_parameters()]
    images, labels = _images()
    # Before its first step the optimiser has no momentum buffers.
    darts.Architect(model, ARGS).step(
        images, labels, images.flip(0), labels.flip(0), 0.025, optimizer, unrolled=unrolled
    )
    assert all(map(torch.equal, model.parameters(), weights)) and all(
        weight.grad is None for weight in model.parameters()
    )
    assert not any(map(torch.equal, model.arch_parameters(), alphas))
    assert not optimizer.state
    counted = {int(v) for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")}
    # First order: the validation pass. Unrolled: the training pass and two more at w +- R v; validation on a copy.
    assert counted == {3 if unrolled else 1}


def test_unrolled_at_rate_zero_is_the_first_order_gradient() -> None:
    images, labels = _images()
    gradients = []
    for unrolled in (False, True):
        torch.manual_seed(0)
        model = network(darts, 2, layers=1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        darts.Architect(model, ARGS).step(images, labels, images, labels, 0.0, optimizer, unrolled=unrolled)
        gradients.append(torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()]))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("eta", [0.025, 0.0])
def test_unrolled_moves_statistics_at_rate_zero_too(eta: float) -> None:
    """PC-DARTS' cosine schedule ends at 0; the running statistics of its last epoch decide the last valid_acc."""
    images, labels = _images()
    model = network(darts, 2, layers=1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    darts.Architect(model, ARGS).step(images, labels, images, labels, eta, optimizer, unrolled=True)
    assert {int(v) for k, v in model.state_dict().items() if k.endswith("num_batches_tracked")} == {3}


def test_architect_s_backward_steps_are_overridden_as_quark0_s() -> None:
    class Pulled(darts.Architect):
        def _backward_step(self, input_valid: torch.Tensor, target_valid: torch.Tensor) -> None:
            self._pull().backward()
            super()._backward_step(input_valid, target_valid)

        def _backward_step_unrolled(self, *arguments: object) -> None:
            super()._backward_step_unrolled(*arguments)
            self._pull().backward()

        def _pull(self) -> torch.Tensor:
            return sum(alpha.sum() for alpha in self.model.arch_parameters())

    images, labels = _images()
    for unrolled in (False, True):
        gradients = []
        for architect in (darts.Architect, Pulled):
            torch.manual_seed(0)
            model = network(darts, 2, layers=1)
            optimizer = torch.optim.SGD(model.parameters(), 0.1)
            architect(model, ARGS).step(images, labels, images, labels, 0.1, optimizer, unrolled=unrolled)
            gradients.append(torch.cat([alpha.grad.flatten() for alpha in model.arch_parameters()]))
        # Sums of the two terms in either order.
        assert torch.equal(gradients[0] + 1, gradients[1])


@pytest.mark.parametrize(("peer", "channels"), PEERS)
def test_fewer_primitives_of_the_module_make_a_smaller_space(
    peer: ModuleType, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "PRIMITIVES", ["none", "skip_connect", "sep_conv_3x3"])
    model = network(peer, channels)
    assert model.alphas_normal.shape == (14, 3) and len(model.cells[0]._ops[0]._ops) == 3
    model._loss(*_images()).backward()
    assert {op for op, _ in model.genotype().normal} <= {"skip_connect", "sep_conv_3x3"}


def test_a_subclass_with_forwards_copied_from_quark0() -> None:
    class Cell(darts.Cell):
        def forward(self, s0: torch.Tensor, s1: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            states, offset = [self.preprocess0(s0), self.preprocess1(s1)], 0
            for _ in range(self._steps):
                s = sum(self._ops[offset + j](h, weights[offset + j]) for j, h in enumerate(states))
                offset += len(states)
                states.append(s)
            return torch.cat(states[-self._multiplier :], dim=1)

    class Network(darts.Network):
        cell_class = Cell

        def __init__(self, C: int, num_classes: int, layers: int, criterion: nn.Module) -> None:
            super().__init__(C, num_classes, layers, criterion)

        def forward(self, input: torch.Tensor) -> torch.Tensor:
            s0 = s1 = self.stem(input)
            for cell in self.cells:
                weights = torch.softmax(self.alphas_reduce if cell.reduction else self.alphas_normal, dim=-1)
                s0, s1 = s1, cell(s0, s1, weights)
            return self.classifier(self.global_pooling(s1).view(len(input), -1))

    images, _ = _images()
    torch.manual_seed(0)
    model = Network(2, 4, 3, nn.CrossEntropyLoss())
    torch.manual_seed(0)
    same = network(darts, 2, layers=3)
    torch.testing.assert_close(model(images), same(images))
    with use_backend("reference"):
        assert torch.equal(model(images), same(images))
    assert type(model.new()) is Network and torch.equal(model.new().alphas_normal, model.alphas_normal)


def test_architect_takes_any_model_with_the_peers_three_methods() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.layer.bias.requires_grad_(False)
            self.alpha = torch.zeros(3, requires_grad=True)

        def arch_parameters(self) -> list[torch.Tensor]:
            return [self.alpha]

        def _loss(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return nn.functional.cross_entropy(self.layer(input * self.alpha.exp()), target)

    model = Model()
    x, y = torch.randn(4, 3), torch.randint(2, (4,))
    architect = darts.Architect(model, ARGS)
    for unrolled in (False, True):
        architect.step(x, y, x, y, 0.1, torch.optim.SGD([model.layer.weight], 0.1), unrolled=unrolled)
    assert model.alpha.grad.abs().sum() > 0 and model.alpha.abs().sum() > 0


@pytest.mark.parametrize("size", [(7, 5), (1, 1)], ids=str)
@pytest.mark.parametrize(("peer", "channels"), PEERS)
def test_sizes_that_the_peers_fail_on(peer: ModuleType, channels: int, size: tuple[int, int]) -> None:
    model = network(peer, channels, layers=3)
    images = torch.randn(3, 3, *size)
    loss = model._loss(images, torch.tensor([0, 1, 3]))
    loss.backward()
    assert loss.isfinite() and all(alpha.grad.isfinite().all() for alpha in model.arch_parameters())


def test_cells_and_mixed_ops_stand_alone() -> None:
    x = torch.randn(2, 8, 6, 6)
    weights, betas = torch.rand(14, 8), torch.rand(14)
    assert darts.MixedOp(8, 2)(x, weights[0]).shape == pcdarts.MixedOp(8, 2)(x, weights[0]).shape == (2, 8, 3, 3)
    cell = darts.Cell(4, 3, 8, 8, 4, True, False)
    assert cell(x, x, weights).shape == (2, 12, 3, 3) and isinstance(cell._ops[0], darts.MixedOp)
    partial = pcdarts.Cell(4, 4, 8, 8, 4, False, False)
    assert partial(x, x, weights, betas).shape == (2, 16, 6, 6) and isinstance(partial._ops[0], pcdarts.MixedOp)
    doubled = partial(x, x, weights, 2 * betas)
    assert not torch.equal(doubled, partial(x, x, weights, betas))


def test_operations_by_quark0_s_table() -> None:
    assert [*darts.OPS] == [*darts.PRIMITIVES, "sep_conv_7x7", "conv_7x1_1x7"]
    for build in darts.OPS.values():
        assert build(4, 2, True)(torch.randn(2, 4, 5, 5)).shape == (2, 4, 3, 3)
    assert [*darts.OPS["avg_pool_3x3"](4, 1, False).state_dict()] == []
    x, state = torch.randn(3, 2, 4, 4), torch.get_rng_state()
    dropped = darts.drop_path(x, 0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropped, reference.drop_path(x, 0.5)) and darts.drop_path(x, 0.0) is x


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: network(pcdarts, 6, layers=3), "partial is 4 and does not divide 6 channels"),
        (lambda: network(darts, 2, layers=0), "layers is 0"),
        (lambda: darts.Network(2, 0, 2, None), "classes is 0"),
        (lambda: darts.Network(2, 4, 2, None, steps=2, multiplier=3), "multiplier is 3 in a cell of 2 steps"),
    ],
)
def test_impossible_networks(build, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


def test_the_guide_s_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[1] / "docs" / "drop-in.md").read_text(encoding="utf-8")
    own, checkpoint, move = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(darts, "OPS", dict(darts.OPS))
        patched.setattr(darts, "PRIMITIVES", list(darts.PRIMITIVES))
        exec(own, {})
        assert len(darts.Network(2, 3, 1, None).cells[0]._ops[0]._ops) == 9
    torch.save(darts.Network(16, 10, 8, nn.CrossEntropyLoss()).state_dict(), "weights.pt")
    names: dict = {}
    exec(checkpoint + move, names)
    net, model = names["net"].eval(), names["model"].eval()
    with torch.no_grad():
        images = torch.randn(1, 3, 8, 8)
        assert torch.equal(net(images), model(images))
    assert net.genotype() == darts.to_genotype(model.genotype())
    for name in re.findall(r"`(\w+)`", guide.split("## PC-DARTS")[0].split("find ")[1].split("in the\n")[0]):
        assert name in darts.__all__


@pytest.mark.parametrize("module", [darts, pcdarts])
def test_an_unrolled_step_draws_what_the_peers_new_draws(module: ModuleType) -> None:
    """Their unrolled step builds a fresh network, and a DataLoader shuffles with the generator that it leaves."""
    torch.manual_seed(1)
    network = module.Network(8, 3, 3, nn.CrossEntropyLoss(), steps=2, multiplier=2)
    architect = module.Architect(network, ARGS)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    x, y = torch.randn(2, 3, 4, 4), torch.tensor([0, 2])
    torch.manual_seed(7)
    network.new()
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    architect.step(x, y, x, y, 0.1, optimizer, unrolled=True)
    assert torch.equal(torch.get_rng_state(), expected)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    architect.step(x, y, x, y, 0.1, optimizer, unrolled=False)
    assert torch.equal(torch.get_rng_state(), before)
