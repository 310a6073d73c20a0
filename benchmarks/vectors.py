"""Vectors for benchmarks of the index: real states of a language model, and clouds around them of any size.

Uniform random vectors say nothing of an index; states are anisotropic and clustered. ``real_states`` encodes MovieLens-100K's training and
validation samples with SmolLM2-135M as it comes (d = 576), once, and keeps the arrays. ``write_jittered`` makes a larger memory of
them: copies of every state, moved by half the distance to its tenth nearest state, in directions in which near states differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs import prepare_data
from jobs.train import base_model
from l2d_ray.config import RunConfig
from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import iter_sequences
from l2d_ray.index.exact import ExactSearch
from l2d_ray.model.encoder import Encoder
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import tokenize_titles

NUM_USERS = 160
"""Users whose training samples are encoded: some 8,000 states, five minutes on two cores."""
NUM_QUERY_USERS = 480
"""Users whose validation samples are encoded: some 2,700 queries, so that a Recall@20 of a tenth is known to a twentieth of itself."""
JITTER = 0.5
NEIGHBOR = 10
WRITE_ROWS = 65536


@dataclass(frozen=True, eq=False)
class States:
    """Encoded samples.

    Attributes:
        vectors: (n, d) float16, the states of some users' training samples.
        item_indexes: (n,) int64, their targets.
        queries: (q, d) float32, the states of these and more users' validation samples.
        query_targets: (q,) int64.
    """

    vectors: NDArray[np.float16]
    item_indexes: NDArray[np.int64]
    queries: NDArray[np.float32]
    query_targets: NDArray[np.int64]


def real_states(run_dir: Path, *, max_users: int = NUM_USERS) -> States:
    """States of MovieLens-100K's samples under SmolLM2; encoded on the first call, then read from ``run_dir/states``."""
    folder = run_dir / f"states-{max_users}-users"
    max_query_users = max_users * NUM_QUERY_USERS // NUM_USERS
    names = ("vectors", "item_indexes", "queries", "query_targets")
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name, array in zip(names, _encode(run_dir, max_users, max_query_users), strict=True):
            np.save(partial / f"{name}.npy", array)
        partial.rename(folder)
    return States(*(np.load(folder / f"{name}.npy") for name in names))


def _encode(run_dir: Path, max_users: int, max_query_users: int) -> tuple[NDArray[np.generic], ...]:
    config = RunConfig.model_validate({"run_dir": run_dir.absolute(), "device": "cpu", "model": {"name": "smollm2"}})
    if not config.data_dir.is_dir():
        prepare_data.main(config)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    language_model = base_model(config, catalogue, "cpu")
    titles = dict(zip(catalogue.item_ids, tokenize_titles(language_model.tokenizer, catalogue.titles, 48), strict=True))
    users = list(iter_sequences(config.data_dir))
    encoder = Encoder(language_model.model)
    arrays: list[NDArray[np.generic]] = []
    for split, count, dtype in ((TRAIN, max_users, np.float16), (VALID, max_query_users, np.float32)):
        found = harvest(users[:count], split, item_id_to_title=titles, prompts=language_model.prompts)
        arrays.append(encoder.encode_windows(found.windows).astype(dtype))
        arrays.append(np.array(catalogue.indexes_of([target.item_id for target in found.targets]), dtype=np.int64))
    return tuple(arrays)


@dataclass(frozen=True, eq=False)
class Entries:
    """A made memory, sorted by item as a shard is: vectors (n, d) float16, memory-mapped; item_indexes and sample_ids (n,) int64."""

    vectors: NDArray[np.float16]
    item_indexes: NDArray[np.int64]
    sample_ids: NDArray[np.int64]


def jittered_entries(states: States, size: int, folder: Path, *, seed: int = 0) -> Entries:
    """``size`` entries, written once into ``folder``: every state (where size allows) and moved copies of it.

    The first copy of a state is the state itself. A moved copy is a Gaussian step away whose covariance has the shape of the covariance
    of differences between near states, and whose root-mean-square length is ``JITTER`` times the state's distance to its
    ``NEIGHBOR``-th nearest state.
    """
    path = folder / f"vectors-{size}.npy"
    by_item = np.argsort(states.item_indexes, kind="stable")
    sources = by_item[np.arange(size) * len(by_item) // size]
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        steps, lengths = _steps(states.vectors, seed)
        partial = path.with_suffix(".partial")
        written = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=(size, states.vectors.shape[1]))
        rng = np.random.default_rng(seed)
        is_copy = np.diff(sources, prepend=-1) == 0
        for start in range(0, size, WRITE_ROWS):
            rows = slice(start, start + WRITE_ROWS)
            block = states.vectors[sources[rows]].astype(np.float32)
            noise = rng.standard_normal(block.shape, dtype=np.float32) @ steps
            written[rows] = block + noise * (lengths[sources[rows]] * is_copy[rows])[:, None]
        written.flush()
        partial.rename(path)
    sample_ids = np.random.default_rng(seed).permutation(size).astype(np.int64)
    return Entries(np.load(path, mmap_mode="r"), states.item_indexes[sources], sample_ids)


def _steps(vectors: NDArray[np.float16], seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A factor (d, d) that gives standard normals the steps' covariance, of mean squared length 1; and every state's step length (n,)."""
    found = ExactSearch(vectors, np.arange(len(vectors))).nearest(vectors.astype(np.float32), NEIGHBOR + 1)
    drawn = np.random.default_rng(seed).choice(len(vectors), min(len(vectors), 4 * vectors.shape[1]), replace=False)
    differences = vectors[found.positions[drawn, -1]].astype(np.float64) - vectors[drawn]
    covariance = differences.T @ differences
    values, axes = np.linalg.eigh(covariance / np.trace(covariance))
    factor = (axes * np.sqrt(values.clip(min=0))).T
    return factor.astype(np.float32), (JITTER * np.sqrt(found.keys[:, -1])).astype(np.float32)
