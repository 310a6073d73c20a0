"""A small synchronous client of the HTTP service. It needs httpx and pydantic alone: no Ray, torch or model.

with Client("http://127.0.0.1:8000") as client:
    answer = client.recommend([{"title": "Heat (1995)"}, "item-7"], k=20)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final

import httpx
from pydantic import ValidationError

from l2d_ray.decode.settings import DecoderName
from l2d_ray.errors import RequestError, UnavailableError
from l2d_ray.serve.messages import Problem, RecommendationAnswer

DEFAULT_URL: Final = "http://127.0.0.1:8000"
"""Where `make serve` listens."""


class Client:
    """Connection to a service; close it, or use it in a ``with`` statement.

    Args:
        base_url: where the service listens.
        timeout_s: longest wait for an answer.
    """

    def __init__(self, base_url: str = DEFAULT_URL, *, timeout_s: float = 30.0) -> None:
        self._http = httpx.Client(base_url=base_url, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def recommend(
        self,
        history: Sequence[str | Mapping[str, str]],
        *,
        k: int | None = None,
        decoder: DecoderName | None = None,
        num_neighbors: int | None = None,
        exclude_history: bool = True,
    ) -> RecommendationAnswer:
        """The best items after a history, oldest first, of item_ids and ``{"title": ...}``.

        What is None is left to the service. Raises RequestError for what the service refuses, with the field's path, and
        UnavailableError where it cannot be reached or cannot answer now.
        """
        wanted = {"k": k, "decoder": decoder, "num_neighbors": num_neighbors}
        body = {"history": list(history), "exclude_history": exclude_history} | {n: v for n, v in wanted.items() if v is not None}
        response = self._request("POST", "/v1/recommendations", body)
        try:
            return RecommendationAnswer.model_validate_json(response.content)
        except ValidationError as error:
            raise UnavailableError(f"{self._http.base_url} does not answer as l2d_ray does: {error.error_count()} fields differ.") from None

    def is_ready(self) -> bool:
        """Whether the service can answer requests now; False also where nothing listens."""
        try:
            self._request("GET", "/readyz")
        except UnavailableError:
            return False
        return True

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> httpx.Response:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise UnavailableError(
                f"No answer from {self._http.base_url} ({error or type(error).__name__}); start the service with `make serve`."
            ) from error
        if not response.is_success:
            raise _error_of(response)
        return response


def _error_of(response: httpx.Response) -> RequestError | UnavailableError:
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return UnavailableError(f"{response.url} answered {response.status_code}: {response.text[:200]!r}; is it a service of l2d_ray?")
    if response.is_client_error:
        first = problem.errors[0] if problem.errors else None
        return RequestError(first.field if first else "body", problem.detail)
    retry_after = response.headers.get("Retry-After", "")
    return UnavailableError(problem.detail, int(retry_after) if retry_after.isdigit() else None)
