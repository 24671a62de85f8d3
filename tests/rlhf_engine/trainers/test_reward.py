"""The reward model: where it reads, which way it points, how it is normalised, that it learns."""

import dataclasses
import itertools
import math
import random

import pytest
import torch

from rlhf_engine.config import RewardConfig
from rlhf_engine.data.readers import Preference, Ranking
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import member_scores, score_all, score_members
from rlhf_engine.trainers.preferences.comparisons import make_groups, shuffle_labels
from rlhf_engine.trainers.reward import RewardTrainer
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import PAIRS, without_time
from tests.rlhf_engine.helpers.trainers import make_reward as make

TEXTS = sentences(96)


def test_the_score_is_read_at_the_last_token_whatever_pads(tiny_model):
    backbone = make(tiny_model).backbone
    rows = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
    with torch.no_grad(), backbone.use("reward"):
        together = member_scores(backbone, rows)[:, 0]
        for row, score in zip(rows, together):
            last = backbone.hidden(torch.tensor([row]))[0, -1]
            torch.testing.assert_close(backbone.heads["reward"](last), score, rtol=1e-5, atol=1e-5)
        backbone.pad_id = 33
        assert torch.equal(together, member_scores(backbone, rows)[:, 0])
        # Ending in the pad token is no end of the row: with pad == eos that token is where the score is read.
        backbone.pad_id = 8
        assert torch.equal(together, member_scores(backbone, rows)[:, 0])


def test_chosen_is_pushed_above_rejected(tiny_model):
    trainer = make(tiny_model, steps=1, warmup=0.0)
    batch = trainer.groups[:8]
    trainer.groups = batch
    trainer.prepare = trainer.normalise = lambda: None  # raw scores throughout

    def difference():
        with torch.no_grad(), trainer.backbone.use("reward"):
            return torch.sub(*member_scores(trainer.backbone, [g.rows[0] for g in batch] + [g.rows[1] for g in batch]).split(8)).mean().item()

    before = difference()
    next(trainer)
    assert difference() > before


def test_it_learns_which_word_is_preferred_and_reports_held_out_accuracy(tiny_model):
    trainer = make(tiny_model, steps=40, evaluate_every=40, batch_size=16)
    metrics = list(trainer)
    assert metrics[-1]["accuracy/held_out"] >= 0.9
    assert metrics[-1]["loss/held_out"] < metrics[0]["loss/train"]
    flipped = make(tiny_model, [Preference(p.prompt, p.rejected, p.chosen) for p in PAIRS], steps=40, evaluate_every=40, batch_size=16)
    list(flipped)
    rows = [group.rows[0] for group in trainer.held_out]
    ours, theirs = (score_all(t.backbone, rows, batch=16).mean() for t in (trainer, flipped))
    assert ours > theirs


def test_shuffled_labels_are_a_negative_control(tiny_model):
    """The held-out pairs keep their labels, so a reward that has learned nothing is right about half of them."""
    honest, control = make(tiny_model), make(tiny_model, shuffle_labels=True)
    assert [group.pairs for group in control.held_out] == [group.pairs for group in honest.held_out]
    swapped = sum(group.pairs[0].better == 1 for group in control.groups) / len(control.groups)
    assert 0.2 < swapped < 0.8 and all(group.pairs[0].better == 0 for group in honest.groups)
    assert all(group.ranks[group.pairs[0].better] < group.ranks[group.pairs[0].worse] for group in control.groups)
    assert any("drawn at random" in note for note in control.data_notes)


def test_shuffling_moves_the_judgements_of_a_ranking_and_keeps_them_consistent(tiny_llama):
    ranking = Ranking("Say", tuple(f"answer {i}" for i in range(4)), (1.0, 2.0, 2.0, 3.0))
    group = make_groups(Backbone.load(str(tiny_llama)), [ranking], 64)[0][0]
    orders = set()
    for seed in range(40):
        other = shuffle_labels(group, random.Random(seed))
        assert sorted(other.ranks) == sorted(group.ranks) and len(other.pairs) == len(group.pairs)
        for pair in other.pairs:
            better, worse = other.ranks[pair.better], other.ranks[pair.worse]
            assert better == worse if pair.tied else better < worse
        orders.add(other.ranks)
    assert len(orders) == 12  # all orders of four ranks, two of which are equal


def test_normalised_before_and_after(tiny_model):
    trainer = make(tiny_model, steps=4, reference_samples=32)
    stages = []
    for metrics in trainer:
        if metrics["step"] in (1, 4):
            stages.append([e for e in trainer.events if e["event"] == "normalised"])
    assert [e["step"] for stage in stages for e in stage] == [0, 4]
    scores = score_all(trainer.backbone, trainer.anchors, batch=8)
    assert len(trainer.anchors) == 32
    assert scores.mean().item() == pytest.approx(0, abs=1e-4)
    assert scores.std(correction=0).item() == pytest.approx(1, abs=1e-4)


def test_anchors_are_answers_of_the_starting_policy(tiny_llama):
    """The policy's, not the bare base's: a policy that always says one token gives anchors full of it."""
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", rank=4)
    with torch.no_grad():
        for name, p in backbone.named_parameters("policy").items():
            if "lora_B" in name:
                p.normal_(generator=torch.Generator().manual_seed(0))
    trainer = RewardTrainer(backbone, PAIRS, RewardConfig(steps=1, reference_samples=8, max_new_tokens=8, batch_size=4, max_tokens=100))
    base = RewardTrainer(Backbone.load(str(tiny_llama)), PAIRS, RewardConfig(steps=1, reference_samples=8, max_new_tokens=8, batch_size=4, max_tokens=100))
    trainer.prepare()
    base.prepare()
    assert trainer.anchors != base.anchors
    assert not any(p.requires_grad for p in backbone.parameters("policy"))


def test_micro_batches_give_the_same_step(tiny_llama):
    found = [next(make(tiny_llama, micro_batch=micro)) for micro in (0, 3)]
    for name in ("loss/train", "grad_norm", "margin", "accuracy/train"):
        assert found[0][name] == pytest.approx(found[1][name], rel=1e-4)


def test_going_on_from_a_checkpoint_gives_the_same_metrics(tiny_llama, tmp_path):
    whole = [without_time(m) for m in make(tiny_llama, steps=6)]
    first = make(tiny_llama, steps=6)
    head = [without_time(next(first)) for _ in range(3)]
    first.save(tmp_path)
    second = make(tiny_llama, steps=6)
    second.load(tmp_path)
    assert head + [without_time(m) for m in second] == whole


def test_no_preferences_is_a_clear_error(tiny_llama):
    with pytest.raises(UserError, match="no preferences"):
        RewardTrainer(Backbone.load(str(tiny_llama)), [], RewardConfig())


# -- more than pairs ---------------------------------------------------------------------------------------------------

WORDS = ("happy", "good", "sad", "bad")
RANKED = [Ranking(a[:16], tuple(a[16:] + f" {w}" for w in WORDS), (1, 2, 3, 4)) for a in TEXTS[:40]]


def first_loss(path, data, **settings) -> dict:
    return next(make(path, data, held_out=0.0, warmup=0.0, batch_size=8, **settings))


def test_a_ranking_of_two_makes_the_same_step_as_the_pair(tiny_model):
    ranked = [Ranking(p.prompt, (p.rejected, p.chosen), (2, 1)) for p in PAIRS[:8]]
    pairs, groups = first_loss(tiny_model, PAIRS[:8]), first_loss(tiny_model, ranked)
    for name in ("loss/train", "accuracy/train", "margin", "grad_norm"):
        assert groups[name] == pytest.approx(pairs[name], rel=1e-4), name


def test_a_prompt_is_one_batch_element_however_many_responses_were_ranked(tiny_llama):
    trainer = make(tiny_llama, RANKED[:1] + [Ranking(p.prompt, (p.chosen, p.rejected), (1, 2)) for p in PAIRS[8:9]], held_out=0.0, batch_size=2)
    trainer.prepare()
    with torch.no_grad(), trainer.backbone.use("reward"):
        two, four = (member_scores(trainer.backbone, group.rows)[:, 0] for group in sorted(trainer.groups, key=lambda g: len(g.rows)))
    loss = [math.log(1 + math.exp(four[j] - four[i])) for i, j in itertools.combinations(range(4), 2)]
    expected = (sum(loss) / 6 + math.log(1 + math.exp(two[1] - two[0]))) / 2
    assert next(trainer)["loss/train"] == pytest.approx(expected, rel=1e-4)


def test_it_learns_an_order_of_four(tiny_llama):
    trainer = make(tiny_llama, RANKED, steps=30, evaluate_every=30, batch_size=8)
    metrics = list(trainer)
    assert metrics[-1]["accuracy/held_out"] > 0.85 and metrics[-1]["calibration/held_out"] < 0.5
    scores = [score_all(trainer.backbone, [group.rows[i] for group in trainer.held_out], batch=16).mean() for i in range(4)]
    assert scores == sorted(scores, reverse=True)


def test_ties_pull_scores_together(tiny_llama):
    tied = [Ranking(p.prompt, (p.chosen, p.rejected), (1, 1)) for p in PAIRS[:16]]
    trainer = make(tiny_llama, tied, steps=30, held_out=0.0, batch_size=16)

    def gap():
        both = [score_all(trainer.backbone, [group.rows[i] for group in trainer.groups], batch=16) for i in (0, 1)]
        return ((both[0] - both[1]).abs().mean() / torch.cat(both).std()).item()

    trainer.prepare()
    before = gap()
    metrics = list(trainer)
    assert gap() < 0.5 * before and "accuracy/train" not in metrics[0] and metrics[-1]["loss/train"] == pytest.approx(math.log(2), abs=0.01)


def test_margins_come_from_rows_and_from_ratings(tiny_llama):
    rated = [Ranking(p.prompt, (p.chosen, p.rejected), (1, 2), (7, 4)) for p in PAIRS[:8]]
    by_rating = first_loss(tiny_llama, rated, rating_margin=0.5)
    by_row = first_loss(tiny_llama, [dataclasses.replace(p, margin=1.5) for p in PAIRS[:8]])
    assert by_rating["loss/train"] == pytest.approx(by_row["loss/train"], rel=1e-5)
    assert first_loss(tiny_llama, rated)["loss/train"] == pytest.approx(first_loss(tiny_llama, PAIRS[:8])["loss/train"], rel=1e-5)
    assert by_row["loss/train"] > first_loss(tiny_llama, PAIRS[:8])["loss/train"] + 0.5


def test_centring_adds_the_squared_sum_of_a_pair(tiny_llama):
    trainer = make(tiny_llama, PAIRS[:8], held_out=0.0)
    trainer.prepare()
    with torch.no_grad(), trainer.backbone.use("reward"):
        chosen, rejected = (member_scores(trainer.backbone, [group.rows[i] for group in trainer.groups])[:, 0] for i in (0, 1))
    added = first_loss(tiny_llama, PAIRS[:8], centring=0.3)["loss/train"] - first_loss(tiny_llama, PAIRS[:8])["loss/train"]
    assert added == pytest.approx(0.3 * ((chosen + rejected) ** 2).mean().item(), rel=1e-3)


def test_members_of_an_ensemble_differ_and_each_is_normalised(tiny_llama, tmp_path):
    trainer = make(tiny_llama, steps=6, ensemble=3, evaluate_every=3)
    metrics = list(trainer)
    scores = score_members(trainer.backbone, trainer.anchors, batch=8)
    assert scores.shape == (12, 3)
    for member in scores.T:
        assert member.mean().item() == pytest.approx(0, abs=1e-4) and member.std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (scores[:, 0] - scores[:, 1]).abs().max() > 1e-3 and metrics[-1]["spread/held_out"] > 1e-4
    torch.testing.assert_close(score_all(trainer.backbone, trainer.anchors, batch=8), scores.mean(1))
    trainer.backbone.save_role("reward", tmp_path / "reward")
    other = Backbone.load(str(tiny_llama))
    other.load_role("reward", tmp_path / "reward")
    assert torch.equal(score_members(other, trainer.anchors, batch=8), scores)
    other.copy_role("value", "reward")
    assert torch.equal(score_members(other, trainer.anchors, batch=8, role="value"), scores)


def test_members_weigh_the_prompts_differently_and_a_single_one_does_not(tiny_llama):
    assert all(group.weights == [1.0] for group in make(tiny_llama).groups)
    weights = torch.tensor([group.weights for group in make(tiny_llama, PAIRS * 4, ensemble=2).groups])
    assert weights.mean().item() == pytest.approx(1, abs=0.2) and weights.std().item() == pytest.approx(1, abs=0.3)  # Exponential(1)
    assert abs(torch.corrcoef(weights.T)[0, 1]) < 0.3


def test_what_the_report_says_was_measured_on_the_scale_that_was_trained(tiny_llama):
    trainer = make(tiny_llama, steps=4)
    last = list(trainer)[-1]
    report = trainer.report()
    assert report["loss_held_out"] == last["loss/held_out"] and report["calibration_held_out"] == last["calibration/held_out"]
    assert report["pairs"] + report["held_out_pairs"] == len(PAIRS)


def test_a_prompt_stands_on_one_side_of_the_held_out_split(tiny_llama):
    twins = [Preference(p.prompt, f"{p.chosen} {i}", p.rejected) for p in PAIRS[:20] for i in range(3)]
    trainer = make(tiny_llama, twins, held_out=0.3)
    starts = [{tuple(group.rows[0][:5]) for group in groups} for groups in (trainer.groups, trainer.held_out)]
    assert len(trainer.held_out) == 18 and not starts[0] & starts[1]
    assert not make(tiny_llama, [dataclasses.replace(p, prompt="one") for p in PAIRS[:5]]).held_out


def test_responses_that_the_cut_made_equal_are_no_pairs_and_are_counted(tiny_llama):
    """They would pull nowhere, and count as guessed: chosen and rejected would be the same tokens."""
    long = "once upon a time there was " * 20
    pair, tie = Preference("once", long + "the", long + "girl"), Ranking("once", (long + "the", long + "girl"), (1, 1))
    three = Ranking("twice", (long + "the", long + "girl", "a"), (1, 2, 3))
    cut = make(tiny_llama, [*PAIRS[:8], pair, three, tie], max_tokens=40)
    groups = cut.groups + cut.held_out
    assert len(groups) == 10 and sorted(len(group.pairs) for group in groups) == [1] * 9 + [2]
    [ranked] = [group for group in groups if len(group.rows) == 3]
    assert [(each.better, each.worse) for each in ranked.pairs] == [(0, 2), (1, 2)]
    assert cut.data_notes[-1].startswith("2 pairs skipped: both responses are the same tokens")
    assert not any("same tokens" in note for note in make(tiny_llama, [*PAIRS[:8], tie], max_tokens=40).data_notes)
    with pytest.raises(UserError, match="there is nothing to learn from: 1 pair skipped: .*; raise --max-tokens"):
        make(tiny_llama, [pair], max_tokens=12)
