"""Explanations name an item's nearest live entries, wherever in the index they are."""

import numpy as np
import pytest

from l2d_ray.decode.lookup import nearest_entries_of_item
from l2d_ray.index.layout import load_shards
from l2d_ray.index.search import squared_distances
from l2d_ray.memory.update import forget_users
from tests.index.memories import DIM, append_rows, make_memory, random_items, rows_of
from tests.toys import NUM_ITEMS, build_toy_index


@pytest.mark.parametrize("count", [1, 4, 1000])
def test_the_items_nearest_live_entries_over_segments_and_tombstones(tmp_path, count):
    memory = make_memory(str(tmp_path / "memory"), random_items())
    build_toy_index(memory, tmp_path / "index", 2)
    memory = forget_users(append_rows(memory, random_items(12), first=500), [f"u{number}" for number in range(9)])
    assert sum(build_toy_index(memory, tmp_path / "index", 2).num_dead) == 9
    rows, shards, query = rows_of(memory), load_shards(tmp_path / "index"), np.ones(DIM, dtype=np.float32)
    for item in range(NUM_ITEMS):
        mine = {i: np.frombuffer(vector, dtype=np.float16) for i, (item_id, _, vector) in rows.items() if item_id == f"item-{item:02d}"}
        distances = np.sqrt(squared_distances(query, np.stack(list(mine.values()))))
        found = [entry for shard in shards for entry in nearest_entries_of_item(shard, query, item, count)]
        expected = sorted(zip(distances.tolist(), mine, strict=True))[:count]
        assert [(entry.distance, entry.sample_id) for entry in found] == expected
    assert [nearest_entries_of_item(shard, query, NUM_ITEMS, count) for shard in shards] == [[]] * len(shards)
