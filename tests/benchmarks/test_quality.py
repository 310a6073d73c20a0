"""The quality benchmark on a toy run, in one process: every row, resumed, run again, extended; and its parts by hand."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.quality import variants
from benchmarks.quality.__main__ import SMALL_OPTIONS, make_bench, measure
from benchmarks.quality.ablations import VARIANTS, Ablation
from benchmarks.quality.fusion import Joining, joinings
from benchmarks.quality.inputs import Entries, drawn
from benchmarks.quality.rows import chosen_names
from benchmarks.quality.scoring import RankedOnce, decoder_metrics, score_row
from benchmarks.quality.store import Store, rounded
from benchmarks.quality.summary import FOLDER_TO_WANTED, targets_of
from benchmarks.quality.sweep import ORDERS, herding
from l2d_ray.baselines.popularity import Popularity
from l2d_ray.decode.linear import RepresentedItems
from l2d_ray.decode.settings import FILE, DecoderSettings
from l2d_ray.errors import ConfigError
from l2d_ray.memory.files import write_text
from l2d_ray.model.encoder import Encoder
from l2d_ray.text.prompts import tokenize_titles
from tests.toys import build_toy_index, build_toy_run, tiny_model, toy_config

GAMES = "amazon_Video_Games_2015"
NUM_USERS = NUM_TEST = 24


def title_states(titles):
    model = tiny_model()
    prompts = [model.prompts.prompt([title]) for title in tokenize_titles(model.tokenizer, titles, model.settings.max_title_tokens)]
    return Encoder(model.model).encode(prompts).astype(np.float16)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("quality") / "run"
    run = build_toy_run(run_dir, num_users=NUM_USERS)
    build_toy_index(run.memory, run_dir / "index", 2, encode_titles=title_states)
    write_text(str(run_dir / "memory"), FILE, DecoderSettings(num_neighbors=20, cold_count=0.5).to_json())
    return toy_config(run_dir)


@pytest.fixture(scope="module")
def bench(config):
    return make_bench(config, replace(SMALL_OPTIONS, language_samples=10), max_samples=None)


@pytest.fixture(scope="module")
def figures(bench, config):
    return measure(bench, list(bench.rows), seeds=range(1, 2), config=config)


def test_every_row_is_scored_on_the_same_protocol(bench, figures):
    assert len(figures["rows"]) == len(bench.rows) == 24
    for name, row in figures["rows"].items():
        num_samples = 10 if row["family"] == "language" else NUM_TEST
        assert row["num_samples"] == num_samples, name
        metrics = row["unmasked"]["metrics"]
        assert 0 <= metrics["recall@10"] <= metrics["recall@20"] <= 1, name
        assert metrics["recall@20"] == 1 or row["family"] == "decoder", name  # 20 items; a memory lacks some
        assert row["slices"]["short"]["num_samples"] + row["slices"]["long"]["num_samples"] == num_samples, name
        assert ("default_minus_row" in row) is (name != "default"), name
        assert row["num_parameters"] > 0 or name in {"popularity", "item-knn", "session-knn", "bm25"}, name
    assert set(figures["cost"]["all"]["batch 1"]) == set(bench.rows)
    assert min(figures["cost"]["all"]["batch 32"].values()) > 0


def test_the_default_decoder_is_the_tuned_one(figures):
    rows = figures["rows"]
    assert rows["default"]["unmasked"] == rows["l2d-w"]["unmasked"]
    for setting, metric in (("unmasked", "recall@10"), ("masked", "ndcg@10")):
        assert rows["l2d-w"]["default_minus_row"][setting][metric] == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_trained_rows_have_other_seeds(figures):
    with_seeds = {name for name, row in figures["rows"].items() if row["seeds"]}
    assert with_seeds == {"sasrec", "gru4rec", "alpharec", "id-head", "id-head-whitened"}


def test_of_another_seed_of_the_model_only_the_decoders_are_scored(bench, figures):
    found = decoder_metrics(bench, list(bench.rows))
    assert set(found) >= {"l2d-g", "l2d-l", "l2d-w", "l2d-p", "default"}
    assert not set(found) & {"sasrec", "id-head", "bigrec-1"}
    assert found == {name: figures["rows"][name]["unmasked"]["metrics"] for name in found}


def test_the_living_memory_is_for_rows_that_need_no_retraining(figures):
    decoders = {"l2d-g", "l2d-l", "l2d-w", "l2d-p", "default"}
    assert set(figures["living"]) == {"popularity", "item-knn", "session-knn", "alpharec"} | decoders
    assert figures["living"]["l2d-w"] != figures["rows"]["l2d-w"]["unmasked"]


def test_rows_that_must_be_trained_are_trained_anew_with_the_validation_samples(bench, figures):
    assert set(figures["retrained"]) == {"sasrec", "gru4rec", "id-head", "id-head-whitened"}
    assert min(row["fit_s"] for row in figures["retrained"].values()) > 0
    fitted = bench.fitted("gru4rec")
    anew = bench.rows["gru4rec"].retrain(bench, fitted)
    assert anew.num_epochs == fitted.system.num_epochs
    popular = Popularity(bench.inputs.until_valid.items, bench.inputs.num_items)
    np.testing.assert_array_equal(anew.rank([[]], 20), popular.rank([[]], 20))  # without a history: the popularity it was trained on


def test_a_fusion_without_weights_ranks_as_the_decoder_and_weights_add_what_others_know(bench):
    histories = bench.inputs.test.samples.histories
    system = bench.fitted("l2d-w+both").system
    decoder = bench.inputs.run.decoder.recommend(histories, 20, decoder="whitened").ids
    for way in ("log-linear", "mixture"):
        alone = replace(system, joining=Joining(way, 0.0, 0.0))
        assert (alone.rank(histories, 20) == decoder).mean() > 0.99
        assert set(alone.parts(histories)) == {"whitened"}
    evidence = system.knn.scores(histories)
    for knn_only in (Joining("log-linear", 0.0, 1e4), Joining("mixture", 0.0, 1.0), Joining("back-off", 0.0, 1e-9)):
        first = replace(system, joining=knn_only).rank(histories, 1)[:, 0]
        assert (evidence[np.arange(len(first)), first] == evidence.max(axis=1)).all()
    tried = [settings for settings, _ in bench.fitted("l2d-w+both").tried]
    assert len(tried) == len({tuple(settings.values()) for settings in tried}) == len(joinings(("sasrec", "knn"))) == 64 + 56 + 120


def test_a_mixture_is_one_of_probabilities_and_backing_off_weighs_the_evidence():
    parts = {"whitened": np.log([[0.7, 0.2, 0.1]]), "sasrec": np.log([[0.1, 0.8, 0.1]]), "knn": np.array([[0.0, 0.0, 3.0]])}
    model = 0.6 * np.array([[0.7, 0.2, 0.1]]) + 0.4 * np.array([[0.1, 0.8, 0.1]])
    np.testing.assert_allclose(Joining("mixture", 0.4, 0.0).scores(parts), model)
    np.testing.assert_allclose(Joining("mixture", 0.2, 0.5).scores(parts), [[0.3 * 0.7 + 0.02, 0.3 * 0.2 + 0.16, 0.03 + 0.02 + 0.5]])
    backed = Joining("back-off", 0.4, 2.0).scores(parts)
    np.testing.assert_allclose(backed / backed.sum(), (parts["knn"] + 2 * model) / 5)
    parts["knn"] *= 0
    np.testing.assert_allclose(Joining("back-off", 0.4, 2.0).scores(parts), 2 * model)


def test_finished_results_are_read_and_not_made_again(bench, figures, config, monkeypatch):
    again = make_bench(config, bench.options, max_samples=None)

    def refuse(name):
        raise AssertionError(f"{name} was fitted again")

    monkeypatch.setattr(again, "fitted", refuse)
    assert rounded(measure(again, list(bench.rows), seeds=range(1, 2), config=config)) == rounded(figures)


def test_a_row_that_is_run_again_gives_the_same_figures(bench, figures, config):
    again = make_bench(config, bench.options, max_samples=None)
    again.store = Store(config.run_dir / "again", "another place")
    for name in ("popularity", "sasrec", "alpharec", "id-head", "d3-sasrec-4", "l2d-w"):
        assert score_row(again, name).record["unmasked"] == figures["rows"][name]["unmasked"], name


def test_targets_are_those_of_the_folder(bench, figures):
    assert set(FOLDER_TO_WANTED) == {GAMES, "amazon_CDs_and_Vinyl_2015"}
    targets = targets_of(GAMES, figures)
    baselines = [name for name, row in bench.rows.items() if row.family != "decoder" and not name.startswith("l2d-w+")]
    assert [name for name in targets if name.endswith("low end")] == [f"recall@10 of default minus {name}, low end" for name in baselines]
    assert targets["living recall@50 of default"]["target"] == ">= 0.3"
    assert targets["cost of default over l2d-g, batch 1"]["target"] == "<= 1.1"
    of_any = targets_of("another", figures)
    assert of_any == {name: found for name, found in targets.items() if not name.endswith("of default")}
    assert len(of_any) < len(targets)
    without = targets_of(GAMES, {"rows": {}, "living": {}, "cost": {}})
    assert all(found["measured"] is None for found in without.values())


def test_rows_are_chosen_by_name_in_the_order_of_the_tables(bench):
    assert chosen_names(bench.rows, None) == list(bench.rows)
    assert chosen_names(bench.rows, "l2d-w, popularity") == ["popularity", "l2d-w"]
    with pytest.raises(ConfigError, match="no row bert"):
        chosen_names(bench.rows, "bert")


def test_masking_takes_items_out_of_one_ranking():
    rank = RankedOnce(np.array([[3, 1, 2, 0], [0, 2, -1, -1]]))
    assert rank([[], []], 2, None).tolist() == [[3, 1], [0, 2]]
    assert rank([[], []], 3, [{3, 2}, {0}]).tolist() == [[1, 0, -1], [2, -1, -1]]


def test_a_baseline_masks_as_one_ranking_does(bench):
    system, histories = bench.fitted("item-knn").system, bench.inputs.test.samples.histories
    excluded = [set(history[:-1]) for history in histories]
    once = RankedOnce(system.rank(histories, bench.inputs.num_items))
    assert once(histories, 10, excluded).tolist() == system.rank(histories, 10, excluded).tolist()


def test_a_decoder_masks_as_one_ranking_does(bench):
    decoder, test = bench.inputs.run.decoder, bench.inputs.test
    excluded = [sorted(set(history[:-1])) for history in test.samples.histories]
    for name in decoder.decoders:
        search = partial(decoder.search, test.queries, histories=test.samples.histories, decoder=name)
        once, expected = RankedOnce(search(bench.inputs.num_items).ids), search(10, excluded=excluded).ids
        assert once(test.samples.histories, 10, excluded).tolist() == expected.tolist(), name


def test_a_result_of_something_else_is_not_used(tmp_path):
    store = Store(tmp_path, "base")
    assert store.record("row", [1], lambda: {"value": 0.12345678}) == {"value": 0.123457}
    assert store.record("row", [1], lambda: {"value": 2.0}) == {"value": 0.123457}
    assert store.record("row", [2], lambda: {"value": 2.0}) == {"value": 2.0}
    assert store.fitted("system", 1, lambda: (1, 2)) == store.fitted("system", 1, dict) == (1, 2)
    assert store.fitted("system", 2, dict) == {}
    store.write_arrays("row", [1], {"ranks": np.array([1, -1])})
    assert store.read_arrays("row", [2]) is None
    assert store.read_arrays("row", [1])["ranks"].tolist() == [1, -1]
    assert Store(tmp_path, "other base").read_record("row", [2]) is None
    assert json.loads((tmp_path / "row.json").read_text())["result"] == {"value": 2.0}


def toy_entries(items, times=None, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(len(items), 3)).astype(np.float16)
    times = np.arange(len(items)) if times is None else np.array(times)
    return Entries(np.arange(len(items)) * 7, np.array(items), vectors, times)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_an_order_holds_every_entry_once_and_is_repeatable(order):
    entries = toy_entries([4, 1, 4, 4, 2, 1, 4, 4])
    found = order(entries, 3)
    assert sorted(found.tolist()) == list(range(8))
    assert found.tolist() == order(entries, 3).tolist()


def test_recent_and_capped_orders_by_hand():
    entries = toy_entries([4, 1, 4, 4, 1], times=[10, 20, 30, 40, 50])
    assert ORDERS["recent"](entries, 0).tolist() == [4, 3, 2, 1, 0]
    capped = ORDERS["capped"](entries, 0).tolist()
    assert set(capped[:2]) == {3, 4}
    assert set(capped[2:4]) == {2, 1}
    assert capped[4] == 0


def test_herding_follows_the_mean():
    vectors = np.array([[0.0], [10.0], [4.5], [4.9], [5.6]])  # mean 5
    assert herding(vectors).tolist()[:2] == [3, 2] or herding(vectors).tolist()[:2] == [3, 4]
    generator = np.random.default_rng(1)
    many = generator.normal(size=(200, 4))
    first = many[herding(many)[:20]].mean(axis=0)
    drawn_means = [many[generator.permutation(200)[:20]].mean(axis=0) for _ in range(50)]
    distances = [np.linalg.norm(mean - many.mean(axis=0)) for mean in drawn_means]
    assert np.linalg.norm(first - many.mean(axis=0)) < min(distances)


def test_herded_entries_are_the_same_share_of_every_item():
    items = [0] * 40 + [1] * 20 + [2] * 10
    kept = np.array(items)[ORDERS["herded"](toy_entries(items), 0)[:35]]
    assert np.abs(np.bincount(kept) - [20, 10, 5]).max() <= 1


def test_drawn_positions_are_distinct_and_ascending():
    found = drawn(10, 4, seed=0)
    assert len(found) == 4
    assert (np.diff(found) > 0).all()
    assert drawn(3, 10, seed=0).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def ablation(bench):
    return Ablation(bench, bench.inputs.valid, np.arange(len(bench.inputs.valid)))


def test_every_variant_is_scored_on_validation(figures, bench):
    found = figures["ablations"]
    assert list(found["variants"]) == list(VARIANTS)
    for name, row in found["variants"].items():
        assert 0 <= row["recall@10"] <= row["recall@20"] <= 1, name
        assert row["num_candidates"] >= 1, name
    assert found["variants"]["with a vote"]["num_candidates"] == 24
    assert found["num_samples"] == len(bench.inputs.valid)
    assert found["rerank"]["num_samples"] == 10


def test_the_ablations_begin_with_the_tuned_decoder(ablation, bench):
    """Score matrices and the exact search rank alike."""
    ranked = bench.inputs.run.decoder.search(ablation.split.queries, 20, decoder="whitened").ids
    found = np.argsort(-ablation.base, axis=1, kind="stable")[:, : ranked.shape[1]]
    assert (found == ranked).mean() > 0.99
    assert np.isfinite(ablation.base).sum(axis=1).min() == 20  # cold items too


def test_neighbours_and_local_scores_are_those_of_the_local_decoder(ablation, bench):
    entries = bench.inputs.entries
    scores = variants.local_scores(
        ablation.split.queries,
        variants.nearest(ablation.split.queries, ablation.vectors, 15),
        ablation.vectors,
        entries.item_indexes,
        num_neighbors=15,
        num_items=bench.inputs.num_items,
    )
    wanted = bench.inputs.run.decoder.search(ablation.split.queries, 5, decoder="local", num_neighbors=15)
    found = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    is_ranked = wanted.ids >= 0
    assert is_ranked.sum() > 50
    assert (found == wanted.ids)[is_ranked].mean() > 0.98
    np.testing.assert_allclose(
        np.take_along_axis(scores, found, axis=1)[is_ranked], -(wanted.scores[is_ranked] ** 2) / 2, rtol=2e-2, atol=1e-3
    )


def test_votes_by_hand():
    found = variants.Neighborhoods(np.array([[0, 1, 2]]), np.array([[1.0, 3.0, 1.0]], np.float32))
    votes = variants.votes(found, np.array([5, 5, 2]), num_neighbors=3, width=1.0, num_items=6)
    far = np.exp(-2 / (2 * 3))
    np.testing.assert_allclose(votes[0, [5, 2, 0]], np.log(np.array([1 + far, 1, 0]) / (2 + far) + variants.SMALL_VOTE), rtol=1e-5)
    nearest_two = variants.votes(found, np.array([5, 5, 2]), num_neighbors=2, width=1.0, num_items=6)
    np.testing.assert_allclose(nearest_two[0, [5, 2]], np.log(0.5 + variants.SMALL_VOTE), rtol=1e-5)


def test_one_prototype_is_the_mean_and_two_find_two_modes():
    rng = np.random.default_rng(0)
    modes = np.array([[4.0, 0.0], [-4.0, 0.0]])
    vectors = np.concatenate([modes[i] + 0.1 * rng.normal(size=(30, 2)) for i in range(2)]).astype(np.float32)
    other = rng.normal(size=(40, 2)).astype(np.float32)
    entry_items = np.repeat([1, 3], [60, 40])
    means = np.stack([vectors.mean(axis=0), other.mean(axis=0)]).astype(np.float32)
    items = RepresentedItems(np.array([1, 3]), means, np.zeros(2))
    queries = np.array([[4.0, 0.0], [0.0, 0.0]], np.float32)

    def scores(num, least):
        everything = np.concatenate([vectors, other])
        return variants.prototype_scores(
            queries, everything, entry_items, items, white=np.eye(2), num=num, least=least, seed=0, num_items=5
        )

    plain = variants.whitened_scores(queries, items, np.eye(2), 5)
    np.testing.assert_allclose(scores(1, 1)[:, [1, 3]], plain[:, [1, 3]], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores(2, 100)[:, [1, 3]], plain[:, [1, 3]], rtol=1e-4, atol=1e-4)
    assert scores(2, 50)[0, 1] > plain[0, 1] + 5
    assert np.isneginf(scores(2, 50)[:, [0, 2, 4]]).all()


def test_ranks_of_score_matrices_by_hand():
    scores = np.array([[0.5, 0.9, 0.9, -np.inf], [0.1, 0.2, 0.3, 0.4]], np.float32)
    assert variants.ranks_of(scores, np.array([2, 0])).tolist() == [1, 3]
    assert variants.ranks_of(scores, np.array([3, 0]), depth=3).tolist() == [-1, -1]


def test_a_user_s_own_entries_are_passed_over():
    vectors = np.arange(6, dtype=np.float32)[:, None]
    found = variants.nearest(np.zeros((2, 1), np.float32), vectors, 2, banned=[np.array([0, 1]), np.array([], np.int64)])
    assert [sorted(row) for row in found.positions.tolist()] == [[2, 3], [0, 1]]
