"""What a report measures: a policy beside its start, under several judges; and what the scores of a reward go by.

Everything is measured on fresh samples of held-out prompts. What comes out is JSON.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.readers import Demonstration
from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.evaluation.compare import WINS, ScoreFunction, check_scores, compare
from rlhf_engine.evaluation.intervals import mean_interval, paired_interval, too_few
from rlhf_engine.evaluation.judging import Match, Referee, Side, Verdicts
from rlhf_engine.evaluation.report.length_share import NOTHING, share_explained_by_length
from rlhf_engine.evaluation.report.subject import Subject
from rlhf_engine.evaluation.reward_shift import Stop, measure_shift
from rlhf_engine.evaluation.tax.checkpoints import BASE, Checkpoint
from rlhf_engine.evaluation.tax.measure import measure_tax
from rlhf_engine.evaluation.tax.minimal_pairs import MinimalPair
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.runs.folder import step_of

MOST_STOPS = 5
"""Checkpoints on the way of a run that are measured, at most, evenly chosen; the last one always."""
BINS = 24
"""Bars of a histogram of scores."""


class Witness(NamedTuple):
    """A judge of a report, and whether its wins may be believed."""

    referee: Referee
    name: str
    """As others may read it."""
    is_model: bool = False
    """It is a model that learned what to prefer, not a function that says so."""
    is_trainer: bool = False
    """The policy was trained on it."""
    is_labeler: bool = False
    """It gave the votes from which the policy learned."""

    @property
    def is_gold(self) -> bool:
        """Whether its wins show that something was learned.

        A reward model that the policy was trained on may have been fooled: its wins show nothing.
        """
        return not (self.is_model and self.is_trainer)


def measure_policy(backbone: Backbone, role: str | None, against: str | None, prompts: list[Prompt],
                   witnesses: Sequence[Witness], *, per_prompt: int, sampling: Sampling, seed: int = 0, batch: int = 32,
                   on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare a policy with its start.

    Args:
        backbone: has both roles; None is the bare base.
        prompts: held out; at least one.
        witnesses: the judges.
        per_prompt: samples of each side to each prompt.
        sampling, seed, batch, on_microbatch: as in `compare`.

    Returns:
        (evidence, rows of samples), as `compare` does. Each row of `judges` also says what the judge is (`name`,
        `is_model`, `is_trainer`, `is_labeler`, `is_gold`), whether it gives all responses the same score (`alike`), the
        share of the variance of its scores that length explains, and histograms of both sides' scores. `lengths` has
        the mean lengths in tokens, and the difference with its 95 % interval over prompts.
    """
    matches: list[tuple[Match, Verdicts]] = []

    def remembering(referee: Referee) -> Referee:
        """The referee, whose verdicts are kept."""
        def decide(match: Match) -> Verdicts:
            verdicts = referee.decide(match)
            matches.append((match, verdicts))
            return verdicts
        return Referee(referee.name, decide)

    nobody = Referee("", lambda match: Verdicts([0.5] * len(match.numbers)))
    referees = [remembering(one.referee) for one in witnesses] or [remembering(nobody)]
    evidence, rows = compare(backbone, role, against, prompts, None, referees=referees, per_prompt=per_prompt,
                             sampling=sampling, seed=seed, batch=batch, on_microbatch=on_microbatch)
    by_nobody = evidence["judges"][0]["notes"]
    evidence["judges"] = [{**report, **about_witness(witness), **about_scores(match, verdicts)} for report, witness,
                          (match, verdicts) in zip(evidence["judges"], witnesses, matches)]
    if not witnesses:  # then wins and notes are those by nobody
        evidence = {key: value for key, value in evidence.items() if key not in WINS}
        evidence["notes"] = [note for note in evidence["notes"] if note not in by_nobody]
    for report in evidence["judges"]:
        few = too_few(len(prompts), report["win_rate"], ties=report["ties"] ** per_prompt)
        if few and not too_few(len(prompts)):  # of few prompts a flag speaks
            evidence["notes"].append(f"{report['name']}: {few}")
    evidence["per_prompt"] = per_prompt
    evidence["lengths"] = length_rows(matches[-1][0], per_prompt)
    for row in rows:
        row.pop("verdicts", None)
    for witness, (_, verdicts) in zip(witnesses, matches):
        for row, score, score_against in zip(rows, *(verdicts.scores or ([], []))):
            row.setdefault("scores", {})[witness.name] = score
            row.setdefault("scores_against", {})[witness.name] = score_against
    return evidence, rows


def about_witness(witness: Witness) -> dict[str, Any]:
    """What a judge is."""
    return {"name": witness.name, "is_model": witness.is_model, "is_trainer": witness.is_trainer,
            "is_labeler": witness.is_labeler, "is_gold": witness.is_gold}


def about_scores(match: Match, verdicts: Verdicts) -> dict[str, Any]:
    """What the scores of a judge go by, and how they are distributed; None of a judge that only compares."""
    if verdicts.scores is None:
        return {"alike": set(verdicts.wins) == {0.5}, "length_share": dict(NOTHING), "histograms": None}
    ours, theirs = verdicts.scores
    share = share_explained_by_length([*ours, *theirs], [*match.ours.texts, *match.theirs.texts], match.numbers * 2)
    return {"alike": len({*ours, *theirs}) == 1, "length_share": share, "histograms": histograms(ours, theirs)}


def length_rows(match: Match, per_prompt: int) -> dict[str, Any]:
    """Mean lengths in tokens, and the difference with its interval over prompts."""
    def of_prompts(side: Side) -> list[float]:
        lengths = [len(ids) for ids in side.response_ids]
        return [sum(lengths[i:i + per_prompt]) / per_prompt for i in range(0, len(lengths), per_prompt)]

    policy, start = of_prompts(match.ours), of_prompts(match.theirs)
    low, high = paired_interval(policy, start)
    return {"policy": float(np.mean(policy)), "start": float(np.mean(start)),
            "difference": float(np.mean(policy) - np.mean(start)), "difference_low": low, "difference_high": high}


def histograms(scores: list[float], scores_against: list[float]) -> dict[str, Any]:
    """Shares of both sides' scores in common bins: `edges` [B + 1], `policy` [B], `start` [B]."""
    both = np.array([*scores, *scores_against], dtype=float)
    low, high = float(both.min()), float(both.max())
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    shares = [np.histogram(side, edges)[0] / len(side) for side in (scores, scores_against)]
    return {"edges": edges.tolist(), "policy": shares[0].tolist(), "start": shares[1].tolist()}


# -- what it cost ------------------------------------------------------------------------------------------------------

def measure_cost(backbone: Backbone, role: str | None, against: str | None, texts: Sequence[Demonstration],
                 pairs: Sequence[MinimalPair], *, on_microbatch: Callable[[], None] = noop) -> dict[str, Any]:
    """The alignment tax of a policy beside its start and the base, as `measure_tax` reports it; {} without any input.
    """
    if not texts and not pairs:
        return {}
    base = Checkpoint(BASE, None)
    start = Checkpoint("start", against, base) if against else base
    checkpoints = [base, *([start] if against else []), *([Checkpoint("policy", role, start)] if role else [])]
    tax, _ = measure_tax(backbone, checkpoints, texts, pairs, on_microbatch=on_microbatch)
    return tax


# -- the way -----------------------------------------------------------------------------------------------------------

def measure_way(backbone: Backbone, subject: Subject, prompts: list[Prompt], scorers: dict[str, ScoreFunction],
                options: dict[str, Any], roles: Sequence[str]) -> dict[str, Any]:
    """How scores moved from the start over the checkpoints of a run, `MOST_STOPS` at most: `measure_shift`'s report.

    `options` are those of `measure_shift`; `roles` are names for the policy and the start.
    """
    folders = subject.checkpoints
    places = {round(place) for place in np.linspace(0, len(folders) - 1, min(MOST_STOPS, len(folders)))}
    stops = [Stop("start", 0, subject.start)]
    stops += [Stop(f"step {step_of(folders[i])}", step_of(folders[i]), folders[i] / "policy") for i in sorted(places)]
    shift, _ = measure_shift(backbone, stops, prompts, scorers, roles=roles, **options)
    for judge in shift["judges"]:
        for checkpoint in judge["checkpoints"]:
            checkpoint.pop("samples")
    return shift


# -- a reward model ----------------------------------------------------------------------------------------------------

def measure_reward(backbone: Backbone, role: str | None, prompts: list[Prompt], score: ScoreFunction, name: str, *,
                   per_prompt: int, sampling: Sampling, seed: int = 0, batch: int = 32,
                   on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score fresh samples of a policy by a reward model, and see what the scores go by.

    `role` is the policy, or None for the bare base; `score` is the reward model, called `name`. Returns (evidence, rows
    of samples), as `measure_policy` does; `judges` has one row, without wins.
    """
    room = prompt_room(backbone, sampling.max_new_tokens)
    encoded, notes = encode_prompts(backbone, prompts, room)
    owners = [prompt for prompt in prompts for _ in range(per_prompt)]
    prompt_ids = [row.ids for row in encoded for _ in range(per_prompt)]
    with backbone.use(role):
        response_ids = sample(backbone, prompt_ids, sampling, seeded_generator(2 * seed), batch=batch,
                              on_microbatch=on_microbatch)
    texts = [text_of(backbone, ids) for ids in response_ids]
    scores = score(owners, prompt_ids, response_ids, texts)
    check_scores(scores, texts)
    numbers = [i // per_prompt for i in range(len(scores))]
    means = [float(np.mean(scores[i:i + per_prompt])) for i in range(0, len(scores), per_prompt)]
    low, high = mean_interval(means)
    row = {"judge": name, "name": name, "is_model": True, "is_trainer": True, "is_labeler": False, "is_gold": False,
           "score": float(np.mean(scores)), "score_low": low, "score_high": high, "alike": len(set(scores)) == 1,
           "length_share": share_explained_by_length(scores, texts, numbers), "histograms": histograms(scores, scores)}
    rows = [{"prompt": prompt, "response": text, "scores": {name: value}}
            for prompt, text, value in zip(owners, texts, scores)]
    evidence = {"prompts": len(prompts), "samples": len(texts), "per_prompt": per_prompt, "notes": notes,
                "judges": [row]}
    return evidence, rows
