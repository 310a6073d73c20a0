"""LatentDecoder on a tiny model: the steps are the whole, any number of shards is one answer, and nothing foreign is loaded."""

import numpy as np
import pytest

from l2d_ray.decode.decoder import LatentDecoder, PromptWriter, load_latent_decoder
from l2d_ray.decode.settings import DECODERS, DecoderSettings
from l2d_ray.errors import ArtefactError, RequestError
from l2d_ray.index.layout import load_pooled, load_shards
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import load_checkpoint, make_mini, save_checkpoint
from tests.toys import NUM_ITEMS, PROMPTS, SHAPE, TITLES, VOCAB_SIZE, build_toy_index, build_toy_run, tiny_model

SETTINGS = DecoderSettings(num_neighbors=15)
HISTORIES = [[0, 1, 2], [7], [18, 19, 0, 1, 2, 3, 4, 5], ["A Title Nobody Listed", 5]]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return build_toy_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def index_dirs(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("indexes")
    for num_shards in (1, 3):
        build_toy_index(run.memory, folder / str(num_shards), num_shards)
    return {num_shards: folder / str(num_shards) for num_shards in (1, 3)}


@pytest.fixture(scope="module")
def decoder(run, index_dirs) -> LatentDecoder:
    return load_latent_decoder(run.checkpoint_dir, index_dirs[1], SETTINGS)


@pytest.mark.parametrize("name", DECODERS)
def test_one_shard_and_three_give_one_answer(run, index_dirs, decoder, name):
    sharded = load_latent_decoder(run.checkpoint_dir, index_dirs[3], SETTINGS)
    one, three = (d.recommend(HISTORIES, 8, decoder=name) for d in (decoder, sharded))
    assert (one.ids[:, :3] >= 0).all()
    np.testing.assert_array_equal(one.ids, three.ids)
    np.testing.assert_allclose(one.scores, three.scores, rtol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_recommending_is_encoding_then_searching(decoder, name):
    found = decoder.recommend(HISTORIES, 5, decoder=name)
    again = decoder.search(decoder.encode(HISTORIES), 5, histories=HISTORIES, decoder=name)
    np.testing.assert_array_equal(found.ids, again.ids)
    np.testing.assert_array_equal(found.scores, again.scores)
    assert found.ids.shape == (len(HISTORIES), 5)


def test_settings_choose_the_default_decoder(run, index_dirs, decoder):
    for name in DECODERS:
        other = load_latent_decoder(run.checkpoint_dir, index_dirs[1], DecoderSettings(decoder=name, num_neighbors=15))
        np.testing.assert_array_equal(other.recommend(HISTORIES, 5).ids, decoder.recommend(HISTORIES, 5, decoder=name).ids)


def test_global_scores_are_negated_distances_to_the_means(decoder, index_dirs):
    queries, (shard,) = decoder.encode(HISTORIES), load_shards(index_dirs[1])
    found = decoder.search(queries, NUM_ITEMS, decoder="global")
    means = dict(zip(shard.statistics.item_indexes.tolist(), shard.statistics.means(), strict=True))
    assert len(means) == NUM_ITEMS
    for query, ids, scores in zip(queries, found.ids, found.scores, strict=True):
        assert sorted(ids.tolist()) == sorted(means)
        np.testing.assert_allclose(scores, [-np.linalg.norm(query - means[i]) for i in ids.tolist()], rtol=1e-5)
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_local_scores_with_one_neighbour_are_the_distance_to_the_nearest_entry(decoder, index_dirs):
    queries, (shard,) = decoder.encode(HISTORIES), load_shards(index_dirs[1])
    found = decoder.search(queries, 2, decoder="local", num_neighbors=1)
    nearest = np.linalg.norm(queries[:, None] - shard.vectors_at(shard.live_positions()).astype(np.float32), axis=2).min(axis=1)
    np.testing.assert_allclose(found.scores[:, 0], -nearest, rtol=1e-3, atol=1e-5)
    assert (found.ids[:, 1] == -1).all()
    assert np.isneginf(found.scores[:, 1]).all()


@pytest.mark.parametrize("name", DECODERS)
def test_excluded_items_are_left_out_and_the_rest_moves_up(decoder, name):
    full = decoder.recommend(HISTORIES, 8, decoder=name)
    excluded = [ids[:2].tolist() for ids in full.ids]
    cut = decoder.recommend(HISTORIES, 6, decoder=name, excluded=excluded)
    assert (full.ids[:, :3] >= 0).all()
    np.testing.assert_array_equal(cut.ids, full.ids[:, 2:])


def test_a_title_is_read_as_text_wherever_it_comes_from(run, decoder):
    as_index, as_title = decoder.encode([[3, 4], [3, TITLES[4]]])
    np.testing.assert_array_equal(as_index, as_title)
    unknown, other = decoder.encode([[3, "A Title Nobody Listed"], [3, "Another One"]])
    assert np.abs(unknown - other).max() > 1e-3
    writer = decoder.writer
    language_model = load_checkpoint(run.checkpoint_dir)
    assert language_model.tokenizer.decode(writer.write([0, "Red Sun Sea"])).endswith(f"{TITLES[0]}\nRed Sun Sea\n")


def test_reasons_are_the_same_from_one_shard_and_three_and_name_what_was_read(run, index_dirs, decoder, tmp_path):
    sharded = load_latent_decoder(run.checkpoint_dir, index_dirs[3], SETTINGS)
    queries, items = decoder.encode(HISTORIES), [np.arange(0, NUM_ITEMS, 3)] * len(HISTORIES)
    told = decoder.reasons(queries, items, 2, histories=HISTORIES)
    for one, three in zip(told, sharded.reasons(queries, items, 2, histories=HISTORIES), strict=True):
        assert one.entries == three.entries
        assert one.pairs == three.pairs
        assert 0 < len(one.entries) <= len(items[0])
        assert all(1 <= len(near) <= 2 for near in one.entries.values())
    assert {pair.item_index for why in told for pairs in why.pairs.values() for pair in pairs} <= {0, 1, 2, 3, 4, 5, 7, 18, 19}
    assert told[0].pairs.keys() <= set(items[0].tolist())
    assert told[0].pairs
    assert not any(why.pairs for why in decoder.reasons(queries, items, 2))
    build_toy_index(run.memory, tmp_path / "index", 2, kind="statistics")
    without_entries = load_latent_decoder(run.checkpoint_dir, tmp_path / "index", SETTINGS)
    for one, alone in zip(told, without_entries.reasons(queries, items, 2, histories=HISTORIES), strict=True):
        assert not alone.entries
        assert alone.pairs == one.pairs


def test_an_index_of_another_model_is_refused(run, index_dirs, tmp_path):
    other = save_checkpoint(tiny_model(seed=1), tmp_path / "other")
    with pytest.raises(ArtefactError, match=f"made by the model {run.memory.fingerprint}, the model here is {other.fingerprint}"):
        load_latent_decoder(tmp_path / "other", index_dirs[1], SETTINGS)


def test_an_encoder_of_another_width_is_refused(run, index_dirs):
    wide = make_mini(TITLES, PROMPTS, vocab_size=VOCAB_SIZE, shape=SHAPE | {"hidden_size": 64}, seed=0)
    shards, pooled = load_shards(index_dirs[1]), load_pooled(index_dirs[1])
    with pytest.raises(ArtefactError, match="states are 64 wide, the index's vectors 32"):
        LatentDecoder(PromptWriter.of(wide, run.memory.catalogue), Encoder(wide.model), shards=shards, pooled=pooled, settings=SETTINGS)


@pytest.mark.parametrize(("arguments", "field"), [({"k": 0}, "k"), ({"k": 5, "num_neighbors": 0}, "num_neighbors")])
def test_numbers_out_of_range_are_refused_with_their_field(decoder, arguments, field):
    with pytest.raises(RequestError, match="at least 1") as caught:
        decoder.recommend(HISTORIES, **arguments)
    assert caught.value.field == field


def test_an_empty_history_is_refused(decoder):
    with pytest.raises(RequestError, match="history is empty"):
        decoder.recommend([[]], 5)
