"""Staging without Ray: blocks and partitions change nothing, ties keep the input's order, exact duplicates are one event."""

import pyarrow as pa
import pytest

from l2d_ray.data import staging
from l2d_ray.data.interactions import INTERACTIONS, Filters
from l2d_ray.data.staging import count_core_items, group_partition, read_ipc, sequences_path, sort_partition, stage_file

ITEM_IDS = pa.array(["a", "b", "c"])
FILES = (
    [("u", "b", None, 5), ("v", "a", None, 1), ("u", "a", None, 5), ("u", "x", None, 0)],
    [("u", "b", None, 5), ("u", "c", None, 2), ("v", "a", None, 2), ("u", "b", None, 6)],
)


def _table(rows):
    return pa.Table.from_pylist([dict(zip(INTERACTIONS.names, row, strict=True)) for row in rows], schema=INTERACTIONS)


def _staged(folder, *, rows_per_table=10, num_partitions=1, has_timestamps=True, drops_duplicates=True):
    """Sequences by user as (item_index, timestamps), and the number of duplicates, after a 1-core."""
    folder.mkdir()
    for file_index, rows in enumerate(FILES):
        tables = (_table(rows[first : first + rows_per_table]) for first in range(0, len(rows), rows_per_table))
        stage_file(tables, file_index, ITEM_IDS, filters=Filters(None, None, None), num_partitions=num_partitions, folder=folder)
    num_duplicates = sum(
        sort_partition(folder, partition, has_timestamps=has_timestamps, drops_duplicates=drops_duplicates)
        for partition in range(num_partitions)
    )
    is_alive = pa.array([True] * 3).to_numpy(zero_copy_only=False)
    users = []
    for partition in range(num_partitions):
        counts = count_core_items(folder, partition, is_alive, 1)
        summary = group_partition(folder, partition, is_alive, k=1)
        assert summary.num_interactions == counts.counts.sum()
        users += read_ipc(sequences_path(folder, partition)).to_pylist()
    return {user["user_id"]: (user["item_index"], user["timestamps"]) for user in users}, num_duplicates


def test_order_and_duplicates_by_hand(tmp_path):
    sequences, num_duplicates = _staged(tmp_path / "s")
    assert sequences == {"u": ([2, 1, 0, 1], [2, 5, 5, 6]), "v": ([0, 0], [1, 2])}
    assert num_duplicates == 1


def test_duplicates_are_kept_where_they_are_wanted(tmp_path):
    without, num_dropped = _staged(tmp_path / "s")
    sequences, num_duplicates = _staged(tmp_path / "t", drops_duplicates=False)
    assert num_duplicates == 0
    assert sum(len(items) for items, _ in sequences.values()) == num_dropped + sum(len(items) for items, _ in without.values())
    assert {user: set(zip(*rows, strict=True)) for user, rows in sequences.items()} == {
        user: set(zip(*rows, strict=True)) for user, rows in without.items()
    }


def test_without_times_the_order_is_the_inputs_and_nothing_is_a_duplicate(tmp_path):
    sequences, num_duplicates = _staged(tmp_path / "s", has_timestamps=False)
    assert sequences["u"][0] == [1, 0, 1, 2, 1]
    assert num_duplicates == 0


@pytest.mark.parametrize(("block_rows", "num_partitions"), [(1, 1), (2, 5), (100, 2)])
def test_blocks_and_partitions_change_nothing(block_rows, num_partitions, tmp_path, monkeypatch):
    expected = _staged(tmp_path / "expected")
    monkeypatch.setattr(staging, "BLOCK_ROWS", block_rows)
    assert _staged(tmp_path / "s", rows_per_table=1, num_partitions=num_partitions) == expected


def test_a_task_that_runs_twice_leaves_the_same(tmp_path):
    filters = Filters(None, None, None)
    for _ in range(2):
        stage_file([_table(FILES[0])], 0, ITEM_IDS, filters=filters, num_partitions=1, folder=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["piece-00000-000000-000000.arrow"]
    assert sort_partition(tmp_path, 0, has_timestamps=True, drops_duplicates=True) == 0
    assert read_ipc(tmp_path / "sorted-00000.arrow").num_rows == 3
