"""Amended-DARTS: the architecture's gradient with an amending term, and a search that is as the evaluation is."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fastdarts.search.methods.preset import Method

__all__ = ["METHODS"]

_AMENDED = "Bi et al.: Stabilizing DARTS with Amended Gradient Estimation, arXiv 1910.11831, 2019"

# Section 4.1.2: the evaluation's width, cutout, dropout and auxiliary tower. The paper gives no rate of dropout and not
# where it stands: 0.2 of the classifier's features is our choice, drop_path=0.2 in its place what DARTS evaluates with.
_AS_EVALUATED: Mapping[str, Any] = MappingProxyType(
    {
        "hypergradient": "amended",
        "eta": 0.1,
        "channels": 36,
        "batch_size": 96,
        "epochs": 100,
        "alpha_scale": 0.0,
        "cutout": 16,
        "dropout": 0.2,
        "auxiliary": 0.4,
    }
)
# Half of the image's side as there.
_SMALL: Mapping[str, Any] = MappingProxyType({"cutout": 4})

METHODS = (
    Method(
        "amended",
        "amended gradient with eta 0.1, fixed edges, the evaluation's width, cutout, dropout and auxiliary tower",
        f"{_AMENDED}, Eq. 6 and section 4.1.2, space S1",
        {**_AS_EVALUATED, "space": "amended-s1"},
        small=_SMALL,
    ),
    Method(
        "amended-s2",
        "amended with 20 cells that share nothing, skip or separable convolution on each edge",
        f"{_AMENDED}, Eq. 6 and section 4.1.3, space S2",
        {**_AS_EVALUATED, "space": "amended-s2"},
        small=_SMALL,
    ),
    Method(
        "amended-s2-full",
        "amended-s2 with all seven operators, for which the paper had no memory",
        f"{_AMENDED}, Eq. 6 and section 4.1.3, space S2 with S1's operators",
        {**_AS_EVALUATED, "space": "amended-s2-full"},
        small=_SMALL,
    ),
)
