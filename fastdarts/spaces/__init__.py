"""Search spaces, primitives and genotypes as pure data: nothing here imports torch or numpy."""

from __future__ import annotations

from fastdarts.spaces._define import define_space
from fastdarts.spaces._derive import derive
from fastdarts.spaces._error import GenotypeError
from fastdarts.spaces._genotype import STYLES, CellGenotype, Genotype
from fastdarts.spaces._parse import parse_genotype
from fastdarts.spaces._presets import space, space_names
from fastdarts.spaces._primitives import PRIMITIVES, Primitive, add_primitive
from fastdarts.spaces._prune import prune
from fastdarts.spaces._published import PUBLISHED, published
from fastdarts.spaces._sample import random_genotype
from fastdarts.spaces._space import CellSpace, Edge, Space

__all__ = [
    "PRIMITIVES",
    "PUBLISHED",
    "STYLES",
    "CellGenotype",
    "CellSpace",
    "Edge",
    "Genotype",
    "GenotypeError",
    "Primitive",
    "Space",
    "add_primitive",
    "define_space",
    "derive",
    "parse_genotype",
    "prune",
    "published",
    "random_genotype",
    "space",
    "space_names",
]
