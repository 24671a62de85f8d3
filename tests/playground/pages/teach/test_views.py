"""The HTML of the Teach page."""

import pytest

from playground.components import html as html_views
from playground.components.formatting import sentence
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


def reward_row(votes: int, predictions: list, **more) -> dict:
    guesses = [value for value in predictions if value is not None]
    return {"event": "reward", "step": 1, "votes": votes, "new": len(predictions), "guessed": sum(guesses), "guesses": len(guesses),
            "predictions": predictions, "drift": 0.5, "spread": 0.25} | more


def test_a_mark_for_each_guess_and_the_share_so_far():
    rows = [reward_row(8, [0.5] * 7 + [None]), reward_row(12, [1.0, 0.0, 1.0, None]), reward_row(14, [1.0, 1.0])]
    html = views.effect(rows, 4)
    assert html.count('<i class="hit">') == 4 and html.count('<i class="miss">') == 1 and html.count('<i class="none">') == 7
    assert "4 of 5 guesses were right: 80% (by chance: 1 in 4)" in html
    assert "marks 1 to 10: 2 of 3; marks 11 to 12: 2 of 2" in html and 'role="img"' in html  # what a screen reader says
    assert "the last" not in html  # the strip says more than the count of the newest
    assert "had no guess" in views.effect(rows[:1], 4)
    assert "guesses" not in views.effect([{name: value for name, value in rows[0].items() if name != "predictions"}])  # of earlier versions


def test_of_many_guesses_the_newest_are_shown():
    html = views.effect([reward_row(128, [1.0, 0.0] * 64)], 2)
    assert html.count('<i class="hit">') == 34 and "The first 60 are left out." in html and "marks 61 to 70: 5 of 10" in html
    assert "64 of 128 guesses were right: 50%" in html


def test_features_are_spoken_of_in_words():
    row = reward_row(20, [1.0], likes=["dog"], dislikes=["cat"])
    assert "likes “dog”" in views.effect([row])
    named = row | {"likes_features": ["about 50 words", "words like dog, cat", "questions", "lists"], "dislikes_features": ["long answers"]}
    html = views.effect([named])
    assert "By now it likes: about 50 words; words like dog, cat; questions." in html and "It dislikes: long answers." in html and "“dog”" not in html
    assert "dislikes" not in views.effect([named | {"dislikes_features": []}])
    assert "likes “dog”" in views.effect([row | {"likes_features": [], "dislikes_features": []}])


def test_a_change_of_mind_and_a_takeover_are_said():
    row = reward_row(60, [1.0], likes_features=["lists"], dislikes_features=[])
    turned = {"event": "turned", "step": 7, "outdated": 22}
    took = {"event": "takeover", "step": 9, "reward": "adapter", "votes": 40, "features_accuracy": 0.5, "adapter_accuracy": 0.725}
    assert "changed its mind" not in views.effect([row]) and "larger" not in views.effect([row])
    html = views.effect([row, turned, took])
    assert "It changed its mind in step 7" in html and "22 older votes count no more" in html
    assert "22 older votes count the other way round now" in views.effect([row, turned | {"opposite": True}])
    assert "opposite of those before" in sentence(turned | {"opposite": True}) and "count no more" in sentence(turned)
    assert "The larger reward took over in step 9: of 40 votes that both predicted, it had guessed 72% right, and the smaller one 50%." in html
    assert "The smaller reward likes: lists." in html and "By now it likes" not in html
    back = took | {"step": 12, "reward": "features", "features_accuracy": 0.8, "adapter_accuracy": 0.6}
    html = views.effect([row, took, back])
    assert "The smaller reward took over again in step 12" in html and "By now it likes: lists." in html
    assert "The larger reward starts anew since step 13" in views.effect([row, took, {"event": "takeover", "step": 13, "reward": "features"}])
    for journal_row in (took, back, {"event": "takeover", "step": 13, "reward": "features"}):
        assert sentence(journal_row).startswith(f"Step {journal_row['step']}: the ")


def test_what_the_journal_says_of_features_is_text():
    for name in ("likes_features", "dislikes_features"):
        assert_inert(views.effect([reward_row(EVIL, [1.0], **{name: [EVIL]}), {"event": "turned", "step": EVIL, "outdated": EVIL}]))


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


@pytest.mark.parametrize(("labeler", "words"), [
    ("short", "short answers"), ("keyword=cat", "keyword=cat"), ("replay=/home/me/runs/first", "the votes of first once more"), ("replay=first", "the votes of first once more"),
    ("/home/me/a=b/score.py:f", "score.py:f"), ("score.py:f", "score.py:f"), ("llm=/home/me/judge", "llm=judge"), ("llm=me/judge", "llm=me/judge")])
def test_a_labeler_is_named_without_the_folders_of_the_machine(labeler, words):
    assert views.labeler_words(labeler) == words
    assert f"({words})" in views.watched("run", {"labeler": labeler}, None)
