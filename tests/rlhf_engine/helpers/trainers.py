"""Small trainers on the toy models, for the tests of every trainer: data, settings, and functions that make them."""

import torch

from rlhf_engine.config import PPOConfig, RewardConfig
from rlhf_engine.data.readers import Preference
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.reward import RewardTrainer
from tests.conftest import sentences

PAIRS = [Preference(text[:16], text[16:] + " happy", text[16:] + " sad") for text in sentences(96)]
PROMPTS = [text[:18] for text in sentences(24)]
LEARN = {"batch_size": 32, "ppo_epochs": 2, "minibatches": 2, "learning_rate": 2e-2, "value_learning_rate": 1e-3, "kl_coef": 0.01,
         "kl_target": 0.0, "guard": False}
"""Settings with which PPO learns fast on a toy model."""


def without_time(metrics: dict) -> dict:
    """The metrics of a step that are the same whenever the step is repeated."""
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


def low_ids(rollout) -> torch.Tensor:
    """A reward [responses]: the share of low token ids. It is dense, so a toy model learns it in a few steps."""
    return torch.tensor([sum(token < 130 for token in ids) / len(ids) for ids in rollout.response_ids])


def make_reward(path, pairs=PAIRS, **settings) -> RewardTrainer:
    settings = {"steps": 3, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "reference_samples": 12, "max_new_tokens": 8,
                "learning_rate": 5e-3} | settings
    return RewardTrainer(Backbone.load(str(path)), pairs, RewardConfig(**settings))


def make_ppo(path, reward=low_ids, dtype="fp32", backbone=None, **settings) -> PPO:
    settings = {"steps": 4, "batch_size": 8, "lora_rank": 4, "max_tokens": 100, "max_new_tokens": 10, "reference_samples": 16,
                "ppo_epochs": 1, "minibatches": 1, "warmup": 0.0} | settings
    return PPO(backbone or Backbone.load(str(path), dtype=dtype), PROMPTS, reward, PPOConfig(**settings))
