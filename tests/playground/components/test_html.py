import pytest

from playground.components import formatting
from playground.components import html as views
from tests.playground.conftest import EVIL, RUNNING, assert_inert


def test_text_is_inert():
    safe = views.escape(EVIL)
    assert not set("<>{}$") & set(safe)
    assert "&lt;img" in safe and "&amp;" in safe


@pytest.mark.parametrize("html", [
    views.notice(EVIL), views.header(EVIL), views.events([{"event": EVIL, "text": EVIL}, {"event": "warning", "step": 1, "text": EVIL}]),
    views.samples([{"step": 1, "prompt": EVIL, "response": EVIL, "score": 1.0, "kl": 2.0, "ended": False}]),
    views.samples([{"step": 1, "prompt": [{"role": "user", "content": EVIL}], "response": EVIL}]),
    views.card(EVIL, {"stage": "ppo"}, RUNNING | {"state": "failed", "error": EVIL, "advice": EVIL}, [])])
def test_what_others_wrote_is_shown_as_text(html):
    assert_inert(html)


def test_the_card_shows_progress_and_time_left():
    metrics = [{"step": 1, "time/rollout": 1.0, "time/update": 1.0}, {"step": 2, "time/rollout": 2.0, "time/update": 2.0}]
    html = views.card("run", {"stage": "ppo"}, RUNNING, metrics)
    assert 'aria-valuenow="2"' in html and 'aria-valuemax="10"' in html and "about 24 s left" in html
    assert "left" not in views.card("run", {"stage": "ppo"}, RUNNING | {"state": "done"}, metrics)


def test_a_failed_run_says_why_and_what_to_do():
    html = views.card("run", {"stage": "ppo"}, RUNNING | {"state": "failed", "error": "out of memory", "advice": "Lower it."}, [])
    assert "out of memory" in html and "Lower it." in html


@pytest.mark.parametrize("seconds, said", [(0, "0 s"), (59.2, "60 s"), (120, "2 min"), (5400, "1 h 30 min")])
def test_durations(seconds, said):
    assert formatting.duration(seconds) == said


def test_events_are_sentences_and_unknown_ones_show_what_they_have():
    html = views.events([{"event": "fitted", "learning_rate": 0.00252, "width": 256, "time": 0}, {"event": "resumed", "step": 4, "time": 0},
                         {"event": "novel", "text": "something", "time": 0}, {"event": "warning"}])
    assert "Learning rate 0.0025, fitted to a model 256 wide." in html
    assert "Resumed from the checkpoint of step 4." in html and "novel: something" in html and ">warning<" in html


def test_the_newest_sample_comes_first():
    html = views.samples([{"step": i, "prompt": "p", "response": f"answer {i}", "score": 0.5, "kl": 0.1} for i in range(20)])
    assert html.index("answer 19") < html.index("answer 18") and "answer 2<" not in html


def test_samples_leave_out_the_answers_to_the_fixed_prompts():
    html = views.samples([{"step": 1, "prompt": "p", "response": "drawn"}, {"step": 1, "prompt": "p", "response": "always", "fixed": True}])
    assert "drawn" in html and "always" not in html
    assert "always" not in views.samples([{"step": 1, "prompt": "p", "response": "always", "fixed": True}])


def test_a_conversation_shows_who_said_what():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "a story"}]
    assert formatting.conversation(turns) == "User: hi\n\nAssistant: hello\n\nUser: a story"
    assert formatting.conversation(turns[-1:]) == "a story"
