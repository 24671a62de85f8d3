"""PPO-ptx: every optimiser step of PPO also learns from text of the kind that the model must not forget (Ouyang et al. 2022, section 3.5).

Equation 2 there adds gamma * E over pretraining text of log pi(x) to PPO's objective, against the alignment tax: what a policy loses
elsewhere while it learns to please its reward.
"""

import random

from rlhf_engine import measures
from rlhf_engine.config import PolicyConfig
from rlhf_engine.data.batches import batch_of
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import encode_examples
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import nll


class PretrainingMix:
    """The pretraining text of a PPO run: `ptx_rows` rows of it for each optimiser step.

    The loss is ptx_coef times the mean negative log-likelihood of the step's text, in nats per token: summed over the tokens of its
    completions (of plain text all tokens, the end token among them) and divided by their number. PPO's loss is a mean over the
    response tokens of its minibatch, so the coefficient is the weight of a token of text beside a token of a response, however many
    rows there are of either. (Equation 2 has whole texts beside whole episodes: its gamma of 27.8 is no guide here.) Likelihoods are at
    temperature 1, whatever PPO samples at.

    Which rows a step gets follows from the seed and its number alone, so a resumed run sees the same ones. Of a large data set no more
    are drawn and encoded than the run has room for; once it is made longer, those that a run of that length would draw. Raises UserError
    where there are none.
    """

    def __init__(self, backbone: Backbone, texts: list[Demonstration], config: PolicyConfig, max_tokens: int):
        if not texts:
            raise UserError("--ptx-coef wants text to mix in: name it with --ptx-data, or set the coefficient to 0")
        self.backbone, self.config, self.texts, self.max_tokens = backbone, config, texts, max_tokens
        self.per_step = config.ppo_epochs * config.minibatches
        """Optimiser steps of a PPO step."""
        self.drawn = 0
        self.apply_config()

    def apply_config(self) -> None:
        """Draw the rows for the steps that there are."""
        config, texts = self.config, self.texts
        wanted = min(len(texts), config.steps * self.per_step * config.ptx_rows)
        if wanted == self.drawn:
            return
        self.drawn, chosen = wanted, random.Random(f"{config.seed} ptx").sample(range(len(texts)), wanted)
        self.rows, cut = encode_examples(self.backbone, [(texts[i].prompt, texts[i].completion) for i in chosen], self.max_tokens)
        self.notes = [f"of the text mixed in (ptx), {line}" for line in cut]

    def rows_at(self, step: int, update: int) -> list[int]:
        """Indices of the rows for optimiser step `update` (from 0) of PPO's `step` (from 1), in order of length."""
        number = (step - 1) * self.per_step + update + 1
        return sorted(batch_of(number, [len(row.ids) for row in self.rows], self.config.ptx_rows, self.config.seed), key=self.length)

    def length(self, row: int) -> int:
        """Tokens of prompt and completion."""
        return len(self.rows[row].ids)

    def tokens(self, rows: list[int]) -> int:
        """How many tokens are learned in these rows."""
        return sum(len(self.rows[i].completion_ids) for i in rows)

    def backward(self, part: list[int], tokens: int) -> dict[str, float]:
        """The policy's gradients on some of the rows of a step of `tokens` tokens; their share of its `loss/ptx`, in nats per token and
        without the coefficient."""
        with self.backbone.use("policy"):
            loss = nll(self.backbone, [self.rows[i] for i in part]) / tokens
            (self.config.ptx_coef * loss).backward()
        return {measures.LOSS_PTX: loss.item()}
