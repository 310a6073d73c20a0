"""Requests drawn from the OpenAPI document, in one process: no 5xx, no hang, every refusal a problem answer, every answer as documented.

L2D_FUZZ_CASES=10000 python -m pytest tests/serve/test_openapi.py      as many as the release is tried with
"""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, reject, settings

from l2d_ray.serve.api import build_api
from l2d_ray.serve.messages import Problem
from l2d_ray.serve.state import State
from l2d_ray.store.open import open_store
from tests.serve.conftest import recommender_of
from tests.serve.openapi_cases import Case, Cases

NUM_CASES = int(os.environ.get("L2D_FUZZ_CASES", "400"))
LONGEST_S = 20.0


@pytest.fixture
def api(artefacts, backend, tmp_path: Path) -> Iterator[FastAPI]:
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        yield build_api(recommender_of(artefacts, backend, State(store)))


def test_no_request_breaks_the_service(api: FastAPI):
    loop = asyncio.new_event_loop()
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app=api, raise_app_exceptions=False), base_url="http://service")
    document = loop.run_until_complete(client.get("/openapi.json")).json()
    cases, seen, reached = Cases(document), Counter[int](), set[tuple[str, str]]()

    async def send(case: Case) -> httpx.Response:
        request = client.request(case.method, case.path, params=case.query, content=case.content, headers=case.headers)
        return await asyncio.wait_for(request, LONGEST_S)

    @settings(
        max_examples=NUM_CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
    @given(cases.draw())
    def fuzz(case: Case) -> None:
        try:
            response = loop.run_until_complete(send(case))
        except httpx.InvalidURL:
            reject()  # longer than the client sends
        check(case, response, document)
        seen[response.status_code] += 1
        if response.is_success:
            reached.add((case.method, case.template))

    fuzz()
    loop.run_until_complete(client.aclose())
    loop.close()
    assert sum(seen.values()) >= NUM_CASES * 0.9
    assert min(seen[200], seen[422]) > NUM_CASES / 20, seen
    assert len(reached) >= min(len(cases) / 2, NUM_CASES / 10), reached


def check(case: Case, response: httpx.Response, document: dict) -> None:
    """What holds of every answer."""
    said = f"{case} -> {response.status_code} {response.text[:500]}"
    assert response.status_code < 500, said
    assert response.headers.get("x-request-id"), said
    if response.status_code == 404 and case.path != case.template and "/items/" not in case.path:
        return  # a path that is none of ours, such as one with a dot segment
    if response.is_success:
        if response.content:
            assert json.loads(response.content) is not None, said
        return
    assert response.headers.get("content-type") == "application/problem+json", said
    problem = Problem.model_validate_json(response.content)
    assert problem.status == response.status_code, said
    assert problem.detail, said
    documented = document["paths"][case.template][case.method.lower()]["responses"]
    assert str(response.status_code) in documented or response.status_code in (404, 405), said
    if response.status_code == 422:
        assert problem.errors, said
        assert all(error.field for error in problem.errors), said


async def exchange(api: FastAPI, method: str, path: str, **content) -> httpx.Response:
    transport = httpx.ASGITransport(app=api, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await asyncio.wait_for(client.request(method, path, **content), LONGEST_S)


JSON = {"content-type": "application/json"}
HISTORY = '{"history": %s}'


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (HISTORY % json.dumps(["item-01"] * 1_000_000), 413, "larger than 8388608 bytes"),
        (HISTORY % json.dumps(["item-01"] * 500_000), 422, "at most 10000 items"),
        (HISTORY % json.dumps([{"title": "x" * 10_000_000}]), 413, "larger than"),
        (HISTORY % json.dumps([{"title": "x" * 1_000_000}]), 422, "at most 1000 characters"),
        ('{"history": ["item-01"], "diversity": NaN}', 422, "diversity"),
        ('{"history": ["item-01"], "diversity": Infinity}', 422, "diversity"),
        ('{"history": ["item-01"], "boosts": [{"weight": NaN, "filter": {"attribute": "year", "equals": NaN}}]}', 422, "boosts.0"),
        ('{"history": ["item-01"], "k": 1e400}', 422, "k"),
        ('{"history": ["item-01"], "diversity": 1%s}' % ("0" * 400), 422, "diversity"),
        ('{"history": ["item-01"], "k": %s}' % ("9" * 4000), 422, "k"),
        ('{"history": ["item-01"], "k": %s}' % ("9" * 5000), 400, "body"),
        ('{"history": ["item\\u0000"]}', 422, "not among"),
        ('{"user_id": "\\u0000"}', 422, "user_id"),
        ('{"user_id": "\\ud800"}', 422, "user_id"),
        ('{"filter": ' + '{"not":' * 500 + "1" + "}" * 500 + "}", 422, "nested"),
        ("[" * 1_000_000, 400, "body"),
    ],
    ids=range(16),
)
def test_what_is_too_large_or_no_number_or_no_text_is_refused(api: FastAPI, content: str, status: int, said: str):
    response = asyncio.run(exchange(api, "POST", "/v1/recommendations", content=content, headers=JSON))
    assert response.status_code == status, response.text[:500]
    assert said in Problem.model_validate_json(response.content).detail


def test_a_body_without_a_length_is_cut_off_where_it_passes_the_limit(artefacts, backend):
    api = build_api(recommender_of(artefacts, backend), max_body_bytes=10_000)
    num_sent = 0

    async def endless():
        nonlocal num_sent
        while num_sent < 1_000_000:
            num_sent += 1000
            yield b" " * 1000

    response = asyncio.run(exchange(api, "POST", "/v1/recommendations", content=endless(), headers=JSON))
    assert response.status_code == 413
    assert Problem.model_validate_json(response.content).request_id == response.headers["x-request-id"]
    assert num_sent <= 12_000


def test_a_body_that_does_not_come_to_its_end_is_waited_for_no_longer(artefacts, backend):
    api = build_api(recommender_of(artefacts, backend), max_body_s=0.2)

    async def stopping():
        yield b'{"history": ["it'
        await asyncio.sleep(LONGEST_S)

    response = asyncio.run(exchange(api, "POST", "/v1/recommendations", content=stopping(), headers=JSON))
    assert response.status_code == 408
    assert "within 0.2 seconds" in Problem.model_validate_json(response.content).detail


@pytest.mark.parametrize(("sent", "kept"), [("abc-1/2", True), ("a" * 129, False), ("a b", False), ("", False)])
def test_a_usable_request_id_is_kept(api: FastAPI, sent: str, kept: bool):
    response = asyncio.run(exchange(api, "POST", "/v1/recommendations", json={"history": ["item-01"]}, headers={"X-Request-ID": sent}))
    assert response.json()["request_id"] == response.headers["x-request-id"]
    assert (response.headers["x-request-id"] == sent) is kept
