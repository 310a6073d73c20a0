"""What every message over HTTP has in common. Pydantic alone, so that a client may import it.

Strict: unknown keys, numbers in quotes, NaN and values out of range are refused, never corrected.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT: Final = 1000
"""Characters of an id, a title, a name or a text value."""


class Message(BaseModel):
    """Base of everything sent: immutable, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


Text = Annotated[str, Field(max_length=MAX_TEXT)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
UserId = ItemId
Scalar = bool | int | float | Text
AttributeValue = Scalar | list[Scalar]
Attributes = dict[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)], AttributeValue]
