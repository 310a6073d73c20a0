"""What `make quickstart` costs and gives: seconds a stage, peak memory of all its processes, metrics, the speed ratio.

    python -m benchmarks.quickstart [--small] [--run-dir DIR]

Runs jobs.quickstart from nothing in its own process and adds up, every few seconds, the proportional set size (shared pages once) of
that process and all its descendants. ``--small`` trains a toy model for one epoch.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.result import arguments, print_result, target

SAMPLE_S = 3
SMALL = [
    "train.num_epochs=1",
    "model.mini.hidden_size=32",
    "model.mini.num_layers=1",
    "decoder.max_samples=300",
    "evaluate.language_samples=16",
]


def main() -> None:
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run_dir = options.run_dir or Path(folder) / "run"
        command = [sys.executable, "-m", "jobs.quickstart", "--config", "jobs/configs/quickstart.yaml", f"run_dir={run_dir}"]
        started = time.monotonic()
        result, peak_bytes = run_and_watch(command + (SMALL if options.small else []))
        wall_s = time.monotonic() - started
    del result["run_dir"]
    recall = {name: metrics["recall@10"] for name, metrics in result["metrics"].items()}
    ratio = result["speedup_vs_language_space"]["ratio"]
    figures = {"small": options.small, "wall_s": round(wall_s, 1), "peak_bytes": peak_bytes, **result}
    targets = {
        "minutes of work": target(round(wall_s / 60, 2), 10, at_most=True),
        "peak memory, GB": target(round(peak_bytes / 1e9, 2), 6, at_most=True),
        "recall@10 of l2d-w above popularity's": target(recall["l2d-w"], recall["popularity"]),
        "recall@10 of l2d-w above l2d-g's": target(recall["l2d-w"], recall["l2d-g"]),
        "recall@10 of l2d-w above l2d-l's": target(recall["l2d-w"], recall["l2d-l"]),
        "recall@10 of l2d-w over item-knn's": target(round(recall["l2d-w"] / recall["item-knn"], 3), 0.8),
        "speed ratio to constrained beams of 20 (generate)": target(ratio, 20),
    }
    print_result("quickstart", figures, targets)


def run_and_watch(command: list[str]) -> tuple[dict[str, Any], int]:
    """The last line of a job as JSON, and the most memory that its processes held together."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        peak_bytes = 0
        while process.poll() is None:
            peak_bytes = max(peak_bytes, held_bytes(psutil.Process(process.pid)))
            time.sleep(SAMPLE_S)
        assert process.stdout is not None
        lines = process.stdout.read().splitlines()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed with exit code {process.returncode}; see its messages above.")
    return json.loads(lines[-1]), peak_bytes


def held_bytes(root: psutil.Process) -> int:
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


if __name__ == "__main__":
    main()
