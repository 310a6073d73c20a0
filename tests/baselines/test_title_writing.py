"""Free generation: greedy by the library's greedy search, beams that differ, batches that do not matter."""

import pytest

from l2d_ray.errors import ConfigError, RequestError
from l2d_ray.model.generation import greedy_titles
from tests.baselines.language import toy_language_model, toy_prompts, toy_writer

HISTORIES = [[0, 1, 2], [5], [3, 4]]


def test_one_beam_is_the_greedy_title():
    prompts, tokenizer = toy_prompts(), toy_language_model().tokenizer
    written = greedy_titles(
        toy_language_model().model,
        [prompts.write(history) for history in HISTORIES],
        max_new_tokens=prompts.max_title_tokens + 1,
        terminator_id=prompts.prompts.terminator_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    wanted = [[tokenizer.decode(ids, skip_special_tokens=True).strip()] for ids in written]
    assert toy_writer().write(HISTORIES, num_beams=1) == wanted


def test_every_history_gets_as_many_texts_as_beams_whatever_the_batch():
    together = toy_writer().write(HISTORIES, num_beams=3)
    assert [len(texts) for texts in together] == [3, 3, 3]
    assert toy_writer(max_batch_tokens=1).write(HISTORIES, num_beams=3) == together
    assert toy_writer().write([], num_beams=3) == []


def test_refuses_what_it_cannot_continue():
    with pytest.raises(ConfigError, match="num_beams is 0"):
        toy_writer().write(HISTORIES, num_beams=0)
    with pytest.raises(RequestError, match="empty"):
        toy_writer().write([[]], num_beams=1)
