"""What tuning tries as the prior's decay: the half-lives that are asked for, from the newest entry back, or the memory's own."""

import numpy as np

from jobs.tune_decoder import counts_of, decays_to_try, make_grids
from l2d_ray.config import DecoderConfig
from l2d_ray.memory.statistics import Decay
from l2d_ray.memory.update import set_half_life
from l2d_ray.schema import SECONDS_PER_DAY
from tests.index.memories import make_memory, open_built, random_items
from tests.toys import build_toy_index


def test_decays_begin_at_the_newest_entry(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), random_items(20))
    build_toy_index(memory, tmp_path / "index", 2)
    shards = open_built(tmp_path / "index").shards()
    decays = decays_to_try(DecoderConfig(half_lives_days=(0, 30)), memory, shards)
    assert decays == [Decay(None, 0), Decay(30 * SECONDS_PER_DAY, 119)]
    assert make_grids(DecoderConfig(), tuple(decay.half_life_s for decay in decays)).half_lives_s == (None, 30 * SECONDS_PER_DAY)


def test_without_half_lives_or_times_the_memory_s_own_decay_is_tried(tmp_path):
    memory = set_half_life(make_memory(str(tmp_path / "memory"), random_items(20)), 50, reference_time=7)
    build_toy_index(memory, tmp_path / "index", 2)
    assert decays_to_try(DecoderConfig(half_lives_days=()), memory, open_built(tmp_path / "index").shards()) == [Decay(50, 7)]
    timeless = make_memory(str(tmp_path / "timeless"), random_items(1), num_commits=1)
    build_toy_index(timeless, tmp_path / "other", 1)
    assert decays_to_try(DecoderConfig(), timeless, open_built(tmp_path / "other").shards()) == [Decay(None, 0)]


def test_the_counts_are_those_that_an_index_of_a_decaying_memory_has(tmp_path):
    memory = make_memory(str(tmp_path / "memory"), random_items())
    build_toy_index(memory, tmp_path / "index", 3)
    index = open_built(tmp_path / "index")
    plain, decayed = counts_of(memory, index.catalogue(), index.shards(), [Decay(), Decay(40, 200)])
    build_toy_index(set_half_life(memory, 40, reference_time=200), tmp_path / "decayed", 1)
    for found, folder in ((plain, "index"), (decayed, "decayed")):
        statistics = [shard.statistics for shard in open_built(tmp_path / folder).shards()]
        items = np.concatenate([s.item_indexes for s in statistics])
        wanted = np.concatenate([s.decayed_counts for s in statistics])[np.argsort(items)]
        np.testing.assert_array_equal(found, wanted)
    assert (decayed < plain).any()
