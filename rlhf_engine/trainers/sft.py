"""Supervised fine-tuning: cross-entropy of a completion's tokens given the prompt (Ouyang et al. 2022, step 1)."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import SFTConfig
from rlhf_engine.data.batches import batch_of, split_held_out, step_count
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.data.tokenization import encode_examples
from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import passes_within
from rlhf_engine.model.logprobs import nll
from rlhf_engine.trainers.base import Trainer, adam

SLACK = 2.0
"""Nats per token above its first loss, or above that of a guess, at which a run that ends has spoiled its model."""


class SFT(Trainer[SFTConfig]):
    """Trains the role `policy` on demonstrations. If the backbone has that role it is trained further, else it is made.

    Metrics of a step: `loss/train` in nats per completion token, `loss/held_out` every `evaluate_every` steps and at
    the end, `lr`, `grad_norm`, `time/update` in seconds.

    Args:
        backbone: the base model.
        demonstrations: prompts with the responses to imitate. A share of them is held out.
        config: the settings.
        on_microbatch: called between micro-batches.

    Raises UserError if there are no demonstrations.
    """

    roles = ("policy",)

    def __init__(self, backbone: Backbone, demonstrations: list[Demonstration], config: SFTConfig | None = None, *,
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or SFTConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not demonstrations:
            raise UserError("there are no demonstrations to train on")
        examples = [(row.prompt, row.completion) for row in demonstrations]
        rows, self.data_notes = encode_examples(backbone, examples, self.max_tokens)
        self.rows, self.held_out = split_held_out(rows, config.held_out, config.seed)
        self.first_loss = math.inf
        """The loss of the first step, before anything is learned. A resumed run does not know it."""
        self.last_loss = 0.0
        """The loss of the last step: on the held-out rows, or where it was not measured, on its batch."""
        self.apply_config()
        if "policy" not in backbone.roles:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.train("policy")
        self.optimizer = adam(backbone.parameters("policy"))

    def apply_config(self) -> None:
        config = self.config
        self.total_steps = step_count(len(self.rows), config.batch_size, config.epochs, config.steps)

    def row_length(self, row: int) -> int:
        """Tokens of prompt and completion."""
        return len(self.rows[row].ids)

    def largest_row(self) -> tuple[int, int]:
        longest = max(len(row.ids) for row in [*self.rows, *self.held_out])
        return longest, longest

    def train_step(self) -> dict[str, Any]:
        started = time.perf_counter()
        config = self.config
        batch = batch_of(self.step, [len(row.ids) for row in self.rows], config.batch_size, config.seed)
        # The loss is divided by the tokens of the whole step, so that micro-batches add up exactly.
        tokens = sum(len(self.rows[i].completion_ids) for i in batch)

        def backward(part: list[int]) -> dict[str, float]:
            loss = nll(self.backbone, [self.rows[i] for i in part]) / tokens
            loss.backward()
            return {"loss": loss.item()}

        rate = self.set_learning_rates(self.peak_lr)
        with self.backbone.use("policy"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward, row_length=self.row_length if self.pass_tokens else None)
        if self.step == 1:
            self.first_loss = sums["loss"]
        metrics = {measures.LOSS_TRAIN: sums["loss"], measures.LEARNING_RATE: rate,
                   measures.GRADIENT_NORM: self.clip_gradients()}
        self.update_weights()
        if self.held_out and (self.step % config.evaluate_every == 0 or self.step == self.total_steps):
            metrics[measures.LOSS_HELD_OUT] = self.evaluate()
        self.last_loss = metrics.get(measures.LOSS_HELD_OUT, sums["loss"])
        if self.step == self.total_steps and (warning := self.warning(self.last_loss)):
            self.events.append({"event": "warning", "step": self.step, "kind": "worse_than_guessing", "text": warning})
        metrics[measures.TIME_UPDATE] = time.perf_counter() - started
        return metrics

    @torch.no_grad()
    def evaluate(self) -> float:
        """Loss of the policy as it is on the held-out rows, in nats per completion token."""
        rows = sorted(self.held_out, key=lambda row: len(row.ids))
        total = 0.0
        with self.backbone.use("policy"):
            for part in passes_within(rows, self.micro_batch or self.config.batch_size, lambda row: len(row.ids),
                                      self.pass_tokens):
                total += nll(self.backbone, part).item()
                self.on_microbatch()
        return total / sum(len(row.completion_ids) for row in rows)

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = {"stage": self.config.stage, "rows": len(self.rows),
                                  "held_out_rows": len(self.held_out)}
        if self.held_out:
            report["held_out_loss"] = self.evaluate()
        if warning := self.warning(report.get("held_out_loss", self.last_loss)):
            report["warning"] = warning
        return report

    def warning(self, loss: float) -> str:
        """What to say of a policy whose loss ends far above its first one, or above that of a guess; else ""."""
        guessing = math.log(self.backbone.vocabulary)
        began = f", and it began at {self.first_loss:.3g}" if self.first_loss < guessing else ""
        if loss < min(self.first_loss + SLACK, guessing + SLACK):
            return ""
        return (f"the loss ends at {loss:.3g} nats per token{began}; a guess among all tokens has {guessing:.3g}. The "
                f"run has spoiled the model: start anew with a lower --learning-rate than {self.peak_lr:g}")
