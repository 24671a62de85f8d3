"""What the buttons and the API write is parsed in one place."""

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.choices import Choice, best_response, is_annotation, parse_choice
from rlhf_engine.feedback.kinds import KINDS


@pytest.mark.parametrize("text, count, choice", [
    ("1", 2, Choice("comparison", "left", best=1)), ("2", 2, Choice("comparison", "right", best=2)),
    ("3", 4, Choice("ranking", (2, 2, 1, 2), best=3)), ("tie", 4, Choice("comparison", "tie")),
    ("both_bad", 2, Choice("comparison", "both_bad")), ("up:2", 4, Choice("thumb", "up", position=2)),
    ("down:1", 2, Choice("thumb", "down", position=1)), ("score:2:5", 2, Choice("score", 5, position=2)),
    ("edit:2:mine: better", 2, Choice("edit", "mine: better", position=2)), ("edit:1:", 2, Choice("edit", "", position=1))])
def test_a_choice_is_parsed(text, count, choice):
    assert parse_choice(text, count) == choice and is_annotation(text) == bool(choice.position)
    if choice.best:
        assert best_response(choice.best, count) == choice


@pytest.mark.parametrize("text, message", [
    ("0", "must be 1 to 2, tie or both_bad"), ("skip", "must be 1 to 2, tie or both_bad"), ("", "must be 1 to 2"),
    ("love:1", "must be one of up:POSITION, down:POSITION, score:POSITION:1 to 7, edit:POSITION:TEXT"),
    ("up:3", "names no response"), ("up:", "names no response"), (":", "must be one of"), ("up:1:1", "nothing else"),
    ("score:1:8", "must be 1 to 7"), ("score:1", "must be 1 to 7")])
def test_what_is_no_choice_is_refused(text, message):
    with pytest.raises(UserError, match=message):
        parse_choice(text, 2)


def test_every_kind_that_judges_has_a_likelihood():
    from rlhf_engine.teach.likelihood import LIKELIHOODS
    assert set(LIKELIHOODS) == {name for name, kind in KINDS.items() if kind.most}
