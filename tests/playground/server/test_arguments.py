"""The arguments of the typed endpoints: a program may send any JSON, and gets one line where it does not fit."""

import gradio as gr
import pytest

from playground.server.access import Access
from playground.server.api import Api, plain_errors, plain_errors_of_stream
from playground.server.worker_guard import GuardedWorker
from playground.voting import VotingService
from playground.workspace import Workspace
from tests.playground.conftest import FakeWorker, write_teach


@pytest.fixture
def api(home) -> Api:
    write_teach(home)
    workspace = Workspace(home, Access())
    with gr.Blocks():
        return Api(workspace, GuardedWorker(FakeWorker(), workspace), VotingService(workspace))


@pytest.mark.parametrize(("name", "arguments", "says"), [
    ("status", [["a"]], "run is ['a'], but must be a text"), ("status", [True], "run is True"), ("status", [5], "no run '5'"), ("checkpoints", [{}], "run is {}"),
    ("next_query", [[1]], "must be a text"), ("start", [["sft"], {}], "stage is ['sft']"), ("start", ["sft", "x"], "config is 'x', but must be a mapping"),
    ("start", ["sft", None], "config is None"), ("start", [5, {}], "no stage '5'"), ("control", [{}, "stop"], "run is {}"), ("control", ["teach", ["stop"]], "command is"),
    ("vote", [{}, "q0", "1", "e1"], "run is {}"), ("vote", ["teach", ["q0"], "1", "e1"], "query_id is"), ("vote", ["teach", "q0", {}, "e1"], "choice is {}"),
    ("chat", ["none", []], "adapters is 'none', but must be a list"), ("chat", [["none"], {}], "messages is {}"), ("chat", [["none"], [{"role": "user", "content": "hi"}], 1.5], "1.5"),
    ("status", ["x" * 9000], "no run")])
def test_an_argument_of_another_type_is_named(api, name, arguments, says):
    method = getattr(api, name)
    with pytest.raises(gr.Error) as caught:
        list(plain_errors_of_stream(method)(*arguments)) if name == "chat" else plain_errors(method)(*arguments)
    assert says in caught.value.message and "\n" not in caught.value.message and len(caught.value.message) < 2100


def test_numbers_stand_for_texts_and_null_for_none(api):
    assert plain_errors(api.status)(None)["run"] == "teach"
    assert plain_errors(api.vote)("teach", "q1", 2, 17)["stored"] is True
