"""Head to head on scores from 1 to 7: the effect of each checkpoint, whatever each rater calls a 5."""

import math
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.evaluation.intervals import share_interval, too_few
from rlhf_engine.evaluation.leaderboard.ordinal import OrdinalFit, fit_ordinal
from rlhf_engine.evaluation.leaderboard.votes import count_of, prompt_key
from rlhf_engine.feedback.events import Event, without_retracted
from rlhf_engine.feedback.kinds import SCORES

FEWEST_TO_DIFFER = 5
"""A rater who gives so many scores, and all of them equal, tells nothing apart. With fewer it may be chance."""
MODEL = "cumulative logits, thresholds per rater"


class Rating(NamedTuple):
    """One score of one response."""

    checkpoint: str
    rater: str
    score: int
    prompt: str


def ratings_of(events: Iterable[Event]) -> tuple[list[Rating], list[str]]:
    """(the scores, lines about those left out because they do not say which checkpoint wrote the response)."""
    ratings, unnamed = [], 0
    for event in without_retracted(events):
        score = event.rules.rating(event)
        if score is None:
            continue
        checkpoint = checkpoint_of(event)
        if checkpoint:
            ratings.append(Rating(checkpoint, event.voter, score, prompt_key(event.prompt)))
        else:
            unnamed += 1
    if not unnamed:
        return ratings, []
    return ratings, [f"{count_of(unnamed, 'score')} left out: the event does not name the checkpoint of the response"]


def checkpoint_of(event: Event) -> str:
    """The checkpoint whose response was scored. The reference of a run is one of its own."""
    if event.checkpoints:
        return event.checkpoints[0]
    if event.roles and event.roles[0] == "reference":
        return f"reference of {event.run or event.checkpoint}"
    return event.checkpoint


def likert(ratings: Sequence[Rating]) -> dict[str, Any] | None:
    """Compare checkpoints by their scores; None without scores.

    Returns a dictionary for report.json. `rows` has a row for each checkpoint, the best first: `mean` score and its
    interval over prompts, and `effect`, in logits above the mean of the checkpoints, with an interval (sandwich over
    prompts). `pairs` has the difference of every two effects, and `higher`, how probable an average rater scores the
    one higher (ties half). Without a second checkpoint, or where all scores are equal, effects are None. `notes` says
    what was left out.
    """
    if not ratings:
        return None
    counted, one_score, notes = without_one_score_raters(ratings)
    names = sorted({rating.checkpoint for rating in ratings})
    clusters = len({rating.prompt for rating in ratings})
    report: dict[str, Any] = {
        "model": MODEL, "scores": len(ratings), "raters": len({rating.rater for rating in ratings}),
        "prompts": clusters, "one_score_raters": one_score, "notes": notes}
    fitted, fitted_names = fit_effects(counted, notes)
    rows = [mean_row([rating for rating in ratings if rating.checkpoint == name], name) for name in names]
    for row in rows:
        row.update(effect_of(row, fitted, fitted_names))
    rows.sort(key=lambda row: (-(-math.inf if row["effect"] is None else row["effect"]), -row["mean"],
                               row["checkpoint"]))
    report["rows"] = rows
    report["pairs"] = pair_rows(fitted, fitted_names) if fitted else []
    sentence = too_few(clusters)
    if sentence:
        notes.append(sentence)
    return report


def without_one_score_raters(ratings: Sequence[Rating]) -> tuple[list[Rating], list[str], list[str]]:
    """(the scores that tell something apart, the raters whose scores do not, lines about them)."""
    by_rater: dict[str, list[int]] = {}
    for rating in ratings:
        by_rater.setdefault(rating.rater, []).append(rating.score)
    alike = {rater for rater, scores in by_rater.items()
             if len(scores) >= FEWEST_TO_DIFFER and len(set(scores)) == 1}
    if not alike:
        return list(ratings), [], []
    scores = sum(len(by_rater[rater]) for rater in alike)
    notes = [f"{count_of(len(alike), 'rater')} gave nothing but one score, {count_of(scores, 'time')} in all: that "
             "tells no checkpoints apart, and does not count in the effects"]
    return [rating for rating in ratings if rating.rater not in alike], sorted(alike), notes


def fit_effects(ratings: Sequence[Rating], notes: list[str]) -> tuple[OrdinalFit | None, list[str]]:
    """(the fit, the names of its checkpoints); without a fit, `notes` gets a line that says why."""
    checkpoints, names = numbered(rating.checkpoint for rating in ratings)
    scores = np.array([rating.score for rating in ratings])
    if len(names) < 2:
        notes.append("there are no effects: the scores that count are all of one checkpoint" if names
                     else "there are no effects: no score counts")
        return None, names
    if len(set(scores)) < 2:
        notes.append(f"there are no effects: all scores that count are {scores[0]}")
        return None, names
    raters, rater_names = numbered(rating.rater for rating in ratings)
    clusters, _ = numbered(rating.prompt for rating in ratings)
    levels = np.unique(scores, return_inverse=True)[1].reshape(-1)
    fitted = fit_ordinal(checkpoints, raters, levels, clusters)
    if fitted.prior.any():
        held = [name for name, needed in zip(names, fitted.prior) if needed]
        notes.append(f"the scores alone set no limit to the effect of {', '.join(held[:8])}, which never stood below, "
                     "or never above, another; a weak prior holds it (half a win and half a loss against a checkpoint "
                     "of mean effect)")
    pairs = set(zip(raters.tolist(), checkpoints.tolist()))
    if len(rater_names) > 1 and len(pairs) == len(rater_names):
        notes.append("no rater scored two checkpoints, so a difference may be one between raters")
    return fitted, names


def numbered(values: Iterable[str]) -> tuple[np.ndarray, list[str]]:
    """(a number for each value, the values by number, in alphabetical order)."""
    values = list(values)
    names = sorted(set(values))
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[value] for value in values], dtype=int), names


def mean_row(ratings: Sequence[Rating], name: str) -> dict[str, Any]:
    """Mean score of one checkpoint, with its interval over prompts."""
    low, span = SCORES[0], SCORES[-1] - SCORES[0]
    sums: dict[str, list[float]] = {}
    for rating in ratings:
        total = sums.setdefault(rating.prompt, [0.0, 0.0])
        total[0] += (rating.score - low) / span
        total[1] += 1
    points, counts = np.array(list(sums.values())).T
    lower, upper = share_interval(points, counts)
    scores = [rating.score for rating in ratings]
    return {"checkpoint": name, "scores": len(scores), "mean": sum(scores) / len(scores),
            "mean_low": low + span * lower, "mean_high": low + span * upper,
            "counts": [scores.count(score) for score in SCORES],
            "flags": ["one_score"] if len(set(scores)) == 1 else []}


def effect_of(row: dict[str, Any], fitted: OrdinalFit | None, names: list[str]) -> dict[str, Any]:
    """The effect of a checkpoint and its interval, and its flags."""
    if fitted is None or row["checkpoint"] not in names:
        return {"effect": None, "effect_low": None, "effect_high": None}
    i = names.index(row["checkpoint"])
    contrast = np.full(len(names), -1 / len(names))
    contrast[i] += 1
    half, effect = fitted.half_width(contrast), float(fitted.effects[i])
    flags = [*row["flags"], "weak_prior"] if fitted.prior[i] else row["flags"]
    return {"effect": effect, "effect_low": effect - half, "effect_high": effect + half, "flags": flags}


def pair_rows(fitted: OrdinalFit, names: list[str]) -> list[dict[str, Any]]:
    """A row for every two checkpoints."""
    rows = []
    for i, j in combinations(range(len(names)), 2):
        contrast = np.zeros(len(names))
        contrast[i], contrast[j] = 1.0, -1.0
        difference, half = float(contrast @ fitted.effects), fitted.half_width(contrast)
        rows.append({"checkpoint": names[i], "against": names[j], "difference": difference,
                     "difference_low": difference - half, "difference_high": difference + half,
                     "higher": fitted.chance(difference), "higher_low": fitted.chance(difference - half),
                     "higher_high": fitted.chance(difference + half)})
    return rows
