"""A segment is self-contained: it is read without the catalogue it was written with, as it was written, in any order of rows."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.errors import ArtefactError
from l2d_ray.index.segment import (
    RowKeys,
    Segment,
    SegmentRows,
    open_search,
    open_segment,
    read_item_ids,
    read_keys,
    search_bytes,
    write_segment,
)
from l2d_ray.memory.checksums import vector_halves

DIM = 4
ITEM_IDS = ("apple", "fig", "pear", "quince")


def catalogue_of(item_ids: tuple[str, ...]) -> Catalogue:
    return Catalogue.from_rows((item_id, item_id.title(), {}) for item_id in item_ids)


def make_rows(count: int, *, seed: int = 0, first_time: int = 1_600_000_000) -> SegmentRows:
    rng = np.random.default_rng(seed)
    ids = rng.permutation(10 * count)[:count].astype(np.int64)
    items, times = pa.array(rng.choice(["apple", "fig", "quince"], count)), first_time + rng.integers(0, 99, count)
    vectors = rng.normal(size=(count, DIM)).astype(np.float16)
    return SegmentRows(ids, items, times, vector_halves(vectors), vectors)


def blocks_of(rows: SegmentRows, *sizes: int) -> list[SegmentRows]:
    edges = np.cumsum([0, *sizes]).tolist()
    return [
        SegmentRows(*(getattr(rows, name)[a:b] for name in ("sample_ids", "item_ids", "timestamps", "checksums", "vectors")))
        for a, b in pairwise(edges)
    ]


def write(folder: Path, blocks: list[SegmentRows], *, kind: str = "exact", item_ids: tuple[str, ...] = ITEM_IDS) -> Segment:
    catalogue = catalogue_of(item_ids)
    keys = read_keys(blocks, catalogue, source="The test")
    return write_segment(folder, keys, blocks, catalogue=catalogue, dim=DIM, kind=kind)


def rows_in(folder: Path) -> set[tuple]:
    segment, item_ids = open_segment(folder), read_item_ids(folder)
    found = list(segment.rows(np.arange(len(segment)), item_ids, where=folder))
    return {row for block in found for row in as_tuples(block)}


def as_tuples(rows: SegmentRows) -> list[tuple]:
    columns = (rows.sample_ids.tolist(), rows.item_ids.to_pylist(), rows.timestamps.tolist(), rows.checksums.tolist())
    return list(zip(*columns, (vector.tobytes() for vector in rows.vectors), strict=True))


@pytest.mark.parametrize("sizes", [(30,), (1, 29), (10, 0, 20)])
def test_what_was_written_is_read_in_the_order_of_item_and_sample(tmp_path, sizes):
    rows = make_rows(30)
    written = write(tmp_path / "segment", blocks_of(rows, *sizes))
    segment = open_segment(tmp_path / "segment")
    assert len(segment) == 30
    assert rows_in(tmp_path / "segment") == set(as_tuples(rows))
    for name in ("vectors", "sample_ids", "item_slots", "timestamps", "checksums"):
        array = getattr(segment, name)
        np.testing.assert_array_equal(array, getattr(written, name))
        assert isinstance(array, np.memmap)
    keys = list(zip(segment.item_slots.tolist(), segment.sample_ids.tolist(), strict=True))
    assert keys == sorted(keys)
    assert read_item_ids(tmp_path / "segment").to_pylist() == ["apple", "fig", "quince"]


def test_the_same_rows_make_the_same_files_whatever_the_catalogue(tmp_path):
    """Else a grown catalogue would rewrite segments."""
    rows = blocks_of(make_rows(30), 30)
    write(tmp_path / "one", rows)
    write(tmp_path / "two", rows, item_ids=("aardvark", *ITEM_IDS, "zebra"))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 7
    assert [(tmp_path / "one" / n).read_bytes() for n in names] == [(tmp_path / "two" / n).read_bytes() for n in names]


@pytest.mark.parametrize(("first_time", "dtype"), [(1_600_000_000, np.int32), (2**31, np.int64), (-1, np.int32)])
def test_times_take_32_bits_where_they_fit(tmp_path, first_time, dtype):
    rows = make_rows(20, first_time=first_time)
    write(tmp_path / "segment", [rows])
    assert open_segment(tmp_path / "segment").timestamps.dtype == dtype
    assert rows_in(tmp_path / "segment") == set(as_tuples(rows))


@pytest.mark.parametrize("kind", ["exact", "compressed"])
def test_a_segment_is_searched_by_its_kind(tmp_path, kind):
    write(tmp_path / "segment", [make_rows(40)], kind=kind)
    segment = open_segment(tmp_path / "segment")
    queries = np.asarray(segment.vectors[:5], dtype=np.float32)
    found = open_search(tmp_path / "segment", segment, device="cpu").nearest(queries, 10)
    assert found.positions[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert (tmp_path / "segment" / "codes.faiss").exists() == (kind == "compressed")
    codes = tmp_path / "segment" / "codes.faiss"
    assert search_bytes(tmp_path / "segment") >= (codes.stat().st_size if kind == "compressed" else 40 * DIM * 2)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, value):
    rows = make_rows(5)
    rows.vectors[3, 1] = value
    with pytest.raises(ArtefactError, match=f"The vector of sample {rows.sample_ids[3]} holds NaN or infinite values"):
        write(tmp_path / "segment", [rows])


def test_an_item_that_the_catalogue_lacks_and_a_doubled_sample_are_refused():
    rows = make_rows(20)
    with pytest.raises(ArtefactError, match=r"The test holds item '\w+', which its catalogue lacks"):
        read_keys([rows], catalogue_of(("fig",)), source="The test")
    keys = read_keys([rows], catalogue_of(ITEM_IDS), source="The test")
    keys.check_unique("The test")
    with pytest.raises(ArtefactError, match="The test holds a sample_id twice"):
        RowKeys.joined([keys, keys]).check_unique("The test")


def test_vectors_that_differ_from_their_checksums_are_not_handed_on(tmp_path):
    segment = write(tmp_path / "segment", [make_rows(20)])
    segment.vectors[7, 0] += 1
    item_ids = read_item_ids(tmp_path / "segment")
    assert len(list(segment.rows(np.arange(7), item_ids, where=tmp_path))) == 1
    with pytest.raises(ArtefactError, match=r"vectors\.npy was changed since it was built"):
        list(segment.rows(np.arange(20), item_ids, where=tmp_path))
