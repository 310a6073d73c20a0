"""Pages of one ranking: what the service must know to go on where the page before ended, in a text that the client sends back.

A page is cut from the ranking of the version that answered the first page, and from as much of the user's stored history as that had seen,
so that pages fit together while the memory and the user move on. All else must be asked as before; a digest of it says so.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any, Final

from l2d_ray.errors import RequestError

MAX_OFFSET: Final = 10_000


@dataclass(frozen=True)
class Cursor:
    """Where a page begins.

    Attributes:
        offset: items on the pages before.
        version: memory version that answers.
        num_stored: interactions of the user's stored history that were there.
        digest: of the request without its cursor.
    """

    offset: int
    version: int
    num_stored: int
    digest: str

    def to_text(self) -> str:
        return base64.urlsafe_b64encode(json.dumps(asdict(self)).encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str, digest: str) -> Cursor:
        """RequestError where it is not one of ours, or of another request."""
        try:
            padded = text.encode("ascii") + b"=" * (-len(text) % 4)
            cursor = cls(**json.loads(base64.b64decode(padded, altchars=b"-_", validate=True)))
        except (ValueError, TypeError, RecursionError):
            raise RequestError("cursor", "The cursor is not one that an answer gave; send next_cursor as it came, or none.") from None
        numbers = (cursor.offset, cursor.version, cursor.num_stored)
        if not all(type(number) is int and 0 <= number < 1 << 62 for number in numbers) or cursor.offset > MAX_OFFSET:
            raise RequestError("cursor", "The cursor holds values that no answer gave; send next_cursor as it came, or none.")
        if cursor.digest != digest:
            raise RequestError("cursor", "The cursor belongs to another request; ask the same as for the page before, or send none.")
        return cursor


def digest_of(request: Mapping[str, Any]) -> str:
    """Of a request's JSON fields, the cursor left out."""
    fields = {name: value for name, value in request.items() if name not in ("cursor", "timeout_ms", "require_complete", "explain")}
    return blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8).hexdigest()
