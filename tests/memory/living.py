"""A memory without a model, for the laws of updates: a sample's vector is a fixed function of its history."""

from collections.abc import Iterable, Sequence

import numpy as np

from l2d_ray.data.sequences import UserSequence
from l2d_ray.memory.append import Append, Event
from l2d_ray.memory.entries import WrittenEntries, entries_table
from l2d_ray.memory.table import Memory
from l2d_ray.memory.update import retried
from l2d_ray.schema import VALID, stable_hash
from tests.toys import NUM_ITEMS, toy_catalogue

DIM = 4


def vector_of(history: Sequence[str]) -> np.ndarray:
    return np.random.default_rng(stable_hash(*history)).normal(size=DIM).astype(np.float32)


def new_memory(uri: str) -> Memory:
    return Memory.create(uri, fingerprint="aaaa", dim=DIM, catalogue=toy_catalogue())


class Encoder:
    """Writes rows of tails into a memory; counts what it encoded."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.num_encoded = 0

    def __call__(self, sequences: Sequence[UserSequence], left_out: frozenset[int]) -> WrittenEntries:
        pairs = [(t, vector_of(s.item_ids[: t.position])) for s in sequences for t in s.targets(VALID)]
        self.num_encoded += len(pairs)
        kept = [(target, vector) for target, vector in pairs if target.sample_id not in left_out]
        vectors = np.array([vector for _, vector in kept], dtype=np.float32).reshape(-1, DIM)
        return Memory.open(self.uri).write(entries_table([target for target, _ in kept], vectors))


def append(memory: Memory, events: Iterable[Event], *, items: Iterable[dict] = (), encoder: Encoder | None = None) -> Memory:
    return retried(Append(events, items, encoder or Encoder(memory.uri)), memory)


def make_events(num_users: int = 6, *, seed: int = 0) -> list[Event]:
    """Interactions of users with distinct times."""
    rng = np.random.default_rng(seed)
    times = rng.permutation(1000)
    events = []
    for user in range(num_users):
        for _ in range(int(rng.integers(1, 8))):
            events.append(Event(f"u{user}", int(times[len(events)]), f"item-{int(rng.integers(NUM_ITEMS)):02d}"))
    return events


def rows_of(memory: Memory) -> dict[int, tuple]:
    """sample_id -> user, item, time and vector; fails where a sample_id stands twice."""
    found = {}
    for batch in memory.scan():
        assert batch.vectors is not None
        columns = (batch.user_ids.to_pylist(), batch.item_ids.to_pylist(), batch.timestamps.tolist(), batch.vectors.tolist())
        for sample_id, *row in zip(batch.sample_ids.tolist(), *columns, strict=True):
            assert sample_id not in found
            found[sample_id] = tuple(map(str, row))
    return found


def expected_rows(events: Iterable[Event]) -> dict[int, tuple]:
    """What a memory of these interactions must hold, worked out from scratch."""
    found = {}
    by_user: dict[str, list[Event]] = {}
    for event in sorted(set(events)):
        by_user.setdefault(event.user_id, []).append(event)
    for user_id, own in by_user.items():
        items = tuple(event.item_id for event in own)
        times = tuple(event.timestamp for event in own)
        for target in UserSequence(user_id, items, times, (VALID,) * len(own)).targets(VALID):
            vector = vector_of(items[: target.position]).astype(np.float16).tolist()
            found[target.sample_id] = (user_id, target.item_id, str(target.timestamp), str(vector))
    return found
