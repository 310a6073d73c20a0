"""Both prompt formats: the layout by hand, and the laws of windows: each sample in one text, each text what a request would send."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.errors import ConfigError
from l2d_ray.model.mini import BEGIN, make_tokenizer
from l2d_ray.text.prompts import INSTRUCTION, RESPONSE, InstructionPrompts, PromptSettings, SequencePrompts, prompt_format, tokenize_titles

PREFIX, SEPARATOR, INSTRUCTION_ID, NEWLINE, RESPONSE_ID, END = 1, 9, 2, 3, 4, 5


def settings_of(prompt_format_name: str, **changed: int) -> PromptSettings:
    numbers = {"window_items": 10, "min_history": 2, "history_length": 2, "max_title_tokens": 8} | changed
    return PromptSettings(prompt_format_name, **numbers)


def numbered_titles(count: int) -> list[np.ndarray]:
    """Title i is one to three tokens 100 + i, so that a token tells its title."""
    return [np.full(1 + i % 3, 100 + i, dtype=np.int32) for i in range(count)]


def instruction_prompts(history_length: int) -> InstructionPrompts:
    return InstructionPrompts((INSTRUCTION_ID,), (NEWLINE,), (RESPONSE_ID,), END, history_length)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(["Red River", "Lost Empire", "Golden Sun"], 300)


@st.composite
def sequence_prompts(draw) -> SequencePrompts:
    window_items = draw(st.integers(2, 9))
    return SequencePrompts((PREFIX,), SEPARATOR, window_items, draw(st.integers(1, window_items - 1)))


def test_sequence_layout_by_hand():
    prompts = SequencePrompts((PREFIX,), SEPARATOR, window_items=10, min_history=2)
    titles = [np.array([20, 21], dtype=np.int32), np.array([22], dtype=np.int32), np.array([23, 24], dtype=np.int32)]
    assert prompts.prompt(titles[:2]).tolist() == [PREFIX, 20, 21, SEPARATOR, 22, SEPARATOR]
    (window,) = prompts.windows(titles, completions=False)
    assert window.token_ids.tolist() == [PREFIX, 20, 21, SEPARATOR, 22, SEPARATOR]
    assert (window.state_indexes.tolist(), window.target_positions.tolist()) == ([3, 5], [1, 2])
    (window,) = prompts.windows(titles, completions=True)
    assert window.token_ids.tolist() == [PREFIX, 20, 21, SEPARATOR, 22, SEPARATOR, 23, 24, SEPARATOR]
    assert (window.state_indexes.tolist(), window.loss_start) == ([3, 5], 4)
    assert window.token_ids.dtype == np.int32


def test_sequence_text_of_a_real_tokenizer(tokenizer):
    prompts = prompt_format(tokenizer, settings_of("sequence"))
    titles = tokenize_titles(tokenizer, ["Red River", "Lost Empire"], 8)
    assert tokenizer.decode(prompts.prompt(titles)) == f"{BEGIN}Red River\nLost Empire\n"
    assert prompts.prompt(titles)[-1] == prompts.terminator_id


def test_instruction_text_of_a_real_tokenizer(tokenizer):
    prompts = prompt_format(tokenizer, settings_of("instruction"))
    titles = tokenize_titles(tokenizer, ["Golden Sun", "Red River", "Lost Empire"], 8)
    assert tokenizer.decode(prompts.prompt(titles)) == f"{BEGIN}{INSTRUCTION}Red River\nLost Empire{RESPONSE}"
    assert prompts.terminator_id == tokenizer.eos_token_id


def test_instruction_layout_by_hand():
    prompts, titles = instruction_prompts(history_length=2), numbered_titles(4)
    assert prompts.prompt(titles[:3]).tolist() == [INSTRUCTION_ID, 101, 101, NEWLINE, 102, 102, 102, RESPONSE_ID]
    windows = prompts.windows(titles, 2, completions=True)
    assert [w.token_ids.tolist() for w in windows] == [
        [INSTRUCTION_ID, 100, NEWLINE, 101, 101, RESPONSE_ID, 102, 102, 102, END],
        [INSTRUCTION_ID, 101, 101, NEWLINE, 102, 102, 102, RESPONSE_ID, 103, END],
    ]
    assert [w.token_ids[w.loss_start :].tolist() for w in windows] == [[102, 102, 102, END], [103, END]]
    assert [w.target_positions.tolist() for w in windows] == [[2], [3]]


@given(sequence_prompts(), st.integers(2, 40), st.integers(0, 40), st.booleans())
def test_every_sample_is_in_one_window_and_sees_enough_items(prompts, num_titles, first_position, completions):
    titles = numbered_titles(num_titles)
    windows = prompts.windows(titles, first_position, completions=completions)
    positions = [int(p) for window in windows for p in window.target_positions]
    assert positions == list(range(max(first_position, 1), num_titles))
    for window in windows:
        for state, position in zip(window.state_indexes, window.target_positions, strict=True):
            num_seen = int((window.token_ids[: state + 1] == SEPARATOR).sum())
            assert min(prompts.min_history, position) <= num_seen <= prompts.window_items
            assert window.token_ids[state] == SEPARATOR


@given(sequence_prompts() | st.builds(instruction_prompts, st.integers(1, 6)), st.integers(2, 30), st.integers(1, 30), st.booleans())
def test_text_up_to_each_state_is_the_prompt_of_its_history(prompts, num_titles, first_position, completions):
    titles = numbered_titles(num_titles)
    windows = prompts.windows(titles, first_position, completions=completions)
    assert sum(len(w.state_indexes) for w in windows) == max(0, num_titles - first_position)
    for window in windows:
        for state, position in zip(window.state_indexes, window.target_positions, strict=True):
            text = window.token_ids[: state + 1].tolist()
            whole = prompts.prompt(titles[:position]).tolist()
            assert text == whole
        if not completions:
            assert len(window.token_ids) == window.state_indexes[-1] + 1


@given(sequence_prompts() | st.builds(instruction_prompts, st.integers(1, 6)), st.integers(2, 30), st.integers(1, 30))
def test_training_predicts_every_target_once_and_nothing_else(prompts, num_titles, first_position):
    titles = numbered_titles(num_titles)
    windows = prompts.windows(titles, first_position, completions=True)
    predicted = [int(t) for window in windows for t in window.token_ids[window.loss_start :]]
    expected = [int(t) for title in titles[first_position:] for t in [*title, prompts.terminator_id]]
    assert predicted == expected
    assert 100 not in predicted


def test_titles_are_cut_and_never_empty(tokenizer):
    long, empty, plain = tokenize_titles(tokenizer, ["Golden Sun " * 30, "", "Red River"], 5)
    assert len(long) == 5
    assert tokenizer.decode(empty) == "?"
    assert tokenizer.decode(plain) == "Red River"
    assert tokenize_titles(tokenizer, [], 5) == []


def test_a_title_is_tokenised_alike_beside_any_other(tokenizer):
    alone = tokenize_titles(tokenizer, ["Lost Empire"], 8)[0]
    beside = tokenize_titles(tokenizer, ["Red River", "Lost Empire"], 8)[1]
    assert alone.tolist() == beside.tolist()


@pytest.mark.parametrize(("window_items", "min_history"), [(4, 4), (4, 9)])
def test_a_window_that_cannot_move_on_is_refused(tokenizer, window_items, min_history):
    with pytest.raises(ConfigError, match=f"window_items is {window_items} and min_history {min_history}"):
        prompt_format(tokenizer, settings_of("sequence", window_items=window_items, min_history=min_history))
