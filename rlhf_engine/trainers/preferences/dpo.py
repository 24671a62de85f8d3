"""DPO and its relatives: a policy from preferences alone (Rafailov et al. 2023).

The policy's log-ratio to the reference is the reward, so there is no reward model, and nothing is sampled to learn
from. A curve of its own losses does not say how far such a policy has gone or whether it still writes text. So every so
many steps it answers prompts, and its KL to the reference is measured on these answers, as PPO's is.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import DPOConfig
from rlhf_engine.data.batches import split_held_out
from rlhf_engine.data.readers import Preference, Ranking, Thumb
from rlhf_engine.errors import UserError, noop
from rlhf_engine.losses.dpo import MEANS, PAIR_LOSSES, TIED, plackett_luce_loss
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import passes_within
from rlhf_engine.model.prefix_packing import read_sums
from rlhf_engine.rollout.on_policy import OnPolicyProbe
from rlhf_engine.trainers.base import adam, add_up
from rlhf_engine.trainers.preferences.comparison_trainer import ComparisonTrainer
from rlhf_engine.trainers.preferences.comparisons import Group, count_pairs, make_groups, padded_tokens

FALLEN = -5.0
"""Log-ratio of the chosen responses, in nats per sequence, below which a run is told that they become unlikely, too."""


class DPO(ComparisonTrainer[DPOConfig]):
    """Trains the role `policy` on compared or ranked responses, without a reward model.

    The policy starts as it is in the backbone, or fresh. The reference is a frozen copy of it, or the bare base if it
    starts fresh: the policy's log-ratio to it is 0 at first. A prompt is one batch element; its pairs share its weight.

    Metrics of a step: `loss/train` (mean over prompts), `accuracy/train` (of pairs without a tie, where the chosen
    response has the higher log-ratio), `margin` (mean difference of these, times beta), `log_ratio/chosen` and
    `log_ratio/rejected` (nats per sequence), `lr`, `grad_norm`, `time/update`. Every `evaluate_every` steps and at the
    end also `loss/held_out`, `accuracy/held_out`, both log-ratios of held-out pairs, and on fresh responses to held-out
    prompts `objective/kl` (nats per sequence), length, and the measures of the text.

    Args:
        backbone: the base model, with the role `policy` or without.
        preferences: compared or ranked responses. A share of their prompts is held out.
        config: the settings.
        on_microbatch: called between micro-batches.

    Raises UserError if there are no preferences.
    """

    roles = ("policy", "reference")
    chosen_word, rejected_word = "chosen", "rejected"
    """What the better and the worse responses of the data are called, in messages."""

    def __init__(self, backbone: Backbone, preferences: Sequence[Preference | Ranking | Thumb],
                 config: DPOConfig | None = None, *, on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config or DPOConfig(), on_microbatch=on_microbatch)
        config = self.config
        if not preferences:
            raise UserError("there are no preferences to train on")
        groups, self.data_notes = self._make_groups(preferences)
        self.groups, self.held_out = split_held_out(list(groups), config.held_out, config.seed,
                                                    key=lambda group: str(group.prompt))
        self.reference_sums: list[list[float]] = []
        """For each group, training ones first: log-probabilities of its responses under the reference, in nats."""
        self.last_evaluation: dict[str, float] = {}
        self.last_chosen = 0.0
        """Mean log-ratio of held-out chosen responses at the last evaluation, in nats per sequence."""
        self.told_of_fall = False
        self.apply_config()
        self._make_policy()
        backbone.train("policy")
        self.optimizer = adam(backbone.parameters("policy"))
        self.probe = OnPolicyProbe(backbone, [group.prompt for group in self.held_out or self.groups], config)

    def _make_groups(self, preferences: Sequence[Any]) -> tuple[Sequence[Any], list[str]]:
        """The rows of the data as batch elements, and remarks on them. Raises UserError if there is nothing to
        learn."""
        groups, notes = make_groups(self.backbone, preferences, self.max_tokens)
        groups = [group for group in groups if group.pairs]
        if not groups:
            raise UserError(f"there is nothing to learn from: {notes[-1]}; raise --max-tokens, or choose other data")
        return groups, notes

    def largest_row(self) -> tuple[int, int]:
        longest, largest = self.largest_group()
        return max(longest, self.probe.longest), largest

    # -- steps -------------------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Read all responses under the reference, once for the whole run, and sample the start's own responses."""
        groups = [*self.groups, *self.held_out]
        if self.config.reference_free:
            self.reference_sums = [[0.0] * len(group.answers) for group in groups]
        else:
            self.reference_sums = self._read_all(groups, "reference")
        _, self.samples = self.probe.start(self.micro_batch, self.pass_tokens, self.on_microbatch)

    def train_step(self) -> dict[str, Any]:
        started = time.perf_counter()
        config = self.config
        batch, row_length = self.step_batch()
        self._look_at([self.groups[i] for i in batch])

        def backward(part: list[int]) -> dict[str, float]:
            loss, stats = self._loss([self.groups[i] for i in part], [self.reference_sums[i] for i in part])
            (loss / len(batch)).backward()
            return {"loss": loss.item() / len(batch), **stats}

        rate = self.set_learning_rates(self.peak_lr)
        with self.backbone.use("policy"), self.backbone.checkpointing(config.gradient_checkpointing):
            sums = self.accumulate(batch, backward, row_length=row_length)
        metrics = {measures.LOSS_TRAIN: sums["loss"], **self._means(sums, held_out=False),
                   measures.LEARNING_RATE: rate, measures.GRADIENT_NORM: self.clip_gradients()}
        self.update_weights()
        metrics[measures.TIME_UPDATE] = time.perf_counter() - started
        if self.step % config.evaluate_every == 0 or self.step == self.total_steps:
            self.last_evaluation = self.evaluate()
            metrics.update(self.last_evaluation)
            metrics[measures.TIME_ROLLOUT] = time.perf_counter() - started - metrics[measures.TIME_UPDATE]
        return metrics

    def evaluate(self) -> dict[str, float]:
        """The policy as it is: on held-out preferences, and on fresh responses of its own."""
        result: dict[str, float] = {}
        if self.held_out:
            sums: dict[str, float] = {}
            first = len(self.groups)
            self._look_at(self.held_out)
            order = sorted(range(len(self.held_out)), key=lambda i: padded_tokens(self.held_out[i]))
            with torch.no_grad(), self.backbone.use("policy"):
                for part in self._passes(order, lambda i: padded_tokens(self.held_out[i])):
                    loss, stats = self._loss([self.held_out[i] for i in part],
                                             [self.reference_sums[first + i] for i in part])
                    add_up(sums, {"loss": loss.item(), **stats})
                    self.on_microbatch()
            result = {measures.LOSS_HELD_OUT: sums["loss"] / len(self.held_out), **self._means(sums, held_out=True)}
            self.last_chosen = result.get(measures.CHOSEN_HELD_OUT, 0.0)
            if self.last_chosen < FALLEN and not self.told_of_fall:
                self._warn_of_fall()
        probed, samples, warnings = self.probe.measure(self.step, self.micro_batch, self.pass_tokens,
                                                       self.on_microbatch)
        self.samples = [*self.samples, *samples]
        for warning in warnings:
            self.events.append({"event": "warning", "step": self.step, "kind": warning.kind, "text": warning.text})
        return {**result, **probed}

    def report(self) -> dict[str, Any]:
        report: dict[str, Any] = {"stage": self.config.stage, "pairs": count_pairs(self.groups),
                                  "held_out_pairs": count_pairs(self.held_out)}
        for name, value in self.last_evaluation.items():
            report[name.rpartition("/")[2] if name.startswith("objective/") else name.replace("/", "_")] = value
        return report

    # -- the loss ----------------------------------------------------------------------------------------------------

    def _look_at(self, groups: list[Any]) -> None:
        """Called before the losses of all these groups are computed, in one micro-batch or several."""

    def _loss(self, groups: list[Any], reference_sums: list[list[float]]) -> tuple[torch.Tensor, dict[str, float]]:
        """(sum of the losses of some prompts under the role in use, sums of their statistics)."""
        config = self.config
        lengths = torch.tensor([len(answer.completion_ids) for group in groups for answer in group.answers],
                               device=self.backbone.device)
        reference = torch.tensor([value for values in reference_sums for value in values], device=lengths.device)
        sums = self._read_sums(groups) - reference
        log_ratios = sums / lengths if config.loss in MEANS else sums
        chosen, rejected, smoothing, weights = [], [], [], []
        first = 0  # index of the group's first response
        losses = []
        for group in groups:
            if config.loss == "plackett-luce":
                rewards = config.beta * log_ratios[first:first + len(group.answers)]
                losses.append(plackett_luce_loss(rewards, group.ranks))
            for pair in group.pairs:
                chosen.append(first + pair.better)
                rejected.append(first + pair.worse)
                smoothing.append(TIED if pair.tied else config.label_smoothing)
                weights.append(1 / len(group.pairs))
            first += len(group.answers)
        smoothing = torch.tensor(smoothing, device=lengths.device)
        if config.loss != "plackett-luce":
            margins = log_ratios[chosen] - log_ratios[rejected]
            margins = margins + config.length_penalty * (lengths[chosen] - lengths[rejected])
            losses = PAIR_LOSSES[config.loss](margins, config.beta, smoothing) * torch.tensor(weights).to(margins)
        loss = torch.stack(losses).sum() if isinstance(losses, list) else losses.sum()
        won = smoothing != TIED
        difference = (log_ratios[chosen] - log_ratios[rejected]).detach()[won]
        right = (difference > 0).float() + 0.5 * (difference == 0).float()
        sums = sums.detach()
        return loss, {"pairs": int(won.sum()), "correct": right.sum().item(),
                      "margins": config.beta * difference.sum().item(),
                      "chosen": sums[chosen][won].sum().item(), "rejected": sums[rejected][won].sum().item()}

    def _read_sums(self, groups: Sequence[Group]) -> torch.Tensor:
        """[N]: the log-probability of each response of some prompts under the role in use, in nats per sequence."""
        rows = [(answer.prompt_ids, answer.completion_ids) for group in groups for answer in group.answers]
        return read_sums(self.backbone, rows)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "reference_sums": self.reference_sums, "measured": self.last_evaluation,
                "told_of_fall": self.told_of_fall, "probe": self.probe.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.reference_sums = state["reference_sums"]
        self.last_evaluation = state["measured"]
        self.told_of_fall = state["told_of_fall"]
        self.probe.load_state_dict(state["probe"])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _read_all(self, groups: Sequence[Group], role: str) -> list[list[float]]:
        """For each group: the log-probabilities of its responses under a role, in nats per sequence."""
        result: list[list[float]] = [[] for _ in groups]
        order = sorted(range(len(groups)), key=lambda i: padded_tokens(groups[i]))
        with torch.no_grad(), self.backbone.use(role):
            for part in self._passes(order, lambda i: padded_tokens(groups[i])):
                sums = self._read_sums([groups[i] for i in part]).tolist()
                for i in part:
                    count = len(groups[i].answers)
                    result[i], sums = sums[:count], sums[count:]
                self.on_microbatch()
        return result

    def _means(self, sums: dict[str, float], *, held_out: bool) -> dict[str, float]:
        """The measures of some groups, from the sums of `_loss`."""
        return means(sums, held_out=held_out)

    def _passes(self, order: list[int], length: Callable[[int], int]) -> list[list[int]]:
        return passes_within(order, self.micro_batch or self.config.batch_size, length, self.pass_tokens)

    def _warn_of_fall(self) -> None:
        self.told_of_fall = True
        text = (f"The {self.chosen_word} responses become less likely, too: by {-self.last_chosen:.0f} nats a "
                f"response, on held-out rows. The loss only asks that the {self.rejected_word} ones fall faster. Look "
                "at the fresh responses; a higher --beta or fewer --epochs keeps the policy closer to its start.")
        self.events.append({"event": "warning", "step": self.step, "kind": "chosen_fall", "text": text})


def means(sums: dict[str, float], *, held_out: bool) -> dict[str, float]:
    """The measures of some pairs without a tie, from the sums of `DPO._loss`; none if there were only ties."""
    pairs = sums["pairs"]
    if not pairs:
        return {}
    accuracy, chosen, rejected = sums["correct"] / pairs, sums["chosen"] / pairs, sums["rejected"] / pairs
    if held_out:
        return {measures.ACCURACY_HELD_OUT: accuracy, measures.CHOSEN_HELD_OUT: chosen,
                measures.REJECTED_HELD_OUT: rejected}
    return {measures.ACCURACY_TRAIN: accuracy, measures.MARGIN: sums["margins"] / pairs, measures.CHOSEN: chosen,
            measures.REJECTED: rejected}
