"""How often each interval of the evaluation covers the truth, by simulation. No model is needed.

    python benchmarks/surveys/coverage.py [--simulations 2000] [--only rate strength ...]

The data are drawn from a known truth: prompts of their own difficulty, so that the answers to one prompt are alike
(`ALIKE`), shares of ties, and several samples a prompt. Prints Markdown. The first table has a row for each interval
and number of prompts: the lowest and the highest coverage over all settings with rates from .2 to .8, and over all
rates, in percent; an interval of 95 % should have 95. The second one has the rates one by one.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.helpers.coverage_lengths import controls, correlations_of_length
from benchmarks.helpers.coverage_models import kappas, ordinals, strengths
from rlhf_engine.evaluation import intervals

PROMPTS = (20, 50, 100, 200, 500)
RATES = (0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95)
TIES = (0.0, 0.2, 0.5, 0.8)
SAMPLES = (1, 2, 4, 8)
ALIKE = 0.3
"""Correlation of the decided answers to one prompt."""
BAR = (93.0, 97.0)


class Cell(NamedTuple):
    """One setting of one interval."""

    interval: str
    prompts: int
    rate: float | None
    """The share of wins among the decided answers; None of what is no rate."""
    setting: str
    coverage: float
    """In percent."""


# -- the data ----------------------------------------------------------------------------------------------------------

class Distribution(NamedTuple):
    """What one prompt can give: values [S] (or rows of them [S, ...]) and how probable each is [S]."""

    values: np.ndarray
    chances: np.ndarray

    def samples(self, rng: np.random.Generator, prompts: int, simulations: int) -> Iterator[np.ndarray]:
        """The values of so many prompts, again and again. Their order does not matter, so counts are drawn."""
        for counts in rng.multinomial(prompts, self.chances / self.chances.sum(), size=simulations):
            yield np.repeat(self.values, counts, axis=0)


def sums_of_prompt(rate: float, ties: float, samples: int, alike: float = ALIKE) -> Distribution:
    """The sum of `samples` answers to one prompt: 1 a win, .5 a tie, 0 a loss.

    Ties are independent. The decided answers follow the rate of the prompt, which is beta-distributed about `rate` so
    that they correlate by `alike`: beta-binomial.
    """
    a, b = rate * (1 / alike - 1), (1 - rate) * (1 / alike - 1)
    chances = np.zeros(2 * samples + 1)
    for tied in range(samples + 1):
        decided = samples - tied
        share = math.comb(samples, tied) * ties**tied * (1 - ties)**decided
        for won in range(decided + 1):
            chances[2 * won + tied] += share * math.comb(decided, won) * math.exp(
                log_beta(won + a, decided - won + b) - log_beta(a, b))
    return Distribution(np.arange(2 * samples + 1) / 2, chances)


def log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def covered(interval: tuple[float, float], truth: float) -> bool:
    """Whether an interval contains the truth. One without limits says nothing, and does not count as right."""
    return interval[0] - 1e-12 <= truth <= interval[1] + 1e-12 and math.isfinite(interval[1] - interval[0])


def percent(hits: list[bool]) -> float:
    return 100 * sum(hits) / len(hits)


# -- each interval -----------------------------------------------------------------------------------------------------

def wilsons(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """Exact: the sum over all numbers of wins."""
    for prompts, rate in product(PROMPTS, RATES):
        total = 0.0
        for wins in range(prompts + 1):
            if covered(intervals.wilson(wins, prompts), rate):
                total += math.comb(prompts, wins) * rate**wins * (1 - rate)**(prompts - wins)
        yield Cell("wilson", prompts, rate, "no ties", 100 * total)


def rate_cells(name: str, interval: Callable[[np.ndarray], tuple[float, float]], rng: np.random.Generator,
               simulations: int, grid: tuple[Sequence, ...] = (PROMPTS, RATES, TIES, SAMPLES)) -> Iterator[Cell]:
    for prompts, rate, ties, samples in product(*grid):
        truth, distribution = (1 - ties) * rate + ties / 2, sums_of_prompt(rate, ties, samples)
        hits = [covered(interval(sums / samples), truth)
                for sums in distribution.samples(rng, prompts, simulations)]
        yield Cell(name, prompts, rate, f"ties {ties}, {samples} a prompt", percent(hits))


def rates(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    yield from rate_cells("rate", intervals.rate_interval, rng, simulations)


def bootstraps(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """The percentile bootstrap over prompts of earlier versions, for comparison."""
    def interval(values: np.ndarray) -> tuple[float, float]:
        support, counts = np.unique(values, return_counts=True)
        means = np.sort(rng.multinomial(len(values), counts / len(values), size=1000) @ support / len(values))
        return means[25], means[974]

    grid = (20, 100), (0.05, 0.2, 0.5, 0.8), (0.0, 0.8), (1, 4)
    yield from rate_cells("percentile bootstrap", interval, rng, max(simulations // 5, 20), grid)


def shares(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """As many answers to a prompt as somebody happened to give: 1 to 8."""
    for prompts, rate, ties in product(PROMPTS, RATES, TIES):
        truth = (1 - ties) * rate + ties / 2
        parts = [sums_of_prompt(rate, ties, count) for count in range(1, 9)]
        rows = [np.stack([part.values, np.full(len(part.values), count)], axis=1)
                for count, part in enumerate(parts, 1)]
        distribution = Distribution(np.concatenate(rows), np.concatenate([part.chances for part in parts]))
        hits = [covered(intervals.share_interval(*sample.T), truth)
                for sample in distribution.samples(rng, prompts, simulations)]
        yield Cell("share", prompts, rate, f"ties {ties}, 1 to 8 a prompt", percent(hits))


def pairs(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """Two policies on the same prompts, the second a little better; half of the prompts are easier for both."""
    for prompts, rate, ties, samples in product(PROMPTS, RATES, TIES, (1, 4)):
        other = min(rate + 0.05, 0.97)
        rows, chances = [], []
        for side in (-1, 1):
            ours, theirs = (sums_of_prompt(mean + side * 0.6 * min(mean, 1 - mean), ties, samples, 1e-6)
                            for mean in (rate, other))
            rows.append(np.stack(np.meshgrid(ours.values, theirs.values, indexing="ij"), axis=-1).reshape(-1, 2))
            chances.append(np.outer(ours.chances, theirs.chances).reshape(-1) / 2)
        distribution = Distribution(np.concatenate(rows) / samples, np.concatenate(chances))
        truth = (1 - ties) * (rate - other)
        hits = [covered(intervals.paired_interval(*sample.T, low=0, high=1), truth)
                for sample in distribution.samples(rng, prompts, simulations)]
        yield Cell("paired difference", prompts, rate, f"ties {ties}, {samples} a prompt", percent(hits))


def means(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    kinds = {"normal": (rng.standard_normal, 0.0), "exponential": (rng.standard_exponential, 1.0),
             "log-normal": (lambda size: rng.lognormal(size=size), math.exp(0.5))}
    for prompts, (kind, (draw, truth)) in product(PROMPTS, kinds.items()):
        hits = [covered(intervals.mean_interval(row), truth) for row in draw((simulations, prompts))]
        yield Cell(f"mean, {kind}", prompts, None, "", percent(hits))


def ratios(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """Nats of a sequence over its tokens, which vary."""
    for prompts in PROMPTS:
        hits = []
        for _ in range(simulations):
            tokens = rng.integers(8, 97, prompts)
            hits.append(covered(intervals.ratio_interval(rng.gamma(0.1 * tokens), tokens), 0.1))
        yield Cell("ratio", prompts, None, "KL per token", percent(hits))


def correlations(rng: np.random.Generator, simulations: int) -> Iterator[Cell]:
    """Pearson's of two normal lists, and Spearman's of the same with one of them exponentiated; 1 or 4 a prompt."""
    for prompts, r, samples in product(PROMPTS, (0.0, 0.3, 0.7), (1, 4)):
        hits, rank_hits, owners = [], [], np.repeat(np.arange(prompts), samples)
        for _ in range(max(simulations // 5, 20)):
            shared = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], prompts)[owners]
            own = rng.multivariate_normal([0, 0], [[1, r], [r, 1]], prompts * samples)
            x, y = (math.sqrt(ALIKE) * shared + math.sqrt(1 - ALIKE) * own).T
            hits.append(covered(intervals.correlation_interval(x, y, owners)[1:], r))
            if samples == 1:
                low_high = intervals.correlation_interval(intervals.ranks(x), intervals.ranks(np.exp(y)), owners)[1:]
                rank_hits.append(covered(low_high, 6 / math.pi * math.asin(r / 2)))
        yield Cell("correlation", prompts, None, f"r {r}, {samples} a prompt", percent(hits))
        if rank_hits:
            yield Cell("rank correlation", prompts, None, f"r {r}", percent(rank_hits))


SURVEYS: dict[str, Callable[[np.random.Generator, int], Iterator]] = {
    "wilson": wilsons, "rate": rates, "bootstrap": bootstraps, "share": shares, "pair": pairs, "mean": means,
    "ratio": ratios, "correlation": correlations, "kappa": kappas, "strength": strengths, "ordinal": ordinals,
    "control": controls, "length": correlations_of_length}


# -- tables ------------------------------------------------------------------------------------------------------------

SUMMARY = ("| interval | prompts | rates .2 to .8 | all rates | settings | outside of 93 to 97 |\n"
           "|---|---|---|---|---|---|")


def summary_rows(cells: list[Cell]) -> str:
    lines = []
    for name in dict.fromkeys(cell.interval for cell in cells):
        for prompts in sorted({cell.prompts for cell in cells if cell.interval == name}):
            here = [cell for cell in cells if (cell.interval, cell.prompts) == (name, prompts)]
            inner = [cell.coverage for cell in here if cell.rate is None or 0.2 <= cell.rate <= 0.8]
            outer = [cell.coverage for cell in here]
            outside = sum(not BAR[0] <= coverage <= BAR[1] for coverage in inner)
            lines.append(f"| {name} | {prompts} | {span(inner)} | {span(outer)} | {len(inner)} of {len(outer)} | "
                         f"{outside or ''} |")
    return "\n".join(lines)


def span(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"


def rate_table(cells: list[Cell]) -> str:
    """Lowest and highest coverage over ties and samples, rate by rate."""
    rated = [cell for cell in cells if cell.rate is not None]
    columns = sorted({cell.rate for cell in rated if cell.rate is not None})
    if not rated:
        return ""
    lines = [f"| interval | prompts | {' | '.join(f'{rate:g}' for rate in columns)} |",
             "|---" * (len(columns) + 2) + "|"]
    for name, prompts in dict.fromkeys((cell.interval, cell.prompts) for cell in rated):
        parts = []
        for rate in columns:
            key = name, prompts, rate
            here = [cell.coverage for cell in rated if (cell.interval, cell.prompts, cell.rate) == key]
            parts.append(span(here) if here else "")
        lines.append(f"| {name} | {prompts} | {' | '.join(parts)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--only", nargs="+", choices=SURVEYS, default=list(SURVEYS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cells: list[Cell] = []
    print(SUMMARY)
    for name in args.only:
        started, rng = time.process_time(), np.random.default_rng(args.seed)
        rows = [Cell(*cell) for cell in SURVEYS[name](rng, args.simulations)]
        print(summary_rows(rows), flush=True)
        print(f"{name}: {time.process_time() - started:.0f} s of the processor", file=sys.stderr, flush=True)
        cells += rows
    print(f"\n{rate_table(cells)}")


if __name__ == "__main__":
    main()
