"""What learners that sample their own responses share: sampling, scoring, the KL to the reference, and guard rails."""

import math
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch

from rlhf_engine.config import KL_PER_TOKEN, PolicyConfig
from rlhf_engine.data.batches import batch_of
from rlhf_engine.data.formats import Demonstration
from rlhf_engine.data.tokenization import Encoded, Prompt, encode_prompts
from rlhf_engine.errors import UserError, noop
from rlhf_engine.feedback.scoring_functions import name_of
from rlhf_engine.losses.ppo import AllAlike, gain_and_bias, missing_end_scores
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoders import Decoder
from rlhf_engine.model.generation import Sampling, make_decoder, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.rollout.collapse_guard import Guard
from rlhf_engine.rollout.kl_controller import KLController
from rlhf_engine.rollout.pretraining_mix import PretrainingMix
from rlhf_engine.rollout.reward_functions import RewardFunction, RewardModel, check_scores
from rlhf_engine.rollout.rollout import Rollout, make_rollout
from rlhf_engine.rollout.score_spread import ScoreSpread, early_remark, growing_batches
from rlhf_engine.trainers.base import Diverged, Trainer

PolicyConfigT = TypeVar("PolicyConfigT", bound=PolicyConfig)

KL_STOP_STEPS = 10
"""Steps in a row above the hard stop on the KL after which a run ends."""
LOGGED_SAMPLES = 4
"""Responses of a step that are written to samples.jsonl."""


class Scores(NamedTuple):
    """Raw scores of B responses, on the CPU."""

    total: torch.Tensor
    """[B]"""
    per_token: torch.Tensor | None
    """[B, R]: what each token adds to the score of its response, if the reward function says so."""


class PolicyTrainer(Trainer[PolicyConfigT]):
    """Base of the learners that train `policy` on its own responses to `prompts`, scored by `reward`.

    The role `policy` starts as it is in the backbone, or fresh. The role `reference` is a frozen copy of it, or the
    bare base if the policy starts fresh. A subclass writes `train_step` and makes the optimiser.

    Args:
        backbone: the base model, with the role `policy` or without.
        prompts: the prompts to sample responses to.
        reward: scores a rollout: [B], or [B, R] if it knows what each token adds.
        config: the settings.
        ptx: with `ptx_coef`, text that the policy goes on learning (`PretrainingMix`).
        on_microbatch: called between micro-batches and after each sampled token.

    Raises UserError if there are no prompts, or no room for a response.
    """

    roles = ("policy", "reference")

    def __init__(self, backbone: Backbone, prompts: list[Prompt], reward: RewardFunction,
                 config: PolicyConfigT, *, ptx: Sequence[Demonstration] = (),
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config, on_microbatch=on_microbatch)
        config = self.config
        if not prompts:
            raise UserError("there are no prompts to train on")
        self.reward = reward
        self.prompts = prompts * -(-config.batch_size // len(prompts))  # few prompts are used several times a step
        self.encoded: list[Encoded] = []
        """Token ids of the prompts."""
        self.room = 0
        """Tokens that the prompts were cut to."""
        self.controller = KLController(config.kl_coef, *self._kl_aim(), floor=config.kl_floor)
        self.mix = PretrainingMix(backbone, list(ptx), config, self.max_tokens) if config.ptx_coef else None
        self.apply_config()
        if self.mix:
            self.data_notes = self.data_notes + self.mix.notes
        self.generator = seeded_generator(config.seed)
        self.reward_gain, self.reward_bias = 1.0, 0.0
        """A normalised score is gain * score + bias."""
        self.score_std = 1.0
        """Standard deviation of the raw scores of the reference's responses."""
        self.missing_end: str = config.missing_end
        self.reference_length = math.inf
        """Mean length of the reference's responses in tokens. The length penalty begins there."""
        self.steps_above = 0
        """Steps in a row on which the KL was above the hard stop."""
        self.guard = Guard()

    # -- settings ----------------------------------------------------------------------------------------------------

    @property
    def kl_target(self) -> float:
        """KL that the controller aims at, in nats per sequence; 0 if there is no target."""
        return min(self.config.kl_target, KL_PER_TOKEN * self.config.max_new_tokens)

    def _kl_aim(self) -> tuple[float | None, float, float]:
        """The KL controller's target (None: keep the coefficient), its horizon in episodes, its lookahead in
        updates."""
        config = self.config
        episodes = config.batch_size * config.steps
        return self.kl_target or None, config.kl_horizon or episodes / 20, config.kl_lookahead * config.steps

    def apply_config(self) -> None:
        config = self.config
        self.total_steps = config.steps
        room = prompt_room(self.backbone, config.max_new_tokens, config.max_tokens)
        if room != self.room:
            self.encoded, self.data_notes = encode_prompts(self.backbone, self.prompts, room)
            self.room = room
        self.controller.aim(*self._kl_aim())
        if self.mix:
            self.mix.apply_config()

    def largest_row(self) -> tuple[int, int]:
        longest = min(max(len(row.ids) for row in self.encoded) + self.config.max_new_tokens, self.max_tokens)
        return longest, longest

    def choose_passes(self) -> None:
        super().choose_passes()
        if isinstance(self.reward, RewardModel):
            self.reward.pass_tokens = self.pass_tokens

    # -- before the first step ---------------------------------------------------------------------------------------

    def prepare(self) -> None:
        rollout, scores = self.score_reference()
        self.fit_reward_normalisation(rollout, scores)
        if text := self._score_spread(rollout, scores).warning():
            self.events.append({"event": "warning", "step": self.step + 1, "kind": "scores_alike", "text": text})

    def sample_reference(self) -> Rollout:
        """`reference_samples` responses of the reference to prompts drawn at random."""
        return self.rollout(self._reference_prompts(), seeded_generator(self.config.seed + 1), role="reference",
                            batch=self.config.batch_size)

    def score_reference(self) -> tuple[Rollout, torch.Tensor]:
        """The same responses and their raw scores [N]: sampled and scored in growing batches, the first ones small.

        So whoever waits hears early of a reward that is the same for all of them (`score_spread`).
        """
        chosen, generator = self._reference_prompts(), seeded_generator(self.config.seed + 1)
        prompt_ids: list[list[int]] = []
        response_ids: list[list[int]] = []
        scores: list[torch.Tensor] = []
        remarked = False
        for part in growing_batches(chosen, self.config.batch_size):
            rollout = self.rollout(part, generator, role="reference")
            prompt_ids += rollout.prompt_ids
            response_ids += rollout.response_ids
            scores.append(self.score_responses(rollout).total)
            text = early_remark(torch.cat(scores), len(chosen))
            if text and not remarked:
                remarked = True
                self.events.append({"event": "warning", "step": self.step + 1, "kind": "alike_so_far", "text": text})
                self.on_news()
        rollout = make_rollout(self.backbone, [self.prompts[i] for i in chosen], prompt_ids, response_ids)
        return rollout, torch.cat(scores)

    def _reference_prompts(self) -> list[int]:
        """Indices of the prompts to which the reference answers."""
        rng = random.Random(f"{self.config.seed} reference")
        return rng.choices(range(len(self.encoded)), k=self.config.reference_samples)

    def fit_reward_normalisation(self, rollout: Rollout, scores: torch.Tensor | None = None) -> None:
        """Learn from responses of the reference how often it ends in time, and the mean and spread of their scores.

        `scores` [N] are the raw ones, where they are known. Raises UserError for scores that are all the same, unless
        the reward is not normalised.
        """
        config = self.config
        ended = rollout.ended.float().mean().item()
        self.reference_length = rollout.mask.sum(1).mean().item()
        self.guard.reference = rollout.response_ids
        if self.missing_end == "auto":
            self.missing_end = "replace" if ended > 0.5 else "none"
        scores = self.score_responses(rollout).total if scores is None else scores
        self.score_std = scores.std(correction=0).item()
        if config.normalise_reward:
            try:
                self.reward_gain, self.reward_bias = gain_and_bias(scores)
            except AllAlike as error:
                raise UserError(f"the reward cannot be normalised: {error} in {len(scores)} samples; "
                                f"{self._score_spread(rollout, scores).help()}; or add "
                                "--no-normalise-reward") from None
            except ValueError as error:
                raise UserError(f"the reward cannot be normalised: {error}; give one that tells responses of the "
                                "starting policy apart, or add --no-normalise-reward") from None
        self.events.append({"event": "reference", "step": self.step, "samples": len(rollout), "ended": ended,
                            "missing_end": self.missing_end, "score_mean": scores.mean().item(),
                            "score_std": self.score_std, "gain": self.reward_gain,
                            "bias": self.reward_bias, "length": self.reference_length})

    def _score_spread(self, rollout: Rollout, scores: torch.Tensor) -> ScoreSpread:
        return ScoreSpread(scores, rollout.ended.float().mean().item(), self.config)

    # -- sampling ----------------------------------------------------------------------------------------------------

    def sample_batch(self) -> Rollout:
        """The rollout of this step: one response of the policy to each of `batch_size` prompts."""
        lengths = [len(row.ids) for row in self.encoded]
        chosen = batch_of(self.step, lengths, self.config.batch_size, self.config.seed)
        return self.rollout(chosen, self.generator)

    def rollout(self, chosen: list[int], generator: torch.Generator, *, role: str = "policy",
                batch: int = 0) -> Rollout:
        """Sample one response of `role` to each chosen prompt (given by index), `batch` at a time (0: all)."""
        prompt_ids = [self.encoded[i].ids for i in chosen]
        response_ids = self._sample(prompt_ids, generator, role, batch)
        return make_rollout(self.backbone, [self.prompts[i] for i in chosen], prompt_ids, response_ids)

    def answer(self, prompts: list[Prompt], generator: torch.Generator, *, role: str = "policy") -> list[str]:
        """The texts with which `role` answers any prompts, sampled as in a rollout."""
        room = prompt_room(self.backbone, self.config.max_new_tokens, self.config.max_tokens)
        encoded, _ = encode_prompts(self.backbone, prompts, room)
        response_ids = self._sample([row.ids for row in encoded], generator, role)
        return [text_of(self.backbone, ids) for ids in response_ids]

    def _sample(self, prompt_ids: list[list[int]], generator: torch.Generator, role: str,
                batch: int = 0) -> list[list[int]]:
        sampling = Sampling(self.config.max_new_tokens, self.config.temperature)
        with self.backbone.use(role):
            return sample(self.backbone, prompt_ids, sampling, generator, batch=batch,
                          on_microbatch=self.on_microbatch, make=self.make_decoder)

    def make_decoder(self, backbone: Backbone, rows: int, longest: int) -> Decoder:
        """The decoder that samples under the role in use, for `rows` rows of up to `longest` tokens."""
        return make_decoder(backbone, rows, longest)

    # -- scoring -----------------------------------------------------------------------------------------------------

    def score_responses(self, rollout: Rollout) -> Scores:
        """Raw scores of the reward function.

        Raises UserError for anything but scores of the right shape, and NotFinite for NaN and infinities.
        """
        scores = check_scores(self.reward(rollout), rollout, name_of(self.reward))
        if scores.dim() == 2:
            return Scores(scores.sum(1), scores)
        return Scores(scores, None)

    def shape_scores(self, raw: torch.Tensor, rollout: Rollout) -> torch.Tensor:
        """The scores [B] that the policy learns from: raw scores [B], normalised, clipped, scaled, less the penalties.

        The penalties are for length and for a missing end.
        """
        config = self.config
        scores = self.reward_gain * raw + self.reward_bias
        if config.reward_clip:
            scores = scores.clamp(-config.reward_clip, config.reward_clip)
        scores = config.reward_scale * scores
        if config.length_penalty:
            excess = (rollout.mask.sum(1) - self.reference_length).clamp(min=0)
            scores = scores - config.length_penalty * excess
        return missing_end_scores(scores, rollout.ended, mode=self.missing_end, penalty=config.missing_end_score)

    # -- guard rails and logs ----------------------------------------------------------------------------------------

    def check_text(self, rollout: Rollout) -> dict[str, float]:
        """Measure whether the responses are still text, and warn if they are not. Returns the measures."""
        measures = self.guard.check(rollout, self.config.temperature)
        for warning in self.guard.new_warnings():
            self.events.append({"event": "warning", "step": self.step, "kind": warning.kind, "text": warning.text})
        return measures

    def above_kl_stop(self, kl: float) -> bool:
        """Whether the KL (nats per sequence) is above the hard stop: `kl_stop` times the target. Warns if it is.

        Raises Diverged at the `KL_STOP_STEPS`-th step in a row.
        """
        stop = self.kl_target * self.config.kl_stop
        if not stop or kl <= stop:
            self.steps_above = 0
            return False
        self.steps_above += 1
        self.events.append({"event": "warning", "step": self.step, "kind": "kl_stop", "kl": kl,
                            "text": f"KL is {kl:.1f} nats a sequence, above the hard stop of {stop:.1f}: "
                                    "this step learns from the KL penalty alone."})
        if self.steps_above >= KL_STOP_STEPS:
            raise Diverged(f"KL stayed above the hard stop of {stop:.1f} nats a sequence for {KL_STOP_STEPS} steps "
                           f"(now {kl:.1f}); start a new run from a checkpoint before that (--adapter) with a lower "
                           "--learning-rate or a higher --kl-coef")
        return True

    def log_samples(self, rollout: Rollout, scores: torch.Tensor) -> None:
        """Keep the first responses of the rollout, one to a prompt, for samples.jsonl, with their raw scores [B]."""
        kl = rollout.kl()
        self.samples = []
        for i in range(0, len(rollout), rollout.group_size)[:LOGGED_SAMPLES]:
            self.samples.append({"step": self.step, "prompt": rollout.prompts[i], "response": rollout.responses[i],
                                 "score": scores[i].item(), "kl": kl[i].item(), "ended": bool(rollout.ended[i])})

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state(),
                "controller": self.controller.state_dict(), "gain": self.reward_gain, "bias": self.reward_bias,
                "missing_end": self.missing_end, "steps_above": self.steps_above,
                "reference_length": self.reference_length, "score_std": self.score_std,
                "guard": self.guard.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.generator.set_state(state["generator"])
        self.controller.load_state_dict(state["controller"])
        self.reward_gain, self.reward_bias = state["gain"], state["bias"]
        self.missing_end = state["missing_end"]
        self.steps_above = state["steps_above"]
        self.reference_length = state["reference_length"]
        self.score_std = state.get("score_std", 1.0)  # not in runs of earlier versions
        self.guard = Guard.from_state(state["guard"])
