"""The curve of best-of-n over n, measured: samples of a policy, scored by a proxy and by a gold reward."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.evaluation import best_of
from rlhf_engine.evaluation.compare import ScoreFunction, check_scores
from rlhf_engine.evaluation.intervals import mean_interval
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.model.text_metrics import distinct

MOST_SETS = 8
"""Sets of responses, one best response to each prompt, on which distinct-2 is measured, at most."""


class ScoredSamples(NamedTuple):
    """N responses to each of P prompts, and their scores."""

    response_ids: list[list[list[int]]]
    """[P][N]: token ids."""
    texts: list[list[str]]
    proxy: np.ndarray
    """[P, N]: the scores by which the best is chosen."""
    gold: np.ndarray
    """[P, N]: what the responses are worth."""

    @property
    def lengths(self) -> np.ndarray:
        """[P, N]: tokens of the responses."""
        return np.array([[len(ids) for ids in row] for row in self.response_ids], dtype=float)


def measure_best_of(backbone: Backbone, role: str | None, prompts: list[Prompt], proxy: ScoreFunction,
                    gold: ScoreFunction | None, sizes: Sequence[int], *, samples: int, sampling: Sampling = Sampling(),
                    batch: int = 32, max_tokens: int = 512, seed: int = 0,
                    on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure the best of n responses of a role, for each n.

    Args:
        backbone: has the role.
        role: the policy, or None for the bare base.
        prompts: at least one.
        proxy: chooses the best.
        gold: says what it is worth; None is the proxy itself.
        sizes: each n, from 1 to `samples`.
        samples: responses to each prompt, N.
        sampling: how to sample.
        batch: rows that are sampled together.
        max_tokens: longest prompt plus response.
        seed: of the samples.
        on_microbatch: called after each sampled token.

    Returns:
        (report, rows for samples.jsonl). The report has a row for each n in `curve`; `notes` says what was cut, and
        where the proxy tells nothing apart.

    Raises UserError if `sampling` leaves no room for a prompt, and NotFinite for a score that is NaN or infinite.
    """
    room = prompt_room(backbone, sampling.max_new_tokens, max_tokens)
    encoded, notes = encode_prompts(backbone, prompts, room)
    prompt_ids = [row.ids for row in encoded]
    with backbone.use(role):
        flat = sample(backbone, [ids for ids in prompt_ids for _ in range(samples)], sampling,
                      seeded_generator(2 * seed), batch=batch, on_microbatch=on_microbatch)
    response_ids = [flat[start:start + samples] for start in range(0, len(flat), samples)]
    texts = [[text_of(backbone, ids) for ids in row] for row in response_ids]
    proxy_scores = score_samples(proxy, prompts, prompt_ids, response_ids, texts)
    gold_scores = score_samples(gold, prompts, prompt_ids, response_ids, texts) if gold else proxy_scores
    scored = ScoredSamples(response_ids, texts, proxy_scores, gold_scores)
    report = {"prompts": len(prompts), "per_prompt": samples, "samples": len(flat),
              "notes": notes + proxy_notes(proxy_scores), "curve": best_of_curve(scored, sizes)}
    rows = [{"prompt": prompt, "response": texts[i][j], "proxy": float(proxy_scores[i, j]),
             "gold": float(gold_scores[i, j])} for i, prompt in enumerate(prompts) for j in range(samples)]
    return report, rows


def score_samples(score: ScoreFunction, prompts: list[Prompt], prompt_ids: list[list[int]],
                  response_ids: list[list[list[int]]], texts: list[list[str]]) -> np.ndarray:
    """[P, N]: the scores of all responses. Equal responses to a prompt are scored once, so that they tie.

    A reward model gives the same tokens slightly other scores in another batch; the best of n would choose by that.
    """
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    places = [[numbers.setdefault((i, tuple(ids)), len(numbers)) for ids in row] for i, row in enumerate(response_ids)]
    owners = [i for i, _ in numbers]
    unique_texts = {place: text for row, row_texts in zip(places, texts) for place, text in zip(row, row_texts)}
    ordered_texts = [unique_texts[number] for number in range(len(numbers))]
    scores = score([prompts[i] for i in owners], [prompt_ids[i] for i in owners], [list(ids) for _, ids in numbers],
                   ordered_texts)
    check_scores(scores, ordered_texts)
    return np.asarray(scores, dtype=float)[np.array(places)]


def proxy_notes(proxy: np.ndarray) -> list[str]:
    """A line where the proxy [P, N] gives the responses to most prompts the same score; none otherwise."""
    alike = int((proxy == proxy[:, :1]).all(1).sum())
    if proxy.shape[1] == 1 or 2 * alike <= len(proxy):
        return []
    return [f"the reward gives all {proxy.shape[1]} responses to {alike} of {len(proxy)} prompts the same score, so "
            "any of them counts as the best: give prompts that ask for what it prefers, or more --samples"]


# -- the curve ---------------------------------------------------------------------------------------------------------

def best_of_curve(scored: ScoredSamples, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each n: means over prompts, with 95 % intervals over prompts as `..._low` and `..._high`.

    `gold`, `proxy` and `length` (in tokens) are the unbiased means of the best of n. `kl` is in nats per sequence, to
    the policy that was sampled (`best_of.estimate_kl`), and `kl_bound` its upper bound. `win_rate` is by gold, over one
    more sample of that policy; it is None where n takes all samples. `distinct_2` is of one best response to each
    prompt, over equally many tokens for each n.
    """
    variety = distinct_curve(scored, sizes)
    return [{"n": n, **curve_row(scored, n), "distinct_2": variety[n]} for n in sizes]


def curve_row(scored: ScoredSamples, n: int) -> dict[str, float | None]:
    """The row of one n, without its distinct-2."""
    row: dict[str, float | None] = {}

    def add(name: str, values: list[float], low: float = -math.inf, high: float = math.inf) -> None:
        """The mean and its interval between two bounds; no sum of rounded numbers gets past them."""
        row[name] = max(min(sum(values) / len(values), high), low)
        row[f"{name}_low"], row[f"{name}_high"] = mean_interval(values, low=low, high=high)

    weights = [best_of.best_of_weights(proxy, n) for proxy in scored.proxy]
    for name, scores in (("gold", scored.gold), ("proxy", scored.proxy), ("length", scored.lengths)):
        add(name, [float(weight @ values) for weight, values in zip(weights, scores)])
    kl_bound, win_rate_bound = best_of.kl_bound(n), best_of.win_rate_bound(n)
    add("kl", [best_of.estimate_kl(proxy, n) for proxy in scored.proxy], 0.0, kl_bound)
    row["kl_bound"] = kl_bound
    if n < scored.proxy.shape[1]:
        rates = [best_of.win_rate(proxy, gold, n) for proxy, gold in zip(scored.proxy, scored.gold)]
        add("win_rate", rates, 0.0 if n > 1 else win_rate_bound, win_rate_bound)  # one sample wins half over another
    else:
        row.update(win_rate=None, win_rate_low=None, win_rate_high=None)
    row["win_rate_bound"] = win_rate_bound
    return row


def distinct_curve(scored: ScoredSamples, sizes: Sequence[int]) -> dict[int, float]:
    """n -> distinct-2 of the best of n.

    The samples are cut into sets of n to each prompt, of which the best make a set of responses; the mean over such
    sets counts. All are read over as many tokens as the shortest set of all n has, because distinct-2 falls with the
    amount of text.
    """
    sets = {n: best_sets(scored, n) for n in sizes}
    tokens = min(sum(map(len, responses)) for of_n in sets.values() for responses in of_n)
    return {n: float(np.mean([distinct(responses, tokens=tokens) for responses in of_n])) for n, of_n in sets.items()}


def best_sets(scored: ScoredSamples, n: int) -> list[list[list[int]]]:
    """Sets of responses: each holds the best of n others to each prompt. Of a tie, the one that was sampled first."""
    count = min(MOST_SETS, scored.proxy.shape[1] // n)
    sets = []
    for start in range(0, count * n, n):
        best = start + scored.proxy[:, start:start + n].argmax(1)
        sets.append([responses[i] for responses, i in zip(scored.response_ids, best)])
    return sets
