import pytest

from playground import views
from tests.playground.conftest import EVIL

STATUS = {"state": "running", "step": 2, "total_steps": 10, "error": "", "advice": ""}


def test_text_is_inert():
    safe = views.text(EVIL)
    assert not set("<>{}$") & set(safe)
    assert "&lt;img" in safe and "&amp;" in safe


@pytest.mark.parametrize("html", [
    views.notice(EVIL), views.header(EVIL), views.events([{"event": EVIL, "text": EVIL}, {"event": "warning", "step": 1, "text": EVIL}]),
    views.samples([{"step": 1, "prompt": EVIL, "response": EVIL, "score": 1.0, "kl": 2.0, "ended": False}]),
    views.samples([{"step": 1, "prompt": [{"role": "user", "content": EVIL}], "response": EVIL}]),
    views.card(EVIL, {"stage": "ppo"}, STATUS | {"state": "failed", "error": EVIL, "advice": EVIL}, [])])
def test_what_others_wrote_is_shown_as_text(html):
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "${" not in html and "{{" not in html
    assert "&lt;img" in html


def test_the_card_shows_progress_and_time_left():
    metrics = [{"step": 1, "time/rollout": 1.0, "time/update": 1.0}, {"step": 2, "time/rollout": 2.0, "time/update": 2.0}]
    html = views.card("run", {"stage": "ppo"}, STATUS, metrics)
    assert 'aria-valuenow="2"' in html and 'aria-valuemax="10"' in html and "about 24 s left" in html
    assert "left" not in views.card("run", {"stage": "ppo"}, STATUS | {"state": "done"}, metrics)


def test_a_failed_run_says_why_and_what_to_do():
    html = views.card("run", {"stage": "ppo"}, STATUS | {"state": "failed", "error": "out of memory", "advice": "Lower it."}, [])
    assert "out of memory" in html and "Lower it." in html


@pytest.mark.parametrize("seconds, said", [(0, "0 s"), (59.2, "60 s"), (120, "2 min"), (5400, "1 h 30 min")])
def test_durations(seconds, said):
    assert views.duration(seconds) == said


def test_events_are_sentences_and_unknown_ones_show_what_they_have():
    html = views.events([{"event": "fitted", "learning_rate": 0.00252, "width": 256, "time": 0}, {"event": "resumed", "step": 4, "time": 0},
                         {"event": "novel", "text": "something", "time": 0}, {"event": "warning"}])
    assert "Learning rate 0.0025, fitted to a model 256 wide." in html
    assert "Resumed from the checkpoint of step 4." in html and "novel: something" in html and ">warning<" in html


def test_the_newest_sample_comes_first():
    html = views.samples([{"step": i, "prompt": "p", "response": f"answer {i}", "score": 0.5, "kl": 0.1} for i in range(20)])
    assert html.index("answer 19") < html.index("answer 18") and "answer 2<" not in html


def test_before_anybody_chooses_the_newest_trained_answers_beside_the_bare_model():
    from playground.chat import first_picks
    assert first_picks([("Base", "none"), ("Live", "live"), ("Step 10", "live@step-000010")]) == ("none", "live")
    assert first_picks([("Base", "none")]) == ("none", "none")
