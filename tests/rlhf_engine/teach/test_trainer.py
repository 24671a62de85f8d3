"""The live loop: the reward learns votes, PPO follows the reward, and resuming makes no difference."""

import dataclasses
import json
import math
import random

import pytest
import torch

from rlhf_engine.build import make_trainer
from rlhf_engine.config import TeachConfig
from rlhf_engine.data.readers import read_prompts
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import RandomLabeler, SimulatedLabeler
from rlhf_engine.feedback.queries import Query, select_responses
from rlhf_engine.feedback.scoring_functions import BUILT_IN, find_function
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import as_sampled
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach import outcome
from rlhf_engine.teach import trainer as teach_module
from rlhf_engine.teach.online_reward import SOFT, OnlineReward
from rlhf_engine.teach.reward_fit import VoteGroup, fit, fit_sparse
from rlhf_engine.trainers.state import load_state, save_state
from tests.conftest import sentences
from tests.rlhf_engine.conftest import write_rows
from tests.rlhf_engine.helpers.teach import SMALL, vowels
from tests.rlhf_engine.helpers.teach import make_simulated as make
from tests.rlhf_engine.helpers.trainers import PROMPTS, without_time


def consumed(trainer) -> list[str]:
    return [i for event in trainer.events if event["event"] == "reward" for i in event["consumed"]]


def test_votes_are_asked_consumed_and_counted(tiny_model):
    trainer, seen, counts = make(tiny_model), [], []
    for metrics in trainer:
        seen += consumed(trainer)
        counts.append(metrics["reward/votes"])
        assert all(math.isfinite(value) for value in metrics.values())
    assert counts == [6, 8, 10, 10]  # the first, two a step, and no more than were wanted
    assert len(seen) == len(set(seen)) == 10
    assert [event.id for event in trainer.reward.events] == seen


def test_a_scoring_labeler_says_how_often_the_policy_beats_its_start(tiny_llama):
    trainer, rollouts = make(tiny_llama), []
    told = trainer.learner.reward
    trainer.learner.reward = lambda rollout: rollouts.append(rollout) or told(rollout)
    for metrics in trainer:
        start, now = ([vowels("", text) for text in rollout.responses] for rollout in (rollouts[0], rollouts[-1]))
        assert metrics["gold/score"] == pytest.approx(sum(now) / len(now))
        pairs = [(a > b) + (a == b) / 2 for a in now for b in start]
        assert metrics["gold/wins"] == pytest.approx(sum(pairs) / len(pairs))
    assert len(rollouts) == 1 + SMALL["steps"] and len(rollouts[0]) == 16


def test_what_a_simulated_labeler_was_asked_and_said_can_be_read(tiny_llama):
    trainer, rows = make(tiny_llama, choices=3), []
    for _ in trainer:
        rows += [row for row in trainer.samples if "vote" in row]
        assert all(row["step"] == trainer.step for row in trainer.samples if "vote" in row)
    assert len(rows) == 10 == len(trainer.reward.events)
    for row, event in zip(rows, trainer.reward.events):
        assert (row["prompt"], tuple(row["responses"]), row["vote"]) == (event.prompt, event.responses, event.value)
        scores = [vowels("", text) for text in row["responses"]]
        assert [rank == 1 for rank in row["vote"]] == [score == max(scores) for score in scores]


def test_the_reward_is_normalised_on_the_anchors_and_grows_with_the_votes(tiny_llama):
    trainer = make(tiny_llama, votes_trusted=12)
    for share in (6 / 12, 8 / 12, 10 / 12):
        next(trainer)
        scores = trainer.reward.score(trainer.reward.anchors)
        torch.testing.assert_close(scores.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
        torch.testing.assert_close(scores.std(0, correction=0), torch.full((2,), share), atol=1e-3, rtol=0)


def test_a_reward_that_knows_nothing_is_not_blown_up(tiny_llama):
    trainer = make(tiny_llama, function=lambda prompt, response: 0.0)  # all votes are ties
    next(trainer)
    scores = trainer.reward.score(trainer.reward.anchors)
    assert scores.std(0, correction=0).max() < 0.2


def test_people_who_vote_fast_do_not_keep_ppo_from_its_work(tiny_llama, monkeypatch):
    """Ten micro-batches a second, a query that takes a second, and a person who always wants another: PPO gets half of the time."""
    trainer, clock, drawn = make(tiny_llama), [0.0], []

    def draw() -> None:
        clock[0] += 1.0
        trainer.asked += 1
        drawn.append(clock[0])
    next(trainer)
    monkeypatch.setattr(teach_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(trainer, "ask", draw)
    monkeypatch.setattr(trainer.labeler, "pending_votes", lambda: 0)
    for _ in range(100):
        trainer._on_microbatch()
        clock[0] += 0.1
    assert 0.4 < len(drawn) / clock[0] < 0.55


def test_ties_are_no_reason_to_trust_the_reward(tiny_llama):
    """With a rare trait most votes are ties. Four votes that prefer something must not drive the policy as forty would."""
    reward = OnlineReward(backbone := Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    reward.set_anchors(anchors(backbone))
    ties = [dataclasses.replace(event, id=f"{event.id} tie", value="tie") for event in events_of("comparison", 20, seed=1)]
    reward.learn([*[event for event in events_of("comparison", 40) if not event.tie][:4], *ties])
    spread = reward.score(reward.anchors).std(0, correction=0)
    torch.testing.assert_close(spread, torch.full((2,), 4 / reward.config.votes_trusted), atol=1e-3, rtol=0)


def test_pessimism_takes_the_spread_off(tiny_llama):
    trainer = make(tiny_llama)
    next(trainer)
    scores = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    assert trainer.reward.lower_bound(scores).tolist() == [1.5, 2.0]  # mean 2, standard deviation 1 and 0; 0.5 is the default
    trainer.change("pessimism", 2.0)
    assert trainer.reward.lower_bound(scores).tolist() == [0.0, 2.0]


@pytest.mark.parametrize("enough", [0.0, 0.8])
def test_what_ppo_is_told_of_the_tokens_sums_up_to_the_bent_score(tiny_model, enough):
    trainer = make(tiny_model, score_cap_quantile=enough)
    next(trainer)
    reward, rollout = trainer.reward, trainer.learner.sample_reference()
    told, plain = reward(rollout), reward.lower_bound(reward.score(reward.anchors))  # the anchors are these very samples
    limit = torch.quantile(plain, enough) if enough else math.inf
    bend = [limit - SOFT * math.log1p(math.exp((limit - score) / SOFT)) if enough else score for score in plain.tolist()]
    torch.testing.assert_close(told.sum(1), torch.tensor(bend, dtype=torch.float32), rtol=1e-3, atol=1e-3)
    assert torch.equal(told * rollout.mask, told) and (told != 0).sum() > len(told)
    if enough:
        assert told.sum(1).max() < limit < plain.max()


def test_the_policy_in_use_does_not_change_the_reward(tiny_llama):
    trainer = make(tiny_llama)
    next(trainer)
    rows = trainer.reward.anchors[:4]
    before = trainer.reward.score(rows)
    with torch.no_grad():
        for p in trainer.backbone.parameters("policy"):
            p.add_(1.0)
    with trainer.backbone.use("policy"):
        assert torch.equal(trainer.reward.score(rows), before)


def best_of_four(weights: torch.Tensor, count: int, seed: int) -> list[VoteGroup]:
    """Votes on random features, as `fit` takes them, by a person for whom a response is worth `features @ weights`."""
    features = torch.randn(4, count, len(weights), generator=torch.Generator().manual_seed(seed)) / len(weights) ** 0.5
    order = (features @ weights).argsort(0, descending=True)
    return [VoteGroup("ranking", (1, 2, 2, 2), features.gather(0, order[..., None].expand_as(features)), torch.ones(count, 1))]


def test_the_fit_is_the_most_probable_one():
    """No other weights nearby are more probable. The cost is computed here anew: a choice of one of four, a Gaussian prior."""
    votes = best_of_four(torch.randn(30, generator=torch.Generator().manual_seed(1)), 20, seed=0)
    weights, _, loss = fit(votes, 1)

    def cost(weights):
        logits = votes[0].features @ weights[0]
        return (logits.logsumexp(0) - logits[0]).sum().item() + 0.05 * weights.square().sum().item()  # half of the prior's precision

    assert loss == pytest.approx(cost(weights) - 0.05 * weights.square().sum().item(), rel=1e-4)
    for size in (1e-2, 1e-1, 1.0):
        step = torch.randn(weights.shape, generator=torch.Generator().manual_seed(2))
        for way in (step, -step):
            assert cost(weights + size * way) > cost(weights)


def test_the_few_features_that_matter_are_found_among_many():
    """Forty choices show which three of three hundred features matter. A prior that is the same for all does not find them."""
    truth = torch.zeros(300)
    truth[[5, 120, 270]] = torch.tensor([30.0, 30.0, -30.0])
    votes = best_of_four(truth, 40, seed=0)
    fresh = torch.randn(500, 300, generator=torch.Generator().manual_seed(9))

    def agreement(weights):
        return torch.corrcoef(torch.stack([fresh @ weights[0], fresh @ truth]))[0, 1].item()

    plain, sparse = fit(votes, 1)[0], fit_sparse(votes, 1)[0]
    assert agreement(sparse) > 0.9 > 0.75 > agreement(plain)
    assert set(sparse[0].abs().topk(3).indices.tolist()) == {5, 120, 270}


@pytest.mark.parametrize("count", [3, 40])
def test_fitting_in_the_span_of_what_was_shown_changes_nothing(count):
    """With one prior for all weights, the result is that of `fit`, for fewer and for more responses than features."""
    votes = best_of_four(torch.randn(40, generator=torch.Generator().manual_seed(1)), count, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rlhf_engine.teach.reward_fit.REFITS", 0)
        torch.testing.assert_close(fit_sparse(votes, 1)[0], fit(votes, 1)[0], rtol=1e-2, atol=1e-2)


def test_the_reward_says_which_words_it_likes(tiny_llama):
    reward = OnlineReward(Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    assert reward.top_words() == ([], [])
    reward.set_anchors(anchors(reward.backbone))
    reward.learn(events_of("ranking", 24))
    liked, disliked = reward.top_words(3)
    assert sum(set(word) <= set("aeiou") for word in liked) >= 2 and sum(set(word) <= set("bcdfg") for word in disliked) >= 2
    assert not set(liked) & set(disliked)


def test_a_retracted_vote_counts_no_more(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    reward, other = (OnlineReward(backbone, TeachConfig(**SMALL)) for _ in range(2))
    events = events_of("comparison", 10)
    for one in (reward, other):
        one.set_anchors(anchors(backbone))
    reward.learn(events)
    reward.learn([Event("undo", "retract", value=events[3].id)])
    other.learn([event for event in events if event is not events[3]])
    assert reward.events == other.events
    torch.testing.assert_close(reward.weights, other.weights)


def anchors(backbone) -> list:
    """Rows of texts as `events_of` judges them."""
    texts = [text for event in events_of("comparison", 20, seed=9) for text in event.responses]
    return [(backbone.tokenizer(PROMPTS[0])["input_ids"], backbone.tokenizer(text)["input_ids"]) for text in texts]


def events_of(kind: str, count: int, seed: int = 0) -> list[Event]:
    """Votes of somebody who likes many vowels."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        texts = [" ".join(rng.choices("aeiou" if rng.random() < 0.5 else "bcdfg", k=12)) for _ in range(2)]
        a, b = (vowels("", text) for text in texts)
        if kind == "comparison":
            event = Event(f"{kind} {seed} {i}", kind, PROMPTS[i % 24], tuple(texts), "tie" if a == b else "left" if a > b else "right")
        elif kind == "ranking":
            event = Event(f"{kind} {seed} {i}", kind, PROMPTS[i % 24], tuple(texts), (1, 1) if a == b else (1, 2) if a > b else (2, 1))
        elif kind == "edit":
            event = Event(f"{kind} {seed} {i}", kind, PROMPTS[i % 24], ("b c d f g b c d f g b c",), "a e i o u a e i o u a e")
        else:
            value = ("up" if a > 0.5 else "down") if kind == "thumb" else 7 if a > 0.5 else 1
            event = Event(f"{kind} {seed} {i}", kind, PROMPTS[i % 24], (texts[0],), value)
        found.append(event.validate())
    return found


@pytest.mark.parametrize("kind", ["comparison", "ranking", "thumb", "score", "edit"])
def test_every_kind_of_feedback_teaches_the_reward(tiny_llama, kind):
    backbone = Backbone.load(str(tiny_llama))
    reward = OnlineReward(backbone, TeachConfig(**SMALL))
    prompt = backbone.tokenizer(PROMPTS[0])["input_ids"]
    reward.set_anchors(anchors(backbone))
    reward.learn(events_of(kind, 24))
    good, bad = reward.score([(prompt, backbone.tokenizer(text)["input_ids"]) for text in ("a a e e i i o o u u a a", "b b c c d d f f g g b b")]).mean(-1)
    assert good > bad
    again = reward.learn(events_of(kind, 12, seed=1))  # guessed before they are learned
    assert kind == "score" or again["guessed"] / again["guesses"] > 0.75


def turned_round(events: list[Event]) -> list[Event]:
    return [dataclasses.replace(event, id=f"{event.id} no", value={"left": "right", "right": "left"}.get(event.value, event.value)) for event in events]


def test_people_who_change_their_mind_are_followed(tiny_llama, tmp_path):
    """The opposite of earlier votes is learned within a few votes, and the earlier votes count no more."""
    reward = OnlineReward(backbone := Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    prompt = backbone.tokenizer(PROMPTS[0])["input_ids"]
    rows = [(prompt, backbone.tokenizer(text)["input_ids"]) for text in ("a a e e i i o o u u a a", "b b c c d d f f g g b b")]
    reward.set_anchors(anchors(backbone))
    first = events_of("comparison", 30)
    for i in range(0, 30, 2):
        assert "outdated" not in reward.learn(first[i:i + 2])
    good, bad = reward.score(rows).mean(-1)
    assert good > bad
    second, found = turned_round(events_of("comparison", 30, seed=1)), {}
    for count in range(2, 31, 2):
        if "outdated" in (found := reward.learn(second[count - 2:count])):
            break
    assert found["outdated"] >= 25 and count <= 16 and found["votes"] == 30 + count
    save_state(tmp_path, {"reward": reward.state_dict()})
    again = OnlineReward(backbone, TeachConfig(**SMALL))
    again.load_state_dict(load_state(tmp_path)["reward"])
    for each in (reward, again):
        for i in range(count, 30, 2):
            each.learn(second[i:i + 2])
    good, bad = reward.score(rows).mean(-1)
    assert good < bad and torch.equal(again.score(rows), reward.score(rows))


def test_everybody_has_a_mind_of_their_own_and_may_take_the_change_back(tiny_llama):
    """A person's votes go on counting when somebody else thinks the opposite. A change of mind that is taken back is no change."""
    reward = OnlineReward(backbone := Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    reward.set_anchors(anchors(backbone))
    def of(voter: str, events: list[Event]) -> list[Event]:
        return [dataclasses.replace(event, id=f"{voter} {event.id}", voter=voter) for event in events]
    first, other = of("a", events_of("comparison", 30)), of("b", turned_round(events_of("comparison", 30, seed=1)))
    for i in range(0, 30, 2):
        assert "outdated" not in reward.learn(first[i:i + 2])
    for i in range(0, 30, 2):
        assert "outdated" not in reward.learn(other[i:i + 2]), "b agreed with nobody before"
    reward = OnlineReward(backbone, TeachConfig(**SMALL))
    reward.set_anchors(anchors(backbone))
    second = of("a", turned_round(events_of("comparison", 30, seed=1)))
    for i in range(0, 30, 2):
        reward.learn(first[i:i + 2])
    changed = next(i for i in range(0, 30, 2) if "outdated" in reward.learn(second[i:i + 2]))
    assert reward.outdated and reward.outdated <= {event.id for event in (*first, *second)}
    reward.learn([Event(f"undo {event.id}", "retract", value=event.id, voter="a") for event in second[:changed + 2]])
    assert not reward.outdated and len(reward._counted()) == 30


def test_whoever_wants_the_opposite_has_taught_it_already(tiny_llama, tmp_path):
    """Earlier votes count the other way round: the reward stays as sure as it was, and turns at once."""
    reward = OnlineReward(backbone := Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    reward.set_anchors(anchors(backbone))
    for event in events_of("comparison", 30):
        reward.learn([event])
    before, sure = reward.score(reward.anchors).mean(-1), reward.trust
    second = turned_round(events_of("comparison", 30, seed=1))
    found = next(found for i in range(0, 30, 2) if "outdated" in (found := reward.learn(second[i:i + 2])))
    assert found["opposite"] and found["outdated"] == len(reward.outdated) >= 25 and reward.trust >= sure
    assert torch.corrcoef(torch.stack([before, reward.score(reward.anchors).mean(-1)]))[0, 1] < -0.8
    assert len(reward._learned()) == found["votes"] == len(reward._counted()) + found["outdated"]
    save_state(tmp_path, {"reward": reward.state_dict()})
    state = load_state(tmp_path)["reward"]
    again = OnlineReward(backbone, TeachConfig(**SMALL))
    again.load_state_dict(state)
    assert again.changes_of_mind == reward.changes_of_mind and again._fit() == reward._fit() and torch.equal(again.weights, reward.weights)
    again.load_state_dict(state | {"turns": [row[:2] for row in state["turns"]]})  # as an older run wrote it
    assert len(again._learned()) == found["votes"] - found["outdated"] and again.outdated == reward.outdated


def test_ties_do_not_go_on_because_of_the_queries(tiny_llama, monkeypatch):
    strategies = []

    def select(scores, texts, count, strategy, rng):
        strategies.append(strategy)
        return select_responses(scores, texts, count, strategy, rng)
    monkeypatch.setattr(teach_module, "select_responses", select)
    for function, wanted in ((lambda prompt, response: 0.0, "spread"), (lambda prompt, response: len(response) + vowels(prompt, response), "best")):
        strategies.clear()
        next(make(tiny_llama, votes=12, votes_first=12, function=function))
        assert strategies[-1] == wanted and strategies[0] == "best"


def test_a_few_votes_at_random_change_nobodys_mind(tiny_llama):
    reward = OnlineReward(backbone := Backbone.load(str(tiny_llama)), TeachConfig(**SMALL))
    reward.set_anchors(anchors(backbone))
    events = events_of("comparison", 60)
    noisy = [turned_round([event])[0] if i % 5 == 0 else event for i, event in enumerate(events)]
    assert not any("outdated" in reward.learn(noisy[i:i + 2]) for i in range(0, 60, 2))


def test_members_weigh_the_votes_each_in_its_way(tiny_llama):
    reward = OnlineReward(Backbone.load(str(tiny_llama)), TeachConfig(**SMALL | {"ensemble": 8}))
    weights = torch.stack([reward.bootstrap_weights(event) for event in events_of("thumb", 200)])
    assert weights.mean() == pytest.approx(1.0, abs=0.1) and weights.std() == pytest.approx(1.0, abs=0.15)  # Exponential(1)
    assert torch.equal(weights[0], reward.bootstrap_weights(events_of("thumb", 1)[0]))
    assert not torch.equal(weights[:, 0], weights[:, 1])


def test_a_cut_off_response_has_no_end_token_in_a_vote_either(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    text, = sentences(1, seed=5)
    full = backbone.tokenizer(text, add_special_tokens=False)["input_ids"]
    for longest, ended in ((len(full), False), (len(full) + 1, True)):
        _, response = as_sampled(backbone, PROMPTS[0], text, {"max_new_tokens": longest}, 100)
        assert (response[-1] in backbone.stop_ids) == ended and response[:len(full)] == full


def test_resuming_makes_no_difference(tiny_model, tmp_path):
    whole = make(tiny_model)
    expected = [without_time(next(whole)) for _ in range(4)]
    first = make(tiny_model)
    found = [without_time(next(first)) for _ in range(2)]
    first.save(tmp_path)
    second = make(tiny_model)
    second.load(tmp_path)
    found += [without_time(next(second)) for _ in range(2)]
    assert found == expected
    for role in ("policy", "reward"):
        ours, theirs = second.backbone.named_parameters(role), whole.backbone.named_parameters(role)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.reward.events == whole.reward.events and second.asked == whole.asked


def test_the_policy_follows_the_votes(tmp_path, monkeypatch, short_outcomes):
    """It learns from votes alone: PPO never gets the score. On the bundled model."""
    monkeypatch.setattr(outcome, "SAMPLES", short_outcomes)
    config = TeachConfig(steps=10, batch_size=32, max_new_tokens=24, votes=24, votes_first=16, votes_per_step=4, candidates=8, ensemble=4,
                         reference_samples=64, labeler="sentiment",
                         data=str(write_rows(tmp_path / "prompts.jsonl", [{"prompt": row} for row in read_prompts("bundled", limit=60)])))
    trainer = make_trainer(config)
    for _ in trainer:
        pass
    report = trainer.report()
    assert report["win_rate_low"] > 0.5 and report["win_rate_low"] <= report["win_rate"] <= report["win_rate_high"]
    assert report["votes"] == 24 and report["samples"] >= 256 and report["seconds"] > 0 and report["kl"] > 0.5


# -- labelers ---------------------------------------------------------------------------------------------------------------

def query(number: int, *responses: str) -> Query:
    return Query(f"q{number}", "Say something", responses, (0.0,) * len(responses), 1, {})


def test_a_simulated_voter_chooses_by_its_function():
    voter = SimulatedLabeler(lambda prompt, response: len(response))
    for number, (responses, kind, value) in enumerate([
            (("aa", "b"), "comparison", "left"), (("a", "bb"), "comparison", "right"), (("a", "b"), "comparison", "tie"),
            (("a", "bb", "ccc", "d"), "ranking", (2, 2, 1, 2)), (("aa", "bb", "c"), "ranking", (1, 1, 2)), (("a", "b", "c"), "ranking", (1, 1, 1))]):
        voter.ask(query(number, *responses))
        event, = voter.new_events()
        assert (event.validate().kind, event.value) == (kind, value)
        assert event.tie == (len(set(scores := [len(r) for r in responses])) == 1 and len(scores) > 1)
    assert voter.new_events() == []


@pytest.mark.parametrize("count", [2, 4])
def test_noise_is_a_share_of_votes_at_random(count):
    responses = ["a" * (i + 1) for i in range(count)]
    voter = SimulatedLabeler(lambda prompt, response: len(response), noise=0.4, seed=1)
    wrong = sum(voter.vote(query(number, *responses)).ranks[-1] != 1 for number in range(1000)) / 1000
    assert wrong == pytest.approx(0.4 * (count - 1) / count, abs=0.04)
    assert voter.vote(query(7, *responses)) == voter.vote(query(7, *responses))  # a resumed run gets the same vote


def test_a_random_voter_reads_nothing_and_has_no_score():
    voter, chosen = RandomLabeler(seed=1), []
    for number in range(400):
        voter.ask(query(number, "the best", "worse", "worse", "worst"))
        event, = voter.new_events()
        assert event.validate().kind == "ranking" and sorted(event.ranks) == [1, 2, 2, 2]
        chosen.append(event.ranks.index(1))
    assert {place: chosen.count(place) for place in range(4)} == {place: pytest.approx(100, abs=30) for place in range(4)}
    assert voter.score is None and voter.new_events() == []
    again = RandomLabeler(seed=1)
    again.ask(query(7, "the best", "worse", "worse", "worst"))
    assert again.new_events()[0].ranks.index(1) == chosen[7]  # a resumed run gets the same vote


def test_built_in_labelers_order_texts_as_their_names_say():
    pairs = {"sentiment": ("They laughed and hugged a kind friend in the sun.", "He cried, for the dark was cold and he was scared."),
             "short": ("One two three four five six seven eight nine ten.", "One two three four five six seven eight nine ten eleven twelve."),
             "long": ("One two three.", "One two."), "dialogue": ('She said, "Come in, my friend, come in!"', "She said that he should come in.")}
    assert set(pairs) == set(BUILT_IN)
    for name, (better, worse) in pairs.items():
        assert find_function(name)("", better) > find_function(name)("", worse)
    assert BUILT_IN["short"]("", "") < BUILT_IN["short"]("", pairs["short"][1])  # saying nothing is not short
    dog = find_function("keyword=dog")
    assert dog("", "A dog and a Dog.") > dog("", "A cat and a dogma.") == 0


@pytest.mark.parametrize("spec", ["", "nobody", "keyword=", "keyword=two words", "keyword", "no-such.py:f"])
def test_other_labelers_are_refused(spec):
    with pytest.raises(UserError):
        find_function(spec)


# -- from the command line --------------------------------------------------------------------------------------------------

REPORT = {"votes", "ties", "seconds", "win_rate", "win_rate_low", "win_rate_high", "kl", "kl_per_token", "perplexity_ratio", "distinct_ratio",
          "empty"}


def flags(inputs, **changed) -> list:
    given = SMALL | {"steps": 3} | changed
    return ["teach", "--data", inputs / "prompts.jsonl", *[x for name, value in given.items() for x in (f"--{name.replace('_', '-')}", value)]]


def test_teach_from_the_command_line(cli, tiny_llama, inputs, tmp_path):
    code, out, err = cli(*flags(inputs), "--model", tiny_llama, "--labeler", f"{inputs / 'score.py'}:vowels", "--output", tmp_path / "run")
    assert code == 0, err
    run = Run(tmp_path / "run")
    assert set(run.report()) >= REPORT and run.report()["votes"] == 10
    assert run.status()["state"] == "done" and len(run.metrics()) == 3
    roles = {p.name for p in (run.path / "checkpoints" / "last").iterdir() if p.is_dir()}
    assert roles == {"policy"}  # of a fresh policy the reference is the bare base, and the value is a head on the policy
    updates = [row for row in run.journal() if row["event"] == "reward"]
    assert [len(row["consumed"]) for row in updates] == [6, 2, 2] and {"guessed", "guesses", "drift", "votes"} <= set(updates[0])
    json.dumps(run.report(), allow_nan=False)


def test_fewer_candidates_than_are_shown_are_refused():
    with pytest.raises(UserError, match="--candidates is 2, fewer than the 4"):
        TeachConfig(candidates=2).validate()


@pytest.mark.parametrize(("labeler", "words"), [("", "--labeler is ''"), ("nobody", "keyword=WORD"), ("gone.py:f", "no such file")])
def test_a_labeler_that_is_none_is_refused_before_anything_is_written(cli, tiny_llama, inputs, tmp_path, labeler, words):
    code, out, err = cli(*flags(inputs), "--model", tiny_llama, "--labeler", labeler, "--output", tmp_path / "run")
    assert code == 2 and words in err and len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
