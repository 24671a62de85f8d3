"""The settings of the learners that sample: what they share, PPO, and the group learners."""

import typing
from dataclasses import dataclass
from typing import Literal

from rlhf_engine.config.fields import LARGEST, LONGEST, MOST_ROWS, MOST_TOKENS, bounded
from rlhf_engine.config.run import RunConfig
from rlhf_engine.errors import UserError

KL_PER_TOKEN = 0.2
"""Largest KL target in nats per token of the longest response. Above it, text falls apart."""


@dataclass
class PolicyConfig(RunConfig):
    """What learners that sample their own responses need to know, whatever the reward."""

    steps: int = bounded(40, 1, LONGEST, live=True)
    """Steps; each samples `batch_size` responses and learns from them."""
    batch_size: int = bounded(32, 2, MOST_ROWS)
    """Responses (episodes) per step."""
    schedule: Literal["linear", "constant"] = "constant"
    """Learning rate after the warm-up: `linear` falls to zero, `constant` stays. A run that is made longer follows
    the schedule of the new length, warm-up included."""
    max_new_tokens: int = bounded(96, 1, MOST_TOKENS, live=True)
    """Longest response in tokens."""
    temperature: float = bounded(1.0, 0.01, 10.0, live=True)
    """Sampling temperature. The same value divides the logits of policy and reference in training."""
    ppo_epochs: int = bounded(2, 1, 1000)
    """Passes over each rollout; Ziegler et al. use 4, InstructGPT 1."""
    minibatches: int = bounded(2, 1, MOST_ROWS)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes."""
    clip: float = bounded(0.2, 0.0, 10.0, advanced=True)
    """Clip range of the probability ratio (Schulman et al. 2017, eq. 7)."""
    dual_clip: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Largest cost of a token with a negative advantage, in multiples of that advantage (Ye et al. 2020 use 3). 0
    sets no limit."""
    entropy_coef: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Weight of an entropy bonus, per nat a token (Schulman et al. 2017, eq. 9); RLHF papers use none."""
    ptx_coef: float = bounded(0.0, 0.0, LARGEST)
    """Weight of a pretraining mix beside the policy loss, per nat a token of its text (PPO-ptx, Ouyang et al. 2022,
    eq. 2). It makes the policy forget less: 0.1 takes back most of what is lost and keeps half of the reward
    (benchmarks/README.md). 0 mixes nothing in."""
    ptx_data: str = "bundled"
    """The text to mix in: plain text (a column `text`) or demonstrations. `bundled`, a Hub id or a file, as for
    `data`."""
    ptx_subset: str = bounded("", advanced=True)
    """Configuration name of a Hub data set to mix in, if it has several."""
    ptx_split: str = bounded("", advanced=True)
    """Split of a Hub data set to mix in; empty means `train`."""
    ptx_rows: int = bounded(16, 1, MOST_ROWS, advanced=True)
    """Rows of that text in each optimiser step."""
    update_stop: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Ends the passes of a step before a minibatch on which the policy has moved further than this
    (`policy/approxkl`, nats per token). 0 never ends them early."""
    normalise_reward: bool = True
    """Shift and scale the reward to mean 0 and standard deviation 1 on samples of the reference. The KL coefficient
    then means the same for every reward."""
    reward_clip: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Normalised scores are clipped to between minus and plus this; 0 clips nothing."""
    reward_scale: float = bounded(1.0, 0.0, LARGEST, advanced=True)
    """Factor on the normalised score, after clipping."""
    length_penalty: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Taken off the score for each token by which a response is longer than the mean response of the reference."""
    reference_samples: int = bounded(64, 2, MOST_ROWS)
    """Responses of the reference that are sampled to normalise the reward and to decide `missing_end: auto`."""
    missing_end: Literal["auto", "replace", "subtract", "none"] = "auto"
    """What happens to the score of a response that did not end: `replace` sets it to `missing_end_score` (Ziegler et
    al. 2019), `subtract` lowers it by that size, `none` leaves it. `auto` replaces only if most reference samples end
    in time."""
    missing_end_score: float = bounded(-1.0, -LARGEST, LARGEST, advanced=True)
    """The score of, or the penalty for, a response without an end, in normalised reward."""
    kl_coef: float = bounded(0.15, 0.0, LARGEST)
    """Weight of the KL penalty at the start, in normalised reward per nat; 0.15 as in Ziegler et al. 2019."""
    kl_target: float = bounded(6.0, 0.0, LARGEST, live=True)
    """KL to the reference that the controller aims at, in nats per sequence (6 in Ziegler et al. 2019). It is never
    above 0.2 nats a token. 0 keeps `kl_coef` fixed."""
    kl_horizon: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.0, 0.0, 1.0, advanced=True)
    """How far the controller looks ahead along the trend of the KL, as a share of the run's steps. 0 is the rule of
    the paper, which overshoots in short runs."""
    kl_floor: float = bounded(0.0, 0.0, LARGEST, advanced=True)
    """The controller never lowers the coefficient beneath this. A policy that gets its reward below the target is
    then not pushed on towards the target."""
    kl_stop: float = bounded(2.0, 1.0, LARGEST)
    """Hard stop. Above this multiple of the target a step learns from the KL penalty alone; ten such steps in a row
    end the run."""
    guard: bool = True
    """Halve the learning rate while the text falls apart (repetitive, empty, or unlike the reference's). The warning
    comes in any case."""
    rate_scale: typing.ClassVar[float] = 0.2

    def validate(self) -> "PolicyConfig":
        super().validate()
        if self.batch_size // self.minibatches < 1:
            raise UserError(f"--minibatches is {self.minibatches}, more than --batch-size ({self.batch_size})")
        if self.ptx_coef and not self.ptx_data:
            raise UserError(f"--ptx-coef is {self.ptx_coef:g}, but --ptx-data is empty: name the text to mix in, "
                            "or set --ptx-coef 0")
        return self


@dataclass
class ActorCriticConfig(PolicyConfig):
    """What PPO needs to know, whatever the reward: there is a value function beside the policy."""

    value: Literal["adapter", "head", "fitted"] = "adapter"
    """The value function. `adapter` is an adapter of its own that starts from the reward model (Ouyang et al. 2022).
    `head` is a head on the policy's adapter: it takes half the time and learns less per step
    (benchmarks/README.md). `fitted` is a least-squares fit to position and score so far."""
    value_learning_rate: float = bounded(0.0, 0.0)
    """Peak learning rate of Adam on the value adapter and its head; 0 is twice the policy's."""
    value_clip: float = bounded(0.2, 0.0, LARGEST, advanced=True)
    """Clip range of the change of the value."""
    value_coef: float = bounded(0.1, 0.0, LARGEST, advanced=True)
    """Weight of the value loss beside the policy loss."""
    gamma: float = bounded(1.0, 0.0, 1.0, advanced=True)
    """Discount per token; 1 in all RLHF papers."""
    gae_lambda: float = bounded(0.95, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation."""
    whiten_rewards: bool = bounded(False, advanced=True)
    """Divide the per-token rewards of a step by their standard deviation."""


@dataclass
class PPOConfig(ActorCriticConfig):
    """PPO against a reward with a per-token KL penalty to the reference (Ziegler et al. 2019; Ouyang et al. 2022)."""

    reward: str = ""
    """What scores a response: a reward run folder; `sentiment`, `short`, `long`, `dialogue` or `keyword=WORD`; or
    FILE.py:FUNCTION (command line only)."""
    stage: typing.ClassVar[str] = "ppo"


@dataclass
class NLPOConfig(PPOConfig):
    """PPO whose policy chooses among the likely tokens of an older copy of itself (NLPO, Ramamurthy et al. 2022)."""

    top_p: float = bounded(0.9, 0.01, 1.0)
    """The policy chooses among the fewest tokens whose probabilities under its older copy, the mask policy, sum to
    this. 1 sets no mask: that is PPO."""
    mask_refresh: int = bounded(5, 1, LONGEST)
    """Steps after which the mask policy becomes a copy of the policy again."""
    mask_tokens_kept: int = bounded(0, 0, MOST_TOKENS, advanced=True)
    """Tokens that are allowed at least. 0 is one for every 500 of the vocabulary, 100 at most."""
    stage: typing.ClassVar[str] = "nlpo"

    @property
    def masks(self) -> bool:
        """Whether there is a mask."""
        return self.top_p < 1


@dataclass
class GroupSettings:
    """What a learner needs to know that compares the responses to a prompt with one another."""

    group_size: int = bounded(8, 1, MOST_ROWS)
    """Responses to each prompt of a step; `batch_size` is a multiple of it."""
    loss_normaliser: Literal["grpo", "dapo", "dr_grpo"] = "dapo"
    """What the loss is divided by. `grpo`: each response by its own length, so a token of a short response weighs more.
    `dapo`: all by the tokens of the optimiser step (Yu et al. 2025). `dr_grpo`: all by `max_new_tokens` (Liu et al.
    2025)."""
    scale: Literal["auto", "std", "none"] = "auto"
    """Divide the advantages of a group by the standard deviation of its rewards (`std`). Easy and hard prompts then
    weigh as much as others. `auto` does so for the estimator `grpo`, unless the loss is that of `dr_grpo`."""
    clip_high: float = bounded(0.0, 0.0, 10.0, advanced=True)
    """Clip range above 1, if it is to be another than `clip`; 0 takes `clip`. A wider one lets rare tokens grow (DAPO
    has 0.28)."""
    kl_in: Literal["reward", "loss", "corrected"] = "reward"
    """Where the KL penalty stands. `reward`: taken off the reward of a response, as in PPO. `loss`: beside the loss,
    as estimator k3 (GRPO), whose gradient is not that of the KL. `corrected`: the same times the probability ratio,
    whose gradient is."""
    dead_groups: Literal["keep", "drop", "resample"] = "drop"
    """What happens to groups whose rewards are all the same: they say nothing about the policy. `keep`: the KL penalty
    still pulls on them. `drop`: the step learns from the others. `resample`: other prompts take their places, up to
    three times a step (DAPO); such a step takes longer."""
    overlong_tokens: int = bounded(0, 0, MOST_TOKENS, advanced=True)
    """A response that comes so close to `max_new_tokens` loses reward: nothing at that distance, 1 at the end (DAPO).
    0 takes nothing off."""

    def check_groups(self, config: PolicyConfig, estimator: str) -> None:
        """Raises UserError where the batch of `config` cannot be made of whole groups."""
        if estimator != "reinforce++" and self.group_size < 2:
            raise UserError(f"--group-size is {self.group_size}, but {estimator} compares the responses to a prompt "
                            "with one another: give at least 2")
        if config.batch_size % self.group_size:
            raise UserError(f"--batch-size ({config.batch_size}) is no multiple of --group-size ({self.group_size}): a "
                            "step has whole groups")
        groups = config.batch_size // self.group_size
        if config.minibatches > groups:
            raise UserError(f"--minibatches is {config.minibatches}, but a step has {groups} groups (--batch-size / "
                            "--group-size), which stay together")
        if self.overlong_tokens > config.max_new_tokens:
            raise UserError(f"--overlong-tokens ({self.overlong_tokens}) is more than --max-new-tokens "
                            f"({config.max_new_tokens})")


@dataclass
class GroupConfig(GroupSettings, PolicyConfig):
    """A policy from several responses to each prompt: what beats the others of its group becomes more probable.

    No value function is needed (GRPO, Shao et al. 2024; RLOO, Ahmadian et al. 2024; REINFORCE++, Hu 2025).
    """

    reward: str = ""
    """What scores a response: a reward run folder; `sentiment`, `short`, `long`, `dialogue` or `keyword=WORD`; or
    FILE.py:FUNCTION (command line only)."""
    reference_samples: int = bounded(128, 2, MOST_ROWS)
    """Responses of the reference that are sampled, in groups, to normalise the reward and to decide
    `missing_end: auto`."""
    estimator: Literal["grpo", "rloo", "reinforce++"] = "grpo"
    """What a response is compared with. `grpo`: the mean of its group. `rloo`: the mean of the others in its group.
    `reinforce++`: the mean of the whole batch, with rewards token by token; groups do not matter then."""
    batch_size: int = bounded(64, 2, MOST_ROWS)
    """Responses (episodes) per step."""
    ppo_epochs: int = bounded(1, 1, 1000)
    """Passes over each rollout; fresh responses teach more than old ones seen again."""
    kl_coef: float = bounded(0.1, 0.0, LARGEST)
    """Weight of the KL penalty at the start, in normalised reward per nat."""
    kl_lookahead: float = bounded(0.2, 0.0, 1.0, advanced=True)
    kl_floor: float = bounded(0.05, 0.0, LARGEST, advanced=True)
    stage: typing.ClassVar[str] = "grpo"

    def validate(self) -> "GroupConfig":
        super().validate()
        self.check_groups(self, self.estimator)
        return self
