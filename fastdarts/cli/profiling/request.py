"""What one process is asked to measure, and the network that it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastdarts.cli.plan import planned_supernet
from fastdarts.errors import UserError

if TYPE_CHECKING:
    from fastdarts.nn import Supernet
    from fastdarts.profile import Predictor
    from fastdarts.search import SearchConfig
    from fastdarts.spaces import Space

__all__ = ["CONTENDERS", "Request", "build", "predictor"]

CONTENDERS = ("fastdarts", "eager", "compile")


@dataclass(frozen=True)
class Request:
    """One measurement.

    Args:
        config: of the search; its memory mode, device and backend are those that are measured.
        space: that is searched.
        size: height and width of the images, pixels.
        classes, in_channels: of the images.
        dtype: of weights and images, `float32` or `bfloat16`.
        contender: `fastdarts`, or plain torch with the same arithmetic: `eager`, `compile`.
        steps: that are timed, 0 for none.
        warm_up: steps before them, besides the first.
        detail: whether to measure bytes by part and operation, time by operation, and the timeline.
        most_bytes: memory that the process may take besides what it has at its start; None for what is free.
    """

    config: SearchConfig
    space: Space
    size: tuple[int, int]
    classes: int
    in_channels: int
    dtype: str = "float32"
    contender: str = "fastdarts"
    steps: int = 5
    warm_up: int = 2
    detail: bool = True
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.warm_up < 0:
            raise UserError(f"warm_up is {self.warm_up}", "at least 0")

    @property
    def backend(self) -> str:
        """Whose kernels run."""
        return self.config.backend if self.contender == "fastdarts" else "reference"


def build(request: Request) -> Supernet:
    """The supernet that is searched, as `fastdarts plan` plans it; for plain torch each module has its own weights."""
    stacked = request.contender == "fastdarts"
    return planned_supernet(request.config, request.space, request.classes, request.in_channels, stacked=stacked)


def predictor(request: Request) -> Predictor:
    """What predicts its bytes; to be called with the request's backend in force."""
    import torch

    from fastdarts.profile import Predictor

    return Predictor(lambda: build(request), request.size, dtype=getattr(torch, request.dtype))
