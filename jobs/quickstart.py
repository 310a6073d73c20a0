"""The whole line on a local Ray cluster: interactions to a tuned, evaluated, servable recommender, and a report to look at.

    python -m jobs.quickstart                                      # MovieLens-100K, about ten minutes on two cores
    python -m jobs.quickstart --config jobs/configs/quickstart.yaml train.num_epochs=2 run_dir=runs/other

Stages that are done for the same settings are reused; an interrupted run goes on where it stopped. The last line is one JSON object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs import build_index, build_memory, evaluate, measure_speed, prepare_data, report, train, tune_decoder
from jobs.cli import run
from jobs.stages import Stage, run_stages
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig

TUNED_RUN = (
    Stage("train", train.main, ("model", "train", "device", "seed"), ("checkpoint",)),
    Stage("build_memory", build_memory.main, ("memory",), ("memory",)),
    Stage("build_index", build_index.main, ("index",), ("index",)),
    Stage("tune_decoder", tune_decoder.main, ("decoder",), ("memory/decoder.json",)),
)
"""From prepared data to a tuned decoder."""

STAGES = (
    Stage("prepare_data", prepare_data.main, ("data",), ("data",)),
    *TUNED_RUN,
    Stage("evaluate", evaluate.main, ("evaluate",), ("evaluation",)),
    Stage("measure_speed", measure_speed.main, (), ("evaluation/speed.json",)),
)


def main(config: RunConfig) -> dict[str, Any]:
    with connect(config.ray.address, config.ray.num_cpus):
        finished = run_stages(STAGES, config)
    seconds = {name: stage.seconds for name, stage in finished.items()}
    report.main(config, seconds)
    card, speed = finished["prepare_data"].result, finished["measure_speed"].result
    return {
        "dataset": card["name"],
        "num_users": card["num_users"],
        "num_items": card["num_items"],
        "num_memory_entries": finished["build_memory"].result["num_entries"],
        "metrics": finished["evaluate"].result["metrics"],
        "seconds": seconds,
        "speedup_vs_language_space": {name: speed[name] for name in ("k", "beam", "ratio", "ratio_to_tree_attention", "ratio_to_greedy")},
        "run_dir": str(Path(config.run_dir)),
    }


if __name__ == "__main__":
    run(main, __doc__)
