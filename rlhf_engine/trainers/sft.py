"""Supervised fine-tuning: cross-entropy of the completion's tokens given the prompt (Ouyang et al. 2022, step 1)."""

import time
from collections.abc import Callable

import torch

from rlhf_engine import measures
from rlhf_engine.config import SFTConfig
from rlhf_engine.data.batches import batch_of, split_held_out, step_count
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.data.tokenization import encode_examples
from rlhf_engine.errors import UserError, noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.logprobs import nll
from rlhf_engine.trainers.base import Trainer, adam


class SFT(Trainer):
    """Trains the role `policy`; a role of that name made beforehand is trained further, else a fresh one is added.

    Metrics per step: `loss/train` in nats per completion token, `loss/held_out` every `evaluate_every` steps and at
    the end, `lr`, `grad_norm`, `time/update` in seconds.
    """

    roles = ("policy",)

    def __init__(self, backbone: Backbone, demonstrations: list[Demonstration], config: SFTConfig | None = None, *,
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or SFTConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not demonstrations:
            raise UserError("there are no demonstrations to train on")
        self.rows, self.data_notes = encode_examples(backbone, [(d.prompt, d.completion) for d in demonstrations], self.max_tokens)
        self.rows, self.held_out = split_held_out(self.rows, config.held_out, config.seed)
        self.apply_config()
        if "policy" not in backbone.roles:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.train("policy")
        self.optimizer = adam(backbone.parameters("policy"))

    def apply_config(self) -> None:
        self.total_steps = step_count(len(self.rows), self.config.batch_size, self.config.epochs, self.config.steps)

    def train_step(self) -> dict:
        start, config = time.perf_counter(), self.config
        batch = batch_of(self.step, [len(r.ids) for r in self.rows], config.batch_size, config.seed)
        tokens = sum(len(self.rows[i].completion_ids) for i in batch)
        rate = self.set_learning_rates(self.peak_lr)

        def backward(part: list[int]) -> dict:
            loss = nll(self.backbone, [self.rows[i] for i in part]) / tokens  # of the whole step: micro-batches add up exactly
            loss.backward()
            return {measures.LOSS_TRAIN: loss.item()}

        with self.backbone.use("policy"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward)
        metrics = {**sums, measures.LEARNING_RATE: rate, measures.GRADIENT_NORM: self.clip_gradients()}
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.held_out and (self.step % config.evaluate_every == 0 or self.step == self.total_steps):
            metrics[measures.LOSS_HELD_OUT] = self.evaluate()
        return metrics | {measures.TIME_UPDATE: time.perf_counter() - start}

    @torch.no_grad()
    def evaluate(self) -> float:
        """Held-out loss of the policy as it is, in nats per completion token."""
        with self.backbone.use("policy"):
            total = 0.0
            for micro in micro_batches(sorted(range(len(self.held_out)), key=lambda i: len(self.held_out[i].ids)),
                                       self.micro_batch or self.config.batch_size):
                total += nll(self.backbone, [self.held_out[i] for i in micro]).item()
                self.on_microbatch()
        return total / sum(len(row.completion_ids) for row in self.held_out)

    def report(self) -> dict:
        return {"stage": self.config.stage, "rows": len(self.rows), "held_out_rows": len(self.held_out),
                **({"held_out_loss": self.evaluate()} if self.held_out else {})}
