"""PPO without a reward model: the responses that people voted on are the rollout, and the votes their scores (Knox & Stone 2009, TAMER).

For comparison with `teach` as it mostly is. A vote teaches the policy about the responses it was given to, once, and is forgotten; a reward
model says what it would be worth on all that the policy writes from then on.
"""

import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.rollout.rollout import Rollout, as_sampled, make_rollout
from rlhf_engine.trainers.ppo import PPO


class Tamer(PPO):
    """A step learns from `voted`, the events since the last one; without any it does nothing."""

    voted: list[Event] = []
    scores: torch.Tensor | None = None

    def __init__(self, backbone, prompts, config, **options):
        super().__init__(backbone, prompts, self.reward_fn, config, **options)

    def train_step(self) -> dict:
        self.voted = [event for event in self.voted if event.responses]
        return super().train_step() if self.voted else {}

    def sample_batch(self) -> Rollout:
        shown = [(event, text) for event in self.voted for text in event.responses]
        rows = [as_sampled(self.backbone, event.prompt, text, event.sampling, self.max_tokens) for event, text in shown]
        self.scores = torch.tensor([score for event in self.voted for score in verdicts(event)])
        self.voted = []
        return make_rollout(self.backbone, [event.prompt for event, _ in shown], *map(list, zip(*rows)))

    def reward_fn(self, rollout: Rollout) -> torch.Tensor:
        """[B]: the verdicts on what was drawn; nobody has voted on the samples of the reference."""
        return torch.zeros(len(rollout)) if self.scores is None else self.scores


def verdicts(event: Event) -> list[float]:
    """From -1, bad, to 1, good, for each response of an event. What is tied, with all others, is neither; an answer that somebody wrote a
    better one for is bad."""
    if event.kind == "thumb":
        return [1.0 if event.value == "up" else -1.0]
    if event.kind == "score":
        return [(event.value - 4) / 3]
    if event.kind == "edit" or event.value == "both_bad":
        return [-1.0] * len(event.responses)
    best, worst = min(event.ranks), max(event.ranks)
    return [1 - 2 * (rank - best) / (worst - best) if worst > best else 0.0 for rank in event.ranks]
