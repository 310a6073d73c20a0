"""What a request means and what its answer says, for one served version: histories, rows of a search, items with titles. No network.

    request -> Question -> (encoder) -> SearchRequest -> (shards) -> ranked items

For one thread: it holds the live catalogue, which edits change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.titles import clean_title
from l2d_ray.decode.decoder import HistoryItem, PromptWriter, edge_scores
from l2d_ray.decode.paired import RecentItems, recent_items
from l2d_ray.decode.search import SearchRequest
from l2d_ray.decode.settings import DECODERS, DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK, merge_top_k
from l2d_ray.errors import RequestError
from l2d_ray.index.layout import IndexManifest
from l2d_ray.index.shard import shard_of_item
from l2d_ray.serve.catalogue_search import TitleSearch
from l2d_ray.serve.cold_ranking import Cold, ColdRanking
from l2d_ray.serve.explain import SampleHistories
from l2d_ray.serve.live_catalogue import LiveCatalogue
from l2d_ray.serve.messages import HistoryEntry, RankingOptions, RecommendationRequest, TitledItem
from l2d_ray.serve.ranking import Row, merged, rows_of
from l2d_ray.store.records import EditedItem
from l2d_ray.text.prompts import TokenIds

LEAST_POOL, POOL_PER_ITEM, MOST_POOL = 100, 4, 1000
"""Items among which a diverse page is chosen: so many for each item wanted, within bounds."""


@dataclass(frozen=True, eq=False)
class Question:
    """A request as far as its ranking goes.

    Attributes:
        rows: what is searched for its query; see ``ranking``.
        offset: items of the ranking that are on earlier pages.
        depth: length of the ranking that is searched.
        cold: items that no shard has, when the question was read.
        recent: the latest items of the history.
    """

    decoder: DecoderName
    num_neighbors: int
    rows: list[Row]
    k: int
    offset: int
    depth: int
    diversity: float
    cold: Cold
    recent: RecentItems


@dataclass(frozen=True, eq=False)
class History:
    """A user's history as it was read.

    Attributes:
        prompt: what a prompt is written of, oldest first.
        items: item indexes that the user has met.
        recent: the latest ones.
    """

    prompt: list[HistoryItem]
    items: set[int]
    recent: RecentItems


@dataclass(frozen=True, eq=False)
class Ranked:
    """Items (m,) best first, and their scores as users see them (m,)."""

    items: list[int]
    scores: list[float]


class RecommendationLogic:
    """Both ends of a request's way, for one served version.

    Args:
        manifest: of the index that answers.
        catalogue: the index's, to which item indexes refer.
        settings: the tuned ones, for what a request leaves open.
        decoders: those that a request may name.
        cold: ranks what no shard does.
        histories: of the memory's samples, for explanations; None: there are none.

    Attributes:
        catalogue: with all edits that were taken.
    """

    def __init__(
        self,
        manifest: IndexManifest,
        catalogue: Catalogue,
        writer: PromptWriter,
        settings: DecoderSettings,
        *,
        cold: ColdRanking,
        decoders: Sequence[DecoderName] = DECODERS,
        histories: SampleHistories | None = None,
    ) -> None:
        self.manifest = manifest
        self.settings = settings
        self.decoders = tuple(decoders)
        self.histories = histories
        self.catalogue = LiveCatalogue(catalogue)
        self.cold = cold
        self._writer = writer

    @cached_property
    def title_search(self) -> TitleSearch:
        """Over the index's own titles."""
        return TitleSearch(self.catalogue.base.titles)

    def check_decoder(self, decoder: DecoderName | None) -> None:
        """RequestError where a request names a decoder that is not served."""
        if decoder is not None and decoder not in self.decoders:
            raise RequestError(
                "decoder",
                f"The decoder {decoder!r} is not served here; name one of {', '.join(self.decoders)}, or none for {self.settings.decoder}.",
            )

    def check_explanations(self) -> None:
        """RequestError where this deployment has nothing to explain with."""
        if self.histories is None or "local" not in self.decoders:
            raise RequestError(
                "explain", "Explanations need memory_uri and the entries that the decoder local loads; this deployment has them not."
            )

    def read_history(self, request: RecommendationRequest, stored: Sequence[str]) -> History:
        """The user's history.

        Args:
            stored: the user's stored items; those that no catalogue ever had are passed over.

        Raises RequestError naming the entry that is neither an item nor a readable title.
        """
        known = [index for item_id in stored if (index := self.catalogue.index_of(item_id)) is not None]
        entries = [self._read_entry(entry, position) for position, entry in enumerate(request.history)]
        read = [*known, *entries]
        if not read:
            raise RequestError(
                "history" if request.user_id is None else "user_id",
                "The request needs a history of at least one item, or the user_id of somebody with stored interactions.",
            )
        items = [self.catalogue.history_item(entry) if isinstance(entry, int) else entry for entry in read]
        return History(items, {entry for entry in read if isinstance(entry, int)}, recent_items(read))

    def write_prompt(self, history: Sequence[HistoryItem]) -> TokenIds:
        return self._writer.write(history)

    def question(self, request: RankingOptions, left_out: set[int], recent: RecentItems, *, offset: int = 0) -> Question:
        """How the request is ranked.

        Args:
            left_out: item indexes that must not be recommended.
            recent: the latest items of its history.
        """
        self.check_decoder(request.decoder)
        excluded = left_out | self.catalogue.deleted() | set(self._known_indexes(request.exclude_item_ids))
        boosts = [(self.catalogue.mask(boost.filter), boost.weight) for boost in request.boosts]
        pool = min(max(POOL_PER_ITEM * request.k, LEAST_POOL), MOST_POOL)
        return Question(
            decoder=request.decoder or self.settings.decoder,
            num_neighbors=request.num_neighbors or self.settings.num_neighbors,
            rows=rows_of(excluded, self._mask(request), boosts),
            k=request.k,
            offset=offset,
            depth=pool if request.diversity else offset + request.k + 1,  # one more says whether there is a next page
            diversity=request.diversity,
            cold=self.cold.current,
            recent=recent,
        )

    def search_request(self, questions: Sequence[Question], queries: NDArray[np.float32]) -> SearchRequest:
        """One search of all rows of questions that share decoder and num_neighbors, each with its query (n, d)."""
        repeats, decoder = [len(question.rows) for question in questions], questions[0].decoder
        recent = [question.recent for question in questions for _ in question.rows] if decoder == "paired" else ()
        return SearchRequest(
            queries=np.repeat(queries, repeats, axis=0),
            decoder=decoder,
            k=max(question.depth for question in questions),
            num_neighbors=questions[0].num_neighbors,
            excluded=tuple(row.excluded for question in questions for row in question.rows),
            allowed=tuple(row.allowed for question in questions for row in question.rows),
            recent=tuple(recent),
        )

    def ranked(self, found: TopK, request: SearchRequest, questions: Sequence[Question]) -> list[Ranked]:
        """The ranking of each question: what the shards found and the items that no shard has."""
        cold = questions[0].cold.top_k(request)
        found = edge_scores(found if cold is None else merge_top_k([found, cold], request.k), request.decoder)
        stops = np.cumsum([len(question.rows) for question in questions]).tolist()
        rankings = []
        for question, stop in zip(questions, stops, strict=True):
            rows = slice(stop - len(question.rows), stop)
            mine = merged(TopK(found.ids[rows], found.scores[rows]), question.rows, question.depth)
            is_real = mine.ids[0] >= 0
            rankings.append(Ranked(mine.ids[0][is_real].tolist(), mine.scores[0][is_real].tolist()))
        return rankings

    def by_shard(self, items: Sequence[int]) -> dict[int, NDArray[np.int64]]:
        """The items that are in the index, by the shard that has them."""
        shards: dict[int, list[int]] = {}
        for index in items:
            if index < len(self.catalogue.base):
                shard = shard_of_item(self.catalogue.base.item_ids[index], self.manifest.num_shards)
                shards.setdefault(shard, []).append(index)
        return {shard: np.array(sorted(mine), dtype=np.int64) for shard, mine in shards.items()}

    def take_edits(self, edits: Iterable[EditedItem]) -> None:
        """Let the catalogue be as it is now."""
        self.catalogue.apply(edits)
        self.cold.update(self.catalogue)

    def title_prompts(self) -> dict[str, TokenIds]:
        """Prompts whose states ``cold`` awaits, by title."""
        return {title: self._writer.write([title]) for title in self.cold.awaited}

    def _mask(self, request: RankingOptions) -> NDArray[np.bool_] | None:
        """(n,) which items may be ranked; None: any."""
        mask = None if request.filter is None else self.catalogue.mask(request.filter)
        if request.candidate_item_ids is None:
            return mask
        candidates = np.zeros(len(self.catalogue), dtype=np.bool_)
        for position, item_id in enumerate(request.candidate_item_ids):
            candidates[self.existing_index(item_id, f"candidate_item_ids.{position}")] = True
        return candidates if mask is None else candidates & mask

    def existing_index(self, item_id: str, field: str) -> int:
        """RequestError naming the field where the catalogue never had such an item."""
        index = self.catalogue.index_of(item_id)
        if index is None:
            raise RequestError(
                field, f"Item {item_id!r} is not among the {self.catalogue.num_items} items of the catalogue; give an item_id of it."
            )
        return index

    def _known_indexes(self, item_ids: Sequence[str]) -> list[int]:
        return [index for item_id in item_ids if (index := self.catalogue.index_of(item_id)) is not None]

    def _read_entry(self, entry: HistoryEntry, position: int) -> HistoryItem:
        if isinstance(entry, TitledItem):
            return self._read_title(entry.title, position)
        index = self.catalogue.index_of(entry)
        if index is None:
            raise RequestError(
                f"history.{position}",
                f"Item {entry!r} is not among the {self.catalogue.num_items} items of the catalogue; "
                'give an item_id of the catalogue, or {"title": "..."} for an item outside it.',
            )
        return index

    def _read_title(self, title: str, position: int) -> HistoryItem:
        index = self.catalogue.index_of_title(title)
        if index is not None:
            return index
        cleaned = clean_title(title)
        if not cleaned:
            raise RequestError(
                f"history.{position}.title", f"Nothing is left of the title {title!r} once it is cleaned; give readable text."
            )
        index = self.catalogue.index_of_title(cleaned)
        return cleaned if index is None else index
