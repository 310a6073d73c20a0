"""What the local decoder's exact merge ships and takes over 2 to 64 shards, against the ways it replaces; same queries, one run.

    python -m benchmarks.merge [--small]

Sides, interleaved query by query, one query at a time; all give the same items (checked), M = 100 and 500:

    adaptive   l2d_ray.decode.local_merge: scalars, each shard first asked for its likely share of the M, its spread learnt before
    one-round  the same scalars, each shard asked for M at once
    vectors    each shard sends its M nearest entries with their float16 vectors; the merge averages them (exact, the plain way)

Bytes are those of the pickled records, as a Serve handle sends them: answers of all shards and rounds, and beside them the questions.
Shards answer one after another here, on one thread, so milliseconds are given as they fall on a cluster with a machine a shard: of each
round the slowest shard (search, preparing, pickling), and the merge (unpickling, merging). ``cpu_ms`` adds all shards up. Both are the
thread's processor time, which other work on the machine does not lengthen; the network's time is not in them.

Vectors are clustered as states are: a state is a topic's centre plus noise whose spectrum falls as 1/sqrt(rank), topics are Zipf
distributed, and the item that follows is drawn from its topic's own Zipf distribution (one time in five from all items) and shifts the
state a little. Queries are further states of the same kind. Items lie in shards by their hash, as in an index.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.result import arguments, print_result, target
from l2d_ray.decode.local import ENTRY, local_candidates
from l2d_ray.decode.local_merge import LearntSpread, LocalMerge
from l2d_ray.decode.topk import TopK, rank
from l2d_ray.index.search import squared_distances
from l2d_ray.index.shard import Shard, buckets_of_shard, shard_of_arrays
from l2d_ray.memory.statistics import NO_TIMESTAMP, statistics_of
from l2d_ray.schema import bucket_of

DIM, NUM_TOPICS, ITEMS_PER_TOPIC, K = 256, 300, 60, 50
NUM_SHARDS, NUM_NEIGHBORS = (2, 4, 8, 16, 32, 64), (100, 500)
WHOLE = 1e9
"""A spread with which every shard is asked for M at once."""


def main() -> None:
    options = arguments(__doc__).parse_args()
    torch.set_num_threads(1)
    num_entries, num_queries, num_learnt = (10_000, 4, 20) if options.small else (100_000, 24, 60)
    states = draw_states(num_entries + num_queries + num_learnt)
    queries = states.vectors[num_entries:].astype(np.float32)
    found = []
    for num_shards in NUM_SHARDS:
        shards = shards_of(states, num_entries, num_shards)
        for num_neighbors in NUM_NEIGHBORS:
            found.append(compare(shards, queries[:num_queries], num_neighbors, learn_from=queries[num_queries:]))
    figures = {
        "small": options.small,
        "num_entries": num_entries,
        "num_items": NUM_TOPICS * ITEMS_PER_TOPIC,
        "dim": DIM,
        "num_queries": num_queries,
        "bytes_an_entry": ENTRY.itemsize,
        "runs": found,
    }
    most = next(run for run in found if (run["num_shards"], run["num_neighbors"]) == (64, 500))
    targets = {
        "all sides give the same items": target(min(run["same_items"] for run in found), 1.0),
        "answer bytes, vectors / adaptive, fewest over all runs": target(min(run["bytes_ratio"]["vectors"] for run in found), 10.0),
        "answer bytes, one-round / adaptive, 64 shards, M = 500": target(most["bytes_ratio"]["one-round"], 5.0),
        "ms, vectors / adaptive, 64 shards, M = 500": target(most["ms_ratio"]["vectors"], 1.0),
        "queries with a second round, most over all runs": target(max(run["share_asked_again"] for run in found), 0.2, at_most=True),
    }
    print_result("merge", figures, targets)


@dataclass(frozen=True, eq=False)
class States:
    """vectors (n, d) float16 and the item_indexes (n,) int64 that follow them."""

    vectors: NDArray[np.float16]
    item_indexes: NDArray[np.int64]


@dataclass
class Cost:
    """What one query took; see the module's docstring."""

    answer_bytes: int = 0
    question_bytes: int = 0
    ms: float = 0.0
    cpu_ms: float = 0.0
    shards_asked: list[int] = field(default_factory=list)
    """How many, each round."""

    @contextmanager
    def driver(self) -> Iterator[None]:
        """Time what the process that asks and merges does."""
        started = time.thread_time()
        yield
        took_ms = (time.thread_time() - started) * 1000
        self.ms += took_ms
        self.cpu_ms += took_ms

    def ask(self, questions: Mapping[int, bytes], answer: Callable[[int, bytes], object]) -> dict[int, bytes]:
        """One round: the pickled answers of the shards asked."""
        answers, took_ms = {}, []
        for shard, message in questions.items():
            started = time.thread_time()
            answers[shard] = pickle.dumps(answer(shard, message), protocol=5)
            took_ms.append((time.thread_time() - started) * 1000)
        self.ms += max(took_ms)
        self.cpu_ms += sum(took_ms)
        self.question_bytes += sum(map(len, questions.values()))
        self.answer_bytes += sum(map(len, answers.values()))
        self.shards_asked.append(len(questions))
        return answers


def draw_states(count: int) -> States:
    """As the module's docstring says, with a fixed seed."""
    rng = np.random.default_rng(0)
    spectrum = 1 / np.sqrt(1 + np.arange(DIM))
    topics = rng.choice(NUM_TOPICS, count, p=zipf(NUM_TOPICS))
    items = topics * ITEMS_PER_TOPIC + rng.choice(ITEMS_PER_TOPIC, count, p=zipf(ITEMS_PER_TOPIC))
    is_anything = rng.random(count) < 0.2
    items[is_anything] = rng.choice(NUM_TOPICS * ITEMS_PER_TOPIC, count, p=rng.permutation(zipf(NUM_TOPICS * ITEMS_PER_TOPIC)))[is_anything]
    centres = rng.normal(size=(NUM_TOPICS, DIM)) * spectrum
    shifts = 0.3 * rng.normal(size=(NUM_TOPICS * ITEMS_PER_TOPIC, DIM)) * spectrum
    vectors = np.empty((count, DIM), dtype=np.float16)
    for start in range(0, count, 20_000):
        block = slice(start, start + 20_000)
        noise = rng.normal(size=vectors[block].shape) * spectrum
        vectors[block] = 5 * (centres[topics[block]] + shifts[items[block]] + noise)
    return States(vectors, items.astype(np.int64))


def zipf(count: int) -> NDArray[np.float64]:
    weights = 1 / (10 + np.arange(count))
    shares: NDArray[np.float64] = weights / weights.sum()
    return shares


def shards_of(states: States, num_entries: int, num_shards: int) -> list[Shard]:
    """The first entries in shards, as an index holds them."""
    vectors, items = states.vectors[:num_entries], states.item_indexes[:num_entries]
    shard_of_bucket = np.concatenate([np.full(len(buckets_of_shard(s, num_shards)), s) for s in range(num_shards)])
    shard_of_item = shard_of_bucket[[bucket_of(f"item-{item}") for item in range(NUM_TOPICS * ITEMS_PER_TOPIC)]]
    sample_ids = np.random.default_rng(1).permutation(num_entries).astype(np.int64)
    shards = []
    for shard in range(num_shards):
        mine = np.flatnonzero(shard_of_item[items] == shard)
        statistics = statistics_of(items[mine], vectors[mine], np.full(len(mine), NO_TIMESTAMP))
        shards.append(shard_of_arrays(sample_ids[mine], items[mine], vectors[mine], statistics))
    return shards


def compare(shards: list[Shard], queries: NDArray[np.float32], num_neighbors: int, *, learn_from: NDArray[np.float32]) -> dict[str, Any]:
    """Medians of every side over the queries; each query goes through all sides in turn, beginning with another one."""
    spread = LearntSpread()
    for query in learn_from:
        scalars(shards, query[None], num_neighbors, spread=spread)
    sides: dict[str, Callable[[NDArray[np.float32]], tuple[TopK, Cost]]] = {
        "adaptive": partial(scalars, shards, num_neighbors=num_neighbors, spread=spread),
        "one-round": partial(scalars, shards, num_neighbors=num_neighbors, spread=LearntSpread(WHOLE)),
        "vectors": partial(whole_vectors, shards, num_neighbors=num_neighbors),
    }
    costs: dict[str, list[Cost]] = {name: [] for name in sides}
    num_same = 0
    for turn, query in enumerate(queries):
        ids = {}
        for name in rotated(list(sides), turn):
            found, cost = sides[name](query[None])
            ids[name] = found.ids
            costs[name].append(cost)
        num_same += all(np.array_equal(ids["adaptive"], other) for other in ids.values())
    return summary(costs) | {
        "num_shards": len(shards),
        "num_neighbors": num_neighbors,
        "same_items": num_same / len(queries),
        "spread": round(spread.value, 2),
    }


def summary(costs: Mapping[str, list[Cost]]) -> dict[str, Any]:
    answer_bytes = {name: round(mean(cost.answer_bytes for cost in of_side)) for name, of_side in costs.items()}
    ms = {name: round(median(cost.ms for cost in of_side), 3) for name, of_side in costs.items()}
    others = [name for name in costs if name != "adaptive"]
    return {
        "answer_bytes": answer_bytes,
        "question_bytes": {name: round(mean(cost.question_bytes for cost in of_side)) for name, of_side in costs.items()},
        "bytes_ratio": {name: round(answer_bytes[name] / answer_bytes["adaptive"], 2) for name in others},
        "ms": ms,
        "ms_ratio": {name: round(ms[name] / ms["adaptive"], 2) for name in others},
        "cpu_ms": {name: round(median(cost.cpu_ms for cost in of_side), 3) for name, of_side in costs.items()},
        "share_asked_again": round(mean(len(cost.shards_asked) > 1 for cost in costs["adaptive"]), 3),
        "shards_asked_again": round(mean(sum(cost.shards_asked[1:]) for cost in costs["adaptive"]), 2),
    }


def scalars(shards: list[Shard], query: NDArray[np.float32], num_neighbors: int, *, spread: LearntSpread) -> tuple[TopK, Cost]:
    """The product's merge over all shards."""
    cost = Cost()
    with cost.driver():
        merge = LocalMerge(query, num_neighbors, [len(shard) for shard in shards], spread=spread.value)
    while True:
        with cost.driver():
            questions = {shard: pickle.dumps(request, protocol=5) for shard, request in merge.requests().items()}
        if not questions:
            break
        answers = cost.ask(questions, lambda shard, message: local_candidates(shards[shard], pickle.loads(message)))
        with cost.driver():
            merge.add({shard: pickle.loads(answer) for shard, answer in answers.items()})
            if len(cost.shards_asked) == 1 and spread.value < WHOLE:
                spread.learn(merge.share_asked_again)
    with cost.driver():
        found = merge.top_k(K)
    return found, cost


def whole_vectors(shards: list[Shard], query: NDArray[np.float32], num_neighbors: int) -> tuple[TopK, Cost]:
    """Every shard's nearest entries with their vectors, averaged by who asked."""
    cost = Cost()
    with cost.driver():
        questions = dict.fromkeys(range(len(shards)), pickle.dumps((query, num_neighbors), protocol=5))
    answers = cost.ask(questions, lambda shard, message: nearest_vectors(shards[shard], *pickle.loads(message)))
    with cost.driver():
        parts: list[NearVectors] = [pickle.loads(answer) for answer in answers.values()]
        found = average(query[0], parts, num_neighbors)
    return found, cost


@dataclass(frozen=True, eq=False)
class NearVectors:
    """A shard's m nearest entries of one query: (m,) each, vectors (m, d)."""

    squared_distances: NDArray[np.float64]
    sample_ids: NDArray[np.int64]
    item_indexes: NDArray[np.int32]
    vectors: NDArray[np.float16]


def nearest_vectors(shard: Shard, query: NDArray[np.float32], num_neighbors: int) -> NearVectors:
    found = shard.nearest(query, num_neighbors)
    positions = found.positions[0]
    items = shard.items_at(positions).astype(np.int32)
    return NearVectors(found.squared_distances[0], found.sample_ids[0], items, shard.vectors_at(positions))


def average(query: NDArray[np.float32], parts: list[NearVectors], num_neighbors: int) -> TopK:
    """Items by the distance of the mean of their entries among the nearest; vectors that do not survive are not touched."""
    distances, sample_ids = (np.concatenate([getattr(part, name) for part in parts]) for name in ("squared_distances", "sample_ids"))
    owners = np.repeat(np.arange(len(parts)), [len(part.sample_ids) for part in parts])
    rows = np.concatenate([np.arange(len(part.sample_ids)) for part in parts])
    nearest = np.lexsort((sample_ids, distances))[:num_neighbors]
    items = np.concatenate([part.item_indexes for part in parts])[nearest]
    order = np.argsort(items, kind="stable")
    vectors = np.stack([parts[owners[i]].vectors[rows[i]] for i in nearest[order]]).astype(np.float64)
    ids, starts, counts = np.unique(items[order], return_index=True, return_counts=True)
    means = (np.add.reduceat(vectors, starts, axis=0) / counts[:, None]).astype(np.float32)
    return rank(ids[None].astype(np.int64), -squared_distances(query, means)[None], K)


def rotated(names: list[str], turn: int) -> list[str]:
    start = turn % len(names)
    return names[start:] + names[:start]


if __name__ == "__main__":
    main()
