"""The KL coefficient, and the rule that adapts it (Ziegler et al. 2019, section 2.2)."""

import math
from typing import Any

SMOOTHING = 0.3
"""Weight of the newest difference in the trend of the KL."""
LARGEST_COEF = 1e6
"""The coefficient is not raised above this, where the reward is nothing beside the penalty."""
MAX_ERROR = 0.2
"""Bound on the relative error that moves the coefficient, as in the paper."""


class KLController:
    """Moves the KL coefficient so that the measured KL stays near a target. Update it once per rollout.

    With a `lookahead` it uses, in place of the measured KL, what the KL will be by then if its smoothed trend goes on.
    The paper's rule (a lookahead of 0) lowers the coefficient as long as the KL is below its target, however fast it
    rises. In a short run that brakes when the KL is far beyond the target.

    With a `floor` the target is a limit more than an aim: a policy that has found what it was looking for at half of
    the KL is not driven on.

    Args:
        coef: the coefficient at the start, in normalised reward per nat.
        target: KL to aim at, in nats per sequence (sum over tokens, mean over responses). None keeps the coefficient.
        horizon: episodes over which the coefficient can change by about a fifth. None or inf keeps the coefficient.
        lookahead: number of updates to look ahead.
        floor: the coefficient is not lowered beneath this.

    Raises ValueError for numbers out of range.
    """

    def __init__(self, coef: float, target: float | None, horizon: float | None, lookahead: float = 0.0,
                 floor: float = 0.0):
        self.coef = float(coef)
        self.floor = float(floor)
        self.kl: float | None = None
        """The last measured KL."""
        self.trend = 0.0
        """By how much the KL has lately risen per update."""
        self.aim(target, horizon, lookahead)

    def aim(self, target: float | None, horizon: float | None, lookahead: float = 0.0) -> None:
        """Set target, horizon and lookahead from now on."""
        self.target = None if target is None else float(target)
        self.horizon = math.inf if horizon is None else float(horizon)
        self.lookahead = float(lookahead)
        valid_target = self.target is None or self.target > 0
        if not (0 <= self.coef < math.inf and valid_target and self.horizon > 0 and 0 <= self.lookahead < math.inf):
            raise ValueError("need coef >= 0, target > 0, horizon > 0, lookahead >= 0, got "
                             f"{self.coef}, {target}, {horizon}, {lookahead}")

    def update(self, kl: float, episodes: int) -> float:
        """The new coefficient after `episodes` responses whose mean KL was `kl` nats per sequence."""
        kl = float(kl)
        if math.isnan(kl):
            raise ValueError("the measured KL is NaN")  # min() and max() would take it for a large one
        change = 0.0 if self.kl is None else kl - self.kl
        self.trend += SMOOTHING * (change - self.trend)
        self.kl = kl
        if self.target is None:
            return self.coef
        error = (kl + self.lookahead * self.trend) / self.target - 1
        error = min(max(error, -MAX_ERROR), MAX_ERROR)
        # With the paper's horizon of 10,000 the factor never comes near these bounds. With a horizon fitted to a short
        # run it does: from episodes / horizon = 5 on it can reach zero or less, and the penalty would be gone for good.
        factor = min(max(1 + error * episodes / self.horizon, 0.5), 2.0)
        raised = min(self.coef * factor, max(self.coef, LARGEST_COEF))
        self.coef = max(raised, min(self.coef, self.floor))
        return self.coef

    def state_dict(self) -> dict[str, Any]:
        """All numbers, under the keys of a checkpoint on disk."""
        return {"coef": self.coef, "target": self.target, "horizon": self.horizon, "lookahead": self.lookahead,
                "kl": self.kl, "trend": self.trend, "floor": self.floor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`. Raises ValueError for numbers out of range."""
        self.coef = float(state["coef"])
        self.floor = float(state.get("floor", 0.0))
        self.kl = state.get("kl")
        self.trend = state.get("trend", 0.0)
        self.aim(state["target"], state["horizon"], state.get("lookahead", 0.0))
