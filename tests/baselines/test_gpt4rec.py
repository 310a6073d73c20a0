"""GPT4Rec: the merge by hand, queries that find nothing, the model's own queries."""

import numpy as np

from l2d_ray.baselines.bm25 import Bm25Index
from l2d_ray.baselines.gpt4rec import Gpt4Rec, Gpt4RecSettings, merge_queries
from tests.baselines.language import SHARED, Scripted, toy_writer

COUNTS = np.array([0, 9, 0, 0, 0, 0, 0, 1])


def test_queries_take_turns_and_add_what_is_not_there_yet():
    scores = np.array([[9, 8, 7, 6, 5, 0, 0], [9, 8, 0, 7, 0, 6, 0], [0, 0, 0, 0, 0, 0, 0]], float)
    assert merge_queries(scores, 2).tolist() == [0, 1, 3, 5, 2, 4]
    assert merge_queries(scores, 1).tolist() == [0, 1, 2, 3, 4, 5]
    assert merge_queries(scores, 100).tolist() == [0, 1, 2, 3, 4, 5]


def test_equal_scores_are_ordered_by_smaller_index():
    assert merge_queries(np.array([[1.0, 2.0, 1.0]]), 1).tolist() == [1, 0, 2]


def test_each_query_fills_its_share_of_the_list():
    assert Gpt4RecSettings(num_queries=3, list_length=10).items_per_query == 4


def test_what_the_queries_find_comes_first_then_popularity():
    system = Gpt4Rec(Scripted("River", "Moon"), Bm25Index(SHARED), COUNTS, Gpt4RecSettings(num_queries=2, list_length=2))
    assert [title for title in SHARED if "River" in title or "Moon" in title] == ["Red River", "Red Moon", "Lost River"]
    assert system.rank([[4], []], 8).tolist() == [[0, 3, 5, 1, 7, 2, 4, 6], [1, 7, 0, 2, 3, 4, 5, 6]]


def test_queries_that_find_nothing_leave_popularity():
    system = Gpt4Rec(Scripted("", "tomato"), Bm25Index(SHARED), COUNTS)
    assert system.rank([[4]], 3).tolist() == [[1, 7, 0]]


def test_with_a_model_its_beams_are_the_queries():
    writer, settings = toy_writer(), Gpt4RecSettings(num_queries=3, list_length=6)
    queries = writer.write([[3, 1]], num_beams=3)[0]
    wanted = Gpt4Rec(Scripted(*queries), Bm25Index(SHARED), COUNTS, settings).rank([[3, 1]], 8)
    np.testing.assert_array_equal(Gpt4Rec(writer, Bm25Index(SHARED), COUNTS, settings).rank([[3, 1]], 8), wanted)
