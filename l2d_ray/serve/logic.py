"""What a request means and what its answer says, for one served version: histories, search requests, items with titles. No network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from l2d_ray.data.catalogue import Catalogue
from l2d_ray.data.titles import clean_title
from l2d_ray.decode.decoder import HistoryItem, PromptWriter, edge_scores
from l2d_ray.decode.restriction import ascending
from l2d_ray.decode.search import SearchRequest
from l2d_ray.decode.settings import DECODERS, DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK
from l2d_ray.errors import RequestError
from l2d_ray.index.layout import IndexManifest
from l2d_ray.serve.messages import HistoryEntry, RecommendationRequest, RecommendedItem, TitledItem
from l2d_ray.text.prompts import TokenIds


class RecommendationLogic:
    """Both ends of a request's way, for one served version.

    Args:
        manifest: of the index that answers.
        catalogue: the index's, to which item indexes refer.
        settings: the tuned ones, for what a request leaves open.
        decoders: those that a request may name.
    """

    def __init__(
        self,
        manifest: IndexManifest,
        catalogue: Catalogue,
        writer: PromptWriter,
        settings: DecoderSettings,
        *,
        decoders: Sequence[DecoderName] = DECODERS,
    ) -> None:
        self.manifest = manifest
        self.settings = settings
        self.decoders = tuple(decoders)
        self._catalogue = catalogue
        self._writer = writer

    def check_decoder(self, decoder: DecoderName | None) -> None:
        """RequestError where a request names a decoder that is not served."""
        if decoder is not None and decoder not in self.decoders:
            raise RequestError(
                "decoder",
                f"The decoder {decoder!r} is not served here; name one of {', '.join(self.decoders)}, or none for {self.settings.decoder}.",
            )

    def read_history(self, history: Sequence[HistoryEntry]) -> list[HistoryItem]:
        """Item indexes of what the catalogue has, clean titles of the rest; RequestError names the entry that is neither."""
        return [self._read_entry(entry, position) for position, entry in enumerate(history)]

    def write_prompt(self, history: Sequence[HistoryItem]) -> TokenIds:
        return self._writer.write(history)

    def search_request(self, request: RecommendationRequest, history: Sequence[HistoryItem], query: NDArray[np.float32]) -> SearchRequest:
        """What the shards are asked for a query (d,)."""
        banned = {item for item in history if isinstance(item, int)} if request.exclude_history else set()
        return SearchRequest(
            queries=query[None, :],
            decoder=request.decoder or self.settings.decoder,
            k=request.k,
            num_neighbors=request.num_neighbors or self.settings.num_neighbors,
            excluded=(ascending(banned),),
            allowed=(None,),
        )

    def name_items(self, found: TopK, request: SearchRequest) -> list[RecommendedItem]:
        """The answer's items from what a request of one query found, padding dropped."""
        found = edge_scores(found, request.decoder)
        ranked = zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True)
        return [
            RecommendedItem(item_id=self._catalogue.item_ids[item], title=self._catalogue.titles[item], score=score, rank=rank)
            for rank, (item, score) in enumerate(ranked, start=1)
            if item >= 0
        ]

    def _read_entry(self, entry: HistoryEntry, position: int) -> HistoryItem:
        if isinstance(entry, TitledItem):
            return self._read_title(entry.title, position)
        index = self._catalogue.item_id_to_index.get(entry)
        if index is None:
            raise RequestError(
                f"history.{position}",
                f"Item {entry!r} is not among the {len(self._catalogue)} items of the catalogue; "
                'give an item_id of the catalogue, or {"title": "..."} for an item outside it.',
            )
        return index

    def _read_title(self, title: str, position: int) -> HistoryItem:
        index = self._catalogue.title_to_index.get(title)
        if index is not None:
            return index
        cleaned = clean_title(title)
        if not cleaned:
            raise RequestError(
                f"history.{position}.title", f"Nothing is left of the title {title!r} once it is cleaned; give readable text."
            )
        return self._catalogue.title_to_index.get(cleaned, cleaned)
