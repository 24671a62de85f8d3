"""What a report says in words: whether anything was learned, whether it is only length, and what it cost.

Each flag has a name, which stands in `flags` of report.json, and a sentence. Nothing here needs a model.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rlhf_engine.evaluation.intervals import too_few, wilson
from rlhf_engine.evaluation.report.subject import Subject, guesses_of
from rlhf_engine.evaluation.tax.measure import TAXED

LENGTH_SHARE = 0.8
"""Share of the variance of a judge's scores that length explains, from which on the judge is said to go by length."""
VARIETY = 0.85
"""distinct-2 beside the start's, below which variety is said to be lost."""
EMPTY = 0.02
"""Share of empty responses from which on they are worth a line."""


@dataclass(frozen=True)
class Flag:
    """Something that a reader must know before believing the rest."""

    name: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """As it stands in report.json."""
        return asdict(self)


@dataclass(frozen=True)
class Finding:
    """A share that is compared with what chance gives."""

    what: str
    """Such as `wins by happy`."""
    share: float
    low: float
    high: float
    chance: float
    count: int
    """Of prompts, votes or pairs."""

    @property
    def above_chance(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.low > self.chance

    def __str__(self) -> str:
        return f"{self.what}: {self.share:.0%} ({self.low:.0%} to {self.high:.0%}; chance gives {self.chance:.0%})"


# -- what shows that something was learned -----------------------------------------------------------------------------

def win_findings(evidence: dict[str, Any]) -> list[Finding]:
    """The wins by each judge that may be believed."""
    return [Finding(f"wins by {row['name']}", row["win_rate"], row["win_rate_low"], row["win_rate_high"], 0.5,
                    evidence["prompts"])
            for row in evidence.get("judges", []) if row["is_gold"] and "win_rate" in row and not row["alike"]]


def reward_findings(subject: Subject, reward: Subject | None = None) -> list[Finding]:
    """What the reward knew about labels that it had not seen: of a live run its guesses, of a reward run its accuracy.

    `reward`: the reward run that the subject was trained on, if it was and if the run is there.
    """
    findings = []
    guesses, chances = guesses_of(subject.journal, int(subject.config.get("choices", 2)))
    if guesses:
        share, chance = sum(guesses) / len(guesses), sum(chances) / len(chances)
        low, high = wilson(sum(guesses), len(guesses))
        findings.append(Finding("votes that the reward guessed before it learned them", share, low, high, chance,
                                len(guesses)))
    for run in (subject, reward):
        accuracy, pairs = (run.report.get(name) if run and run.makes == "reward" else None
                           for name in ("accuracy_held_out", "held_out_pairs"))
        if isinstance(accuracy, (int, float)) and isinstance(pairs, int) and pairs > 0:
            low, high = wilson(accuracy * pairs, pairs)
            whose = "" if run is subject else "of its reward model "
            findings.append(Finding(f"held-out pairs {whose}that it orders right", accuracy, low, high, 0.5, pairs))
    return findings


# -- the flags ---------------------------------------------------------------------------------------------------------

def find_flags(subject: Subject, evidence: dict[str, Any], reward: Subject | None = None) -> list[Flag]:
    """All flags of a report, the gravest first."""
    return [*learned_flags(subject, evidence, reward), *length_flags(evidence), *cost_flags(evidence),
            *trust_flags(subject, evidence)]


def learned_flags(subject: Subject, evidence: dict[str, Any], reward: Subject | None) -> Iterator[Flag]:
    """Whether anything was learned.

    Wins by a judge that was not trained on decide; without any, what the reward knew about labels it had not seen.
    """
    wins, known = win_findings(evidence), reward_findings(subject, reward)
    decisive = wins or known
    if not decisive:
        if subject.makes == "policy":
            yield Flag("no_judge", "Nothing here says whether the policy is better than its start: there is no judge "
                                   "but what it was trained on. Name one with --judge.")
        return
    if any(finding.above_chance for finding in decisive):
        return
    worse = [finding for finding in wins if finding.high < finding.chance]
    if worse:
        yield Flag("worse_than_start", f"The policy is worse than its start. {worse[0]}.")
    listed = "; ".join(map(str, decisive))
    yield Flag("nothing_learned", f"Nothing was learned, as far as this can tell: {listed}. Chance does as well.")


def length_flags(evidence: dict[str, Any]) -> Iterator[Flag]:
    """Whether what was learned is only length."""
    lengths = evidence.get("lengths", {})
    moved = lengths and not lengths["difference_low"] <= 0 <= lengths["difference_high"]
    for row in evidence.get("judges", []):
        length = row["length_share"]
        if length["share"] is not None and length["share"] >= LENGTH_SHARE:
            yield Flag("length_only", f"What {row['name']} rewards is length: the number of {length['of']} alone "
                                      f"explains {length['share']:.0%} of the variance of its scores.")
            return
        equal = row.get("length_controlled") or {}
        if not row["is_gold"] or not moved or equal.get("win_rate_low") is None:
            continue
        if row["win_rate_low"] > 0.5 >= equal["win_rate_low"]:
            more = "longer" if lengths["difference"] > 0 else "shorter"
            yield Flag("length_only", f"The policy wins by {row['name']} ({row['win_rate']:.0%}), but not at equal "
                                      f"length ({equal['win_rate']:.0%}, {equal['win_rate_low']:.0%} to "
                                      f"{equal['win_rate_high']:.0%}): its answers are {more}, and that may be all.")
            return


def cost_flags(evidence: dict[str, Any]) -> Iterator[Flag]:
    """What was lost on the way."""
    if evidence.get("distinct_ratio", 1.0) < VARIETY:
        yield Flag("variety_lost", f"The answers repeat themselves: {evidence['distinct_ratio']:.2f} times the variety "
                                   "of word pairs that the start has.")
    if evidence.get("empty", 0.0) >= EMPTY:
        yield Flag("empty_answers", f"{evidence['empty']:.0%} of the answers are empty.")
    for judge in evidence.get("shift", {}).get("judges", []):
        peak = judge["peak"]
        if peak and peak["too_far"]:
            yield Flag("over_optimised", f"It went too far: the mean score by {judge['judge']} was highest at "
                                         f"{peak['name']}, and has fallen since, while the KL went on to "
                                         f"{peak['kl_end']:.1f} nats. Take that checkpoint.")
    policy = next((row for row in evidence.get("tax", {}).get("checkpoints", []) if row["name"] == "policy"), {})
    if policy.get("taxed"):
        yield Flag("taxed", f"It lost elsewhere: {tax_sentence(policy)}.")


def tax_sentence(row: dict[str, Any]) -> str:
    """What a checkpoint lost beside its start, in words."""
    parts, text, pairs = [], row.get("text", {}), row.get("pairs", {})
    if text.get("verdict") == TAXED:
        parts.append(f"its perplexity on held-out text is {text['ratio']:.2f} times the start's")
    if pairs.get("verdict") == TAXED:
        parts.append(f"it gets {-pairs['difference']:.1%} fewer of the minimal pairs right")
    return " and ".join(parts)


def trust_flags(subject: Subject, evidence: dict[str, Any]) -> Iterator[Flag]:
    """What makes the numbers themselves doubtful."""
    judges = evidence.get("judges", [])
    if subject.makes == "policy" and judges and not any(row["is_gold"] for row in judges):
        yield Flag("judge_is_trainer", "The only judge is the reward model that the policy was trained on. Its wins "
                                       "show that the policy pleases it, and nothing else.")
    for row in judges:
        if row["alike"]:
            yield Flag("judge_says_nothing", f"{row['name']} gives all responses the same score.")
    if sentence := too_few(evidence["prompts"]):
        yield Flag("few_prompts", f"{sentence[:1].upper()}{sentence[1:]}.")
