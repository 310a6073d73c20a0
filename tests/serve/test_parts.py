"""Calls of a deployment: made again where a replica died, in time where it hangs, doubled where another may answer. Handles are made up."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve.exceptions import BackPressureError

from l2d_ray.errors import UnavailableError
from l2d_ray.serve.on_ray.parts import Part

Answering = Callable[[int], Awaitable[Any]]


class Response:
    """As DeploymentResponse: awaited and cancelled."""

    def __init__(self, answer: Awaitable[Any]) -> None:
        self._answer = answer
        self.is_cancelled = False

    def __await__(self):
        return self._answer.__await__()

    def cancel(self) -> None:
        self.is_cancelled = True


class Handle:
    """Its n-th call is answered by ``answering(n)``."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self.responses: list[Response] = []

    def __getattr__(self, method: str) -> "Handle":
        return self

    def remote(self, *arguments: object) -> Response:
        self.responses.append(Response(self._answering(len(self.responses))))
        return self.responses[-1]


def lost() -> ActorUnavailableError:
    return ActorUnavailableError("gone", b"0" * 16)


def call(answering: Answering, *, timeout_s: float = 5.0, doubled_after_s: float | None = None) -> tuple[Any, Handle, list[str], float]:
    """What a call gave or raised, the handle, the retries, and how long it took."""

    async def run() -> tuple[Any, Handle, list[str], float]:
        handle, retries, started = Handle(answering), [], time.monotonic()
        part = Part("Shard-0", handle, note_retry=retries.append, doubled_after_s=doubled_after_s)
        found = await asyncio.gather(part.call("search", 1, deadline=started + timeout_s), return_exceptions=True)
        return found[0], handle, retries, time.monotonic() - started

    return asyncio.run(run())


def test_a_call_whose_replica_died_is_made_again_until_one_answers():
    async def answering(number: int) -> str:
        if number < 3:
            raise lost()
        return "here"

    found, handle, retries, _ = call(answering)
    assert (found, len(handle.responses), retries) == ("here", 4, ["Shard-0"] * 3)


def test_what_stays_lost_or_hangs_ends_at_the_deadline_and_is_cancelled():
    async def gone(number: int) -> str:
        raise lost()

    async def hanging(number: int) -> str:
        await asyncio.sleep(60)
        return "too late"

    for answering in (gone, hanging):
        found, handle, _, took_s = call(answering, timeout_s=0.2)
        assert isinstance(found, TimeoutError)
        assert took_s < 2
        assert handle.responses[-1].is_cancelled == (answering is hanging)


def test_a_full_queue_is_told_at_once_and_other_errors_are_raised_as_they_are():
    async def full(number: int) -> str:
        raise BackPressureError(num_queued_requests=1, max_queued_requests=1)

    async def broken(number: int) -> str:
        raise ZeroDivisionError

    found, handle, _, _ = call(full)
    assert isinstance(found, UnavailableError)
    assert (found.retry_after_s, len(handle.responses)) == (1, 1)
    assert isinstance(call(broken)[0], ZeroDivisionError)


def test_a_slow_call_is_doubled_once_and_the_first_answer_counts():
    async def answering(number: int) -> str:
        await asyncio.sleep(60 if number == 0 else 0.01)
        return f"call {number}"

    found, handle, retries, took_s = call(answering, doubled_after_s=0.05)
    assert (found, len(handle.responses), retries) == ("call 1", 2, ["Shard-0"])
    assert took_s < 2
    assert [response.is_cancelled for response in handle.responses] == [True, False]


def test_of_a_part_one_call_is_doubled_at_a_time():
    async def answering(number: int) -> int:
        await asyncio.sleep(0.3)
        return number

    async def run() -> tuple[list[int], int]:
        handle = Handle(answering)
        part = Part("Shard-0", handle, doubled_after_s=0.05)
        until = time.monotonic() + 5
        answers = await asyncio.gather(*(part.call("search", deadline=until) for _ in range(4)))
        again = await part.call("search", deadline=until)
        return [*answers, again], len(handle.responses)

    answers, num_calls = asyncio.run(run())
    assert len(answers) == 5
    assert num_calls == 4 + 1 + 2


@pytest.mark.parametrize(
    ("error", "is_there"), [(None, True), (BackPressureError(num_queued_requests=1, max_queued_requests=1), True), (lost(), False)]
)
def test_a_part_is_there_when_it_answers_or_is_busy(error: Exception | None, is_there: bool):
    async def answering(number: int) -> int:
        if error is not None:
            raise error
        return 1

    async def run() -> bool:
        return await Part("Encoder", Handle(answering)).is_there()

    assert asyncio.run(run()) == is_there
