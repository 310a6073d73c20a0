"""What must be so before a library is loaded: no setting that makes a peer slower than it is out of the box."""

from __future__ import annotations

import os
import sys

HANDICAPS = ("OPENBLAS_CORETYPE",)
"""OPENBLAS_CORETYPE pins OpenBLAS, and with it faiss, to the kernels of an old processor."""


def restart_without_handicaps(module: str) -> None:
    """Run ``python -m module`` with the same arguments in this process's place, if a handicap is set; else return."""
    if any(name in os.environ for name in HANDICAPS):
        kept = {name: value for name, value in os.environ.items() if name not in HANDICAPS}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], kept)
