"""Refuses requests beyond what a process can work on at once, before anything is read of them: an ASGI application around another.

A refusal must cost far less than an answer, or refusing many ends answering any. So it knows no routes and no bodies: the problem answer
(RFC 9457) is one constant. Health checks are let through.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

from l2d_ray.serve.messages import Problem

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]

ALWAYS_LET_IN: Final = ("/healthz", "/readyz", "/v1/status")
RETRY_AFTER_S: Final = 1
STATUS: Final = HTTPStatus.SERVICE_UNAVAILABLE
BODY: Final = (
    Problem(title=STATUS.phrase, status=int(STATUS), detail="The service has as many requests as it can work on; try again later.")
    .model_dump_json()
    .encode()
)
HEADERS: Final = [
    (b"content-type", b"application/problem+json"),
    (b"content-length", str(len(BODY)).encode()),
    (b"retry-after", str(RETRY_AFTER_S).encode()),
]


class Bounded:
    """At most ``max_requests`` of the application's requests at once; the rest are answered 503 with Retry-After at once.

    Args:
        on_refused: called for every request that is refused.
    """

    def __init__(self, application: ASGI, max_requests: int, on_refused: Callable[[], None] = lambda: None) -> None:
        self._application = application
        self._max_requests = max_requests
        self._on_refused = on_refused
        self.num_requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].endswith(ALWAYS_LET_IN):
            await self._application(scope, receive, send)
        elif self.num_requests >= self._max_requests:
            self._on_refused()
            await send({"type": "http.response.start", "status": int(STATUS), "headers": HEADERS})
            await send({"type": "http.response.body", "body": BODY})
        else:
            await self._count(scope, receive, send)

    async def _count(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.num_requests += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self.num_requests -= 1
