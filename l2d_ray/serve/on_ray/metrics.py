"""What the service counts, by Ray's own metrics, which Prometheus reads from every node; no title and no user_id is in a label.

Ray adds the labels deployment, replica and application. Names in Prometheus begin with ``ray_``: ``ray_l2d_requests_total``. Ray exports a
gauge only in the interval in which it was set (seen in 2.60), so the last values are set again and again (``repeat``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from ray.serve.metrics import Counter, Gauge, Histogram

from l2d_ray.serve.backend import ServedVersions
from l2d_ray.serve.messages import RecommendationAnswer, TimingsMs
from l2d_ray.store.records import Backlog

STAGES: Final = tuple(TimingsMs.model_fields)
MS_BOUNDARIES: Final = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000]
SIZE_BOUNDARIES: Final = [1, 2, 4, 8, 16, 32, 64, 128, 256]
NO_ARM: Final = "none"

REPEAT_S: Final = 2.0
"""Less than the interval in which Ray exports, 10 seconds unless it is told otherwise."""


class Kept:
    """A gauge that knows its last values."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._values: dict[tuple[tuple[str, str], ...], float] = {}

    def set(self, value: float, **tags: str) -> None:
        self._values[tuple(sorted(tags.items()))] = value
        self._gauge.set(value, tags=tags)

    def repeat(self) -> None:
        for tags, value in self._values.items():
            self._gauge.set(value, tags=dict(tags))


class Repeating(Protocol):
    """Metrics with gauges."""

    def repeat(self) -> None:
        """Set all gauges to what they are."""


async def repeat_gauges(metrics: Repeating) -> None:
    """For the life of a replica."""
    while True:
        metrics.repeat()
        await asyncio.sleep(REPEAT_S)


class IngressMetrics:
    """Of one ingress replica."""

    def __init__(self) -> None:
        self._requests = Counter("l2d_requests", description="HTTP requests, by route and status.", tag_keys=("route", "status"))
        self._request_ms = Histogram("l2d_request_ms", description="HTTP requests.", boundaries=MS_BOUNDARIES, tag_keys=("route",))
        self._answers = Counter(
            "l2d_answers", description="Recommendations, by decoder, memory version and arm.", tag_keys=("decoder", "version", "arm")
        )
        self._partial = Counter("l2d_partial_answers", description="Recommendations without some shard.")
        self._stage_ms = Histogram("l2d_stage_ms", description="Stages of a request.", boundaries=MS_BOUNDARIES, tag_keys=("stage",))
        self._batch = Histogram("l2d_batch_size", description="Jobs of one call.", boundaries=SIZE_BOUNDARIES, tag_keys=("part",))
        self._waiting = Kept(Gauge("l2d_waiting", description="Jobs that wait for a call.", tag_keys=("part",)))
        self._lost = Counter("l2d_unanswered", description="Questions that a part did not answer in time.", tag_keys=("part",))
        self._retried = Counter("l2d_retried_calls", description="Calls made again, since a replica died.", tag_keys=("part",))
        self._cached = Counter("l2d_cached_states", description="Histories whose query vector was still there.")
        self._version = Kept(Gauge("l2d_memory_version", description="Memory version that answers requests which name none."))
        self._switches = Counter("l2d_version_switches", description="Changes of that version.")

    def request(self, route: str, status: int, took_ms: float) -> None:
        self._requests.inc(tags={"route": route, "status": str(status)})
        self._request_ms.observe(took_ms, tags={"route": route})

    def answer(self, answer: RecommendationAnswer) -> None:
        arm = f"{answer.experiment.name}/{answer.experiment.arm}" if answer.experiment else NO_ARM
        self._answers.inc(tags={"decoder": answer.decoder, "version": str(answer.memory_version), "arm": arm})
        if answer.complete.shards_ok < answer.complete.shards_total:
            self._partial.inc()
        for stage in STAGES:
            self._stage_ms.observe(getattr(answer.timings_ms, stage), tags={"stage": stage})

    def batch(self, part: str) -> Callable[[int, int], None]:
        """Told of every call to a part: its jobs, and how many wait."""

        def note(size: int, num_waiting: int) -> None:
            self._batch.observe(size, tags={"part": part})
            self._waiting.set(num_waiting, part=part)

        return note

    def unanswered(self, part: str) -> None:
        self._lost.inc(tags={"part": part})

    def retried(self, part: str) -> None:
        self._retried.inc(tags={"part": part})

    def cached(self) -> None:
        self._cached.inc()

    def switched(self, versions: ServedVersions) -> None:
        self._version.set(versions.current)
        self._switches.inc()

    def repeat(self) -> None:
        self._waiting.repeat()
        self._version.repeat()


class EncoderMetrics:
    """Of one encoder replica."""

    def __init__(self) -> None:
        self._tokens = Counter("l2d_tokens", description="Tokens of histories, read or known from before.", tag_keys=("how",))

    def tokens(self, read: int, known: int) -> None:
        self._tokens.inc(read, tags={"how": "read"})
        if known:
            self._tokens.inc(known, tags={"how": "known"})


class UpdaterMetrics:
    """Of the updater."""

    def __init__(self) -> None:
        self._version = Kept(
            Gauge("l2d_updated_memory_version", description="Newest memory version that the updater has made an index of.")
        )
        self._round_s = Kept(Gauge("l2d_update_seconds", description="Time of the last round that made one."))
        self._failed = Counter("l2d_failed_updates", description="Rounds that ended in an error and are made again.")
        self._pending = Kept(Gauge("l2d_pending", description="What the memory does not have yet.", tag_keys=("kind",)))
        self._oldest_s = Gauge("l2d_oldest_pending_seconds", description="Age of the oldest interaction that the memory does not have.")
        self._oldest_at: float | None = None

    def updated(self, version: int, took_s: float) -> None:
        self._version.set(version)
        self._round_s.set(took_s)

    def failed(self) -> None:
        self._failed.inc()

    def backlog(self, backlog: Backlog) -> None:
        counts = {"interactions": backlog.num_interactions, "edits": backlog.num_edits, "forgotten": backlog.num_forgotten}
        for kind, count in counts.items():
            self._pending.set(count, kind=kind)
        self._oldest_at = backlog.oldest_at

    def repeat(self) -> None:
        for kept in (self._version, self._round_s, self._pending):
            kept.repeat()
        self._oldest_s.set(0 if self._oldest_at is None else max(0.0, time.time() - self._oldest_at))
