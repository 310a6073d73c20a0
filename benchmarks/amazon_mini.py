"""The whole line with the mini model on one data set: l2d-g, l2d-l, l2d-w, popularity, item-kNN on validation and test.

    python -m benchmarks.amazon_mini data/amazon_Video_Games_2015 [--small] [--run-dir runs/NAME]

The folder is one of those that folders.py here tells; a split of its own is kept. Settings are those of its file in jobs/configs/, the
targets those of amazon_Video_Games_2015. Everything is tuned on validation; test is scored once. Finished stages of the run directory are
reused, and their seconds are those of the run that did them.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.folders import folder_arguments, run_config, run_dir_of
from benchmarks.result import print_result, target
from jobs import evaluate
from jobs.quickstart import TUNED_RUN
from jobs.stages import Stage, run_stages
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig

SMALL = ["train.num_epochs=1", "train.batch_tokens=8192", "model.mini.hidden_size=32", "model.mini.num_layers=1", "decoder.max_samples=300"]


def evaluate_on(split: str) -> Any:
    """The evaluation job as a stage of its own for one split."""

    def main(config: RunConfig) -> dict[str, Any]:
        return evaluate.main(config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"split": split})}))

    return main


EVALUATE_VALID = Stage("evaluate_valid", evaluate_on("valid"), ("evaluate",), ("evaluation/valid.json",))
EVALUATE_TEST = Stage("evaluate_test", evaluate_on("test"), ("evaluate",), ("evaluation/test.json",))


def main() -> None:
    parser = folder_arguments(__doc__)
    options = parser.parse_intermixed_args()
    run_dir = run_dir_of(options)
    small = SMALL if options.small else []
    started = time.monotonic()
    config = run_config(options.folder, run_dir, [*small, *options.overrides])
    prepare_s = round(time.monotonic() - started, 2)
    with connect(config.ray.address, config.ray.num_cpus):
        finished = run_stages((*TUNED_RUN, EVALUATE_VALID, EVALUATE_TEST), config)
    seconds = {"convert": prepare_s} | {name: stage.seconds for name, stage in finished.items()}
    valid, test = finished["evaluate_valid"].result["metrics"], finished["evaluate_test"].result["metrics"]
    figures = {
        "small": options.small,
        "data": options.folder.name,
        "num_parameters": finished["train"].result["num_parameters"],
        "num_epochs": len(finished["train"].result["curve"]),
        "item_loss_weight": 0.0 if isinstance(config.train, str) else config.train.item_loss_weight,
        "settings": finished["tune_decoder"].result["settings"],
        "num_memory_entries": finished["build_memory"].result["num_entries"],
        "valid": valid,
        "test": test,
        "seconds": seconds,
    }
    targets = {
        "minutes": target(round(sum(seconds.values()) / 60, 2), 25, at_most=True),
        "validation recall@10 of l2d-w": target(valid["l2d-w"]["recall@10"], 0.104),
        "validation recall@50 of l2d-w": target(valid["l2d-w"]["recall@50"], 0.258),
    }
    print_result("amazon_mini", figures, targets)


if __name__ == "__main__":
    main()
