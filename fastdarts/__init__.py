"""fastdarts: a kernel-optimised engine for differentiable architecture search.

`fastdarts.search` searches, `fastdarts.evaluate` retrains and compares, `fastdarts.nn` holds the layers,
`fastdarts.compat` the peers' names, `fastdarts.spaces` spaces and genotypes; each is imported when asked for.
"""

from __future__ import annotations

from fastdarts._backend import Backend, backends, current_backend, use_backend
from fastdarts.errors import Diverged, Interrupted, UserError

__all__ = [
    "Backend",
    "Diverged",
    "Interrupted",
    "UserError",
    "__version__",
    "backends",
    "current_backend",
    "use_backend",
]

__version__ = "0.1.0"
"""The version of the package."""
