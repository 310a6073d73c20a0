"""What every job does on the command line: read the settings, run ``main``, print one JSON line last.

An L2DError becomes its sentence on stderr and exit code 2, without a traceback; any other exception is a fault of ours and keeps it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from l2d_ray.config import RunConfig, load_config
from l2d_ray.errors import L2DError


def run(main: Callable[[RunConfig], dict[str, Any]], description: str | None = None, argv: Sequence[str] | None = None) -> None:
    """Run a job with settings from the command line; ``description`` (the job's docstring) is what ``--help`` shows."""
    try:
        result = main(load_config(argv, prog=f"python -m {_module_name(main)}", description=description or ""))
    except L2DError as error:
        print(f"error: {getattr(error, 'cause', None) or error}", file=sys.stderr)  # Ray wraps what a task raises
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this stopped", file=sys.stderr)
        sys.exit(130)
    print(json.dumps(result, ensure_ascii=False), flush=True)


def _module_name(main: Callable[[RunConfig], dict[str, Any]]) -> str:
    spec = sys.modules[main.__module__].__spec__
    return spec.name if spec else "jobs.NAME"
