"""The states of all random generators that a step can draw from, as a value that `pack` takes."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import torch

from fastdarts.runs.error import CheckpointError

__all__ = ["generators_state", "restore_generators"]


def generators_state(generators: Mapping[str, torch.Generator]) -> dict[str, Any]:
    """The states of the named generators and of the global ones: torch (CPU, CUDA where in use), Python and numpy.

    Args:
        generators: by name.

    Returns:
        A nested dict for `RunFolder.save`; `restore_generators` takes it back.
    """
    import numpy

    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    return {
        "named": {
            name: {"device": generator.device.type, "state": generator.get_state()}
            for name, generator in generators.items()
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "numpy": (
            kind,
            torch.from_numpy(numpy.asarray(keys, dtype=numpy.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ),
    }


def restore_generators(generators: Mapping[str, torch.Generator], state: Mapping[str, Any]) -> None:
    """Set the named generators and the global ones to what `generators_state` returned.

    Args:
        generators: by name, the same names on the same kinds of device as when the state was taken.
        state: what `generators_state` returned.

    Raises:
        CheckpointError: if the names or devices differ; no generator is touched then.
    """
    import numpy

    named = state["named"]
    if set(named) != set(generators):
        raise CheckpointError(f"the checkpoint has generators {sorted(named)}", f"{sorted(generators)}")
    for name, generator in generators.items():
        if named[name]["device"] != generator.device.type:
            raise CheckpointError(
                f"the generator {name!r} is on {generator.device.type}",
                f"{named[name]['device']}, where it was when the checkpoint was saved",
                "resume on the kind of device that the run began on",
            )
    if len(state["cuda"]) > torch.cuda.device_count():
        raise CheckpointError(
            f"there are {torch.cuda.device_count()} CUDA devices",
            f"at least {len(state['cuda'])}, as when the checkpoint was saved",
            "resume on the kind of machine that the run began on",
        )
    for name, generator in generators.items():
        generator.set_state(named[name]["state"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words.tolist()), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    numpy.random.set_state((kind, keys.numpy().astype(numpy.uint32), position, has_gauss, cached))
