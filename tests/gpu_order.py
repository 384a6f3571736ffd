"""The order of the GPU tests: where only some can run, those that say most come first.

A test that is not named here comes after those that are. A name may be any beginning of a test's; of several that fit,
the longest counts.
"""

from __future__ import annotations

__all__ = ["ORDER", "files", "place"]

# Each kernel by itself before cells, cells before searches, float32 before half precisions, many shapes last.
ORDER = (
    "test_stencil_cuda.py::test_parity[",
    "test_stencil_cuda_backward.py::test_parity[",
    "test_stencil_cuda.py::test_parity_of_maps_of_several_tiles",
    "test_stencil_cuda_backward.py::test_tiles_of_the_shapes_that_searches_have",
    "test_search_recorder.py::test_on_a_gpu",
    "test_cell_gpu.py::test_single_precision_rounds_as_plain_torch",
    "test_cell_gpu.py::test_memory_modes_change_no_bit",
    "test_mixed_sum_triton.py::test_parity",
    "test_preprocess_triton.py::test_every_run_gives_the_same_bits",
    "test_coefficients.py::",
    "test_optim.py::",
    "test_augment.py::",
    "test_stencil_triton.py::test_parity",
    "test_cell_gpu.py::test_half_precision_rounds_as_plain_torch",
    "test_preprocess_triton.py::test_parity[",
    "test_stencil_cuda.py::",
    "test_stencil_cuda_backward.py::",
    "test_mixed_sum_triton.py::",
    "test_cell_gpu.py::",
    "test_track.py::",
)


def place(nodeid: str) -> int:
    """Where a test comes; the lower the sooner."""
    name = nodeid.removeprefix("tests/")
    fitting = [start for start in ORDER if name.startswith(start)]
    return ORDER.index(max(fitting, key=len)) if fitting else len(ORDER)


def files(only: str = "") -> list[str]:
    """The files that `only`, a regular expression of tests' names, may find tests in: those it names, or all."""
    every = list(dict.fromkeys(start.partition("::")[0] for start in ORDER))
    return [name for name in every if name.removeprefix("test_").removesuffix(".py") in only] or every
