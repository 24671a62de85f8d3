"""The reward of `RewardTrainer` inside the live loop: an adapter and heads, fitted to votes a little at each update.

It can learn what no sparse sum of features says. For that it needs more votes and more time, so it learns in small
batches between two steps, with a bound on the responses that it reads at an update. All it does follows from the seed
and the votes in their order: a resumed run gets the same reward.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import NotFinite, noop
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.adapters import ScalarHead
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.prefix_packing import packed_passes, reading_order
from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood, was_predicted
from rlhf_engine.teach.reward_fit import RESPONSE_PRIOR
from rlhf_engine.teach.word_features import Row
from rlhf_engine.trainers.base import adam, fitted_learning_rate

ROLE = "reward"
PASSES = 4
"""Times that each vote is learned."""
UNREAD = 0.1
"""Share of all passes that may be due still when the adapter predicts or leads."""
VOTES_PER_BATCH = 8
"""Votes of an optimiser step."""
RATE = 1.2
"""Factor on the fitted learning rate: three times that of `RewardConfig`, for few steps (benchmarks/README.md)."""
RESPONSE_RATE = 10.0
"""Rate of the response model, in rates of the adapter: it is a few numbers of size 1, and has as few steps."""
MOST_ANCHORS = 128
"""Anchors that are read at an update, at most."""
SMALLEST_SPREAD = 0.05
"""Spread of raw scores on the anchors, in logits, below which they are not enlarged, as in `online_reward`."""


class Reading(NamedTuple):
    """What one forward pass says about some of the rows: B of them, with N tokens in their responses in all."""

    indices: list[int]
    """Which rows these are."""
    counts: list[int]
    """Tokens of the response of each."""
    tokens: torch.Tensor
    """[N, d]: the states of these tokens, row after row."""
    last: torch.Tensor
    """[B, d]: the state at the last token of each row."""


class AdapterReward:
    """The role `reward` with an ensemble of heads, which starts from the starting policy.

    A score is linear in two states of a response: the mean over its tokens, and the state at its last token, both
    standardised on the anchors. The mean makes a part of the score known at each token. The heads start at 0; members
    differ in how they weigh the votes, as those of `OnlineReward` do.

    Args:
        backbone: gets the role `reward`, until `drop`.
        config: the settings of the run.
        anchors: responses of the starting policy; the first `MOST_ANCHORS` are used.
        rows_per_pass: gives the rows of a forward pass with gradients; 0 is all of a batch.
        on_microbatch: called between passes.
    """

    def __init__(self, backbone: Backbone, config: TeachConfig, anchors: list[Row], *,
                 rows_per_pass: Callable[[], int] = lambda: 0, on_microbatch: Callable[[], None] = noop):
        self.backbone, self.config = backbone, config
        self.rows_per_pass, self.on_microbatch = rows_per_pass, on_microbatch
        self.anchors = anchors[:MOST_ANCHORS]
        if "reference" in backbone.roles:
            backbone.copy_role(ROLE, "reference")
        else:
            backbone.new_role(ROLE, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.train(*backbone.trainable, ROLE)
        self.head = ScalarHead(2 * backbone.hidden_size, members=config.ensemble, zero=True).to(backbone.device)
        """Reads both states of a response. Its gain and shift normalise scores on the anchors."""
        self.response_model = ResponseModel().to(backbone.device)
        self.optimizer = adam(backbone.parameters(ROLE), list(self.head.parameters()),
                              list(self.response_model.parameters()))
        rate = RATE * fitted_learning_rate(backbone.hidden_size)
        for group, factor in zip(self.optimizer.param_groups, (1.0, 1.0, RESPONSE_RATE)):
            group["lr"] = factor * rate
        self.visits: dict[str, int] = {}
        """How often each vote has been learned, by its id."""
        self.batches = 0
        """Optimiser steps so far."""
        self.centre = torch.zeros(2 * backbone.hidden_size, device=backbone.device)
        self.size = torch.ones(2 * backbone.hidden_size, device=backbone.device)
        """[2d]: both states are standardised as (state - centre) / size."""

    def standardise(self) -> None:
        """Fit `centre` and `size` to the anchors, before anything is learned."""
        states = self._read(self.anchors)
        self.centre = states.mean(0).to(self.backbone.device)
        self.size = states.std(0, correction=0).clamp(min=1e-3).to(self.backbone.device)

    def drop(self) -> None:
        """Take the role away."""
        self.backbone.drop_role(ROLE)

    # -- scores --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, rows: list[Row]) -> torch.Tensor:
        """Normalised scores [N, members] on the CPU."""
        return self.head.member_scores(self._read(rows).to(self.backbone.device)).cpu()

    @torch.no_grad()
    def scores_after_tokens(self, rows: list[Row]) -> list[torch.Tensor]:
        """For each row, normalised scores [T + 1, members] on the CPU that grow from token to token to that of the row.

        A token adds its share of the mean state. The last one also adds what the state there says.
        """
        head, width = self.head, self.backbone.hidden_size
        weights = head.gain[:, None] * head.weight / self.size
        constant = head.shift + head.gain * head.bias - weights @ self.centre
        scores = [constant[None].cpu()] * len(rows)
        with self.backbone.use(ROLE):
            for part in self._parts(rows):
                for reading in self._readings([rows[i] for i in part]):
                    adds = (reading.tokens @ weights[:, :width].T).split(reading.counts)
                    at_end = reading.last @ weights[:, width:].T
                    for index, each, last in zip(reading.indices, adds, at_end):
                        each = each / max(len(each), 1)
                        each[-1:] += last
                        scores[part[index]] = torch.cat([constant[None], each]).cumsum(0).cpu()
                self.on_microbatch()
        return scores

    def guess(self, event: Event, rows: list[Row]) -> float | None:
        """Whether it predicts an event (`was_predicted`), whose texts are `rows`."""
        raw = self._read(rows).to(self.backbone.device) @ self.head.weight.detach().T + self.head.bias.detach()
        return was_predicted(event.kind, event.value, raw.mean(-1), self.response_model)

    def normalise(self, trust: float) -> torch.Tensor:
        """Set each member's mean on the anchors to 0 and its standard deviation to `trust`; returns their scores."""
        head = self.head
        raw = head.weight.detach().cpu() @ self._read(self.anchors).T + head.bias.detach().cpu()[:, None]
        gain = trust / raw.std(1, correction=0).clamp(min=SMALLEST_SPREAD)
        head.gain.copy_(gain)
        head.shift.copy_(-gain * raw.mean(1))
        return (gain * raw.T) + head.shift.cpu()

    # -- learning ------------------------------------------------------------------------------------------------------

    @property
    def visits_due(self) -> int:
        """How often votes are still to be learned, until each has been learned `PASSES` times."""
        return sum(max(0, PASSES - count) for count in self.visits.values())

    @property
    def ready(self) -> bool:
        """Whether it has learned the votes it knows, but for a tenth of the passes that are due to the newest."""
        known = bool(self.visits) and min(self.visits.values()) > 0
        return known and self.visits_due <= UNREAD * PASSES * len(self.visits)

    def learn(self, votes: list[Event], rows_of: Callable[[Event], list[Row]],
              shares_of: Callable[[Event], torch.Tensor], most_rows: int) -> float:
        """Take as many batches as the passes that are due fill, or until `most_rows` responses have been read.

        A batch takes the votes that were learned least often, up to `PASSES` times. Others fill it up.

        Args:
            votes: all that count, the oldest first.
            rows_of: the token rows of the texts of a vote.
            shares_of: [members], how much each member weighs a vote.
            most_rows: bound on the responses of one update; the batch that reaches it is the last.

        Returns the mean loss of the batches, in nats per vote; 0 if there was nothing to learn.
        """
        for vote in votes:
            self.visits.setdefault(vote.id, 0)
        batches, read, losses = -(-self.visits_due // VOTES_PER_BATCH), 0, []
        while len(losses) < batches and read < most_rows:
            rng = random.Random(f"{self.config.seed} adapter {self.batches}")
            order = rng.sample(votes, len(votes))
            batch = sorted(order, key=lambda vote: min(self.visits[vote.id], PASSES))[:VOTES_PER_BATCH]
            rows = [rows_of(vote) for vote in batch]
            losses.append(self._step(batch, rows, torch.stack([shares_of(vote) for vote in batch]), len(votes)))
            self.batches += 1
            for vote in batch:
                self.visits[vote.id] += 1
            read += sum(map(len, rows))
        return sum(losses) / max(len(losses), 1)

    def _step(self, votes: list[Event], rows: list[list[Row]], shares: torch.Tensor, total: int) -> float:
        """One optimiser step on a batch out of `total` votes; returns its loss in nats per vote.

        Raises NotFinite if a gradient is NaN or infinite.
        """
        shares = shares.to(self.backbone.device) / len(votes)
        most = self.rows_per_pass() or sum(map(len, rows))
        size = max(1, most // max(map(len, rows)))
        total_loss = 0.0
        with torch.enable_grad(), self.backbone.use(ROLE), \
                self.backbone.checkpointing(self.config.gradient_checkpointing):
            for part in micro_batches(list(range(len(votes))), size):
                loss = self._loss([votes[i] for i in part], [rows[i] for i in part], shares[part])
                loss.backward()
                total_loss += loss.item()
                self.on_microbatch()
            (self._prior() / total).backward()
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm or math.inf)
        if not norm.isfinite():
            raise NotFinite(f"the norm of the gradients of the adapter reward is {norm.item()}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total_loss

    def _loss(self, votes: list[Event], rows: list[list[Row]], shares: torch.Tensor) -> torch.Tensor:
        """Nats of a few votes, weighed by `shares` [N, members]: a scalar, the mean over members."""
        flat = [row for each in rows for row in each]
        raw = self._pooled(flat) @ self.head.weight.T + self.head.bias
        loss = torch.zeros((), device=raw.device)
        for vote, scores, share in zip(votes, raw.split(list(map(len, rows))), shares):
            loss = loss - (share * log_likelihood(vote.kind, vote.value, scores, self.response_model)).mean()
        return loss

    def _prior(self) -> torch.Tensor:
        """Nats against a response model that is far from its initial values, as in `reward_fit`."""
        distance = torch.zeros((), device=self.backbone.device)
        for parameter, initial in zip(self.response_model.parameters(), ResponseModel().parameters()):
            distance = distance + (parameter - initial.detach().to(parameter.device)).square().sum()
        return RESPONSE_PRIOR / 2 * distance

    # -- states --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _read(self, rows: list[Row]) -> torch.Tensor:
        """[N, 2d] on the CPU: the standardised states of any number of rows."""
        states = torch.zeros(len(rows), 2 * self.backbone.hidden_size)
        with self.backbone.use(ROLE):
            for part in self._parts(rows):
                states[part] = self._pooled([rows[i] for i in part]).cpu()
                self.on_microbatch()
        return states

    def _parts(self, rows: list[Row]) -> list[list[int]]:
        """Indices of rows, cut into what is read together without gradients."""
        whole = [prompt + response for prompt, response in rows]
        return micro_batches(reading_order(self.backbone, whole), self.config.batch_size)

    def _pooled(self, rows: list[Row]) -> torch.Tensor:
        """[B, 2d]: the standardised states of a few rows under the role in use, with gradients."""
        states, indices = [], []
        for reading in self._readings(rows):
            count = len(reading.indices)
            lengths = torch.tensor(reading.counts, device=reading.tokens.device)
            owners = torch.arange(count, device=lengths.device).repeat_interleave(lengths)
            sums = torch.zeros(count, reading.tokens.shape[1], device=lengths.device)
            mean = sums.index_add(0, owners, reading.tokens) / lengths.clamp(min=1)[:, None]
            states.append(torch.cat([mean, reading.last], dim=1))
            indices += reading.indices
        order = torch.tensor(indices).argsort().to(self.backbone.device)
        return (torch.cat(states)[order] - self.centre) / self.size

    def _readings(self, rows: list[Row]) -> Iterator[Reading]:
        """The states of a few rows under the role in use, pass by pass."""
        for packed in packed_passes(self.backbone, [prompt + response for prompt, response in rows]):
            hidden = self.backbone.hidden(packed.ids, **packed.options)
            columns = [each[len(rows[i][0]):] for i, each in zip(packed.indices, packed.columns)]
            yield Reading(packed.indices, list(map(len, columns)), hidden[packed.at(columns)].float(),
                          packed.last(hidden).float())

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"adapter": dict(self.backbone.named_parameters(ROLE)), "head": self.head.state_dict(),
                "response_model": self.response_model.to_checkpoint(), "optimizer": self.optimizer.state_dict(),
                "visits": self.visits, "batches": self.batches, "centre": self.centre, "size": self.size}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, parameter in self.backbone.named_parameters(ROLE).items():
            parameter.copy_(state["adapter"][name])
        self.head.load_state_dict(state["head"])
        for name, parameter in self.response_model.to_checkpoint().items():
            parameter.copy_(state["response_model"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.visits, self.batches = dict(state["visits"]), state["batches"]
        self.centre, self.size = state["centre"].to(self.backbone.device), state["size"].to(self.backbone.device)
