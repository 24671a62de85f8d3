"""The reward model: one scalar per response, learned from preferences, normalised on samples of the reference."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from rlhf_engine.backbone import Backbone
from rlhf_engine.config import RewardConfig, UserError
from rlhf_engine.data import Preference
from rlhf_engine.encoding import encode_examples, encode_prompts
from rlhf_engine.generate import Sampling, nothing, prompt_room, sample
from rlhf_engine.logprobs import pad_right
from rlhf_engine.rl_math import gain_and_bias, pairwise_loss
from rlhf_engine.training import Trainer, adam, batch_of, micro_batches, split_held_out, step_count

if TYPE_CHECKING:
    from rlhf_engine.ppo import Rollout


def score_rows(backbone: Backbone, rows: list[list[int]], role: str = "reward") -> torch.Tensor:
    """Normalised scores [B] of whole token rows (prompt and response), read at each row's last token.

    The index comes from the row's length, never from `token != pad`: with pad equal to the end token that would read
    one position early.
    """
    ids = pad_right(rows, backbone.pad_id, backbone.device)
    last = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
    hidden = backbone.hidden(ids)[torch.arange(len(rows), device=ids.device), last]
    return backbone.heads[role](hidden)


@torch.no_grad()
def score_all(backbone: Backbone, rows: list[list[int]], *, batch: int, role: str = "reward",
              breathe: Callable[[], None] = nothing) -> torch.Tensor:
    """Scores [N] on the CPU of any number of rows, in length-sorted micro-batches."""
    scores = torch.empty(len(rows))
    with backbone.use(role):
        for part in micro_batches(sorted(range(len(rows)), key=lambda i: len(rows[i])), batch):
            scores[part] = score_rows(backbone, [rows[i] for i in part], role).cpu()
            breathe()
    return scores


class RewardModel:
    """A trained reward as PPO takes it: `reward(rollout) -> scores [B]`. The adapter and head are the role `reward`."""

    def __init__(self, backbone: Backbone, *, batch: int = 32, breathe: Callable[[], None] = nothing):
        self.backbone, self.batch, self.breathe = backbone, batch, breathe

    def __call__(self, rollout: "Rollout") -> torch.Tensor:
        rows = [p + r for p, r in zip(rollout.prompt_ids, rollout.response_ids)]
        return score_all(self.backbone, rows, batch=self.batch, breathe=self.breathe)


class Reward(Trainer):
    """Trains the role `reward` (adapter and head) on pairs: -log sigmoid(r_chosen - r_rejected).

    The adapter starts as a copy of the role `policy` if there is one (the SFT model, as in InstructGPT), else fresh. The
    head starts with standard deviation 1/sqrt(d+1). Before the first step and after the last, gain and shift are fitted
    so that responses of the starting policy score 0 on average with standard deviation 1 (Ziegler et al. 2019).

    Metrics per step: `loss/train` (nats per pair), `accuracy/train`, `margin`; and every `evaluate_every` steps and at the
    end `loss/held_out`, `accuracy/held_out`.
    """

    roles = ("reward",)

    def __init__(self, backbone: Backbone, preferences: list[Preference], config: RewardConfig | None = None, *,
                 breathe: Callable[[], None] = nothing):
        super().__init__(backbone, config or RewardConfig(), breathe=breathe)
        config = self.config
        if not preferences:
            raise UserError("there are no preferences to train on")
        chosen, notes = encode_examples(backbone, [(p.prompt, p.chosen) for p in preferences], self.max_tokens)
        rejected, more = encode_examples(backbone, [(p.prompt, p.rejected) for p in preferences], self.max_tokens)
        self.notes = notes + more
        pairs = [(c.ids, r.ids) for c, r in zip(chosen, rejected)]
        self.pairs, self.held_out = split_held_out(pairs, config.held_out, config.seed)
        self.total_steps = step_count(len(self.pairs), config.batch_size, config.epochs, config.steps)
        if "policy" in backbone.roles:
            backbone.copy_role("reward", "policy")
        else:
            backbone.new_role("reward", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.new_head("reward", seed=config.seed)
        backbone.train("reward")
        self.optimizer = adam(backbone.parameters("reward"))
        self.prompts, _ = encode_prompts(backbone, [p.prompt for p in preferences],
                                         prompt_room(backbone, config.max_new_tokens, config.max_tokens))
        self.anchors: list[list[int]] = []

    def prepare(self) -> None:
        """Sample the anchors (whole rows: prompts of the data answered by the starting policy) and normalise on them."""
        config = self.config
        asked = [self.prompts[i % len(self.prompts)].ids for i in range(config.reference_samples)]
        generator = torch.Generator().manual_seed(config.seed)
        with self.backbone.use("policy" if "policy" in self.backbone.roles else None):
            answers = sample(self.backbone, asked, Sampling(config.max_new_tokens), generator, batch=32, breathe=self.breathe)
        self.anchors = [prompt + answer for prompt, answer in zip(asked, answers)]
        self.normalise()

    def advance(self) -> dict:
        start, config = time.perf_counter(), self.config
        batch = batch_of(self.step, [len(c) + len(r) for c, r in self.pairs], config.batch_size, config.seed)
        rate, loss_sum, right, margin = self.set_learning_rates(self.rate), 0.0, 0, 0.0
        with self.backbone.use("reward"), self.backbone.checkpointing(config.gradient_checkpointing):
            for micro in micro_batches(batch, config.micro_batch):
                chosen, rejected = self._scores([self.pairs[i] for i in micro])
                loss = pairwise_loss(chosen, rejected) * len(micro) / len(batch)
                loss.backward()
                loss_sum += loss.item()
                right += int((chosen > rejected).sum())
                margin += (chosen - rejected).sum().item()
                self.breathe()
        metrics = {"loss/train": loss_sum, "accuracy/train": right / len(batch), "margin": margin / len(batch),
                   "lr": rate, "grad_norm": self.clip_gradients()}
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.held_out and (self.step % config.evaluate_every == 0 or self.step == self.total_steps):
            metrics |= self.evaluate()
        if self.step == self.total_steps:
            self.normalise()
        return metrics | {"time/update": time.perf_counter() - start}

    @torch.no_grad()
    def evaluate(self) -> dict:
        """Loss (nats per pair) and accuracy on the held-out pairs; equal scores count half."""
        chosen, rejected = [], []
        with self.backbone.use("reward"):
            for micro in micro_batches(self.held_out, self.config.micro_batch or self.config.batch_size):
                c, r = self._scores(micro)
                chosen.append(c)
                rejected.append(r)
                self.breathe()
        chosen, rejected = torch.cat(chosen), torch.cat(rejected)
        right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        return {"loss/held_out": pairwise_loss(chosen, rejected).item(), "accuracy/held_out": right.mean().item()}

    def normalise(self) -> None:
        """Fit gain and shift on the anchors, and say so in the journal."""
        head = self.backbone.heads["reward"]
        raw = (score_all(self.backbone, self.anchors, batch=self.config.batch_size, breathe=self.breathe).to(head.shift.device)
               - head.shift) / head.gain
        gain, bias = gain_and_bias(raw)
        head.gain.fill_(gain)
        head.shift.fill_(bias)
        self.events.append({"event": "normalised", "step": self.step, "gain": gain, "bias": bias, "samples": len(self.anchors)})

    def report(self) -> dict:
        return {"stage": "reward", "pairs": len(self.pairs), "held_out_pairs": len(self.held_out),
                **({k.replace("/", "_"): v for k, v in self.evaluate().items()} if self.held_out else {})}

    def state_dict(self) -> dict:
        return super().state_dict() | {"anchors": self.anchors}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.anchors = state["anchors"]

    def _scores(self, pairs: list[tuple[list[int], list[int]]]) -> tuple[torch.Tensor, torch.Tensor]:
        both = score_rows(self.backbone, [c for c, _ in pairs] + [r for _, r in pairs])
        return both[:len(pairs)], both[len(pairs):]
