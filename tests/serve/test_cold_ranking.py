"""Items that no shard ranks: which they are, and where their titles put them."""

import numpy as np
import pytest

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.cold import ColdItems
from l2d_ray.decode.linear import WhitenedRule
from l2d_ray.decode.search import SearchRequest
from l2d_ray.decode.settings import DECODERS, DecoderSettings
from l2d_ray.memory.statistics import PooledStatistics
from l2d_ray.memory.titles import TitleMap, TitleStates
from l2d_ray.serve.cold_ranking import Cold, ColdRanking
from l2d_ray.serve.live_catalogue import LiveCatalogue
from l2d_ray.store.records import CatalogueEdit, EditedItem

DIM = 3
RNG = np.random.default_rng(0)
POOLED = PooledStatistics(np.diag([1.0, 2.0, 3.0]), np.array([0.5, 0.0, -0.5]), TitleMap(RNG.normal(size=(DIM + 1, DIM))))
NOTHING = np.zeros(0, dtype=np.int64)


def put(number: int, item_id: str, title: str) -> EditedItem:
    return EditedItem(CatalogueEdit("put", item_id, title), number, None)


def ranked(cold: Cold, decoder: str) -> list[int]:
    request = SearchRequest(np.ones((1, DIM), dtype=np.float32), decoder, 9, 9, (NOTHING,), (None,))
    found = cold.top_k(request)
    return [] if found is None else sorted(found.ids[0][found.ids[0] >= 0].tolist())


@pytest.mark.parametrize("shards_rank_cold", [False, True])
def test_what_shards_rank_is_left_to_them_and_the_rest_is_ranked_here(shards_rank_cold: bool):
    catalogue = LiveCatalogue(Catalogue.from_rows((f"item-{n}", f"title {n}", {}) for n in range(4)))
    ranking = ColdRanking(np.array([0, 1]), POOLED, DecoderSettings(), shards_rank_cold=shards_rank_cold)
    edits = [put(1, "item-1", "warm and edited"), put(2, "item-3", "in the index, never chosen"), put(3, "new", "new")]
    catalogue.apply(edits)
    ranking.update(catalogue)
    assert ranking.awaited == ["in the index, never chosen", "new"]
    assert [ranked(ranking.current, decoder) for decoder in DECODERS] == [[]] * len(DECODERS)
    ranking.take({title: RNG.normal(size=DIM).astype(np.float32) for title in ranking.awaited})
    assert ranking.awaited == []
    for decoder in DECODERS:
        assert ranked(ranking.current, decoder) == ([4] if shards_rank_cold and decoder in ("whitened", "paired") else [3, 4])
    catalogue.apply([EditedItem(CatalogueEdit("delete", "item-3"), 4, None), put(5, "new", "renamed")])
    ranking.update(catalogue)
    assert ranking.awaited == ["renamed"]
    assert ranked(ranking.current, "global") == []


def test_scores_are_those_of_the_formulas():
    states = RNG.normal(size=(5, DIM)).astype(np.float16)
    settings = DecoderSettings(cold_count=3.0)
    rule = WhitenedRule.of(POOLED, settings)
    cold = ColdItems(TitleStates(np.arange(7, 12), states), rule, POOLED)
    assert POOLED.title_map is not None
    means = POOLED.title_map.means(states).astype(float)
    query = RNG.normal(size=(1, DIM)).astype(np.float32)
    limits = {"excluded": (np.array([8]),), "allowed": (np.array([7, 8, 9, 11]),)}
    kept = [0, 2, 4]
    distances = -np.square(means - query).sum(axis=1)
    whitened = means @ rule.precision @ query[0] - np.einsum("vi,ij,vj->v", means, rule.precision, means) / 2
    whitened += settings.prior_weight * np.log(3.0 + settings.prior_smoothing)
    for decoder, scores in (("global", distances), ("local", distances), ("whitened", whitened), ("paired", whitened)):
        found = cold.top_k(query, decoder, 5, **limits)
        order = sorted(kept, key=lambda i: -scores[i])
        assert found.ids[0].tolist() == [7 + i for i in order] + [-1, -1]
        np.testing.assert_allclose(found.scores[0, :3], scores[order], rtol=1e-5)


def test_an_edit_seen_late_changes_nothing():
    """Of two requests that read the edits at once, the one that comes second must not bring back what it read first."""
    catalogue = LiveCatalogue(Catalogue.from_rows([("a", "A", {})]))
    catalogue.apply([put(5, "a", "newer")])
    catalogue.apply([put(3, "a", "older"), put(4, "b", "B")])
    assert catalogue.item(0).title == "newer"
    assert catalogue.index_of("b") is None
