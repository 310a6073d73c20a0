"""What travels over HTTP: the request, its answer and the problem answers (RFC 9457). Pydantic alone, so that a client may import it.

Strict: unknown keys, numbers in quotes and values out of range are refused, never corrected. ``field_errors`` gives every mistake the
path of its value in the request (``history.2``), which is what the service answers and the client raises.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from l2d_ray.decode.settings import DecoderName

MAX_K: Final = 500
MAX_NUM_NEIGHBORS: Final = 100_000
MAX_HISTORY: Final = 10_000
MAX_TEXT: Final = 1000
"""Characters of an item_id or a title."""

ID_TAG, TITLE_TAG = "<item_id>", "<title>"  # name the kind of a history entry inside pydantic; no part of a field's path
MAX_SEEN = 80  # characters of a wrong value that its error repeats
MAX_ERRORS = 20  # errors told at once


class Message(BaseModel):
    """Base of everything sent: immutable, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class TitledItem(Message):
    """An item given by its title, in the catalogue or outside it."""

    title: str = Field(min_length=1, max_length=MAX_TEXT, description="A title equal to a catalogue item's is that item.")


def _tag_of(entry: object) -> str | None:
    if isinstance(entry, str):
        return ID_TAG
    return TITLE_TAG if isinstance(entry, Mapping | TitledItem) else None


ItemId = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
HistoryEntry = Annotated[
    Annotated[ItemId, Tag(ID_TAG)] | Annotated[TitledItem, Tag(TITLE_TAG)],
    Discriminator(
        _tag_of, custom_error_type="history_entry", custom_error_message='Entry should be an item_id (a string) or {{"title": "..."}}'
    ),
]


class RecommendationRequest(Message):
    """Which items follow this history."""

    history: list[HistoryEntry] = Field(min_length=1, max_length=MAX_HISTORY, description="Items of one user, oldest first.")
    k: int = Field(10, ge=1, le=MAX_K, description="Items wanted.")
    decoder: DecoderName | None = Field(None, description="Decoder that ranks; none: the one tuned on validation.")
    num_neighbors: int | None = Field(None, ge=1, le=MAX_NUM_NEIGHBORS, description="Neighbours of the local decoder; none: the tuned.")
    exclude_history: bool = Field(True, description="Whether items of the history are left out of the answer.")


class RecommendedItem(Message):
    """One line of an answer."""

    item_id: str
    title: str
    score: float = Field(description="Larger is better: the negated L2 distance (global, local) or the log-linear score (whitened).")
    rank: int = Field(ge=1, description="1 is the best.")


class TimingsMs(Message):
    """Where the time of a request went, in milliseconds."""

    tokenize: float
    encode: float
    search: float
    merge: float
    total: float


class RecommendationAnswer(Message):
    """The best items, best first; fewer than k where no more can be ranked."""

    items: list[RecommendedItem]
    decoder: DecoderName = Field(description="Decoder that ranked.")
    memory_version: int = Field(description="Version of the memory that was searched.")
    model_fingerprint: str = Field(description="Fingerprint of the model that read the history.")
    timings_ms: TimingsMs


class ShardStatus(Message):
    """What each replica of a shard holds."""

    shard: int
    num_entries: int = Field(description="Entries of the shard's items, loaded or not.")
    num_items: int
    statistics_bytes: int = Field(description="Memory for item statistics: what the global and whitened decoders need.")
    entries_bytes: int = Field(description="Memory for entries: what the local decoder needs on top; 0 where none are loaded.")


class ServiceStatus(Message):
    """What is served."""

    memory_version: int
    model_fingerprint: str
    index_kind: str = Field(description="How entries are searched: exact or compressed; statistics where the index has none.")
    decoders: list[DecoderName] = Field(description="Decoders that requests may name.")
    default_decoder: DecoderName = Field(description="Decoder of a request that names none.")
    shards: list[ShardStatus]
    statistics_bytes: int = Field(description="Sum over the shards, one replica of each.")
    entries_bytes: int = Field(description="Sum over the shards, one replica of each.")


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
    errors: list[FieldError] = []


def field_errors(errors: Sequence[Mapping[str, Any]]) -> list[FieldError]:
    """Pydantic's errors with the path, the sentence and the value seen."""
    told = errors[:MAX_ERRORS]
    return [FieldError(field=_field_path(e["loc"]), message=f"{e['msg']} (seen: {_shortened(e.get('input'))})") for e in told]


def _field_path(location: Sequence[int | str]) -> str:
    parts = [str(part)[:MAX_SEEN] for part in location if part not in (ID_TAG, TITLE_TAG)]
    return ".".join(parts[1:] if parts[0] == "body" and len(parts) > 1 else parts)


def _shortened(value: object) -> str:
    if isinstance(value, str) and len(value) > MAX_SEEN:
        return f"{value[:MAX_SEEN]!a}... of {len(value)} characters"
    if isinstance(value, list):
        return f"{len(value)} entries"
    return ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
