"""Damages a memory at seeded random places, one at a time, and says what a reader makes of it: what tests/memory/test_damage.py runs apart,

    python -m tests.memory.damage FOLDER COUNT

since Lance answers some damage by ending the process. One JSON line a damage.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.sequences import Target
from l2d_ray.decode.settings import FILE, DecoderSettings
from l2d_ray.errors import L2DError
from l2d_ray.memory.compaction import compact
from l2d_ray.memory.entries import EntryBatch, entries_table
from l2d_ray.memory.files import read_text, write_text
from l2d_ray.memory.sequences import RememberedSequence, load_sequences, store_sequences
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import expire_before, forget_users, rename_items, retire_items, set_half_life

DIM, NUM_ITEMS, NUM_USERS = 8, 20, 40
COLUMNS = ("sample_ids", "user_ids", "item_ids", "timestamps", "buckets", "checksums", "vectors")
KINDS = ("data", "_versions", "_deletions", "_transactions", "files", FILE)
"""Folders, and the one file, whose files are damaged in turn."""


@dataclass(frozen=True)
class Damage:
    """A file that is cut at a place, or whose byte there is changed by ``mask``; None: cut."""

    path: str
    place: int
    mask: int | None

    def applied(self, content: bytes) -> bytes:
        if self.mask is None:
            return content[: self.place]
        return content[: self.place] + bytes([content[self.place] ^ self.mask]) + content[self.place + 1 :]


def make_memory(uri: str) -> None:
    """Several versions of every kind: appends, rows deleted twice in one file, changes of the catalogue, a compaction, rows again."""
    catalogue = Catalogue.from_rows((f"item-{number:02d}", f"Title {number}", {}) for number in range(NUM_ITEMS))
    memory = Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=catalogue, data_hash="cafe")
    write_text(uri, FILE, replace(DecoderSettings(), num_neighbors=77).to_json())
    memory = append(append(memory, 0), 1)
    memory = forget_users(memory, ["user-03", "user-43"])
    memory = forget_users(memory, ["user-04", *(f"user-{number}" for number in range(52, 75))])
    memory = expire_before(retire_items(rename_items(memory, {"item-03": "Another title"}), ["item-05"]), 1007)
    memory = append(compact(set_half_life(memory, 100)), 2)
    forget_users(memory, ["user-99"])


def append(memory: Memory, part: int) -> Memory:
    numbers = range(part * NUM_USERS, (part + 1) * NUM_USERS)
    targets = [Target(f"user-{n:02d}", f"item-{n % NUM_ITEMS:02d}", None if n % 5 == 0 else 1000 + n, 1) for n in numbers]
    vectors = np.random.default_rng(part).normal(size=(len(targets), DIM)).astype(np.float32)
    name = store_sequences(memory.uri, [RememberedSequence(t.user_id, ("item-00", t.item_id), (1, t.timestamp)) for t in targets])
    changes = {"parts": (*memory.state.parts, part), "sequences": (*memory.state.sequences, name)}
    return memory.append(memory.write(entries_table(targets, vectors)), message=f"part {part}", **changes)


def content_of(uri: str) -> list[object]:
    """Everything that readers of any version see."""
    newest = Memory.open(uri)
    found: list[object] = [newest.version, DecoderSettings.from_json(read_text(uri, FILE) or "")]
    for entry in newest.history():
        memory = Memory.open(uri, version=entry.version)
        rows = [[column_of(batch, name) for name in COLUMNS] for batch in memory.scan()]
        sequences = load_sequences(uri, memory.state.sequences)
        found.append((entry.version, entry.state, memory.state, memory.metadata, len(memory), rows, memory.items.to_pylist(), sequences))
    return found


def column_of(batch: EntryBatch, name: str) -> object:
    column = getattr(batch, name)
    return column.tobytes() if isinstance(column, np.ndarray) else column.to_pylist()


def damages(uri: str, count: int, seed: int = 0) -> Iterator[Damage]:
    """Random places of random files, every kind of file in turn; a quarter of them cuts."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in Path(uri).rglob("*") if path.is_file())
    by_kind = [[path for path in files if kind in (path.parent.name, path.name)] for kind in KINDS]
    for number in range(count):
        candidates = by_kind[number % len(KINDS)]
        path = candidates[rng.integers(len(candidates))]
        mask = None if rng.random() < 0.25 else int(rng.integers(1, 256))
        yield Damage(str(path), int(rng.integers(path.stat().st_size)), mask)


def answer(uri: str, damage: Damage, whole: list[object]) -> str:
    """``the same``, ``refused`` with the file's name, or what went wrong."""
    path = Path(damage.path)
    content = path.read_bytes()
    path.write_bytes(damage.applied(content))
    try:
        return "the same" if content_of(uri) == whole else "silently other"
    except L2DError as error:
        return "refused" if path.name in str(error) else f"refused without the file's name: {error}"
    finally:
        path.write_bytes(content)


def say(value: object) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    uri, count = sys.argv[1], int(sys.argv[2])
    make_memory(uri)
    whole = content_of(uri)
    for damage in damages(uri, count):
        say(asdict(damage))
        say(answer(uri, damage, whole))


if __name__ == "__main__":
    main()
