"""KTO: a policy from thumbs alone, without pairs (Ethayarajh et al. 2024).

Each response was called desirable or undesirable by itself. Its log-ratio is compared with a point of reference, z0:
the mean log-ratio of responses to other prompts, which estimates the policy's KL. z0 is taken once a step, over the
whole batch, so it is the same for every size of a micro-batch. A response is never put behind its own prompt for it:
within one prompt z0 would be the very log-ratio that is compared with it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from rlhf_engine import measures
from rlhf_engine.config import DPOConfig
from rlhf_engine.data.preferences import thumbs_of
from rlhf_engine.data.readers import Preference, Ranking, Thumb
from rlhf_engine.data.tokenization import encode_examples, fit_tokens
from rlhf_engine.errors import UserError, noop
from rlhf_engine.losses.dpo import kto_loss, kto_reference
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.trainers.preferences.comparisons import Group
from rlhf_engine.trainers.preferences.dpo import DPO

MOST_DESIRABLE = 4 / 3
"""Most of weight times number of desirable responses, beside that of undesirable ones (Ethayarajh et al. 2024)."""


@dataclass(frozen=True)
class JudgedResponse(Group):
    """A prompt with one response, and its thumb."""

    desirable: bool = True


class KTO(DPO):
    """Trains the role `policy` on responses that were called good or bad. Roles, reference and settings are DPO's.

    Pairs and rankings are split into thumbs (`thumbs_of`). A response is one batch element.

    Metrics are DPO's, and mean: `log_ratio/chosen` and `log_ratio/rejected` are the mean log-ratios of desirable and
    undesirable responses (nats per sequence), `margin` is their difference times beta. `accuracy/train` and
    `accuracy/held_out` are the area under the ROC curve: of all pairs of a desirable and an undesirable response, the
    share in which the desirable one has the higher log-ratio, ties as half. Chance is .5 whatever the share of
    desirable ones, and no threshold is needed. `log_ratio/mismatched` is z0.

    Raises UserError if there are no thumbs, or all are of one prompt.
    """

    chosen_word, rejected_word = "desirable", "undesirable"

    def __init__(self, backbone: Backbone, preferences: Sequence[Preference | Ranking | Thumb],
                 config: DPOConfig | None = None, *, on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, preferences, config or DPOConfig(loss="kto"), on_microbatch=on_microbatch)
        good = sum(group.desirable for group in self.groups)
        note = (f"{good:,} desirable and {len(self.groups) - good:,} undesirable responses to train on, which weigh "
                f"{self.weights[0]:.3g} and {self.weights[1]:.3g} each")
        if good in (0, len(self.groups)):
            note += "; KTO is made for both kinds, and responses of one kind say little: add some of the other"
        self.data_notes.append(note)

    def _make_groups(self, preferences: Sequence[Any]) -> tuple[list[JudgedResponse], list[str]]:
        rows = [thumb for row in preferences for thumb in thumbs_of(row)]
        if not rows:
            raise UserError("there is nothing to learn from: all rows are ties; give thumbs, or pairs of which one "
                            "response was chosen")
        encoded, notes = encode_examples(self.backbone, [(row.prompt, row.completion) for row in rows],
                                         self.max_tokens)
        groups = []
        for row, answer in zip(rows, encoded):
            groups.append(JudgedResponse(row.prompt, [answer], (1.0,), [], desirable=row.desirable))
        if len({str(group.prompt) for group in groups}) < 2:
            raise UserError("all rows have the same prompt, so KTO finds no response to another one to compare with: "
                            "give rows of two prompts at least, or pairs and another --loss")
        return groups, notes

    def apply_config(self) -> None:
        super().apply_config()
        self.weights = class_weights(self.groups, self.config)
        """Of a desirable and of an undesirable response."""
        self.z0 = torch.zeros(())
        self.log_ratios: dict[int, tuple[float, bool]] = {}
        """By the identity of a row that was read since `_look_at`: its log-ratio, and whether it is desirable."""

    def largest_row(self) -> tuple[int, int]:
        longest, largest = super().largest_row()
        groups = [*self.groups, *self.held_out]
        prompt = max(len(group.answers[0].prompt_ids) for group in groups)
        mismatched = min(prompt + max(len(group.answers[0].completion_ids) for group in groups), self.max_tokens)
        return max(longest, mismatched), max(largest, mismatched)

    # -- the loss ----------------------------------------------------------------------------------------------------

    def _look_at(self, groups: list[JudgedResponse]) -> None:
        """Estimate z0 on these rows, each with the response of another row."""
        self.log_ratios = {}
        rng = random.Random(f"{self.config.seed} mismatch {self.step}")
        partners = mismatches(groups, [*self.groups, *self.held_out], rng)
        pairs = [self._with_response_of(row, partner) for row, partner in zip(groups, partners)]
        policy, reference = (self._read_all(pairs, role) for role in ("policy", "reference"))
        differences = [p - r for (p,), (r,) in zip(policy, reference)]
        self.z0 = kto_reference(torch.tensor(differences, device=self.backbone.device))

    def _with_response_of(self, row: JudgedResponse, other: JudgedResponse) -> JudgedResponse:
        """The prompt of a row with the response of another one, cut to the longest row allowed."""
        ids = fit_tokens(self.backbone.tokenizer, row.answers[0].prompt_ids, other.answers[0].completion_ids,
                         self.max_tokens)
        return replace(row, answers=[ids])

    def _loss(self, groups: list[JudgedResponse], reference_sums: list[list[float]],
              ) -> tuple[torch.Tensor, dict[str, float]]:
        sums = self._read_sums(groups)
        log_ratios = sums - torch.tensor([value for value, in reference_sums], device=sums.device)
        desirable = torch.tensor([group.desirable for group in groups], device=sums.device)
        good, bad = self.weights
        losses = kto_loss(log_ratios, desirable, self.z0, self.config.beta, desirable_weight=good,
                          undesirable_weight=bad)
        for group, value in zip(groups, log_ratios.tolist()):
            self.log_ratios[id(group)] = value, group.desirable  # a pass that is repeated overwrites its own
        return losses.sum(), {}

    def _means(self, sums: dict[str, float], *, held_out: bool) -> dict[str, float]:
        good = [value for value, desirable in self.log_ratios.values() if desirable]
        bad = [value for value, desirable in self.log_ratios.values() if not desirable]
        result = {} if held_out else {measures.Z0: self.z0.item()}
        keys = (measures.CHOSEN_HELD_OUT, measures.REJECTED_HELD_OUT) if held_out else (measures.CHOSEN,
                                                                                       measures.REJECTED)
        for key, values in zip(keys, (good, bad)):
            if values:
                result[key] = sum(values) / len(values)
        if good and bad:
            result[measures.ACCURACY_HELD_OUT if held_out else measures.ACCURACY_TRAIN] = area_under_curve(good, bad)
            if not held_out:
                result[measures.MARGIN] = self.config.beta * (result[keys[0]] - result[keys[1]])
        return result

    def report(self) -> dict[str, Any]:
        counts = {"pairs": len(self.groups), "held_out_pairs": len(self.held_out)}
        report = {name: value for name, value in super().report().items() if name not in counts}
        return {**report, "rows": counts["pairs"], "held_out_rows": counts["held_out_pairs"]}


def class_weights(rows: Sequence[JudgedResponse], config: DPOConfig) -> tuple[float, float]:
    """The weights of a desirable and of an undesirable response: those of the settings, or where these are 0, from the
    counts.

    Weight times number should stand as 1:1 to 4:3. Where they do not, the kind that is too rare gets more weight, as
    little as is needed. Where one kind is missing, both weights are 1.
    """
    good = sum(row.desirable for row in rows)
    bad = len(rows) - good
    desirable, undesirable = config.desirable_weight, config.undesirable_weight
    ratio = good / bad if good and bad else 1.0
    if desirable and undesirable:
        return desirable, undesirable
    if desirable:
        return desirable, desirable * ratio / min(max(desirable * ratio, 1.0), MOST_DESIRABLE)
    if undesirable:
        wanted = min(max(ratio / undesirable, 1.0), MOST_DESIRABLE)
        return undesirable * wanted / ratio, undesirable
    wanted = min(max(ratio, 1.0), MOST_DESIRABLE)
    return (wanted / ratio, 1.0) if ratio < 1 else (1.0, ratio / wanted)


def mismatches(rows: Sequence[JudgedResponse], others: Sequence[JudgedResponse],
               rng: random.Random) -> list[JudgedResponse]:
    """For each row, one that answers another prompt: of the same rows, each about equally often.

    Rows of one prompt stand side by side, prompts in random order. The partner stands as many places further on as the
    commonest prompt has rows, so it is never of the same prompt. Where that prompt has more than half of the rows, the
    others are used several times. Where all rows have one prompt, partners come from `others`.
    """
    by_prompt: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_prompt.setdefault(str(row.prompt), []).append(i)
    prompts = rng.sample(list(by_prompt), len(by_prompt))
    order = [i for prompt in prompts for i in by_prompt[prompt]]
    commonest = max(prompts, key=lambda prompt: len(by_prompt[prompt]))
    shift = len(by_prompt[commonest])
    partners: dict[int, JudgedResponse] = {}
    if 2 * shift <= len(rows):
        for place, i in enumerate(order):
            partners[i] = rows[order[(place + shift) % len(order)]]
        return [partners[i] for i in range(len(rows))]
    rest = [rows[i] for i in order if str(rows[i].prompt) != commonest]
    if not rest:
        strangers = [row for row in others if str(row.prompt) != commonest]
        rest = rng.sample(strangers, min(len(strangers), len(rows)))
    common = by_prompt[commonest]
    for place, i in enumerate(common):
        partners[i] = rest[place % len(rest)]
    for place, i in enumerate(i for i in order if i not in partners):
        partners[i] = rows[common[place % len(common)]]
    return [partners[i] for i in range(len(rows))]


def area_under_curve(good: Sequence[float], bad: Sequence[float]) -> float:
    """Share of all pairs of a good and a bad value in which the good one is higher, ties as half (Mann and Whitney
    1947)."""
    values = sorted([(value, True) for value in good] + [(value, False) for value in bad])
    ranks = 0.0  # of the good values, from 1; equal values share their mean rank
    start = 0
    while start < len(values):
        end = start
        while end < len(values) and values[end][0] == values[start][0]:
            end += 1
        ranks += (start + 1 + end) / 2 * sum(is_good for _, is_good in values[start:end])
        start = end
    return (ranks - len(good) * (len(good) + 1) / 2) / (len(good) * len(bad))
