"""Histories of a memory become the state's: everybody's latest sequence, once, also where the first attempt was cut off."""

from pathlib import Path

import pytest

from l2d_ray.memory.sequences import RECENT, RememberedSequence, load_sequences, store_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.serve import takeover
from l2d_ray.serve.takeover import AUTHOR, note_histories, take_over_histories
from l2d_ray.store.open import open_store
from tests.toys import toy_catalogue

FIRST = [
    RememberedSequence("ann", ("item-01", "item-02"), (100, 200)),
    RememberedSequence("bob", ("item-05", "item-04", "item-05"), (None, None, None)),
    RememberedSequence("cas", ("item-07",), (50,)),
    RememberedSequence("dora", ("item-08",), (60,)),
]
LATER = [RememberedSequence("ann", ("item-01", "item-03", "item-02"), (100, 150, 200)), RememberedSequence("dora")]
HISTORIES = {"ann": ["item-01", "item-03", "item-02"], "bob": ["item-05", "item-04", "item-05"], "cas": [], "dora": []}


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    memory = Memory.create(str(tmp_path / "memory"), fingerprint="f", dim=2, catalogue=toy_catalogue())
    names = (store_sequences(memory.uri, FIRST), store_sequences(memory.uri, LATER, stem=RECENT))
    return memory.commit(memory.state.next("append", "toy", sequences=names))


@pytest.mark.parametrize("blocks_before_the_cut", [0, 1, 2, 5])
def test_the_latest_sequence_of_everybody_but_the_forgotten_once(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks_before_the_cut: int
):
    monkeypatch.setattr(takeover, "BLOCK", 2)
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        store.forget_user("cas", AUTHOR)
        add, num_calls = store.add_interactions, 0

        def cut_off(*arguments, **named):
            nonlocal num_calls
            num_calls += 1
            if num_calls > blocks_before_the_cut:
                raise KeyboardInterrupt
            return add(*arguments, **named)

        monkeypatch.setattr(store, "add_interactions", cut_off)
        if blocks_before_the_cut < 3:
            with pytest.raises(KeyboardInterrupt):
                take_over_histories(store, memory)
        monkeypatch.setattr(store, "add_interactions", add)
        assert take_over_histories(store, memory) == max(0, 6 - 2 * blocks_before_the_cut) or blocks_before_the_cut > 2
        found = {user: [i.item_id for i in history] for user, history in store.histories(list(HISTORIES)).items()}
        assert found == HISTORIES
        assert take_over_histories(store, memory) == 0
        assert store.backlog().num_interactions == 0


def test_only_files_that_are_new_are_read(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    monkeypatch.setattr(takeover, "load_sequences", lambda uri, names: read.extend(names) or load_sequences(uri, names))
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        assert take_over_histories(store, memory) == 7
        assert sorted(read) == sorted(memory.state.sequences)
        read.clear()
        later = store_sequences(memory.uri, [RememberedSequence("eve", ("item-09",), (70,))], stem=RECENT)
        memory = memory.commit(memory.state.next("append", "toy", sequences=(*memory.state.sequences, later)))
        assert take_over_histories(store, memory) == 1
        assert read == [later]
        own = store_sequences(memory.uri, [RememberedSequence("eve", ("item-09", "item-01"), (70, 80))], stem=RECENT)
        memory = memory.commit(memory.state.next("append", "toy", sequences=(*memory.state.sequences, own)))
        note_histories(store, memory)
        assert (take_over_histories(store, memory), read) == (0, [later])
