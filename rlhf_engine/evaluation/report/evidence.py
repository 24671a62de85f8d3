"""What a report measures: a policy beside its start, under several judges; and what the scores of a reward go by.

Everything is measured on fresh samples of held-out prompts. What comes out is JSON.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.evaluation.compare import ScoreFunction, check_scores, compare, win_rates
from rlhf_engine.evaluation.intervals import mean_interval, paired_interval, rate_interval
from rlhf_engine.evaluation.length_control import control_length
from rlhf_engine.evaluation.report.length_share import share_explained_by_length
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of

BINS = 24
"""Bars of a histogram of scores."""


class Judge(NamedTuple):
    """What scores the responses for a report."""

    name: str
    score: ScoreFunction
    is_model: bool = False
    """It is a model that learned what to prefer, not a function that says so."""
    is_trainer: bool = False
    """The policy was trained on it."""

    @property
    def is_gold(self) -> bool:
        """Whether its wins show that something was learned.

        A reward model that the policy was trained on may have been fooled: its wins show nothing.
        """
        return not (self.is_model and self.is_trainer)


class Side(NamedTuple):
    """The samples of one policy, prompt after prompt, `per_prompt` of each."""

    prompts: list[Prompt]
    prompt_ids: list[list[int]]
    response_ids: list[list[int]]
    texts: list[str]


def measure_policy(backbone: Backbone, role: str | None, against: str | None, prompts: list[Prompt],
                   judges: Sequence[Judge], *, per_prompt: int, sampling: Sampling, seed: int = 0, batch: int = 32,
                   on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare a policy with its start.

    Args:
        backbone: has both roles; None is the bare base.
        prompts: held out; at least one.
        judges: at most a few; the first is the one by which distributions are drawn.
        per_prompt: samples of each side to each prompt.
        sampling, seed, batch, on_microbatch: as in `compare`.

    Returns:
        (evidence, rows of samples with a score from each judge). `judges` of the evidence has a row for each judge:
        wins with ties half and a 95 % interval over prompts, wins at equal length, mean scores, the share of the
        variance of its scores that length explains, and histograms of both sides' scores.
    """
    sides: list[Side] = []

    def remember(owners: list[Prompt], prompt_ids: list[list[int]], response_ids: list[list[int]],
                 texts: list[str]) -> list[float]:
        """A judge for `compare` that keeps what it is given, so that all judges read the same samples."""
        sides.append(Side(owners, prompt_ids, response_ids, texts))
        return [0.0] * len(texts)

    measured, _ = compare(backbone, role, against, prompts, remember, per_prompt=per_prompt, sampling=sampling,
                          seed=seed, batch=batch, on_microbatch=on_microbatch)
    ours, theirs = sides
    names = ("prompts", "samples", "kl", "kl_per_token", "perplexity_ratio", "distinct_ratio", "empty", "length")
    evidence: dict[str, Any] = {name: measured[name] for name in names}
    evidence["notes"] = [note for note in measured["notes"] if not note.startswith("the judge gives all")]
    evidence["per_prompt"] = per_prompt
    evidence["lengths"] = length_rows(ours, theirs, per_prompt)
    evidence["judges"] = []
    rows = [{"prompt": prompt, "response": response, "against": against, "scores": {}, "scores_against": {}}
            for prompt, response, against in zip(ours.prompts, ours.texts, theirs.texts)]
    for judge in judges:
        scores, scores_against = judge.score(*ours), judge.score(*theirs)
        check_scores(scores, ours.texts)
        check_scores(scores_against, theirs.texts)
        evidence["judges"].append(judge_row(judge, ours, theirs, scores, scores_against, per_prompt))
        for row, score, score_against in zip(rows, scores, scores_against):
            row["scores"][judge.name], row["scores_against"][judge.name] = score, score_against
    return evidence, rows


def judge_row(judge: Judge, ours: Side, theirs: Side, scores: list[float], scores_against: list[float],
              per_prompt: int) -> dict[str, Any]:
    """What one judge says about two sides."""
    rates = win_rates(scores, scores_against, per_prompt)
    low, high = rate_interval(rates)
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(scores, scores_against)]
    differences = [len(a) - len(b) for a, b in zip(ours.texts, theirs.texts)]
    numbers = [i // per_prompt for i in range(len(scores))]
    both = [*scores, *scores_against]
    return {
        "judge": judge.name, "is_model": judge.is_model, "is_trainer": judge.is_trainer, "is_gold": judge.is_gold,
        "win_rate": sum(rates) / len(rates), "win_rate_low": low, "win_rate_high": high,
        "ties": sum(a == b for a, b in zip(scores, scores_against)) / len(scores),
        "score": sum(scores) / len(scores), "score_against": sum(scores_against) / len(scores),
        "alike": len(set(both)) == 1,
        "at_equal_length": control_length(wins, differences, numbers).to_dict(),
        "length_share": share_explained_by_length(both, [*ours.texts, *theirs.texts], [*numbers, *numbers]),
        "histograms": histograms(scores, scores_against),
    }


def length_rows(ours: Side, theirs: Side, per_prompt: int) -> dict[str, Any]:
    """Mean lengths in tokens, and the difference with its interval over prompts."""
    def of_prompts(side: Side) -> list[float]:
        lengths = [len(ids) for ids in side.response_ids]
        return [sum(lengths[i:i + per_prompt]) / per_prompt for i in range(0, len(lengths), per_prompt)]

    policy, start = of_prompts(ours), of_prompts(theirs)
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


# -- a reward model ----------------------------------------------------------------------------------------------------

def measure_reward(backbone: Backbone, role: str | None, prompts: list[Prompt], reward: Judge, *, per_prompt: int,
                   sampling: Sampling, seed: int = 0, batch: int = 32,
                   on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Score fresh samples of the policy that a reward model started from, and see what the scores go by.

    Returns (evidence, rows of samples), as `measure_policy` does; `judges` has one row, without wins.
    """
    room = prompt_room(backbone, sampling.max_new_tokens)
    encoded, notes = encode_prompts(backbone, prompts, room)
    owners = [prompt for prompt in prompts for _ in range(per_prompt)]
    prompt_ids = [row.ids for row in encoded for _ in range(per_prompt)]
    with backbone.use(role):
        response_ids = sample(backbone, prompt_ids, sampling, seeded_generator(2 * seed), batch=batch,
                              on_microbatch=on_microbatch)
    texts = [text_of(backbone, ids) for ids in response_ids]
    scores = reward.score(owners, prompt_ids, response_ids, texts)
    check_scores(scores, texts)
    numbers = [i // per_prompt for i in range(len(scores))]
    means = [float(np.mean(scores[i:i + per_prompt])) for i in range(0, len(scores), per_prompt)]
    low, high = mean_interval(means)
    row = {"judge": reward.name, "is_model": True, "is_trainer": True, "is_gold": False,
           "score": float(np.mean(scores)), "score_low": low, "score_high": high, "alike": len(set(scores)) == 1,
           "length_share": share_explained_by_length(scores, texts, numbers), "histograms": histograms(scores, scores)}
    rows = [{"prompt": prompt, "response": text, "scores": {reward.name: score}}
            for prompt, text, score in zip(owners, texts, scores)]
    evidence = {"prompts": len(prompts), "samples": len(texts), "per_prompt": per_prompt, "notes": notes,
                "judges": [row]}
    return evidence, rows
