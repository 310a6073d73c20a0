"""The service on a real Ray cluster over real HTTP gives the oracle's ids, alone and in batches, and answers bad input in problems."""

import itertools
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from ray import serve

from l2d_ray.client import Client
from l2d_ray.decode.settings import DECODERS
from l2d_ray.errors import ArtefactError, RequestError, UnavailableError
from l2d_ray.serve.arguments import ServeArguments
from l2d_ray.serve.edge import MAX_BODY_S
from l2d_ray.serve.messages import Problem, RecommendationAnswer
from l2d_ray.serve.on_ray import build_app
from l2d_ray.serve.state_messages import ServiceStatus
from tests.clusters import serving_cluster, unused_port

pytestmark = pytest.mark.slow
ROUTE = "/v1/recommendations"
HEAD = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def service(tiny_run) -> Iterator[str]:
    """URL of the service; at /small the same with room for one request and without the decoders that need entries or pairs."""
    arguments = ServeArguments(checkpoint_dir=tiny_run.checkpoint_dir, index_dir=tiny_run.index_dir, device="cpu", access_control=False)
    small = arguments.model_copy(update={"max_requests": 1, "decoders": ("global", "whitened")})
    port = unused_port()
    with serving_cluster(port, num_cpus=8, logging_level="ERROR"):
        serve.run(build_app(arguments), name="l2d_ray")
        serve.run(build_app(small), name="small", route_prefix="/small")
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    with Client(service) as client:
        yield client


def ids_of(answer: RecommendationAnswer) -> list[str]:
    return [item.item_id for item in answer.items]


def test_served_ids_are_the_oracle_s(tiny_run, client: Client):
    num_checked = 0
    for number, history in enumerate(tiny_run.histories(30, seed=3)):
        sent = tiny_run.as_sent(history, by_title=number % 3 == 0)
        for decoder, exclude in itertools.product(DECODERS, (True, False)):
            k = (1, 10, 60, 500)[number % 4]
            answer = client.recommend(sent, k=k, decoder=decoder, num_neighbors=40, exclude_history=exclude)
            expected = tiny_run.expected_ids(history, k, decoder=decoder, num_neighbors=40, exclude_history=exclude)
            assert ids_of(answer) == expected
            num_checked += len(expected)
    assert num_checked > 2000


def test_requests_at_once_get_their_own_answers(tiny_run, client: Client):
    histories = tiny_run.histories(16, seed=4)
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda history: client.recommend(tiny_run.as_sent(history), k=20), histories))
    assert [ids_of(answer) for answer in answers] == [tiny_run.expected_ids(history, 20) for history in histories]


def test_health_readiness_and_documentation(service: str, client: Client):
    for path in ("/healthz", "/readyz"):
        response = httpx.get(service + path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert client.is_ready()
    assert "swagger" in httpx.get(service + "/docs").text
    assert ROUTE in httpx.get(service + "/openapi.json").json()["paths"]


def test_status_says_what_each_deployment_holds(tiny_run, service: str):
    whole, small = (
        ServiceStatus.model_validate_json(httpx.get(f"{service}{prefix}/v1/status").raise_for_status().content) for prefix in ("", "/small")
    )
    assert [shard.num_entries for shard in whole.shards] == [shard.num_entries for shard in small.shards]
    assert whole.entries_bytes > small.entries_bytes == 0
    assert whole.statistics_bytes >= small.statistics_bytes > 0
    refused = httpx.post(f"{service}/small{ROUTE}", json={"history": ["item-01"], "decoder": "local"})
    assert (refused.status_code, "'local' is not served here" in refused.text) == (422, True)
    answered = httpx.post(f"{service}/small{ROUTE}", json={"history": ["item-01"], "decoder": "global"})
    assert ids_of(RecommendationAnswer.model_validate_json(answered.content)) == tiny_run.expected_ids([1], 10, decoder="global")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"history": ["item-01", {"title": "New"}, "nope"]}, "history.2"),
        ({"history": []}, "history"),
        ({"history": ["item-01"], "k": 501}, "k"),
        ({"history": ["item-01"], "num_neighbors": 100_001}, "num_neighbors"),
        ({"history": ["item-01"], "decoder": "beam"}, "decoder"),
    ],
)
def test_bad_input_is_a_problem_with_the_field(service: str, body, field: str):
    response = httpx.post(service + ROUTE, json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert [e.field for e in Problem.model_validate_json(response.content).errors] == [field]


def test_the_client_raises_what_the_service_refuses(client: Client):
    with pytest.raises(RequestError, match="'nope' is not among the 60 items") as caught:
        client.recommend(["nope"])
    assert caught.value.field == "history.0"
    with Client(f"http://127.0.0.1:{unused_port()}") as nowhere:
        assert not nowhere.is_ready()
        with pytest.raises(UnavailableError, match="make serve"):
            nowhere.recommend(["item-01"])


def test_more_requests_than_there_is_room_for_are_refused_not_kept_waiting(tiny_run, service: str):
    body = {"history": ["item-01"], "k": 5}
    with ThreadPoolExecutor(48) as threads, httpx.Client(limits=httpx.Limits(max_connections=48), timeout=30) as http:
        answers = list(threads.map(lambda _: http.post(f"{service}/small{ROUTE}", json=body), range(96)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < len(answers)
    assert {(answer.status_code, answer.headers["retry-after"]) for answer in refused} == {(503, "1")}
    assert {tuple(ids_of(RecommendationAnswer.model_validate_json(a.content))) for a in answers if a.status_code == 200} == {
        tuple(tiny_run.expected_ids([1], 5))
    }


@pytest.mark.parametrize(
    "sent", ["POST /v1/rec", HEAD, HEAD + "Content-Length: 100\r\n\r\n", HEAD + 'Content-Length: 100\r\n\r\n{"history": ["it']
)
def test_half_sent_requests_hold_nobody_up_and_are_ended(service: str, client: Client, sent: str):
    expected = ids_of(client.recommend(history=["item-01"]))
    host, port = service.removeprefix("http://").split(":")
    with ExitStack() as open_ones:
        halves = [open_ones.enter_context(socket.create_connection((host, int(port)))) for _ in range(100)]
        for half in halves:
            half.sendall(sent.encode())
        for _ in range(5):
            assert ids_of(client.recommend(history=["item-01"])) == expected
        if "Content-Length" in sent:
            halves[0].settimeout(4 * MAX_BODY_S)
            assert b" 408 " in halves[0].recv(1000).split(b"\r\n")[0]
    assert ids_of(client.recommend(history=["item-01"])) == expected


def test_a_checkpoint_that_did_not_make_the_index_is_refused_before_anything_is_deployed(tiny_run, other_checkpoint: Path):
    with pytest.raises(ArtefactError, match="build memory and index with this one"):
        build_app(ServeArguments(checkpoint_dir=other_checkpoint, index_dir=tiny_run.index_dir, access_control=False))
