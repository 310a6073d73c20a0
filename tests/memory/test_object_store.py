"""The memory on an object store, over the S3 protocol: moto's server, which honours the conditional writes that commits rest on."""

import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import httpx
import numpy as np
import pytest
from pyarrow import fs

from l2d_ray.errors import ArtefactError, ConflictError
from l2d_ray.memory.compaction import clean_up, compact
from l2d_ray.memory.files import read_text, write_text
from l2d_ray.memory.sequences import RememberedSequence, load_sequences, store_sequences
from l2d_ray.memory.table import Memory, exists
from l2d_ray.memory.update import forget_users, rename_items
from tests.memory.living import DIM, rows_of
from tests.memory.test_table import append, make_targets, make_vectors
from tests.toys import toy_catalogue

pytestmark = pytest.mark.slow

START_TIMEOUT_S = 120
NUMBERS = count()


@pytest.fixture(scope="module", autouse=True)
def object_store():
    """A server with the bucket ``memories``; the environment says where it is, as it would for a user."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(server, address)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("AWS_ACCESS_KEY_ID", "someone")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
            environment.setenv("AWS_ENDPOINT_URL", address)
            environment.setenv("AWS_ALLOW_HTTP", "true")
            fs.S3FileSystem(endpoint_override=address, allow_bucket_creation=True).create_dir("memories")
            yield
    finally:
        server.kill()
        server.wait()


def wait_for(server: subprocess.Popen, address: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert server.poll() is None
        try:
            httpx.get(address, timeout=5)
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def uri() -> str:
    return f"s3://memories/some/place-{next(NUMBERS)}"


@pytest.fixture
def empty(uri) -> Memory:
    return Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())


def test_a_memory_is_made_read_changed_and_rolled_back(uri):
    assert not exists(uri)
    with pytest.raises(ArtefactError, match="There is no memory at s3://memories/some/place"):
        Memory.open(uri)
    empty = Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
    first = append(empty, make_targets(0, 30), make_vectors(30), "first")
    second = forget_users(rename_items(append(first, make_targets(30, 10), make_vectors(10)), {"item-03": "Red Sea"}), ["user-7"])
    opened = Memory.open(uri)
    assert (opened.version, len(opened), opened.digest) == (second.version, 39, second.digest)
    assert opened.catalogue.titles[3] == "Red Sea"
    assert {i for batch in opened.difference(first).added for i in batch.sample_ids.tolist()} == {t.sample_id for t in make_targets(30, 10)}
    back = opened.roll_back(first.version)
    assert rows_of(back) == rows_of(first)
    assert back.catalogue == toy_catalogue()
    assert [entry.state.kind for entry in back.history()] == ["create", "append", "append", "rename", "forget", "rollback"]


def test_files_beside_the_table(empty, uri):
    sequences = [RememberedSequence("u", ("item-01", "item-02"), (1, None))]
    names = [store_sequences(uri, sequences) for _ in range(2)]
    assert names[0] == names[1]
    assert load_sequences(uri, names[:1]) == {"u": sequences[0]}
    assert read_text(uri, "decoder.json") is None
    write_text(uri, "decoder.json", "eins")
    write_text(uri, "decoder.json", "zwei ü")
    assert read_text(uri, "decoder.json") == "zwei ü"
    filesystem = fs.S3FileSystem.from_uri(uri)[0]
    with filesystem.open_output_stream(f"{uri.removeprefix('s3://')}/files/{names[0]}") as stream:
        stream.write(b"something else")
    with pytest.raises(ArtefactError, match=f"{names[0]} is missing, truncated or changed"):
        load_sequences(uri, names[:1])


def test_of_two_writers_from_one_version_one_is_told_to_start_again(empty, uri):
    append(empty, make_targets(0, 3), make_vectors(3))
    with pytest.raises(ConflictError, match="nothing was changed here, so run the same again"):
        append(empty, make_targets(7, 2), make_vectors(2))
    assert rows_of(Memory.open(uri)).keys() == {t.sample_id for t in make_targets(0, 3)}


def test_writers_at_once_lose_nothing(empty, uri):
    def write(writer: int) -> int:
        targets, conflicts = make_targets(100 * writer, 5), 0
        while True:
            try:
                append(Memory.open(uri), targets, make_vectors(5))
            except ConflictError:
                conflicts += 1
            else:
                return conflicts

    with ThreadPoolExecutor(4) as pool:
        conflicts = sum(pool.map(write, range(4)))
    memory = Memory.open(uri)
    assert len(rows_of(memory)) == len(memory) == 4 * 5
    assert [entry.state.num_entries for entry in memory.history()] == list(range(0, 21, 5))
    assert conflicts > 0


def test_a_memory_is_made_by_one_writer(uri):
    def create(_: int) -> bool:
        try:
            Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())
        except ArtefactError:
            return False
        return True

    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(create, range(3))) == 1


def test_what_was_forgotten_is_out_of_the_store_after_compaction_and_clean_up(empty, uri):
    memory = append(append(empty, make_targets(0, 20), make_vectors(20)), make_targets(20, 20), make_vectors(20))
    memory = compact(forget_users(memory, ["user-7"]))
    assert len(memory) == len(rows_of(memory)) == 39
    clean_up(memory, older_than_s=0, unfinished_too=True)
    left = fs.S3FileSystem.from_uri(uri)[0].get_file_info(fs.FileSelector(f"{uri.removeprefix('s3://')}/entries.lance/data"))
    assert len(left) == len(memory.fragments) == 1
    assert rows_of(Memory.open(uri)) == rows_of(memory)
    assert np.isin([t.sample_id for t in make_targets(7, 1)], list(rows_of(memory))).tolist() == [False]
