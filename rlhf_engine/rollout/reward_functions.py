"""What scores a rollout: a trained reward model, or a scoring function of prompt and response."""

import math
from collections.abc import Callable
from typing import Any

import torch

from rlhf_engine.errors import NotFinite, UserError, kind_of, noop
from rlhf_engine.feedback.scoring_functions import name_of, score_text
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import passes_within
from rlhf_engine.model.prefix_packing import last_states, reading_order
from rlhf_engine.rollout.rollout import Rollout

RewardFunction = Callable[[Rollout], torch.Tensor]
"""Scores [B] of the responses of a rollout. Or [B, R]: what each token adds to the score of its response."""


class RewardModel:
    """A trained reward model as a `RewardFunction`: `reward(rollout)` returns scores [B]. It is the role `reward`."""

    def __init__(self, backbone: Backbone, *, batch: int = 32, on_microbatch: Callable[[], None] = noop):
        self.backbone = backbone
        self.batch = batch
        self.pass_tokens = 0
        """Most tokens of a pass; 0 sets no limit. A trainer sets it."""
        self.on_microbatch = on_microbatch

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        rows = [prompt + response for prompt, response in zip(rollout.prompt_ids, rollout.response_ids)]
        return score_members(self.backbone, rows, batch=self.batch, tokens=self.pass_tokens,
                             on_microbatch=self.on_microbatch).mean(-1)


class FunctionReward:
    """A scoring function of prompt and response as a `RewardFunction`: `reward(rollout)` returns scores [B]."""

    def __init__(self, function: Callable[[str, str], float]):
        self.function = function

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        return torch.tensor([score_text(self.function, prompt, response)
                             for prompt, response in zip(rollout.prompts, rollout.responses)])


def raw_scores(reward: RewardFunction, rollout: Rollout) -> torch.Tensor:
    """[B]: the scores of whole responses. Raises UserError and NotFinite as `check_scores` does."""
    scores = check_scores(reward(rollout), rollout, name_of(reward))
    return scores.sum(1) if scores.dim() == 2 else scores


def check_scores(scores: Any, rollout: Rollout, name: str) -> torch.Tensor:
    """What the reward function `name` gives for a rollout of B responses: scores [B] or [B, R], in fp32 on the CPU.

    Raises UserError for anything else, and NotFinite for a score that is NaN or infinite.
    """
    if not isinstance(scores, torch.Tensor):
        what = f"{kind_of(scores)} of {len(scores)}" if isinstance(scores, list | tuple) else kind_of(scores)
        raise UserError(f"the reward {name} gives {what}, but must give a tensor with one score for each of the "
                        f"{len(rollout)} responses")
    if tuple(scores.shape) not in ((len(rollout),), tuple(rollout.mask.shape)):
        raise UserError(f"the reward {name} gives scores of shape {list(scores.shape)}, but must give "
                        f"[{len(rollout)}], one for each response, or {list(rollout.mask.shape)}, one for each token")
    scores = scores.detach().float().cpu()
    good = scores.reshape(len(rollout), -1).isfinite().all(1)
    if not good.all():
        row = int((~good).nonzero()[0])
        value = next(x for x in scores[row].flatten().tolist() if not math.isfinite(x))
        raise NotFinite(f"the reward {name} gives {value} for the response {rollout.responses[row][:60]!r} to the "
                        f"prompt {str(rollout.prompts[row])[:60]!r}")
    return scores


def score_all(backbone: Backbone, rows: list[list[int]], *, batch: int, role: str = "reward",
              on_microbatch: Callable[[], None] = noop) -> torch.Tensor:
    """Normalised scores [N] on the CPU of token rows: the mean of the members. Arguments as for `score_members`."""
    return score_members(backbone, rows, batch=batch, role=role, on_microbatch=on_microbatch).mean(-1)


@torch.no_grad()
def score_members(backbone: Backbone, rows: list[list[int]], *, batch: int, role: str = "reward", tokens: int = 0,
                  on_microbatch: Callable[[], None] = noop) -> torch.Tensor:
    """Normalised scores [N, members] on the CPU of any number of token rows.

    Args:
        backbone: has the adapter and the head `role`.
        rows: token ids of prompt and response together.
        batch: rows per forward pass. Short rows come first, and rows that share a prompt next to each other.
        role: the reward's role.
        tokens: most tokens of a forward pass, padding included; 0 sets no limit.
        on_microbatch: called after each forward pass.
    """
    scores = torch.empty(len(rows), backbone.heads[role].members)
    with backbone.use(role):
        for part in passes_within(reading_order(backbone, rows), batch, lambda i: len(rows[i]), tokens):
            scores[part] = member_scores(backbone, [rows[i] for i in part], role).cpu()
            on_microbatch()
    return scores


def member_scores(backbone: Backbone, rows: list[list[int]], role: str = "reward") -> torch.Tensor:
    """Normalised scores [B, members] of a few token rows, by the head `role` on the adapter in use, with gradients.

    A row is read at its last token. The index of that follows from the row's length, never from `token != pad`: where
    pad equals the end token, that would read one position too early. Responses to one prompt share the reading of it,
    where that is faster.
    """
    return backbone.heads[role].member_scores(last_states(backbone, rows))
