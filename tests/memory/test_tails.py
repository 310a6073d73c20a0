"""Every byte of a file's metadata: changed, the file is refused by name before Lance reads it."""

from pathlib import Path

import pytest

from l2d_ray.errors import ArtefactError
from l2d_ray.memory.compaction import compact
from l2d_ray.memory.table import Memory
from l2d_ray.memory.tails import FOOTER
from l2d_ray.memory.update import forget_users
from tests.memory.living import append, make_events, new_memory, rows_of


@pytest.fixture
def memory(tmp_path) -> Memory:
    return append(new_memory(str(tmp_path / "memory")), make_events())


def test_a_flipped_byte_anywhere_in_the_tail_is_refused_by_name(memory):
    (path,) = Path(memory.uri, "entries.lance", "data").iterdir()
    content = path.read_bytes()
    start = FOOTER.unpack(content[-FOOTER.size :])[0]
    assert 0 < start < len(content) - 300
    for place in range(start, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x81]) + content[place + 1 :])
        with pytest.raises(ArtefactError, match=path.name):
            list(Memory.open(memory.uri).scan())
    path.write_bytes(content)
    assert len(rows_of(Memory.open(memory.uri))) == len(memory)


def test_a_file_that_is_gone_or_emptied_is_refused_by_name(memory):
    (path,) = Path(memory.uri, "entries.lance", "data").iterdir()
    for spoil in (lambda: path.write_bytes(b""), path.unlink):
        spoil()
        with pytest.raises(ArtefactError, match=path.name):
            list(Memory.open(memory.uri).scan())


def test_a_version_names_the_tails_of_its_own_files(memory):
    later = append(memory, make_events(3, seed=9))
    forgotten = forget_users(later, ["u1"])
    compacted = compact(forgotten)
    versions = [memory, later, forgotten, compacted, compacted.roll_back(memory.version)]
    for version in versions:
        files = {file.path for fragment in version.fragments for file in fragment.metadata.files}
        assert files
        assert {tail.partition(" ")[0] for tail in version.state.tails} == files
