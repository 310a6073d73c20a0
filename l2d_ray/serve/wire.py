"""What every message over HTTP has in common. Pydantic alone, so that a client may import it.

Strict: unknown keys, numbers in quotes, NaN and values out of range are refused, never corrected.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

MAX_TEXT: Final = 1000
"""Characters of an id, a title, a name or a text value."""


class Message(BaseModel):
    """Base of everything sent: immutable, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False, serialize_by_alias=True)


TAGS: Final = {bool: "<bool>", int: "<int>", float: "<float>", str: "<str>", list: "<list>"}
"""Names of the kinds of values inside pydantic; no part of a field's path."""


def _tag_of(value: object) -> str | None:
    return TAGS.get(type(value))


def _one_of(wanted: str) -> Discriminator:
    """Chooses by the JSON type, so that a wrong value is one mistake and not one for each type."""
    return Discriminator(_tag_of, custom_error_type="value", custom_error_message=f"Value should be {wanted}")


Text = Annotated[str, Field(max_length=MAX_TEXT)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
UserId = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]

_Bool = Annotated[bool, Tag(TAGS[bool])]
_Int = Annotated[int, Tag(TAGS[int])]
_Float = Annotated[float, Tag(TAGS[float])]
_Str = Annotated[Text, Tag(TAGS[str])]
Bound = Annotated[_Int | _Float | _Str, _one_of("text or a number")]
Scalar = Annotated[_Bool | _Int | _Float | _Str, _one_of("text, a number, true or false")]
AttributeValue = Annotated[
    _Bool | _Int | _Float | _Str | Annotated[list[Scalar], Tag(TAGS[list])], _one_of("text, a number, true, false or a list of them")
]
Attributes = dict[Name, AttributeValue]
