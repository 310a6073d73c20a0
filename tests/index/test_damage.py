"""Damage anywhere in an index is refused by the file's name, or changes nothing: never a silent wrong answer."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import MANIFEST, POOLED, open_index, read_manifest, remove_generations
from l2d_ray.index.shard import ARRAY_TO_FIELD, TOTAL, WITHIN_SCATTER
from l2d_ray.memory.update import forget_users
from tests.index.memories import DIM, answers_of, append_rows, files_of, make_memory, random_items
from tests.toys import build_toy_index

QUERIES = np.random.default_rng(9).normal(size=(4, DIM)).astype(np.float32)
NUM_PLACES = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Two shards of the compressed kind, extended: tombstones and a second segment that is searched exactly."""
    folder = tmp_path_factory.mktemp("whole")
    memory = make_memory(str(folder / "memory"), random_items())
    build_toy_index(memory, folder / "index", 2, kind="compressed")
    newer = forget_users(append_rows(memory, random_items(12), first=500), ["u3", "u4", "u5"])
    build_toy_index(newer, folder / "index", 2, kind="compressed", rebuild_fraction=1.0)
    remove_generations(folder / "index", keep={open_index(folder / "index").manifest.generation})
    return folder / "index"


@pytest.fixture
def index_dir(whole: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "index"))


def answer(index_dir: Path) -> str:
    """Everything that a decoder may take from an index."""
    index = open_index(index_dir)
    shards = index.shards()
    statistics = [getattr(shard.statistics, name).tobytes() for shard in shards for name in ARRAY_TO_FIELD.values()]
    neighbours = answers_of(shards, QUERIES, 45)
    items = [shard.items_at(shard.live_positions()).tolist() for shard in shards]
    return repr(
        (
            index.manifest,
            open_index(index_dir, generation=index.manifest.generation).manifest,
            index.catalogue(),
            [getattr(index.pooled(), name).tobytes() for name in POOLED],
            statistics,
            neighbours,
            items,
        )
    )


def damaged_files(index_dir: Path) -> list[Path]:
    """All but those that only the end of a build reads."""
    return [path for path in sorted(index_dir.rglob("*")) if path.is_file() and path.name not in (WITHIN_SCATTER, TOTAL)]


def test_the_index_has_every_sort_of_file(whole):
    names = {path.name for path in damaged_files(whole)}
    segment = {"vectors.npy", "sample_ids.npy", "item_slots.npy", "timestamps.npy", "checksums.npy", "segment.json", "items.parquet"}
    tombstones = {"segment-00000.dead.npy", "segment-00001.dead.npy", "segment-00000.items.npy"}
    assert names >= segment | tombstones | {
        "codes.faiss",
        "shard.json",
        "manifest.json",
        "within_covariance.npy",
        "mean.npy",
        "scatter.npy",
    }
    assert sum(read_manifest(whole).num_dead) == 3


def test_a_flipped_or_missing_byte_at_any_place_is_refused_by_name_or_changes_nothing(index_dir):
    expected, rng = answer(index_dir), np.random.default_rng(0)
    files, num_refused = damaged_files(index_dir), 0
    assert len(files) > 40
    for number in range(NUM_PLACES):
        path = files[number % len(files)] if number % 2 else files[rng.integers(len(files))]
        content = path.read_bytes()
        place = int(rng.integers(len(content)))
        flipped = content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :]
        path.write_bytes(content[:place] if rng.random() < 0.25 else flipped)
        try:
            assert answer(index_dir) == expected, f"{path} at {place}"
        except ArtefactError as error:
            assert str(path) in str(error), f"{path} at {place}: {error}"  # noqa: PT017, either outcome is right
            num_refused += 1
        path.write_bytes(content)
    assert num_refused > 0.95 * NUM_PLACES
    assert answer(index_dir) == expected


@pytest.mark.parametrize("name", [WITHIN_SCATTER, TOTAL])
def test_what_only_builds_read_is_verified_too(index_dir, name):
    path = next(index_dir.rglob(name))
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(ArtefactError, match=name):
        open_index(index_dir).verify()


@pytest.mark.parametrize("number", range(0, 48, 3))
def test_a_missing_file_is_refused_by_name(index_dir, number):
    path = damaged_files(index_dir)[number]
    path.unlink()
    with pytest.raises(ArtefactError) as caught:
        answer(index_dir)
    assert str(path if path.name != MANIFEST else index_dir) in str(caught.value)


def test_files_of_another_shard_or_index_are_refused(index_dir):
    """Each is whole in itself; only the chain of hashes from the manifest tells."""
    index = open_index(index_dir)
    for name in ("shard.json", "segment-00000/segment.json"):
        ours, theirs = index.shard_dir(0) / name, index.shard_dir(1) / name
        content = ours.read_bytes()
        ours.write_bytes(theirs.read_bytes())
        with pytest.raises(ArtefactError, match=f"{ours} is missing, truncated or changed"):
            answer(index_dir)
        ours.write_bytes(content)


def test_verify_finds_what_a_reader_of_statistics_does_not_open(index_dir):
    index = open_index(index_dir)
    path = index.shard_dir(1) / "segment-00000" / "vectors.npy"
    path.write_bytes(path.read_bytes()[:-1])
    index.verify(with_entries=False)
    assert len(index.shards(with_entries=False)) == 2
    with pytest.raises(ArtefactError, match=f"{path} is missing, truncated or changed"):
        index.verify()


def test_a_manifest_that_is_absent_damaged_or_of_another_format_is_refused(index_dir):
    path = index_dir / MANIFEST
    fields = json.loads(path.read_text())
    for content, sentence in {
        json.dumps(fields | {"format_version": 1}): f"{path} has format version 1, this release reads",
        json.dumps(fields | {"dim": 7}): f"{path} is damaged",
        json.dumps({"memory_version": 1}): f"{path} is missing or damaged",
        "[]": f"{path} is missing or damaged",
        "": f"{path} is missing or damaged",
    }.items():
        path.write_text(content)
        with pytest.raises(ArtefactError, match=sentence):
            read_manifest(index_dir)
    path.unlink()
    with pytest.raises(ArtefactError, match=r"There is no index at .*; run jobs.build_index first"):
        read_manifest(index_dir)


def test_a_damaged_index_is_built_anew(index_dir):
    """Where its manifest cannot be read, and in the folder whose shards are damaged."""
    memory = make_memory(str(index_dir.parent / "memory"), random_items())
    build_toy_index(memory, index_dir, 2)
    for path in open_index(index_dir).shard_dir(0).rglob("vectors.npy"):
        path.write_bytes(b"half")
    (index_dir / MANIFEST).unlink()
    build_toy_index(memory, index_dir, 2)
    open_index(index_dir).verify()
    assert len(files_of(index_dir)) > 20
