"""The supernet of a search's stage."""

from __future__ import annotations

from fastdarts.nn import Supernet
from fastdarts.search.choices import Stage
from fastdarts.search.config import SearchConfig

__all__ = ["build_supernet"]


def build_supernet(
    config: SearchConfig, stage: Stage, classes: int, in_channels: int, *, stacked: bool = True
) -> Supernet:
    """Draw it from torch's generator.

    Args:
        config: of the search.
        stage: whose space and depth it has.
        classes, in_channels: of the images.
        stacked: as of :class:`fastdarts.nn.Supernet`.
    """
    return Supernet(
        stage.space,
        channels=config.channels + stage.wider,
        layers=stage.layers,
        classes=classes,
        in_channels=in_channels,
        stem=config.stem,
        partial=config.partial,
        edge_normalisation=config.edge_normalisation,
        alpha_scale=config.alpha_scale,
        alpha_mean=config.alpha_mean,
        memory=config.memory,
        auxiliary=config.auxiliary > 0,
        dropout=config.dropout,
        skip_dropout=stage.skip_dropout,
        channel_sampling=config.channel_sampling,
        stacked=stacked,
    )
