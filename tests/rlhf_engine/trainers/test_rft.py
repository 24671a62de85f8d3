"""Rejection-sampling fine-tuning: what is kept, where the updates start, that it learns, and state that survives."""

import json
import signal

import pytest
import torch

from rlhf_engine.config import RFTConfig
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.compare import mean_logprob
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.reward_functions import FunctionReward
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import make_config
from rlhf_engine.trainers.rft.selection import (
    ScoredSample,
    best_of_each,
    choose,
    drop_duplicates,
    pack_samples,
    top_of_all,
    unpack_samples,
    worth_keeping,
)
from rlhf_engine.trainers.rft.trainer import RFT
from tests.commands import Command, run_process
from tests.conftest import sentences
from tests.rlhf_engine.helpers.trainers import low_ids, make_reward, without_time

PROMPTS = [text[:18] for text in sentences(12)]


def make(path, reward=low_ids, with_policy=False, prompts=PROMPTS, **settings) -> RFT:
    settings = {"rounds": 2, "samples": 4, "batch_size": 4, "epochs": 1.0, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 6,
                "sample_batch": 16, "reference_samples": 6, "learning_rate": 5e-3, "warmup": 0.0, "held_out": 0.2} | settings
    backbone = Backbone.load(str(path))
    if with_policy:  # an SFT adapter that is not the identity
        backbone.new_role("policy", rank=4, seed=1)
        for name, parameter in backbone.named_parameters("policy").items():
            parameter.data.normal_(std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return RFT(backbone, list(prompts), reward, RFTConfig(**settings).validate())


def weights(trainer, role="policy") -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.backbone.parameters(role)])


# -- what is kept ------------------------------------------------------------------------------------------------------

def one(prompt, token, score, ended=True) -> ScoredSample:
    return ScoredSample(prompt, (token,), score, ended)


def test_the_best_of_each_prompt():
    samples = [one(0, 1, 1.0), one(1, 1, 3.0), one(0, 2, 2.0), one(0, 3, 2.0), one(1, 2, -1.0)]
    assert best_of_each(samples) == [one(0, 2, 2.0), one(1, 1, 3.0)]


def test_the_top_of_all():
    samples = [one(0, 1, 1.0), one(1, 1, 3.0), one(0, 2, 2.0), one(2, 3, 2.0)]
    assert top_of_all(samples, 3) == [one(1, 1, 3.0), one(0, 2, 2.0), one(2, 3, 2.0)]


def test_duplicates_are_those_of_the_same_prompt():
    assert drop_duplicates([one(0, 1, 1.0), one(1, 1, 1.0), one(0, 1, 1.0), one(0, 2, 1.0)]) == [one(0, 1, 1.0), one(1, 1, 1.0), one(0, 2, 1.0)]


def test_the_worst_and_what_was_cut_off_is_never_kept():
    samples = [one(0, 1, 0.0), one(0, 2, 1.0), one(1, 3, 0.0), one(1, 4, 1.0, ended=False)]
    assert worth_keeping(samples, 0.0, ended_only=False) == [samples[1], samples[3]]
    assert worth_keeping(samples, 0.0, ended_only=True) == [samples[1]]
    assert worth_keeping(samples, 1.0, ended_only=False) == []


def test_earlier_rounds_stay_in_the_choice():
    before = [one(0, 1, 2.0), one(1, 1, 2.0)]
    samples = [one(0, 2, 1.0), one(1, 2, 3.0), one(2, 2, 0.5), one(0, 3, 2.0)]
    assert choose(samples, before, keep="best", count=9) == [one(0, 1, 2.0), one(1, 2, 3.0), one(2, 2, 0.5)], "of a tie the older one"
    assert choose(samples, before, keep="top", count=2) == [one(1, 2, 3.0), one(0, 1, 2.0)]
    assert choose(samples, [], keep="best", count=9) == [one(0, 3, 2.0), one(1, 2, 3.0), one(2, 2, 0.5)]


def test_samples_come_back_from_a_checkpoint():
    samples = [ScoredSample(3, (5, 6, 7), 0.1, True), ScoredSample(0, (9,), -1e30, False)]
    assert unpack_samples(pack_samples(samples)) == samples and unpack_samples(pack_samples([])) == []


# -- rounds ------------------------------------------------------------------------------------------------------------

def test_a_round_keeps_the_best_and_learns_it_from_the_start(tiny_model):
    trainer = make(tiny_model, with_policy=True, rounds=2)
    start = weights(trainer, "reference")
    metrics, kept = [], []
    for metrics_of_step in trainer:
        metrics.append(metrics_of_step)
        if trainer.updates and trainer.updated == 0:
            kept.append(list(trainer.kept))
            assert torch.equal(weights(trainer), start), "each round begins with the starting checkpoint"
            assert not trainer.optimizer.state
            [event] = [event for event in trainer.events if event["event"] == "kept"]
            assert event["kept"] == len(trainer.kept) and event["round"] == trainer.round
    assert [row["round"] for row in metrics] == [1] * (len(metrics) // 2) + [2] * (len(metrics) // 2)
    assert trainer.step == trainer.total_steps == len(metrics) and not torch.equal(weights(trainer), start)
    assert torch.equal(weights(trainer, "reference"), start)
    assert len(kept) == 2 and {sample.prompt for sample in kept[0]} == set(range(len(trainer.prompts)))
    for earlier, later in zip(kept[0], sorted(kept[1], key=lambda sample: [each.prompt for each in kept[0]].index(sample.prompt))):
        assert later.score >= earlier.score, "of all rounds, the best"
    measured = [row for row in metrics if "objective/kl" in row]
    assert len(measured) == 3 and measured[0]["step"] == 1 and measured[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    assert abs(measured[-1]["objective/kl"]) > 1e-3 and trainer.report()["kl"] == measured[-1]["objective/kl"] and trainer.report()["rounds"] == 2


def test_the_first_update_is_sft_on_the_kept_responses_under_the_start(tiny_model):
    """By transformers' own logits, one row at a time."""
    trainer = make(tiny_model, with_policy=True, batch_size=64)
    for _ in iter(lambda: trainer.updates, 1):
        next(trainer)
    total, tokens = 0.0, 0
    for sample in trainer.kept:
        prompt = trainer.encoded[sample.prompt].ids
        with torch.no_grad(), trainer.backbone.use("reference"):
            logprobs = trainer.backbone.base(input_ids=torch.tensor([prompt + list(sample.ids)])).logits[0].float().log_softmax(-1)
        total -= sum(logprobs[len(prompt) - 1 + i, token].item() for i, token in enumerate(sample.ids))
        tokens += len(sample.ids)
    assert next(trainer)["loss/train"] == pytest.approx(total / tokens, rel=1e-4)


def test_the_samples_are_those_of_the_newest_policy(tiny_llama):
    """They are far likelier under the policy that was trained than under the start."""
    trainer = make(tiny_llama, learning_rate=5e-2, epochs=12.0)
    for _ in iter(lambda: trainer.updated == trainer.updates > 0, True):
        next(trainer)
    trained = weights(trainer)
    next(trainer)
    assert trainer.round == 2 and torch.equal(weights(trainer), trained)
    prompt_ids, response_ids = [trainer.encoded[each.prompt].ids for each in trainer.collected], [list(each.ids) for each in trainer.collected]
    under = [mean_logprob(trainer.backbone, role, prompt_ids, response_ids, 8) for role in ("policy", "reference")]
    assert under[0] > under[1] + 0.5


def test_it_learns(tiny_llama):
    trainer = make(tiny_llama, rounds=3, epochs=12.0, learning_rate=2e-2, samples=32, sample_batch=320, reference_samples=64, held_out=0.0)
    scores = [row["objective/scores"] for row in trainer if "objective/scores" in row]
    assert scores[-1] > scores[0] + 0.1 and len(scores) == 4


def test_top_share_and_fewer_prompts(tiny_llama):
    trainer = make(tiny_llama, keep="top", top_share=0.25, round_prompts=5, all_rounds=False, samples=6)
    rounds = []
    for _ in trainer:
        if trainer.updates and trainer.updated == 0:
            [event] = [event for event in trainer.events if event["event"] == "kept"]
            rounds.append(event)
            assert len({sample.prompt for sample in trainer.kept}) <= 5
    assert len(rounds) == 2
    for event in rounds:
        assert event["kept"] == -(-event["samples"] // 4) and event["kept_score_mean"] > event["score_mean"] and event["earlier"] == 0
    assert {i for batch in trainer.batches() for i in batch} != set(range(len(trainer.prompts)))


def test_of_a_yes_or_no_rule_nothing_that_fails_is_kept(tiny_llama):
    trainer = make(tiny_llama, reward=lambda rollout: torch.tensor([float(ids[0] % 3 == 0) for ids in rollout.response_ids]), samples=6)
    for _ in trainer:
        assert all(sample.score == 1.0 for sample in trainer.kept)
    assert trainer.kept


def test_a_reward_that_tells_nothing_apart_is_one_line(tiny_llama):
    trainer = make(tiny_llama, reward=lambda rollout: torch.zeros(len(rollout)))
    next(trainer)
    assert [event["kind"] for event in trainer.events if event["event"] == "warning"] == ["scores_alike"]
    with pytest.raises(UserError, match="nothing to learn from: all .* samples of round 1 score the same"):
        list(trainer)


def test_a_later_round_without_a_good_sample_learns_what_was_kept(tiny_llama):
    trainer = make(tiny_llama, rounds=2)
    for _ in iter(lambda: trainer.updated == trainer.updates > 0, True):
        next(trainer)
    kept = list(trainer.kept)
    trainer.reward = lambda rollout: torch.full((len(rollout),), -5.0)
    told = []
    for _ in trainer:
        told += [event.get("kind") for event in trainer.events]
    assert "nothing_kept" in told and trainer.kept == kept


def test_responses_that_do_not_end(tiny_llama):
    found = {}
    for mode in ("auto", "drop", "keep"):
        trainer = make(tiny_llama, missing_end=mode, max_new_tokens=30, samples=32, sample_batch=64)
        for _ in trainer:
            if trainer.updates:
                break
        found[mode] = trainer.kept
    assert found["auto"] == found["keep"] and not all(sample.ended for sample in found["keep"]), "most of them do not end here"
    assert found["drop"] and all(sample.ended for sample in found["drop"])


def test_repeated_prompts_are_answered_once(tiny_llama):
    trainer = make(tiny_llama, prompts=[*PROMPTS, *PROMPTS[:4]])
    assert any("4 prompts repeat others" in note for note in trainer.data_notes)
    assert len(trainer.prompts) + trainer.held_out == len(set(PROMPTS))


def test_a_reward_model_scores_and_stays(tiny_llama, tmp_path):
    make_reward(tiny_llama).save(tmp_path)
    from rlhf_engine.rollout.reward_functions import RewardModel
    backbone = Backbone.load(str(tiny_llama))
    backbone.load_role("reward", tmp_path / "reward", head=True)
    before = [p.detach().clone() for p in backbone.parameters("reward")]
    config = RFTConfig(rounds=1, samples=3, max_new_tokens=6, max_tokens=100, reference_samples=4, batch_size=4).validate()
    trainer = RFT(backbone, list(PROMPTS[:6]), RewardModel(backbone), config)
    list(trainer)
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.parameters("reward")))
    trainer.save(tmp_path / "checkpoint")
    assert {folder.name for folder in (tmp_path / "checkpoint").iterdir() if folder.is_dir()} == {"policy", "reward"}


# -- state -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("with_policy", [True, False])
def test_a_run_that_goes_on_from_any_step_gives_the_same_metrics(tiny_llama, tmp_path, with_policy):
    """Between two batches of samples, at the choice, and between two updates."""
    settings = {"with_policy": with_policy, "prompts": PROMPTS[:8], "sample_batch": 8}
    whole = make(tiny_llama, **settings)
    expected = [without_time(m) for m in whole]
    first = make(tiny_llama, **settings)
    for step in range(1, len(expected)):
        assert without_time(next(first)) == expected[step - 1]
        first.save(tmp_path / str(step))
    for step in range(1, len(expected), 2):
        resumed = make(tiny_llama, **settings)
        resumed.load(tmp_path / str(step))
        assert [without_time(m) for m in resumed] == expected[step:]
        assert torch.equal(weights(resumed), weights(whole))


def test_made_longer_it_is_a_run_of_that_length(tiny_llama):
    longer = make(tiny_llama, rounds=2)
    rows = [without_time(m) for m in longer]
    with pytest.raises(UserError, match="ask for more"):
        longer.change("rounds", 1)
    longer.change("rounds", 3)
    assert longer.total_steps > longer.step
    rows += [without_time(m) for m in longer]
    assert rows == [without_time(m) for m in make(tiny_llama, rounds=3)]


def test_micro_batches_give_the_same_run(tiny_llama):
    found = []
    for settings in ({}, {"micro_batch": 1}, {"gradient_checkpointing": True}):
        trainer = make(tiny_llama, rounds=1, **settings)
        list(trainer)
        found.append(weights(trainer))
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-3, atol=2e-4)


def test_bad_settings_are_one_line(tiny_llama):
    with pytest.raises(UserError, match="no prompts"):
        RFT(Backbone.load(str(tiny_llama)), [], FunctionReward(lambda p, r: 0.0))
    with pytest.raises(UserError, match="of which none is the best"):
        make_config("rft", {"samples": 1})
    with pytest.raises(UserError, match="--top-share is 0"):
        make_config("rft", {"top_share": 0})


# -- the command -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def command(tiny_llama, inputs) -> list:
    return ["rft", "--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--limit", 12, "--reward", f"{inputs / 'score.py'}:vowels",
            "--rounds", 2, "--samples", 4, "--sample-batch", 8, "--batch-size", 4, "--lora-rank", 2, "--max-tokens", 100,
            "--max-new-tokens", 6, "--reference-samples", 4, "--checkpoint-every", 2, "--keep-checkpoints", 0]


def test_killed_in_the_middle_of_a_round_it_ends_as_if_it_never_was(command, tmp_path):
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "run")
    run_process(*command, "--output", whole.path, log=tmp_path / "log")
    assert whole.status()["state"] == "done" and whole.report()["rounds"] == 2 and whole.samples()
    rows = whole.metrics()
    sampling = next(row["step"] for row in rows if row["round"] == 2 and "samples/score" in row) + 2
    updating = next(row["step"] for row in rows if "loss/train" in row) + 2
    more = []
    for moment in (updating, sampling):
        process = Command(*command, "--output", run.path, *more, log=tmp_path / "log")
        process.kill_when(lambda moment=moment: run.exists() and len(run.metrics()) >= moment)
        assert process.process.exitcode == -signal.SIGKILL
        more = ["--resume"]
    run_process("rft", "--output", run.path, "--resume", log=tmp_path / "log")
    assert [without_time(row) for row in run.metrics()] == [without_time(row) for row in rows]
    assert run.samples() == whole.samples() and json.dumps(run.report()["kl"]) == json.dumps(whole.report()["kl"])
    last, theirs = run.last_checkpoint(), whole.last_checkpoint()
    for file in sorted(theirs.rglob("*.*")):
        assert file.read_bytes() == (last / file.relative_to(theirs)).read_bytes(), file


def test_the_command_line(cli, command, tmp_path):
    code, out, err = cli(*command, "--output", tmp_path / "run", "--rounds", 1, "--epochs", 0.5)
    assert code == 0 and "done after" in out, err
    code, out, err = cli("rft", "--output", tmp_path / "run", "--resume")
    assert code == 0 and "ask for more (--rounds)" in out
    code, out, err = cli("rft", "--output", tmp_path / "run", "--resume", "--rounds", 2)
    assert code == 0 and Run(tmp_path / "run").report()["rounds"] == 2
    for flags, says in ((["--reward", ""], "--reward is missing"), (["--samples", 1], "none is the best"), (["--epochs", 0], "--epochs is 0")):
        code, out, err = cli(*command, "--output", tmp_path / "other", *flags)
        assert code == 2 and says in err and err.count("\n") == 1 and not (tmp_path / "other").exists()
