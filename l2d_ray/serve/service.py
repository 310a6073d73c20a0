"""Recommendations from end to end, knowing no Ray: request -> prompt -> query vector -> shards -> merge -> answer with titles.

``RecommendationLogic`` is the arithmetic at both ends, ``Backend`` what stands between: the encoder and the shards, wherever they run.
The steps are those of ``LatentDecoder``, so the ids are the oracle's (tested). Every answer is from one version over all shards. A single
request is a batch of one: all prompts of a batch are encoded together, and all that share version and decoder are searched together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.paired import recent_items
from l2d_ray.decode.settings import DECODERS, DecoderName
from l2d_ray.errors import ArtefactError, NotFoundError
from l2d_ray.serve.answers import Asked, Explanation, Outcome, Stopwatch, answer_of, explanation_of, outcomes_of, page_of
from l2d_ray.serve.backend import Backend, ServedVersions
from l2d_ray.serve.explain import SampleHistory
from l2d_ray.serve.logic import RecommendationLogic
from l2d_ray.serve.loop import OffLoop
from l2d_ray.serve.messages import (
    RankingOptions,
    RecommendationAnswer,
    RecommendationRequest,
    TimingsMs,
)
from l2d_ray.serve.plans import Plan, deadline_of, fields_below, plan_of
from l2d_ray.serve.ranking import diversified
from l2d_ray.serve.shards import Shards
from l2d_ray.serve.state import State
from l2d_ray.text.prompts import TokenIds

NUM_REASONS: Final = 3


class Recommender:
    """Many requests at once on one event loop, which never waits for arithmetic.

    Reading and merging run on one thread of their own: a fast tokenizer must not be entered by two threads at once.

    Args:
        load_logic: the logic of a served version; called once for each version, on that thread.
        state: users, edits and experiments; None: there are none.
        decoders: those that requests may name.
        observe: told of every answer.
    """

    def __init__(
        self,
        load_logic: Callable[[int], RecommendationLogic],
        backend: Backend,
        state: State | None = None,
        *,
        decoders: Sequence[DecoderName] = DECODERS,
        observe: Callable[[RecommendationAnswer], None] = lambda answer: None,
    ) -> None:
        self.backend = backend
        self.state = state or State(None)
        self.off_loop = OffLoop("recommender")
        self._load_logic = load_logic
        self._decoders = tuple(decoders)
        self._observe = observe
        self._logics: dict[int, RecommendationLogic] = {}
        self._title_states: dict[str, NDArray[np.float16]] = {}
        self._shards = Shards(backend, self.off_loop)

    async def prepare(self, version: int) -> None:
        """Load what a version's requests need here, before it becomes the current one."""
        await self.off_loop(self._logic, version)

    async def recommend(self, request: RecommendationRequest, request_id: str) -> RecommendationAnswer:
        """The answer; RequestError where the request cannot be used, UnavailableError where a part cannot answer now."""
        return (await self._answer_all([request], request_id, lambda position: ""))[0]

    async def recommend_all(self, requests: Sequence[RecommendationRequest], request_id: str) -> list[RecommendationAnswer]:
        """The answers, in order; where one request cannot be used none is answered. Fields stand below ``requests.POSITION``."""
        return await self._answer_all(requests, request_id, lambda position: f"requests.{position}.")

    async def similar(self, item_id: str, options: RankingOptions, request_id: str) -> RecommendationAnswer:
        """The items that follow a hidden state where the item's representation is; NotFoundError where there is no such item."""
        watch, deadline = Stopwatch(), deadline_of([options])
        logic = await self.current()
        index = await self.off_loop(index_of, logic, item_id)
        question = await self.off_loop(logic.question, options, {index}, recent_items([index]))
        tokenize = watch.lap_ms()
        vector = await self._shards.vector(logic, index, deadline)
        asked = [Asked(options, logic, question)]
        return (await self._answers(asked, vector[None], request_id, watch, tokenize, deadline))[0]

    async def current(self) -> RecommendationLogic:
        """The logic of the current version, with all edits of now."""
        version = (await self.backend.versions()).current
        return (await self._up_to_date([version], [], None))[0][version]

    async def _answer_all(
        self, requests: Sequence[RecommendationRequest], request_id: str, prefix: Callable[[int], str]
    ) -> list[RecommendationAnswer]:
        watch, deadline = Stopwatch(), deadline_of(requests)
        versions, experiment = await self.backend.versions(), await self.state.experiment()
        plans = []
        for position, request in enumerate(requests):
            with fields_below(prefix(position)):
                plans.append(plan_of(request, versions, experiment, self._decoders))
        users = sorted({request.user_id for request in requests if request.user_id is not None})
        logics, stored = await self._up_to_date(sorted({plan.version for plan in plans}), users, deadline)
        self._drop_all_but(versions)
        asked, prompts = await self.off_loop(_read_all, plans, logics, stored, prefix)
        tokenize = watch.lap_ms()
        queries = await self.backend.encode(prompts, deadline)
        return await self._answers(asked, queries, request_id, watch, tokenize, deadline)

    async def _up_to_date(
        self, versions: Sequence[int], user_ids: Sequence[str], deadline: float | None
    ) -> tuple[dict[int, RecommendationLogic], Mapping[str, tuple[str, ...]]]:
        """The versions' logics with all edits of now, their new items ready to be ranked; and the users' stored items."""
        logics: dict[int, RecommendationLogic] = {}
        stored: Mapping[str, tuple[str, ...]] = {}
        for version in versions:
            logic = self._logics[version] if version in self._logics else await self.off_loop(self._logic, version)
            snapshot = await self.state.snapshot(user_ids, after=logic.catalogue.last_number)
            if snapshot.edits:
                await self.off_loop(logic.take_edits, snapshot.edits)
            if logic.cold.awaited:
                await self._encode_titles(logic, deadline)
            logics[version], stored = logic, snapshot.histories
        return logics, stored

    async def _encode_titles(self, logic: RecommendationLogic, deadline: float | None) -> None:
        prompts = await self.off_loop(logic.title_prompts)
        if prompts:
            states = await self.backend.encode(list(prompts.values()), deadline)
            await self.off_loop(logic.cold.take, dict(zip(prompts, states, strict=True)))

    async def _answers(
        self,
        asked: Sequence[Asked],
        queries: NDArray[np.float32],
        request_id: str,
        watch: Stopwatch,
        tokenize_ms: float,
        deadline: float | None,
    ) -> list[RecommendationAnswer]:
        encode = watch.lap_ms()
        groups: dict[tuple[int, str, int], list[int]] = {}
        for position, one in enumerate(asked):
            groups.setdefault(one.group, []).append(position)
        outcomes: dict[int, Outcome] = {}
        searches = (self._search([asked[p] for p in group], queries[group], deadline) for group in groups.values())
        for group, found in zip(groups.values(), await asyncio.gather(*searches), strict=True):
            outcomes |= dict(zip(group, found, strict=True))
        search = watch.lap_ms()
        elaborate = [p for p, one in enumerate(asked) if one.is_elaborate]
        pages = (self._elaborated(asked[p], queries[p], outcomes[p], deadline) for p in elaborate)
        outcomes |= dict(zip(elaborate, await asyncio.gather(*pages), strict=True))
        timings = {"tokenize": tokenize_ms, "encode": encode, "search": search, "merge": watch.lap_ms(), "total": watch.total_ms()}
        answers = [answer_of(one, outcomes[p], request_id, TimingsMs(**timings)) for p, one in enumerate(asked)]
        for answer in answers:
            self._observe(answer)
        return answers

    async def _search(self, asked: Sequence[Asked], queries: NDArray[np.float32], deadline: float | None) -> list[Outcome]:
        """Requests of one group, in one search."""
        logic = asked[0].logic
        request = logic.search_request([one.question for one in asked], queries)
        must_be_complete = any(one.request.require_complete for one in asked)
        found = await self._shards.search(request, logic, deadline, require_complete=must_be_complete)
        return await self.off_loop(outcomes_of, asked, found, request)

    async def _elaborated(self, asked: Asked, query: NDArray[np.float32], found: Outcome, deadline: float | None) -> Outcome:
        """The outcome with a page that is diverse, or explained."""
        question, logic, ranked = asked.question, asked.logic, found.ranked
        chosen = list(range(len(ranked.items)))
        if question.diversity:
            vectors = await self._shards.vectors(logic, ranked.items, deadline)
            end = question.offset + question.k
            chosen = await asyncio.to_thread(diversified, np.array(ranked.scores), vectors, question.diversity, end)
        chosen = chosen[question.offset : question.offset + question.k]
        explanations: Mapping[int, Explanation] = {}
        if asked.explains:
            explanations = await self._explanations(asked, query, [ranked.items[place] for place in chosen], deadline)
        return replace(found, page=await self.off_loop(page_of, asked, ranked, chosen, explanations))

    async def _explanations(
        self, asked: Asked, query: NDArray[np.float32], items: Sequence[int], deadline: float | None
    ) -> dict[int, Explanation]:
        """For each item what speaks for it; forgotten users speak no more."""
        logic, recent = asked.logic, asked.question.recent if asked.question.decoder == "paired" else None
        told = await self._shards.reasons(logic, query, items, NUM_REASONS, deadline, recent=recent)
        samples = {entry.sample_id for near in told.entries.values() for entry in near}
        histories, forgotten = await asyncio.to_thread(_histories_of, logic, samples), await self.state.forgotten_users()
        shown = {sample_id: history for sample_id, history in histories.items() if history.user_id not in forgotten}
        hidden = histories.keys() - shown.keys()

        def explain(item: int) -> Explanation:
            entries = [near for near in told.entries.get(item, ()) if near.sample_id not in hidden]
            return explanation_of(logic, entries, shown, None if recent is None else told.pairs.get(item, ()))

        return await self.off_loop(lambda: {item: explain(item) for item in items})

    def _drop_all_but(self, served: ServedVersions) -> None:
        """Forget versions that are gone; newer ones than any served are being prepared."""
        for version in [v for v in self._logics if v not in served.versions and v < max(served.versions)]:
            del self._logics[version]

    def _logic(self, version: int) -> RecommendationLogic:
        if version not in self._logics:
            self._logics[version] = self._load_logic(version)
            self._logics[version].cold.states = self._title_states
        return self._logics[version]


def index_of(logic: RecommendationLogic, item_id: str) -> int:
    """NotFoundError where there is no such item now."""
    if logic.catalogue.find(item_id) is None:
        raise NotFoundError("item_id", f"There is no item {item_id!r} in the catalogue.")
    return logic.existing_index(item_id, "item_id")


def _read_all(
    plans: Sequence[Plan], logics: Mapping[int, RecommendationLogic], stored: Mapping[str, tuple[str, ...]], prefix: Callable[[int], str]
) -> tuple[list[Asked], list[TokenIds]]:
    """The requests and their prompts."""
    asked, prompts = [], []
    for position, plan in enumerate(plans):
        with fields_below(prefix(position)):
            one, prompt = _read(plan, logics[plan.version], stored)
        asked.append(one)
        prompts.append(prompt)
    return asked, prompts


def _read(plan: Plan, logic: RecommendationLogic, stored: Mapping[str, tuple[str, ...]]) -> tuple[Asked, TokenIds]:
    request = plan.request
    if request.explain:
        logic.check_explanations()
    seen = stored.get(request.user_id or "", ())[: plan.num_stored]
    history = logic.read_history(request, seen)
    left_out = history.items if request.exclude_history else set()
    question = logic.question(request, left_out, history.recent, offset=plan.offset)
    return Asked(request, logic, question, plan, len(seen)), logic.write_prompt(history.prompt)


def _histories_of(logic: RecommendationLogic, sample_ids: set[int]) -> Mapping[int, SampleHistory]:
    """Nothing where the memory no longer has the version."""
    if logic.histories is None:
        return {}
    try:
        return logic.histories.find(sample_ids)
    except ArtefactError:
        return {}
