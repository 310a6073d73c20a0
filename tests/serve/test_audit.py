"""The audit log's lines: every attempt to write, how it ended, and nothing that a body or a path has said."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from fastapi import Depends, FastAPI

from l2d_ray.errors import RequestError
from l2d_ray.serve import problems
from l2d_ray.serve.access import AccessControl, Caller, make_key
from l2d_ray.serve.audit import AuditLog, AuditMiddleware
from l2d_ray.store.open import open_store
from l2d_ray.store.records import Author


class RequestIds:
    """Sets the id of every request, as the service does."""

    def __init__(self, app) -> None:
        self._app = app

    async def __call__(self, scope, receive, send) -> None:
        scope.setdefault("state", {})["request_id"] = "request-1"
        await self._app(scope, receive, send)


def service(access: AccessControl, log) -> FastAPI:
    api = FastAPI()
    problems.install(api)
    api.add_middleware(AuditMiddleware, log=log)
    api.add_middleware(RequestIds)
    write, read = Depends(access.require("write")), Depends(access.require("read"))

    @api.put("/v1/items/{item_id}")
    async def put(item_id: str, caller: Caller = write) -> str:
        match item_id:
            case "refused":
                raise RequestError("item_id", "no")
            case "failed":
                raise ValueError("a fault of ours")
        return "done"

    @api.post("/v1/recommendations")
    async def recommend(caller: Caller = read) -> str:
        return "done"

    return api


@pytest.fixture
def keys(tmp_path):
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        made = {scope: make_key(scope, frozenset({scope})) for scope in ("read", "write")}
        for key, _ in made.values():
            store.add_key(key, Author(None, "test"))
        yield AccessControl(store), {scope: text for scope, (_, text) in made.items()}


def test_one_line_a_write_however_it_ended_and_none_for_what_reads(keys):
    access, texts = keys
    lines: list[str] = []
    api = service(access, lines.append)

    async def visit() -> None:
        transport = httpx.ASGITransport(api, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for item_id, text in (("secret-id", "write"), ("refused", "write"), ("failed", "write"), ("x", "read")):
                body = {"title": "A secret title"}
                await client.put(f"/v1/items/{item_id}", json=body, headers={"Authorization": f"Bearer {texts[text]}"})
            await client.put("/v1/items/x")
            await client.post("/v1/recommendations", headers={"Authorization": f"Bearer {texts['read']}"})
            await client.get("/v1/nothing")

    asyncio.run(visit())
    entries = [json.loads(line) for line in lines]
    assert [(e["status"], e["outcome"]) for e in entries] == [
        (200, "done"),
        (422, "refused"),
        (500, "failed"),
        (403, "refused"),
        (401, "refused"),
    ]
    key_id = texts["write"].split("_")[1]
    assert [e["key_id"] for e in entries] == [key_id, key_id, key_id, None, None]
    assert {(e["audit"], e["scope"], e["request_id"]) for e in entries} == {("PUT /v1/items/{item_id}", "write", "request-1")}
    assert "secret" not in "".join(lines)


def test_lines_of_many_writers_stay_whole_and_the_file_may_be_moved_away(tmp_path):
    path = tmp_path / "audit.jsonl"
    logs = [AuditLog(path) for _ in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: logs[n % 4](json.dumps({"n": n, "pad": "x" * 3000})), range(200)))
    assert sorted(json.loads(line)["n"] for line in path.read_text().splitlines()) == list(range(200))
    assert path.stat().st_mode & 0o077 == 0
    path.rename(tmp_path / "audit.1.jsonl")
    logs[0]("{}")
    assert path.read_text() == "{}\n"


def test_without_a_file_the_lines_go_to_stderr(capsys):
    AuditLog()('{"a": 1}')
    assert capsys.readouterr().err == '{"a": 1}\n'
