"""The index of one memory version as a whole: a folder of shards, its catalogue, the pooled covariance and a manifest.

    INDEX/manifest.json            memory version, fingerprint, dim, number of shards, entries of each; written last
    INDEX/items.parquet            the catalogue that item_index refers to
    INDEX/within_covariance.npy    (d, d) float64, pooled over all shards
    INDEX/shard-00000/ ...

An index is derived data: it is refused where its fingerprint is not the model's, and rebuilt from the memory at any time.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.shard import Shard, load_shard
from l2d_ray.schema import FORMAT_VERSION

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class IndexManifest:
    """What an index was built from."""

    memory_version: int
    fingerprint: str
    dim: int
    num_shards: int
    num_entries: tuple[int, ...]
    format_version: int = FORMAT_VERSION


def shard_dir(index_dir: Path, shard: int) -> Path:
    return index_dir / f"shard-{shard:05d}"


def write_manifest(index_dir: Path, manifest: IndexManifest, *, catalogue: Catalogue, within_covariance: NDArray[np.float64]) -> None:
    """Write what belongs to all shards, the manifest last."""
    catalogue.write(index_dir / "items.parquet")
    np.save(index_dir / "within_covariance.npy", within_covariance)
    partial = index_dir / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(asdict(manifest), indent=2) + "\n")
    partial.rename(index_dir / MANIFEST)


def read_manifest(index_dir: Path, *, fingerprint: str | None = None) -> IndexManifest:
    """Read and check the manifest; refuses an index of another model."""
    path = index_dir / MANIFEST
    if not path.is_file():
        raise ArtefactError(f"There is no index at {index_dir}; run jobs.build_index first.")
    try:
        fields = json.loads(path.read_text())
        manifest = IndexManifest(**(fields | {"num_entries": tuple(fields["num_entries"])}))
    except (ValueError, TypeError, KeyError):
        raise ArtefactError(f"{path} is damaged; delete the index and run jobs.build_index again.") from None
    if manifest.format_version != FORMAT_VERSION:
        raise ArtefactError(f"{path} has format version {manifest.format_version}, this release reads {FORMAT_VERSION}; build it again.")
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ArtefactError(
            f"The index at {index_dir} was made by the model {manifest.fingerprint}, the model here is {fingerprint}; "
            "use that model, or build memory and index with this one."
        )
    return manifest


def load_catalogue(index_dir: Path) -> Catalogue:
    return Catalogue.read(index_dir / "items.parquet")


def load_covariance(index_dir: Path) -> NDArray[np.float64]:
    covariance: NDArray[np.float64] = np.load(index_dir / "within_covariance.npy", allow_pickle=False)
    return covariance


def load_shards(index_dir: Path, *, device: str = "cpu") -> list[Shard]:
    """Every shard, for one process that does it all."""
    manifest = read_manifest(index_dir)
    return [load_shard(shard_dir(index_dir, shard), device=device) for shard in range(manifest.num_shards)]
