"""One search, cut in two where the network is: what every shard answers, and the merge. In one process and in Serve alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from l2d_ray.decode.linear import GlobalDecoder, WhitenedDecoder, precision_matrix
from l2d_ray.decode.local import LocalCandidates, local_candidates, merge_local
from l2d_ray.decode.settings import DecoderName, DecoderSettings
from l2d_ray.decode.topk import TopK, merge_top_k
from l2d_ray.index.shard import Shard


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A batch of queries that share a decoder.

    Attributes:
        queries: (b, d) float32 hidden states.
        num_neighbors: for the local decoder.
        excluded: for each query the item indexes that must not be recommended.
    """

    queries: NDArray[np.float32]
    decoder: DecoderName
    k: int
    num_neighbors: int
    excluded: tuple[NDArray[np.int64], ...]


ShardAnswer = TopK | LocalCandidates


class ShardSearcher:
    """Answers for one shard.

    Args:
        within_covariance: (d, d), pooled over all shards.
    """

    def __init__(self, shard: Shard, within_covariance: NDArray[np.float64], settings: DecoderSettings) -> None:
        self.shard = shard
        statistics, device = shard.statistics, shard.device
        self._global = GlobalDecoder(statistics, device=device)
        precision = precision_matrix(within_covariance, settings.shrinkage)
        self._whitened = WhitenedDecoder(statistics, precision, prior_weight=settings.prior_weight, device=device)

    def search(self, request: SearchRequest) -> ShardAnswer:
        if request.decoder == "local":
            return local_candidates(self.shard, request.queries, request.num_neighbors)
        decoder = self._global if request.decoder == "global" else self._whitened
        return decoder.top_k(request.queries, request.k, request.excluded)


def merge_answers(answers: Sequence[ShardAnswer], request: SearchRequest) -> TopK:
    """The answer over all shards, the same for any partition and any order of the shards."""
    local = [a for a in answers if isinstance(a, LocalCandidates)]
    if request.decoder == "local":
        return merge_local(local, request.k, num_neighbors=request.num_neighbors, excluded=request.excluded)
    return merge_top_k([a for a in answers if isinstance(a, TopK)], request.k)
