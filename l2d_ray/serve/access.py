"""Who may do what: API keys with scopes and rate limits, as FastAPI dependencies over the store.

A key is ``l2d_ID_SECRET``, sent as ``Authorization: Bearer l2d_...``. The store has the salted SHA-256 of the secret (256 random bits, so a
slow hash would add nothing) and gives the key back by its id. A scope is exactly what it says: admin does not include read or write.
What is refused is a problem answer: 401 without a valid key, 403 without the scope, 429 with Retry-After beyond the key's rate.

A replica remembers a key for KEY_CACHE_S: so long may a revoked key still be taken. While the store does not answer it goes on with the
keys that it knows for STALE_KEY_S. Rates are counted by each replica for its share of the requests.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.concurrency import run_in_threadpool

from l2d_ray.errors import ConfigError, UnavailableError
from l2d_ray.store.interface import StateStore
from l2d_ray.store.records import SCOPES, ApiKey, Author, Scope

PREFIX: Final = "l2d"
KEY_ID_BYTES: Final = 6
KEY_CACHE_S: Final = 5.0
STALE_KEY_S: Final = 300.0

BEARER: Final = HTTPBearer(auto_error=False, description="An API key: l2d_...")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]


def make_key(
    name: str, scopes: frozenset[Scope], *, requests_per_s: float = 50.0, burst: int = 100, expires_at: float | None = None
) -> tuple[ApiKey, str]:
    """A new key as the store keeps it, and its text, which is nowhere else."""
    key_id, secret, salt = secrets.token_hex(KEY_ID_BYTES), secrets.token_urlsafe(32), secrets.token_bytes(16)
    key = ApiKey(key_id, name, scopes, salt, _digest(salt, secret), requests_per_s, burst, time.time(), expires_at)
    return key, f"{PREFIX}_{key_id}_{secret}"


def refuse_open_access(host: str, *, is_access_controlled: bool) -> None:
    """ConfigError where everyone in the network could do everything: without keys the service listens on the loopback interface alone."""
    if not is_access_controlled and not _is_loopback(host):
        raise ConfigError(
            f"The service would listen on {host!r} without API keys, open to everyone there; listen on 127.0.0.1, or leave access control "
            "on and make a key with python -m jobs.api_keys."
        )


@dataclass(frozen=True)
class Caller:
    """Who a request comes from; without access control nobody in particular, who may do everything."""

    key_id: str | None
    scopes: frozenset[Scope]

    def author(self, request_id: str) -> Author:
        """Who the store writes into its audit log."""
        return Author(self.key_id, request_id)


ANYBODY: Final = Caller(None, frozenset(SCOPES))


class TokenBucket:
    """Holds ``burst`` tokens at most and gains ``rate`` a second.

    A request enters while there is a token. What it turns out to need beyond that one it owes, and the next waits the longer: a batch
    larger than the burst is slowed down and not shut out.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, max(burst, 1.0)
        self._tokens, self._at = self._burst, now

    def take(self, now: float) -> float:
        """0 where one was taken; otherwise the seconds until there is one."""
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate)
        self._at = now
        if self._tokens < 1:
            return (1 - self._tokens) / self._rate
        self._tokens -= 1
        return 0.0

    def owe(self, num_tokens: float) -> None:
        """Take tokens for a request that has been let in already."""
        self._tokens -= num_tokens


@dataclass
class _Known:
    """A key, when it was read (monotonic seconds), and its bucket."""

    key: ApiKey
    read_at: float
    bucket: TokenBucket


class AccessControl:
    """Lets requests in, or not.

    Args:
        store: None: access control is off (see ``refuse_open_access``), and everybody may do everything.
        share: the part of all requests that this process sees, 1 / number of ingress replicas: it grants that part of a key's rate.
        clock: monotonic seconds.
    """

    def __init__(self, store: StateStore | None, *, share: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._share = share
        self._clock = clock
        self._known: dict[str, _Known] = {}

    def require(self, scope: Scope) -> Callable[[Request, HTTPAuthorizationCredentials | None], Awaitable[Caller]]:
        """A dependency that gives the caller, or answers 401, 403 or 429. It leaves scope and caller in ``request.state`` for ``audit``."""

        async def caller_of(request: Request, credentials: Credentials) -> Caller:
            request.state.scope_needed = scope
            caller = await self.admit(credentials.credentials if credentials else None, scope)
            request.state.caller = caller
            return caller

        return caller_of

    async def admit(self, text: str | None, scope: Scope) -> Caller:
        """The caller with this key, one token taken from its bucket; HTTPException where it may not come in."""
        if self._store is None:
            return ANYBODY
        known = await self._authenticated(self._store, text)
        if scope not in known.key.scopes:
            raise HTTPException(
                HTTPStatus.FORBIDDEN, f"This API key has not the scope {scope}, only {', '.join(sorted(known.key.scopes))}."
            )
        wait_s = known.bucket.take(self._clock())
        if wait_s > 0:
            raise HTTPException(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"This API key may send {known.key.requests_per_s:g} requests a second; wait {wait_s:.2f} s.",
                {"Retry-After": str(math.ceil(wait_s))},
            )
        return Caller(known.key.key_id, known.key.scopes)

    def charge(self, caller: Caller, num_requests: int) -> None:
        """Count a batch for what it is: tokens for all its requests but the one that ``admit`` has taken."""
        known = self._known.get(caller.key_id or "")
        if known is not None:
            known.bucket.owe(num_requests - 1)

    async def _authenticated(self, store: StateStore, text: str | None) -> _Known:
        key_id, secret = _parts(text)
        known = await self._find(store, key_id) if key_id else None
        # Hashed also where there is no such key, so that the time of an answer does not tell which ids exist.
        salt, digest = (known.key.salt, known.key.digest) if known else (b"", b"")
        is_right = hmac.compare_digest(_digest(salt, secret), digest)
        if known is None or not is_right or not known.key.is_valid(time.time()):
            raise HTTPException(
                HTTPStatus.UNAUTHORIZED,
                "A valid API key is needed: send the header Authorization: Bearer l2d_...; keys are made with python -m jobs.api_keys.",
                {"WWW-Authenticate": "Bearer"},
            )
        return known

    async def _find(self, store: StateStore, key_id: str) -> _Known | None:
        """The key, read again where it was read long ago; its bucket stays the same."""
        known, now = self._known.get(key_id), self._clock()
        if known is not None and now - known.read_at < KEY_CACHE_S:
            return known
        try:
            key = await run_in_threadpool(store.find_key, key_id)
        except UnavailableError:
            if known is None or now - known.read_at > STALE_KEY_S:
                raise
            return known
        if key is None:
            return None
        known = self._known.get(key_id)  # again: another request may have read it meanwhile
        bucket = known.bucket if known else TokenBucket(key.requests_per_s * self._share, key.burst * self._share, now)
        self._known[key_id] = _Known(key, now, bucket)
        return self._known[key_id]


def _parts(text: str | None) -> tuple[str, str]:
    """Id and secret of a key's text; empty ones where it is none."""
    match (text or "").split("_", 2):
        case [prefix, key_id, secret] if prefix == PREFIX and len(key_id) == 2 * KEY_ID_BYTES and key_id.isalnum():
            return key_id, secret
        case _:
            return "", ""


def _digest(salt: bytes, secret: str) -> bytes:
    return hashlib.sha256(salt + secret.encode()).digest()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # a name, which may be any address
