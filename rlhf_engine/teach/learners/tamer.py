"""PPO without a reward model: the responses that people voted on are the rollout, and the votes are their scores.

The idea is TAMER's (Knox & Stone 2009). It is here to be compared with the live reward. A vote teaches the policy about
the responses it was given to, once, and is forgotten. A reward model learns from it what any response is worth.
"""

from collections.abc import Callable

import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Rollout, as_sampled, make_rollout
from rlhf_engine.trainers.ppo import PPO


class Tamer(PPO):
    """A learner whose steps learn from `take_votes()`: the events since the last step. Without any, it does nothing."""

    def __init__(self, backbone: Backbone, prompts: list[Prompt], take_votes: Callable[[], list[Event]],
                 config: TeachConfig, **options):
        self.take_votes = take_votes
        self.votes: list[Event] = []
        """What this step learns from."""
        self.scores: torch.Tensor | None = None
        """[B]: the verdicts on the responses of this step."""
        super().__init__(backbone, prompts, self.reward_fn, config, **options)

    def train_step(self) -> dict:
        self.votes = [event for event in self.take_votes() if event.responses]
        return super().train_step() if self.votes else {}

    def sample_batch(self) -> Rollout:
        """The responses that were voted on, as a rollout."""
        prompts, rows, scores = [], [], []
        for event in self.votes:
            for text in event.responses:
                prompts.append(event.prompt)
                rows.append(as_sampled(self.backbone, event.prompt, text, event.sampling, self.max_tokens))
            scores += verdicts(event)
        self.scores = torch.tensor(scores)
        prompt_ids, response_ids = map(list, zip(*rows))
        return make_rollout(self.backbone, prompts, prompt_ids, response_ids)

    def reward_fn(self, rollout: Rollout) -> torch.Tensor:
        """[B]: the verdicts on the rollout of `sample_batch`. Samples of the reference have no votes, and score 0."""
        return torch.zeros(len(rollout)) if self.scores is None else self.scores


def verdicts(event: Event) -> list[float]:
    """How good each response of an event is, from -1 (bad) to 1 (good); responses that are all equal are neither."""
    return event.rules.verdicts(event)
