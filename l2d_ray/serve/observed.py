"""Tells how every request ended: an ASGI application around another. A route is its pattern, so no id and no title can be in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_ROUTE: Final = "none"
GONE: Final = 499
"""Status where the caller left before an answer began, as nginx counts it."""


class Observed:
    """Calls ``note(route, status, milliseconds)`` once for every HTTP request."""

    def __init__(self, app: ASGIApp, note: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        def note(status: int | None, took_ms: float) -> None:
            route = scope.get("route")
            self._note(route.path if route else NO_ROUTE, GONE if status is None else status, took_ms)

        await watched(self._app, scope, receive, send, on_end=note)


async def watched(app: ASGIApp, scope: Scope, receive: Receive, send: Send, *, on_end: Callable[[int | None, float], None]) -> None:
    """Run the application and tell, however it ended, the status (None where no answer began) and the milliseconds that it took."""
    status, start = None, time.perf_counter()

    async def send_and_look(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    try:
        await app(scope, receive, send_and_look)
    finally:
        on_end(status, (time.perf_counter() - start) * 1000)
