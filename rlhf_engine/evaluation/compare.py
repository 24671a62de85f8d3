"""How two policies compare on fresh samples of the same prompts: wins by a judge, diversity, perplexity, and KL."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import NotFinite, noop
from rlhf_engine.evaluation.intervals import rate_interval
from rlhf_engine.evaluation.judging import (
    Match,
    Referee,
    Side,
    Verdicts,
    judge_remarks,
    judge_report,
    score_verdicts,
)
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.model.logprobs import read_states
from rlhf_engine.model.prefix_packing import packed_passes, reading_order
from rlhf_engine.model.text_metrics import compare_variety, distinct, distinct_ratio, variety_remarks

MAX_SURPRISE = 700.0
"""Bound on the surprise in nats per token whose exponential is a perplexity, so that it stays finite."""
ScoreFunction = Callable[[list[Prompt], list[list[int]], list[list[int]], list[str]], list[float]]
"""Scores of responses, from prompts, prompt ids, response ids and response texts. Equal scores are a tie."""
WINS = ("win_rate", "win_rate_low", "win_rate_high", "ties", "score", "score_against")
"""What a report takes over from its first judge."""


@dataclass
class Samples:
    """Fresh responses of one policy, and what was measured on them."""

    response_ids: list[list[int]]
    texts: list[str]
    scores: list[float]
    """By the judge; none without one."""
    perplexity: float
    """Under the bare base given the prompt, weighted by tokens."""


def text_judge(score: Callable[[Prompt, str], float]) -> ScoreFunction:
    """A judge that reads the prompt and the text of a response alone."""
    def judge(prompts: list[Prompt], prompt_ids: list[list[int]], response_ids: list[list[int]],
              texts: list[str]) -> list[float]:
        return [score(prompt, text) for prompt, text in zip(prompts, texts)]

    return judge


def score_referee(name: str, score: ScoreFunction) -> Referee:
    """A judge that gives scores, as a referee. It raises NotFinite for a score that is NaN or infinite."""
    def decide(match: Match) -> Verdicts:
        both = score_once(score, match.prompts * 2, match.prompt_ids * 2,
                          match.ours.response_ids + match.theirs.response_ids, match.ours.texts + match.theirs.texts)
        return score_verdicts(both[:len(match.prompts)], both[len(match.prompts):])

    return Referee(name, decide)


def score_once(score: ScoreFunction, prompts: list[Prompt], prompt_ids: list[list[int]], response_ids: list[list[int]],
               texts: list[str]) -> list[float]:
    """The scores of responses. Equal tokens are scored once, so that they tie.

    A reward model gives the same tokens slightly other scores in another batch. Raises NotFinite for a score that is
    NaN or infinite.
    """
    keys = [(str(prompt), tuple(front), tuple(ids)) for prompt, front, ids in zip(prompts, prompt_ids, response_ids)]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    rows = sorted(first.values())
    scores = score([prompts[i] for i in rows], [prompt_ids[i] for i in rows], [response_ids[i] for i in rows],
                   [texts[i] for i in rows])
    check_scores(scores, [texts[i] for i in rows])
    by_row = dict(zip(rows, scores))
    return [by_row[first[key]] for key in keys]


def compare(backbone: Backbone, role: str | None, against: str | None, prompts: list[Prompt],
            judge: ScoreFunction | None, *, referees: Sequence[Referee] = (), per_prompt: int = 2,
            sampling: Sampling = Sampling(), batch: int = 32, max_tokens: int = 512, seed: int = 0,
            on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare a role with another on fresh samples.

    Args:
        backbone: has both roles.
        role: a role, or None for the bare base.
        against: the role to compare with, or None for the bare base.
        prompts: at least one.
        judge: scores the responses. Without one, and without referees, there are no scores and no wins.
        referees: further judges, each of which gets a report of its own in `judges` (`judging.judge_report`). Without a
            `judge`, the wins and scores of the report are those of the first.
        per_prompt: responses of each policy to each prompt.
        sampling: how to sample.
        batch: rows per forward pass.
        max_tokens: longest prompt plus response.
        seed: of the samples.
        on_microbatch: called between forward passes and after each sampled token.

    Returns:
        (report, samples), a dictionary and a list of rows for samples.jsonl. Of the report, `win_rate` counts ties as
        half and has a 95 % interval over prompts (`intervals.rate_interval`); `kl` is in nats per sequence, on the
        samples of `role`, with both policies at the temperature of `sampling`; `perplexity_ratio` is under the bare
        base given the prompt, weighted by tokens; `distinct_ratio` compares distinct-2 over equally many tokens;
        `empty` is the share of responses without a visible character; `notes` says what was cut.

    Raises UserError if `sampling` leaves no room for a prompt, and NotFinite where a policy or the judge gives a number
    that is NaN or infinite.
    """
    room = prompt_room(backbone, sampling.max_new_tokens, max_tokens)
    encoded, notes = encode_prompts(backbone, prompts, room)
    prompt_ids = [row.ids for row in encoded for _ in range(per_prompt)]
    owners = [prompt for prompt in prompts for _ in range(per_prompt)]

    def draw(name: str | None, generator_seed: int) -> Samples:
        generator = seeded_generator(generator_seed)
        with backbone.use(name):
            ids = sample(backbone, prompt_ids, sampling, generator, batch=batch, on_microbatch=on_microbatch)
        texts = [text_of(backbone, response) for response in ids]
        scores = judge(owners, prompt_ids, ids, texts) if judge else []
        logprob = mean_logprob(backbone, None, prompt_ids, ids, batch, on_microbatch)
        check_scores(scores, texts)
        return Samples(ids, texts, scores, math.exp(min(-logprob, MAX_SURPRISE)))

    ours, theirs = draw(role, 2 * seed), draw(against, 2 * seed + 1)
    # Greedy responses have no KL; that of the models as they are stands in for it.
    temperature = sampling.temperature or 1.0
    kl_per_token = (
        mean_logprob(backbone, role, prompt_ids, ours.response_ids, batch, on_microbatch, temperature)
        - mean_logprob(backbone, against, prompt_ids, ours.response_ids, batch, on_microbatch, temperature))
    tokens = sum(map(len, ours.response_ids))
    report: dict[str, Any] = {"prompts": len(prompts), "samples": len(owners), "notes": notes}
    rows: list[dict[str, Any]] = [{"prompt": prompt, "response": ours.texts[i], "against": theirs.texts[i]}
                                  for i, prompt in enumerate(owners)]
    if judge:
        notes += judge_remarks([*ours.scores, *theirs.scores])
        report.update(outcome(ours.scores, theirs.scores, per_prompt))
        add_scores(rows, ours.scores, theirs.scores)
    if referees:
        numbers = [number for number in range(len(prompts)) for _ in range(per_prompt)]
        match = Match(owners, prompt_ids, numbers, Side(ours.response_ids, ours.texts),
                      Side(theirs.response_ids, theirs.texts))
        report = panel_report(referees, match, rows) | report
        report["variety"] = compare_variety((ours.response_ids, ours.texts), (theirs.response_ids, theirs.texts))
        notes += [note for one in report["judges"] for note in one["notes"]] + variety_remarks(report["variety"])
    report.update({
        "kl": kl_per_token * tokens / len(owners),
        "kl_per_token": kl_per_token,
        "perplexity": ours.perplexity,
        "perplexity_ratio": ours.perplexity / theirs.perplexity,
        "distinct_2": distinct(ours.response_ids),
        "distinct_ratio": distinct_ratio(ours.response_ids, theirs.response_ids),
        "empty": sum(not text.strip() for text in ours.texts) / len(owners),
        "length": tokens / len(owners),
    })
    return report, rows


def panel_report(referees: Sequence[Referee], match: Match, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """`judges`, the report of each referee about a match, and the wins and scores of the first.

    The rows of samples.jsonl get `verdicts` by the name of the judge, `answers` of one that is asked in both orders,
    and the first judge's scores, if it has some and they have none.
    """
    reports = []
    for referee in referees:
        verdicts = referee.decide(match)
        reports.append(judge_report(referee, verdicts, match))
        for row, win in zip(rows, verdicts.wins):
            row.setdefault("verdicts", {})[referee.name] = win
        for row, answers in zip(rows, verdicts.answers or []):
            row.setdefault("answers", {})[referee.name] = list(answers)
        if verdicts.scores and referee is referees[0]:
            add_scores(rows, *verdicts.scores)
    return {"judges": reports} | {name: reports[0][name] for name in WINS if name in reports[0]}


def add_scores(rows: list[dict[str, Any]], ours: list[float], theirs: list[float]) -> None:
    """Give each row of samples.jsonl its scores, unless it has some."""
    for row, score, score_against in zip(rows, ours, theirs):
        row.setdefault("score", score)
        row.setdefault("score_against", score_against)


@torch.no_grad()
def mean_logprob(backbone: Backbone, role: str | None, prompt_ids: list[list[int]], response_ids: list[list[int]],
                 batch: int, on_microbatch: Callable[[], None] = noop, temperature: float = 1.0) -> float:
    """Mean log-probability of the responses' tokens under a role (None: the bare base), in nats per token.

    Args:
        backbone: has the role.
        role: whose log-probabilities.
        prompt_ids: token ids of the prompt of each response.
        response_ids: token ids of the responses. A long response weighs more.
        batch: rows per forward pass. Of responses to one prompt, the prompt is read once if that pays.
        on_microbatch: called after each forward pass.
        temperature: divides the logits.

    Raises NotFinite if they are NaN or infinite.
    """
    total, rows = 0.0, [prompt + response for prompt, response in zip(prompt_ids, response_ids)]
    with backbone.use(role):
        for part in micro_batches(reading_order(backbone, rows), batch):
            for packed in packed_passes(backbone, [rows[i] for i in part]):
                starts = [len(prompt_ids[part[i]]) for i in packed.indices]
                before = [columns[start - 1:-1] for start, columns in zip(starts, packed.columns)]
                tokens = [columns[start:] for start, columns in zip(starts, packed.columns)]
                states = backbone.hidden(packed.ids, **packed.options)[packed.at(before)]
                reading = read_states(backbone, states, packed.ids[packed.at(tokens)], temperature)
                total += reading.logprobs.double().sum().item()
                on_microbatch()
    if not math.isfinite(total):
        raise NotFinite(f"the log-probabilities under {role or 'the bare base'} are {total}; take an earlier "
                        "checkpoint or another adapter, or load the base with --dtype fp32")
    return total / sum(map(len, response_ids))


def check_scores(scores: list[float], texts: list[str]) -> None:
    """Raises NotFinite for the first score of a response's text that is NaN or infinite."""
    for score, text in zip(scores, texts):
        if not math.isfinite(score):
            raise NotFinite(f"the judge gives {score} for the response {text[:60]!r}; a score must be finite")


# -- wins --------------------------------------------------------------------------------------------------------------

def outcome(ours: list[float], theirs: list[float], per_prompt: int) -> dict[str, float]:
    """The part of a report that follows from the scores of two policies: wins, ties, mean scores.

    The scores of one prompt, `per_prompt` of them, stand side by side.
    """
    rates = win_rates(ours, theirs, per_prompt)
    low, high = rate_interval(rates)
    return {"win_rate": sum(rates) / len(rates), "win_rate_low": low, "win_rate_high": high,
            "ties": sum(a == b for a, b in zip(ours, theirs)) / len(ours), "score": sum(ours) / len(ours),
            "score_against": sum(theirs) / len(ours)}


def win_rates(ours: list[float], theirs: list[float], per_prompt: int) -> list[float]:
    """Share of wins for each prompt, ties half. The scores of one prompt stand side by side."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs)]
    return [sum(wins[i:i + per_prompt]) / per_prompt for i in range(0, len(wins), per_prompt)]


def bootstrap(values: list[float], seed: int, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` (one per prompt), from `draws` resamplings.

    Reports use `intervals.rate_interval`: this one is too narrow with few prompts, and has no width where all values
    are equal.
    """
    rng = random.Random(f"{seed} bootstrap")
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]
