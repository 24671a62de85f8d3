"""The setting `tamer`: votes are the scores of the responses that they judge, and nothing else is learned from."""

import pytest
import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.teach.learners.tamer import verdicts
from tests.rlhf_engine.helpers.teach import make_simulated as make


@pytest.mark.parametrize(("kind", "value", "count", "expected"), [
    ("thumb", "up", 1, [1]), ("thumb", "down", 1, [-1]), ("score", 1, 1, [-1]), ("score", 4, 1, [0]), ("score", 7, 1, [1]),
    ("edit", "better", 1, [-1]), ("comparison", "left", 2, [1, -1]), ("comparison", "right", 2, [-1, 1]), ("comparison", "tie", 3, [0, 0, 0]),
    ("comparison", "both_bad", 4, [-1, -1, -1, -1]), ("ranking", (1, 2, 2, 2), 4, [1, -1, -1, -1]), ("ranking", (3, 1, 2), 3, [-1, 1, 0]),
    ("ranking", (1, 1, 1), 3, [0, 0, 0])])
def test_verdicts_by_hand(kind, value, count, expected):
    event = Event("e", kind, "p", tuple("abcdefg"[:count]), value).validate()
    assert verdicts(event) == pytest.approx(expected)


def test_a_step_learns_from_the_responses_that_were_voted_on_and_from_no_others(tiny_model):
    trainer = make(tiny_model, tamer=True, steps=5)
    seen, inner = [], trainer.learner.measure
    trainer.learner.measure = lambda rollout: seen.append(rollout) or inner(rollout)
    counts = [metrics["reward/votes"] for metrics in trainer]
    assert counts == [2, 4, 6, 8, 10]  # spread over the steps, so that each is about the policy as it is
    events = iter(trainer.reward.events)
    for rollout in seen:
        shown = [text for _, event in zip(range(2), events) for text in event.responses]
        # Texts are encoded anew, and what a tiny model writes takes more tokens than it used: they begin alike.
        assert [text.strip()[:3] for text in rollout.responses] == [text.strip()[:3] for text in shown]


def test_the_votes_move_the_policy(tiny_llama):
    trainer = make(tiny_llama, tamer=True, steps=2, learning_rate=1e-3)
    before = [p.clone() for p in trainer.backbone.parameters("policy")]
    for _ in trainer:
        pass
    assert any(not torch.equal(p, q) for p, q in zip(before, trainer.backbone.parameters("policy")))


def test_without_a_vote_nothing_is_learned(tiny_llama):
    trainer = make(tiny_llama, tamer=True, steps=3)
    next(trainer)
    before = [p.clone() for p in trainer.backbone.parameters("policy")]
    trainer.labeler.queries_wanted = lambda config, asked, step: 0
    metrics = next(trainer)
    assert "loss/policy" not in metrics and metrics["reward/votes"] == 4
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.backbone.parameters("policy")))
