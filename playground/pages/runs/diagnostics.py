"""From what a run has measured to warnings in plain words, each with what to do. Pure functions: no run folder, no page, no torch.

The trainer's own guard rails (`rlhf_engine/guards.py`, and the hard stop on KL) write their warnings into the journal. What stands
there is not said a second time here.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from playground.components.formatting import plain
from playground.pages.runs import text
from rlhf_engine.config import KL_PER_TOKEN
from rlhf_engine.runs.journal import effective_settings, without_rewound

RECENT = 5
"""Steps whose mean is judged: a single step of PPO says little."""
ENOUGH = 10
"""Steps (or votes) before a trend is judged at all: a start is not a trend."""
KL_ABOVE = 1.5
"""Times the target. The controller swings by a third in sound runs; from twice on the hard stop says so itself."""
LONGER = 1.5
"""Times the reference's length: PPO on a sound reward moves it by less than a fifth."""
ENTROPY_LEFT = 0.4
"""Share of the entropy of the first steps; the guard rails speak below one half, this is for runs without them."""
EXPLAINED = 0.05
"""Explained variance of the returns: sound runs reach 0.2 (value head) to 0.7 (adapter), and 0 is no better than their mean."""
CLIPPED = 0.2
"""Share of tokens beyond the clip range; sound runs stay below 0.1, one with ten times the learning rate came to 0.25."""
RATIO_OFF = 0.1
"""Distance of the mean probability ratio from 1: where the updates are small enough for PPO to hold, it stays within 0.02."""
CHANCE_MARGIN = 0.05
"""A held-out accuracy this near to a coin's is a coin's: a hundred pairs leave it open by that much."""
HELD_OUT_RISE = 1.1
"""Held-out loss over the lowest one so far: the default SFT run ends 4 % above it, a good start (Ouyang et al. 2022 overfit, too)."""
ACCURACY_GAP = 0.15
"""Training less held-out accuracy: more than chance, with the 80 pairs that are held out of the bundled data."""
LOSS_GAP = 2.0
"""Held-out over training loss: 1.5 at the end of the default SFT run; what is learned by heart costs hardly anything."""
CUT_OFF = 0.5
"""Share of responses without an end, from which on the reward mostly judges halves."""
UNDECIDED = 0.6
"""Share of votes that prefer nothing: of 40 votes, 16 or fewer would be left to learn from."""
ALIKE = 1e-4
"""Difference of scores below which they are one number: single precision, and a reward that is a mean of many terms."""


@dataclass(frozen=True)
class Advice:
    kind: str
    """A key of `text.ADVICE`."""
    text: str
    """What is measured."""
    todo: str
    """What can be done."""


def advise(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> list[Advice]:
    """What deserves a warning as the run stands, the most telling first; nothing while there is too little to judge by.

    config: the run's settings, with its `stage`; the other three are the rows of its files, oldest first.
    """
    journal = without_rewound(journal)
    checks = POLICY_CHECKS if config["stage"] in ("ppo", "teach") else FITTING_CHECKS
    found = [(kind, values) for check in checks for kind, values in check(effective_settings(config, journal), metrics, journal, samples)]
    return [Advice(kind, text.ADVICE[kind][0].format(**values), text.ADVICE[kind][1].format(**values)) for kind, values in found]


# -- checks: each gives the kinds of warning that apply, with the numbers for their words -------------------------------

Found = Iterator[tuple[str, dict]]


def no_number(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """A NaN or an infinity never comes back."""
    if bad := sorted(key for row in metrics[-1:] for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)):
        yield "no_number", {"measure": text.MEASURE.get(bad[0], bad[0]), "step": metrics[-1]["step"]}


def high_kl(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    if not config.get("kl_target"):
        return
    target = min(config["kl_target"], KL_PER_TOKEN * config["max_new_tokens"])
    aims = [row.get("step", 0) for row in journal if row.get("event") == "changed" and row.get("name") in ("kl_target", "max_new_tokens")]
    recent = values("objective/kl", [row for row in metrics if row["step"] > max(aims, default=0)])[-RECENT:]
    above = [kl for kl in recent if kl > KL_ABOVE * target]
    if len(recent) == RECENT and len(above) >= RECENT - 1 and not braked(metrics, journal):
        yield "kl", {"kl": mean(recent), "times": mean(recent) / target, "target": target, "steps": RECENT}


def long_responses(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """Reward up, and the length with it."""
    lengths, scores = values("objective/length", metrics), values("objective/scores", metrics)
    if min(len(lengths), len(scores)) < ENOUGH:
        return
    start = next((row["length"] for row in journal if row.get("event") == "reference" and row.get("length")), mean(lengths[:RECENT]))
    now = mean(lengths[-RECENT:])
    if now > LONGER * start and mean(scores[-RECENT:]) > mean(scores[:RECENT]):
        yield "length", {"now": now, "start": start, "times": now / start}


def entropy_collapse(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    entropy = values("objective/entropy", metrics)
    if len(entropy) < ENOUGH or warned(journal, text.SAID_ENTROPY):
        return
    start, now = mean(entropy[:3]), mean(entropy[-RECENT:])
    if now < ENTROPY_LEFT * start:
        yield "entropy", {"now": now, "start": start}


def poor_value(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """A value loss that does not fall says little, for the returns grow with the reward; together with poor explained variance it does.
    In steps that the hard stop takes the reward from, no value could have known."""
    explained, loss = values("value/explained_variance", metrics), values("loss/value", metrics)
    if min(len(explained), len(loss)) < ENOUGH or mean(explained[-RECENT:]) >= EXPLAINED or braked(metrics, journal):
        return
    yield "value", {"explained": mean(explained[-RECENT:]), "loss": plain(mean(loss[-RECENT:])), "loss_start": plain(mean(loss[:RECENT]))}


def large_updates(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    clipped, ratio = values("policy/clipfrac", metrics)[-RECENT:], values("val/ratio", metrics)[-RECENT:]
    if len(clipped) == RECENT and mean(clipped) > CLIPPED:
        yield "clip", {"share": mean(clipped), "clip": config.get("clip", 0.2)}
    if len(ratio) == RECENT and sum(abs(r - 1) > RATIO_OFF for r in ratio) >= RECENT - 1:
        yield "ratio", {"ratio": max(ratio, key=lambda r: abs(r - 1)), "steps": RECENT}


def cut_off(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """The share of endings in the metrics; a run that logs none is judged by its samples."""
    ended = values("objective/ended", metrics)[-RECENT:]
    drawn = values("ended", samples)[-4 * RECENT:]
    now = mean(ended) if len(ended) == RECENT else mean(drawn) if len(drawn) >= ENOUGH else 1.0
    if 1 - now <= CUT_OFF:
        return
    start = next((row["ended"] for row in journal if row.get("event") == "reference" and "ended" in row), None)
    numbers = {"cut": 1 - now, "tokens": int(config["max_new_tokens"])}
    if start is not None and 1 - start <= CUT_OFF:
        yield "endless", numbers | {"start": 1 - start}
    else:
        yield "cut", numbers


def flat_reward(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """Where all score the same, PPO has nothing to follow."""
    scores = values("score", samples)[-4 * RECENT:]
    if len(scores) >= ENOUGH and max(scores) - min(scores) < ALIKE * max(1.0, abs(scores[-1])):
        yield "flat", {"count": len(scores), "score": scores[-1]}


def votes_say_little(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    rows = [row for row in journal if row.get("event") == "reward" and "guesses" in row]
    votes, told = sum(row["new"] for row in rows), sum(row["guesses"] for row in rows)
    if votes >= ENOUGH and 1 - told / votes > UNDECIDED:
        yield "ties", {"votes": votes, "told": told}
    later = rows[1:]  # before the first votes there is nothing to guess by
    guesses, right = sum(row["guesses"] for row in later), sum(row["guessed"] for row in later)
    chance = 1 / max(2, int(config.get("choices", 2)))
    if guesses >= 2 * ENOUGH and right / guesses < chance:
        yield "guesses", {"right": right, "guesses": guesses, "chance": chance}


def at_chance(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    held_out = values("accuracy/held_out", metrics)
    if held_out and metrics[-1]["step"] >= ENOUGH and held_out[-1] <= 0.5 + CHANCE_MARGIN:
        yield "chance", {"accuracy": held_out[-1]}


def overfitting(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> Found:
    """Held-out loss past its lowest point, or what is trained on much better known than what is not."""
    held_out, accuracy = values("loss/held_out", metrics), values("accuracy/held_out", metrics)
    train, right = values("loss/train", metrics)[-ENOUGH:], values("accuracy/train", metrics)[-ENOUGH:]
    if not held_out or len(train) < ENOUGH:
        return
    lowest, now, gap = min(held_out), held_out[-1], mean(train)
    step = next(row["step"] for row in metrics if row.get("loss/held_out") == lowest)
    if now > HELD_OUT_RISE * lowest and gap < now:
        yield "overfit", {"now": now, "lowest": lowest, "step": step, "train": gap}
    elif accuracy and len(right) == ENOUGH and mean(right) - accuracy[-1] > ACCURACY_GAP:
        yield "gap_accuracy", {"train": mean(right), "held_out": accuracy[-1]}
    elif config["stage"] == "sft" and now > LOSS_GAP * gap:
        yield "gap_loss", {"train": gap, "held_out": now}


POLICY_CHECKS: tuple[Callable[..., Found], ...] = (no_number, high_kl, flat_reward, votes_say_little, long_responses, entropy_collapse,
                                                   cut_off, poor_value, large_updates)
FITTING_CHECKS: tuple[Callable[..., Found], ...] = (no_number, at_chance, overfitting)


# -- inside ----------------------------------------------------------------------------------------------------------

def values(key: str, metrics: list[dict]) -> list[float]:
    """What was measured under a name; what is no number (`no_number`) is left out."""
    return [row[key] for row in metrics if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])]


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


def braked(metrics: list[dict], journal: list[dict]) -> bool:
    """Whether one of the recent steps was above the hard stop on KL."""
    return warned(journal, text.SAID_KL, metrics[-min(RECENT, len(metrics))]["step"]) if metrics else False


def warned(journal: list[dict], words: str, since: int = 0) -> bool:
    """Whether the journal warns of it from step `since` on, in the trainer's own words."""
    return any(row.get("event") == "warning" and words in row.get("text", "") and row.get("step", 0) >= since for row in journal)
