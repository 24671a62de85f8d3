"""The KL at which runs like a given one were over-optimised, from the reports of `overoptimisation`. No torch.

Alike are runs on the same base, of the same family of learners, whose reward learned from a similar number of labels or
votes. A reward that is a function of a file is what is wanted itself, so nothing of it can be over-optimised.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from rlhf_engine.feedback.scoring_functions import built_in, is_function
from rlhf_engine.studies.settings import STUDY

FAMILIES = {"ppo": "ppo", "nlpo": "ppo", "tamer": "ppo", "grpo": "group", "rloo": "group"}
"""Learner or stage -> its family: with a value function, or with groups of responses."""
MOST_APART = 4.0
"""Times as many labels as in the study, or as few, up to which a number of labels counts as similar."""


@dataclass(frozen=True)
class KLLimit:
    """The KL at which the like of a run peaked."""

    kl: float
    """Nats per sequence."""
    labels: int
    """Labels of the proxies of that study."""
    study: str
    """The name of its folder."""

    def sentence(self, kl: float | None = None) -> str:
        """What is to be said of a run, whose KL is `kl` if it is known."""
        text = (f"In the study {self.study}, gold reward peaked at a KL of {self.kl:.3g} nats where the reward had "
                f"learned from {self.labels:,} labels, and fell beyond it.")
        if kl is None or kl <= self.kl:
            return text
        return f"{text} This run is at {kl:.3g}: its reward may go on rising while the answers get worse."


def find_kl_limit(config: Mapping[str, Any], labels: int | None,
                  reports: Mapping[str, Mapping[str, Any]]) -> KLLimit | None:
    """The KL at which the like of a run peaked; None where no study says so.

    Args:
        config: the settings of the run, with its `stage`.
        labels: labels or votes that its reward has learned from; None where that is not known.
        reports: report.json of the studies beside the runs, by the name of the folder. Other reports are left aside.
    """
    family = family_of(config)
    if not family or not labels:
        return None
    found: list[tuple[float, str, KLLimit]] = []
    for name, report in reports.items():
        if report.get("study") != STUDY or report.get("model") != config.get("model"):
            continue
        if FAMILIES.get(str(report.get("learner"))) != family:
            continue
        for limit in limits_of(name, report):
            apart = abs(math.log(limit.labels / labels))
            if apart <= math.log(MOST_APART) + 1e-9:
                found.append((apart, name, limit))
    return min(found, key=lambda row: row[:2])[2] if found else None


def limits_of(name: str, report: Mapping[str, Any]) -> list[KLLimit]:
    """The peaks of single proxies in a report, in whatever state it was left; what is no curve is left out."""
    curves = report.get("curves")
    limits = []
    for curve in curves if isinstance(curves, list) else []:
        if not isinstance(curve, dict) or curve.get("kind") != "rl":
            continue
        kl, labels = curve.get("peak_kl"), curve.get("labels")
        if is_number(kl) and kl > 0 and is_number(labels) and labels > 0:
            limits.append(KLLimit(float(kl), int(labels), name))
    return limits


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def family_of(config: Mapping[str, Any]) -> str:
    """The family of learners of a run; "" for a run that maximises no learned reward."""
    stage = str(config.get("stage", ""))
    if stage == "teach":
        return FAMILIES.get(str(config.get("learner", "ppo")), "")
    reward = str(config.get("reward") or "")
    learned = bool(reward) and not is_function(reward) and built_in(reward) is None
    return FAMILIES.get(stage, "") if learned else ""
