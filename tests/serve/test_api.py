"""The HTTP API over an in-process backend: every error is a problem answer that says what to do."""

import asyncio
import json
import re

import httpx
import pytest
from fastapi import FastAPI

from l2d_ray.decode.settings import DECODERS
from l2d_ray.errors import UnavailableError
from l2d_ray.serve.api import build_api
from l2d_ray.serve.artefacts import ServedArtefacts
from l2d_ray.serve.messages import Problem, RecommendationAnswer
from l2d_ray.serve.state_messages import ServiceStatus
from tests.serve.conftest import NUM_ENTRIES, NUM_ITEMS, backend_of, recommender_of

ROUTE = "/v1/recommendations"


@pytest.fixture
def api(artefacts: ServedArtefacts, backend) -> FastAPI:
    return build_api(recommender_of(artefacts, backend))


def send(api: FastAPI, method: str, path: str, **content) -> httpx.Response:
    async def exchange() -> httpx.Response:
        transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.request(method, path, **content)

    return asyncio.run(exchange())


def problem_in(response: httpx.Response, status: int) -> Problem:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(response.content)
    assert problem.status == status
    return problem


def test_an_answer_is_the_documented_one(api: FastAPI):
    response = send(api, "POST", ROUTE, json={"history": ["item-01"], "k": 3})
    assert response.status_code == 200
    assert len(RecommendationAnswer.model_validate_json(response.content).items) == 3
    schema = send(api, "GET", "/openapi.json").json()
    assert set(schema["paths"][ROUTE]["post"]["responses"]) == {"200", "400", "401", "403", "408", "413", "415", "422", "429", "503"}
    assert {"Problem", "RecommendationAnswer"} <= set(schema["components"]["schemas"])
    assert "HTTPValidationError" not in schema["components"]["schemas"]


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_the_documentation_needs_nothing_from_elsewhere(api: FastAPI, page: str):
    shown = send(api, "GET", page).text
    named = re.findall(r"(?:src|href)=[\"']([^\"']+)", shown)
    assert any(address.endswith(".js") for address in named)
    for address in named:
        assert address.startswith("/static-offline-docs/")
        assert send(api, "GET", address).status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"history": ["item-01", "item-02", "nope"]}, "history.2"),
        ({"history": ["item-01", 5]}, "history.1"),
        ({"history": ["item-01"], "k": 501}, "k"),
        ({"history": ["item-01"], "num_neighbors": 0}, "num_neighbors"),
        ({"history": ["item-01"], "extra": 1}, "extra"),
        ({"history": [{"title": "a\ud800b"}]}, "history.0.title"),
        ({"history": ["\ud800"]}, "history.0"),
        ({"history": ["item-01"], "\ud800": 1}, "body"),
        ([], "body"),
    ],
)
def test_a_bad_value_is_answered_with_its_path(api: FastAPI, body, field: str):
    response = send(api, "POST", ROUTE, content=json.dumps(body), headers={"content-type": "application/json"})
    problem = problem_in(response, 422)
    assert [e.field for e in problem.errors] == [field]
    assert field in problem.detail


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_is_a_bad_request(api: FastAPI, content: bytes):
    problem_in(send(api, "POST", ROUTE, content=content, headers={"content-type": "application/json"}), 400)


def test_a_form_is_told_to_be_json(api: FastAPI):
    form = {"content-type": "application/x-www-form-urlencoded"}  # what curl -d sends
    response = send(api, "POST", ROUTE, content=b'{"history": ["item-01"]}', headers=form)
    assert "Content-Type: application/json" in problem_in(response, 415).detail


def test_unknown_paths_and_methods_are_problems_too(api: FastAPI):
    assert problem_in(send(api, "GET", "/v2"), 404).title == "Not Found"
    response = send(api, "GET", ROUTE)
    problem_in(response, 405)
    assert response.headers["allow"] == "POST"


def test_health_and_readiness(api: FastAPI, backend):
    assert send(api, "GET", "/healthz").json() == {"status": "ok"}
    assert send(api, "GET", "/readyz").json() == {"status": "ok"}
    backend.missing = ["Encoder", "Shard-1"]
    response = send(api, "GET", "/readyz")
    assert "Encoder, Shard-1" in problem_in(response, 503).detail
    assert response.headers["retry-after"] == "1"
    assert send(api, "GET", "/healthz").status_code == 200


def test_status_says_what_is_served_and_what_it_holds(api: FastAPI, artefacts: ServedArtefacts):
    status = ServiceStatus.model_validate_json(send(api, "GET", "/v1/status").content)
    manifest = artefacts.manifest
    assert (status.memory_version, status.model_fingerprint, status.index_kind) == (
        manifest.memory_version,
        manifest.fingerprint,
        manifest.kind,
    )
    assert (status.decoders, status.default_decoder) == (list(DECODERS), artefacts.settings.decoder)
    assert [shard.num_entries for shard in status.shards] == list(manifest.num_entries)
    assert sum(shard.num_items for shard in status.shards) <= NUM_ITEMS
    assert status.entries_bytes == sum(manifest.entries_bytes) == sum(shard.entries_bytes for shard in status.shards) > 0
    assert status.statistics_bytes == sum(shard.statistics_bytes for shard in status.shards) > 0


def test_a_deployment_of_global_and_whitened_holds_no_entry_and_refuses_local(tiny_run, linear_artefacts: ServedArtefacts):
    linear = build_api(recommender_of(linear_artefacts, backend_of(linear_artefacts)))
    status = ServiceStatus.model_validate_json(send(linear, "GET", "/v1/status").content)
    assert (status.decoders, status.entries_bytes) == (["global", "whitened"], 0)
    assert sum(shard.num_entries for shard in status.shards) == NUM_ENTRIES
    problem = problem_in(send(linear, "POST", ROUTE, json={"history": ["item-01"], "decoder": "local"}), 422)
    assert [error.field for error in problem.errors] == ["decoder"]
    assert "'local' is not served here; name one of global, whitened" in problem.detail
    for decoder in (None, "global", "whitened"):
        answer = RecommendationAnswer.model_validate_json(
            send(linear, "POST", ROUTE, json={"history": ["item-01"], "k": 20, "decoder": decoder}).content
        )
        assert [item.item_id for item in answer.items] == tiny_run.expected_ids([1], 20, decoder=decoder)


def test_a_part_that_cannot_answer_now_is_503_with_retry_after(api: FastAPI, backend, monkeypatch: pytest.MonkeyPatch):
    async def full(*arguments):
        raise UnavailableError("As many requests are waiting as the service takes.", retry_after_s=3)

    monkeypatch.setattr(backend, "search", full)
    response = send(api, "POST", ROUTE, json={"history": ["item-01"]})
    assert "waiting" in problem_in(response, 503).detail
    assert response.headers["retry-after"] == "3"
    monkeypatch.setattr(backend, "holdings", full)
    problem_in(send(api, "GET", "/v1/status"), 503)


def test_a_fault_of_ours_is_a_problem_without_its_insides(api: FastAPI, backend, monkeypatch: pytest.MonkeyPatch):
    async def broken(*arguments):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(backend, "encode", broken)
    problem = problem_in(send(api, "POST", ROUTE, json={"history": ["item-01"]}), 500)
    assert "secret" not in problem.detail
