"""The laws of shared calls: everyone gets their own result once, in order, within the budget; nobody waits past a deadline."""

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l2d_ray.errors import UnavailableError
from l2d_ray.serve.batching import Batch, Batcher, BatchLimits


class Doubling:
    """A call that doubles numbers once its gate is open, and remembers its batches."""

    def __init__(self, *, is_open: bool = True) -> None:
        self.batches: list[Batch[int]] = []
        self.gate = asyncio.Event()
        self.most_at_once = self._now = 0
        if is_open:
            self.gate.set()

    async def __call__(self, batch: Batch[int]) -> Sequence[int]:
        self.batches.append(batch)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await self.gate.wait()
        await asyncio.sleep(0)
        self._now -= 1
        return [2 * job for job in batch.jobs]


JOBS = st.lists(st.tuples(st.integers(0, 1000), st.sampled_from("ab"), st.integers(1, 9)), min_size=1, max_size=40)


@settings(max_examples=200, deadline=None)
@given(JOBS, st.integers(1, 6), st.integers(1, 20), st.integers(1, 3))
def test_everyone_gets_their_own_result_and_batches_keep_key_order_and_budget(jobs, max_jobs, max_weight, max_calls):
    async def run() -> tuple[list[int], Doubling]:
        call = Doubling()
        batcher = Batcher(call, BatchLimits(max_jobs, max_weight, max_calls))
        answers = await asyncio.gather(*(batcher.submit(job, key=key, weight=weight) for job, key, weight in jobs))
        return answers, call

    answers, call = asyncio.run(run())
    assert answers == [2 * job for job, _, _ in jobs]
    assert sorted(job for batch in call.batches for job in batch.jobs) == sorted(job for job, _, _ in jobs)
    assert call.most_at_once <= max_calls
    for key in "ab":
        sent = [job for batch in call.batches if batch.key == key for job in batch.jobs]
        assert sent == [job for job, its_key, _ in jobs if its_key == key]
    weights = {key: iter([weight for _, its_key, weight in jobs if its_key == key]) for key in "ab"}
    for batch in call.batches:
        assert len(batch.jobs) <= max_jobs
        total = sum(next(weights[str(batch.key)]) for _ in batch.jobs)
        assert total <= max_weight or len(batch.jobs) == 1


def test_what_comes_during_a_call_shares_the_next_one():
    async def run() -> list[int]:
        call = Doubling(is_open=False)
        batcher = Batcher(call, BatchLimits(max_jobs=10))
        tasks = [asyncio.create_task(batcher.submit(job)) for job in range(3)]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(batcher.submit(job)) for job in range(5)]
        await asyncio.sleep(0.01)
        assert batcher.num_waiting == 5
        call.gate.set()
        await asyncio.gather(*tasks)
        return [len(batch.jobs) for batch in call.batches]

    assert asyncio.run(run()) == [3, 5]  # those that come in one round of the loop share the first call too


def test_a_full_queue_refuses_at_once_and_the_rest_are_answered():
    async def run() -> list[int | BaseException]:
        call = Doubling(is_open=False)
        batcher = Batcher(call, BatchLimits(max_jobs=1, max_waiting=2))
        tasks = [asyncio.create_task(batcher.submit(0))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(batcher.submit(job)) for job in range(1, 5)]
        await asyncio.sleep(0.01)
        call.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    refused = [answer for answer in answers if isinstance(answer, UnavailableError)]
    assert [answer for answer in answers if not isinstance(answer, UnavailableError)] == [0, 2, 4]
    assert [error.retry_after_s for error in refused] == [1, 1]


def test_a_deadline_ends_the_wait_and_keeps_the_job_from_being_called_for():
    async def run() -> Doubling:
        call = Doubling(is_open=False)
        batcher = Batcher(call, BatchLimits(max_jobs=1))
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            await batcher.submit(2, deadline=time.monotonic() + 0.05)
        assert 0.04 < time.monotonic() - started < 1
        call.gate.set()
        assert (await first, await batcher.submit(3)) == (2, 6)
        return call

    assert [list(batch.jobs) for batch in asyncio.run(run()).batches] == [[1], [3]]


def test_what_a_call_raises_is_raised_to_all_of_its_batch_and_the_next_goes_on():
    async def call(batch: Batch[int]) -> Sequence[int]:
        if 1 in batch.jobs:
            raise UnavailableError("not now")
        return list(batch.jobs)

    async def run() -> list[int | BaseException]:
        batcher = Batcher(call, BatchLimits(max_jobs=2))
        return await asyncio.gather(*(batcher.submit(job) for job in range(5)), return_exceptions=True)

    answers = asyncio.run(run())
    assert [isinstance(answer, UnavailableError) for answer in answers] == [True, True, False, False, False]
    assert [answer for answer in answers if isinstance(answer, int)] == [2, 3, 4]


def test_a_call_runs_in_the_context_that_its_first_job_was_handed_in_with_and_outlives_it():
    who: ContextVar[str] = ContextVar("who")
    seen: list[str] = []
    gate = asyncio.Event()

    async def call(batch: Batch[int]) -> Sequence[int]:
        seen.append(who.get())
        await gate.wait()
        return list(batch.jobs)

    async def run() -> list[int | BaseException]:
        batcher = Batcher(call, BatchLimits(max_jobs=4))

        async def ask(name: str, job: int) -> int:
            who.set(name)
            return await batcher.submit(job)

        tasks = [asyncio.create_task(ask("a", 0))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(ask(name, job)) for job, name in enumerate("bc", start=1)]
        await asyncio.sleep(0.01)
        tasks[0].cancel()
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(run())
    assert seen == ["a", "b"]
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == [1, 2]
