"""From what a run has measured to warnings in plain words, each with what to do. Pure functions: no run folder, no
page, no torch.

The trainer writes warnings of its own into the journal: of a KL above the hard stop, and of text that falls apart. What
it has warned of is not said a second time here.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from playground.components.charts import CHANCE, kl_target
from playground.components.formatting import plain
from playground.pages.runs import text
from rlhf_engine import measures
from rlhf_engine.measures import STEP, measure
from rlhf_engine.runs.journal import effective_settings, without_rewound
from rlhf_engine.studies.kl_limits import KLLimit

RECENT = 5
"""Steps whose mean is judged: a single step of PPO says little."""
ENOUGH = 10
"""Steps (or votes) that a trend needs: the beginning of a run is no trend."""
KL_ABOVE = 1.5
"""Times the target. In sound runs the KL swings by a third around it; from twice the target on, the trainer warns
itself."""
LONGER = 1.5
"""Times the length of the reference's responses: PPO on a sound reward changes it by less than a fifth."""
ENTROPY_LEFT = 0.4
"""Share of the entropy of the first steps. The trainer's guard warns below one half; this is for runs without a guard.
"""
EXPLAINED = 0.05
"""Explained variance of the returns: sound runs reach 0.2 (value head) to 0.7 (adapter); at 0 the value is no better
than the mean."""
CLIPPED = 0.2
"""Share of tokens beyond the clip range: sound runs stay below 0.1; one with ten times the learning rate reached 0.25.
"""
RATIO_OFF = 0.1
"""Distance of the mean probability ratio from 1: it stays within 0.02 where the updates are small enough for PPO to
hold."""
CHANCE_MARGIN = 0.05
"""A held-out accuracy this close to chance counts as chance: a hundred pairs do not measure it better."""
HELD_OUT_RISE = 1.1
"""Held-out loss over the lowest one so far: the default SFT run ends 4 % above it, and that is a good start for PPO
(Ouyang et al. 2022 overfit, too)."""
ACCURACY_GAP = 0.15
"""Training accuracy less held-out accuracy: more than chance, with the 80 pairs that are held out of the bundled data.
"""
CHOSEN_FALL = -2.0
"""Log-ratio of chosen responses in nats per sequence, from which on a fall is told of; below -5 the trainer warns
itself."""
LOSS_GAP = 2.0
"""Held-out loss over training loss: 1.5 at the end of the default SFT run; rows that are learned by heart cost next to
nothing."""
CUT_OFF = 0.5
"""Share of responses without an end, above which the reward mostly judges unfinished text."""
UNDECIDED = 0.6
"""Share of votes that prefer nothing: of 40 votes, 16 or fewer are left to learn from."""
ALIKE = 1e-4
"""Relative difference of scores that counts as none: single precision, and a reward that is a mean of many terms."""
OLD_WARNINGS = {"kl_stop": "above the hard stop", "entropy": "the entropy of the start"}
"""Words by which a warning is recognised in a journal of the first version, whose warnings have no `kind`."""


@dataclass(frozen=True)
class Advice:
    """One warning."""

    kind: str
    """A key of `text.ADVICE`; for a run that has failed, the kind of its failure."""
    text: str
    """What was measured."""
    todo: str
    """What can be done."""


@dataclass(frozen=True)
class RunRows:
    """What a run has written, oldest first. `config` has the settings in force; `journal` is without what rewinds have
    undone."""

    config: dict
    metrics: list[dict]
    journal: list[dict]
    samples: list[dict]

    def values(self, key: str) -> list[float]:
        """The finite values of a measure (see `no_number`)."""
        return finite_values(key, self.metrics)

    def reference(self, key: str) -> float | None:
        """A number that was measured on samples of the reference; None if it was not."""
        rows = [row for row in self.journal if row.get("event") == "reference" and row.get(key) is not None]
        return rows[0][key] if rows else None


def past_peak(limit: KLLimit | None, metrics: list[dict]) -> list[Advice]:
    """The warning of a run whose KL, over the last steps, is beyond the peak of its like; none for another run."""
    recent = finite_values(measures.KL, metrics)[-RECENT:]
    if limit is None or not recent or mean(recent) <= limit.kl:
        return []
    words, todo = text.ADVICE["past_peak"]
    return [Advice("past_peak", words.format(sentence=limit.sentence(mean(recent))), todo)]


Findings = Iterator[tuple[str, dict]]
"""(kind of warning, numbers for its words)."""


def advise(config: dict, metrics: list[dict], journal: list[dict], samples: list[dict]) -> list[Advice]:
    """The warnings that a run deserves, the most telling first; none while there is too little to judge by.

    config: the settings with which the run began, and its `stage`; the others are the rows of its files, oldest first.
    """
    journal = without_rewound(journal)
    run = RunRows(effective_settings(config, journal), metrics, journal, samples)
    findings = [finding for check in CHECKS for finding in check(run)]
    return [Advice(kind, *(words.format(**numbers) for words in text.ADVICE[kind])) for kind, numbers in findings]


# -- checks: each is silent if the run does not have the measures that it looks at ------------------------------------

def no_number(run: RunRows) -> Findings:
    """A NaN or an infinity in the last step: it never comes back."""
    last = run.metrics[-1] if run.metrics else {}
    bad = sorted(key for key, value in last.items() if isinstance(value, float) and not math.isfinite(value))
    if bad:
        yield "no_number", {"measure": measure(bad[0]).title, "step": last[STEP]}


def high_kl(run: RunRows) -> Findings:
    """A KL that stays far above the target. Steps before the last change of the target do not count."""
    target = kl_target(run.config)
    if not target:
        return
    changes = [row.get("step", 0) for row in run.journal
               if row.get("event") == "changed" and row.get("name") in ("kl_target", "max_new_tokens")]
    since = max(changes, default=0)
    recent = finite_values(measures.KL, [row for row in run.metrics if row[STEP] > since])[-RECENT:]
    above = [kl for kl in recent if kl > KL_ABOVE * target]
    if len(recent) == RECENT and len(above) >= RECENT - 1 and not stopped_by_kl(run):
        yield "kl", {"kl": mean(recent), "times": mean(recent) / target, "target": target, "steps": RECENT}


def long_responses(run: RunRows) -> Findings:
    """A reward that rises together with the length of the responses."""
    lengths, scores = run.values(measures.LENGTH), run.values(measures.SCORES)
    if min(len(lengths), len(scores)) < ENOUGH:
        return
    start = run.reference("length") or mean(lengths[:RECENT])
    now = mean(lengths[-RECENT:])
    if now > LONGER * start and mean(scores[-RECENT:]) > mean(scores[:RECENT]):
        yield "length", {"now": now, "start": start, "times": now / start}


def entropy_collapse(run: RunRows) -> Findings:
    """A policy that has become sure of nearly every word."""
    entropy = run.values(measures.ENTROPY)
    if len(entropy) < ENOUGH or warned(run.journal, "entropy"):
        return
    start, now = mean(entropy[:3]), mean(entropy[-RECENT:])
    if now < ENTROPY_LEFT * start:
        yield "entropy", {"now": now, "start": start}


def poor_value(run: RunRows) -> Findings:
    """A value function that explains none of the variance of the returns.

    Its loss alone says little, because the returns grow with the reward. While the hard stop takes the reward away, no
    value function could be right, so those steps are not judged.
    """
    explained, loss = run.values(measures.EXPLAINED_VARIANCE), run.values(measures.LOSS_VALUE)
    if min(len(explained), len(loss)) < ENOUGH or mean(explained[-RECENT:]) >= EXPLAINED or stopped_by_kl(run):
        return
    yield "value", {"explained": mean(explained[-RECENT:]), "loss": plain(mean(loss[-RECENT:])),
                    "loss_start": plain(mean(loss[:RECENT]))}


def large_updates(run: RunRows) -> Findings:
    """Updates that leave the clip range, or that move the probability ratio away from 1."""
    clipped, ratio = run.values(measures.CLIP_FRACTION)[-RECENT:], run.values(measures.RATIO)[-RECENT:]
    if len(clipped) == RECENT and mean(clipped) > CLIPPED:
        yield "clip", {"share": mean(clipped), "clip": run.config.get("clip", 0.2)}
    if len(ratio) == RECENT and sum(abs(value - 1) > RATIO_OFF for value in ratio) >= RECENT - 1:
        yield "ratio", {"ratio": max(ratio, key=lambda value: abs(value - 1)), "steps": RECENT}


def cut_off(run: RunRows) -> Findings:
    """Responses that do not end: by the measure, or in a run without it by the samples."""
    ended, sampled = run.values(measures.ENDED)[-RECENT:], finite_values("ended", run.samples)[-4 * RECENT:]
    if len(ended) == RECENT:
        share = mean(ended)
    elif len(sampled) >= ENOUGH:
        share = mean(sampled)
    else:
        return
    if 1 - share <= CUT_OFF:
        return
    start = run.reference("ended")
    numbers = {"cut": 1 - share, "tokens": int(run.config["max_new_tokens"])}
    if start is not None and 1 - start <= CUT_OFF:
        yield "endless", {**numbers, "start": 1 - start}
    else:
        yield "cut", numbers


def flat_reward(run: RunRows) -> Findings:
    """Samples that all have the same score: PPO has nothing to follow."""
    scores = finite_values("score", run.samples)[-4 * RECENT:]
    if len(scores) >= ENOUGH and max(scores) - min(scores) < ALIKE * max(1.0, abs(scores[-1])):
        yield "flat", {"count": len(scores), "score": scores[-1]}


def weak_votes(run: RunRows) -> Findings:
    """Votes that are mostly ties, or that the reward predicts no better than chance."""
    rows = [row for row in run.journal if row.get("event") == "reward" and "guesses" in row]
    votes, decided = sum(row["new"] for row in rows), sum(row["guesses"] for row in rows)
    if votes >= ENOUGH and 1 - decided / votes > UNDECIDED:
        yield "ties", {"votes": votes, "decided": decided}
    later = rows[1:]  # the first votes are learned before there is anything to predict them by
    guesses, right = sum(row["guesses"] for row in later), sum(row["guessed"] for row in later)
    chance = 1 / max(2, int(run.config.get("choices", 2)))
    if guesses >= 2 * ENOUGH and right / guesses < chance:
        yield "guesses", {"right": right, "guesses": guesses, "chance": chance}


def at_chance(run: RunRows) -> Findings:
    """A reward model that is right on held-out pairs as often as a coin."""
    held_out = run.values(measures.ACCURACY_HELD_OUT)
    if held_out and run.metrics[-1][STEP] >= ENOUGH and held_out[-1] <= CHANCE + CHANCE_MARGIN:
        yield "chance", {"accuracy": held_out[-1]}


def overfitting(run: RunRows) -> Findings:
    """A held-out loss past its lowest point, or a large gap between training rows and held-out rows."""
    held_out, accuracy = run.values(measures.LOSS_HELD_OUT), run.values(measures.ACCURACY_HELD_OUT)
    losses, right = run.values(measures.LOSS_TRAIN)[-ENOUGH:], run.values(measures.ACCURACY_TRAIN)[-ENOUGH:]
    if not held_out or len(losses) < ENOUGH:
        return
    lowest, now, train = min(held_out), held_out[-1], mean(losses)
    step = next(row[STEP] for row in run.metrics if row.get(measures.LOSS_HELD_OUT) == lowest)
    if now > HELD_OUT_RISE * lowest and train < now:
        yield "overfit", {"now": now, "lowest": lowest, "step": step, "train": train}
    elif accuracy:
        if len(right) == ENOUGH and mean(right) - accuracy[-1] > ACCURACY_GAP:
            yield "gap_accuracy", {"train": mean(right), "held_out": accuracy[-1]}
    elif now > LOSS_GAP * train:
        yield "gap_loss", {"train": train, "held_out": now}


def chosen_falls(run: RunRows) -> Findings:
    """Chosen responses that become unlikely together with the rejected ones (Rafailov et al. 2024): the loss asks for
    no more than a gap between them."""
    for pair in ((measures.CHOSEN_HELD_OUT, measures.REJECTED_HELD_OUT), (measures.CHOSEN, measures.REJECTED)):
        chosen, rejected = (run.values(key) for key in pair)
        if not chosen or not rejected:
            continue
        good, bad = (mean(values[-(1 if "held_out" in pair[0] else RECENT):]) for values in (chosen, rejected))
        if good < CHOSEN_FALL and bad < good and not warned(run.journal, "chosen_fall"):
            yield "chosen_fall", {"chosen": -good, "rejected": -bad}
        return


CHECKS: tuple[Callable[[RunRows], Findings], ...] = (
    no_number, at_chance, overfitting, chosen_falls, high_kl, flat_reward, weak_votes, long_responses,
    entropy_collapse, cut_off, poor_value, large_updates)


# -- inside ----------------------------------------------------------------------------------------------------------

def finite_values(key: str, rows: list[dict]) -> list[float]:
    """The values under a key, without NaN and infinities."""
    return [row[key] for row in rows if isinstance(row.get(key), (int, float)) and math.isfinite(row[key])]


def mean(numbers: list[float]) -> float:
    """The mean of at least one number."""
    return sum(numbers) / len(numbers)


def stopped_by_kl(run: RunRows) -> bool:
    """Whether one of the recent steps was above the hard stop on KL, so that it learned from the KL penalty alone."""
    recent = run.metrics[-RECENT:]
    return bool(recent) and warned(run.journal, "kl_stop", since=recent[0][STEP])


def warned(journal: list[dict], kind: str, since: int = 0) -> bool:
    """Whether the trainer has written a warning of a kind into the journal, at step `since` or later."""
    warnings = [row for row in journal if row.get("event") == "warning" and row.get("step", 0) >= since]
    return any(warning_kind(row) == kind for row in warnings)


def warning_kind(row: dict) -> str:
    """The kind of a warning; by its words for a journal of the first version, "" if they tell none."""
    if "kind" in row:
        return row["kind"]
    sentence = row.get("text", "")
    return next((kind for kind, words in OLD_WARNINGS.items() if words in sentence), "")
