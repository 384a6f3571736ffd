"""Triton kernels, one file an op, reached through `fastdarts.ops` only.

Names in every kernel, said here once: `i_` index, `o_` offsets, `m_` mask, `p_` pointer, `b_` block value; a trailing
shape comment such as `# [BN, BC]` after a load; int64 before any product with a stride; accumulators in fp32. Block
sizes come from a static table that a bench script prints: importing this package asks no device and tunes nothing.
"""

from __future__ import annotations

__all__: list[str] = []
