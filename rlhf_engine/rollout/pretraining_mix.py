"""PPO-ptx: every optimiser step also learns from text that the model must not forget (Ouyang et al. 2022, section 3.5).

Equation 2 there adds gamma * E[log pi(x)], over pretraining text x, to the objective of PPO. It works against the
alignment tax: what a policy loses elsewhere while it learns to please its reward.
"""

import random

from rlhf_engine import measures
from rlhf_engine.config import PolicyConfig
from rlhf_engine.data.batches import batch_of
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Encoded, encode_examples
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import nll


class PretrainingMix:
    """The pretraining text of a run: `ptx_rows` rows of it for each optimiser step.

    The loss is `ptx_coef` times the mean negative log-likelihood of the step's text, in nats per token: summed over the
    tokens of its completions (of plain text: all tokens, the end token included), divided by their number. The loss of
    PPO is a mean over the response tokens of its minibatch. So the coefficient is the weight of a token of text beside
    a token of a response, whatever the number of rows of either. (In equation 2 whole texts stand beside whole
    episodes; its gamma of 27.8 says nothing about the coefficient here.) Likelihoods are at temperature 1, whatever
    the sampling temperature is.

    The rows of a step depend on the seed and the number of the step alone, so a resumed run sees the same ones. Of a
    large data set only as many rows are drawn and encoded as the run can use. If the run is made longer, they are those
    that a run of the new length would have drawn.

    Args:
        backbone: has the role `policy`.
        texts: demonstrations, or plain text with an empty prompt.
        config: the settings that begin with `ptx_`, and those that say how many optimiser steps there are.
        max_tokens: longest row in tokens; longer ones are cut.

    Raises UserError if there are no texts.
    """

    def __init__(self, backbone: Backbone, texts: list[Demonstration], config: PolicyConfig, max_tokens: int):
        if not texts:
            raise UserError("--ptx-coef needs text to mix in: name it with --ptx-data, or set --ptx-coef 0")
        self.backbone = backbone
        self.config = config
        self.texts = texts
        self.max_tokens = max_tokens
        self.updates_per_step = config.ppo_epochs * config.minibatches
        """Optimiser steps in a step of the learner."""
        self.rows: list[Encoded] = []
        self.notes: list[str] = []
        """Remarks on rows that were cut."""
        self.apply_config()

    def apply_config(self) -> None:
        """Draw and encode the rows for the number of steps in the config, unless they are there already."""
        config = self.config
        count = min(len(self.texts), config.steps * self.updates_per_step * config.ptx_rows)
        if count == len(self.rows):
            return
        chosen = random.Random(f"{config.seed} ptx").sample(self.texts, count)
        examples = [(text.prompt, text.completion) for text in chosen]
        self.rows, notes = encode_examples(self.backbone, examples, self.max_tokens)
        self.notes = [f"of the text mixed in (ptx), {note}" for note in notes]

    def rows_at(self, step: int, update: int) -> list[int]:
        """Indices of the rows for optimiser step `update` (from 0) of the learner's `step` (from 1), short rows
        first."""
        number = (step - 1) * self.updates_per_step + update + 1
        lengths = [len(row.ids) for row in self.rows]
        return sorted(batch_of(number, lengths, self.config.ptx_rows, self.config.seed), key=self.row_length)

    def row_length(self, row: int) -> int:
        """Tokens of prompt and completion."""
        return len(self.rows[row].ids)

    def tokens(self, rows: list[int]) -> int:
        """How many tokens are learned in these rows."""
        return sum(len(self.rows[i].completion_ids) for i in rows)

    def backward(self, part: list[int], tokens: int) -> dict[str, float]:
        """Add the policy's gradients on some rows of an optimiser step whose rows have `tokens` tokens in all.

        Returns what these rows add to `loss/ptx`, in nats per token and without the coefficient.
        """
        with self.backbone.use("policy"):
            loss = nll(self.backbone, [self.rows[i] for i in part]) / tokens
            (self.config.ptx_coef * loss).backward()
        return {measures.LOSS_PTX: loss.item()}
