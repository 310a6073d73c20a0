"""Query vectors of a whole split, encoded on Ray Data by the same actors that build the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target, part_paths
from l2d_ray.errors import DataError
from l2d_ray.evaluate.queries import EncodedSplit, samples_of_parts
from l2d_ray.model.on_ray import EncoderSpec, encode_parts
from l2d_ray.schema import SPLIT_NAMES


def encode_split(data_dir: Path, split: int, *, spec: EncoderSpec, num_workers: int) -> EncodedSplit:
    """Samples of the split and their query vectors; DataError where the split is empty."""
    catalogue = Catalogue.read(data_dir / "items.parquet")
    paths = part_paths(data_dir)
    samples, timestamps = samples_of_parts(paths, split, catalogue)
    if not len(samples):
        raise DataError(f"The {SPLIT_NAMES[split]} split under {data_dir} holds no sample; use more data or larger fractions.")
    vectors = {}
    rows = encode_parts([str(path) for path in paths], split, spec=spec, catalogue=catalogue, sink=_keep, num_workers=num_workers)
    for row in tqdm(rows, total=len(paths), desc=f"{SPLIT_NAMES[split]} queries", unit="part"):
        vectors[row["path"]] = np.frombuffer(row["vectors"], dtype=np.float32).reshape(row["num_samples"], row["dim"])
    filled = [vectors[str(path)] for path in paths if len(vectors[str(path)])]
    return EncodedSplit(samples, np.concatenate(filled), timestamps)


def _keep(path: Path, targets: list[Target], vectors: NDArray[np.float32]) -> dict[str, Any]:
    """Sink of the encoder actors: the vectors themselves."""
    return {"vectors": vectors.tobytes(), "num_samples": len(targets), "dim": vectors.shape[1]}
