"""How recommendations grow with the model's width and with the epochs that it is trained for; on validation alone.

    python -m benchmarks.growth movielens [--small] [--run-dir runs/NAME] [--epochs 1,2,4,6] [--widths 32,64,128,192] [key=value ...]

The folder is one of those that folders.py here tells. One run for each number of epochs at the configured width and for each width with the
configured epochs (at most: training stops where the validation loss does), each tuned by itself, all below RUN_DIR, where finished stages
are reused. How they grow with the memory is benchmarks.quality's sweep. Printed lines are kept as benchmarks/results/growth-NAME.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.amazon_mini import EVALUATE_VALID, SMALL
from benchmarks.folders import config_file, folder_arguments, run_config, run_dir_of
from benchmarks.quality.report_tables import GROWTH_SYSTEMS
from benchmarks.quality.store import rounded
from benchmarks.result import print_result, target
from jobs.quickstart import TUNED_RUN
from jobs.stages import run_stages
from l2d_ray.cluster import connect
from l2d_ray.config import load_config


def main() -> None:
    parser = folder_arguments(__doc__)
    parser.add_argument("--epochs", type=_numbers, default=None, help="numbers of epochs, separated by commas")
    parser.add_argument("--widths", type=_numbers, default=None, help="hidden sizes, separated by commas")
    options = parser.parse_intermixed_args()
    base = run_dir_of(options, "growth_{}")
    overrides = [*(SMALL if options.small else []), *options.overrides, "model.name=mini"]
    usual = load_config(["--config", config_file(options.folder), *overrides])
    if isinstance(usual.train, str):
        parser.error("train is none: growth is measured over trained models; leave train as it is, or set train.NAME=value.")
    width, num_epochs = usual.model.mini.hidden_size, usual.train.filled(from_scratch=True).num_epochs

    def point(width: int, num_epochs: int | None) -> dict[str, Any]:
        run_dir = base / f"width-{width}-epochs-{num_epochs}"
        return measured(options.folder, run_dir, [*overrides, f"model.mini.hidden_size={width}", f"train.num_epochs={num_epochs}"])

    epochs = options.epochs or ((1,) if options.small else (1, 2, 4, 6))
    widths = options.widths or ((16,) if options.small else (32, 64, 128, 192))
    curves = {
        "epochs": [{"num_epochs": num, **point(width, num)} for num in epochs],
        "widths": [{"hidden_size": num, **point(num, num_epochs)} for num in widths],
    }
    print_result("growth", {"small": options.small, "data": options.folder.name, **rounded(curves)}, growth_targets(curves))


def growth_targets(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Whether more training and a wider model recommend better: the last point of each curve over its first."""
    found = {}
    for axis, points in curves.items():
        for system in GROWTH_SYSTEMS:
            first, last = (point["valid"][system]["recall@50"] for point in (points[0], points[-1]))
            found[f"recall@50 of {system}, last of {axis} over first"] = target(round(last / max(first, 1e-9), 3), 1)
    return found


def measured(folder: Path, run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """One run: its size, its time, and validation metrics of every system."""
    config = run_config(folder, run_dir, overrides)
    with connect(config.ray.address, config.ray.num_cpus):
        finished = run_stages((*TUNED_RUN, EVALUATE_VALID), config)
    trained = finished["train"]
    return {
        "num_parameters": trained.result["num_parameters"],
        "num_epochs_run": len(trained.result["curve"]),
        "train_s": trained.seconds,
        "valid": finished["evaluate_valid"].result["metrics"],
    }


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))


if __name__ == "__main__":
    main()
