"""The settings of the live loop."""

import typing
from dataclasses import dataclass
from typing import Literal

from rlhf_engine.config.fields import LARGEST, LONGEST, MOST_ROWS, bounded
from rlhf_engine.config.policy import ActorCriticConfig, GroupSettings
from rlhf_engine.errors import UserError

LEARNER_TITLES = {"ppo": "PPO", "grpo": "GRPO", "rloo": "RLOO", "dpo": "DPO", "tamer": "PPO"}
GROUP_LEARNERS = ("grpo", "rloo")
"""The learners that compare the responses to a prompt with one another."""


@dataclass
class TeachConfig(GroupSettings, ActorCriticConfig):
    """A learner and a reward that learns from votes between its steps (Ziegler et al. 2019, section 2.3)."""

    labeler: str = ""
    """Who votes: `person` (on the page, or through its API), `sentiment`, `short`, `long`, `dialogue`, `keyword=WORD`;
    `random`, a negative control; `replay=RUN`, the votes of another run once more; on the command line also
    FILE.py:FUNCTION, and a chat model as judge: `judge=MODEL` or `judge=MODEL@URL` (OpenAI-compatible, key in
    OPENAI_API_KEY)."""
    instruction: str = ""
    """What a judge is told to prefer, such as "the happier story". Empty: the more helpful, honest and harmless
    answer."""
    votes: int = bounded(40, 1, LONGEST, live=True)
    """Votes to ask for in all."""
    noise: float = bounded(0.0, 0.0, 1.0)
    """Share of a simulated labeler's votes that are given at random."""
    choices: int = bounded(4, 2, 9)
    """Responses shown at a time. Of two the better is chosen, of more the best."""
    candidates: int = bounded(32, 2, 64)
    """Responses sampled for a query. The ones that teach most are shown."""
    query: Literal["best", "spread", "disagreement", "random"] = "best"
    """How the responses of a query are chosen: `best` takes those of the highest reward (after a tie it does as
    `spread`, so that ties do not go on), `spread` those far apart in reward, `disagreement` those on which the ensemble
    disagrees (Christiano et al. 2017), `random` any."""
    votes_first: int = bounded(24, 1, MOST_ROWS)
    """Votes before the first PPO step, all on responses of the starting policy."""
    votes_per_step: int = bounded(2, 1, MOST_ROWS, advanced=True)
    """Queries asked at each step after that, about the policy of that step."""
    learner: Literal["ppo", "grpo", "rloo", "dpo", "tamer"] = "ppo"
    """What learns. `ppo`, `grpo` and `rloo` sample responses and maximise the reward that the votes teach. `dpo` learns
    from the votes themselves, all of them at each step; the reward then only chooses the questions. `tamer` is PPO on
    the responses that were voted on, each once (Knox & Stone 2009)."""
    dpo_beta: float = bounded(0.1, 1e-4, 100.0, advanced=True)
    """With `learner: dpo`, the strength of the KL penalty that its loss stands for."""
    tamer: bool = bounded(False, advanced=True)
    """The same as `learner: tamer`; runs of earlier versions say it in this way."""
    ensemble: int = bounded(8, 1, 64, advanced=True)
    """Members of the reward, each with its own weighting of the votes. The spread of their scores is its
    uncertainty."""
    adapter_reward_from: int = bounded(50, 0, LONGEST, advanced=True)
    """Votes from which on an adapter, as `reward` trains one, learns them as well. It takes over from the sparse reward
    if it predicts new votes better. It needs more votes and adds to the time of each step; 0 never has one."""
    pessimism: float = bounded(0.5, 0.0, 10.0, live=True)
    """Standard deviations of the ensemble taken off the reward that PPO sees."""
    score_cap_quantile: float = bounded(0.97, 0.0, 1.0)
    """A response that beats this share of the starting policy's responses is good enough: above that the reward
    hardly grows, so that all responses become good instead of a few extreme. 0 sets no cap."""
    patience: int = bounded(8, 1, LONGEST)
    """Steps without a new vote after which PPO waits for one, as long as people have given fewer than `votes`."""
    votes_trusted: int = bounded(20, 1, LONGEST, advanced=True)
    """Votes that tell responses apart (no ties) at which the reward gets its full spread (1 on the reference's
    responses). With fewer votes it gets their share of it."""
    steps: int = bounded(22, 1, LONGEST, live=True)
    """PPO steps; each samples one response to `batch_size` prompts."""
    batch_size: int = bounded(64, 2, MOST_ROWS)
    """Prompts (episodes) per step."""
    ppo_epochs: int = bounded(1, 1, 1000)
    """Passes over each rollout; fresh responses teach more than old ones seen again."""
    minibatches: int = bounded(4, 1, MOST_ROWS)
    """Optimiser steps per pass; each takes `batch_size / minibatches` episodes. `dpo` takes one step per pass, on
    `batch_size / choices` votes."""
    value: Literal["adapter", "head", "fitted"] = "fitted"
    """The value function: `fitted` is a least-squares fit to the position of a token and the score before it, right
    from the first step on; `head` is a head on the policy's adapter; `adapter` is an adapter of its own, which takes
    twice the time."""
    gae_lambda: float = bounded(0.95, 0.0, 1.0, advanced=True)
    """Lambda of generalised advantage estimation."""
    schedule: Literal["linear", "constant"] = "linear"
    """Learning rate after the warm-up: `linear` falls to zero, `constant` stays. A run that is made longer follows
    the schedule of the new length, warm-up included."""
    reference_samples: int = bounded(256, 2, MOST_ROWS)
    """Responses of the starting policy on which the reward is normalised. They also give the words that the reward
    can tell apart."""
    normalise_reward: bool = False
    """Normalise once more on samples of the reference. The live reward is normalised after each of its updates
    already."""
    kl_coef: float = bounded(0.2, 0.0, LARGEST)
    """Weight of the KL penalty at the start, in normalised reward per nat (measured: benchmarks/README.md)."""
    kl_target: float = bounded(8.0, 0.0, LARGEST, live=True)
    """KL to the reference that the controller aims at, in nats per sequence. It is never above 0.2 nats a token. 0
    keeps `kl_coef` fixed."""
    kl_horizon: float = bounded(320.0, 0.0, LARGEST, advanced=True)
    """Episodes over which the controller moves (Ziegler et al. 2019); 0 is a twentieth of the run's."""
    kl_lookahead: float = bounded(0.2, 0.0, 1.0, advanced=True)
    kl_floor: float = bounded(0.1, 0.0, LARGEST, advanced=True)
    stage: typing.ClassVar[str] = "teach"
    rate_scale: typing.ClassVar[float] = 0.4

    def validate(self) -> "TeachConfig":
        super().validate()
        if self.candidates < self.choices:
            raise UserError(f"--candidates is {self.candidates}, fewer than the {self.choices} responses to show "
                            "(--choices)")
        if self.tamer and self.learner == "ppo":
            self.learner = "tamer"
        if self.tamer and self.learner != "tamer":
            raise UserError("--tamer is the same as --learner tamer, but --learner is "
                            f"{self.learner}: give one of them")
        self.tamer = self.learner == "tamer"
        if self.learner in GROUP_LEARNERS:
            self.check_groups(self, self.learner)
        return self

    @property
    def learner_title(self) -> str:
        """What learns, as people call it."""
        return LEARNER_TITLES[self.learner]

    @property
    def is_tamer(self) -> bool:
        """Whether a step learns from the votes since the last one, each once."""
        return self.tamer or self.learner == "tamer"

    @property
    def estimator(self) -> str:
        """What a group learner compares a response with (`GroupConfig.estimator`)."""
        return self.learner
