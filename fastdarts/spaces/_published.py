"""The architectures that papers published, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from fastdarts.errors import UserError, did_you_mean
from fastdarts.spaces._genotype import Genotype
from fastdarts.spaces._parse import parse_genotype

__all__ = ["PUBLISHED", "published"]

_QUARK0 = "quark0/darts cnn/genotypes.py"
_QUARK0_RNN = "quark0/darts rnn/genotypes.py"
_SNAS = "SNAS, ICLR 2019, arXiv 1812.09926; SNAS-Series/SNAS-Series SNAS/genotypes.py"

# name -> (source, text); the text is data, read on demand by the same parser that reads a user's.
_TABLE = {
    "DARTS_V1": (
        f"DARTS first order, ICLR 2019, arXiv 1806.09055; {_QUARK0}",
        """Genotype(
        normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
                ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
        reduce_concat=range(2, 6))""",
    ),
    "DARTS_V2": (
        f"DARTS second order, ICLR 2019, arXiv 1806.09055; {_QUARK0}",
        """Genotype(
        normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
        reduce_concat=range(2, 6))""",
    ),
    "PC_DARTS_cifar": (
        "PC-DARTS on CIFAR-10, ICLR 2020, arXiv 1907.05737; docs/facts.md, 3",
        """Genotype(
        normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
                ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)],
        normal_concat=range(2, 6),
        reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
        reduce_concat=range(2, 6))""",
    ),
    "PC_DARTS_image": (
        "PC-DARTS on ImageNet, ICLR 2020, arXiv 1907.05737; docs/facts.md, 3",
        """Genotype(
        normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
        normal_concat=range(2, 6),
        reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)],
        reduce_concat=range(2, 6))""",
    ),
    "PDARTS": (
        "P-DARTS, ICCV 2019, arXiv 1904.12760; docs/facts.md, 4",
        """Genotype(
        normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)],
        normal_concat=range(2, 6),
        reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2),
                ('max_pool_3x3', 0), ('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)],
        reduce_concat=range(2, 6))""",
    ),
    "SNAS_mild": (
        f"{_SNAS}, mild resource constraint",
        """Genotype(
        normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('skip_connect', 0), ('dil_conv_3x3', 1),
                ('skip_connect', 0), ('skip_connect', 1), ('skip_connect', 0), ('sep_conv_3x3', 1)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 1), ('skip_connect', 2),
                ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)],
        reduce_concat=range(2, 6))""",
    ),
    "SNAS_moderate": (
        f"{_SNAS}, moderate resource constraint",
        """Genotype(
        normal=[('dil_conv_5x5', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('skip_connect', 1),
                ('skip_connect', 0), ('skip_connect', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 1)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_5x5', 0), ('dil_conv_5x5', 1),
                ('sep_conv_5x5', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 0), ('sep_conv_5x5', 1)],
        reduce_concat=range(2, 6))""",
    ),
    "SNAS_aggressive": (
        f"{_SNAS}, aggressive resource constraint (keeps none on some edges)",
        """Genotype(
        normal=[('sep_conv_5x5', 0), ('skip_connect', 1), ('skip_connect', 0), ('skip_connect', 1),
                ('dil_conv_5x5', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_5x5', 1)],
        normal_concat=range(2, 6),
        reduce=[('sep_conv_5x5', 0), ('none', 1), ('sep_conv_5x5', 0), ('none', 1),
                ('none', 1), ('none', 0), ('none', 1), ('none', 0)],
        reduce_concat=range(2, 6))""",
    ),
    "NASNet": (
        f"NASNet-A, CVPR 2018, arXiv 1707.07012; {_QUARK0}",
        """Genotype(
        normal=[('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 0), ('sep_conv_3x3', 0),
                ('avg_pool_3x3', 1), ('skip_connect', 0), ('avg_pool_3x3', 0), ('avg_pool_3x3', 0),
                ('sep_conv_3x3', 1), ('skip_connect', 1)],
        normal_concat=range(2, 7),
        reduce=[('sep_conv_5x5', 1), ('sep_conv_7x7', 0), ('max_pool_3x3', 1), ('sep_conv_7x7', 0),
                ('avg_pool_3x3', 1), ('sep_conv_5x5', 0), ('skip_connect', 3), ('avg_pool_3x3', 2),
                ('sep_conv_3x3', 2), ('max_pool_3x3', 1)],
        reduce_concat=[4, 5, 6])""",
    ),
    "AmoebaNet": (
        f"AmoebaNet-A, AAAI 2019, arXiv 1802.01548; {_QUARK0}",
        """Genotype(
        normal=[('avg_pool_3x3', 0), ('max_pool_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_5x5', 2),
                ('sep_conv_3x3', 0), ('avg_pool_3x3', 3), ('sep_conv_3x3', 1), ('skip_connect', 1),
                ('skip_connect', 0), ('avg_pool_3x3', 1)],
        normal_concat=[4, 5, 6],
        reduce=[('avg_pool_3x3', 0), ('sep_conv_3x3', 1), ('max_pool_3x3', 0), ('sep_conv_7x7', 2),
                ('sep_conv_7x7', 0), ('avg_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('conv_7x1_1x7', 0), ('sep_conv_3x3', 5)],
        reduce_concat=[3, 4, 6])""",
    ),
    "DARTS_V1_recurrent": (
        f"DARTS first order on PTB, ICLR 2019, arXiv 1806.09055; {_QUARK0_RNN}",
        """Genotype(recurrent=[('relu', 0), ('relu', 1), ('tanh', 2), ('relu', 3),
        ('relu', 4), ('identity', 1), ('relu', 5), ('relu', 1)], concat=range(1, 9))""",
    ),
    "DARTS_V2_recurrent": (
        f"DARTS second order on PTB, ICLR 2019, arXiv 1806.09055; {_QUARK0_RNN}",
        """Genotype(recurrent=[('sigmoid', 0), ('relu', 1), ('relu', 1), ('identity', 1),
        ('tanh', 2), ('sigmoid', 5), ('tanh', 3), ('relu', 5)], concat=range(1, 9))""",
    ),
    "ENAS_recurrent": (
        f"ENAS on PTB, ICML 2018, arXiv 1802.03268; {_QUARK0_RNN}",
        """Genotype(recurrent=[('tanh', 0), ('tanh', 1), ('relu', 1), ('tanh', 3), ('tanh', 3), ('relu', 3),
        ('relu', 4), ('relu', 7), ('relu', 8), ('relu', 8), ('relu', 8)], concat=[2, 5, 6, 9, 10, 11])""",
    ),
    "I_DARTS_GLOBAL_V1": (
        "I-DARTS on PTB, EMNLP 2019 (not iDARTS, ICML 2021); jiangyingjunn/i-darts, docs/facts.md, 2",
        """Genotype(recurrent=[('identity', 0), ('relu', 1), ('identity', 2), ('tanh', 3),
        ('relu', 3), ('relu', 5), ('identity', 2), ('relu', 6)], concat=range(1, 9))""",
    ),
}

# What the field calls them when it means one of several.
_ALSO = {
    "DARTS": "DARTS_V2",
    "PC_DARTS": "PC_DARTS_cifar",
    "PCDARTS": "PC_DARTS_cifar",
    "P_DARTS": "PDARTS",
    "SNAS": "SNAS_mild",
    "ENAS": "ENAS_recurrent",
    "GLOBAL_V1": "I_DARTS_GLOBAL_V1",
}

PUBLISHED: Mapping[str, str] = MappingProxyType({name: source for name, (source, _) in _TABLE.items()})
"""Name -> source of every published genotype, in the order in which they are listed for a user."""


def published(name: str) -> Genotype:
    """Return a published genotype.

    Args:
        name: one of :data:`PUBLISHED`, or DARTS (V2), PC_DARTS, PCDARTS (both CIFAR), P_DARTS, SNAS (mild), ENAS
            (recurrent), GLOBAL_V1; case and ``-``/``_`` do not count.

    Raises:
        UserError: there is no genotype of that name.
    """
    key = name.lower().replace("-", "_")
    for known in (*_TABLE, *_ALSO):
        if known.lower() == key:
            return _read(_ALSO.get(known, known))
    raise UserError(
        f"no published genotype {name!r}", f"one of {', '.join(_TABLE)}", did_you_mean(name, (*_TABLE, *_ALSO))
    )


@cache
def _read(name: str) -> Genotype:
    return parse_genotype(_TABLE[name][1])
