"""What this machine can do at most, as `fastdarts bench` measures it.

OMP_NUM_THREADS=2 python -m bench.machine
"""

from __future__ import annotations

import json

from fastdarts.bench.machine import describe, load_average, roofline

__all__ = ["describe", "load_average", "roofline"]


if __name__ == "__main__":
    print(json.dumps({**describe(), **roofline()}, indent=2))
