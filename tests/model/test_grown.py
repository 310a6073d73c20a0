"""Histories that have grown: the state after the kept beginning is that of the whole text, and no more is kept than may be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.errors import ConfigError
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.grown import GrowingEncoder, ReadTexts
from l2d_ray.text.prompts import SequencePrompts
from tests.model.test_shared_prefix import VOCAB_SIZE, learned_positions, sliding_mistral, smollm2_shaped
from tests.toys import tiny_model

SEPARATOR = 3
PROMPTS = SequencePrompts(
    (1,),
    SEPARATOR,
    window_items=12,
    min_history=4,
)
CONTINUING = {
    "mini": lambda: tiny_model().model.eval(),
    "smollm2": smollm2_shaped,
    "eager": lambda: smollm2_shaped(attn_implementation="eager"),
}
READING_WHOLE = {"sliding window": sliding_mistral, "learned positions": learned_positions}
MUCH = 1 << 30


def titles_of(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, VOCAB_SIZE - 10, rng.integers(1, 6)).astype(np.int32) for _ in range(count)]


class Told:
    """How many tokens each call read, and how many it knew."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def __call__(self, read: int, known: int) -> None:
        self.calls.append((read, known))


@pytest.mark.parametrize("name", sorted(CONTINUING | READING_WHOLE))
def test_a_grown_history_has_the_state_of_the_whole_text_and_only_its_tail_is_read(name):
    model, told, titles = (CONTINUING | READING_WHOLE)[name](), Told(), titles_of(0, 11)
    plain, growing = Encoder(model), GrowingEncoder(Encoder(model), MUCH, note=told)
    for length in range(4, 12):
        prompt = PROMPTS.prompt(titles[:length])
        np.testing.assert_allclose(growing.encode([prompt]), plain.encode([prompt]), atol=2e-5)
    first, *others = told.calls
    assert first == (len(PROMPTS.prompt(titles[:4])), 0)
    tails = [(len(titles[length - 1]) + 1, len(PROMPTS.prompt(titles[: length - 1]))) for length in range(5, 12)]
    wholes = [(sum(tail), 0) for tail in tails]
    assert others == (tails if name in CONTINUING else wholes)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 4)), min_size=1, max_size=6), min_size=1, max_size=8),
    st.integers(0, 60_000),
)
def test_any_order_of_users_growing_by_any_number_of_items_gives_the_states_of_whole_texts(calls, max_bytes):
    model = tiny_model().model.eval()
    plain, growing = Encoder(model, max_batch_tokens=64), GrowingEncoder(Encoder(model, max_batch_tokens=64), max_bytes)
    user_to_titles = {user: titles_of(user, 40) for user in range(6)}
    lengths = dict.fromkeys(range(6), 0)
    for call in calls:
        prompts = []
        for user, grown_by in call:
            lengths[user] += grown_by
            prompts.append(PROMPTS.prompt(user_to_titles[user][: lengths[user]]))
        np.testing.assert_allclose(growing.encode(prompts), plain.encode(prompts), atol=2e-5)
        assert growing.kept.num_bytes <= max_bytes


def test_what_was_used_least_lately_is_forgotten_first_and_bytes_are_counted():
    texts = [np.array([user, 7, SEPARATOR], dtype=np.int32) for user in range(4, 7)]
    kept, read = ReadTexts(max_bytes=2 * 96), torch.zeros((2, 2, 1, 3, 2))
    assert read.nbytes == 96
    for text in texts:
        kept.keep(text, read.clone())
    assert (len(kept), kept.num_bytes) == (2, 192)
    grown = [np.concatenate([text, np.array([9, SEPARATOR], dtype=np.int32)]) for text in texts]
    assert kept.take_beginning(grown[0]) is None
    assert kept.take_beginning(grown[1]) is not None
    assert kept.take_beginning(grown[1]) is None, "what was taken is replaced by something longer"
    assert kept.num_bytes == 96


def test_a_text_beyond_the_model_is_refused_and_the_kept_beginning_is_no_way_around():
    model = tiny_model().model.eval()
    growing = GrowingEncoder(Encoder(model), MUCH)
    most = model.config.max_position_embeddings
    beginning = np.full(most - 1, SEPARATOR, dtype=np.int32)
    growing.encode([beginning])
    with pytest.raises(ConfigError, match="tokens"):
        growing.encode([np.concatenate([beginning, np.array([5, SEPARATOR], dtype=np.int32)])])
