import pytest

from playground.components import formatting
from playground.components import html as views
from playground.pages.teach import views as vote_views
from rlhf_engine.feedback.events import Event
from tests.playground.conftest import EVIL

STATUS = {"state": "running", "step": 2, "total_steps": 10, "error": "", "advice": ""}


def test_text_is_inert():
    safe = views.escape(EVIL)
    assert not set("<>{}$") & set(safe)
    assert "&lt;img" in safe and "&amp;" in safe


@pytest.mark.parametrize("html", [
    views.notice(EVIL), views.header(EVIL), views.events([{"event": EVIL, "text": EVIL}, {"event": "warning", "step": 1, "text": EVIL}]),
    views.samples([{"step": 1, "prompt": EVIL, "response": EVIL, "score": 1.0, "kl": 2.0, "ended": False}]),
    views.samples([{"step": 1, "prompt": [{"role": "user", "content": EVIL}], "response": EVIL}]),
    vote_views.question(EVIL, (EVIL, EVIL), EVIL), vote_views.question([{"role": EVIL, "content": EVIL}, {"role": "user", "content": EVIL}], (EVIL,) * 4),
    vote_views.no_question(EVIL, EVIL), vote_views.vote_status(EVIL, STATUS | {"state": "waiting", "advice": EVIL}, 1, 4),
    vote_views.effect([{"event": "reward", "votes": EVIL, "new": 1, "guessed": 1.0, "guesses": 1, "loss": 1.0, "drift": 0.1, "spread": 0.1,
                   "likes": [EVIL], "dislikes": [EVIL]}], 4, EVIL),
    vote_views.fixed([{"step": 0, "prompt": EVIL, "response": EVIL, "fixed": True}, {"step": 5, "prompt": EVIL, "response": EVIL, "fixed": True}]),
    vote_views.watched(EVIL, {"labeler": EVIL}, {"step": EVIL, "prompt": EVIL, "responses": [EVIL, EVIL], "vote": "left"}),
    vote_views.extremes([{"step": i, "score": float(i), "response": EVIL} for i in range(4)]),
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


def test_samples_leave_out_the_answers_to_the_fixed_prompts():
    html = views.samples([{"step": 1, "prompt": "p", "response": "drawn"}, {"step": 1, "prompt": "p", "response": "always", "fixed": True}])
    assert "drawn" in html and "always" not in html
    assert "always" not in views.samples([{"step": 1, "prompt": "p", "response": "always", "fixed": True}])


def test_the_fixed_prompts_stand_beside_each_other_at_the_start_and_now():
    rows = [{"step": step, "prompt": prompt, "response": f"{prompt} at {step}", "fixed": True} for step in (0, 5, 10) for prompt in ("one", "two")]
    html = vote_views.fixed([*rows, {"step": 12, "prompt": "one", "response": "drawn"}])
    assert "one at 0" in html and "two at 10" in html and "at 5" not in html and "drawn" not in html and "Now (step 10)" in html
    assert html.index("one at 0") < html.index("one at 10") < html.index("two at 0")
    assert "still the policy of the start" in vote_views.fixed(rows[:2]) and "<table" not in vote_views.fixed([])


def test_the_effect_of_votes_is_what_the_journal_measured_last():
    first = {"event": "reward", "votes": 16, "new": 16, "guessed": 0, "guesses": 0, "loss": 1.0, "drift": 0.5, "spread": 0.25}
    assert "there was no order to guess" in vote_views.effect([first]) and "likes" not in vote_views.effect([first])
    assert "By now it likes “red”, “blue”, and dislikes “the”." in vote_views.effect([first | {"likes": ["red", "blue"], "dislikes": ["the"]}])
    later = [first | {"new": 4, "guessed": good, "guesses": 4} for good in (4.0, 0.5, 3.0, 2.0)]
    html = vote_views.effect([first, *later, {"event": "warning", "step": 1, "text": "x"}], 4, "It wins.")
    assert "guessed 5.5 of the last 12 votes (by chance: 1 in 4)" in html and "0.50" in html and "It wins." in html
    assert "guessed 4 of the last 4 votes" in vote_views.effect([first, later[0]])
    assert "measured here" in vote_views.effect([])


def vote(value: tuple, roles: list) -> Event:
    return Event("e", "ranking", "p", tuple("abcd"[:len(value)]), value, sampling={"roles": roles})


def test_wins_of_the_policy_are_counted_where_the_start_stood_beside_it():
    both = ["policy", "reference", "policy", "policy"]
    votes = [vote((1, 2, 2, 2), both), vote((2, 1, 2, 2), both), vote((1, 1, 2, 2), both), vote((1, 2, 2, 2), ["reference"] * 4),
             Event("t", "thumb", "p", ("a",), "up", sampling={"roles": both}), vote((2, 1), ["policy", "reference"])]
    assert vote_views.duels(votes) == (1.5, 4, 2.75)
    assert "won 1.5 of 4 votes" in vote_views.wins([], votes) and "2.8" in vote_views.wins([], votes)
    assert vote_views.wins([], []) == "" and "75%" in vote_views.wins([{"gold/wins": 0.5}, {"gold/wins": 0.75}, {"step": 3}], votes)


def test_the_formulas_hold_the_numbers_of_the_newest_step():
    row = {"objective/scores": 1.5, "objective/kl_coef": 0.25, "objective/kl": 4.0, "value/explained_variance": 0.5, "policy/clipfrac": 0.125}
    html = vote_views.formulas({"clip": 0.2}, [row | {"objective/scores": 9.0}, row, {"step": 3}])
    assert "1.50 − 0.25 × 4.00 nats = 0.50" in html and "50%" in html and "0.80 to 1.20; 12.5%" in html
    assert "<dl" not in vote_views.formulas({}, [])


def test_the_extremes_are_of_the_newest_samples():
    rows = [{"step": i // 4, "score": float(i), "response": f"answer {i}"} for i in range(60)]
    shown = vote_views.extremes([*rows, {"step": 14, "response": "fixed", "fixed": True}, {"step": 14, "response": "voted", "vote": "tie"}])
    assert [i for i in range(60) if f"answer {i}<" in shown] == [12, 13, 58, 59]
    assert shown.index("answer 59<") < shown.index("answer 58<") < shown.index("answer 13<") < shown.index("answer 12<")


@pytest.mark.parametrize("value, best", [([1, 2, 2], [0]), ([2, 1, 1], [1, 2]), ([1, 1, 1], []), ("tie", []), ("both_bad", [])])
def test_a_simulated_vote_marks_what_was_chosen(value, best):
    html = vote_views.watched("run", {"labeler": "short"}, {"step": 3, "prompt": "p", "responses": ["a", "b", "c"], "vote": value})
    assert [part.startswith(" best") for part in html.split('<article class="answer')[1:]] == [i in best for i in range(3)]
    assert "short answers" in html and "step 3" in html and "<button" not in html
    assert "first 24 votes" in vote_views.watched("run", {"labeler": "x.py:f", "votes_first": 24}, None)


def test_the_status_of_a_vote_says_what_the_trainer_waits_for():
    html = vote_views.vote_status("run", STATUS | {"state": "waiting", "advice": "waiting for 7 more votes"}, 9, 16)
    assert "9 of 16 votes" in html and "waiting for 7 more votes" in html and 'aria-valuenow="9"' in html
    assert "20 votes, 16 were asked for" in vote_views.vote_status("run", STATUS, 20, 16)
    assert "votes are kept" in vote_views.vote_status("run", STATUS | {"state": "failed", "advice": "x"}, 20, 16)
    assert "waiting for 7 more votes" in views.card("run", {"stage": "teach"}, STATUS | {"state": "waiting", "advice": "waiting for 7 more votes"}, [])


def test_a_question_about_two_is_worded_for_two():
    two, four = vote_views.question("p", ("a", "b")), vote_views.question("p", ("a", "", "c", "d"))
    assert "is better" in two and ">Both bad" in two and "vote-3" not in two
    assert "is best" in four and ">All bad" in four and 'id="vote-4"' in four and "an empty answer" in four


def test_a_conversation_shows_who_said_what():
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "a story"}]
    assert formatting.conversation(turns) == "User: hi\n\nAssistant: hello\n\nUser: a story"
    assert formatting.conversation(turns[-1:]) == "a story"


def test_before_anybody_chooses_the_newest_trained_answers_beside_the_bare_model():
    from playground.pages.chat.checkpoints import first_picks
    assert first_picks([("Base", "none"), ("Live", "live"), ("Step 10", "live@step-000010")]) == ("none", "live")
    assert first_picks([("Base", "none")]) == ("none", "none")
