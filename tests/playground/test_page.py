"""The page without a browser: what is sent when, what the endpoints answer, and what is never imported."""

import ast
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from playwright.sync_api import expect

import playground
from benchmarks.helpers.browser import free_port
from playground.app import Playground, build, warm_up
from playground.components import text as shared_text
from playground.pages.chat.chatbot_messages import escaped
from playground.pages.chat.streaming import limit_frames, merge_streams
from playground.workspace import Workspace
from rlhf_engine.errors import UserError
from tests.playground.browser import browsing, go, needs_browser, serving
from tests.playground.client import PatientClient
from tests.playground.conftest import EVIL, from_chatbot


def test_the_page_imports_no_torch():
    code = "import sys, playground; sys.exit(sum(m in sys.modules for m in ('torch', 'transformers', 'peft', 'datasets')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def look_of(demo: Playground, front: str = "train"):
    """The page's look, its components by elem_id, and what a browser sends along that has the tab `front` in front."""
    look = next(f for f in demo.blocks.fns.values() if getattr(f.fn, "__name__", "") == "look")
    parts = {c.elem_id or type(c).__name__: c for c in (*look.inputs, *look.outputs)}
    return look, parts, {component: component.value for component in look.inputs} | {parts["front"]: front}


def test_a_look_sends_what_changed_and_then_nothing(workspace, worker):
    look, parts, values = look_of(build(workspace.home, worker=worker))
    assert not look.queue
    first = look.fn(values)
    assert {"run-card", "plot-1", "samples", "events", "pause", "run-command"} <= {c.elem_id for c in first}
    assert "broken" in first[parts["run-card"]]
    again = look.fn(values | {parts["State"]: first[parts["State"]]})
    assert again == gr.skip()
    workspace.run("broken").set_status(step=4)
    moved = look.fn(values | {parts["State"]: first[parts["State"]]})
    assert parts["run-card"] in moved and parts["run"] not in moved and parts["chat-left-adapter"] not in moved


@pytest.mark.parametrize("front, sent, others", [("teach", "fixed", "run-card"), ("train", "run-card", "runs-legend"), ("runs", "runs-legend", "run-card"),
                                                 ("data", "data-rows", "run-card"), ("nothing", "header", "run-card")])
def test_only_the_tab_in_front_is_sent_and_what_the_others_know_stays(workspace, worker, front, sent, others):
    look, parts, values = look_of(build(workspace.home, worker=worker), front)
    first = look.fn(values)
    names = {c.elem_id for c in first}
    assert sent in names and others not in names
    known = first[parts["State"]]
    other = look.fn(values | {parts["front"]: "chat", parts["State"]: known})
    known = known if other == gr.skip() else other[parts["State"]]
    assert look.fn(values | {parts["State"]: known}) == gr.skip(), "nothing has changed meanwhile"


def test_a_failed_run_can_be_resumed_and_not_stopped(workspace, worker):
    look, parts, values = look_of(build(workspace.home, worker=worker))
    sent = look.fn(values)
    assert sent[parts["resume"]]["interactive"] and sent[parts["resume"]]["value"] == "Resume this run"
    assert not sent[parts["stop"]]["interactive"] and not sent[parts["pause"]]["interactive"]


def test_a_picked_run_that_is_gone_gives_way_to_the_newest(workspace, worker):
    look, parts, values = look_of(build(workspace.home, worker=worker))
    sent = look.fn(values | {parts["run"]: "removed"})
    assert sent[parts["run"]]["value"] == "" and "broken" in sent[parts["run-card"]]


def test_a_run_that_goes_while_it_is_looked_at_gives_way_at_the_next_look(workspace, worker, monkeypatch):
    look, parts, values = look_of(build(workspace.home, worker=worker))
    entries = workspace.entries()
    shutil.rmtree(workspace.runs / "broken")
    with monkeypatch.context() as before:
        lists = [entries]
        before.setattr(Workspace, "entries", lambda self, now=Workspace.entries: lists.pop() if lists else now(self))
        sent = look.fn(values)
    assert parts["run-card"] not in sent
    assert "taste" in look.fn(values | {parts["State"]: sent[parts["State"]]})[parts["run-card"]]


def test_the_target_in_a_plot_is_the_one_in_force_at_each_step(workspace, worker):
    run = workspace.run("broken")
    run.note("changed", step=2, name="kl_target", old=6.0, new=4.5)
    look, parts, values = look_of(build(workspace.home, worker=worker))
    sent = look.fn(values)
    levels = [line["y"] for number in range(1, 5) for line in sent[parts[f"plot-{number}"]]["data"] if line.get("name") == shared_text.TARGET]
    assert levels == [[6.0, 4.5, 4.5]]


@pytest.fixture
def client(workspace, worker):
    demo = build(workspace.home, worker=worker)
    _, url, _ = demo.launch(prevent_thread_lock=True, quiet=True, ssr_mode=False, server_name="127.0.0.1")
    yield PatientClient(url)
    demo.close(verbose=False)


def test_the_endpoints(client, workspace, worker):
    listed = client.view_api(return_format="dict", print_info=False)
    assert set(listed["named_endpoints"]) == {"/status", "/start", "/control", "/chat", "/checkpoints", "/next_query", "/vote"} and not listed["unnamed_endpoints"]
    status = client.predict(run="", api_name="/status")
    assert (status["run"], status["state"], status["step"], status["metrics"]["objective/kl"]) == ("broken", "failed", 3, 3.0)
    assert client.predict(run="first", api_name="/checkpoints")["checkpoints"][0]["name"] == "first@step-000003"
    assert client.predict(stage="sft", config={"seed": 3, "output": "new"}, api_name="/start") == {"run": "new"}
    assert worker.log[-1] == ("start", "sft", {"seed": 3, "output": str(workspace.runs / "new")}, False)
    assert client.predict(run="first", command="pause", value=None, api_name="/control") == {"run": "first", "command": "pause"}
    assert worker.log[-1] == ("control", str(workspace.runs / "first"), "pause")
    client.predict(run="broken", command="resume", value=None, api_name="/control")
    assert worker.log[-1][0] == "start" and worker.log[-1][2]["output"] == str(workspace.runs / "broken") and worker.log[-1][3]
    said = client.predict(adapters=["none", "first"], messages=[{"role": "user", "content": "hi"}], api_name="/chat")
    assert said == {"responses": ["none: hi", f"{workspace.runs}/first: hi"[:9]]}
    hi = [{"role": "user", "content": "hi"}]
    client.predict(adapters=["none"], messages=hi, best_of=3, reward="first", api_name="/chat")
    assert worker.log[-1][3]["best_of"] == 3 and worker.log[-1][3]["reward"] == str(workspace.runs / "first")
    with pytest.raises(Exception, match="needs a reward"):
        client.predict(adapters=["none"], messages=hi, best_of=3, api_name="/chat")
    for endpoint, arguments in [("/status", {"run": "../x"}), ("/checkpoints", {"run": "/etc"}), ("/start", {"stage": "sft", "config": {"seed": 13}}),
                                ("/start", {"stage": "ppo", "config": {"reward": "score.py:f"}}),
                                ("/control", {"run": "first", "command": "explode", "value": None}),
                                ("/chat", {"adapters": ["/etc"], "messages": []})]:
        with pytest.raises(Exception, match="no run|no seed|no command"):
            client.predict(**arguments, api_name=endpoint)


def test_chat_messages_survive_the_way_there_and_back():
    talk = [{"role": "user", "content": EVIL}, {"role": "assistant", "content": "&lt;already&gt; &amp;"}]
    assert "<" not in "".join(m["content"] for m in escaped(talk))
    assert from_chatbot(escaped(talk)) == talk
    assert from_chatbot([{"role": "user", "content": [{"type": "text", "text": "&lt;a"}], "metadata": None}]) == [{"role": "user", "content": "<a"}]


def test_two_streams_advance_as_one():
    def says(*texts):
        yield from ([text] for text in texts)

    texts = list(merge_streams([says("a", "ab"), says("x")]))
    assert texts[-1] == ["ab", "x"] and len(texts) == 3

    def breaks():
        yield ["x"]
        raise UserError("gone")
    with pytest.raises(UserError, match="gone"):
        list(merge_streams([says("a"), breaks()]))


def test_a_paced_stream_keeps_its_end():
    assert list(limit_frames(iter([["a"], ["ab"], ["abc"]])))[-1] == ["abc"]
    assert list(limit_frames(iter([]))) == []


def test_live_controls_pass_their_value_through_the_api(client, worker):
    assert client.predict(run="first", command="kl_target", value=4.5, api_name="/control") == {"run": "first", "command": "kl_target"}
    assert worker.log[-1][0] == "control" and worker.log[-1][2:] == ("kl_target", 4.5)


def test_no_string_is_defined_twice():
    """The second would silently change what the first says elsewhere."""
    files = sorted(Path(playground.__file__).parent.rglob("text.py"))
    assert len(files) > 5
    for file in files:
        names = [name.id for node in ast.parse(file.read_text()).body if isinstance(node, ast.Assign)
                 for target in node.targets for name in (target.elts if isinstance(target, ast.Tuple) else [target])]
        assert [name for name, count in Counter(names).items() if count > 1] == [], file


@needs_browser
def test_the_address_names_the_tab_which_a_reload_and_a_restarted_server_leave_open(workspace, worker):
    port = free_port()
    with ExitStack() as browser:
        with serving(workspace.home, worker, port) as url:
            open_page = browser.enter_context(browsing(url, expected="ERR_CONNECTION_REFUSED"))
            for wish in ("#runs", "#<img src=x>"):
                page = open_page(390, query=wish)
                expect(page.locator("#runs-legend" if wish == "#runs" else "#begin-person")).to_be_visible()
            go(page, "Train")
            expect(page.locator("#run-card")).to_contain_text("broken")
            assert page.url.endswith("#train")
            page.reload()
            expect(page.locator("#run-card")).to_contain_text("broken")
            go(page, "Runs")
            expect(page.locator("#runs-legend")).to_contain_text("broken")
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        workspace.run("broken").set_status(step=7)
        with serving(workspace.home, worker, port):
            expect(page.locator("#runs-legend")).to_contain_text("7 of 10")
            page.close()


def test_a_page_that_was_stopped_starts_no_worker():
    """A worker that starts while the page ends would be left behind."""
    started, first_look, ended = [], threading.Event(), threading.Event()
    worker = SimpleNamespace(ensure=lambda: started.append(1))
    first_look.set()
    warm_up(worker, first_look, ended)
    assert started == [1]
    ended.set()
    warm_up(worker, first_look, ended)
    assert started == [1]
