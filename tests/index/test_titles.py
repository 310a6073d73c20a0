"""Titles in the index: of every item that is not retired, encoded once, and the map fitted on those with entries."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.index.layout import Index, open_index
from l2d_ray.index.titles import TITLE_MAP
from l2d_ray.memory.statistics import merge_statistics
from l2d_ray.memory.table import Memory
from l2d_ray.memory.titles import TitleMap, TitleStates
from l2d_ray.memory.update import changed_items, rename_items, retire_items, set_half_life
from tests.index.memories import DIM, append_rows, make_memory, random_items
from tests.toys import NUM_ITEMS, build_toy_index, letter_states


class CountingEncoder:
    """States of titles, and which titles were asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, titles) -> np.ndarray:
        self.asked += titles
        return letter_states(titles, dim=DIM)


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    """The last items have no entry."""
    items = random_items()
    return make_memory(str(tmp_path / "memory"), items[items < NUM_ITEMS - 4])


def titles_of(index: Index) -> TitleStates:
    return TitleStates.joined([shard.titles for shard in index.shards()])


def assert_has_titles_of(index: Index, memory: Memory) -> None:
    catalogue, found = memory.catalogue, titles_of(index)
    wanted = [i for i, item_id in enumerate(catalogue.item_ids) if item_id not in memory.retired_item_ids]
    assert found.item_indexes.tolist() == wanted
    np.testing.assert_array_equal(found.states, letter_states([catalogue.titles[i] for i in wanted], dim=DIM))
    statistics = merge_statistics([shard.statistics for shard in index.shards()])
    assert 0 < len(statistics.counts) < len(wanted)
    np.testing.assert_allclose(index.pooled().title_map.weights, TitleMap.fit([statistics.titled(found)]).weights, rtol=1e-6, atol=1e-9)


def test_every_title_has_its_state_and_the_map_is_of_all_shards(memory, tmp_path):
    encode = CountingEncoder()
    manifest = build_toy_index(memory, tmp_path / "index", 3, encode_titles=encode)
    assert manifest.has_titles
    assert_has_titles_of(open_index(tmp_path / "index"), memory)
    assert sorted(encode.asked) == sorted(set(memory.catalogue.titles))


def test_an_extended_index_encodes_new_titles_alone(memory, tmp_path):
    build_toy_index(memory, tmp_path / "index", 2, encode_titles=CountingEncoder())
    row = {"item_id": "fresh", "title": "New Island", "attributes": "{}", "is_retired": False}
    newer = memory.commit(memory.state.next("append", "new item", items=changed_items(memory, [row])))
    newer = append_rows(retire_items(rename_items(newer, {"item-03": "Quite Another"}), ["item-05"]), np.array([1, 2, 2]), first=900)
    encode = CountingEncoder()
    build_toy_index(newer, tmp_path / "index", 2, encode_titles=encode)
    assert sorted(encode.asked) == ["New Island", "Quite Another"]
    assert_has_titles_of(open_index(tmp_path / "index"), newer)
    again = CountingEncoder()
    build_toy_index(set_half_life(newer, half_life_s=100, reference_time=1000), tmp_path / "index", 2, encode_titles=again)
    assert again.asked == []
    assert_has_titles_of(open_index(tmp_path / "index"), newer)


def test_an_index_made_without_a_model_has_none(memory, tmp_path):
    assert not build_toy_index(memory, tmp_path / "index", 2).has_titles
    index = open_index(tmp_path / "index")
    assert [shard.titles for shard in index.shards()] == [None, None]
    assert index.pooled().title_map is None


def test_states_of_another_width_are_refused(memory, tmp_path):
    with pytest.raises(ArtefactError, match=rf"have the shape \(\d+, {DIM - 1}\), the memory's vectors are {DIM} wide"):
        build_toy_index(memory, tmp_path / "index", 2, encode_titles=partial(letter_states, dim=DIM - 1))


@pytest.mark.parametrize("name", ["titles-00001.items.npy", "titles-00001.states.npy", TITLE_MAP])
def test_damage_is_refused_by_name(memory, tmp_path, name):
    manifest = build_toy_index(memory, tmp_path / "index", 2, encode_titles=CountingEncoder())
    path = tmp_path / "index" / manifest.generation / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    index = open_index(tmp_path / "index")
    with pytest.raises(ArtefactError, match=name):
        index.verify()
    with pytest.raises(ArtefactError, match=name):
        (index.shards(), index.pooled())
