"""The audit log as JSON lines: one for every request that would change something, also one that was refused or failed.

The store keeps what was changed, in the transaction that changed it (``StateStore.audit_entries``); these lines go to whoever watches over
the service and say who tried what and how it ended. ``request_id`` joins the two. A line has the pattern of the path and never the path,
and nothing of a body, so no title and no user_id can stand in it.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp, Receive, Scope, Send

from l2d_ray.serve.observed import watched

WRITING_SCOPES: Final = ("write", "admin")


class AuditLog:
    """Where the lines go.

    Args:
        path: a file that is appended to, each line in one piece, so that replicas may share it and it may be moved away at any time;
            None: stderr.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path

    def __call__(self, line: str) -> None:
        if self._path is None:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 this is the log
            return
        file = os.open(self._path, os.O_APPEND | os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.write(file, f"{line}\n".encode())
        finally:
            os.close(file)


class AuditMiddleware:
    """ASGI middleware around the API: tells the log about requests for which ``AccessControl.require`` asked a writing scope.

    ``scope["state"]["request_id"]`` is the request's id where something has set it.
    """

    def __init__(self, app: ASGIApp, log: Callable[[str], None]) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})

        def tell(status: int | None, took_ms: float) -> None:
            if state.get("scope_needed") in WRITING_SCOPES:
                self._log(_line(scope, state, status=500 if status is None else status, took_ms=took_ms))

        await watched(self._app, scope, receive, send, on_end=tell)


def _line(scope: Scope, state: dict[str, Any], *, status: int, took_ms: float) -> str:
    caller, route = state.get("caller"), scope.get("route")
    entry = {
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "audit": f"{scope['method']} {route.path if route else '?'}",
        "scope": state["scope_needed"],
        "outcome": "done" if status < 400 else "refused" if status < 500 else "failed",
        "status": status,
        "key_id": caller.key_id if caller else None,
        "request_id": state.get("request_id"),
        "took_ms": round(took_ms, 3),
    }
    return json.dumps(entry)
