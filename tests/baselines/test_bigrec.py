"""BIGRec: a title of the catalogue that was written comes first, with its twins; the rest by distance."""

import numpy as np

from l2d_ray.baselines.bigrec import BigRec
from tests.baselines.language import SHARED, Scripted, toy_space, toy_writer

COUNTS = np.arange(8)


def test_a_written_title_comes_first_with_the_items_that_share_it():
    ranked = BigRec(Scripted(SHARED[2]), toy_space(), COUNTS).rank([[0]], 8)
    assert ranked[0, :2].tolist() == [2, 6]


def test_the_whole_catalogue_is_ranked_by_distance_to_the_best_text():
    space = toy_space()
    ranked = BigRec(Scripted("Golden Tomato", SHARED[0]), space, COUNTS).rank([[0]], 8)
    distances = np.linalg.norm(space.embed(["Golden Tomato"])[0] - space.vectors, axis=1)
    assert ranked[0].tolist() == np.lexsort((np.arange(8), distances.round(4))).tolist()


def test_without_a_history_nothing_is_written():
    ranked = BigRec(Scripted(SHARED[2]), toy_space(), COUNTS).rank([[], [1]], 2)
    assert ranked.tolist() == [[7, 6], [2, 6]]


def test_with_a_model_the_written_text_decides():
    writer = toy_writer()
    text = writer.write([[3, 1]], num_beams=4)[0][0]
    wanted = BigRec(Scripted(text), toy_space(), COUNTS).rank([[3, 1]], 8)
    np.testing.assert_array_equal(BigRec(writer, toy_space(), COUNTS).rank([[3, 1]], 8), wanted)
