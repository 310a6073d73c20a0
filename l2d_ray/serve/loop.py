"""One thread beside the event loop, for all that must not hold the loop up and must not run twice at once."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")
Job = tuple[Callable[[], Any], asyncio.Future[Any]]


class OffLoop:
    """``await off_loop(work, ...)`` does work on the thread; in the order in which it was asked for.

    What waits when the thread becomes free is done in one go, and the loop is woken once for all of it: changing between the two threads
    costs more than most of the work.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: deque[Job] = deque()
        self._is_wanted = threading.Semaphore(0)
        self._thread: threading.Thread | None = None

    async def __call__(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((partial(work, *arguments, **named), future))
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
        self._is_wanted.release()
        return await future

    def _run(self) -> None:
        while True:
            self._is_wanted.acquire()
            done = []
            while self._waiting:
                work, future = self._waiting.popleft()
                done.append((future, *_outcome(work)))
            for loop in {future.get_loop() for future, _, _ in done}:
                mine = [one for one in done if one[0].get_loop() is loop]
                if not loop.is_closed():
                    loop.call_soon_threadsafe(_settle, mine)


def _outcome(work: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001  # whoever awaits it gets it
        return None, error


def _settle(done: list[tuple[asyncio.Future[Any], Any, BaseException | None]]) -> None:
    for future, result, error in done:
        if future.done():  # nobody waits for it any more
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
