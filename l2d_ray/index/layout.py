"""The index of one memory version as a whole: shards, the catalogue, the pooled covariance and a manifest.

    INDEX/manifest.json        what the index was made from, and the hash of all below; replaced by a rename, which is the swap
    INDEX/lock                 held by whoever builds; says nothing to readers
    INDEX/pinned.json          the generation that a service stays at, where it was told to; never removed
    INDEX/v7-0123456789ab.json the manifest of a generation, also of one that is not the newest any more
    INDEX/v7-0123456789ab/     the generation; those before the newest stay for a while
        items.parquet          the catalogue that item_index refers to
        within_covariance.npy, mean.npy    (d, d) and (d,) float64, pooled over all shards
        titles-00000.*.npy ..., title_map.npy   see index.titles; absent where titles were not encoded
        shard-00000/ ...

An index is derived data: it is refused where its fingerprint is not the model's, and rebuilt from the memory at any time. Who opens it
reads the manifest once and finds all parts of that generation, whatever is swapped in meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError, ConflictError
from l2d_ray.index.build import IndexKind
from l2d_ray.index.sealed import REMEDY, Summary, read_summary, seal
from l2d_ray.index.shard import SUMMARY, Shard, load_shard, verify_shard
from l2d_ray.index.titles import TITLE_MAP, titles_files
from l2d_ray.memory.commits import writing
from l2d_ray.memory.statistics import PooledStatistics
from l2d_ray.memory.titles import TitleMap, TitleStates

MANIFEST: Final = "manifest.json"
LOCK: Final = "lock"
PINNED: Final = "pinned.json"
GENERATIONS: Final = "v*-*.json"
CATALOGUE: Final = "items.parquet"
POOLED: Final = ("within_covariance", "mean")


@dataclass(frozen=True)
class IndexManifest:
    """What an index was built from, and what it costs.

    Attributes:
        generation: name of the folder that holds it.
        num_entries, num_items: live entries of each shard, and items that have one.
        num_dead: entries of each shard's files that no longer count.
        digest: the memory version's, 16 hexadecimal digits.
        half_life_s, reference_time: of the decayed counts.
        statistics_bytes, pairs_bytes, entries_bytes: what serving keeps in memory for each shard's statistics and, on top, for its pairs
            and its entries.
        has_titles: whether the states of titles are in it.
    """

    memory_version: int
    fingerprint: str
    dim: int
    kind: IndexKind
    num_shards: int
    generation: str
    num_entries: tuple[int, ...]
    num_items: tuple[int, ...]
    num_dead: tuple[int, ...]
    digest: str
    half_life_s: int | None
    reference_time: int
    statistics_bytes: tuple[int, ...]
    pairs_bytes: tuple[int, ...]
    entries_bytes: tuple[int, ...]
    has_titles: bool

    @property
    def has_pairs(self) -> bool:
        """Whether item pairs are in it."""
        return any(self.pairs_bytes)

    @property
    def largest_share(self) -> float:
        """Share of all entries that the largest shard holds; 1 / num_shards where they are spread evenly."""
        return max(self.num_entries) / max(sum(self.num_entries), 1)

    @classmethod
    def from_fields(cls, content: Mapping[str, Any]) -> IndexManifest:
        """Raises KeyError where a field is missing."""
        values: dict[str, Any] = {field.name: content[field.name] for field in fields(cls)}
        return cls(**values | {name: tuple(value) for name, value in values.items() if isinstance(value, list)})


@dataclass(frozen=True)
class Index:
    """An index that was opened: all its parts are of the generation that the manifest named then."""

    index_dir: Path
    manifest: IndexManifest
    summary: Summary

    def shard_dir(self, shard: int) -> Path:
        return shard_dir(self.index_dir / self.manifest.generation, shard)

    def catalogue(self) -> Catalogue:
        return Catalogue.read(self._verified(CATALOGUE))

    def pooled(self) -> PooledStatistics:
        """What all shards share."""
        pooled = PooledStatistics(*(np.load(self._verified(f"{name}.npy"), allow_pickle=False) for name in POOLED))
        name = f"{self.manifest.generation}/{TITLE_MAP}"
        return replace(pooled, title_map=TitleMap(self.summary.array(name))) if name in self.summary.files else pooled

    def warm_items(self) -> NDArray[np.int64]:
        """(m,) items that have entries, ascending."""
        names = [f"{shard_dir(Path(), shard)}/{SUMMARY}" for shard in range(self.manifest.num_shards)]
        return np.sort(np.concatenate([read_summary(self._verified(name)).array("items.npy") for name in names]))

    def titles(self, shard: int) -> TitleStates | None:
        """States of the titles of a shard's items, memory-mapped; None where titles were not encoded."""
        if not self.manifest.has_titles:
            return None
        items, states = (f"{self.manifest.generation}/{name}" for name in titles_files(shard))
        return TitleStates(self.summary.array(items), self.summary.array(states, in_memory=False))

    def shard(self, shard: int, *, device: str = "cpu", with_entries: bool = True, with_pairs: bool = True) -> Shard:
        """A shard; ArtefactError names a file that is missing or changed. Without entries no file of an entry is opened."""
        folder = self._verified(f"{shard_dir(Path(), shard)}/{SUMMARY}").parent
        loaded = load_shard(folder, device=device, with_entries=with_entries, with_pairs=with_pairs)
        return replace(loaded, titles=self.titles(shard))

    def shards(self, *, device: str = "cpu", with_entries: bool = True) -> list[Shard]:
        """Every shard, for one process that does it all."""
        return [self.shard(shard, device=device, with_entries=with_entries) for shard in range(self.manifest.num_shards)]

    def verify(self, *, with_entries: bool = True) -> None:
        """Compare every file with its hash, keeping nothing; ArtefactError names the file that differs."""
        for name in self.summary.files:
            path = self.summary.verified(name)
            if path.name == SUMMARY:
                verify_shard(path.parent, with_entries=with_entries)

    def _verified(self, name: str) -> Path:
        return self.summary.verified(f"{self.manifest.generation}/{name}")


def shard_dir(generation_dir: Path, shard: int) -> Path:
    return generation_dir / f"shard-{shard:05d}"


def open_index(index_dir: Path, *, fingerprint: str | None = None, generation: str | None = None) -> Index:
    """Read and check a manifest, of the newest generation where none is named; refuses an index of another model."""
    path = index_dir / (MANIFEST if generation is None else f"{generation}.json")
    if not path.is_file():
        raise ArtefactError(f"There is no index at {index_dir if generation is None else path}; run jobs.build_index first.")
    summary = read_summary(path)
    try:
        manifest = IndexManifest.from_fields(summary.fields)
    except KeyError as error:
        raise ArtefactError(f"{path} has no field {error}; {REMEDY}.") from None
    if fingerprint is not None and manifest.fingerprint != fingerprint:
        raise ArtefactError(
            f"The index at {index_dir} was made by the model {manifest.fingerprint}, the model here is {fingerprint}; "
            "use that model, or build memory and index with this one."
        )
    return Index(index_dir, manifest, summary)


def read_manifest(index_dir: Path, *, fingerprint: str | None = None) -> IndexManifest:
    """The manifest alone, as ``open_index`` checks it."""
    return open_index(index_dir, fingerprint=fingerprint).manifest


def load_catalogue(index_dir: Path) -> Catalogue:
    return open_index(index_dir).catalogue()


def load_pooled(index_dir: Path) -> PooledStatistics:
    return open_index(index_dir).pooled()


def load_shards(index_dir: Path, *, device: str = "cpu", with_entries: bool = True) -> list[Shard]:
    """Every shard, for one process that does it all; see ``Index.shard``."""
    return open_index(index_dir).shards(device=device, with_entries=with_entries)


def publish(
    index_dir: Path, manifest: IndexManifest, *, catalogue: Catalogue, pooled: PooledStatistics, titles: Sequence[str] = ()
) -> None:
    """Swap in the generation whose sealed shards stand in their places: readers find the old index or the new one, never none.

    Args:
        titles: names of the generation's files of titles.
    """
    generation_dir = index_dir / manifest.generation
    catalogue.write(generation_dir / CATALOGUE)
    for name in POOLED:
        np.save(generation_dir / f"{name}.npy", getattr(pooled, name))
    shards = [f"{shard_dir(Path(manifest.generation), shard)}/{SUMMARY}" for shard in range(manifest.num_shards)]
    files = [*(f"{manifest.generation}/{name}" for name in (CATALOGUE, *(f"{name}.npy" for name in POOLED), *titles)), *shards]
    for name in (f"{manifest.generation}.json", MANIFEST):
        seal(index_dir / name, asdict(manifest), files)


@contextmanager
def only_builder(index_dir: Path) -> Iterator[None]:
    """A ``with`` block in which no other process builds here, as far as the file system has locks; ConflictError where one does."""
    with writing(str(index_dir)):
        index_dir.mkdir(parents=True, exist_ok=True)
        file = (index_dir / LOCK).open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConflictError(
                f"Another jobs.build_index is at work on {index_dir}; run the same again once it has ended, or build in another place."
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
        yield


def generations(index_dir: Path) -> list[str]:
    """Names of the generations that are whole, ascending by memory version."""
    names = [path.stem for path in index_dir.glob(GENERATIONS)]
    return sorted(names, key=lambda name: (int(name[1:].partition("-")[0]), name))


def pinned_generation(index_dir: Path) -> str | None:
    """The generation that a service stays at; None where it follows the newest."""
    try:
        name: str | None = json.loads((index_dir / PINNED).read_text())["generation"]
    except FileNotFoundError:
        return None
    return name


def pin_generation(index_dir: Path, name: str | None) -> None:
    """Let every service of this index stay at a generation, or with None follow the newest again."""
    partial = index_dir / f"{PINNED}.partial"
    with writing(str(index_dir)):
        partial.write_text(json.dumps({"generation": name}) + "\n")
        partial.replace(index_dir / PINNED)


def remove_generations(index_dir: Path, *, keep: set[str]) -> None:
    """Delete other generations, half-built ones too, but not the pinned one."""
    keep = keep | {pinned_generation(index_dir) or ""}
    for path in index_dir.glob(GENERATIONS):
        if path.stem not in keep:
            path.unlink()
    for folder in index_dir.glob("v*-*"):
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder)
