"""The client says what the service says, for every route; over the real API in one process."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from l2d_ray.client import Client
from l2d_ray.errors import NotFoundError, RequestError, UnavailableError
from l2d_ray.serve.access import AccessControl, make_key
from l2d_ray.serve.api import build_api
from l2d_ray.serve.messages import RecommendationAnswer, RecommendationRequest
from l2d_ray.serve.state import State
from l2d_ray.serve.state_messages import Experiment
from l2d_ray.store.open import open_store
from l2d_ray.store.records import SCOPES, Author
from tests.serve.conftest import recommender_of


class InProcess(httpx.BaseTransport):
    """Carries each request to an ASGI application on an event loop of its own."""

    def __init__(self, api: FastAPI) -> None:
        self.api = api

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def exchange() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.api, raise_app_exceptions=False)
            content = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
            response = await transport.handle_async_request(content)
            return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())

        return asyncio.run(exchange())


@pytest.fixture
def client(artefacts, backend, tmp_path: Path) -> Iterator[Client]:
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        key, text = make_key("all", frozenset(SCOPES), burst=1000)
        store.add_key(key, Author(None, "test"))
        api = build_api(recommender_of(artefacts, backend, State(store)), AccessControl(store))
        with Client("http://service", api_key=text, retries=0, transport=InProcess(api)) as client:
            yield client


def ids_of(answer: RecommendationAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_every_route_has_its_method(tiny_run, client: Client):
    assert client.is_ready()
    assert client.put_item("new/?#", "Brand New", {"year": 2031}).attributes == {"year": 2031}
    assert client.patch_item("new/?#", attributes={"year": 2032}).title == "Brand New"
    assert client.item("new/?#").attributes == {"year": 2032}
    assert [item.item_id for item in client.find_items("brand").items] == ["new/?#"]
    events = [{"event_id": "1", "user_id": "a/b", "item_id": "item-05", "timestamp": 5}]
    assert (client.add_interactions(events).num_added, client.add_interactions(events).num_known) == (1, 1)
    assert ids_of(client.recommend(user_id="a/b", k=5)) == tiny_run.expected_ids([5], 5)
    newest = client.recommend(["item-01"], filter={"attribute": "year", "equals": 2032}, exclude_item_ids=["item-02"])
    assert ids_of(newest) == ["new/?#"]
    batch = client.recommend_batch([{"history": ["item-01"], "k": 3}, RecommendationRequest(history=["item-02"], k=4)])
    assert [ids_of(answer) for answer in batch] == [tiny_run.expected_ids([1], 3), tiny_run.expected_ids([2], 4)]
    assert len(client.similar("item-09", k=4, decoder="global").items) == 4
    assert client.forget_user("a/b").num_interactions == 1
    versions = client.versions()
    assert client.activate(versions.current).is_pinned
    assert not client.activate(None).is_pinned
    experiment = Experiment.model_validate({"name": "e", "arms": [{"name": "a", "weight": 1.0}]})
    client.set_experiment(experiment)
    assert client.experiment() == experiment
    client.set_experiment(None)
    assert client.experiment() is None
    client.delete_item("new/?#")
    status = client.status()
    assert (status.status, status.num_items, status.shards_total) == ("complete", 60, 2)


def test_what_the_service_refuses_is_raised_with_its_field(client: Client):
    with pytest.raises(RequestError, match="not among") as refused:
        client.recommend(["item-01", "nope"])
    assert refused.value.field == "history.1"
    with pytest.raises(NotFoundError):
        client.similar("nope")
    with pytest.raises(RequestError) as nested:
        client.recommend(["item-01"], filter={"and": [{"attribute": "x", "equals": None}]})
    assert nested.value.field == "filter.and.0.equals"
    with Client("http://service", retries=0, transport=client._http._transport) as stranger, pytest.raises(RequestError, match="API key"):
        stranger.recommend(["item-01"])


@pytest.mark.parametrize("failure", [httpx.Response(503, headers={"Retry-After": "0"}), httpx.ConnectError("refused")])
def test_a_call_that_could_not_be_answered_is_made_again(client: Client, failure, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("l2d_ray.client.FIRST_WAIT_S", 0.0)
    answers: list[Callable[[httpx.Request], httpx.Response]] = []

    def unreliable(request: httpx.Request) -> httpx.Response:
        answers.append(client._http._transport.handle_request)
        if len(answers) < 3:
            if isinstance(failure, Exception):
                raise failure
            return failure
        return httpx.Response(200, json={"status": "ok"})

    with Client("http://service", retries=2, transport=httpx.MockTransport(unreliable)) as patient:
        patient._request("GET", "/healthz")
    assert len(answers) == 3
    answers.clear()
    with Client("http://service", retries=1, transport=httpx.MockTransport(unreliable)) as hasty, pytest.raises(UnavailableError):
        hasty.status()
    assert len(answers) == 2
