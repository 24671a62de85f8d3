"""Passes of limited size: the gradients are those of one pass, a resumed run keeps its limit, and the journal says it."""

import pytest
import torch

from rlhf_engine.config import PPOConfig, RewardConfig, SFTConfig
from rlhf_engine.data.examples import Demonstration, Preference, Ranking
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches, passes_within
from rlhf_engine.trainers import base, pass_limit
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.reward import RewardTrainer
from rlhf_engine.trainers.sft import SFT
from tests.conftest import sentences

EVENT = {"rows": 2, "longest": 30, "tokens": 60, "need_mb": 7, "free_mb": 9}


def limit(monkeypatch, tokens: int) -> None:
    """Let every trainer choose passes of so many tokens."""
    monkeypatch.setattr(base, "pass_limit", lambda *args, **options: (tokens, EVENT if tokens else None))


def make(kind: str, model, **settings):
    texts = sentences(12)
    longer = [f"{text} {texts[0]}" if i % 3 else text for i, text in enumerate(texts)]
    common = {"seed": 3, "device": "cpu", "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0, **settings}
    backbone = Backbone.load(str(model), dtype="fp32", device="cpu")
    if kind == "sft":
        rows = [Demonstration(text, answer) for text, answer in zip(texts, longer)]
        return SFT(backbone, rows, SFTConfig(batch_size=8, steps=2, held_out=0.2, evaluate_every=1, **common))
    if kind == "reward":
        rows = [Preference(texts[0], a, b) for a, b in zip(texts[1:6], longer[1:6][::-1])]  # they are packed
        rows += [Preference(a, b, c) for a, b, c in zip(texts, longer, texts[1:])]
        rows += [Ranking(texts[2], tuple(texts[3:7]), (1, 2, 2, 4))]
        return RewardTrainer(backbone, rows, RewardConfig(batch_size=8, steps=2, reference_samples=6, evaluate_every=1,
                                                          max_new_tokens=6, ensemble=2, **common))
    reward = lambda rollout: torch.tensor([float(len(text)) for text in rollout.responses])  # noqa: E731
    return PPO(backbone, texts, reward, PPOConfig(batch_size=8, steps=2, reference_samples=8, max_new_tokens=10, **common))


@pytest.mark.parametrize("kind", ["sft", "reward", "ppo"])
def test_a_step_is_the_same_in_small_passes(kind, tiny_llama, monkeypatch, tmp_path):
    limit(monkeypatch, 0)
    whole = make(kind, tiny_llama)
    expected = [next(whole), next(whole)]
    assert not [e for e in whole.events if e["event"] == "passes"]
    limit(monkeypatch, 60)
    small, counts = make(kind, tiny_llama), []
    small.on_microbatch = lambda: counts.append(1)
    found = [next(small)]
    assert [e for e in small.events if e["event"] == "passes"] == [{"event": "passes", "step": 1, **EVENT}]
    small.save(tmp_path)
    found.append(next(small))
    for one, other in zip(expected, found):
        for name in one:
            if not name.startswith("time/"):
                assert other[name] == pytest.approx(one[name], rel=2e-3, abs=2e-4), name
    limit(monkeypatch, 999)  # what another machine would choose
    again = make(kind, tiny_llama)
    again.load(tmp_path)
    assert again.pass_tokens == 60 and again.micro_batch == 0


def test_a_resumed_run_keeps_its_passes_unless_they_do_not_fit(tiny_llama, monkeypatch):
    backbone, config = Backbone.load(str(tiny_llama), dtype="fp32", device="cpu"), SFTConfig(batch_size=64)
    monkeypatch.setattr(pass_limit, "room", lambda device: 1 << 40)
    assert pass_limit.pass_limit(backbone, config, 100, 100) == (0, None)
    assert pass_limit.pass_limit(backbone, config, 100, 100, before=300) == (300, None)
    monkeypatch.setattr(pass_limit, "room", lambda device: 1 << 20)
    tokens, event = pass_limit.pass_limit(backbone, config, 100, 100, before=300)
    assert tokens == 100 and event and event["rows"] == 1 and event["free_mb"] == 1
    assert pass_limit.pass_limit(backbone, config, 100, 100, before=100) == (100, None)
    assert pass_limit.pass_limit(backbone, config, 100, 100, before=0)[0] == 100  # a run of an earlier version


def test_a_set_micro_batch_is_left_alone(tiny_llama, monkeypatch):
    limit(monkeypatch, 60)
    trainer = make("sft", tiny_llama, micro_batch=4)
    next(trainer)
    assert (trainer.micro_batch, trainer.pass_tokens) == (4, 0)


def test_passes_hold_no_more_tokens_than_they_may():
    lengths = [5, 5, 9, 10, 40, 41, 200]
    parts = micro_batches(list(range(7)), 0, lengths.__getitem__, 3, 60)
    assert sum(parts, []) == list(range(7)) and parts[-1] == [6]
    assert all(len(part) == 1 or len(part) * lengths[part[-1]] <= 60 for part in parts)
    mixed = [3, 0, 6, 1, 5, 2, 4]
    parts = passes_within(mixed, 3, lengths.__getitem__, 60)
    assert sum(parts, []) == mixed and max(map(len, parts)) <= 3
    assert all(len(part) == 1 or len(part) * max(lengths[i] for i in part) <= 60 for part in parts)
    assert passes_within(mixed, 3, lengths.__getitem__, 0) == micro_batches(mixed, 3)


def test_a_model_of_unknown_memory_is_taken_for_a_llama_of_its_sizes(tiny_llama, monkeypatch):
    backbone = Backbone.load(str(tiny_llama), dtype="fp32", device="cpu")
    known = pass_limit.loaded_shape(backbone)
    monkeypatch.setattr(backbone.base.config, "model_type", "something-of-2031")
    assert pass_limit.loaded_shape(backbone) == known
