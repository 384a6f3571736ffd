"""Faults of the native core: C++, which a mutant compiles."""

from __future__ import annotations

from planted.mutant import Mutant

SIMD = "csrc/cpu/simd/"
STENCIL, MIXED, PREPROCESS = (f"tests/test_{name}.py" for name in ("stencil", "mixed_sum", "preprocess"))


def _of(op: str, tests: tuple[str, ...], *faults: tuple[str, str, str, str]) -> list[Mutant]:
    return [Mutant(f"{op}: {name}", SIMD + path, old, new, tests) for name, path, old, new in faults]


MUTANTS: list[Mutant] = [
    *_of(
        "stencil",
        (STENCIL,),
        ("a wrong tap", "stencil_correlate.h", "+= value * w[k];", "+= value * w[K > 3 && k == 1 ? 2 : k];"),
        (
            "a missing term",
            "stencil_correlate.h",
            "for (int k = 0; k < K; ++k) {\n                    const int",
            "for (int k = 0; k < (K > 3 ? K - 1 : K); ++k) {\n                    const int",
        ),
        (
            "float32 in a float64 path",
            "stencil_pointwise.h",
            "+= value[b * kLanes<A>] * row[v];",
            "+= static_cast<A>(static_cast<float>(value[b * kLanes<A>])) * row[v];",
        ),
        ("a shifted statistic", "stencil_forward.cpp", "var[c] /= all;", "var[c] /= all - 1;"),
        (
            "a statistic of float32 squares",
            "stencil_forward.cpp",
            "q = static_cast<double>(totals[k]) - s * s / n;",
            "q = static_cast<double>(static_cast<float>(totals[k])) - s * s / n;",
        ),
        ("squares about zero", "stencil_forward.cpp", "middle - middle == Vec<A>{} ? middle : Vec<A>{}", "Vec<A>{}"),
        (
            "moments of what is not stored",
            "stencil_forward.cpp",
            "store<A>(block + k, as_stored<T, A>(load<A>(block + k)));",
            ";",
        ),
        (
            "a gradient without its remainder",
            "stencil_backward.cpp",
            "total[k] += static_cast<double>(first[k]);",
            "total[k] += slot + 1 < slots || slots == 1 ? static_cast<double>(first[k]) : 0;",
        ),
        (
            "a gradient whose constant is rounded",
            "stencil_backward.cpp",
            "static_cast<A>(p.gamma[from] + static_cast<double>(beta[k]) * static_cast<double>(near[k]))",
            "A(0)",
        ),
    ),
    *_of(
        "mixed_sum",
        (MIXED, "tests/test_mixed_sum_kernels.py"),
        (
            "a missing term",
            "mixed_sum_tile.h",
            "for (int k = 0; k < kTerms; ++k) {\n            const Vec<A> centred",
            "for (int k = kTerms > 4; k < kTerms; ++k) {\n            const Vec<A> centred",
        ),
        (
            "a mean without what rounding left",
            "mixed_sum_forward.cpp",
            "constant[c] += factor[c] * (shifts[c] - mean[c]);",
            ";",
        ),
        (
            "float32 in a float64 path",
            "mixed_sum_tile.h",
            "static_cast<double>(block[k * period + phase]);",
            "static_cast<double>(static_cast<float>(block[k * period + phase]));",
        ),
        ("a shifted statistic", "mixed_sum_moments.cpp", "/ count;\n            }", "/ (count - 1);\n            }"),
        ("a gradient without what rounding left", "mixed_sum_backward.cpp", "(mean && valued[i] ? ", "(false ? "),
        (
            "the last elements of a sum",
            "mixed_sum_tile.h",
            "if (whole < end) step(whole, (whole - begin)",
            "if (false) step(whole, (whole - begin)",
        ),
    ),
    *_of(
        "preprocess",
        (PREPROCESS,),
        (
            "float32 in a float64 path",
            "preprocess_normalise.cpp",
            "store<A>(y, (load<A>(y) - mean) * rstd);",
            "store<A>(y, (load<A>(y) - mean) * (rstd + rstd * static_cast<A>(1e-9)));",
        ),
        (
            "a shifted statistic",
            "preprocess_forward.cpp",
            "spread / static_cast<double>(chunks.pixels);",
            "spread / static_cast<double>(chunks.pixels - 1);",
        ),
        ("squares about zero", "preprocess_forward.cpp", "mean - mean == Vec<A>{} ? mean : Vec<A>{}", "Vec<A>{}"),
        ("a missing term", "preprocess_backward.cpp", "load_some<A>(g, n)) + gamma;", "load_some<A>(g, n));"),
        ("a gradient at the kink", "simd.h", "return v <= Vec<A>{} ?", "return v < Vec<A>{} ?"),
        ("tasks of unequal weight", "preprocess_forward.cpp", "count(t) * apart * apart", "apart * apart"),
    ),
]
