"""PPO for language models: rollout -> score -> advantages -> clipped updates, with a per-token KL penalty to the reference.

The recipe is that of Ziegler et al. 2019 and Ouyang et al. 2022. Padding never matters: rows are padded on the right for
every forward pass, and all per-token tensors are [B, R] grids of response tokens with a mask made from lengths.
"""

import math
import random
import time
from collections.abc import Callable
from functools import partial

import torch

from rlhf_engine import measures
from rlhf_engine.config import KL_PER_TOKEN, PolicyConfig, PPOConfig
from rlhf_engine.data.batches import batch_of
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import UserError, noop
from rlhf_engine.losses import ppo as rl_math
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, text_of
from rlhf_engine.rollout.collapse_guard import Guard
from rlhf_engine.rollout.pretraining_mix import PretrainingMix
from rlhf_engine.rollout.reward_functions import RewardFunction
from rlhf_engine.rollout.rollout import Batch, Rollout, make_rollout, measure
from rlhf_engine.trainers.base import Trainer, adam

KL_STOP_STEPS = 10
"""Steps in a row above the hard stop after which a run ends."""


class Diverged(RuntimeError):
    """The policy stayed above the hard stop on KL. The message says what to change."""


class PPO(Trainer):
    """Trains `policy` and `value` on `prompts` against `reward(rollout) -> scores` (`RewardFunction`).

    Roles: `policy` starts as it is in the backbone (or fresh), `reference` becomes a frozen copy of it (the bare base, if
    the policy starts fresh). With `value: adapter`, `value` is a copy of the reward model, head included, where there is one
    (Ouyang et al. 2022), else of the policy with a head that starts at 0. With `value: head` it is a head that starts at 0 on the
    policy's own adapter, read from the same forward pass. With `ptx_coef`, `ptx` is text that the policy goes on learning meanwhile
    (`ptx.PretrainingMix`), and `loss/ptx` how well it knows it. Metrics carry the names of the run folder's contract.
    """

    roles = ("policy", "reference", "reward", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction, config: PolicyConfig | None = None, *,
                 ptx: list[Demonstration] = (), on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or PPOConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not prompts:
            raise UserError("there are no prompts to train on")
        self.reward = reward
        self.prompts = prompts * -(-config.batch_size // len(prompts))  # few prompts are asked several times a step
        self.controller = rl_math.KLController(config.kl_coef, 1.0, None, floor=config.kl_floor)
        self.mix = PretrainingMix(backbone, ptx, config, self.max_tokens) if config.ptx_coef else None
        self.apply_config()
        if self.mix:
            self.data_notes = self.data_notes + self.mix.notes
        self._make_roles()
        self.optimizer = adam(*self._parameter_groups())
        self.generator = torch.Generator().manual_seed(config.seed)
        self.reward_scale, self.reward_offset = 1.0, 0.0
        self.missing_end, self.steps_above = config.missing_end, 0
        self.reference_length = math.inf
        """Mean length of the reference's responses in tokens, where the length penalty begins."""
        self.guard = Guard()

    @property
    def kl_target(self) -> float:
        """In nats per sequence; 0 without one."""
        return min(self.config.kl_target, KL_PER_TOKEN * self.config.max_new_tokens)

    def apply_config(self) -> None:
        config = self.config
        self.total_steps = config.steps
        room = prompt_room(self.backbone, config.max_new_tokens, config.max_tokens)
        self.encoded, self.data_notes = encode_prompts(self.backbone, self.prompts, room)
        episodes, self.controller.lookahead = config.batch_size * config.steps, config.kl_lookahead * config.steps
        self.controller.aim(self.kl_target or 1.0, (config.kl_horizon or episodes / 20) if config.kl_target else None)
        if self.mix:
            self.mix.apply_config()

    def prepare(self) -> None:
        self.fit_reward_normalisation(self.sample_reference())

    def sample_reference(self) -> Rollout:
        config = self.config
        chosen = random.Random(f"{config.seed} reference").choices(range(len(self.encoded)), k=config.reference_samples)
        return self.rollout(chosen, torch.Generator().manual_seed(config.seed + 1), role="reference", batch=config.batch_size)

    def fit_reward_normalisation(self, rollout: Rollout) -> None:
        """Learn from samples of the reference how often it ends in time, and the mean and spread of the reward on it."""
        config = self.config
        ended = rollout.ended.float().mean().item()
        self.reference_length = rollout.mask.sum(1).mean().item()
        self.guard.reference = rollout.response_ids
        if self.missing_end == "auto":
            self.missing_end = "replace" if ended > 0.5 else "none"
        _, scores = self.scores_of(rollout)
        if config.normalise_reward:
            try:
                self.reward_scale, self.reward_offset = rl_math.gain_and_bias(scores)
            except ValueError as error:
                raise UserError(f"the reward cannot be normalised: {error}; give one that tells responses of the starting policy apart, "
                                "or --normalise-reward false") from None
        self.events.append({"event": "reference", "step": self.step, "samples": len(rollout), "ended": ended,
                            "missing_end": self.missing_end, "score_mean": scores.mean().item(),
                            "score_std": scores.std(correction=0).item(), "gain": self.reward_scale, "bias": self.reward_offset,
                            "length": self.reference_length})

    # -- one step ----------------------------------------------------------------------------------------------------

    def train_step(self) -> dict:
        config, clock = self.config, time.perf_counter
        started = clock()
        rollout = self.sample_batch()
        sampled = clock()
        self.measure(rollout)
        text = self.guard.check(rollout, config.temperature)
        self.events += [{"event": "warning", "step": self.step, "text": warning} for warning in self.guard.new_warnings()]
        tokens, raw = self.scores_of(rollout)
        scores = self.shape_scores(raw, rollout)
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1).mean().item()
        advantages, returns, metrics = self.advantages(rollout, scores, kl, tokens)
        scored = clock()
        metrics |= {measures.SCORES: raw.mean().item()} | text | self.update(rollout, advantages, returns)
        self.controller.update(kl, len(rollout))
        self._log_samples(rollout, raw)
        return metrics | {measures.TIME_ROLLOUT: sampled - started, measures.TIME_SCORE: scored - sampled, measures.TIME_UPDATE: clock() - scored}

    def sample_batch(self) -> Rollout:
        """What this step learns from."""
        lengths = [len(row.ids) for row in self.encoded]
        return self.rollout(batch_of(self.step, lengths, self.config.batch_size, self.config.seed), self.generator)

    def scores_of(self, rollout: Rollout) -> tuple[torch.Tensor | None, torch.Tensor]:
        """What each token adds to the reward [B, R], if it says so, and the raw scores [B]; on the CPU."""
        found = self.reward(rollout).float().cpu()
        return (found, found.sum(1)) if found.dim() == 2 else (None, found)

    def shape_scores(self, raw: torch.Tensor, rollout: Rollout) -> torch.Tensor:
        """What PPO is told of raw scores [B]: normalised, clipped, scaled, less the penalties for length and for a missing end."""
        config = self.config
        scores = self.reward_scale * raw + self.reward_offset
        if config.reward_clip:
            scores = scores.clamp(-config.reward_clip, config.reward_clip)
        scores = config.reward_scale * scores
        if config.length_penalty:
            scores = scores - config.length_penalty * (rollout.mask.sum(1) - self.reference_length).clamp(min=0)
        return rl_math.missing_end_scores(scores, rollout.ended, mode=self.missing_end, penalty=config.missing_end_score)

    def rollout(self, chosen: list[int], generator: torch.Generator, *, role: str = "policy", batch: int = 0) -> Rollout:
        """Sample one response of `role` to each chosen prompt, `batch` at a time (0: all)."""
        asked = [self.encoded[i].ids for i in chosen]
        with self.backbone.use(role):
            answers = sample(self.backbone, asked, Sampling(self.config.max_new_tokens, self.config.temperature),
                             generator, batch=batch, on_microbatch=self.on_microbatch)
        return make_rollout(self.backbone, [self.prompts[i] for i in chosen], asked, answers)

    def answer(self, prompts: list[Prompt], generator: torch.Generator, *, role: str = "policy") -> list[str]:
        """The texts with which `role` answers any prompts, sampled as in a rollout."""
        config = self.config
        encoded, _ = encode_prompts(self.backbone, prompts, prompt_room(self.backbone, config.max_new_tokens, config.max_tokens))
        with self.backbone.use(role):
            answers = sample(self.backbone, [row.ids for row in encoded], Sampling(config.max_new_tokens, config.temperature), generator,
                             on_microbatch=self.on_microbatch)
        return [text_of(self.backbone, ids) for ids in answers]

    def measure(self, rollout: Rollout) -> None:
        """Fill in what the update needs, from training's own forward pass; with smaller micro-batches where memory runs out."""
        self.retry_on_oom(len(rollout), lambda: measure(
            self.backbone, rollout, self.value_role, temperature=self.config.temperature, micro_batch=self.micro_batch,
            on_microbatch=self.on_microbatch))

    def advantages(self, rollout: Rollout, scores: torch.Tensor, kl: float,
                   tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Whitened advantages and returns [B, R], and the metrics of the rollout. tokens [B, R]: what each adds to the raw score."""
        config, mask = self.config, rollout.mask
        stop = self.kl_target * config.kl_stop
        above = bool(stop) and kl > stop
        self.steps_above = self.steps_above + 1 if above else 0
        if above:
            self._check_kl_stop(kl, stop)
        effective_scores, token_scores = (torch.zeros_like(scores), None) if above else (scores, tokens)
        if token_scores is not None:
            token_scores = self.reward_scale * config.reward_scale * token_scores
        rewards = rl_math.shaped_rewards(effective_scores, rollout.logprobs, rollout.ref_logprobs, mask, self.controller.coef, token_scores)
        if config.whiten_rewards:
            rewards = rl_math.whiten(rewards, mask, shift_mean=False)
        advantages, returns = rl_math.gae(rewards, rollout.values, mask, gamma=config.gamma, lam=config.gae_lambda)
        _, k2, k3 = rl_math.kl_estimates(rollout.logprobs, rollout.ref_logprobs)
        metrics = {
            measures.KL: kl,
            measures.KL_PER_TOKEN: kl * len(rollout) / mask.sum().item(),
            measures.KL_K2: (k2 * mask).sum(1).mean().item(),
            measures.KL_K3: (k3 * mask).sum(1).mean().item(),
            measures.KL_COEF: self.controller.coef,
            measures.SCORES_NORMALISED: scores.mean().item(),
            measures.RETURN: scores.mean().item() - self.controller.coef * kl,
            measures.ENTROPY: rollout.entropy,
            measures.LENGTH: mask.sum(1).mean().item(),
            measures.ENDED: rollout.ended.float().mean().item(),
            measures.EXPLAINED_VARIANCE: rl_math.explained_variance(rollout.values, returns, mask).item(),
        }
        return rl_math.whiten(advantages, mask), returns, metrics

    def update(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor) -> dict:
        """`ppo_epochs` passes of `minibatches` optimiser steps over the rollout; returns their mean statistics.

        With `update_stop`, a minibatch on which the policy has moved further than that ends the passes, before it is learnt from.
        """
        config = self.config
        rate = self.set_learning_rates(self.peak_lr * (self.guard.lr_factor if config.guard else 1.0), config.value_learning_rate or 2 * self.peak_lr)
        totals: dict[str, float] = {}
        done = 0
        for part in [part for _ in range(config.ppo_epochs) for part in self._minibatches(rollout)]:
            found = self._optimise(rollout, advantages, returns, part, self.mix.rows_at(self.step, done) if self.mix else [])
            if found is None:
                break
            done += 1
            for name, value in found.items():
                totals[name] = totals.get(name, 0.0) + value
        return {measures.LEARNING_RATE: rate, measures.UPDATES: done} | {name: value / done for name, value in totals.items()}

    def _optimise(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor, rows: list[int],
                  texts: list[int]) -> dict | None:
        """One optimiser step on `rows` of the rollout and `texts` of the mix; every loss is divided by its token count in the whole step.
        None if the policy had moved too far for one."""
        tokens = rollout.mask[rows].sum().item()
        more = [(texts, partial(self.mix.backward, tokens=self.mix.tokens(texts)), self.mix.length)] if texts else []
        with self.backbone.checkpointing(self.config.gradient_checkpointing):
            sums = self.accumulate(rollout.by_length(rows), lambda part: self._backward(
                Batch(self.backbone, rollout, part), rollout, advantages, returns, tokens), *more, length=rollout.length)
        if self.config.update_stop and sums[measures.APPROX_KL] > self.config.update_stop:
            self.optimizer.zero_grad()
            return None
        sums[measures.GRADIENT_NORM] = self.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums

    def _backward(self, batch: Batch, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor, tokens: float) -> dict:
        """Gradients of policy and value on one micro-batch of a step of `tokens` tokens; its share of the step's statistics."""
        config, backbone = self.config, self.backbone
        old, adv, ret, values_old, mask = (batch.trim(x) for x in (rollout.logprobs, advantages, returns, rollout.values, rollout.mask))

        def value_loss(values):
            loss, stats = rl_math.value_loss(batch.grid(values), values_old, ret, mask, clip=config.value_clip, tokens=tokens)
            return config.value_coef * loss, {measures.LOSS_VALUE: loss.detach(), measures.VALUE_CLIP_FRACTION: stats["clipfrac"]}

        with backbone.use("policy"):
            read = batch.read(config.temperature, entropy=config.entropy_coef > 0)
            loss, stats = rl_math.policy_loss(batch.grid(read.logprobs), old, adv, mask, clip=config.clip, tokens=tokens,
                                              dual_clip=config.dual_clip)
            found = {measures.LOSS_POLICY: loss.detach(), measures.APPROX_KL: stats["approxkl"], measures.CLIP_FRACTION: stats["clipfrac"],
                     measures.RATIO: stats["ratio"]}
            if config.entropy_coef:
                found[measures.POLICY_ENTROPY] = (entropy := read.entropy.sum() / tokens).detach()
                loss = loss - config.entropy_coef * entropy
            if self.value_role == "policy":
                value, more = value_loss(batch.values(read))
                loss, found = loss + value, found | more
            loss.backward()
        if self.value_role == "value":
            with backbone.use("value"):
                value, more = value_loss(batch.values())
                value.backward()
            found |= more
        return {name: value.item() for name, value in found.items()}

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "generator": self.generator.get_state(), "controller": self.controller.state_dict(), "gain": self.reward_scale,
            "bias": self.reward_offset, "missing_end": self.missing_end, "steps_above": self.steps_above,
            "reference_length": self.reference_length, "guard": self.guard.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.controller.load_state_dict(state["controller"])
        self.reward_scale, self.reward_offset = state["gain"], state["bias"]
        self.missing_end, self.steps_above = state["missing_end"], state["steps_above"]
        self.reference_length = state["reference_length"]
        self.guard = Guard.from_state(state["guard"])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _make_roles(self) -> None:
        backbone, config = self.backbone, self.config
        if "policy" in backbone.roles:
            backbone.copy_role("reference", "policy")
        else:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        self.value_role = "value" if config.value == "adapter" else "policy"
        if self.value_role == "value" and "reward" in backbone.roles:
            backbone.copy_role("value", "reward")
        else:
            if self.value_role == "value":
                backbone.copy_role("value", "policy")
            backbone.new_head(self.value_role, zero=True)
        backbone.train("policy", self.value_role)

    def _parameter_groups(self) -> tuple[list, list]:
        """(the policy's adapter, all that belongs to the value alone)."""
        policy = self.backbone.named_parameters("policy")
        value = self.backbone.named_parameters(self.value_role)
        if self.value_role == "policy":
            policy, value = ({n: p for n, p in policy.items() if n.startswith("head.") == head} for head in (False, True))
        return list(policy.values()), list(value.values())

    def _minibatches(self, rollout: Rollout) -> list[list[int]]:
        """A fresh random split of the rows into `minibatches` parts (of one row at least), as equal as they can be."""
        order = torch.randperm(len(rollout), generator=self.generator).tolist()
        return [order[i::self.config.minibatches] for i in range(min(self.config.minibatches, len(order)))]

    def _check_kl_stop(self, kl: float, stop: float) -> None:
        self.events.append({"event": "warning", "step": self.step, "kl": kl,
                            "text": f"KL is {kl:.1f} nats a sequence, above the hard stop of {stop:.1f}: "
                                    "this step learns from the KL penalty alone."})
        if self.steps_above >= KL_STOP_STEPS:
            raise Diverged(f"KL stayed above the hard stop of {stop:.1f} nats a sequence for {KL_STOP_STEPS} steps (now {kl:.1f}); "
                           "start a new run from a checkpoint before that (--adapter) with a lower --learning-rate or a higher --kl-coef")

    def _log_samples(self, rollout: Rollout, raw: torch.Tensor) -> None:
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1)
        self.samples = [{"step": self.step, "prompt": rollout.prompts[i], "response": rollout.responses[i],
                         "score": raw[i].item(), "kl": kl[i].item(), "ended": bool(rollout.ended[i])}
                        for i in range(min(4, len(rollout)))]
