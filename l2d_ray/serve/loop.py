"""One thread beside the event loop, for all that must not hold the loop up and must not run twice at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
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
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def __call__(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._jobs.put((partial(work, *arguments, **named), future))
        return await future

    def _run(self) -> None:
        while True:
            jobs = [self._jobs.get()]
            jobs += [self._jobs.get() for _ in range(self._jobs.qsize())]  # nobody else takes any out
            done = [(future, *_outcome(work)) for work, future in jobs]
            for loop in {future.get_loop() for future, _, _ in done}:
                with suppress(RuntimeError):  # the loop is closed: nobody waits there any more
                    loop.call_soon_threadsafe(_settle, [one for one in done if one[0].get_loop() is loop])


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
