"""Where the time of a pass goes: launches, device time, and the kernels that take most of it.

    python -m bench.gpu.profiles --out results

Of eager torch (both layouts, autocast) it checks what docs/performance-engine.md predicts; of fastdarts it says which
kernel to work on next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from bench.gpu.models import Eager, Fused, engines, net, running
from bench.gpu.stage import Options, Stage, options, run
from bench.gpu.steps import LAYOUTS
from bench.gpu.timing import timed

__all__ = ["main"]

# What kernels' names hold, to add them up by kind; the first that fits counts.
KINDS = {
    "batch norm": ("batch_norm", "bn_fw", "bn_bw"),
    "depthwise": ("depthwise", "dgrad2d_c1", "wgrad2d_c1", "c1_k1"),
    "other convolutions": ("conv", "cudnn", "gemm", "cutlass", "xmma", "implicit"),
    "pools": ("pool",),
    "elementwise": ("elementwise", "vectorized"),
    "reductions": ("reduce",),
}
_TOP = 15


def profiled(work: Callable[[], object], device: torch.device) -> dict[str, Any]:
    """Launches and device time of one run of `work`, the time by events of an unobserved run beside them."""
    kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    found = timed(work, device, rounds=1 if device.type == "cpu" else 5, warmup=2).to_json()
    with profile(activities=activities, acc_events=True) as observed:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in observed.events():
        if event.device_type == kind:
            kernels.setdefault(event.name, []).append(event.time_range.elapsed_us())
    times = {name: sum(each) for name, each in kernels.items()}
    top = sorted(times, key=lambda name: -times[name])[:_TOP]
    return found | {
        "launches": sum(map(len, kernels.values())),
        "device_ms": sum(times.values()) / 1e3,
        "kinds_ms": _by_kind(times),
        "top": [{"kernel": name[:120], "count": len(kernels[name]), "ms": times[name] / 1e3} for name in top],
    }


def _by_kind(times: dict[str, float]) -> dict[str, float]:
    total = dict.fromkeys([*KINDS, "rest"], 0.0)
    for name, microseconds in times.items():
        fitting = (kind for kind, words in KINDS.items() if any(word in name.lower() for word in words))
        total[next(fitting, "rest")] += microseconds / 1e3
    return {kind: round(spent, 4) for kind, spent in total.items()}


def _eager(given: Options, layout: str, dtype: str) -> dict[str, Any]:
    model = Eager(net("DARTS", given.small), given.device, layout=LAYOUTS[layout], dtype=dtype)
    return profiled(model.passes, given.device)


def _fused(given: Options, name: str, dtype: str, backend: str) -> dict[str, Any]:
    with running(backend):
        return profiled(Fused(net(name, given.toy), given.device, dtype=dtype).passes, given.device)


def main(arguments: list[str] | None = None) -> Stage:
    """Profile every contender."""
    given = options(arguments)
    stage = Stage("profiles", given)
    torch.backends.cudnn.benchmark = True
    for backend in engines(given):
        for name in ("DARTS", "PC-DARTS"):
            for dtype in ("fp32", "bf16"):
                stage.row(
                    f"{name}, {dtype}, {backend}",
                    lambda name=name, dtype=dtype, backend=backend: _fused(given, name, dtype, backend),
                    net=name,
                    dtype=dtype,
                    what=backend,
                )
    for layout, dtype in (("NCHW", "fp32"), ("channels_last", "fp32"), ("NCHW", "bf16")):
        stage.row(
            f"DARTS, {dtype}, eager, {layout}",
            lambda layout=layout, dtype=dtype: _eager(given, layout, dtype),
            net="DARTS",
            dtype=dtype,
            what=f"eager, {layout}",
        )
    return stage


if __name__ == "__main__":
    run(main)
