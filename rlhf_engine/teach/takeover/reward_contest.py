"""Which of two rewards predicts votes better? The one that does leads, and the other may take over later.

Each vote is predicted by both before either learns it. A vote that the challenger predicts and the leader does not is
evidence for the challenger, the reverse is evidence against it, and other votes say nothing. The evidence is a bet of
a fixed share of what has been won so far, in nats. It never falls below 0 (Page's CUSUM 1954, as in
`preference_drift`), so a challenger that was worse at first is not held back by that. To take over, a challenger must
also have the higher accuracy over all votes since the last change. So equals do not take turns.
"""

import math
from typing import Any

STAKE = 0.3
"""Share of the winnings that is bet on each vote."""
ENOUGH = 2.0
"""Nats of evidence for a change: eight votes more that the challenger predicts and the leader does not."""


class RewardContest:
    """Keeps the score between the sparse reward (`features`) and the larger one (`adapter`). The first one leads."""

    def __init__(self):
        self.adapter_leads = False
        self.evidence = 0.0
        """Nats that speak for a change."""
        self.votes = 0
        """Votes that both have predicted since the last change."""
        self.features_right, self.adapter_right = 0.0, 0.0
        """How many of these each predicted; ties between the best responses count half."""
        self.last_change: dict[str, Any] = {}
        """The last change of the lead, as the journal has it."""

    def add(self, features: float, adapter: float) -> None:
        """Take in whether each predicted a vote: 1, 1/2 or 0. The lead may change."""
        self.votes += 1
        self.features_right += features
        self.adapter_right += adapter
        ahead = features - adapter if self.adapter_leads else adapter - features
        self.evidence = max(0.0, self.evidence + math.log1p(STAKE * ahead))
        lead = self.adapter_right - self.features_right
        better = lead < 0 if self.adapter_leads else lead > 0
        if self.evidence >= ENOUGH and better:
            self._change()

    def _change(self) -> None:
        change = {"reward": "features" if self.adapter_leads else "adapter", "votes": self.votes,
                  "features_accuracy": self.features_right / self.votes,
                  "adapter_accuracy": self.adapter_right / self.votes}
        self.__init__()
        self.adapter_leads, self.last_change = change["reward"] == "adapter", change

    def state_dict(self) -> dict[str, Any]:
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
