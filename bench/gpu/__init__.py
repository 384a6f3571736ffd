"""The benchmarks of a machine with a GPU, a stage a file; device.sh runs them, and each runs here with `--toy`.

    python -m bench.gpu.kernels --toy --out /tmp/toy      # every line of a stage in seconds, on any machine

Without a GPU a stage times the CPU's engine and interpreted Triton kernels at toy sizes: of no worth as figures, which
is what `toy` in its JSON says, but the proof that no stage dies of a typo on a machine that is lent for half an hour.
"""

from __future__ import annotations

import os
import sys

# Triton decides when it is imported whether its own functions are interpreted: torch may import it before any option
# is read.
if "--toy" in sys.argv and not {"--paper", "--dry"} & set(sys.argv):
    os.environ.setdefault("TRITON_INTERPRET", "1")
