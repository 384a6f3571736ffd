"""Search networks under torch.jit.trace and ONNX export: plain torch, alphas as constants."""

from __future__ import annotations

import io
from types import ModuleType

import pytest
import torch
from torch import nn

from fastdarts import use_backend
from fastdarts.compat import darts, pcdarts

PEERS = [pytest.param(darts, 2, id="darts"), pytest.param(pcdarts, 4, id="pcdarts")]


def network(peer: ModuleType, channels: int) -> nn.Module:
    return peer.Network(channels, 4, 1, nn.CrossEntropyLoss(), steps=1, multiplier=1).eval()


@pytest.mark.parametrize(("peer", "channels"), PEERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_trace_is_the_network_in_plain_torch(peer: ModuleType, channels: int) -> None:
    model = network(peer, channels)
    traced = torch.jit.trace(model, torch.randn(2, 3, 8, 8))
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    loaded, images = torch.jit.load(file), torch.randn(2, 3, 8, 8)
    assert "fastdarts::" not in str(loaded.inlined_graph)
    with use_backend("reference"):
        assert torch.equal(loaded(images), model(images))
    model._loss(images, torch.tensor([0, 1])).backward()
    assert any(alpha.grad is not None and alpha.grad.any() for alpha in model.arch_parameters())


@pytest.mark.filterwarnings("ignore:A model attribute .* requires gradient:UserWarning")
def test_an_onnx_export_sees_no_fused_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.onnx.export(dynamo=True) does first; onnxruntime gave the same logits to 3e-8 where it was at hand."""
    model, images = network(darts, 2), torch.randn(2, 3, 8, 8)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    program = torch.export.export(model, (images,), strict=False)
    assert not [node for node in program.graph.nodes if "fastdarts" in str(node.target)]
    with use_backend("reference"):
        torch.testing.assert_close(program.module()(images), model(images))
