"""Chooses the decoders' settings and the default decoder on validation, and stores them with the memory.

    python -m jobs.tune_decoder --config jobs/configs/quickstart.yaml decoder.metric=recall@20
    ray job submit --working-dir . -- python -m jobs.tune_decoder --config jobs/configs/quickstart.yaml run_dir=/mnt/runs/one

Needs jobs.build_index. Scores are unmasked and by item id; the test split is not read. The half-life of the prior that is best becomes the
memory's, as one version ("decay"), and the index is extended to it; decoder.half_lives_days=[] leaves the memory as it is. An index of an
older version is extended first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jobs import build_index
from jobs.cli import run
from l2d_ray.cluster import connect
from l2d_ray.config import DecoderConfig, RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.search import available_decoders
from l2d_ray.decode.settings import FILE
from l2d_ray.decode.tuning import Grids, tune
from l2d_ray.evaluate.metrics import metric_means, target_ranks
from l2d_ray.evaluate.on_ray import encode_split
from l2d_ray.index.layout import Index, open_index
from l2d_ray.index.segment import item_indexes_of
from l2d_ray.index.shard import Shard
from l2d_ray.memory.files import write_text
from l2d_ray.memory.statistics import NO_TIMESTAMP, Decay, decayed_counts
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import retried, set_half_life
from l2d_ray.model.loading import read_metadata, resolve_device
from l2d_ray.model.on_ray import EncoderSpec
from l2d_ray.schema import SECONDS_PER_DAY, VALID


def main(config: RunConfig) -> dict[str, Any]:
    started = time.monotonic()
    device = resolve_device(config.device)
    with connect(config.ray.address, config.ray.num_cpus):
        index = newest_index(config)
        spec = EncoderSpec(str(config.checkpoint_dir), device, config.memory.batch_tokens)
        split = encode_split(config.data_dir, VALID, spec=spec, num_workers=config.memory.num_workers)
    split = split.latest(config.decoder.max_samples)

    def score(ranked: NDArray[np.int64]) -> float:
        return metric_means(target_ranks(ranked, split.samples.targets))[config.decoder.metric]

    shards, memory = index.shards(device=device), Memory.open(config.memory_uri, version=index.manifest.memory_version)
    half_life_s_to_decay = {decay.half_life_s: decay for decay in decays_to_try(config.decoder, memory, shards)}
    counts = counts_of(memory, index.catalogue(), shards, list(half_life_s_to_decay.values()))
    half_life_s_to_counts = dict(zip(half_life_s_to_decay, counts, strict=True))
    grids = make_grids(config.decoder, tuple(half_life_s_to_decay))
    grids = grids if index.manifest.has_titles else grids.without_titles()
    with tqdm(total=grids.num_trials(available_decoders(shards)), desc="decoder trials", unit="trial") as progress:
        decayed, samples = half_life_s_to_counts.__getitem__, (split.queries, split.samples.histories)
        tuned = tune(*samples, shards, index.pooled(), score, grids=grids, decayed=decayed, on_trial=progress.update)
    decay = half_life_s_to_decay[tuned.half_life_s]
    retried(partial(set_half_life, half_life_s=decay.half_life_s, reference_time=decay.reference_time), memory)
    newest_index(config)
    write_text(config.memory_uri, FILE, tuned.settings.to_json())
    return {
        "job": "tune_decoder",
        "settings": asdict(tuned.settings),
        "half_life_days": tuned.half_life_s and tuned.half_life_s / SECONDS_PER_DAY,
        "metric": config.decoder.metric,
        "num_samples": len(split),
        "trials": [asdict(trial.settings) | {"half_life_s": trial.half_life_s, "score": round(trial.score, 5)} for trial in tuned.trials],
        "tune_s": round(time.monotonic() - started, 2),
    }


def newest_index(config: RunConfig) -> Index:
    """The index of the memory's newest version: extended to it where it is of an older one, with the shards and the kind that it has."""
    fingerprint = read_metadata(config.checkpoint_dir)["fingerprint"]
    index, memory = open_index(config.index_dir, fingerprint=fingerprint), Memory.open(config.memory_uri, fingerprint=fingerprint)
    if index.manifest.memory_version == memory.version:
        return index
    manifest = index.manifest
    settings = config.index.model_copy(update={"num_shards": manifest.num_shards, "kind": manifest.kind, "pairs": manifest.has_pairs})
    build_index.main(config.model_copy(update={"index": settings}))
    return open_index(config.index_dir, fingerprint=fingerprint)


def decays_to_try(settings: DecoderConfig, memory: Memory, shards: Sequence[Shard]) -> list[Decay]:
    """The memory's own where no half-life is asked for or no entry has a time; else one for each half-life, from the newest entry back."""
    newest = max(int(shard.statistics.last_timestamps.max(initial=NO_TIMESTAMP)) for shard in shards)
    if not settings.half_lives_days or newest == NO_TIMESTAMP:
        return [Decay(memory.half_life_s, memory.reference_time)]
    half_lives_s = [round(days * SECONDS_PER_DAY) or None for days in settings.half_lives_days]
    return [Decay(half_life_s, newest if half_life_s else 0) for half_life_s in half_lives_s]


def counts_of(memory: Memory, catalogue: Catalogue, shards: Sequence[Shard], decays: Sequence[Decay]) -> list[NDArray[np.float64]]:
    """For each decay the decayed counts of all items that have entries, ascending by item index; reads no vector."""
    items = np.sort(np.concatenate([shard.statistics.item_indexes for shard in shards]))
    source, batches = f"The memory at {memory.uri}", memory.scan(with_vectors=False)
    entries = ((item_indexes_of(batch.item_ids, catalogue, source).astype(np.int64), batch.timestamps) for batch in batches)
    return decayed_counts(items, entries, decays)


def make_grids(settings: DecoderConfig, half_lives_s: tuple[int | None, ...]) -> Grids:
    return Grids(
        num_neighbors=settings.num_neighbors,
        shrinkage=settings.shrinkages,
        mean_shrinkage=settings.mean_shrinkages,
        prior_weight=settings.prior_weights,
        prior_smoothing=settings.prior_smoothings,
        half_lives_s=half_lives_s,
        cold_count=settings.cold_counts,
        pair_weight=settings.pair_weights,
        pair_scale=settings.pair_scales,
        pair_recency_power=settings.pair_recency_powers,
        repeat_weight=settings.repeat_weights,
    )


if __name__ == "__main__":
    run(main, __doc__)
