"""Makes, lists and revokes the API keys of the service.

    python -m jobs.api_keys --config my.yaml keys.create="web shop" keys.scopes='[read, write]' keys.requests_per_s=200 keys.burst=400
    python -m jobs.api_keys --config my.yaml
    python -m jobs.api_keys --config my.yaml keys.revoke=3f9a0c12d4e5

Works on the state of RUN_DIR, or where serve.state_url says, whether the service runs or not. A key's text is in the output of the
command that makes it and nowhere else: the state has its hash. A running service refuses a revoked key within five seconds.
Scopes: read (recommendations, items, status), write (items, interactions, users), admin (versions, experiments); each stands for itself.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from jobs.cli import run
from l2d_ray.config import KeysConfig, RunConfig
from l2d_ray.errors import ConfigError
from l2d_ray.serve.access import make_key
from l2d_ray.store.interface import StateStore
from l2d_ray.store.open import open_store
from l2d_ray.store.records import ApiKey, Author

DAY_S: Final = 86_400


def main(config: RunConfig) -> dict[str, Any]:
    author = Author(None, f"jobs.api_keys-{uuid.uuid4()}")
    with open_store(config.state_url) as store:
        key_text = _create(store, config.keys, author) if config.keys.create else None
        if config.keys.revoke:
            _revoke(store, config.keys.revoke, author)
        keys = [_told(key) for key in store.list_keys()]
    created = {"key": key_text} if key_text else {}
    return {"job": "api_keys", **created, "keys": keys}


def _create(store: StateStore, settings: KeysConfig, author: Author) -> str:
    """The text of a new key."""
    expires_at = None if settings.expires_days is None else time.time() + DAY_S * settings.expires_days
    key, text = make_key(
        str(settings.create),
        frozenset(settings.scopes),
        requests_per_s=settings.requests_per_s,
        burst=settings.burst,
        expires_at=expires_at,
    )
    store.add_key(key, author)
    return text


def _revoke(store: StateStore, key_id: str, author: Author) -> None:
    if store.find_key(key_id) is None:
        raise ConfigError(f"There is no API key {key_id!r}; give the key_id that this job lists, which is the middle part of a key.")
    store.revoke_key(key_id, author)


def _told(key: ApiKey) -> dict[str, Any]:
    """What a list says of a key: nothing of its secret."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "requests_per_s": key.requests_per_s,
        "burst": key.burst,
        "created_at": _date(key.created_at),
        "expires_at": _date(key.expires_at),
        "revoked_at": _date(key.revoked_at),
    }


def _date(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


if __name__ == "__main__":
    run(main, __doc__)
