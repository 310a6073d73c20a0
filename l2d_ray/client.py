"""A synchronous client of the HTTP service, with a method for every route. It needs httpx and pydantic alone: no Ray, torch or model.

    with Client("http://127.0.0.1:8000", api_key="l2d_...") as client:
        client.add_interactions([{"event_id": "e1", "user_id": "ann", "item_id": "item-7", "timestamp": 1700000000}])
        answer = client.recommend(user_id="ann", k=20, filter={"attribute": "year", "range": {"gte": 1990}})
        again = client.recommend([{"title": "Heat (1995)"}, "item-7"], explain=True)

Every method raises RequestError for what the service refuses, with the field's path (NotFoundError where there is no such thing), and
UnavailableError where it cannot be reached or cannot answer now. All calls may be made again without harm, so a call that could not be
answered is made again ``retries`` times.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, TypedDict, TypeVar, Unpack
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from l2d_ray.decode.settings import DecoderName
from l2d_ray.errors import NotFoundError, RequestError, UnavailableError
from l2d_ray.serve.messages import BatchAnswer, Problem, RecommendationAnswer, RecommendationRequest
from l2d_ray.serve.state_messages import (
    Experiment,
    ForgottenAnswer,
    FoundItems,
    InteractionsAnswer,
    Item,
    RunningExperiment,
    ServiceStatus,
    VersionsAnswer,
)
from l2d_ray.serve.wire import Message

DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""Where `make serve` listens."""
FIRST_WAIT_S: Final = 0.2
MOST_WAIT_S: Final = 5.0

Answer = TypeVar("Answer", bound=Message)
HistoryItem = str | Mapping[str, Any]
"""An item_id, or ``{"title": ...}``."""


class RankingOptions(TypedDict, total=False):
    """What every request for ranked items may say; see ``serve.messages.RankingOptions``. What is left out is left to the service."""

    k: int
    decoder: DecoderName | None
    num_neighbors: int | None
    diversity: float
    timeout_ms: int | None
    require_complete: bool


class RecommendationOptions(RankingOptions, total=False):
    """What a request for recommendations may say beside its history; see ``serve.messages.RecommendationRequest``."""

    user_id: str | None
    exclude_history: bool
    exclude_item_ids: Sequence[str]
    candidate_item_ids: Sequence[str] | None
    filter: Mapping[str, Any] | None
    boosts: Sequence[Mapping[str, Any]]
    explain: bool
    cursor: str | None


class Client:
    """Connection to a service; close it, or use it in a ``with`` statement.

    Args:
        base_url: where the service listens.
        api_key: sent with every request; None where the service asks for none.
        timeout_s: longest wait for an answer.
        retries: how often a call is made again, with growing waits, where the service cannot be reached or answers 429 or 503.
        transport: carries the requests in place of the network.
    """

    def __init__(
        self,
        base_url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 2,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout_s, transport=transport)
        self._retries = retries

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def recommend(self, history: Sequence[HistoryItem] = (), **options: Unpack[RecommendationOptions]) -> RecommendationAnswer:
        """The best items after a history, oldest first, or after that of a ``user_id``."""
        return self._call(RecommendationAnswer, "POST", "/v1/recommendations", {"history": list(history), **options})

    def recommend_batch(self, requests: Sequence[Mapping[str, Any] | RecommendationRequest]) -> list[RecommendationAnswer]:
        """The answers to requests with the fields of ``recommend``, in their order."""
        bodies = [_body_of(request) for request in requests]
        return self._call(BatchAnswer, "POST", "/v1/recommendations/batch", {"requests": bodies}).answers

    def similar(self, item_id: str, **options: Unpack[RankingOptions]) -> RecommendationAnswer:
        """Items that follow where the item stands."""
        wanted = {name: value for name, value in options.items() if value is not None}
        return self._call(RecommendationAnswer, "GET", f"{_item_path(item_id)}/similar", query=wanted)

    def find_items(self, query: str = "", *, limit: int = 20, offset: int = 0) -> FoundItems:
        """Items whose titles have words that begin as the query's do."""
        return self._call(FoundItems, "GET", "/v1/items", query={"query": query, "limit": limit, "offset": offset})

    def item(self, item_id: str) -> Item:
        return self._call(Item, "GET", _item_path(item_id))

    def put_item(self, item_id: str, title: str, attributes: Mapping[str, Any] | None = None) -> Item:
        """Make or replace an item."""
        return self._call(Item, "PUT", _item_path(item_id), {"title": title, "attributes": dict(attributes or {})})

    def patch_item(self, item_id: str, *, title: str | None = None, attributes: Mapping[str, Any] | None = None) -> Item:
        """Change the title where one is given, and the attributes named; the value None removes one."""
        return self._call(Item, "PATCH", _item_path(item_id), {"title": title, "attributes": dict(attributes or {})})

    def delete_item(self, item_id: str) -> None:
        """Let an item be recommended no more."""
        self._request("DELETE", _item_path(item_id))

    def add_interactions(self, events: Sequence[Mapping[str, Any]]) -> InteractionsAnswer:
        """Store events (event_id, user_id, item_id, timestamp); they are on disk when this returns."""
        return self._call(InteractionsAnswer, "POST", "/v1/interactions", {"events": [dict(event) for event in events]})

    def forget_user(self, user_id: str) -> ForgottenAnswer:
        return self._call(ForgottenAnswer, "DELETE", f"/v1/users/{quote(user_id, safe='')}")

    def status(self) -> ServiceStatus:
        return self._call(ServiceStatus, "GET", "/v1/status")

    def versions(self) -> VersionsAnswer:
        return self._call(VersionsAnswer, "GET", "/v1/versions")

    def activate(self, version: int | None) -> VersionsAnswer:
        """Answer from this memory version until told otherwise; None: from the newest, always."""
        return self._call(VersionsAnswer, "PUT", "/v1/versions/current", {"version": version})

    def experiment(self) -> Experiment | None:
        return self._call(RunningExperiment, "GET", "/v1/experiment").experiment

    def set_experiment(self, experiment: Experiment | None) -> None:
        """Begin or change the experiment; None ends it."""
        if experiment is None:
            self._request("DELETE", "/v1/experiment")
        else:
            self._request("PUT", "/v1/experiment", experiment.model_dump(mode="json"))

    def is_ready(self) -> bool:
        """Whether the service can answer requests now; False also where nothing listens."""
        try:
            self._once("GET", "/readyz")
        except UnavailableError:
            return False
        return True

    def _call(
        self, kind: type[Answer], method: str, path: str, body: Mapping[str, Any] | None = None, *, query: Mapping[str, Any] | None = None
    ) -> Answer:
        response = self._request(method, path, body, query)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise UnavailableError(f"{self._http.base_url} does not answer as l2d_ray does: {error.error_count()} fields differ.") from None

    def _request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        for attempt in range(self._retries):
            try:
                return self._once(method, path, body, query)
            except UnavailableError as error:
                time.sleep(min(max(FIRST_WAIT_S * 2**attempt, error.retry_after_s or 0), MOST_WAIT_S))
        return self._once(method, path, body, query)

    def _once(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body, params=query)
        except httpx.TransportError as error:
            raise UnavailableError(
                f"No answer from {self._http.base_url} ({error or type(error).__name__}); start the service with `make serve`."
            ) from error
        if not response.is_success:
            raise _error_of(response)
        return response


def _body_of(request: Mapping[str, Any] | RecommendationRequest) -> dict[str, Any]:
    return request.model_dump(mode="json") if isinstance(request, RecommendationRequest) else dict(request)


def _item_path(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"


def _error_of(response: httpx.Response) -> RequestError | UnavailableError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return UnavailableError(f"{response.url} answered {response.status_code}: {response.text[:200]!r}; is it a service of l2d_ray?")
    if response.is_client_error and response.status_code != httpx.codes.TOO_MANY_REQUESTS:
        field = problem.errors[0].field if problem.errors else "body"
        kind = NotFoundError if response.status_code == httpx.codes.NOT_FOUND else RequestError
        return kind(field, problem.detail)
    retry_after = response.headers.get("Retry-After", "")
    return UnavailableError(problem.detail, int(retry_after) if retry_after.isdigit() else None)
