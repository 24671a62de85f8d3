"""The laws of over-optimisation: how gold reward rises and falls with the distance from the start (Gao et al. 2022).

The distance is d = sqrt(KL), with the KL to the starting policy in nats per sequence. The gold reward at a distance is

    best of n:               gold(d) = gold(0) + d (a - b d),       which peaks at d = a / (2 b)
    reinforcement learning:  gold(d) = gold(0) + d (a - b log d),   which peaks at d = exp(a / b - 1)

(section 3.2, equations 2 and 3). Both are linear in a and b, so least squares has a closed form. numpy only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

Kind = Literal["best_of", "rl"]
"""The law of best-of-n, or that of reinforcement learning."""
LAWS: dict[Kind, str] = {"best_of": "gold(0) + d (a - b d)", "rl": "gold(0) + d (a - b log d)"}
DRAWS = 2000
"""Resamplings of a bootstrap."""
T_97_5 = (12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139)
"""Quantiles of Student's t at 97.5 % for 1 to 10 degrees of freedom."""
NORMAL_97_5 = 1.959963984540054


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law of one kind."""

    kind: Kind
    a: float
    """Gold per unit of distance at the start."""
    b: float
    """How fast that is lost. Above 0, gold has a peak."""

    def gain(self, distance: np.ndarray | float) -> np.ndarray:
        """gold(d) - gold(0) at distances of any shape."""
        rise, loss = terms(np.asarray(distance, dtype=float), self.kind)
        return self.a * rise + self.b * loss

    @property
    def peak(self) -> float:
        """The distance at which gold peaks: 0 where it falls from the start, infinite where it only rises."""
        return float(peaks(np.array([self.a]), np.array([self.b]), self.kind)[0])


def terms(distance: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """What a and b are multiplied by, at distances of any shape: (d, -d^2) or (d, -d log d), which is 0 at 0."""
    if kind == "best_of":
        return distance, -distance**2
    return distance, -distance * np.log(np.where(distance > 0, distance, 1.0))


def peaks(a: np.ndarray, b: np.ndarray, kind: Kind) -> np.ndarray:
    """The distances at which laws with these a and b peak, as in `PowerLaw.peak`. Arrays of one shape."""
    falls = b > 0
    ratio = a / np.where(falls, b, 1.0)
    inside = np.maximum(ratio / 2, 0.0) if kind == "best_of" else np.exp(np.minimum(ratio - 1, 700.0))
    return np.where(falls, inside, np.where((b == 0) & (a <= 0), 0.0, math.inf))


def fit(distances: Sequence[float] | np.ndarray, gains: Sequence[float] | np.ndarray, kind: Kind) -> PowerLaw:
    """The law that fits gold(d) - gold(0) at C distances best, by least squares.

    Raises ValueError where fewer than two distances above 0 differ: then many laws fit.
    """
    distances = np.asarray(distances, dtype=float)
    if len(np.unique(distances[distances > 0])) < 2:
        raise ValueError("a law has two coefficients, so it needs gold at two distances above 0 or more")
    a, b = fit_many(distances[None], np.asarray(gains, dtype=float)[None], kind)
    return PowerLaw(kind, float(a[0]), float(b[0]))


def fit_many(distances: np.ndarray, gains: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """(a [D], b [D]) of D fits, from distances and gains [D, C]. NaN where no single law fits best."""
    rise, loss = terms(distances, kind)
    rr, rl, ll = (rise * rise).sum(1), (rise * loss).sum(1), (loss * loss).sum(1)
    ry, ly = (rise * gains).sum(1), (loss * gains).sum(1)
    determinant = rr * ll - rl * rl
    known = determinant > 1e-12 * np.maximum(rr * ll, 1e-300)
    divisor = np.where(known, determinant, np.nan)
    return (ll * ry - rl * ly) / divisor, (rr * ly - rl * ry) / divisor


# -- intervals ---------------------------------------------------------------------------------------------------------

def fit_interval(kl: np.ndarray, gold: np.ndarray, kind: Kind, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Any]:
    """A law with 95 % intervals by the bootstrap over prompts, from one run.

    The prompts are clusters: the same ones are measured at each place, and are drawn together.

    Args:
        kl: [C, P], the KL at C places on P prompts, in nats per sequence; the first place is the start.
        gold: [C, P], gold at the same places and prompts.
        kind: which law.
        seed: of the bootstrap.
        draws: resamplings.

    Returns:
        `law`, `a`, `b`, `peak_d`, `peak_kl` and for each of the last four `..._low` and `..._high`, and `residual`,
        the root mean square of what the law leaves unexplained. A number is None where it is not finite: gold that
        rises all the way has no peak. `over` names what the intervals are over.

    Raises ValueError as `fit` does.
    """
    gains = gold - gold[:1]
    law = fit(distance_of(kl.mean(1)), gains.mean(1), kind)
    weights = bootstrap_weights(kl.shape[1], draws, seed)
    a, b = fit_many(distance_of(weights @ kl.T), weights @ gains.T, kind)
    usable = np.isfinite(a) & np.isfinite(b)
    return {**describe(law, kl.mean(1), gains.mean(1)),
            **percentiles("a", a[usable]), **percentiles("b", b[usable]),
            **peak_percentiles(peaks(a[usable], b[usable], kind)), "over": "prompts"}


def seeds_interval(laws: Sequence[PowerLaw], kl: np.ndarray, gains: np.ndarray) -> dict[str, Any]:
    """The mean law of several seeds with 95 % intervals by Student's t over the seeds; keys as of `fit_interval`.

    Args:
        laws: the fit of each seed, two at least, all of one kind.
        kl: [S, C], the KL at the places of each seed.
        gains: [S, C], gold less that of the start, at the same places.
    """
    mean_law = PowerLaw(laws[0].kind, float(np.mean([law.a for law in laws])), float(np.mean([law.b for law in laws])))
    found = describe(mean_law, kl.ravel(), gains.ravel())
    for name in ("a", "b"):
        low, high = student_interval([getattr(law, name) for law in laws])
        found[f"{name}_low"], found[f"{name}_high"] = low, high
    every = [law.peak for law in laws]
    if all(map(math.isfinite, every)):
        center = float(np.mean(every))
        low, high = student_interval(every)
        found.update(peak_fields(center, max(low, 0.0), high))
    else:
        found.update(peak_fields(math.inf, math.inf, math.inf))
    return {**found, "seeds_with_peak": sum(map(math.isfinite, every)), "over": "seeds"}


def describe(law: PowerLaw, kl: np.ndarray, gains: np.ndarray) -> dict[str, Any]:
    """A law as plain data, without intervals; KL and gains [C] are the points it was fitted to."""
    residual = gains - law.gain(distance_of(kl))
    return {"law": LAWS[law.kind], "a": law.a, "b": law.b, "residual": float(np.sqrt(np.mean(residual**2))),
            **peak_fields(law.peak)}


def distance_of(kl: np.ndarray) -> np.ndarray:
    """sqrt(KL). An estimate of the KL below 0, which noise gives near the start, counts as 0."""
    return np.sqrt(np.maximum(kl, 0.0))


def peak_fields(center: float, low: float | None = None, high: float | None = None) -> dict[str, float | None]:
    """The peak as distance and as KL, with the ends of its interval if they are given."""
    fields = {"": center} | ({"_low": low, "_high": high} if low is not None and high is not None else {})
    found: dict[str, float | None] = {}
    for end, value in fields.items():
        known = value is not None and math.isfinite(value) and value < 1e100
        found[f"peak_d{end}"] = value if known else None
        found[f"peak_kl{end}"] = value**2 if known and value is not None else None
    return found


def percentiles(name: str, values: np.ndarray) -> dict[str, float | None]:
    """The 2.5th and the 97.5th percentile of the draws, as `NAME_low` and `NAME_high`; None of no draws."""
    if not len(values):
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return {f"{name}_low": float(low), f"{name}_high": float(high)}


def peak_percentiles(values: np.ndarray) -> dict[str, float | None]:
    """The ends of the interval of the peak; a draw without a peak counts as one far beyond all others."""
    if not len(values):
        return {f"peak_{axis}_{end}": None for axis in ("d", "kl") for end in ("low", "high")}
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    ends = peak_fields(math.inf, float(low), float(high))
    return {name: value for name, value in ends.items() if name.endswith(("_low", "_high"))}


@lru_cache(maxsize=8)
def bootstrap_weights(count: int, draws: int, seed: int) -> np.ndarray:
    """[draws, count]: the weight of each of `count` items in each draw with replacement; a row sums to 1.

    Every caller gets the same array: do not change it.
    """
    generator = np.random.default_rng([seed % 2**63, count])
    return generator.multinomial(count, np.full(count, 1 / count), size=draws) / count


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of independent values, two at least, by Student's t."""
    count = len(values)
    half = t_quantile(count - 1) * float(np.std(values, ddof=1)) / math.sqrt(count)
    center = float(np.mean(values))
    return center - half, center + half


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: exact to 6 digits up to 10 degrees of freedom, then to 4.

    Beyond the table it is the expansion in 1 / degrees around the normal quantile (Abramowitz & Stegun 26.7.5).
    """
    if degrees <= len(T_97_5):
        return T_97_5[degrees - 1]
    x = NORMAL_97_5
    first = (x**3 + x) / 4
    second = (5 * x**5 + 16 * x**3 + 3 * x) / 96
    third = (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384
    return x + first / degrees + second / degrees**2 + third / degrees**3
