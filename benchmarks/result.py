"""The one JSON line that a benchmark ends with, and the run directories of benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def target(measured: float | None, wanted: float, *, at_most: bool = False) -> dict[str, Any]:
    """A figure that is wanted, beside what was measured; None where this run could not measure it."""
    met = None if measured is None else bool(measured <= wanted if at_most else measured >= wanted)
    return {"target": f"{'<=' if at_most else '>='} {wanted:g}", "measured": measured, "met": met}


def print_result(name: str, figures: Mapping[str, Any], targets: Mapping[str, dict[str, Any]]) -> None:
    """Print the line; ``figures`` holds everything measured, with its setting."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"benchmark": name, **figures, "targets": dict(targets), "host": machine}), flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser with what every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a minute's run that shows that the benchmark works; its figures mean little")
    parser.add_argument("--run-dir", type=Path, default=None, help="where the run is kept; a finished stage is reused")
    return parser
