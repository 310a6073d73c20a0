"""What is beyond a process's room is refused at once, before it is read, and counted once; health checks always come in."""

import asyncio

import pytest

from l2d_ray.serve.messages import Problem
from l2d_ray.serve.overload import BODY, Bounded


class Slow:
    """An ASGI application that answers once its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.num_begun = 0

    async def __call__(self, scope, receive, send) -> None:
        self.num_begun += 1
        await self.gate.wait()
        if scope["path"] == "/broken":
            raise RuntimeError("broken")
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def status_of(application, path: str) -> int:
    sent = []

    async def send(message) -> None:
        sent.append(message)

    await application({"type": "http", "path": path}, None, send)
    return int(sent[0]["status"])


def test_the_rest_are_refused_at_once_and_room_comes_back():
    async def run() -> None:
        slow, refused = Slow(), []
        bounded = Bounded(slow, 2, lambda: refused.append(1))
        begun = [asyncio.create_task(status_of(bounded, "/v1/recommendations")) for _ in range(2)]
        await asyncio.sleep(0)
        assert [await status_of(bounded, "/v1/recommendations") for _ in range(3)] == [503] * 3
        assert (slow.num_begun, len(refused)) == (2, 3)
        health = asyncio.create_task(status_of(bounded, "/readyz"))
        await asyncio.sleep(0)
        assert slow.num_begun == 3
        slow.gate.set()
        assert await asyncio.gather(*begun, health) == [200] * 3
        with pytest.raises(RuntimeError, match="broken"):
            await status_of(bounded, "/broken")
        assert bounded.num_requests == 0
        assert await status_of(bounded, "/v1/recommendations") == 200

    asyncio.run(run())


def test_a_refusal_is_a_problem_answer():
    problem = Problem.model_validate_json(BODY)
    assert (problem.status, "try again later" in problem.detail) == (503, True)
