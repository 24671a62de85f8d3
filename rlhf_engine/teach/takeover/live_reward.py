"""The reward of `teach`: the sparse one of few votes, until an adapter that learns from the same votes predicts better.

From `adapter_reward_from` votes on the adapter (`adapter_reward`) learns beside the sparse reward (`online_reward`).
Both predict each new vote before they learn it, and the better one scores what PPO maximises (`reward_contest`).
"""

from collections.abc import Callable
from typing import Any

import torch

from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import noop
from rlhf_engine.feedback.events import Event
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.teach.online_reward import OnlineReward, counted_predictions
from rlhf_engine.teach.takeover.adapter_reward import AdapterReward
from rlhf_engine.teach.takeover.reward_contest import RewardContest
from rlhf_engine.teach.word_features import Row
from rlhf_engine.trainers.base import check_numbers

ROWS = 2
"""Responses that the adapter learns from at an update, at most, in rollouts of a step. That is what PPO's own update
costs, about twice."""


class LiveReward(OnlineReward):
    """An `OnlineReward` that an adapter may take over. Without the setting it is an `OnlineReward` and nothing else.

    Votes that the adapter has learned and that count no more, because they were taken back or are out of date, cannot
    be taken out of its weights. It then starts anew from the votes that count, and the sparse reward leads until it has
    learned them. `takeovers` holds rows for the journal.
    """

    def __init__(self, backbone: Backbone, config: TeachConfig, *, rows_per_pass: Callable[[], int] = lambda: 0,
                 on_microbatch: Callable[[], None] = noop):
        super().__init__(backbone, config, on_microbatch=on_microbatch)
        self.rows_per_pass = rows_per_pass
        self.compares = bool(config.adapter_reward_from) and not config.tamer
        """Whether there may be an adapter. Runs of earlier versions go on without one."""
        self.adapter: AdapterReward | None = None
        self.adapter_anchors = torch.zeros(0, 0)
        """Normalised scores [N, members] that the adapter gives to the anchors."""
        self.contest = RewardContest()
        self.takeovers: list[dict[str, Any]] = []

    @property
    def leader(self) -> AdapterReward | None:
        """The adapter if it scores at present, else None."""
        ready = self.adapter is not None and self.adapter.ready
        return self.adapter if ready and self.contest.adapter_leads else None

    # -- scores --------------------------------------------------------------------------------------------------------

    def __call__(self, rollout: Rollout) -> torch.Tensor:
        if self.leader is None:
            return super().__call__(rollout)
        rows = list(zip(rollout.prompt_ids, rollout.response_ids))
        return self.token_rewards(rollout, self.leader.scores_after_tokens(rows))

    def score(self, rows: list[Row]) -> torch.Tensor:
        return self.leader.score(rows) if self.leader else super().score(rows)

    def anchor_scores(self) -> torch.Tensor:
        return self.adapter_anchors if self.leader else super().anchor_scores()

    # -- learning ------------------------------------------------------------------------------------------------------

    def learn(self, events: list[Event]) -> dict[str, Any]:
        """As `OnlineReward.learn`, of the reward that leads. The adapter predicts the new votes, then learns them."""
        if not self.compares:
            return super().learn(events)
        before, led = self.anchor_scores().mean(-1), self.leader
        guesses = self._adapter_guesses(events)
        update = super().learn(events)
        self._compare(update["predictions"], guesses)
        loss = self._update_adapter(turned="outdated" in update)
        if led:
            update |= counted_predictions(guesses)
        if led or self.leader:
            after = self.anchor_scores()
            count = min(len(before), len(after))  # the adapter reads the first of the anchors
            update |= {"drift": (after.mean(-1)[:count] - before[:count]).square().mean().sqrt().item(),
                       "spread": after.std(-1, correction=0).mean().item()}
        if self.leader:
            update |= {"loss": loss, "gain": self.leader.head.gain.mean().item()}
        self._note_change(bool(led))
        return check_numbers(update)

    def _adapter_guesses(self, events: list[Event]) -> list[float | None]:
        """Whether the adapter predicts each event; None where there is nothing to predict, or it is not `ready`."""
        adapter = self.adapter
        if adapter is None or not adapter.ready:
            return [None] * len(events)
        return [None if event.kind == "retract" else adapter.guess(event, self.rows_of(event)) for event in events]

    def _compare(self, features: list[float | None], adapter: list[float | None]) -> None:
        """Tell the contest which of them predicted each event, where both did."""
        for by_features, by_adapter in zip(features, adapter):
            if by_features is not None and by_adapter is not None:
                self.contest.add(by_features, by_adapter)

    def _update_adapter(self, *, turned: bool) -> float:
        """Let the adapter learn the votes that count, if they are enough; returns nats per vote of what it read."""
        counted = self._counted()
        if turned:
            self.contest = RewardContest()
        if self.adapter and not {event.id for event in counted}.issuperset(self.adapter.visits):
            self._drop_adapter()
        if self.adapter is None and len(counted) >= self.config.adapter_reward_from:
            self.adapter = self._new_adapter()
            self.adapter.standardise()
        if self.adapter is None:
            return 0.0
        loss = self.adapter.learn(counted, self.rows_of, self.bootstrap_weights, ROWS * self.config.batch_size)
        if self.leader:
            self.adapter_anchors = self.leader.normalise(self.trust)
        return loss

    def _note_change(self, led: bool) -> None:
        """Note for the journal that another reward leads than before. led: whether it was the adapter."""
        leads = self.leader is not None
        if leads == led:
            return
        if leads == self.contest.adapter_leads and self.contest.last_change:
            self.takeovers.append(dict(self.contest.last_change))
        else:  # an adapter that starts anew
            self.takeovers.append({"reward": "adapter" if leads else "features"})

    def _new_adapter(self) -> AdapterReward:
        return AdapterReward(self.backbone, self.config, self.anchors, rows_per_pass=self.rows_per_pass,
                             on_microbatch=self.on_microbatch)

    def _drop_adapter(self) -> None:
        if self.adapter:
            self.adapter.drop()
        self.adapter = None

    def take_changes(self) -> list[dict[str, Any]]:
        """For the journal: which reward leads, for each change since the last call."""
        changes, self.takeovers = self.takeovers, []
        return changes

    # -- state ---------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        state = super().state_dict()
        if self.compares:
            state["larger"] = {"adapter": self.adapter.state_dict() if self.adapter else None,
                               "anchors": self.adapter_anchors, "contest": self.contest.state_dict()}
        return state

    def load_state_dict(self, state: dict) -> None:
        super().load_state_dict(state)
        self._drop_adapter()
        self.contest, self.takeovers = RewardContest(), []
        self.compares = self.compares and "larger" in state
        if not self.compares:
            return
        larger = state["larger"]
        self.contest.load_state_dict(larger["contest"])
        self.adapter_anchors = larger["anchors"]
        if larger["adapter"]:
            self.adapter = self._new_adapter()
            self.adapter.load_state_dict(larger["adapter"])
