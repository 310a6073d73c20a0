"""Scores every decoder and the baselines on one split: Recall and NDCG, full ranking, by item id and title, masked and unmasked.

    python -m jobs.evaluate --config jobs/configs/quickstart.yaml evaluate.num_bootstrap=200
    ray job submit --working-dir . -- python -m jobs.evaluate --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.tune_decoder. Local decoding is left out where the index has no entries. Item-kNN is tuned on validation, like the decoders.
Writes RUN_DIR/evaluation/SPLIT.json and prints a table.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jobs.cli import run
from jobs.inputs import load_run
from l2d_ray.baselines.item_knn import ItemKnn, tune_item_knn
from l2d_ray.baselines.popularity import Popularity
from l2d_ray.baselines.tuning import ValidationSamples
from l2d_ray.cluster import connect
from l2d_ray.config import RunConfig
from l2d_ray.data.sequences import iter_sequences, part_paths
from l2d_ray.decode.decoder import LatentDecoder
from l2d_ray.decode.settings import SYSTEM_NAMES, DecoderName
from l2d_ray.evaluate.on_ray import encode_split
from l2d_ray.evaluate.protocol import EvaluationSamples, Ranker, SystemScores, evaluate_system, format_table
from l2d_ray.evaluate.queries import EncodedSplit, samples_of_parts
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import SPLIT_NAMES, VALID

QUERIES_PER_BLOCK = 256


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    loaded = load_run(config)
    spec = EncoderSpec(str(config.checkpoint_dir), loaded.device, config.memory.batch_tokens)
    with connect(config.ray.address, config.ray.num_cpus):
        split = encode_split(config.data_dir, SPLIT_NAMES.index(config.evaluate.split), spec=spec, num_workers=config.memory.num_workers)
    valid, _ = samples_of_parts(part_paths(config.data_dir), VALID, loaded.catalogue)
    train_sequences = [loaded.catalogue.indexes_of(s.item_ids[: s.num_train]) for s in iter_sequences(config.data_dir)]
    rankers = baseline_rankers(train_sequences, len(loaded.catalogue), valid)
    rankers |= {SYSTEM_NAMES[name]: decoder_ranker(loaded.decoder, split, name) for name in loaded.decoder.decoders}
    scores = [
        without_time(evaluate_system(name, rank, samples=split.samples, num_bootstrap=config.evaluate.num_bootstrap, seed=config.seed))
        for name, rank in tqdm(rankers.items(), desc="systems", unit="system")
    ]
    print(format_table(scores), file=sys.stderr)
    result = {"split": config.evaluate.split, "num_samples": len(split), "systems": [s.to_json() for s in scores]}
    config.evaluation_dir.mkdir(parents=True, exist_ok=True)
    (config.evaluation_dir / f"{config.evaluate.split}.json").write_text(json.dumps(result, indent=2) + "\n")
    metrics = {s.name: s.unmasked.metrics for s in scores}
    return {
        "job": "evaluate",
        "split": config.evaluate.split,
        "num_samples": len(split),
        "metrics": metrics,
        "evaluate_s": round(time.monotonic() - started, 2),
    }


def baseline_rankers(train_sequences: list[list[int]], num_items: int, valid: EvaluationSamples) -> dict[str, Ranker]:
    """Popularity, and item-kNN with the settings that are best on validation."""
    tuned = tune_item_knn(train_sequences, num_items, validation=ValidationSamples(valid.histories, valid.targets))
    return {
        "popularity": Popularity(train_sequences, num_items).rank,
        "item-knn": ItemKnn(train_sequences, num_items, tuned.settings).rank,
    }


def decoder_ranker(decoder: LatentDecoder, split: EncodedSplit, name: DecoderName) -> Ranker:
    """Ranks the samples of a split from their encoded histories, block by block."""

    def rank(histories: Sequence[Sequence[int]], k: int, exclude: Sequence[Collection[int]] | None) -> NDArray[np.int64]:
        assert len(histories) == len(split)
        blocks = []
        for start in range(0, len(split), QUERIES_PER_BLOCK):
            rows = slice(start, start + QUERIES_PER_BLOCK)
            banned = None if exclude is None else [list(items) for items in exclude[rows]]
            found = decoder.search(split.queries[rows], k, histories=histories[rows], decoder=name, excluded=banned)
            blocks.append(found.ids)
        return np.concatenate(blocks)

    return rank


def without_time(scores: SystemScores) -> SystemScores:
    """The scores alone: decoders rank encoded histories here, and jobs.measure_speed times all sides in turns."""
    return replace(scores, seconds_per_request=None)


if __name__ == "__main__":
    run(main, __doc__)
