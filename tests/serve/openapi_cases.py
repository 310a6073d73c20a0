"""Requests drawn from an OpenAPI document: bodies and parameters that fit it, nearly fit it, or are nothing it says. For hypothesis."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

MAX_LIST = 4
KNOWN_IDS = ["item-00", "item-17", "item-59", "fresh", "u1"]
"""Ids that exist, so that requests get beyond the look-up."""

ODD_TEXT = st.sampled_from(
    ["", "\0", "\n", "\ud800", "\u202e", "é" * 1001, "../..", "%00", "' OR 1=1 --", "NaN", "\x7f\x1b[2J", "a" * 100_000]
)
text = st.one_of(st.sampled_from(KNOWN_IDS), st.text(max_size=12), ODD_TEXT)
anything: SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), text, st.sampled_from([10**400, -(2**63), 1e308, float("nan"), float("inf")])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)


@dataclass(frozen=True)
class Case:
    """A request as it is sent."""

    method: str
    path: str
    template: str
    query: list[tuple[str, str]] = field(default_factory=list)
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


class Cases:
    """Of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._schemas = document["components"]["schemas"]
        self._operations = [
            (method, path, operation) for path, methods in document["paths"].items() for method, operation in methods.items()
        ]

    def __len__(self) -> int:
        return len(self._operations)

    def draw(self) -> SearchStrategy[Case]:
        return st.sampled_from(range(len(self._operations))).flatmap(lambda number: self._of(*self._operations[number]))

    def _of(self, method: str, template: str, operation: dict[str, Any]) -> SearchStrategy[Case]:
        parameters = operation.get("parameters", [])
        in_path = st.fixed_dictionaries({p["name"]: text.filter(bool) for p in parameters if p["in"] == "path"})
        in_query = st.fixed_dictionaries({}, optional={p["name"]: self._mostly(p["schema"]) for p in parameters if p["in"] == "query"})
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
        body = st.none() if schema is None else st.one_of(self._mostly(schema).map(as_json), st.binary(max_size=40))
        return st.builds(lambda path, query, content: _case(method, template, path, query, content), in_path, in_query, body)

    def _mostly(self, schema: dict[str, Any]) -> SearchStrategy[Any]:
        """What fits, and now and then what does not."""
        return st.integers(0, 9).flatmap(lambda dice: anything if dice == 0 else self.fitting(schema, depth=4))

    def fitting(self, schema: dict[str, Any], *, depth: int) -> SearchStrategy[Any]:
        """Values that the schema allows, or nearly: a bound may be passed by one, a key may be missing, a value may be odd."""
        if "$ref" in schema:
            return self.fitting(self._schemas[schema["$ref"].rpartition("/")[2]], depth=depth)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                choices = schema[key] if depth > 0 else [choice for choice in schema[key] if not _is_deep(choice)] or schema[key][:1]
                return st.sampled_from(choices).flatmap(lambda chosen: self.fitting(chosen, depth=depth - 1))
        if "enum" in schema:
            return st.sampled_from(schema["enum"])
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                longest = 0 if depth <= 0 else min(schema.get("maxItems", MAX_LIST), MAX_LIST)
                return st.lists(
                    self._mostly_at(schema.get("items", {}), depth), min_size=min(schema.get("minItems", 0), longest), max_size=longest
                )
            case "string":
                return text
            case "integer":
                return st.integers(schema.get("minimum", -3) - 1, min(schema.get("maximum", 1000), 10**6) + 1)
            case "number":
                return st.floats(schema.get("minimum", -5), schema.get("maximum", 5))
            case "boolean":
                return st.booleans()
            case "null":
                return st.none()
        return anything

    def _mostly_at(self, schema: dict[str, Any], depth: int) -> SearchStrategy[Any]:
        return st.integers(0, 19).flatmap(lambda dice: anything if dice == 0 else self.fitting(schema, depth=depth - 1))

    def _object(self, schema: dict[str, Any], depth: int) -> SearchStrategy[Any]:
        if "properties" not in schema:
            return st.dictionaries(text, self._mostly_at(schema.get("additionalProperties") or {}, depth), max_size=2)
        required = set(schema.get("required", []))
        known = {name: self._mostly_at(inner, depth) for name, inner in schema["properties"].items()}
        here = {name: value for name, value in known.items() if name in required}
        return st.fixed_dictionaries(here, optional={name: value for name, value in known.items() if name not in required})


def as_json(value: Any) -> bytes:
    """As a careless client writes it: with NaN, and with halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()


def _is_deep(schema: dict[str, Any]) -> bool:
    return "$ref" in schema or schema.get("type") in ("array", "object")


def _case(method: str, template: str, path: dict[str, Any], query: dict[str, Any], content: bytes | None) -> Case:
    filled = template
    for name, value in path.items():
        filled = filled.replace(f"{{{name}}}", quote(str(value), safe="", errors="surrogatepass"))
    pairs = [(name, str(value).encode(errors="replace").decode()[:2000]) for name, value in query.items()]
    headers = {} if content is None else {"content-type": "application/json"}
    return Case(method.upper(), filled, template, pairs, content, headers)
