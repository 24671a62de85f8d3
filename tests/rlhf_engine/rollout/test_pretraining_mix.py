"""PPO-ptx: the pretraining mix is the gradient of a plain language-modelling loss, the same for every batch size, and repeatable."""

import json

import pytest
import torch

from rlhf_engine.build import make_trainer
from rlhf_engine.config import PPOConfig, TeachConfig
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.labelers import SimulatedLabeler
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.pretraining_mix import PretrainingMix
from rlhf_engine.stages import make_config
from rlhf_engine.teach.trainer import Teach
from rlhf_engine.trainers.ppo import PPO
from tests.conftest import sentences
from tests.rlhf_engine.conftest import write_rows
from tests.rlhf_engine.helpers.teach import SMALL
from tests.rlhf_engine.helpers.teach import vowels as share_of_vowels
from tests.rlhf_engine.helpers.trainers import PROMPTS, without_time
from tests.rlhf_engine.helpers.trainers import low_ids as vowels

TEXTS = [Demonstration(text[:15], text[15:40 + i]) if i % 2 else Demonstration("", text) for i, text in enumerate(sentences(21, seed=5))]


def make(path, reward=vowels, texts=TEXTS, **settings) -> PPO:
    settings = {"steps": 4, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 10, "reference_samples": 16, "ppo_epochs": 1,
                "minibatches": 1, "warmup": 0.0, "ptx_coef": 1.0, "ptx_rows": 6} | settings
    return PPO(Backbone.load(str(path)), PROMPTS, reward, PPOConfig(**settings), ptx=texts)


def only_text(trainer: PPO) -> PPO:
    """Nothing to learn from the responses: what gradient there is comes from the text."""
    trainer.advantages = lambda rollout, *rest: (torch.zeros_like(rollout.mask), rollout.values)
    return trainer


def first_gradient(trainer: PPO) -> tuple[dict, dict]:
    """The policy's gradients in the first optimiser step, and the metrics of the first step."""
    found, step = {}, trainer.optimizer.step

    def keep():
        found.update({n: p.grad.clone() for n, p in trainer.backbone.named_parameters("policy").items() if p.grad is not None})
        step()

    trainer.optimizer.step = keep
    return found, next(trainer)


def test_no_coefficient_is_no_mix_to_the_bit(tiny_llama):
    settings = {"ptx_coef": 0.0, "ppo_epochs": 2, "minibatches": 2}
    plain, other = make(tiny_llama, texts=(), **settings), make(tiny_llama, **settings)
    for metrics in plain:
        assert without_time(next(other)) == without_time(metrics) and "loss/ptx" not in metrics
    ours, theirs = other.backbone.named_parameters("policy"), plain.backbone.named_parameters("policy")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_gradient_is_that_of_the_mean_loss_a_token(tiny_model):
    """Against transformers' own loss: PPO has no gradient here, so the policy's is that of the text alone, times the coefficient."""
    trainer = only_text(make(tiny_model, ptx_coef=0.5, max_grad_norm=0.0))
    rows = [trainer.mix.rows[i] for i in trainer.mix.rows_at(1, 0)]
    twin = make(tiny_model)
    with twin.backbone.use("policy"):
        total = 0.0
        for row in rows:
            labels = torch.tensor([[-100] * len(row.prompt_ids) + row.completion_ids])
            total = total + twin.backbone.base(input_ids=torch.tensor([row.ids]), labels=labels).loss * len(row.completion_ids)
        loss = total / sum(len(row.completion_ids) for row in rows)
        (0.5 * loss).backward()
    found, metrics = first_gradient(trainer)
    assert metrics["loss/ptx"] == pytest.approx(loss.item(), rel=1e-4)
    expected = {n: p.grad for n, p in twin.backbone.named_parameters("policy").items() if p.grad is not None}
    assert expected and max(g.abs().max() for g in expected.values()) > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)


def test_it_is_added_to_ppo_s_gradient(tiny_llama):
    both, ppo, text = (make(tiny_llama, ptx_coef=coef, max_grad_norm=0.0) for coef in (2.0, 0.0, 2.0))
    (both, _), (ppo, _), (text, _) = map(first_gradient, (both, ppo, only_text(text)))
    assert max(g.abs().max() for g in ppo.values()) > 1e-4
    for name in ppo:
        torch.testing.assert_close(both[name], ppo[name] + text[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("micro", [1, 4])
def test_micro_batches_and_copies_of_the_text_change_nothing(tiny_model, micro):
    whole, _ = first_gradient(make(tiny_model))
    small, metrics = first_gradient(make(tiny_model, micro_batch=micro))
    assert metrics["loss/ptx"] > 0
    for name, gradient in whole.items():
        torch.testing.assert_close(small[name], gradient, rtol=1e-2, atol=3e-5)


def test_the_same_text_in_more_rows_weighs_the_same(tiny_llama):
    once, _ = first_gradient(make(tiny_llama, texts=TEXTS[:3], ptx_rows=3))
    thrice, _ = first_gradient(make(tiny_llama, texts=TEXTS[:3] * 3, ptx_rows=9))
    for name, gradient in once.items():
        torch.testing.assert_close(thrice[name], gradient, rtol=1e-3, atol=1e-5)


def test_when_memory_runs_out_the_step_begins_again_with_smaller_parts_of_both(tiny_llama):
    fine, tight = (make(tiny_llama, ptx_rows=12) for _ in range(2))
    backward, parts, breaths = tight.mix.backward, [], []

    def limited(part, tokens):
        parts.append(len(part))
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(part, tokens)

    tight.mix.backward, tight.on_microbatch = limited, lambda: breaths.append(len(parts))
    expected, found = first_gradient(fine)[0], first_gradient(tight)[0]
    assert parts == [12, 6, 3] + 6 * [2]
    assert [(e["was"], e["micro_batch"]) for e in tight.events if e["event"] == "memory"] == [(12, 6), (6, 3), (3, 2)]
    assert breaths[-6:] == [4, 5, 6, 7, 8, 9]  # after each part of the text, too
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_only_the_policy_learns_it(tiny_llama):
    trainer = only_text(make(tiny_llama, learning_rate=1e-2))
    before = {n: p.clone() for n, p in trainer.backbone.base.named_parameters()}
    metrics = list(trainer)
    moved = {n for n, p in trainer.backbone.base.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".policy." in name for name in moved)  # the value has nothing to learn here, and the text is not its
    assert metrics[-1]["loss/ptx"] < metrics[0]["loss/ptx"]


def test_temperature_is_not_for_text(tiny_llama):
    assert next(make(tiny_llama, temperature=0.5))["loss/ptx"] == pytest.approx(next(make(tiny_llama))["loss/ptx"], rel=1e-5)


# -- which rows, and when ---------------------------------------------------------------------------------------------------

def test_every_optimiser_step_has_rows_of_its_own_and_all_come_once_an_epoch(tiny_llama):
    mix = make(tiny_llama, ppo_epochs=2, minibatches=2, ptx_rows=7, steps=40).mix
    assert len(mix.rows) == 21
    drawn = [mix.rows_at(step, update) for step in (1, 2, 3) for update in range(4)]
    for epoch in range(4):
        assert sorted(i for rows in drawn[3 * epoch:3 * epoch + 3] for i in rows) == list(range(21))
    assert drawn[:3] != drawn[3:6]
    other = make(tiny_llama, ppo_epochs=2, minibatches=2, ptx_rows=7, steps=40, seed=1).mix
    assert [row.ids for row in other.rows] != [row.ids for row in mix.rows]


def test_a_run_asks_for_the_rows_of_each_of_its_optimiser_steps(tiny_llama):
    trainer, asked = make(tiny_llama, steps=2, ppo_epochs=2, minibatches=2, max_new_tokens=4), []
    drawn = trainer.mix.rows_at
    trainer.mix.rows_at = lambda step, update: asked.append((step, update)) or drawn(step, update)
    list(trainer)
    assert asked == [(step, update) for step in (1, 2) for update in range(4)]


def test_no_more_text_is_kept_than_a_run_uses(tiny_llama):
    assert len(make(tiny_llama, steps=2, minibatches=2, ptx_rows=3).mix.rows) == 2 * 2 * 3


def test_going_on_from_a_checkpoint_gives_the_same_metrics(tiny_llama, tmp_path):
    settings = {"ppo_epochs": 2, "minibatches": 2}
    whole = [without_time(m) for m in make(tiny_llama, **settings)]
    first = make(tiny_llama, **settings)
    head = [without_time(next(first)) for _ in range(2)]
    first.save(tmp_path)
    second = make(tiny_llama, **settings)
    second.load(tmp_path)
    assert head + [without_time(m) for m in second] == whole


@pytest.mark.parametrize("direct", [False, True])
def test_teach_mixes_in_the_same(tiny_llama, direct):
    config = TeachConfig(**SMALL | {"ptx_coef": 1.0, "ptx_rows": 3, "tamer": direct, "steps": 1})
    trainer = Teach(Backbone.load(str(tiny_llama)), PROMPTS, SimulatedLabeler(share_of_vowels), config, ptx=TEXTS)
    assert next(trainer)["loss/ptx"] > 0


# -- data and errors --------------------------------------------------------------------------------------------------------

def test_plain_text_is_learned_whole_and_what_is_too_long_is_counted(tiny_llama):
    backbone, config = Backbone.load(str(tiny_llama)), PPOConfig(ptx_coef=1.0)
    tokenizer = backbone.tokenizer
    text, prompt = "once upon a time there was a dog", "a little cat"
    mix = PretrainingMix(backbone, [Demonstration("", text)], config, 100)
    assert mix.rows[0].completion_ids == tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert mix.rows[0].prompt_ids == [tokenizer.bos_token_id] and mix.tokens([0]) == len(mix.rows[0].completion_ids) and not mix.notes
    cut = PretrainingMix(backbone, [Demonstration("", text * 9), Demonstration(prompt, text)], config, 30)
    assert len(cut.rows) == 2 and all(len(row.ids) <= 30 for row in cut.rows)
    assert "ptx" in cut.notes[0] and "1 of 2 rows were longer than 30 tokens" in cut.notes[0]


def test_from_a_file_to_the_run(cli, tiny_llama, inputs, tmp_path):
    write_rows(tmp_path / "stories.jsonl", [{"text": text} for text in sentences(9, seed=3)])
    code, out, err = cli("ppo", "--model", tiny_llama, "--data", inputs / "prompts.jsonl", "--reward", f"{inputs / 'score.py'}:vowels", "--steps", 2,
                         "--batch-size", 4, "--max-tokens", 10, "--max-new-tokens", 4, "--reference-samples", 4, "--lora-rank", 2,
                         "--ptx-coef", 0.5, "--ptx-data", tmp_path / "stories.jsonl", "--output", tmp_path / "run")
    assert code == 0, err
    assert "of the text mixed in (ptx), 9 of 9 rows were longer than 10 tokens" in out
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 2 and all(row["loss/ptx"] > 0 for row in rows)


@pytest.mark.parametrize(("given", "says"), [
    ({"ptx_coef": -1}, "--ptx-coef is -1.0, but must be at least 0"), ({"ptx_coef": 1, "ptx_data": ""}, "--ptx-data is empty"),
    ({"ptx_coef": 1, "ptx_data": "none.jsonl"}, "--ptx-data none.jsonl: there is no such file"),
    ({"ptx_coef": 1, "ptx_data": "prompts.jsonl"}, "holds no demonstrations"),
    ({"ptx_coef": 1, "ptx_data": "demos.jsonl", "ptx_subset": "a"}, "leave --ptx-subset and --ptx-split out"), ({"ptx_rows": 0}, "--ptx-rows")])
def test_what_cannot_be_mixed_in_is_refused_before_anything_starts(tiny_llama, inputs, tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(inputs)
    with pytest.raises(UserError) as caught:
        make_trainer(make_config("ppo", {"model": str(tiny_llama), "data": "prompts.jsonl", "reward": "score.py:vowels",
                                       "output": str(tmp_path / "run")} | given))
    assert says in str(caught.value) and "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_mix_of_nothing_is_refused(tiny_llama):
    with pytest.raises(UserError, match="--ptx-data"):
        make(tiny_llama, texts=[])


def test_without_a_coefficient_its_data_is_not_even_looked_for(tiny_llama, inputs):
    config = make_config("ppo", {"model": str(tiny_llama), "data": str(inputs / "prompts.jsonl"), "reward": f"{inputs / 'score.py'}:vowels",
                               "ptx_data": "none.jsonl", "steps": 1})
    assert make_trainer(config).mix is None
