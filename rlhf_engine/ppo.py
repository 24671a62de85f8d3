"""PPO for language models: rollout -> score -> advantages -> clipped updates, with a per-token KL penalty to the reference.

The recipe is that of Ziegler et al. 2019 and Ouyang et al. 2022. Padding never matters: rows are padded on the right for
every forward pass, and all per-token tensors are [B, R] grids of response tokens with a mask made from lengths.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from rlhf_engine import rl_math
from rlhf_engine.backbone import Backbone
from rlhf_engine.config import KL_PER_TOKEN, PPOConfig, UserError
from rlhf_engine.encoding import Prompt, encode_prompts
from rlhf_engine.generate import Sampling, nothing, prompt_room, sample, text_of
from rlhf_engine.logprobs import pad_right, response_positions, token_logprobs
from rlhf_engine.training import Trainer, adam, batch_of, micro_batches

PATIENCE = 10
"""Steps in a row above the hard stop after which a run ends."""


@dataclass
class Rollout:
    """Prompts, sampled responses and everything measured on them. B rows, R the longest response.

    `logprobs`, `ref_logprobs`, `values` and `mask` are [B, R] fp32 on the CPU, in nats per token, zero where masked.
    """

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    """With the stop token, where the response ended."""
    responses: list[str]
    ended: torch.Tensor
    """[B] bool: the response ends with a stop token."""
    mask: torch.Tensor = field(repr=False)
    logprobs: torch.Tensor | None = field(default=None, repr=False)
    ref_logprobs: torch.Tensor | None = field(default=None, repr=False)
    values: torch.Tensor | None = field(default=None, repr=False)
    entropy: float = 0.0
    """Mean entropy of the policy, in nats per token."""

    def __len__(self) -> int:
        return len(self.prompt_ids)


RewardFunction = Callable[[Rollout], torch.Tensor]


class Diverged(RuntimeError):
    """The policy stayed above the hard stop on KL. The message says what to change."""


class PPO(Trainer):
    """Trains `policy` and `value` on `prompts` against `reward(rollout) -> scores [B]`.

    Roles: `policy` starts as it is in the backbone (or fresh), `reference` becomes a frozen copy of it (the bare base, if
    the policy starts fresh), `value` a copy of the reward model, head included, where there is one (Ouyang et al. 2022),
    else of the policy with a head that starts at 0. Metrics carry the names of the run folder's contract.
    """

    roles = ("policy", "reference", "reward", "value")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction, config: PPOConfig | None = None, *,
                 breathe: Callable[[], None] = nothing):
        super().__init__(backbone, config or PPOConfig(), breathe=breathe)
        config = self.config
        if not prompts:
            raise UserError("there are no prompts to train on")
        self.reward, self.total_steps = reward, config.steps
        self.prompts = prompts * -(-config.batch_size // len(prompts))  # few prompts are asked several times a step
        room = prompt_room(backbone, config.max_new_tokens, config.max_tokens)
        self.encoded, self.notes = encode_prompts(backbone, self.prompts, room)
        self._make_roles()
        self.optimizer = adam(backbone.parameters("policy"), backbone.parameters("value"))
        self.generator = torch.Generator().manual_seed(config.seed)
        episodes = config.batch_size * config.steps
        self.kl_target = min(config.kl_target, KL_PER_TOKEN * config.max_new_tokens)
        self.controller = rl_math.KLController(config.kl_coef, self.kl_target or 1.0,
                                               (config.kl_horizon or episodes / 20) if config.kl_target else None)
        self.gain, self.bias = 1.0, 0.0
        self.missing_end, self.steps_above = config.missing_end, 0

    def prepare(self) -> None:
        """Sample the reference once: how often it ends in time, and the mean and spread of the reward on it."""
        config = self.config
        count = config.reference_samples
        chosen = random.Random(f"{config.seed} reference").choices(range(len(self.encoded)), k=count)
        with self.backbone.use("reference"):
            asked = [self.encoded[i].ids for i in chosen]
            answers = sample(self.backbone, asked, Sampling(config.max_new_tokens, config.temperature),
                             torch.Generator().manual_seed(config.seed + 1), batch=config.batch_size, breathe=self.breathe)
        rollout = self._rollout([self.prompts[i] for i in chosen], asked, answers)
        ended = rollout.ended.float().mean().item()
        if self.missing_end == "auto":
            self.missing_end = "replace" if ended > 0.5 else "none"
        scores = self.reward(rollout).float().cpu()
        if config.normalise_reward:
            self.gain, self.bias = rl_math.gain_and_bias(scores)
        self.events.append({"event": "reference", "step": self.step, "samples": count, "ended": ended,
                            "missing_end": self.missing_end, "score_mean": scores.mean().item(),
                            "score_std": scores.std(correction=0).item(), "gain": self.gain, "bias": self.bias})

    # -- one step ----------------------------------------------------------------------------------------------------

    def advance(self) -> dict:
        config, clock = self.config, time.perf_counter
        started = clock()
        rollout = self.rollout(batch_of(self.step, [len(e.ids) for e in self.encoded], config.batch_size, config.seed),
                               self.generator)
        sampled = clock()
        self.measure(rollout)
        raw = self.reward(rollout).float().cpu()
        scores = rl_math.missing_end_scores(self.gain * raw + self.bias, rollout.ended, mode=self.missing_end,
                                            penalty=config.missing_end_score)
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1).mean().item()
        advantages, returns, metrics = self.advantages(rollout, scores, kl)
        scored = clock()
        metrics |= {"objective/scores": raw.mean().item()} | self.update(rollout, advantages, returns)
        self.controller.update(kl, len(rollout))
        self._remember(rollout, raw)
        return metrics | {"time/rollout": sampled - started, "time/score": scored - sampled, "time/update": clock() - scored}

    def rollout(self, chosen: list[int], generator: torch.Generator) -> Rollout:
        """Sample one response of the policy to each chosen prompt."""
        asked = [self.encoded[i].ids for i in chosen]
        with self.backbone.use("policy"):
            answers = sample(self.backbone, asked, Sampling(self.config.max_new_tokens, self.config.temperature),
                             generator, breathe=self.breathe)
        return self._rollout([self.prompts[i] for i in chosen], asked, answers)

    @torch.no_grad()
    def measure(self, rollout: Rollout) -> None:
        """Fill in log-probabilities under policy and reference, values and entropy, from training's own forward pass.

        Log-probabilities are recomputed rather than kept from sampling, so that the first ratio is 1.
        """
        rollout.logprobs, rollout.ref_logprobs, rollout.values = (torch.zeros_like(rollout.mask) for _ in range(3))
        entropy = 0.0
        for part in micro_batches(self._by_length(rollout, range(len(rollout))), self.config.micro_batch):
            batch = _Batch(self.backbone, rollout, part)
            with self.backbone.use("policy"):
                logprobs, part_entropy = batch.logprobs(self.config.temperature)
            with self.backbone.use("reference"):
                ref_logprobs, _ = batch.logprobs(self.config.temperature)
            with self.backbone.use("value"):
                values = batch.values()
            for grid, tokens in ((rollout.logprobs, logprobs), (rollout.ref_logprobs, ref_logprobs), (rollout.values, values)):
                grid[part, :max(batch.lengths)] = batch.grid(tokens).cpu()
            entropy += part_entropy.sum().item()
            self.breathe()
        rollout.entropy = entropy / rollout.mask.sum().item()

    def advantages(self, rollout: Rollout, scores: torch.Tensor, kl: float) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """Whitened advantages and returns [B, R], and the metrics of the rollout."""
        config, mask = self.config, rollout.mask
        stop = self.kl_target * config.kl_stop
        above = bool(stop) and kl > stop
        self.steps_above = self.steps_above + 1 if above else 0
        if above:
            self._brake(kl, stop)
        rewards = rl_math.shaped_rewards(torch.zeros_like(scores) if above else scores, rollout.logprobs, rollout.ref_logprobs,
                                         mask, self.controller.coef)
        if config.whiten_rewards:
            rewards = rl_math.whiten(rewards, mask, shift_mean=False)
        advantages, returns = rl_math.gae(rewards, rollout.values, mask, gamma=config.gamma, lam=config.lam)
        k3 = rl_math.kl_estimates(rollout.logprobs, rollout.ref_logprobs)[2]
        metrics = {
            "objective/kl": kl,
            "objective/kl_per_token": kl * len(rollout) / mask.sum().item(),
            "objective/kl_k3": (k3 * mask).sum(1).mean().item(),
            "objective/kl_coef": self.controller.coef,
            "objective/scores_normalised": scores.mean().item(),
            "objective/reward": scores.mean().item() - self.controller.coef * kl,
            "objective/entropy": rollout.entropy,
            "objective/length": mask.sum(1).mean().item(),
            "objective/ended": rollout.ended.float().mean().item(),
            "value/explained_variance": rl_math.explained_variance(rollout.values, returns, mask).item(),
        }
        return rl_math.whiten(advantages, mask), returns, metrics

    def update(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor) -> dict:
        """`ppo_epochs` passes of `minibatches` optimiser steps over the rollout; returns their mean statistics."""
        config = self.config
        rate = self.set_learning_rates(self.rate, config.value_learning_rate or 2 * self.rate)
        totals: dict[str, float] = {}
        parts = [part for _ in range(config.ppo_epochs) for part in self._minibatches(rollout)]
        for part in parts:
            for name, value in self._optimise(rollout, advantages, returns, part).items():
                totals[name] = totals.get(name, 0.0) + value / len(parts)
        return {"lr": rate} | totals

    def _optimise(self, rollout: Rollout, advantages: torch.Tensor, returns: torch.Tensor, rows: list[int]) -> dict:
        """One optimiser step on `rows`; every loss is divided by the token count of the whole step."""
        config, backbone = self.config, self.backbone
        tokens = rollout.mask[rows].sum().item()
        sums: dict[str, float] = {}
        with backbone.checkpointing(config.gradient_checkpointing):
            for part in micro_batches(self._by_length(rollout, rows), config.micro_batch):
                batch = _Batch(backbone, rollout, part)
                old, adv, ret, values_old, mask = (batch.trim(x) for x in (
                    rollout.logprobs, advantages, returns, rollout.values, rollout.mask))
                with backbone.use("policy"):
                    logprobs, entropy = batch.logprobs(config.temperature)
                    policy, stats = rl_math.policy_loss(batch.grid(logprobs), old, adv, mask, clip=config.clip, tokens=tokens)
                    policy.backward()
                with backbone.use("value"):
                    value, value_stats = rl_math.value_loss(batch.grid(batch.values()), values_old, ret, mask,
                                                            clip=config.value_clip, tokens=tokens)
                    (config.value_coef * value).backward()
                for name, x in {"loss/policy": policy, "loss/value": value, "policy/approxkl": stats["approxkl"],
                                "policy/clipfrac": stats["clipfrac"], "val/ratio": stats["ratio"],
                                "policy/entropy": entropy.sum() / tokens, "value/clipfrac": value_stats["clipfrac"]}.items():
                    sums[name] = sums.get(name, 0.0) + x.item()
                self.breathe()
        sums["grad_norm"] = self.clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return sums

    # -- state -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        return super().state_dict() | {
            "generator": self.generator.get_state(), "controller": self.controller.state_dict(), "gain": self.gain,
            "bias": self.bias, "missing_end": self.missing_end, "steps_above": self.steps_above}

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.controller.load_state_dict(state["controller"])
        self.gain, self.bias = state["gain"], state["bias"]
        self.missing_end, self.steps_above = state["missing_end"], state["steps_above"]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _make_roles(self) -> None:
        backbone, config = self.backbone, self.config
        if "policy" in backbone.roles:
            backbone.copy_role("reference", "policy")
        else:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        if "reward" in backbone.roles:
            backbone.copy_role("value", "reward")
        else:
            backbone.copy_role("value", "policy")
            backbone.new_head("value", zero=True)
        backbone.train("policy", "value")

    def _rollout(self, prompts: list[Prompt], asked: list[list[int]], answers: list[list[int]]) -> Rollout:
        lengths = torch.tensor([len(answer) for answer in answers])
        mask = (torch.arange(int(lengths.max()))[None] < lengths[:, None]).float()
        return Rollout(prompts, asked, answers, [text_of(self.backbone, ids) for ids in answers],
                       torch.tensor([ids[-1] in self.backbone.stop_ids for ids in answers]), mask)

    def _by_length(self, rollout: Rollout, rows) -> list[int]:
        return sorted(rows, key=lambda i: (len(rollout.prompt_ids[i]) + len(rollout.response_ids[i]), i))

    def _minibatches(self, rollout: Rollout) -> list[list[int]]:
        """A fresh random split of the rows into `minibatches` parts, as equal as they can be."""
        order = torch.randperm(len(rollout), generator=self.generator).tolist()
        return [order[i::self.config.minibatches] for i in range(self.config.minibatches)]

    def _brake(self, kl: float, stop: float) -> None:
        self.events.append({"event": "warning", "step": self.step, "kl": kl,
                            "text": f"KL is {kl:.1f} nats a sequence, above the hard stop of {stop:.1f}: "
                                    "this step learns from the KL penalty alone."})
        if self.steps_above >= PATIENCE:
            raise Diverged(f"KL stayed above the hard stop of {stop:.1f} nats a sequence for {PATIENCE} steps (now {kl:.1f}); "
                           "start a new run from a checkpoint before that (--adapter) with a lower --learning-rate or a higher --kl-coef")

    def _remember(self, rollout: Rollout, raw: torch.Tensor) -> None:
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.mask).sum(1)
        self.samples = [{"step": self.step, "prompt": rollout.prompts[i], "response": rollout.responses[i],
                         "score": raw[i].item(), "kl": kl[i].item(), "ended": bool(rollout.ended[i])}
                        for i in range(min(4, len(rollout)))]


class _Batch:
    """A micro-batch of a rollout on the device: token rows, and where their response tokens stand."""

    def __init__(self, backbone: Backbone, rollout: Rollout, rows: list[int]):
        self.backbone, self.rows = backbone, rows
        self.lengths = [len(rollout.response_ids[i]) for i in rows]
        self.ids = pad_right([rollout.prompt_ids[i] + rollout.response_ids[i] for i in rows], backbone.pad_id, backbone.device)
        self.where = response_positions([len(rollout.prompt_ids[i]) for i in rows], self.lengths, self.ids.device)
        self.mask = self.trim(rollout.mask).bool()

    def logprobs(self, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        return token_logprobs(self.backbone, self.ids, *self.where, temperature)

    def values(self) -> torch.Tensor:
        """[N]: the value of the state before each response token."""
        return self.backbone.heads["value"](self.backbone.hidden(self.ids)[self.where])

    def trim(self, grid: torch.Tensor) -> torch.Tensor:
        """These rows of a [B, R] tensor, cut to their own longest response, on the device."""
        return grid[self.rows, :max(self.lengths)].to(self.ids.device)

    def grid(self, tokens: torch.Tensor) -> torch.Tensor:
        """[N] response tokens -> [b, r], zero where there is none."""
        return torch.zeros(self.mask.shape, dtype=tokens.dtype, device=tokens.device).masked_scatter(self.mask, tokens)
