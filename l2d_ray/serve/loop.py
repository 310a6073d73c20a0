"""One thread beside the event loop, for all that must not hold the loop up and must not run twice at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class OffLoop:
    """``await off_loop(work, ...)`` does work on the thread; in the order in which it was asked for."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)

    async def __call__(self, work: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments, **named))
