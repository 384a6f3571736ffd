"""The faults that `tests/mutants.py` plants, by area: the plausible mistakes of an engineer, not flips of signs."""

from __future__ import annotations

from planted import cell, core, data, evaluate, hypergradient, kernels, methods, nn, runs, search
from planted.mutant import Mutant

__all__ = ["AREAS", "MUTANTS", "Mutant"]

AREAS: dict[str, list[Mutant]] = {
    "core": core.MUTANTS,
    "cell": cell.MUTANTS,
    "kernels": kernels.MUTANTS,
    "nn": nn.MUTANTS,
    "hypergradient": hypergradient.MUTANTS,
    "search": search.MUTANTS,
    "methods": methods.MUTANTS,
    "runs": runs.MUTANTS,
    "evaluate": evaluate.MUTANTS,
    "data": data.MUTANTS,
}
"""From the ground up; `core` and most of `cell` are C++, which a mutant compiles."""

MUTANTS = [mutant for mutants in AREAS.values() for mutant in mutants]
