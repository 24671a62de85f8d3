"""Owners and visitors: who is who, what each may do, and that no way round leads there."""

import json
import os
import threading
import time
from contextlib import suppress

import gradio as gr
import httpx
import pytest
from playwright.sync_api import expect
from starlette.requests import Request

from playground.app import build, options
from playground.pages.data.feedback_index import FeedbackIndex
from playground.server import access as access_module
from playground.server import text as server_text
from playground.server import worker_guard as guarded
from playground.server.access import COOKIE, HEADER, LIMITS, Access, current_request
from playground.server.worker_guard import GuardedWorker, enforce_visitor_limits
from playground.workspace import Workspace
from rlhf_engine.config import SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store
from tests.playground.browser import browsing, go, needs_browser
from tests.playground.client import PatientClient
from tests.playground.conftest import write_run

PASSWORD = "correct horse"


def request(headers: dict | None = None, *, client: str = "10.0.0.9", session: dict | None = None) -> Request:
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "client": (client, 1),
             "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()]}
    return Request(scope | ({} if session is None else {"session": session}))


@pytest.fixture
def as_visitor(monkeypatch):
    """Handlers run for `request()` from here on; `as_visitor(...)` makes it another one."""
    def become(*args, session_hash: str = "tab", **kwargs) -> None:
        monkeypatch.setattr(access_module, "current_request", lambda: gr.Request(request(*args, **kwargs), session_hash=session_hash))
    become()
    return become


# -- who it is ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("host, shared, env, everyone", [
    ("127.0.0.1", False, {}, True), ("localhost", False, {}, True), ("127.0.0.1", True, {}, False), ("0.0.0.0", False, {}, False),
    ("127.0.0.1", False, {"PLAYGROUND_PASSWORD": "x"}, False), ("127.0.0.1", False, {"SPACE_ID": "me/space"}, False)])
def test_everybody_is_the_owner_on_this_computer_alone(monkeypatch, host, shared, env, everyone):
    for name in ("PLAYGROUND_PASSWORD", "PLAYGROUND_OPEN", "SPACE_ID", "SPACE_AUTHOR_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = Access.from_environment(host, shared=shared)
    assert found.everyone == found.owner() == found.is_owner(request()) == everyone
    assert found.has_owner == (everyone or bool(env))


def test_the_password_in_a_header_or_the_token_of_a_login_makes_an_owner():
    access = Access(alone=False, password=PASSWORD)
    assert not access.is_owner(None) and not access.is_owner(request()) and not access.is_owner(request({HEADER: "correct"}))
    assert access.is_owner(request({HEADER: PASSWORD})) and access.is_owner(gr.Request(request({HEADER: PASSWORD})))
    token = access.log_in(PASSWORD, "10.0.0.9")
    inside = request({"cookie": f"{COOKIE}={token}"})
    assert access.is_owner(inside) and not access.is_owner(request({"cookie": f"{COOKIE}={token}x"}))
    access.log_out(token)
    assert not access.is_owner(inside)


def test_without_a_password_none_is_right():
    access = Access(alone=False)
    assert not access.is_owner(request({HEADER: ""})) and not access.is_owner(request({"cookie": f"{COOKIE}="})) and not access.has_owner
    with pytest.raises(UserError, match="not the password"):
        access.log_in("", "10.0.0.9")


def test_a_space_belongs_to_its_author_and_to_the_members_of_an_organisation():
    access = Access(alone=False, space_owner="lab")
    def of(user: dict, until: float = 60.0) -> Request:
        return request(session={"oauth_info": {"userinfo": user, "expires_at": time.time() + until}})
    assert access.is_owner(of({"preferred_username": "lab"})) and access.is_owner(of({"preferred_username": "me", "orgs": [{"preferred_username": "lab"}]}))
    assert not access.is_owner(of({"preferred_username": "me", "orgs": None})) and not access.is_owner(of({"preferred_username": "lab"}, -1))
    assert not access.is_owner(request(session={})) and not access.is_owner(request())


def test_passwords_cannot_be_tried_for_long():
    access = Access(alone=False, password=PASSWORD)
    for _ in range(LIMITS["login"].address):
        with pytest.raises(UserError, match="not the password"):
            access.log_in("guess", "10.0.0.9")
    with pytest.raises(UserError, match="try again in"):
        access.log_in(PASSWORD, "10.0.0.9")
    assert access.log_in(PASSWORD, "10.0.0.8")
    for _ in range(2 * LIMITS["login"].address):
        assert access.log_in(PASSWORD, "10.0.0.7"), "logging in is no try"


def test_nor_by_way_of_the_header():
    access = Access(alone=False, password=PASSWORD)
    for _ in range(LIMITS["login"].address):
        assert not access.is_owner(request({HEADER: "guess"}))
    assert not access.is_owner(request({HEADER: PASSWORD})), "the right one says nothing any more"
    assert access.is_owner(request({HEADER: PASSWORD}, client="10.0.0.8")) and not access._tokens


def test_limits_are_of_a_tab_of_an_address_and_of_all(as_visitor, monkeypatch):
    access, (tab, address, _) = Access(alone=False), LIMITS["vote"]
    clock = [1000.0]
    monkeypatch.setattr(access_module.time, "monotonic", lambda: clock[0])
    for number in range(address):
        as_visitor(session_hash=f"tab {number // tab}")
        access.limit("vote")
    with pytest.raises(UserError, match="many votes"):
        access.limit("vote")
    as_visitor(session_hash="another")
    with pytest.raises(UserError, match="many votes"):
        access.limit("vote")
    as_visitor(session_hash="another", client="10.0.0.10")
    access.limit("vote")
    access.limit("chat")
    as_visitor(session_hash="tab 0")
    clock[0] += 61
    access.limit("vote")


def test_of_those_who_were_counted_the_oldest_are_forgotten(as_visitor, monkeypatch):
    monkeypatch.setattr(access_module, "MAX_COUNTERS", 10)
    access = Access(alone=False)
    for number in range(30):
        as_visitor(session_hash=f"tab {number}", client=f"10.0.0.{number}")
        access.limit("vote")
    assert len(access._times) <= 10
    as_visitor(session_hash="last", client="10.0.0.1")
    for number in range(LIMITS["vote"].address + 100):
        as_visitor(session_hash=f"{number}" * 100, client="10.0.0.1")
        with suppress(UserError):
            access.limit("vote")
    assert len(access._times) <= 10 and all(len(name) <= 64 for _, _, name in access._times)


def test_a_visitors_chats_are_small(as_visitor, shut):
    hello = [{"role": "user", "content": "x"}]
    for adapters, asked in ((["none"] * 5, {}), (["none"], {"max_new_tokens": 600}), (["none"], {"best_of": 5, "reward": "judge"})):
        with pytest.raises(UserError, match="A visitor may ask at most 4 checkpoints for at most 512 tokens each, and for the best of 4 answers"):
            shut.chat(adapters, hello, **asked)
    list(shut.chat(["none"], hello, best_of=4, reward="judge"))


def test_a_visitors_texts_are_short(as_visitor, shut):
    with pytest.raises(UserError, match="8,000 at once"):
        shut.chat(["none"], [{"role": "user", "content": "x" * 8000}])
    with pytest.raises(UserError, match="8,000 at once"):
        Access(alone=False).limit("vote", "x" * 8001)
    Access().limit("vote", "x" * 8001)


def test_behind_the_proxy_of_a_space_the_first_address_counts(monkeypatch):
    forwarded = request({"x-forwarded-for": "1.2.3.4, 10.0.0.1"})
    assert access_module.address_of(forwarded) == "10.0.0.9"
    monkeypatch.setenv("SPACE_ID", "me/space")
    assert access_module.address_of(forwarded) == "1.2.3.4"


# -- what a visitor may not do -------------------------------------------------------------------------------------------

@pytest.fixture
def shut(workspace, worker, as_visitor) -> GuardedWorker:
    return GuardedWorker(worker, Workspace(workspace.home, Access(alone=False)))


def test_a_visitor_trains_and_loads_nothing(shut, worker, workspace):
    for forbidden in (lambda: shut.start("sft", {}), lambda: shut.start("sft", {}, resume=True), lambda: list(shut.load("bundled")),
                      lambda: shut.control(str(workspace.runs / "first"), "stop"), lambda: shut.control("visitor-sft-1", "stop"),
                      lambda: shut.report("animals")):
        with pytest.raises(UserError, match="Only the owner"):
            forbidden()
    assert worker.log == []
    assert list(shut.chat(["none"], [{"role": "user", "content": "hi"}]))
    for count, given in ((1, {"max_new_tokens": 5000}), (5, {})):
        with pytest.raises(UserError, match="at most 4 checkpoints"):
            list(shut.chat(["none"] * count, [{"role": "user", "content": "hi"}], **given))


def test_a_new_method_of_the_worker_is_out_of_reach_until_the_guard_lists_it(workspace, worker):
    """Also for an owner: the guard denies by default."""
    class LargerWorker(type(worker)):
        def erase(self) -> None:
            self.log.append(("erase",))

    larger = LargerWorker()
    guarded_worker = GuardedWorker(larger, workspace)
    for name in ("erase", "log", "home", "shutdown", "ensure"):
        with pytest.raises(AttributeError):
            getattr(guarded_worker, name)
    assert {name for name in dir(guarded_worker) if not name.startswith("_")} == {"start", "control", "load", "report", "chat"}
    assert larger.log == []


def test_what_is_no_number_lowers_nothing(open_to_all, worker):
    for value in ("2", True, float("nan"), -1, None):
        with pytest.raises(UserError, match="visitor's run has"):
            open_to_all.start("teach", {"labeler": "person", "batch_size": value})
    with pytest.raises(UserError, match="no setting"):
        open_to_all.start("teach", {"erase": 1})
    assert worker.log == []


def test_a_visitors_names_mean_what_is_bundled_or_in_use(workspace, as_visitor):
    write_run(workspace.home, "on-qwen", SFTConfig(model="Qwen/Qwen3-0.6B"))
    seen = Workspace(workspace.home, Access(alone=False))
    assert seen.model("bundled") == "bundled" and seen.model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B" and seen.data("bundled") == "bundled"
    for forbidden in (lambda: seen.model("me/other"), lambda: seen.model("models/x"), lambda: seen.data("uploads/mine.jsonl"),
                      lambda: seen.data("trl-lib/tldr"), lambda: seen.settings("sft", {"data": "uploads/mine.jsonl"}),
                      lambda: seen.settings("ppo", {"ptx_data": "uploads/mine.jsonl"})):
        with pytest.raises(UserError, match="Only the owner may open"):
            forbidden()
    with pytest.raises(UserError, match="Only the owner"):
        seen.upload(workspace.uploads / "mine.jsonl")
    assert seen.data_choices() == ["bundled"] and workspace.data_choices() == ["bundled", "uploads/mine.jsonl"]


def test_what_a_model_of_the_hub_is_anybody_may_ask(workspace, as_visitor):
    seen = Workspace(workspace.home, Access(alone=False))
    (workspace.models / "x").mkdir(parents=True)
    assert seen.seen_model("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    with pytest.raises(UserError, match="Only the owner may open"):
        seen.seen_model("models/x")


def test_who_asks_is_known_where_streams_are_taken_in_threads(workspace, worker, as_visitor, monkeypatch):
    """Sides of a chat that differ are read in threads of their own, in which nobody asks."""
    shared = GuardedWorker(worker, Workspace(workspace.home, Access(alone=False, password=PASSWORD)))
    as_visitor({HEADER: PASSWORD})
    stream = shared.chat(["none"] * 8, [{"role": "user", "content": "hi"}])
    monkeypatch.setattr(access_module, "current_request", lambda: None)
    assert list(stream)


def test_a_visitor_takes_back_only_what_is_theirs(workspace, as_visitor):
    store = Store(workspace.home / "feedback.sqlite")
    store.add_all([Event(f"e{who}", "thumb", "p", ("r",), "up", voter=who) for who in ("me", "you")])
    index = FeedbackIndex(Workspace(workspace.home, Access(alone=False)))
    with pytest.raises(UserError, match="somebody else's"):
        index.retract("eyou", "r1", "me")
    index.retract("eme", "r2", "me")
    FeedbackIndex(workspace).retract("eyou", "r3", "owner")
    assert not store.events()


# -- where visitors may start runs -----------------------------------------------------------------------------------------

@pytest.fixture
def open_to_all(workspace, worker, as_visitor) -> GuardedWorker:
    return GuardedWorker(worker, Workspace(workspace.home, Access(alone=False, open=True)))


def test_an_open_page_takes_small_runs_under_names_of_its_own(open_to_all, worker, workspace):
    open_to_all.start("teach", {"labeler": "person", "votes": 80, "output": str(workspace.runs / "first")})
    assert worker.log[-1][2]["output"] == str(workspace.runs / "visitor-teach-1")
    write_run(workspace.home, "visitor-teach-1", TeachConfig(labeler="person"))
    open_to_all.start("teach", {"labeler": "sentiment", "batch_size": 16})
    assert worker.log[-1][2]["output"] == str(workspace.runs / "visitor-teach-2")
    for given in ({"batch_size": 1000}, {"steps": 10_000}, {"keep_checkpoints": 0}, {"checkpoint_every": 1}, {"micro_batch": 1}, {"model": "me/other"}, {"data": "trl-lib/tldr"}, {"gradient_checkpointing": True},
                  {"ptx_coef": 1.0}, {"labeler": "judge=me/other"}):
        with pytest.raises(UserError, match="visitor's run has|judge model"):
            open_to_all.start("teach", {"labeler": "person"} | given)


def test_runs_of_visitors_are_held_by_visitors_and_stopped_when_their_time_is_over(open_to_all, worker, workspace):
    run = write_run(workspace.home, "visitor-sft-1", SFTConfig(), state="running")
    open_to_all.control(str(run.path), "pause")
    for path, command, value in ((run.path, "discard", None), (run.path, "rewind", 3), (workspace.runs / "first", "stop", None)):
        with pytest.raises(UserError, match="Only the owner"):
            open_to_all.control(str(path), command, value)
    worker.log.clear()
    enforce_visitor_limits(worker, workspace, time.time() + guarded.MAX_SECONDS - 60)
    assert worker.log == []
    enforce_visitor_limits(worker, workspace, time.time() + guarded.MAX_SECONDS + 60)
    assert worker.log == [("control", str(run.path), "stop")]


def test_the_oldest_runs_of_visitors_make_room(workspace, worker, monkeypatch):
    monkeypatch.setattr(guarded, "MAX_VISITOR_RUNS", 2)
    for number in range(1, 5):
        folder = write_run(workspace.home, f"visitor-sft-{number}", SFTConfig(), checkpoint=False).path
        os.utime(folder / "config.yaml", (1000 + number, 1000 + number))
    enforce_visitor_limits(worker, workspace, 2000.0)
    assert sorted(p.name for p in workspace.runs.glob("visitor-*")) == ["visitor-sft-3", "visitor-sft-4"]
    assert (workspace.runs / "first").is_dir()


def test_an_owner_leaves_the_names_of_visitors_alone_and_may_go_on_with_their_runs(workspace, worker):
    owner, run = GuardedWorker(worker, workspace), write_run(workspace.home, "visitor-sft-1", SFTConfig(), state="stopped")
    with pytest.raises(UserError, match="for runs of visitors"):
        owner.start("sft", {"output": str(workspace.runs / "visitor-mine")})
    os.utime(run.path / "config.yaml", (1000, 1000))
    owner.start("sft", {"output": str(run.path)}, resume=True)
    run.set_status(state="running")
    worker.log.clear()
    enforce_visitor_limits(worker, workspace, time.time() + 60)
    assert worker.log == []


def test_a_run_that_goes_while_it_is_watched_does_not_end_the_watch(workspace, worker, monkeypatch):
    looks, ended = [], threading.Event()
    def vanishing(*_):
        looks.append(1)
        raise FileNotFoundError("config.yaml")
    monkeypatch.setattr(guarded, "enforce_visitor_limits", vanishing)
    watch = threading.Thread(target=guarded.watch_visitors, args=(worker, workspace, ended), kwargs={"every": 0.01})
    watch.start()
    while len(looks) < 3:
        time.sleep(0.01)
    ended.set()
    watch.join(10)


def test_the_watch_ends_with_the_page(workspace, worker):
    ended = threading.Event()
    watch = threading.Thread(target=guarded.watch_visitors, args=(worker, workspace, ended), kwargs={"every": 0.01})
    watch.start()
    ended.set()
    watch.join(10)
    assert not watch.is_alive()


# -- the same over the wire --------------------------------------------------------------------------------------------------

@pytest.fixture
def served(workspace, worker):
    access = Access(alone=False, password=PASSWORD)
    demo = build(workspace.home, worker=worker, access=access)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **options(demo))
    yield url
    demo.close(verbose=False)


def test_the_endpoints_know_an_owner_from_a_visitor(served, worker):
    visitor = PatientClient(served)
    assert visitor.predict(run="", api_name="/status")["run"] == "broken"
    for endpoint, arguments in [("/start", {"stage": "sft", "config": {}}), ("/control", {"run": "first", "command": "stop", "value": None}),
                                ("/control", {"run": "broken", "command": "resume", "value": None})]:
        with pytest.raises(Exception, match="Only the owner"):
            visitor.predict(**arguments, api_name=endpoint)
    with pytest.raises(Exception, match="Only the owner may open"):
        visitor.predict(adapters=["none"], messages=[{"role": "user", "content": "x"}], model="me/other", api_name="/chat")
    assert worker.log == []
    owner = PatientClient(served, headers={HEADER: PASSWORD})
    assert owner.predict(stage="sft", config={"output": "new"}, api_name="/start") == {"run": "new"}


def test_a_visitor_brings_no_files_in_by_any_way(served):
    """Gradio would take them in, or fetch them, before a handler could ask for whom."""
    def post(path: str, headers: dict, **body) -> int:
        return httpx.post(f"{served}gradio_api/{path}", headers=headers, timeout=60, **body).status_code
    fetch = {"fn_index": 0, "data": [{"path": "http://127.0.0.1:1/large", "meta": {"_type": "gradio.FileData"}}], "session_hash": "x"}
    hidden = json.dumps(fetch).replace("gradio.FileData", "\\u0067radio.FileData")
    ways = [("upload", {"files": {"files": ("a.jsonl", b"{}")}}), ("process_recording", {"files": {"file": ("a.wav", b"x")}}),
            ("run/predict", {"json": fetch}), ("queue/join", {"content": hidden}), ("run/predict", {"content": b"[" * 2_000_000}),
            ("call/status", {"content": b"[" * 100_000})]
    for path, body in ways:
        assert post(path, {"content-type": "application/json"} if "content" in body else {}, **body) == 403, path
    assert post("upload", {HEADER: PASSWORD}, files={"files": ("a.jsonl", b"{}")}) == 200


def test_no_handler_starts_anything_for_a_visitor(served, workspace, worker):
    """Every handler of the page, called as a browser would with nothing in particular: the worker is asked for nothing but chats."""
    config = httpx.get(f"{served}config").json()
    for dependency in config["dependencies"]:
        components = {c["id"]: c["props"].get("value") for c in config["components"]}
        data = [components.get(i) for i in dependency["inputs"]]
        httpx.post(f"{served}gradio_api/run/predict", json={"fn_index": dependency["id"], "data": data, "session_hash": "visitor"}, timeout=60)
    assert {call[0] for call in worker.log} <= {"chat"} and not (workspace.home / "exports").exists()
    assert sorted(p.name for p in workspace.runs.iterdir()) == ["broken", "first", "taste"]


def test_an_owner_logs_in_on_a_page_and_out_again(served):
    with httpx.Client(base_url=served, follow_redirects=False) as browser:
        assert 'type="password"' in browser.get("/owner").text
        wrong = browser.post("/owner", data={"password": "<b>guess"})
        assert wrong.status_code == 403 and "not the password" in wrong.text and "<b>" not in wrong.text
        assert browser.post("/owner", content=b"password=" + b"x" * 20_000).status_code == 413
        assert browser.post("/gradio_api/upload", files={"files": ("a.jsonl", b"{}")}).status_code == 403
        right = browser.post("/owner", data={"password": PASSWORD})
        assert right.status_code == 303 and "httponly" in right.headers["set-cookie"].lower() and PASSWORD not in right.headers["set-cookie"]
        assert server_text.IS_OWNER in browser.get("/owner").text
        assert browser.post("/gradio_api/upload", files={"files": ("a.jsonl", b"{}")}).status_code == 200
        browser.post("/owner", data={"leave": "1"})
        assert 'type="password"' in browser.get("/owner").text


@needs_browser
def test_a_visitor_is_offered_what_they_may_do_and_an_owner_everything(served):
    with browsing(served) as open_page:
        page = open_page(width=390)
        expect(page.locator("#header .who")).to_contain_text("You are a visitor")
        expect(page.locator("#begin-person")).to_be_hidden()
        expect(go(page, "Train").locator("#run-card")).to_be_visible()
        expect(page.locator("#start")).to_be_hidden()
        page.get_by_role("link", name="I am the owner").click()
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.wait_for_selector("#header .live")
        expect(page.locator("#header .who")).to_contain_text("You are the owner")
        expect(page.locator("#begin-person")).to_be_visible()
        expect(go(page, "Train").locator("#start")).to_be_visible()


def test_outside_of_a_request_there_is_none():
    assert current_request() is None


def test_who_asks_is_looked_at_before_what_is_asked(workspace, worker, as_visitor):
    shut = build(workspace.home, worker=worker, access=Access(alone=False))
    start = next(f.fn for f in shut.blocks.fns.values() if getattr(f.fn, "__name__", "") == "start")
    with pytest.raises(gr.Error, match="Only the owner"):
        start(stage="sft", config={"batch_size": -1})
    alone = build(workspace.home / "empty", worker=worker)
    call = {getattr(f.fn, "__name__", ""): f.fn for f in alone.blocks.fns.values()}
    assert call["status"]()["run"] is None and call["checkpoints"](run="") == {"run": None, "checkpoints": []}
