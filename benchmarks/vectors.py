"""Vectors for benchmarks of the index: real states of a language model, and clouds around them of any size.

Uniform random vectors say nothing of an index; states are anisotropic and clustered. ``real_states`` encodes MovieLens-100K's training and
validation samples with SmolLM2-135M as it comes (d = 576), once, and keeps the arrays. ``write_jittered`` makes a larger memory of
them: copies of every state, moved by Gaussian noise whose length is ``JITTER`` times the distance from the state to its nearest
neighbours, with the covariance of the states' residuals, so that a copy is about as far from its source as another real state is.
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
from l2d_ray.model.encoder import Encoder
from l2d_ray.schema import TRAIN, VALID
from l2d_ray.text.harvest import harvest
from l2d_ray.text.prompts import tokenize_titles


@dataclass(frozen=True, eq=False)
class States:
    """Encoded samples.

    Attributes:
        vectors: (n, d) float16, the training samples' states.
        item_indexes: (n,) int64, their targets.
        queries: (q, d) float32, the validation samples' states.
        query_targets: (q,) int64.
    """

    vectors: NDArray[np.float16]
    item_indexes: NDArray[np.int64]
    queries: NDArray[np.float32]
    query_targets: NDArray[np.int64]


def real_states(run_dir: Path, *, max_users: int | None = None) -> States:
    """States of MovieLens-100K's samples under SmolLM2; encoded on the first call, then read from ``run_dir/states``."""
    folder = run_dir / (f"states-{max_users}-users" if max_users else "states")
    names = ("vectors", "item_indexes", "queries", "query_targets")
    if not folder.is_dir():
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        for name, array in zip(names, _encode(run_dir, max_users), strict=True):
            np.save(partial / f"{name}.npy", array)
        partial.rename(folder)
    return States(*(np.load(folder / f"{name}.npy") for name in names))


def _encode(run_dir: Path, max_users: int | None) -> tuple[NDArray[np.generic], ...]:
    config = RunConfig.model_validate({"run_dir": run_dir.absolute(), "device": "cpu", "model": {"name": "smollm2"}})
    if not config.data_dir.is_dir():
        prepare_data.main(config)
    catalogue = Catalogue.read(config.data_dir / "items.parquet")
    language_model = base_model(config, catalogue, "cpu")
    titles = dict(zip(catalogue.item_ids, tokenize_titles(language_model.tokenizer, catalogue.titles, 48), strict=True))
    users = list(iter_sequences(config.data_dir))[:max_users]
    encoder = Encoder(language_model.model)
    arrays: list[NDArray[np.generic]] = []
    for split, dtype in ((TRAIN, np.float16), (VALID, np.float32)):
        found = harvest(users, split, item_id_to_title=titles, prompts=language_model.prompts)
        arrays.append(encoder.encode_windows(found.windows).astype(dtype))
        arrays.append(np.array(catalogue.indexes_of([target.item_id for target in found.targets]), dtype=np.int64))
    return tuple(arrays)
