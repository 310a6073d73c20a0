"""The way of one request through the service as records, and its answer: what was asked, what was found, what is told."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from l2d_ray.decode.lookup import NearEntry
from l2d_ray.decode.paired import PairReason, shares_of
from l2d_ray.decode.search import SearchRequest
from l2d_ray.serve.cursor import MAX_OFFSET, Cursor
from l2d_ray.serve.explain import SampleHistory
from l2d_ray.serve.logic import Question, Ranked, RecommendationLogic
from l2d_ray.serve.messages import Cause, Completeness, RankingOptions, Reason, RecommendationAnswer, RecommendedItem, TimingsMs
from l2d_ray.serve.plans import Plan
from l2d_ray.serve.shards import Searched


@dataclass(frozen=True, eq=False)
class Asked:
    """A request as it was read.

    Attributes:
        num_stored: interactions of the user's stored history that it saw.
    """

    request: RankingOptions
    logic: RecommendationLogic
    question: Question
    plan: Plan | None = None
    num_stored: int = 0

    @property
    def group(self) -> tuple[int, str, int]:
        """Requests with equal groups are searched together."""
        num_neighbors = self.question.num_neighbors if self.question.decoder == "local" else 0
        return self.logic.manifest.memory_version, self.question.decoder, num_neighbors

    @property
    def explains(self) -> bool:
        return self.plan is not None and self.plan.request.explain

    @property
    def is_elaborate(self) -> bool:
        """Whether its page takes more than the search."""
        return self.explains or self.question.diversity > 0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What was found for a request, in how many shards, and the page that it wants."""

    ranked: Ranked
    complete: Completeness
    page: list[RecommendedItem]


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why an item was recommended, as an answer tells it."""

    reasons: list[Reason]
    because: list[Cause] | None


class Stopwatch:
    """Milliseconds since the lap before."""

    def __init__(self) -> None:
        self._start = self._lap = time.perf_counter()

    def lap_ms(self) -> float:
        before, self._lap = self._lap, time.perf_counter()
        return round((self._lap - before) * 1000, 3)

    def total_ms(self) -> float:
        return round((self._lap - self._start) * 1000, 3)


def outcomes_of(asked: Sequence[Asked], found: Searched, request: SearchRequest) -> list[Outcome]:
    """With their pages, as far as nothing more has to be asked for these."""
    rankings = asked[0].logic.ranked(found.exchange.top_k(), request, [one.question for one in asked])
    outcomes = []
    for one, ranked in zip(asked, rankings, strict=True):
        places = range(len(ranked.items))[one.question.offset : one.question.offset + one.question.k]
        outcomes.append(Outcome(ranked, found.complete, [] if one.is_elaborate else page_of(one, ranked, places, {})))
    return outcomes


def page_of(asked: Asked, ranked: Ranked, places: Sequence[int], explanations: Mapping[int, Explanation]) -> list[RecommendedItem]:
    """The items at these places of the ranking."""
    lines = []
    for rank, place in enumerate(places, start=asked.question.offset + 1):
        index = ranked.items[place]
        item_id, title, attributes = asked.logic.catalogue.named(index)
        line = RecommendedItem(item_id, title, ranked.scores[place], rank, attributes)
        if index in explanations:
            line.reasons, line.because = explanations[index].reasons, explanations[index].because
        lines.append(line)
    return lines


def explanation_of(
    logic: RecommendationLogic,
    entries: Sequence[NearEntry],
    histories: Mapping[int, SampleHistory],
    pairs: Sequence[PairReason] | None,
) -> Explanation:
    """What is told of the entries and the pairs that speak for an item; ``pairs`` is None where the decoder reads none."""
    reasons = [Reason(distance=near.distance, history=_titles(logic, histories.get(near.sample_id))) for near in entries]
    return Explanation(reasons, None if pairs is None else _causes(logic, pairs))


def _causes(logic: RecommendationLogic, pairs: Sequence[PairReason]) -> list[Cause]:
    named = (logic.catalogue.named(pair.item_index) for pair in pairs)
    return [Cause(item_id=item_id, title=title, share=share) for (item_id, title, _), share in zip(named, shares_of(pairs), strict=True)]


def _titles(logic: RecommendationLogic, history: SampleHistory | None) -> list[str]:
    found = [] if history is None else [logic.catalogue.index_of(item_id) for item_id in history.item_ids]
    return [logic.catalogue.item(index).title for index in found if index is not None]


def answer_of(asked: Asked, outcome: Outcome, request_id: str, timings: TimingsMs) -> RecommendationAnswer:
    """What is told."""
    manifest, plan, end = asked.logic.manifest, asked.plan, asked.question.offset + asked.question.k
    next_cursor = None
    if plan is not None and len(outcome.ranked.items) > end and end <= MAX_OFFSET:
        next_cursor = Cursor(end, manifest.memory_version, asked.num_stored, plan.digest).to_text()
    return RecommendationAnswer(
        items=outcome.page,
        decoder=asked.question.decoder,
        memory_version=manifest.memory_version,
        model_fingerprint=manifest.fingerprint,
        complete=outcome.complete,
        timings_ms=timings,
        request_id=request_id,
        experiment=None if plan is None else plan.arm,
        next_cursor=next_cursor,
    )
