"""The endpoints of a voter: what they answer, and that fifty clients at once lose no vote."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from playground.app import build
from rlhf_engine.feedback.store import Store
from rlhf_engine.runs.folder import Run
from tests.playground.client import PatientClient
from tests.playground.conftest import FakeWorker, write_teach


@pytest.fixture
def run(home) -> Run:
    return write_teach(home)


def test_a_vote_that_comes_late_is_kept_and_the_answer_says_so(run, home):
    demo = build(home, worker=FakeWorker()).blocks
    call = {getattr(f.fn, "__name__", ""): f.fn for f in demo.fns.values()}
    run.set_status(state="done")
    assert "teach is done" in call["next_query"](run="teach")["message"]
    late = call["vote"](run="teach", query_id="q1", choice="1", event_id="e")
    assert late["stored"] and "Your vote is kept" in late["message"]


@pytest.fixture
def address(home, run) -> str:
    demo = build(home, worker=FakeWorker())
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
    yield url
    demo.close(verbose=False)


def connect(address: str) -> PatientClient:
    return PatientClient(address)  # other tests take the processors, too


def test_the_endpoints_of_a_voter(address, run, home):
    client, store = connect(address), Store(home / "feedback.sqlite")
    query = client.predict(run="", api_name="/next_query")
    assert {"query_id": "q4", "run": "teach", "step": 2, "votes": 0, "votes_wanted": 40, "message": ""}.items() <= query.items()
    assert query["prompt"].startswith("prompt 4") and len(query["responses"]) == 4

    def vote(query_id: str, choice, event_id, name: str = "teach") -> dict:
        return client.predict(run=name, query_id=query_id, choice=choice, event_id=event_id, api_name="/vote")

    assert vote("q4", "2", "a") == {"stored": True, "votes": 1}
    assert vote("q4", "2", "a") == vote("q4", "1", "a") == {"stored": False, "votes": 1}
    event, = store.events()
    assert event.value == (2, 1, 2, 2) and event.seconds > 0 and len(event.voter) == 16
    assert client.predict(run="teach", api_name="/next_query")["query_id"] == "q3"
    assert vote("q3", "skip", "b") == {"stored": False, "votes": 1}
    assert client.predict(run="teach", api_name="/next_query")["query_id"] == "q2"
    assert vote("q2", "both_bad", "c", name="") == {"stored": True, "votes": 2}
    assert vote("", "undo", "d") == {"stored": True, "votes": 1} and vote("", "undo", "d") == {"stored": False, "votes": 1}
    assert connect(address).predict(run="", api_name="/next_query")["query_id"] == "q3", "another voter has not skipped it"
    for query_id, choice, event_id, name, said in (
            ("q1", "1", "", "teach", "event_id is empty"), ("q1", "1", " ", "teach", "event_id is empty"), ("q1", "7", "e", "teach", "must be 1 to 4"),
            ("q99", "1", "e", "teach", "asked no query"), ("q1", "1", "e", "../teach", "no run"), ("q1", "1", "e", "/etc", "no run")):
        with pytest.raises(Exception, match=said):
            vote(query_id, choice, event_id, name)
    with pytest.raises(Exception, match="no run"):
        client.predict(run="..", api_name="/next_query")
    assert store.count() == 1
    for left in ("q2", "q1", "q0"):
        vote(left, "1", f"e {left}")
    run.set_status(state="stopped")
    ended = client.predict(run="teach", api_name="/next_query")
    assert ended["query_id"] == "" and ended["responses"] == [] and "teach is stopped" in ended["message"] and ended["votes"] == 4


def test_fifty_clients_at_once(address, run, home):
    """Each gets a question and gives a vote, twice, as an impatient client does."""
    def call(name: str, *data) -> dict:
        event = http.post(f"{address}gradio_api/call/{name}", json={"data": data}).raise_for_status().json()["event_id"]
        said = http.get(f"{address}gradio_api/call/{name}/{event}").raise_for_status().text
        return json.loads(said.split("event: complete\ndata: ")[1].splitlines()[0])[0]

    def client(number: int) -> bool:
        query = call("next_query", "teach")["query_id"] or "q0"
        return [call("vote", "teach", query, "1", f"e{number}")["stored"] for _ in range(2)] == [True, False]

    with httpx.Client(timeout=60) as http, ThreadPoolExecutor(50) as pool:
        assert all(pool.map(client, range(50)))
    assert Store(home / "feedback.sqlite").count(run.id) == 50
