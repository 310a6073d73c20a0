"""What travels over HTTP for recommendations: requests, answers, and the problem answers (RFC 9457). A client may import it.

``field_errors`` gives every mistake the path of its value in the request (``history.2``), which is what the service answers and the client
raises. ``state_messages`` has the messages of all that is written and looked up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from l2d_ray.decode.settings import DecoderName
from l2d_ray.serve.filters import TAGS as FILTER_TAGS
from l2d_ray.serve.filters import Filter
from l2d_ray.serve.wire import MAX_TEXT, Attributes, ItemId, Message, UserId
from l2d_ray.serve.wire import TAGS as VALUE_TAGS

MAX_K: Final = 500
MAX_NUM_NEIGHBORS: Final = 100_000
MAX_HISTORY: Final = 10_000
MAX_ITEM_IDS: Final = 10_000
MAX_BOOSTS: Final = 8
MAX_BATCH: Final = 256
MAX_TIMEOUT_MS: Final = 60_000
MAX_CURSOR: Final = 1000
MAX_BOOST_WEIGHT: Final = 1e6

ID_TAG, TITLE_TAG = "<item_id>", "<title>"  # name the kind of a history entry inside pydantic; no part of a field's path
TAGS: Final = frozenset((ID_TAG, TITLE_TAG, *FILTER_TAGS.values(), *VALUE_TAGS.values()))
MAX_SEEN = 80  # characters of a wrong value that its error repeats
MAX_ERRORS = 20  # errors told at once


class TitledItem(Message):
    """An item given by its title, in the catalogue or outside it."""

    title: str = Field(min_length=1, max_length=MAX_TEXT, description="A title equal to a catalogue item's is that item.")
    attributes: Attributes = Field({}, max_length=100, description="Kept out of the prompt: both prompt formats read titles alone.")


def _tag_of(entry: object) -> str | None:
    if isinstance(entry, str):
        return ID_TAG
    return TITLE_TAG if isinstance(entry, Mapping | TitledItem) else None


HistoryEntry = Annotated[
    Annotated[ItemId, Tag(ID_TAG)] | Annotated[TitledItem, Tag(TITLE_TAG)],
    Discriminator(
        _tag_of, custom_error_type="history_entry", custom_error_message='Entry should be an item_id (a string) or {{"title": "..."}}'
    ),
]


class Boost(Message):
    """A change of the scores of some items."""

    filter: Filter = Field(description="Items concerned.")
    weight: float = Field(ge=-MAX_BOOST_WEIGHT, le=MAX_BOOST_WEIGHT, description="Added to their scores; several boosts add up.")


class RankingOptions(Message):
    """What is common to every request for ranked items."""

    k: int = Field(10, ge=1, le=MAX_K, description="Items wanted.")
    decoder: DecoderName | None = Field(None, description="Decoder that ranks; none: the one tuned on validation.")
    num_neighbors: int | None = Field(None, ge=1, le=MAX_NUM_NEIGHBORS, description="Neighbours of the local decoder; none: the tuned.")
    exclude_item_ids: list[ItemId] = Field([], max_length=MAX_ITEM_IDS, description="Left out; ids that the catalogue lacks do no harm.")
    candidate_item_ids: list[ItemId] | None = Field(None, max_length=MAX_ITEM_IDS, description="Rank only these; none: all items.")
    filter: Filter | None = Field(None, description="Rank only items whose attributes meet this.")
    boosts: list[Boost] = Field([], max_length=MAX_BOOSTS, description="Changes of scores, made before the k best are taken.")
    diversity: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of dissimilarity against score in the choice of each next item (maximal marginal relevance on the items' "
        "representations); 0: by score alone.",
    )
    timeout_ms: int | None = Field(None, ge=1, le=MAX_TIMEOUT_MS, description="Longest wait; shards that take longer are left out.")
    require_complete: bool = Field(False, description="Whether an answer without some shard is a 503 problem.")


class RecommendationRequest(RankingOptions):
    """Which items follow this history."""

    history: list[HistoryEntry] = Field([], max_length=MAX_HISTORY, description="Items of one user, oldest first.")
    user_id: UserId | None = Field(None, description="User whose stored history comes before ``history``.")
    exclude_history: bool = Field(True, description="Whether items of the history are left out of the answer.")
    explain: bool = Field(False, description="Whether each item comes with the samples and the history's items that speak for it.")
    cursor: str | None = Field(None, max_length=MAX_CURSOR, description="next_cursor of the page before; all else as it was there.")


class BatchRequest(Message):
    """Several requests, encoded and searched together."""

    requests: list[RecommendationRequest] = Field(min_length=1, max_length=MAX_BATCH)


class Reason(Message):
    """A training sample that speaks for an item: somebody with this history chose it next."""

    distance: float = Field(description="L2 distance between the sample's hidden state and the request's.")
    history: list[str] = Field(description="The sample's last titles, oldest first; empty where they are no longer kept.")


class Cause(Message):
    """An item of the history that speaks for a recommended one: users of the memory took the two shortly before or after each other."""

    item_id: str
    title: str
    share: float = Field(gt=0, le=1, description="Its part in all that the history's items say for the recommended one.")


@dataclass(slots=True)
class RecommendedItem:
    """One line of an answer. No model: an answer may have 500, and this is made and written five times as fast."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    item_id: str
    title: str
    score: Annotated[
        float,
        Field(description="Larger is better: the negated L2 distance (global, local) or the log-linear score (whitened), boosts added."),
    ]
    rank: Annotated[int, Field(ge=1, description="1 is the best.")]
    attributes: Annotated[Mapping[str, Any], Field(description="As the catalogue has them.")]
    reasons: Annotated[list[Reason] | None, Field(description="Nearest first; null where no explanation was asked for.")] = None
    because: Annotated[
        list[Cause] | None,
        Field(description="Largest share first; null where no explanation was asked for, or the decoder reads no item pairs."),
    ] = None


class Completeness(Message):
    """How many shards are in the answer."""

    shards_ok: int
    shards_total: int


class TimingsMs(Message):
    """Where the time of a request went, in milliseconds."""

    tokenize: float
    encode: float
    search: float
    merge: float
    total: float


class ExperimentArm(Message):
    """Which arm of which experiment answered."""

    name: str
    arm: str


class RecommendationAnswer(Message):
    """The best items, best first; fewer than k where no more can be ranked."""

    items: list[RecommendedItem]
    decoder: DecoderName = Field(description="Decoder that ranked.")
    memory_version: int = Field(description="Version of the memory that was searched, the same in all shards.")
    model_fingerprint: str = Field(description="Fingerprint of the model that read the history.")
    complete: Completeness
    timings_ms: TimingsMs
    request_id: str = Field(description="The request's X-Request-ID, or one made up.")
    experiment: ExperimentArm | None = Field(None, description="Null where none is running or the user is unknown.")
    next_cursor: str | None = Field(None, description="Asks for the items after these; null after the last.")


class BatchAnswer(Message):
    """One answer a request, in their order."""

    answers: list[RecommendationAnswer]


class Health(Message):
    """The process lives."""

    status: Literal["ok"] = "ok"


class FieldError(Message):
    """What is wrong with one value of a request."""

    field: str = Field(description="Path of the value, such as history.2; body where the whole body is meant.")
    message: str


class Problem(Message):
    """Why there is no answer (RFC 9457, application/problem+json)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldError] = Field([], description="Each wrong value by its path.")
    request_id: str | None = Field(None, description="The request's X-Request-ID, or one made up.")


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Pydantic's errors with the path, the sentence and the value seen."""
    told = errors[:MAX_ERRORS]
    return [FieldError(field=_field_path(e["loc"]), message=f"{e['msg']} (seen: {_shortened(e.get('input'))})") for e in told]


def _field_path(location: Sequence[int | str]) -> str:
    """Where it is; a key without a character is written as quotes."""
    parts = [str(part)[:MAX_SEEN] or '""' for part in location if part not in TAGS]
    return ".".join(parts[1:] if parts and parts[0] in ("body", "query", "path") and len(parts) > 1 else parts)


def _shortened(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_SEEN:
        return f"{value[:MAX_SEEN]!a}... of {len(value)} characters"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return ascii(value)[: 2 * MAX_SEEN] if isinstance(value, str | int | float | bool | None) else type(value).__name__
