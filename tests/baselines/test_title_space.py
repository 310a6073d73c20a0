"""The space of titles: the last token's state, exact distances, one place for equal titles."""

import numpy as np
import torch

from tests.baselines.language import SHARED, toy_language_model, toy_space


def test_a_text_is_the_last_layers_state_of_its_last_token():
    model, tokenizer = toy_language_model().model, toy_language_model().tokenizer
    ids = tokenizer("Lost River")["input_ids"]
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1].numpy()
    np.testing.assert_allclose(toy_space().embed(["Lost River"])[0], wanted, atol=1e-5)


def test_distances_are_l2_and_equal_for_equal_titles():
    space = toy_space()
    assert space.vectors.shape == (len(SHARED), toy_language_model().dim)
    points = space.embed(["Red Moon", "nothing", ""])
    wanted = np.linalg.norm(points[:, None].astype(np.float64) - space.vectors, axis=2)
    found = space.distances(points)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_array_equal(found[:, 2], found[:, 6])


def test_nothing_to_embed():
    assert toy_space().embed([]).shape == (0, toy_language_model().dim)
