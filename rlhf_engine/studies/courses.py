"""What the pieces of a study of over-optimisation say: curves, laws, peaks, falls, flags and sentences. numpy only.

A course is what one piece measured: KL, gold and proxy at C places on P prompts, the start first. Gold and proxy are in
standard deviations of the start's own samples, above their mean.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.studies.power_laws import (
    DRAWS,
    Kind,
    PowerLaw,
    bootstrap_weights,
    distance_of,
    fit,
    fit_interval,
    seeds_interval,
    student_interval,
)

LAW_OF: dict[str, Kind] = {"rl": "rl", "ensemble": "rl", "best_of": "best_of"}
"""The law of each kind of piece."""
TITLES = {"rl": "RL", "ensemble": "RL, ensemble", "best_of": "best of n"}
DESCRIBED = 0.15
"""Share of gold's height by which a law may miss its points, root mean square, and still describe the curve."""
FALLEN = 0.1
"""Standard deviations by which a proxy may be lower at the end than at gold's peak and still count as not fallen."""


class Course(NamedTuple):
    """What one piece measured."""

    seed: int
    kl: np.ndarray
    """[C, P], nats per sequence."""
    gold: np.ndarray
    """[C, P]."""
    proxy: np.ndarray
    """[C, P]."""


class Turn(NamedTuple):
    """How gold and proxy change on each prompt [P], from the start to gold's peak and from there to the end.

    The peak is chosen on one half of the prompts and read off on the other, so that a peak of noise counts for nothing.
    """

    rise: np.ndarray
    fall: np.ndarray
    """Above 0 where gold falls."""
    proxy_rise: np.ndarray
    """The proxy's change from gold's peak to the end."""
    change: np.ndarray
    """Gold's change from the start to the end."""


def course_of(piece: dict[str, Any]) -> Course:
    """The course of a piece, from its line of the file."""
    arrays = [np.array([point[name] for point in piece["points"]], dtype=float) for name in ("kl", "gold", "proxy")]
    return Course(piece["seed"], *arrays)


def turn_of(course: Course) -> Turn:
    """Rise and fall of a course, cross-fitted between the even and the odd prompts."""
    prompts = course.gold.shape[1]
    found = Turn(np.zeros(prompts), np.zeros(prompts), np.zeros(prompts), course.gold[-1] - course.gold[0])
    for first in range(2):
        here, other = np.arange(first, prompts, 2), np.arange(1 - first, prompts, 2)
        peak = int(course.gold[:, other].mean(1).argmax())
        found.rise[here] = course.gold[peak, here] - course.gold[0, here]
        found.fall[here] = course.gold[peak, here] - course.gold[-1, here]
        found.proxy_rise[here] = course.proxy[-1, here] - course.proxy[peak, here]
    return found


# -- one curve: a kind and a number of labels, over the seeds ----------------------------------------------------------

def describe_curve(kind: str, labels: int, pieces: Sequence[dict[str, Any]], seed: int = 0) -> dict[str, Any]:
    """A curve of the report, from its pieces, one for each seed.

    Intervals are 95 %. Those of the law are over seeds where there are two or more, else over prompts. Those of rise
    and fall are over prompts, of the mean of the seeds.
    """
    courses = [course_of(piece) for piece in sorted(pieces, key=lambda piece: piece["seed"])]
    turns = [turn_of(course) for course in courses]
    curve: dict[str, Any] = {"kind": kind, "labels": labels, "seeds": [course.seed for course in courses]}
    for name in Turn._fields:
        curve |= mean_interval(name, np.mean([getattr(turn, name) for turn in turns], 0), seed)
    curve["kl_measured"] = float(np.mean([course.kl.mean(1).max() for course in courses]))
    curve["height"] = float(np.mean([course.gold.mean(1).max() - course.gold[0].mean() for course in courses]))
    curve["measured_peak"] = measured_peak(courses, seed)
    curve["fit"] = fit_curve(kind, courses, seed)
    curve["flags"] = curve_flags(curve)
    curve["peak"] = peak_of(curve)
    curve["sentence"] = curve_sentence(curve)
    for name in ("accuracy", "correlation"):
        known = [piece[name] for piece in pieces if piece.get(name) is not None]
        if known:
            curve[f"proxy_{name}"] = float(np.mean(known))
    curve["runs"] = [run_of(piece, course, seed) for piece, course in zip(
        sorted(pieces, key=lambda piece: piece["seed"]), courses)]
    return curve


def fit_curve(kind: str, courses: Sequence[Course], seed: int) -> dict[str, Any] | None:
    """The law of a curve with its intervals; None where there are too few places to fit it to."""
    law = LAW_OF[kind]
    try:
        if len(courses) == 1:
            return fit_interval(courses[0].kl, courses[0].gold, law, seed=seed)
        laws = [law_of(course, law) for course in courses]
    except ValueError:
        return None
    kl = [course.kl.mean(1) for course in courses]
    gains = [(course.gold - course.gold[:1]).mean(1) for course in courses]
    return seeds_interval(laws, np.concatenate(kl), np.concatenate(gains))


def law_of(course: Course, law: Kind) -> PowerLaw:
    """The fit to one course."""
    return fit(distance_of(course.kl.mean(1)), (course.gold - course.gold[:1]).mean(1), law)


def measured_peak(courses: Sequence[Course], seed: int) -> dict[str, Any]:
    """Where gold was highest of all that was measured: KL and gold, means over the seeds.

    `kl_low` and `kl_high` are a 95 % interval of the KL: over the seeds by Student's t where there are two or more,
    else by the bootstrap over prompts, in which another place may be the highest.
    """
    places = [int(course.gold.mean(1).argmax()) for course in courses]
    kl = [float(course.kl[place].mean()) for course, place in zip(courses, places)]
    if len(courses) > 1:
        low, high = student_interval(kl)
    else:
        weights = bootstrap_weights(courses[0].gold.shape[1], DRAWS, seed)
        drawn = (weights @ courses[0].gold.T).argmax(1)
        low, high = np.quantile((weights @ courses[0].kl.T)[np.arange(DRAWS), drawn], [0.025, 0.975])
    return {"kl": float(np.mean(kl)), "kl_low": max(float(low), 0.0), "kl_high": float(high),
            "gold": float(np.mean([course.gold[place].mean() for course, place in zip(courses, places)])),
            "over": "seeds" if len(courses) > 1 else "prompts"}


def run_of(piece: dict[str, Any], course: Course, seed: int) -> dict[str, Any]:
    """The points of one seed: means over prompts, with intervals of gold and proxy over prompts."""
    points = []
    for number, point in enumerate(piece["points"]):
        kept = {name: point[name] for name in ("step", "n", "kl_bound", "length", "distinct_2", "example")
                if name in point}
        kept["kl"] = float(course.kl[number].mean())
        for name in ("gold", "proxy"):
            kept |= mean_interval(name, getattr(course, name)[number], seed)
        points.append(kept)
    about = {name: piece[name] for name in ("seed", "ended", "seconds", "processor_seconds") if name in piece}
    return {**about, "points": points}


def mean_interval(name: str, values: np.ndarray, seed: int) -> dict[str, float]:
    """Mean of values [P], and its interval by the bootstrap over prompts as `NAME_low` and `NAME_high`."""
    means = bootstrap_weights(len(values), DRAWS, seed) @ values
    low, high = np.quantile(means, [0.025, 0.975])
    return {name: float(values.mean()), f"{name}_low": float(low), f"{name}_high": float(high)}


# -- in words ----------------------------------------------------------------------------------------------------------

def curve_flags(curve: dict[str, Any]) -> list[str]:
    """What is to be said of a curve: over_optimised, proxy_fell, no_fall, nothing_learned.

    `over_optimised`: gold rose, then fell, while the proxy did not. `proxy_fell`: gold and proxy fell, so the policy
    fell apart. `no_fall`: gold rose and did not fall in what was measured. `nothing_learned`: gold never rose; with
    `gold_fell` where it ended below that of the start.
    """
    if curve["rise_low"] <= 0:
        return ["nothing_learned", *(["gold_fell"] if curve["change_high"] < 0 else [])]
    if curve["fall_low"] <= 0:
        return ["no_fall"]
    return ["over_optimised" if curve["proxy_rise"] >= -FALLEN else "proxy_fell"]


def peak_place(curve: dict[str, Any]) -> str:
    """Where the law of a curve has its peak: `inside` what was measured, `beyond` it, at the `start`, or `unknown`.

    It is `unknown` where the law does not describe the curve: a collapse is sharper than any such law.
    """
    law = curve["fit"]
    if law is None or law["residual"] > DESCRIBED * curve["height"]:
        return "unknown"
    if law["peak_kl"] is None:
        return "beyond" if law.get("seeds_with_peak", 0) == 0 else "unknown"
    if law["peak_kl"] < 1e-6:
        return "start"
    return "inside" if law["peak_kl"] <= curve["kl_measured"] else "beyond"


def peak_of(curve: dict[str, Any]) -> dict[str, Any] | None:
    """The KL at which gold peaks, with its interval; None of a curve that does not fall, or never rose.

    `by` is `law` where the law describes the curve and has its peak within what was measured, else `measured`: the
    place at which gold was highest.
    """
    if not {"over_optimised", "proxy_fell"} & set(curve["flags"]):
        return None
    law, measured = curve["fit"], curve["measured_peak"]
    if peak_place(curve) == "inside":
        return {"by": "law", "kl": law["peak_kl"], "kl_low": law["peak_kl_low"], "kl_high": law["peak_kl_high"],
                "over": law["over"]}
    return {"by": "measured", **{name: measured[name] for name in ("kl", "kl_low", "kl_high", "over")}}


def curve_sentence(curve: dict[str, Any]) -> str:
    """One sentence about the peak of a curve, with what stands behind it."""
    furthest, law, peak = f"{curve['kl_measured']:.3g} nats", curve["fit"], curve["peak"]
    if "nothing_learned" in curve["flags"]:
        fell = ", and fell below that of the start" if "gold_fell" in curve["flags"] else ""
        return f"Gold never rose{fell}: this proxy taught nothing."
    if peak is None:
        return f"Gold has no peak up to the largest KL that was measured, {furthest}."
    if peak["by"] == "law":
        return f"Gold peaks at a KL of {peak['kl']:.3g} nats by the law ({ends(peak)})."
    why = "there are too few places for a law" if law is None else \
        f"the law misses its points by {law['residual']:.2g}, or has its peak elsewhere"
    return f"Gold was highest at a KL of {peak['kl']:.3g} nats ({ends(peak)}); {why}."


def ends(peak: dict[str, Any]) -> str:
    """The interval of a peak's KL in words."""
    low, high = peak["kl_low"], peak["kl_high"]
    if low is None and high is None:
        return "no interval"
    upper = "no upper end" if high is None else f"{high:.3g}"
    return f"{0 if low is None else low:.3g} to {upper}, 95 % over {peak['over']}"


class Place(NamedTuple):
    """Where gold peaks, as far as that is known."""

    kl: float
    """Nats; of an open place the largest KL that was measured."""
    is_open: bool
    """Whether gold had no peak up to there."""

    def text(self) -> str:
        return f"more than {self.kl:.3g}" if self.is_open else f"{self.kl:.3g}"

    def is_before(self, other: "Place") -> bool:
        """Whether this peak is known to come before the other one."""
        return not self.is_open and self.kl < other.kl


def place_of(curve: dict[str, Any]) -> Place | None:
    """Where a curve peaks; None where gold never rose."""
    if curve["peak"]:
        return Place(curve["peak"]["kl"], False)
    return Place(curve["kl_measured"], True) if "no_fall" in curve["flags"] else None


def study_findings(curves: Sequence[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """(flags, sentences) of a whole study.

    `over_optimised` where any RL curve is. `peak_moves_out` where the KL at gold's peak grows with each number of
    labels; `ensemble_delays` where the ensembles' gold peaks at a larger KL for most numbers of labels. Gold that has
    no peak counts as one beyond the largest KL that was measured.
    """
    flags, sentences = [], []
    if any("over_optimised" in curve["flags"] for curve in curves if curve["kind"] == "rl"):
        flags.append("over_optimised")
        sentences.append("Gold rises, peaks and falls while the proxy goes on rising: the proxy is over-optimised.")
    by_kind: dict[str, dict[int, Place]] = {kind: {} for kind in TITLES}
    for curve in curves:
        place = place_of(curve)
        if place is not None:
            by_kind[curve["kind"]][curve["labels"]] = place
    single = sorted(by_kind["rl"].items())
    if len(single) > 1:
        rising = all(before[1].is_before(after[1]) for before, after in zip(single, single[1:]))
        flags += ["peak_moves_out"] if rising else []
        steps = ", ".join(f"{labels:,} labels {place.text()}" for labels, place in single)
        sentences.append(f"The KL at gold's peak {'moves out' if rising else 'does not simply move out'} with more "
                         f"labels (nats): {steps}.")
    both = [(labels, by_kind["rl"][labels], place) for labels, place in sorted(by_kind["ensemble"].items())
            if labels in by_kind["rl"]]
    if both:
        later = sum(alone.is_before(place) for _, alone, place in both)
        flags += ["ensemble_delays"] if 2 * later > len(both) else []
        steps = ", ".join(f"{labels:,} labels {place.text()} for {alone.text()}" for labels, alone, place in both)
        sentences.append(f"An ensemble has its peak later for {later} of {len(both)} numbers of labels (nats): "
                         f"{steps}.")
    return flags, sentences


def peak_kl(curve: dict[str, Any]) -> float | None:
    """The KL of `peak_of` a curve."""
    return curve["peak"]["kl"] if curve["peak"] else None
