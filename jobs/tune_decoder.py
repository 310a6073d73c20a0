"""Chooses num_neighbors, shrinkage, prior weight and the default decoder on validation, and stores them with the memory.

    python -m jobs.tune_decoder --config jobs/configs/quickstart.yaml decoder.metric=recall@20
    ray job submit --working-dir . -- python -m jobs.tune_decoder --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.build_index. Scores are unmasked and by item id; the test split is not read.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.decode.settings import FILE
from l2d_ray.decode.tuning import num_trials, tune
from l2d_ray.evaluate.metrics import metric_means, target_ranks
from l2d_ray.evaluate.on_ray import encode_split
from l2d_ray.index.layout import open_index
from l2d_ray.memory.files import write_text
from l2d_ray.model.loading import read_metadata, resolve_device
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import VALID


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    device = resolve_device(config.device)
    index = open_index(config.index_dir, fingerprint=read_metadata(config.checkpoint_dir)["fingerprint"])
    with connect(config.ray.address, config.ray.num_cpus):
        spec = EncoderSpec(str(config.checkpoint_dir), device, config.memory.batch_tokens)
        split = encode_split(config.data_dir, VALID, spec=spec, num_workers=config.memory.num_workers)
    split = split.latest(config.decoder.max_samples)

    def score(ranked: NDArray[np.int64]) -> float:
        return metric_means(target_ranks(ranked, split.samples.targets))[config.decoder.metric]

    grids = config.decoder.model_dump(include={"num_neighbors", "shrinkages", "prior_weights"})
    with tqdm(total=num_trials(**grids), desc="decoder trials", unit="trial") as progress:
        shards = index.shards(device=device)
        settings, trials = tune(split.queries, shards, index.covariance(), score, **grids, on_trial=progress.update)
    write_text(config.memory_uri, FILE, settings.to_json())
    return {
        "job": "tune_decoder",
        "settings": asdict(settings),
        "metric": config.decoder.metric,
        "num_samples": len(split),
        "trials": [asdict(trial.settings) | {"score": round(trial.score, 5)} for trial in trials],
        "tune_s": round(time.monotonic() - started, 2),
    }


if __name__ == "__main__":
    run(main, __doc__)
