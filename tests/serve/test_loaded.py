"""Each name is loaded once however many ask, the least lately used goes first, and a failure is tried again."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.serve.loaded import Loaded
from l2d_ray.serve.state_cache import StateCache


def test_many_threads_share_one_load_and_what_is_there_does_not_wait_for_it():
    loads: list[str] = []
    gate = threading.Event()

    def load(name: str) -> str:
        loads.append(name)
        if name == "slow":
            assert gate.wait(10)
        return name.upper()

    loaded = Loaded(load, 2)
    assert loaded.get("here") == "HERE"
    with ThreadPoolExecutor(8) as threads:
        slow = [threads.submit(loaded.get, "slow") for _ in range(6)]
        assert threads.submit(loaded.get, "here").result(timeout=5) == "HERE"
        assert not any(future.done() for future in slow)
        gate.set()
        assert [future.result(timeout=5) for future in slow] == ["SLOW"] * 6
    assert loads == ["here", "slow"]


def test_the_least_lately_used_is_dropped():
    loads: list[str] = []
    loaded = Loaded(lambda name: loads.append(name), 2)
    for name in "abacaba":
        loaded.get(name)
    assert loads == ["a", "b", "c", "b"]


def test_a_failed_load_is_tried_again():
    outcomes = iter([ArtefactError("gone"), "there"])

    def load(name: str) -> str:
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    loaded = Loaded(load, 2)
    with pytest.raises(ArtefactError, match="gone"):
        loaded.get("a")
    assert loaded.get("a") == loaded.get("a") == "there"


def test_states_are_found_by_their_whole_prompt_and_the_oldest_are_forgotten():
    cache = StateCache(2)
    prompts = [np.array(tokens, dtype=np.int32) for tokens in ([1], [1, 2], [1, 2, 3])]
    for number, prompt in enumerate(prompts[:2]):
        cache.put(prompt, np.full(3, number, dtype=np.float32))
    found = cache.get(prompts[0])
    assert found is not None
    assert found.tolist() == [0, 0, 0]
    cache.put(prompts[2], np.zeros(3, dtype=np.float32))
    assert len(cache) == 2
    assert cache.get(prompts[1]) is None
