"""DPO in the live loop: what it learns from a vote, by hand, and when it rests."""

import math

import pytest
import torch

from rlhf_engine import measures
from rlhf_engine.feedback.events import Event
from tests.rlhf_engine.helpers.teach import make_simulated


def make(path, **settings):
    return make_simulated(path, **{"learner": "dpo", "learning_rate": 5e-3, "warmup": 0.0, "kl_target": 0.0} | settings)


def event(kind="ranking", value=(1, 2, 2, 2), responses=("one two", "three", "four four", "five"), **more):
    return Event(f"{kind} {value}", kind, "The cat sat", responses, value, sampling={"max_new_tokens": 40}, **more).validate()


@pytest.mark.parametrize(("vote", "pairs"), [
    (event(), [("one two", "three"), ("one two", "four four"), ("one two", "five")]),
    (event("comparison", "right", ("a b", "c d")), [("c d", "a b")]),
    (event("edit", "better text", ("worse text",)), [("better text", "worse text")]),
    (event("comparison", "tie", ("a b", "c d")), []),
    (event("thumb", "up", ("a b",)), []),
])
def test_a_vote_gives_the_pairs_of_what_is_better_and_what_is_worse(tiny_llama, vote, pairs):
    """What shares the last rank of a best-of-four is not equal: nothing was said about it."""
    learner = make(tiny_llama).learner
    found = learner._pairs(vote)
    if not pairs:
        assert found is None
        return
    decode = learner.backbone.tokenizer.decode
    texts = [decode(response, skip_special_tokens=True).strip() for _, response in found.rows]
    assert [(texts[i], texts[j]) for i, j in zip(found.better, found.worse)] == pairs


def test_the_loss_is_ln_2_at_first_and_then_that_of_plain_log_probabilities(tiny_model):
    trainer = make(tiny_model, dpo_beta=0.3)
    learner, vote = trainer.learner, event()
    trainer.prepare_once()
    pairs = learner._pairs(vote)

    def by_hand(role, row):
        ids = torch.tensor([row[0] + row[1]])
        with torch.no_grad(), learner.backbone.use(role):
            logprobs = learner.backbone.base(input_ids=ids).logits[0].float().log_softmax(-1)
        return sum(logprobs[len(row[0]) - 1 + t, token].item() for t, token in enumerate(row[1]))

    with torch.no_grad(), learner.backbone.use("policy"):
        assert learner._loss([pairs])[0].item() == pytest.approx(math.log(2), rel=1e-4)
        for p in learner.backbone.parameters("policy"):
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        loss, stats = learner._loss([pairs])
    ratios = [by_hand("policy", row) - by_hand("reference", row) for row in pairs.rows]
    margins = [ratios[i] - ratios[j] for i, j in zip(pairs.better, pairs.worse)]
    assert loss.item() == pytest.approx(sum(math.log1p(math.exp(-0.3 * margin)) for margin in margins) / 3, rel=1e-3)
    assert stats[measures.MARGIN] == pytest.approx(0.3 * sum(margins) / 3, rel=1e-2, abs=1e-3)


def test_margins_grow_and_the_curves_of_other_learners_are_there(tiny_llama):
    rows = list(make(tiny_llama, steps=6, ppo_epochs=4))
    assert rows[-1][measures.MARGIN] > rows[0][measures.MARGIN] + 0.05
    assert rows[-1][measures.KL] > 0.01 and rows[-1][measures.UPDATES] == 4
    for name in (measures.GOLD_WINS, measures.LENGTH, measures.DISTINCT_RATIO, measures.SCORES, measures.CHOSEN, measures.REJECTED):
        assert name in rows[-1]


def test_an_update_reads_as_many_votes_as_a_batch_has_room_for(tiny_llama, monkeypatch):
    """Minibatches of a few votes each would learn their texts by heart."""
    learner = make(tiny_llama, batch_size=8, choices=2, minibatches=4, ppo_epochs=2)
    read = []
    monkeypatch.setattr(learner.learner, "_learn", lambda batch: read.append(len(batch)) or {measures.LOSS_POLICY: 0.0})
    assert next(learner)[measures.UPDATES] == 2
    votes = sum(not event.tie for event in learner.reward.events)
    assert read == [min(4, votes)] * 2 and votes > 2


def test_micro_batches_give_the_same_update(tiny_llama):
    found = []
    for micro in (0, 1):
        trainer = make(tiny_llama, micro_batch=micro, batch_size=16)
        metrics = next(trainer)
        found.append((metrics[measures.GRADIENT_NORM], [p.detach().clone() for p in trainer.backbone.parameters("policy")]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-3)
    for one, other in zip(found[0][1], found[1][1]):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=3e-5)


def test_it_rests_while_the_kl_is_above_the_target_and_without_votes(tiny_llama):
    trainer = make(tiny_llama, kl_target=1e-6, kl_stop=1e6)
    with torch.no_grad():
        for p in trainer.backbone.parameters("policy"):
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    before = [p.clone() for p in trainer.backbone.parameters("policy")]
    metrics = next(trainer)
    assert metrics[measures.KL] > 1e-6 and metrics[measures.UPDATES] == 0
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.backbone.parameters("policy")))
    alike = make_simulated(tiny_llama, function=lambda prompt, response: 1.0, learner="dpo")
    assert next(alike)[measures.UPDATES] == 0  # nothing but ties


def test_a_vote_that_was_taken_back_is_not_learned_from(tiny_llama):
    trainer = make(tiny_llama)
    next(trainer)
    trainer.reward.events.clear()
    trainer.labeler.queries_wanted = lambda config, asked, step: 0
    assert next(trainer)[measures.UPDATES] == 0


def test_votes_decide_and_not_the_reward(tiny_llama):
    """The same votes, whatever the reward makes of them, give the same update."""
    weights = []
    for scale in (1.0, -50.0):
        trainer = make(tiny_llama)
        trainer.learner.reward = lambda rollout, s=scale, t=trainer: s * t.reward(rollout)
        next(trainer)
        weights.append([p.detach().clone() for p in trainer.backbone.parameters("policy")])
    assert all(torch.equal(p, q) for p, q in zip(*weights))
