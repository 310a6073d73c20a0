"""From sequences to texts: which samples a split has, and that the n-th state is the n-th target's."""

import numpy as np
import pytest

from l2d_ray.data.sequences import UserSequence
from l2d_ray.errors import DataError
from l2d_ray.schema import TEST, TRAIN, VALID
from l2d_ray.text.harvest import completion_windows, harvest
from l2d_ray.text.prompts import SequencePrompts

PROMPTS = SequencePrompts((1,), 9, window_items=3, min_history=1)
TITLES = {name: np.array([100 + number], dtype=np.int32) for number, name in enumerate("abcdefgh")}
SEQUENCES = [
    UserSequence("u1", tuple("abcdefg"), tuple(range(7)), (TRAIN,) * 5 + (VALID, TEST)),
    UserSequence("u2", tuple("h"), (0,), (TRAIN,)),
    UserSequence("u3", tuple("ba"), (0, 1), (VALID, TEST)),
    UserSequence("u4", tuple("ceg"), (None,) * 3, (TRAIN, TRAIN, TEST)),
]
EXPECTED = {
    TRAIN: [("u1", 1), ("u1", 2), ("u1", 3), ("u1", 4), ("u4", 1)],
    VALID: [("u1", 5)],
    TEST: [("u1", 6), ("u3", 1), ("u4", 2)],
}


@pytest.mark.parametrize("split", [TRAIN, VALID, TEST])
def test_states_and_targets_stand_in_one_order(split):
    found = harvest(SEQUENCES, split, item_id_to_title=TITLES, prompts=PROMPTS)
    assert [(t.user_id, t.position) for t in found.targets] == EXPECTED[split]
    texts = [w.token_ids[: state + 1].tolist() for w in found.windows for state in w.state_indexes]
    by_user = {s.user_id: s for s in SEQUENCES}
    histories = [[TITLES[i] for i in by_user[t.user_id].item_ids[: t.position]] for t in found.targets]
    assert texts == [PROMPTS.prompt(history).tolist() for history in histories]
    assert [t.item_id for t in found.targets] == [by_user[u].item_ids[p] for u, p in EXPECTED[split]]


def test_texts_without_completions_never_show_a_last_target():
    found = harvest(SEQUENCES[:1], TRAIN, item_id_to_title=TITLES, prompts=PROMPTS)
    shown = {int(t) for w in found.windows for t in w.token_ids}
    assert {100, 103} <= shown
    assert not shown & {104, 105, 106}


@pytest.mark.parametrize(("split", "predicted"), [(TRAIN, [101, 102, 103, 104]), (VALID, [105]), (TEST, [106])])
def test_loss_is_taken_on_the_splits_targets_alone(split, predicted):
    windows = completion_windows(SEQUENCES[0], split, item_id_to_title=TITLES, prompts=PROMPTS)
    assert [int(t) for w in windows for t in w.token_ids[w.loss_start :] if t != 9] == predicted
    assert max(int(t) for w in windows for t in w.token_ids) == predicted[-1]


def test_a_user_without_targets_gives_no_text():
    assert completion_windows(SEQUENCES[1], TRAIN, item_id_to_title=TITLES, prompts=PROMPTS) == []
    assert harvest(SEQUENCES[1:2], TRAIN, item_id_to_title=TITLES, prompts=PROMPTS).windows == []


def test_an_item_without_a_title_is_named():
    known = {name: title for name, title in TITLES.items() if name != "c"}
    with pytest.raises(DataError, match="User 'u1' has item 'c'"):
        harvest(SEQUENCES, TRAIN, item_id_to_title=known, prompts=PROMPTS)
    with pytest.raises(DataError, match="User 'u4' has item 'c'"):
        completion_windows(SEQUENCES[3], TRAIN, item_id_to_title=known, prompts=PROMPTS)
