"""LatentDecoder: the whole method in one process, history in, ranked items out. The oracle that every deployment must equal.

    history -> prompt -> encoder -> query vector -> shards -> merge -> ranked items

The steps are public, since tuning, evaluation and serving enter at different ones.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.decode.local_merge import LearntSpread
from l2d_ray.decode.lookup import ItemReasons, Reasons, ReasonsRequest
from l2d_ray.decode.paired import recent_items
from l2d_ray.decode.restriction import ascending
from l2d_ray.decode.search import SearchRequest, ShardSearcher, available_decoders, search_shards
from l2d_ray.decode.settings import BY_DISTANCE, DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.errors import ArtefactError, RequestError
from l2d_ray.index.layout import open_index
from l2d_ray.index.shard import Shard
from l2d_ray.memory.statistics import PooledStatistics
from l2d_ray.model.encoder import Encoder
from l2d_ray.model.loading import LanguageModel, load_checkpoint
from l2d_ray.text.prompts import PromptFormat, TokenIds, tokenize_titles

HistoryItem = int | str
"""An item_index, or the title of an item outside the catalogue."""


@dataclass(frozen=True)
class PromptWriter:
    """Histories to prompts, with the catalogue's titles tokenised once."""

    tokenizer: Any
    prompts: PromptFormat
    titles: list[TokenIds]
    max_title_tokens: int

    @classmethod
    def of(cls, language_model: LanguageModel, catalogue: Catalogue) -> PromptWriter:
        limit = language_model.settings.max_title_tokens
        titles = tokenize_titles(language_model.tokenizer, catalogue.titles, limit)
        return cls(language_model.tokenizer, language_model.prompts, titles, limit)

    def write(self, history: Sequence[HistoryItem]) -> TokenIds:
        """Prompt of a history (oldest first, at least one item)."""
        if not history:
            raise RequestError("history", "The history is empty; give at least one item.")
        texts = [item for item in history if isinstance(item, str)]
        fresh = iter(tokenize_titles(self.tokenizer, texts, self.max_title_tokens))
        return self.prompts.prompt([next(fresh) if isinstance(item, str) else self.titles[item] for item in history])


class LatentDecoder:
    """History -> ranked items.

    Args:
        shards: all shards of one index; where one has no entries there is no local decoder, and without pairs no paired one.
        pooled: over them.

    Attributes:
        decoders: names of the decoders that can answer.
    """

    def __init__(
        self,
        writer: PromptWriter,
        encoder: Encoder,
        *,
        shards: Sequence[Shard],
        pooled: PooledStatistics,
        settings: DecoderSettings,
    ) -> None:
        if encoder.dim != len(pooled.mean):
            raise ArtefactError(
                f"The encoder's states are {encoder.dim} wide, the index's vectors {len(pooled.mean)}; "
                "build the memory and the index with this model."
            )
        self.writer = writer
        self.encoder = encoder
        self.settings = settings
        self._spread = LearntSpread()
        self.decoders = available_decoders(shards)
        self._searchers = [ShardSearcher(shard, pooled, settings, decoders=self.decoders) for shard in shards]

    def recommend(
        self,
        histories: Sequence[Sequence[HistoryItem]],
        k: int,
        *,
        decoder: DecoderName | None = None,
        num_neighbors: int | None = None,
        excluded: Sequence[Collection[int]] | None = None,
        allowed: Sequence[Collection[int] | None] | None = None,
    ) -> TopK:
        """The k best items for each history; scores as ``edge_scores`` says.

        Args:
            excluded: for each history the item indexes that must not be recommended.
            allowed: for each history the only ones that may be; None: any.
        """
        queries = self.encode(histories)
        return self.search(
            queries, k, histories=histories, decoder=decoder, num_neighbors=num_neighbors, excluded=excluded, allowed=allowed
        )

    def encode(self, histories: Sequence[Sequence[HistoryItem]]) -> NDArray[np.float32]:
        """(n, d) query vectors."""
        return self.encoder.encode([self.writer.write(history) for history in histories])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        histories: Sequence[Sequence[HistoryItem]] | None = None,
        decoder: DecoderName | None = None,
        num_neighbors: int | None = None,
        excluded: Sequence[Collection[int]] | None = None,
        allowed: Sequence[Collection[int] | None] | None = None,
    ) -> TopK:
        """The k best items for query vectors (b, d).

        Args:
            histories: that the vectors are of; the paired decoder reads their latest items, and without them ranks as the whitened one.
        """
        for name, value in (("k", k), ("num_neighbors", num_neighbors)):
            if value is not None and value < 1:
                raise RequestError(name, f"{name} is {value}; it must be at least 1.")
        chosen = decoder or self.settings.decoder
        request = SearchRequest(
            queries,
            chosen,
            k,
            self.settings.num_neighbors if num_neighbors is None else num_neighbors,
            excluded=tuple(map(ascending, excluded or ((),) * len(queries))),
            allowed=tuple(None if items is None else ascending(items) for items in allowed or (None,) * len(queries)),
            recent=tuple(map(recent_items, histories or ((),) * len(queries))) if chosen == "paired" else (),
        )
        return edge_scores(search_shards(self._searchers, request, self._spread), request.decoder)

    def reasons(
        self,
        queries: NDArray[np.float32],
        items: Sequence[NDArray[np.int64]],
        count: int,
        *,
        histories: Sequence[Sequence[HistoryItem]] | None = None,
    ) -> list[ItemReasons]:
        """What speaks for some items (m,) of each query vector (b, d): their ``count`` nearest entries, where the shards have entries.

        Args:
            histories: that the vectors are of, where what pairs with their latest items say is to be told too; as the paired decoder reads
                them, and nothing where there is none.
        """
        recent = () if histories is None else tuple(map(recent_items, histories))
        request = ReasonsRequest(queries, tuple(items), count if "local" in self.decoders else 0, recent)
        answers = [answer for searcher in self._searchers if isinstance(answer := searcher.search(request), Reasons)]
        return [ItemReasons.of_query(answers, query) for query in range(len(queries))]


def edge_scores(found: TopK, decoder: DecoderName) -> TopK:
    """Scores as users see them: the negated L2 distance (global, local), or the log-linear score of the other decoders."""
    return replace(found, scores=-np.sqrt(-found.scores)) if decoder in BY_DISTANCE else found


def load_latent_decoder(
    checkpoint_dir: Path, index_dir: Path, settings: DecoderSettings, *, device: str = "cpu", max_batch_tokens: int = 8192
) -> LatentDecoder:
    """Everything from its folders; refuses an index that another model made."""
    language_model = load_checkpoint(checkpoint_dir, device=device)
    index = open_index(index_dir, fingerprint=language_model.fingerprint)
    return LatentDecoder(
        PromptWriter.of(language_model, index.catalogue()),
        Encoder(language_model.model, max_batch_tokens=max_batch_tokens),
        shards=index.shards(device=device),
        pooled=index.pooled(),
        settings=settings,
    )
