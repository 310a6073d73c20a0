"""What travels over HTTP beside recommendations: items, interactions, users, versions, experiments, status. A client may import it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints, model_validator

from l2d_ray.decode.settings import DecoderName
from l2d_ray.serve.messages import MAX_NUM_NEIGHBORS
from l2d_ray.serve.wire import MAX_TEXT, Attributes, AttributeValue, ItemId, Message, Name, UserId

MAX_EVENTS: Final = 1000
MAX_ATTRIBUTES: Final = 100
MAX_ARMS: Final = 16

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""Names of experiments and arms, which stand in metrics too."""


class NewItem(Message):
    """An item as it shall be from now on."""

    title: str = Field(min_length=1, max_length=MAX_TEXT)
    attributes: Attributes = Field({}, max_length=MAX_ATTRIBUTES)


class ItemPatch(Message):
    """What shall change of an item; what is not named stays."""

    title: str | None = Field(None, min_length=1, max_length=MAX_TEXT)
    attributes: dict[Name, AttributeValue | None] = Field(
        {}, max_length=MAX_ATTRIBUTES, description="New values by name; null removes one."
    )


class Item(Message):
    """An item of the catalogue."""

    item_id: str
    title: str
    attributes: dict[str, Any] = Field({}, description="As the catalogue has them.")


class FoundItems(Message):
    """Items whose titles match a query, best match first."""

    items: list[Item]
    num_found: int = Field(description="All that match, on this page or not.")


class InteractionEvent(Message):
    """A user met an item."""

    event_id: str = Field(min_length=1, max_length=MAX_TEXT, description="Yours; the same event sent again changes nothing.")
    user_id: UserId
    item_id: ItemId
    timestamp: int = Field(description="Unix seconds. Yours, so that the event sent again is the same.")


class InteractionsRequest(Message):
    """Events, all stored or none."""

    events: list[InteractionEvent] = Field(min_length=1, max_length=MAX_EVENTS)


class InteractionsAnswer(Message):
    """The events are on disk: the users' next requests see them, the memory has them within a minute."""

    num_added: int
    num_known: int = Field(description="Events that were stored before.")


class ForgottenAnswer(Message):
    """The user's history is gone; memory and index forget with their next version."""

    num_interactions: int = Field(description="Interactions that were deleted.")


class VersionsAnswer(Message):
    """Which memory versions can answer."""

    versions: list[int] = Field(description="Ascending.")
    current: int = Field(description="Answers requests now.")
    is_pinned: bool = Field(description="Whether newer versions must wait until this is changed.")


class VersionChoice(Message):
    """Which memory version shall answer."""

    version: int | None = Field(description="One of those served: it answers until the next choice. Null: the newest, always.")


class Arm(Message):
    """One way to answer."""

    name: Label
    weight: float = Field(gt=0, le=1e6, description="Share of the users, relative to the other arms.")
    decoder: DecoderName | None = Field(None, description="None: the tuned one.")
    num_neighbors: int | None = Field(None, ge=1, le=MAX_NUM_NEIGHBORS, description="None: the tuned.")
    memory_version: int | None = Field(None, description="None: the current one.")


class Experiment(Message):
    """Users are shared out among arms by a hash of their id, so that each stays in one arm."""

    name: Label
    arms: list[Arm] = Field(min_length=1, max_length=MAX_ARMS)

    @model_validator(mode="after")
    def _names_differ(self) -> Experiment:
        if len({arm.name for arm in self.arms}) < len(self.arms):
            raise ValueError("Arms need names that differ")
        return self


class RunningExperiment(Message):
    """The experiment, or none."""

    experiment: Experiment | None


class ShardStatus(Message):
    """What each replica of a shard holds."""

    shard: int
    num_entries: int = Field(description="Entries of the shard's items, loaded or not.")
    num_items: int
    statistics_bytes: int = Field(description="Memory for item statistics and pairs: what all decoders but local need.")
    entries_bytes: int = Field(description="Memory for entries: what the local decoder needs on top; 0 where none are loaded.")


class BacklogStatus(Message):
    """What is stored durably and not yet in the memory."""

    num_interactions: int
    num_edits: int
    num_forgotten: int
    oldest_age_s: float | None = Field(description="Since the oldest interaction that waits was acknowledged; null: none waits.")


class ServiceStatus(Message):
    """What is served."""

    status: Literal["complete", "partial"] = Field(description="Whether every shard answered for this status.")
    memory_version: int
    model_fingerprint: str
    index_kind: str = Field(description="How entries are searched: exact or compressed; statistics where the index has none.")
    decoders: list[DecoderName] = Field(description="Decoders that requests may name.")
    default_decoder: DecoderName = Field(description="Decoder of a request that names none.")
    num_items: int = Field(description="Items of the catalogue, with the edits of now.")
    shards: list[ShardStatus] = Field(description="Those that answered.")
    shards_total: int
    statistics_bytes: int = Field(description="Sum over the shards, one replica of each.")
    entries_bytes: int = Field(description="Sum over the shards, one replica of each.")
    versions: VersionsAnswer
    backlog: BacklogStatus | None = Field(description="Null where the service keeps no state.")
