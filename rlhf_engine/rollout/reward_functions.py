"""What scores a rollout: a trained reward model, or a scoring function."""

from collections.abc import Callable

import torch

from rlhf_engine.errors import noop
from rlhf_engine.feedback.scoring_functions import score_text
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.prefix_packing import last_states, reading_order
from rlhf_engine.rollout.rollout import Rollout

RewardFunction = Callable[[Rollout], torch.Tensor]
"""Scores [B] of the responses, or [B, R]: what each of their tokens adds to them."""



def member_scores(backbone: Backbone, rows: list[list[int]], role: str = "reward") -> torch.Tensor:
    """Normalised scores [B, members] of whole token rows (prompt and response), read at each row's last token.

    The index comes from the row's length, never from `token != pad`: with pad equal to the end token that would read
    one position early. Responses to one prompt share its reading, where that is faster.
    """
    return backbone.heads[role].members(last_states(backbone, rows))


@torch.no_grad()
def score_members(backbone: Backbone, rows: list[list[int]], *, batch: int, role: str = "reward",
                  on_microbatch: Callable[[], None] = noop) -> torch.Tensor:
    """Scores [N, members] on the CPU of any number of rows, in length-sorted micro-batches; rows that share a prompt stand together."""
    scores = torch.empty(len(rows), len(backbone.heads[role].bias))
    with backbone.use(role):
        for part in micro_batches(reading_order(backbone, rows), batch):
            scores[part] = member_scores(backbone, [rows[i] for i in part], role).cpu()
            on_microbatch()
    return scores


def score_all(backbone: Backbone, rows: list[list[int]], **options) -> torch.Tensor:
    """Scores [N], the mean of the members; options as for `score_members`."""
    return score_members(backbone, rows, **options).mean(-1)


class RewardModel:
    """A trained reward as PPO takes it: `reward(rollout) -> scores [B]`. The adapter and head are the role `reward`."""

    def __init__(self, backbone: Backbone, *, batch: int = 32, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.batch, self.on_microbatch = backbone, batch, on_microbatch

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        rows = [p + r for p, r in zip(rollout.prompt_ids, rollout.response_ids)]
        return score_all(self.backbone, rows, batch=self.batch, on_microbatch=self.on_microbatch)


class FunctionReward:
    """A scoring function as PPO takes a reward: `reward(rollout) -> scores [B]`."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        return torch.tensor([score_text(self.function, p, r) for p, r in zip(rollout.prompts, rollout.responses)])

