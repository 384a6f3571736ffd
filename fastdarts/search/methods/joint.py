"""I-DARTS: one softmax over all inputs and operators of a node."""

from __future__ import annotations

from fastdarts.errors import UserError
from fastdarts.search.choices import Choices
from fastdarts.search.config import SearchConfig
from fastdarts.search.methods.preset import Method
from fastdarts.search.relaxation import JointSoftmax

__all__ = ["METHODS"]


def _joint(config: SearchConfig) -> Choices:
    if config.edge_normalisation:
        raise UserError(
            f"edge_normalisation with {config.method}, whose weights already share out a node among its edges",
            "edge_normalisation false",
            "--set edge_normalisation=false, or --method pc-darts",
        )
    return Choices(relaxation=JointSoftmax())


# The paper searches recurrent cells only; for images its relaxation stands in DARTS' settings.
METHODS = (
    Method(
        "i-darts",
        "one softmax over all inputs and operators of a node (not the implicit gradients of iDARTS)",
        "Jiang et al.: Improved DARTS for Language Modeling and NER, EMNLP 2019, section 3",
        {"hypergradient": "first"},
        compose=_joint,
    ),
)
