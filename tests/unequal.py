"""A space whose edges have one, two and three candidates, so that its alphas have entries that are none."""

from __future__ import annotations

from fastdarts.spaces import define_space

__all__ = ["SPACE"]

SPACE = define_space(
    "unequal",
    {
        (0, 2): ("skip_connect", "sep_conv_3x3", "max_pool_3x3"),
        (1, 2): ("avg_pool_3x3",),
        (0, 3): ("none", "sep_conv_3x3"),
        (1, 3): ("skip_connect", "max_pool_3x3", "dil_conv_3x3"),
        (2, 3): ("skip_connect", "sep_conv_3x3"),
    },
    layers=3,
)
