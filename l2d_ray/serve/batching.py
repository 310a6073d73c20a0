"""Requests that wait at the same time share one call. Pure asyncio, knows no Ray.

    batcher = Batcher(call, BatchLimits(max_jobs=64, max_weight=8192))
    result = await batcher.submit(job, key=key, weight=len(job), deadline=deadline)

A batch starts at the end of the round of the event loop in which one of ``max_calls`` is free, with all that wait under the oldest job's
key and fit the budget. While a call is under way the next batch fills by itself, so there is no waiting time to tune: a lone request never
waits, a hundred share few calls.

Laws (tested): every job gets its own result or an error, once; batches start in order of arrival and hold one key; no batch is over its
budget, except a single job that is; more than ``max_waiting`` are refused at once; a job whose deadline has passed is never called for.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from l2d_ray.errors import UnavailableError

Job = TypeVar("Job")
Result = TypeVar("Result")

RETRY_AFTER_S: Final = 1


@dataclass(frozen=True)
class BatchLimits:
    """Budgets of a batcher.

    Attributes:
        max_jobs, max_weight: of one batch; weights are what the caller counts, such as tokens.
        max_calls: calls under way at once.
        max_waiting: jobs that wait for a call; more are refused.
    """

    max_jobs: int
    max_weight: int = 1 << 40
    max_calls: int = 1
    max_waiting: int = 1 << 20


@dataclass(eq=False)
class _Waiting(Generic[Job, Result]):
    """A job in the queue, and where its result goes."""

    job: Job
    key: Hashable
    weight: int
    deadline: float
    result: asyncio.Future[Result]
    context: Context

    @property
    def is_wanted(self) -> bool:
        return not self.result.done() and self.deadline > time.monotonic()


@dataclass(frozen=True)
class Batch(Generic[Job]):
    """What a call is made with.

    Attributes:
        deadline: the last of its jobs' (time.monotonic, or infinity): later nobody waits for the call.
    """

    jobs: Sequence[Job]
    key: Hashable
    deadline: float


Call = Callable[[Batch[Job]], Coroutine[Any, Any, Sequence[Result]]]


class Batcher(Generic[Job, Result]):
    """See the module.

    Args:
        call: answers a batch, one result a job in their order; what it raises every job of the batch raises.
        note: told of every call: how many jobs it has, and how many wait.
        context: makes the context of a call, where its first job is handed in.
    """

    def __init__(
        self,
        call: Call[Job, Result],
        limits: BatchLimits,
        *,
        note: Callable[[int, int], None] = lambda size, waiting: None,
        context: Callable[[], Context] = copy_context,
    ) -> None:
        self.limits = limits
        self._call = call
        self._note = note
        self._context = context
        self._queue: deque[_Waiting[Job, Result]] = deque()
        self._is_starting = False
        self._calls: set[asyncio.Task[Sequence[Result]]] = set()

    @property
    def num_waiting(self) -> int:
        """Jobs that no call has been made for yet."""
        return len(self._queue)

    async def submit(self, job: Job, *, key: Hashable = None, weight: int = 1, deadline: float | None = None) -> Result:
        """The job's result; TimeoutError past the deadline (time.monotonic), UnavailableError where too many wait."""
        if len(self._queue) >= self.limits.max_waiting:
            raise UnavailableError(f"{len(self._queue)} requests are waiting, as many as may; try again later.", RETRY_AFTER_S)
        until = float("inf") if deadline is None else deadline
        waiting = _Waiting(job, key, weight, until, asyncio.get_running_loop().create_future(), self._context())
        self._queue.append(waiting)
        if not self._is_starting:
            self._is_starting = True  # at the round's end: jobs that shared their last call come in one round, and share this one too
            asyncio.get_running_loop().call_soon(self._start)
        return await asyncio.wait_for(waiting.result, None if deadline is None else deadline - time.monotonic())

    def _start(self) -> None:
        self._is_starting = False
        while len(self._calls) < self.limits.max_calls and (jobs := self._next_jobs()):
            self._note(len(jobs), len(self._queue))
            batch = Batch([job.job for job in jobs], jobs[0].key, max(job.deadline for job in jobs))
            call = asyncio.get_running_loop().create_task(self._call(batch), context=jobs[0].context)
            self._calls.add(call)
            call.add_done_callback(lambda done, jobs=jobs: self._finish(done, jobs))  # type: ignore[misc]

    def _next_jobs(self) -> list[_Waiting[Job, Result]]:
        """The oldest job and those after it that may share its call, taken out of the queue; empty where nobody waits."""
        waiting = [job for job in self._queue if job.is_wanted]
        taken: list[_Waiting[Job, Result]] = []
        weight = 0
        for job in waiting:
            if job.key != waiting[0].key:
                continue
            if taken and (len(taken) == self.limits.max_jobs or weight + job.weight > self.limits.max_weight):
                break
            taken.append(job)
            weight += job.weight
        chosen = set(map(id, taken))
        self._queue = deque(job for job in waiting if id(job) not in chosen)
        return taken

    def _finish(self, call: asyncio.Task[Sequence[Result]], jobs: list[_Waiting[Job, Result]]) -> None:
        self._calls.discard(call)
        results = _results(call, len(jobs))
        for number, job in enumerate(jobs):
            if job.result.done():
                continue
            if isinstance(results, BaseException):
                job.result.set_exception(results)
            else:
                job.result.set_result(results[number])
        self._start()


def _results(call: asyncio.Task[Sequence[Result]], num_jobs: int) -> Sequence[Result] | BaseException:
    """What a call gave, or why it gave nothing."""
    if call.cancelled():
        return UnavailableError("The service is stopping; try again later.", RETRY_AFTER_S)
    error = call.exception()
    if error is not None:
        return error
    results = call.result()
    assert len(results) == num_jobs, f"A call of {num_jobs} jobs gave {len(results)} results."
    return results
