"""Conditions on an item's attributes: how a request says them, and which items of a catalogue they hold for.

    {"attribute": "genres", "equals": "Drama"}            a list holds its elements: the item has Drama among its genres
    {"attribute": "brand", "in": ["Sega", "Atari"]}
    {"attribute": "year", "range": {"gte": 1990, "lt": 2000}}
    {"and": [...]}   {"or": [...]}   {"not": ...}

Values compare within their kind: text with text, numbers with numbers, true and false with each other. An item without the attribute
meets none of the first three. ``AttributeTable`` answers from columns that it makes once; ``is_met`` is the same, said for one item.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from l2d_ray.serve.wire import Bound, Message, Scalar, Text

MAX_DEPTH: Final = 8
MAX_CONDITIONS: Final = 200
MAX_VALUES: Final = 1000


class Equals(Message):
    """The attribute is this value, or a list that holds it."""

    attribute: Text
    equals: Scalar


class In(Message):
    """The attribute is one of these values, or a list that holds one."""

    attribute: Text
    values: list[Scalar] = Field(alias="in", min_length=1, max_length=MAX_VALUES)


class Range(Message):
    """From ``gte`` (or above ``gt``) up to ``lte`` (or below ``lt``); numbers, or text in the order of its characters."""

    gte: Bound | None = None
    gt: Bound | None = None
    lte: Bound | None = None
    lt: Bound | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Range:
        bounds = self.bounds()
        if not bounds:
            raise ValueError("Range needs at least one of gte, gt, lte and lt")
        if len({isinstance(bound, str) for bound in bounds}) > 1:
            raise ValueError("Range needs bounds of one kind, all numbers or all text")
        return self

    def bounds(self) -> list[Bound]:
        return [bound for bound in (self.gte, self.gt, self.lte, self.lt) if bound is not None]

    @property
    def is_of_text(self) -> bool:
        return isinstance(self.bounds()[0], str)

    def slice_of(self, ordered: Sequence[Any]) -> slice:
        """Which of the ascending values, all of the bounds' kind, lie inside."""
        starts = [
            bisect_left(ordered, self.gte) if self.gte is not None else 0,
            bisect_right(ordered, self.gt) if self.gt is not None else 0,
        ]
        stops = [len(ordered) if self.lte is None else bisect_right(ordered, self.lte)]
        stops.append(len(ordered) if self.lt is None else bisect_left(ordered, self.lt))
        return slice(max(starts), min(stops))


class InRange(Message):
    """The attribute lies in the range, or is a list with an element that does."""

    attribute: Text
    range: Range


class And(Message):
    """All of the conditions hold."""

    conditions: list[Filter] = Field(alias="and", min_length=1, max_length=MAX_CONDITIONS)


class Or(Message):
    """One of the conditions holds, or more."""

    conditions: list[Filter] = Field(alias="or", min_length=1, max_length=MAX_CONDITIONS)


class Not(Message):
    """The condition does not hold."""

    condition: Filter = Field(alias="not")


KEY_TO_MODEL: Final[Mapping[str, type[Message]]] = {"equals": Equals, "in": In, "range": InRange, "and": And, "or": Or, "not": Not}
TAGS: Final = {key: f"<{key}>" for key in KEY_TO_MODEL}


def _tag_of(value: object) -> str | None:
    if isinstance(value, Mapping):
        return next((tag for key, tag in TAGS.items() if key in value), None)
    return next((TAGS[key] for key, model in KEY_TO_MODEL.items() if isinstance(value, model)), None)


def _bounded(value: object) -> object:
    """Refuse what is nested deeper or holds more than any person writes, before it is read."""
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH or count > MAX_CONDITIONS:
            raise PydanticCustomError(
                "filter_size", f"Filter should be nested at most {MAX_DEPTH} deep and hold at most {MAX_CONDITIONS} conditions"
            )
        level = [inner for condition in level if isinstance(condition, Mapping) for inner in _inside(condition)]
    return value


def _inside(condition: Mapping[str, Any]) -> Iterable[object]:
    for key in ("and", "or"):
        inner = condition.get(key)
        yield from inner if isinstance(inner, list) else ()
    if "not" in condition:
        yield condition["not"]


Condition = Annotated[
    Annotated[Equals, Tag(TAGS["equals"])]
    | Annotated[In, Tag(TAGS["in"])]
    | Annotated[InRange, Tag(TAGS["range"])]
    | Annotated[And, Tag(TAGS["and"])]
    | Annotated[Or, Tag(TAGS["or"])]
    | Annotated[Not, Tag(TAGS["not"])],
    Discriminator(
        _tag_of,
        custom_error_type="filter",
        custom_error_message='Filter should be an object with one of the keys "equals", "in", "range", "and", "or", "not"',
    ),
]
Filter = Annotated[Condition, BeforeValidator(_bounded)]

for model in (And, Or, Not):
    model.model_rebuild()


def is_met(condition: Condition, attributes: Mapping[str, Any]) -> bool:
    """Whether an item with these attributes meets the condition."""
    match condition:
        case And():
            return all(is_met(inner, attributes) for inner in condition.conditions)
        case Or():
            return any(is_met(inner, attributes) for inner in condition.conditions)
        case Not():
            return not is_met(condition.condition, attributes)
    values = _values_of(attributes.get(condition.attribute))
    match condition:
        case Equals():
            return _key(condition.equals) in map(_key, values)
        case In():
            return not {_key(value) for value in condition.values}.isdisjoint(map(_key, values))
        case InRange():
            return any(condition.range.slice_of([value]) == slice(0, 1) for value in values if _kind(value) is _range_kind(condition.range))


class AttributeTable:
    """The attributes of a catalogue's items, by column; a column is made when it is first asked for.

    Args:
        attributes: of the items 0, 1, ...
    """

    def __init__(self, attributes: Sequence[Mapping[str, Any]]) -> None:
        self._attributes = attributes
        self._columns: dict[str, _Column] = {}

    def mask(self, condition: Condition) -> NDArray[np.bool_]:
        """(n,) which items meet the condition."""
        match condition:
            case And():
                return np.logical_and.reduce([self.mask(inner) for inner in condition.conditions])  # type: ignore[no-any-return]
            case Or():
                return np.logical_or.reduce([self.mask(inner) for inner in condition.conditions])  # type: ignore[no-any-return]
            case Not():
                return ~self.mask(condition.condition)
        column, found = self._column(condition.attribute), np.zeros(len(self._attributes), dtype=np.bool_)
        match condition:
            case Equals():
                found[column.items_with(condition.equals)] = True
            case In():
                for value in condition.values:
                    found[column.items_with(value)] = True
            case InRange():
                found[column.items_in(condition.range)] = True
        return found

    def _column(self, name: str) -> _Column:
        if name not in self._columns:
            self._columns[name] = _Column.of(attributes.get(name) for attributes in self._attributes)
        return self._columns[name]


@dataclass(frozen=True)
class _Column:
    """One attribute: the items of each value; and all numbers, and all texts, in ascending order, each with its item."""

    value_to_items: Mapping[tuple[type, Any], NDArray[np.int64]]
    kind_to_ordered: Mapping[type, tuple[list[Any], NDArray[np.int64]]]

    @classmethod
    def of(cls, stored: Iterable[Any]) -> _Column:
        items: dict[tuple[type, Any], list[int]] = defaultdict(list)
        pairs: dict[type, list[tuple[Any, int]]] = {float: [], str: []}
        for index, value in enumerate(stored):
            for element in _values_of(value):
                items[_key(element)].append(index)
                if _kind(element) in pairs:
                    pairs[_kind(element)].append((element, index))
        ordered = {kind: sorted(found) for kind, found in pairs.items()}
        return cls(
            {key: np.array(found, dtype=np.int64) for key, found in items.items()},
            {kind: ([v for v, _ in found], np.array([i for _, i in found], dtype=np.int64)) for kind, found in ordered.items()},
        )

    def items_with(self, value: Scalar) -> NDArray[np.int64]:
        return self.value_to_items.get(_key(value), _NONE)

    def items_in(self, limits: Range) -> NDArray[np.int64]:
        values, items = self.kind_to_ordered[_range_kind(limits)]
        return items[limits.slice_of(values)]


_NONE: Final = np.zeros(0, dtype=np.int64)


def _values_of(stored: Any) -> list[Any]:
    """The values that conditions see of a stored attribute: its own, or its elements; objects, nulls and NaN are none."""
    elements = stored if isinstance(stored, list | tuple) else [stored]
    return [e for e in elements if isinstance(e, str | bool | int) or (isinstance(e, float) and math.isfinite(e))]


def _kind(value: Any) -> type:
    return bool if isinstance(value, bool) else str if isinstance(value, str) else float


def _range_kind(limits: Range) -> type:
    return str if limits.is_of_text else float


def _key(value: Any) -> tuple[type, Any]:
    """Equal for values that compare as equal: 1 and 1.0 do, 1 and true do not."""
    return _kind(value), value
