"""Access control over a real store and real HTTP routes: who comes in, who does not, and what they are told."""

import asyncio
import re

import httpx
import pytest
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from l2d_ray.errors import ConfigError, UnavailableError
from l2d_ray.serve import problems
from l2d_ray.serve.access import KEY_CACHE_S, STALE_KEY_S, AccessControl, Caller, TokenBucket, make_key, refuse_open_access
from l2d_ray.store.open import open_store
from l2d_ray.store.records import SCOPES, Author

AUTHOR = Author(None, "test")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class FailingStore:
    """A store whose database has gone."""

    def find_key(self, key_id: str):
        raise UnavailableError("gone")


@pytest.fixture
def store(tmp_path):
    with open_store(f"sqlite://{tmp_path}/state.db") as opened:
        yield opened


@pytest.fixture
def clock():
    return Clock()


def service(access: AccessControl) -> httpx.AsyncClient:
    """A route a scope."""
    api = FastAPI()
    problems.install(api)
    for scope in SCOPES:

        @api.get(f"/{scope}")
        async def answer(caller: Caller = Depends(access.require(scope))) -> str | None:  # noqa: B008
            return caller.key_id

    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://test")


def get(access: AccessControl, path: str, text: str | None) -> httpx.Response:
    async def ask() -> httpx.Response:
        async with service(access) as client:
            return await client.get(path, headers={"Authorization": f"Bearer {text}"} if text else {})

    return asyncio.run(ask())


def stored_key(store, *scopes, **limits) -> str:
    key, text = make_key("a key", frozenset(scopes), **limits)
    store.add_key(key, AUTHOR)
    return text


@pytest.mark.parametrize("held", SCOPES)
@pytest.mark.parametrize("needed", SCOPES)
def test_a_key_opens_what_its_scopes_name_and_nothing_else(store, held, needed):
    text = stored_key(store, held)
    answer = get(AccessControl(store), f"/{needed}", text)
    if held == needed:
        assert answer.json() == text.split("_")[1]
    else:
        assert answer.status_code == 403
        assert answer.headers["content-type"] == "application/problem+json"
        assert f"has not the scope {needed}, only {held}" in answer.json()["detail"]


def test_without_a_valid_key_nobody_comes_in_and_all_are_told_the_same(store):
    text, revoked, expired = (
        (stored_key(store, "read") for _ in range(2)),
        stored_key(store, "read"),
        stored_key(store, "read", expires_at=1.0),
    )
    text, other = text
    store.revoke_key(revoked.split("_")[1], AUTHOR)
    prefix, key_id, secret = text.split("_", 2)
    wrong = [
        None,
        "l2d",
        "l2d__",
        f"l2d_{'0' * 5000}_{secret}",
        text[:-1],
        text + "x",
        text.upper(),
        f"x_{key_id}_{secret}",
        f"{prefix}_{'0' * 12}_{secret}",
    ]
    mixed = f"{prefix}_{key_id}_{other.split('_', 2)[2]}"
    answers = [get(AccessControl(store), "/read", sent) for sent in [*wrong, mixed, revoked, expired]]
    assert len(answers) == 12
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert get(AccessControl(store), "/read", text).status_code == 200


def test_the_secret_is_nowhere_in_the_store(store, tmp_path):
    text = stored_key(store, "admin")
    assert re.fullmatch(r"l2d_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text)
    store.close()
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"a key" in written
    assert text.split("_", 2)[2].encode() not in written


def test_beyond_its_rate_a_key_is_told_when_to_come_again(store, clock):
    access = AccessControl(store, clock=clock)
    text, other = stored_key(store, "read", requests_per_s=0.25, burst=3), stored_key(store, "read", requests_per_s=0.25, burst=3)
    assert [get(access, "/read", text).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = get(access, "/read", text)
    assert refused.headers["retry-after"] == "4"
    assert refused.headers["content-type"] == "application/problem+json"
    assert get(access, "/read", other).status_code == 200
    clock.now += 4
    assert [get(access, "/read", text).status_code for _ in range(2)] == [200, 429]


def test_a_batch_counts_as_its_requests_and_a_replica_grants_its_share(store, clock):
    access = AccessControl(store, share=0.5, clock=clock)
    text = stored_key(store, "read", requests_per_s=2, burst=20)
    caller = asyncio.run(access.admit(text, "read"))
    access.charge(caller, 13)
    assert get(access, "/read", text).headers["retry-after"] == "4"
    clock.now += 4.01
    assert get(access, "/read", text).status_code == 200
    access.charge(Caller(None, frozenset()), 1000)


def test_a_revoked_key_is_refused_once_the_replica_reads_it_again(store, clock):
    access, text = AccessControl(store, clock=clock), stored_key(store, "read")
    assert get(access, "/read", text).status_code == 200
    store.revoke_key(text.split("_")[1], AUTHOR)
    clock.now += KEY_CACHE_S
    assert get(access, "/read", text).status_code == 401


def test_known_keys_are_taken_for_a_while_where_the_store_does_not_answer(store, clock):
    access, text, unknown = AccessControl(store, clock=clock), stored_key(store, "read"), stored_key(store, "read")
    assert get(access, "/read", text).status_code == 200
    access._store = FailingStore()
    clock.now += STALE_KEY_S - 1
    assert get(access, "/read", text).status_code == 200
    assert get(access, "/read", text[:-1]).status_code == 401
    assert get(access, "/read", unknown).status_code == 503
    clock.now += 2
    assert get(access, "/read", text).status_code == 503


def test_without_access_control_everybody_may_do_everything_on_the_loopback_interface_alone():
    answers = [get(AccessControl(None), f"/{scope}", None) for scope in SCOPES]
    assert [(a.status_code, a.json()) for a in answers] == [(200, None)] * 3
    for host in ("127.0.0.1", "127.8.8.8", "::1", "localhost"):
        refuse_open_access(host, is_access_controlled=False)
    for host in ("0.0.0.0", "::", "", "10.0.0.1", "localhost.example.org", "::ffff:10.0.0.1"):
        refuse_open_access(host, is_access_controlled=True)
        with pytest.raises(ConfigError, match="without API keys"):
            refuse_open_access(host, is_access_controlled=False)


def test_the_openapi_document_names_the_key():
    async def schema() -> dict:
        async with service(AccessControl(None)) as client:
            return (await client.get("/openapi.json")).json()

    document = asyncio.run(schema())
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert document["paths"]["/admin"]["get"]["security"] == [{"HTTPBearer": []}]


def test_a_key_keeps_what_it_was_made_with_and_every_key_differs(store):
    key, text = make_key("page", frozenset({"read"}), requests_per_s=1.5, burst=2, expires_at=9e9)
    again, other_text = make_key("page", frozenset({"read"}), requests_per_s=1.5, burst=2, expires_at=9e9)
    store.add_key(key, AUTHOR)
    assert store.find_key(key.key_id) == key
    assert text != other_text
    assert (key.key_id, key.salt, key.digest) != (again.key_id, again.salt, again.digest)


@given(st.floats(0.1, 50), st.integers(1, 20), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_in_any_time_a_bucket_lets_in_at_most_its_burst_and_what_it_gained(rate, burst, gaps):
    bucket, now, entered = TokenBucket(rate, burst, 0.0), 0.0, 0
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        entered += wait_s == 0
        assert 0 <= wait_s <= 1 / rate + 1e-9
        assert entered <= burst + rate * now + 1e-6
    assert entered >= 1
    assert bucket.take(now + 1 / rate + 1e-6) == 0
