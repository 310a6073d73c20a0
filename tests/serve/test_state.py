"""Users, items, versions and experiments over HTTP and a real store: what is written is seen by the next request of anybody."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from l2d_ray.serve.access import AccessControl, make_key
from l2d_ray.serve.api import build_api
from l2d_ray.serve.messages import RecommendationAnswer
from l2d_ray.serve.state import State
from l2d_ray.serve.state_messages import Item, ServiceStatus
from l2d_ray.store.interface import StateStore
from l2d_ray.store.open import open_store
from l2d_ray.store.records import SCOPES, Author
from tests.serve.conftest import NUM_ITEMS, InProcessBackend, recommender_of
from tests.serve.test_api import problem_in, send

RECOMMEND = "/v1/recommendations"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    with open_store(f"sqlite://{tmp_path}/state.db") as store:
        yield store


@pytest.fixture
def api(artefacts, backend, store: StateStore) -> FastAPI:
    return build_api(recommender_of(artefacts, backend, State(store)))


def event(number: int, user_id: str, item_id: str, timestamp: int | None = None) -> dict[str, Any]:
    return {"event_id": f"e{number}", "user_id": user_id, "item_id": item_id, "timestamp": number if timestamp is None else timestamp}


def post(api: FastAPI, path: str, body: Any) -> httpx.Response:
    return send(api, "POST", path, json=body)


def recommended(api: FastAPI, **body: Any) -> RecommendationAnswer:
    response = post(api, RECOMMEND, body)
    assert response.status_code == 200, response.text
    return RecommendationAnswer.model_validate_json(response.content)


def ids_of(answer: RecommendationAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_a_user_s_next_request_sees_what_was_acknowledged(tiny_run, api: FastAPI):
    problem = problem_in(post(api, RECOMMEND, {"user_id": "ann"}), 422)
    assert [error.field for error in problem.errors] == ["user_id"]
    history: list[int] = []
    for number, item in enumerate([3, 17, 41]):
        response = post(api, "/v1/interactions", {"events": [event(number, "ann", f"item-{item:02d}")]})
        assert (response.status_code, response.json()) == (200, {"num_added": 1, "num_known": 0})
        history.append(item)
        answer = recommended(api, user_id="ann", k=20)
        assert ids_of(answer) == tiny_run.expected_ids(history, 20)
    session = recommended(api, user_id="ann", history=["item-05", {"title": "Über die Brücke"}], k=20)
    assert ids_of(session) == tiny_run.expected_ids([*history, 5, "Über die Brücke"], 20)


def test_an_event_sent_again_changes_nothing_and_a_bad_one_stores_none(api: FastAPI, store: StateStore):
    events = [event(1, "bob", "item-01"), event(2, "bob", "item-02")]
    assert post(api, "/v1/interactions", {"events": events}).json() == {"num_added": 2, "num_known": 0}
    assert post(api, "/v1/interactions", {"events": [*events, event(3, "bob", "item-03")]}).json() == {"num_added": 1, "num_known": 2}
    for wrong, field in [
        (event(4, "bob", "nope"), "events.1.item_id"),
        (event(4, "bob", "item-04", timestamp=1_700_000_000_000), "events.1.timestamp"),
        (event(4, "a\0b", "item-04"), "events.1.user_id"),
        (event(1, "bob", "item-05"), "events.1.event_id"),
    ]:
        problem = problem_in(post(api, "/v1/interactions", {"events": [event(9, "bob", "item-09"), wrong]}), 422)
        assert [error.field for error in problem.errors] == [field]
    assert [one.item_id for one in store.histories(["bob"])["bob"]] == ["item-01", "item-02", "item-03"]


def test_a_forgotten_user_is_unknown_at_once_and_waits_to_leave_the_memory(api: FastAPI):
    post(api, "/v1/interactions", {"events": [event(1, "a/b c", "item-01"), event(2, "a/b c", "item-02")]})
    assert send(api, "DELETE", "/v1/users/a/b%20c").json() == {"num_interactions": 2}
    problem_in(post(api, RECOMMEND, {"user_id": "a/b c"}), 422)
    status = ServiceStatus.model_validate_json(send(api, "GET", "/v1/status").content)
    assert status.backlog is not None
    assert (status.backlog.num_interactions, status.backlog.num_forgotten) == (0, 1)


def test_pages_of_a_user_stay_together_while_the_user_moves_on(tiny_run, api: FastAPI):
    post(api, "/v1/interactions", {"events": [event(1, "cas", "item-01"), event(2, "cas", "item-02")]})
    first = recommended(api, user_id="cas", k=8)
    post(api, "/v1/interactions", {"events": [event(3, "cas", first.items[0].item_id)]})
    second = recommended(api, user_id="cas", k=8, cursor=first.next_cursor)
    assert ids_of(first) + ids_of(second) == tiny_run.expected_ids([1, 2], 16)


def test_a_new_item_is_recommended_at_once_by_every_decoder_and_leaves_when_deleted(tiny_run, api: FastAPI):
    item = {"title": "The Red River (1951)", "attributes": {"year": 2030, "tags": ["new", 1, True]}}
    put = send(api, "PUT", "/v1/items/fresh%2F1", json=item)
    assert (put.status_code, put.json()) == (200, {"item_id": "fresh/1", **item})
    assert Item.model_validate(send(api, "GET", "/v1/items/fresh/1").json()).title == item["title"]
    newest = {"attribute": "year", "equals": 2030}
    for decoder in ("global", "local", "whitened"):
        answer = recommended(api, history=["item-01"], k=500, decoder=decoder)
        assert "fresh/1" in ids_of(answer)
        others = [one for one in ids_of(answer) if one != "fresh/1"]
        assert others == tiny_run.expected_ids([1], 500, decoder=decoder)
        assert ids_of(recommended(api, history=["item-01"], filter=newest, decoder=decoder)) == ["fresh/1"]
        assert "fresh/1" not in ids_of(recommended(api, history=["item-01"], filter={"not": newest}, k=500, decoder=decoder))
        assert "fresh/1" not in ids_of(recommended(api, history=["fresh/1"], k=500, decoder=decoder))
    assert ids_of(recommended(api, history=["item-01"], candidate_item_ids=["fresh/1", "item-02"], k=5, decoder="global")) != []
    assert send(api, "GET", "/v1/items/fresh/1/similar?k=3").status_code == 200
    assert send(api, "DELETE", "/v1/items/fresh/1").status_code == 204
    assert "fresh/1" not in ids_of(recommended(api, history=["item-01"], k=500))
    problem_in(send(api, "DELETE", "/v1/items/fresh/1"), 404)
    assert ids_of(recommended(api, history=["fresh/1", "item-01"], k=5))


def test_a_new_item_stands_where_its_title_s_state_puts_it(tiny_run, api: FastAPI, artefacts):
    """Without a title map it is represented by the mean of all entries: its score is that of the formula."""
    send(api, "PUT", "/v1/items/fresh", json={"title": "Something Else"})
    (item,) = recommended(api, history=["item-03"], candidate_item_ids=["fresh"], decoder="global").items
    query = tiny_run.oracle.encode([[3]])[0]
    assert item.score == pytest.approx(-float(np.linalg.norm(query - artefacts.index.pooled().mean.astype(np.float32))), rel=1e-5)


def test_edits_of_items_show_in_answers_filters_search_and_prompts(tiny_run, api: FastAPI):
    patched = send(api, "PATCH", "/v1/items/item-07", json={"title": "Quiet  Harbour", "attributes": {"year": None, "mood": "calm"}})
    assert patched.json()["title"] == "Quiet Harbour"
    assert set(patched.json()["attributes"]) == {"words", "is_sequel", "mood"}
    assert ids_of(recommended(api, history=["item-01"], filter={"attribute": "mood", "equals": "calm"})) == ["item-07"]
    found = send(api, "GET", "/v1/items?query=quiet har").json()
    assert ([item["item_id"] for item in found["items"]], found["num_found"]) == (["item-07"], 1)
    by_id = recommended(api, history=["item-07"], k=60, exclude_history=False)
    assert ids_of(by_id) == tiny_run.expected_ids(["Quiet Harbour"], 60, exclude_history=False)
    old = tiny_run.catalogue.titles[7]
    assert send(api, "GET", "/v1/items", params={"query": old}).json()["num_found"] in (0, 1)  # the sequel at most
    send(api, "DELETE", "/v1/items/item-07")
    assert "item-07" not in ids_of(recommended(api, history=["item-01"], k=500))
    assert send(api, "GET", "/v1/items?query=quiet").json()["num_found"] == 0
    problem_in(send(api, "PATCH", "/v1/items/item-07", json={"title": "x"}), 404)
    restored = send(api, "PUT", "/v1/items/item-07", json={"title": old})
    assert restored.json()["attributes"] == {}
    assert ids_of(recommended(api, history=["item-01"], k=500)) == tiny_run.expected_ids([1], 500)


@pytest.mark.parametrize(
    ("query", "first"),
    [("the red river (1950)", "item-00"), ("RED riv", "item-00"), ("return red", "item-36"), ("lost", "item-06"), ("1985", "item-35")],
)
def test_search_finds_titles_by_the_beginnings_of_words(api: FastAPI, query: str, first: str):
    assert send(api, "GET", "/v1/items", params={"query": query}).json()["items"][0]["item_id"] == first


def test_search_pages_through_the_catalogue(api: FastAPI):
    seen: list[str] = []
    while page := send(api, "GET", f"/v1/items?limit=25&offset={len(seen)}").json()["items"]:
        seen += [item["item_id"] for item in page]
    assert seen == [f"item-{number:02d}" for number in range(NUM_ITEMS)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"title": ""}, "title"),
        ({"title": "\n\t "}, "title"),
        ({"title": "x" * 1001}, "title"),
        ({"title": "x", "attributes": {"a": None}}, "attributes.a"),
        ({"title": "x", "attributes": {"a": {"b": 1}}}, "attributes.a"),
        ({"title": "x", "attributes": {"a": [1, [2]]}}, "attributes.a.1"),
        ({"title": "x", "attributes": {"": 1}}, 'attributes."".'),
        ({"titel": "x"}, "title"),
    ],
)
def test_a_bad_item_is_refused_with_the_field(api: FastAPI, body: dict[str, Any], field: str):
    problem = problem_in(send(api, "PUT", "/v1/items/x", json=body), 422)
    assert problem.errors[0].field.startswith(field)


def two_versions(backend: InProcessBackend, artefacts) -> Sequence[int]:
    """The same index under two version numbers."""
    version = artefacts.manifest.memory_version
    backend.version_to_searchers = {version: backend.version_to_searchers[version], version + 1: backend.version_to_searchers[version]}
    backend.served = InProcessBackend(backend.encoder, backend.version_to_searchers).served
    return version, version + 1


def test_versions_are_listed_and_one_call_goes_back(api: FastAPI, backend, artefacts):
    old, new = two_versions(backend, artefacts)
    assert send(api, "GET", "/v1/versions").json() == {"versions": [old, new], "current": new, "is_pinned": False}
    back = send(api, "PUT", "/v1/versions/current", json={"version": old})
    assert back.json() == {"versions": [old, new], "current": old, "is_pinned": True}
    assert recommended(api, history=["item-01"]).memory_version == old
    problem = problem_in(send(api, "PUT", "/v1/versions/current", json={"version": new + 5}), 422)
    assert [error.field for error in problem.errors] == ["version"]
    assert send(api, "PUT", "/v1/versions/current", json={"version": None}).json()["current"] == new


def test_an_experiment_keeps_users_in_their_arms_and_says_which(tiny_run, api: FastAPI):
    arms = [{"name": "near", "weight": 1.0, "decoder": "local", "num_neighbors": 25}, {"name": "plain", "weight": 1.0, "decoder": "global"}]
    assert send(api, "GET", "/v1/experiment").json() == {"experiment": None}
    for wrong, field in [({"decoder": "beam"}, "arms.0.decoder"), ({"memory_version": 99}, "arms.0.memory_version")]:
        body = {"name": "first", "arms": [arms[0] | wrong]}
        assert problem_in(send(api, "PUT", "/v1/experiment", json=body), 422).errors[0].field == field
    assert send(api, "PUT", "/v1/experiment", json={"name": "first", "arms": arms}).status_code == 200
    users = [f"user-{number}" for number in range(12)]
    post(api, "/v1/interactions", {"events": [event(number, user, "item-04") for number, user in enumerate(users)]})
    seen: dict[str, str] = {}
    for user in users * 2:
        answer = recommended(api, user_id=user, k=10)
        assert answer.experiment is not None
        assert answer.experiment.name == "first"
        assert seen.setdefault(user, answer.experiment.arm) == answer.experiment.arm
        options = {"decoder": "local", "num_neighbors": 25} if answer.experiment.arm == "near" else {"decoder": "global"}
        assert ids_of(answer) == tiny_run.expected_ids([4], 10, **options)
    assert set(seen.values()) == {"near", "plain"}
    assert recommended(api, history=["item-04"]).experiment is None
    assert recommended(api, user_id="user-1", decoder="whitened").experiment is None
    assert send(api, "DELETE", "/v1/experiment").json() == {"experiment": None}
    assert recommended(api, user_id="user-1").experiment is None


def test_another_process_s_writes_are_seen_too(api: FastAPI, artefacts, backend, store: StateStore, tmp_path: Path):
    with open_store(f"sqlite://{tmp_path}/state.db") as shared:
        other = build_api(recommender_of(artefacts, backend, State(shared)))
        send(other, "PUT", "/v1/items/elsewhere", json={"title": "Elsewhere"})
        post(other, "/v1/interactions", {"events": [event(1, "dora", "elsewhere")]})
    assert "elsewhere" in ids_of(recommended(api, history=["item-01"], k=500))
    assert "elsewhere" not in ids_of(recommended(api, user_id="dora", k=500))


def test_scopes_are_kept_apart(artefacts, backend, store: StateStore):
    api = build_api(recommender_of(artefacts, backend, State(store)), AccessControl(store))
    texts = {}
    for scope in SCOPES:
        key, texts[scope] = make_key(scope, frozenset({scope}))
        store.add_key(key, Author(None, "test"))
    calls = [
        ("read", "POST", RECOMMEND, {"history": ["item-01"]}),
        ("read", "POST", f"{RECOMMEND}/batch", {"requests": [{"history": ["item-01"]}]}),
        ("read", "GET", "/v1/items/item-01/similar", None),
        ("read", "GET", "/v1/items", None),
        ("read", "GET", "/v1/items/item-01", None),
        ("read", "GET", "/v1/status", None),
        ("read", "GET", "/v1/versions", None),
        ("read", "GET", "/v1/experiment", None),
        ("write", "PUT", "/v1/items/x", {"title": "x"}),
        ("write", "PATCH", "/v1/items/x", {"title": "y"}),
        ("write", "DELETE", "/v1/items/x", None),
        ("write", "POST", "/v1/interactions", {"events": [event(1, "u", "item-01")]}),
        ("write", "DELETE", "/v1/users/u", None),
        ("admin", "PUT", "/v1/versions/current", {"version": None}),
        ("admin", "PUT", "/v1/experiment", {"name": "e", "arms": [{"name": "a", "weight": 1.0}]}),
        ("admin", "DELETE", "/v1/experiment", None),
    ]
    for needed, method, path, body in calls:
        problem_in(send(api, method, path, json=body), 401)
        for scope, text in texts.items():
            response = send(api, method, path, json=body, headers={"Authorization": f"Bearer {text}"})
            assert response.status_code == 403 if scope != needed else response.is_success, (method, path, scope, response.text)
    paths = send(api, "GET", "/openapi.json").json()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert len(described) == len(calls) + 2  # and the two that say whether it lives


def test_without_a_store_what_needs_one_says_so(artefacts, backend):
    api = build_api(recommender_of(artefacts, backend))
    problem = problem_in(post(api, RECOMMEND, {"user_id": "u"}), 422)
    assert [error.field for error in problem.errors] == ["user_id"]
    assert "state_url" in problem_in(send(api, "PUT", "/v1/items/x", json={"title": "x"}), 503).detail
    assert ServiceStatus.model_validate_json(send(api, "GET", "/v1/status").content).backlog is None


def test_title_states_of_items_that_wait_are_encoded_once(api: FastAPI, backend, monkeypatch: pytest.MonkeyPatch):
    prompts: list[int] = []
    original = backend.encode

    async def counted(asked, deadline):
        prompts.append(len(asked))
        return await original(asked, deadline)

    monkeypatch.setattr(backend, "encode", counted)
    send(api, "PUT", "/v1/items/a", json={"title": "One"})
    send(api, "PUT", "/v1/items/b", json={"title": "Two"})
    assert prompts == [1, 1]
    recommended(api, history=["item-01"])
    send(api, "PATCH", "/v1/items/a", json={"attributes": {"x": 1}})
    recommended(api, history=["item-01"])
    assert prompts == [1, 1, 1, 1]
    send(api, "PATCH", "/v1/items/a", json={"title": "Three"})
    assert prompts == [1, 1, 1, 1, 1]
