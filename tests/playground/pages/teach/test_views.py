"""The HTML of the Teach page."""

import pytest

from playground.components import html as html_views
from playground.pages.teach import views
from rlhf_engine.feedback.events import Event
from tests.playground.conftest import EVIL, RUNNING, assert_inert


@pytest.mark.parametrize("html", [
    views.question(EVIL, (EVIL, EVIL), EVIL), views.question([{"role": EVIL, "content": EVIL}, {"role": "user", "content": EVIL}], (EVIL,) * 4),
    views.no_question(EVIL, EVIL), views.vote_status(EVIL, RUNNING | {"state": "waiting", "advice": EVIL}, 1, 4),
    views.effect([{"event": "reward", "votes": EVIL, "new": 1, "guessed": 1.0, "guesses": 1, "loss": 1.0, "drift": 0.1, "spread": 0.1,
                   "likes": [EVIL], "dislikes": [EVIL]}], 4, EVIL),
    views.fixed([{"step": 0, "prompt": EVIL, "response": EVIL, "fixed": True}, {"step": 5, "prompt": EVIL, "response": EVIL, "fixed": True}]),
    views.watched(EVIL, {"labeler": EVIL}, {"step": EVIL, "prompt": EVIL, "responses": [EVIL, EVIL], "vote": "left"}),
    views.extremes([{"step": i, "score": float(i), "response": EVIL} for i in range(4)])])
def test_what_others_wrote_is_shown_as_text(html):
    assert_inert(html)


def test_the_fixed_prompts_stand_beside_each_other_at_the_start_and_now():
    rows = [{"step": step, "prompt": prompt, "response": f"{prompt} at {step}", "fixed": True} for step in (0, 5, 10) for prompt in ("one", "two")]
    html = views.fixed([*rows, {"step": 12, "prompt": "one", "response": "drawn"}])
    assert "one at 0" in html and "two at 10" in html and "at 5" not in html and "drawn" not in html and "Now (step 10)" in html
    assert html.index("one at 0") < html.index("one at 10") < html.index("two at 0")
    assert "still the policy of the start" in views.fixed(rows[:2]) and "<table" not in views.fixed([])


def test_the_effect_of_votes_is_what_the_journal_measured_last():
    first = {"event": "reward", "votes": 16, "new": 16, "guessed": 0, "guesses": 0, "loss": 1.0, "drift": 0.5, "spread": 0.25}
    assert "there was no order to guess" in views.effect([first]) and "likes" not in views.effect([first])
    assert "By now it likes “red”, “blue”, and dislikes “the”." in views.effect([first | {"likes": ["red", "blue"], "dislikes": ["the"]}])
    later = [first | {"new": 4, "guessed": good, "guesses": 4} for good in (4.0, 0.5, 3.0, 2.0)]
    html = views.effect([first, *later, {"event": "warning", "step": 1, "text": "x"}], 4, "It wins.")
    assert "guessed 5.5 of the last 12 votes (by chance: 1 in 4)" in html and "0.50" in html and "It wins." in html
    assert "guessed 4 of the last 4 votes" in views.effect([first, later[0]])
    assert "measured here" in views.effect([])


def vote(value: tuple, roles: list) -> Event:
    return Event("e", "ranking", "p", tuple("abcd"[:len(value)]), value, sampling={"roles": roles})


def test_wins_of_the_policy_are_counted_where_the_start_stood_beside_it():
    both = ["policy", "reference", "policy", "policy"]
    votes = [vote((1, 2, 2, 2), both), vote((2, 1, 2, 2), both), vote((1, 1, 2, 2), both), vote((1, 2, 2, 2), ["reference"] * 4),
             Event("t", "thumb", "p", ("a",), "up", sampling={"roles": both}), vote((2, 1), ["policy", "reference"])]
    assert views.wins_against_start(votes) == (1.5, 4, 2.75)
    assert "won 1.5 of 4 votes" in views.wins_sentence([], votes) and "2.8" in views.wins_sentence([], votes)
    assert views.wins_sentence([], []) == "" and "75%" in views.wins_sentence([{"gold/wins": 0.5}, {"gold/wins": 0.75}, {"step": 3}], votes)


def test_the_formulas_hold_the_numbers_of_the_newest_step():
    row = {"objective/scores": 1.5, "objective/kl_coef": 0.25, "objective/kl": 4.0, "value/explained_variance": 0.5, "policy/clipfrac": 0.125}
    html = views.formulas({"clip": 0.2}, [row | {"objective/scores": 9.0}, row, {"step": 3}])
    assert "1.50 − 0.25 × 4.00 nats = 0.50" in html and "50%" in html and "0.80 to 1.20; 12.5%" in html
    assert "<dl" not in views.formulas({}, [])


def test_the_extremes_are_of_the_newest_samples():
    rows = [{"step": i // 4, "score": float(i), "response": f"answer {i}"} for i in range(60)]
    shown = views.extremes([*rows, {"step": 14, "response": "fixed", "fixed": True}, {"step": 14, "response": "voted", "vote": "tie"}])
    assert [i for i in range(60) if f"answer {i}<" in shown] == [12, 13, 58, 59]
    assert shown.index("answer 59<") < shown.index("answer 58<") < shown.index("answer 13<") < shown.index("answer 12<")


@pytest.mark.parametrize("value, best", [([1, 2, 2], [0]), ([2, 1, 1], [1, 2]), ([1, 1, 1], []), ("tie", []), ("both_bad", [])])
def test_a_simulated_vote_marks_what_was_chosen(value, best):
    html = views.watched("run", {"labeler": "short"}, {"step": 3, "prompt": "p", "responses": ["a", "b", "c"], "vote": value})
    assert [part.startswith(" best") for part in html.split('<article class="answer')[1:]] == [i in best for i in range(3)]
    assert "short answers" in html and "step 3" in html and "<button" not in html
    assert "first 24 votes" in views.watched("run", {"labeler": "x.py:f", "votes_first": 24}, None)


def test_the_status_of_a_vote_says_what_the_trainer_waits_for():
    html = views.vote_status("run", RUNNING | {"state": "waiting", "advice": "waiting for 7 more votes"}, 9, 16)
    assert "9 of 16 votes" in html and "waiting for 7 more votes" in html and 'aria-valuenow="9"' in html
    assert "20 votes, 16 were asked for" in views.vote_status("run", RUNNING, 20, 16)
    assert "votes are kept" in views.vote_status("run", RUNNING | {"state": "failed", "advice": "x"}, 20, 16)
    assert "waiting for 7 more votes" in html_views.card("run", {"stage": "teach"}, RUNNING | {"state": "waiting", "advice": "waiting for 7 more votes"}, [])


def test_a_question_about_two_is_worded_for_two():
    two, four = views.question("p", ("a", "b")), views.question("p", ("a", "", "c", "d"))
    assert "is better" in two and ">Both bad" in two and "vote-3" not in two
    assert "is best" in four and ">All bad" in four and 'id="vote-4"' in four and "an empty answer" in four
