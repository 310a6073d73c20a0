"""What every HTTP request meets first: it gets an id, and a body that is too large or too slow is refused before its end. No routes."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from http import HTTPStatus
from typing import Final

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES: Final = 8 << 20
MAX_BODY_S: Final = 10.0
REQUEST_ID: Final = "X-Request-ID"
_USABLE_ID: Final = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


class RequestIds:
    """Leaves the request's id in ``request.state.request_id`` and in the answer's header: the caller's where it is usable, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = sent if _USABLE_ID.fullmatch(sent) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class BodyLimit:
    """Lets the application's look at a body that is too large raise 413: at once where its length is told, else when it is passed; and 408
    where it is not there in time, since a caller who stops in the middle would keep the place of a request that is worked on.

    FastAPI's own limit (``max_body_size``) answers in plain text; ours is a problem answer like all others.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_s = max_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "")
        num_bytes = int(told) if told.isascii() and told.isdigit() and len(told) < 20 else 0
        if num_bytes <= self._max_bytes:
            num_bytes = 0
        is_there, deadline = False, time.monotonic() + self._max_s

        async def counted() -> Message:
            nonlocal num_bytes, is_there
            if is_there:
                return await receive()  # whether the caller leaves: that may take long
            message = await self._in_time(receive, deadline) if num_bytes <= self._max_bytes else {}
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_bytes:
                raise HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"The body is larger than {self._max_bytes} bytes; send less, in several requests."
                )
            is_there = not message.get("more_body", False)
            return message

        await self._app(scope, counted, send)

    async def _in_time(self, receive: Receive, deadline: float) -> Message:
        try:
            return await asyncio.wait_for(receive(), deadline - time.monotonic())
        except TimeoutError:
            raise HTTPException(
                HTTPStatus.REQUEST_TIMEOUT, f"The body was not there within {self._max_s:g} seconds; send it at once."
            ) from None
