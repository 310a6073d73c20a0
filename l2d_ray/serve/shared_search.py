"""Searches of different requests as one question to a shard, and its answer cut up again: a matrix in, the rows of each back.

Two questions may share a call when they have the same ``sharing_key``: the same decoder, or the same round of local decoding. How many
items each wants, what each may be answered with and how many neighbours each asks for may differ: a larger k finds the same items first.

Law (tested): the parts of the joint answer are the answers to the single questions. An approximate index may find more for a larger limit.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from l2d_ray.decode.local import Keys, LocalCandidates, LocalRequest
from l2d_ray.decode.search import SearchRequest, ShardAnswer, ShardRequest
from l2d_ray.decode.topk import TopK


def sharing_key(request: ShardRequest) -> Hashable:
    """Equal for questions that one call can ask."""
    match request:
        case LocalRequest():
            return "local", request.after is None, request.until is None
        case SearchRequest():
            return request.decoder
        case _:
            return object()  # about single items: rare, and asked alone


def joined(requests: Sequence[ShardRequest]) -> ShardRequest:
    """One question of all the queries, in order; the requests have one sharing_key."""
    if len(requests) == 1:
        return requests[0]
    local = [request for request in requests if isinstance(request, LocalRequest)]
    if local:
        return LocalRequest(
            np.concatenate([request.queries for request in local]),
            np.concatenate([request.limits for request in local]),
            _joined_keys([request.after for request in local]),
            _joined_keys([request.until for request in local]),
        )
    return _joined_searches([request for request in requests if isinstance(request, SearchRequest)])


def split(answer: ShardAnswer, requests: Sequence[ShardRequest]) -> list[ShardAnswer]:
    """The answer to each request out of that to ``joined(requests)``."""
    if len(requests) == 1:
        return [answer]
    matrices = [request for request in requests if isinstance(request, SearchRequest | LocalRequest)]
    stops = np.cumsum([len(request.queries) for request in matrices]).tolist()
    rows = [slice(start, stop) for start, stop in zip([0, *stops[:-1]], stops, strict=True)]
    if isinstance(answer, LocalCandidates):
        return [_candidates_of(answer, part) for part in rows]
    assert isinstance(answer, TopK)
    searches = [request for request in requests if isinstance(request, SearchRequest)]
    return [TopK(answer.ids[part, : s.k], answer.scores[part, : s.k]) for part, s in zip(rows, searches, strict=True)]


def _joined_keys(keys: Sequence[Keys | None]) -> Keys | None:
    present = [key for key in keys if key is not None]
    if not present:
        return None
    return Keys(np.concatenate([key.squared_distances for key in present]), np.concatenate([key.sample_ids for key in present]))


def _joined_searches(searches: Sequence[SearchRequest]) -> SearchRequest:
    return SearchRequest(
        np.concatenate([search.queries for search in searches]),
        searches[0].decoder,
        max(search.k for search in searches),
        max(search.num_neighbors for search in searches),
        tuple(items for search in searches for items in search.excluded),
        tuple(items for search in searches for items in search.allowed),
        tuple(items for search in searches for items in search.recent),
    )


def _candidates_of(answer: LocalCandidates, rows: slice) -> LocalCandidates:
    ends = np.cumsum(answer.lengths)
    start = int(ends[rows.start - 1]) if rows.start else 0
    stop = int(ends[rows.stop - 1]) if rows.stop else 0
    return LocalCandidates(answer.lengths[rows], answer.entries[start:stop])
