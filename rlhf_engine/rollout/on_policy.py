"""How far a policy has gone, measured on its own fresh responses: for learners that do not sample to learn."""

import random
from collections.abc import Callable
from typing import Any

from rlhf_engine import measures
from rlhf_engine.config import DPOConfig, RFTConfig
from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator
from rlhf_engine.rollout.collapse_guard import CollapseWarning, Guard
from rlhf_engine.rollout.reward_functions import RewardFunction, raw_scores
from rlhf_engine.rollout.rollout import Rollout, make_rollout, measure

LOGGED_SAMPLES = 4
"""Responses of a measurement that are written to samples.jsonl."""
SAMPLED_TOGETHER = 32


class OnPolicyProbe:
    """Samples responses of the role `policy` to the same prompts each time, and measures them as PPO measures its own.

    The random numbers of the sampling are the same each time, too, so that two measurements differ by the policy.

    Args:
        backbone: has the role `policy`, and `reference` (or the bare base instead).
        prompts: what it answers, `reference_samples` times in all.
        config: has `reference_samples`, `max_new_tokens`, `max_tokens`, `temperature` and `seed`.
        reward: scores the responses, too; None for a learner without a reward.
    """

    def __init__(self, backbone: Backbone, prompts: list[Prompt], config: DPOConfig | RFTConfig,
                 reward: RewardFunction | None = None):
        self.backbone = backbone
        self.config = config
        self.reward = reward
        self.scores: list[float] = []
        """Raw scores of the newest responses; none without a reward."""
        room = prompt_room(backbone, config.max_new_tokens, config.max_tokens)
        unique = list({str(prompt): prompt for prompt in prompts}.values())
        rng = random.Random(f"{config.seed} probe")
        order = rng.sample(unique, len(unique))
        self.prompts = [order[i % len(order)] for i in range(config.reference_samples)]
        encoded, _ = encode_prompts(backbone, self.prompts, room)
        self.prompt_ids = [row.ids for row in encoded]
        self.guard = Guard()

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with a response of full length."""
        return max(map(len, self.prompt_ids)) + self.config.max_new_tokens

    def start(self, micro_batch: int = 0, pass_tokens: int = 0, on_microbatch: Callable[[], None] = noop,
              ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """(measures, rows for samples.jsonl) of the policy as it starts: later responses are compared with these."""
        rollout = self._sample(micro_batch, pass_tokens, on_microbatch)
        self.guard.reference = rollout.response_ids
        return self._read(rollout, 0)

    def measure(self, step: int, micro_batch: int = 0, pass_tokens: int = 0, on_microbatch: Callable[[], None] = noop,
                ) -> tuple[dict[str, float], list[dict[str, Any]], list[CollapseWarning]]:
        """(measures, rows for samples.jsonl, warnings) of the policy as it is. `objective/kl` is in nats per
        sequence."""
        values, rows = self._read(self._sample(micro_batch, pass_tokens, on_microbatch), step)
        return values, rows, self.guard.new_warnings()

    def _read(self, rollout: Rollout, step: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """(measures, the first rows) of responses. Rows are `fixed`: prompts and random numbers stay the same."""
        kl = rollout.kl()
        text = self.guard.check(rollout, self.config.temperature)
        tokens = rollout.mask.sum().item()
        values = {measures.KL: kl.mean().item(), measures.KL_PER_TOKEN: kl.sum().item() / tokens,
                  measures.ENTROPY: rollout.entropy, measures.LENGTH: tokens / len(rollout),
                  measures.ENDED: rollout.ended.float().mean().item(), **text}
        rows = [{"step": step, "prompt": rollout.prompts[i], "response": rollout.responses[i], "kl": kl[i].item(),
                 "ended": bool(rollout.ended[i]), "fixed": True} for i in range(min(LOGGED_SAMPLES, len(rollout)))]
        if self.reward is not None:
            self.scores = raw_scores(self.reward, rollout).tolist()
            values = {measures.SCORES: sum(self.scores) / len(self.scores), **values}
            rows = [{**row, "score": score} for row, score in zip(rows, self.scores)]
        return values, rows

    def _sample(self, micro_batch: int, pass_tokens: int, on_microbatch: Callable[[], None]) -> Rollout:
        config = self.config
        with self.backbone.use("policy"):
            responses = sample(self.backbone, self.prompt_ids, Sampling(config.max_new_tokens, config.temperature),
                               seeded_generator(config.seed + 1), batch=SAMPLED_TOGETHER, on_microbatch=on_microbatch)
        rollout = make_rollout(self.backbone, self.prompts, self.prompt_ids, responses)
        measure(self.backbone, rollout, "", temperature=config.temperature,
                micro_batch=micro_batch or SAMPLED_TOGETHER, pass_tokens=pass_tokens, on_microbatch=on_microbatch)
        return rollout

    def state_dict(self) -> dict[str, Any]:
        return {"guard": self.guard.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.guard = Guard.from_state(state["guard"])
