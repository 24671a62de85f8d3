"""How the distribution of a reward shifts over training: the start and each checkpoint of a run (LLaMA-2's figure).

All checkpoints answer the same prompts with the same random numbers. The reward should be one that was not trained on.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.evaluation.compare import ScoreFunction, mean_logprob, score_once
from rlhf_engine.evaluation.intervals import mean_interval, paired_interval
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, prompt_room, sample, seeded_generator, text_of
from rlhf_engine.model.text_metrics import distinct

BINS = 30
"""Bins of the common grid on which all distributions stand."""
OUTER = (0.005, 0.995)
"""Quantiles of the scores of all checkpoints together between which the grid lies."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SHOWN = 3
"""Samples that are shown of the low end, the middle and the high end of a distribution."""
ROLES = ("policy", "start")
"""The roles of a backbone that are loaded to measure."""
RULE = ("of each checkpoint the {count} lowest scores, the {count} in the middle of the order and the {count} highest; "
        "equal scores in the order of the data")
"""How the samples that are shown are chosen."""


class Stop(NamedTuple):
    """A policy on the way of a run."""

    name: str
    step: int
    folder: Path | None
    """Its PEFT folder; None is the bare base."""


class Texts(NamedTuple):
    """What a policy answers, and what was measured on it."""

    response_ids: list[list[int]]
    texts: list[str]
    numbers: dict[str, float]


def measure_shift(backbone: Backbone, stops: Sequence[Stop], prompts: list[Prompt],
                  scorers: dict[str, ScoreFunction], *, per_prompt: int = 2, sampling: Sampling = Sampling(),
                  batch: int = 32, max_tokens: int = 512, seed: int = 0, roles: Sequence[str] = ROLES,
                  on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Measure how the rewards shift from the first stop on.

    Args:
        backbone: the base of all stops, without the `roles`.
        stops: the start, and the checkpoints in their order.
        prompts: at least one.
        scorers: the rewards by name, at least one.
        per_prompt: responses to each prompt.
        sampling: how to sample.
        batch: rows per forward pass.
        max_tokens: longest prompt plus response.
        seed: of the samples.
        roles: under which the policy of a stop and the start are loaded. They are dropped at the end.
        on_microbatch: called between forward passes and after each sampled token.

    Returns:
        (report, rows for samples.jsonl). `checkpoints` of the report has the name and step of each stop, its `kl` to
        the start in nats per sequence on its own samples, `kl_per_token`, `length` in tokens, `empty` and `distinct_2`.
        `judges` has for each reward what `judge_shift` gives.

    Raises UserError if `sampling` leaves no room for a prompt or a folder does not fit the base, and NotFinite for a
    score that is NaN or infinite.
    """
    encoded, notes = encode_prompts(backbone, prompts, prompt_room(backbone, sampling.max_new_tokens, max_tokens))
    prompt_ids = [row.ids for row in encoded for _ in range(per_prompt)]
    owners = [prompt for prompt in prompts for _ in range(per_prompt)]
    policy, start, folder = roles[0], roles[1] if stops[0].folder else None, stops[0].folder
    if start and folder:
        backbone.load_role(start, folder, head=False)
    try:
        measured = [measure_stop(backbone, stop, policy, start, prompt_ids, sampling, batch, seed, on_microbatch)
                    for stop in stops]
    finally:
        if start:
            backbone.drop_role(start)
    report: dict[str, Any] = {"prompts": len(prompts), "per_prompt": per_prompt, "notes": notes}
    report["checkpoints"] = [{"name": stop.name, "step": stop.step, **texts.numbers}
                             for stop, texts in zip(stops, measured)]
    rows: list[dict[str, Any]] = [{"checkpoint": stop.name, "step": stop.step, "prompt": prompt, "response": text}
                                  for stop, texts in zip(stops, measured) for prompt, text in zip(owners, texts.texts)]
    report["judges"] = []
    for name, score in scorers.items():
        scores = score_once(score, owners * len(stops), prompt_ids * len(stops),
                            [ids for texts in measured for ids in texts.response_ids],
                            [text for texts in measured for text in texts.texts])
        kls = [texts.numbers["kl"] for texts in measured]
        by_stop = np.array(scores).reshape(len(stops), -1)
        report["judges"].append(judge_shift(name, stops, by_stop, kls, per_prompt, rows))
    return report, rows


def measure_stop(backbone: Backbone, stop: Stop, policy: str, start: str | None, prompt_ids: list[list[int]],
                 sampling: Sampling, batch: int, seed: int, on_microbatch: Callable[[], None]) -> Texts:
    """The responses of a stop, which becomes the role `policy`; their KL to the role `start`, length and variety."""
    is_start = stop.step == 0
    role = start if is_start else policy
    if not is_start and stop.folder:
        backbone.load_role(policy, stop.folder, head=False)
    try:
        with backbone.use(role):
            ids = sample(backbone, prompt_ids, sampling, seeded_generator(2 * seed), batch=batch,
                         on_microbatch=on_microbatch)
        # Greedy responses have no KL; that of the models as they are stands in for it.
        temperature = sampling.temperature or 1.0
        kl = 0.0
        if not is_start:
            kl = (mean_logprob(backbone, role, prompt_ids, ids, batch, on_microbatch, temperature)
                  - mean_logprob(backbone, start, prompt_ids, ids, batch, on_microbatch, temperature))
    finally:
        if not is_start:
            backbone.drop_role(policy)
    texts = [text_of(backbone, response) for response in ids]
    length = sum(map(len, ids)) / len(ids)
    return Texts(ids, texts, {"kl": kl * length, "kl_per_token": kl, "length": length,
                              "empty": sum(not text.strip() for text in texts) / len(texts),
                              "distinct_2": distinct(ids)})


# -- the distributions -------------------------------------------------------------------------------------------------

def judge_shift(name: str, stops: Sequence[Stop], scores: np.ndarray, kls: Sequence[float], per_prompt: int,
                rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The distributions of a reward at all stops.

    Args:
        name: of the reward.
        stops: S of them.
        scores: [S, N], of the responses of each stop; those to one prompt stand side by side.
        kls: [S], of each stop to the start, in nats per sequence.
        per_prompt: how many that are.
        rows: the S * N rows of samples.jsonl, which get the scores, and `end` where they are shown.

    Returns:
        `bins`: the edges of the common grid. `rule`: how samples are chosen. `checkpoints`: for each stop `mean` and
        its 95 % interval over prompts, `change` of the mean from the start with its paired interval, `sd`, `low` and
        `high` (the ends), `quantiles`, `density` (share of the responses per unit of reward, in each bin; `below` and
        `above` are the shares beyond the grid), and `samples` of the low end, the middle and the high end. `peak`: what
        `find_peak` gives.
    """
    edges = common_bins(scores)
    by_prompt = scores.reshape(len(stops), -1, per_prompt).mean(2)
    count = shown_count(scores.shape[1])
    checkpoints = []
    for number, stop in enumerate(stops):
        own = rows[number * scores.shape[1]:(number + 1) * scores.shape[1]]
        for row, score in zip(own, scores[number]):
            row.setdefault("scores", {})[name] = float(score)
        low, high = mean_interval(by_prompt[number])
        change = paired_interval(by_prompt[number], by_prompt[0]) if number else (0.0, 0.0)
        counts, _ = np.histogram(scores[number], edges)
        checkpoints.append({
            "name": stop.name, "step": stop.step, "mean": float(scores[number].mean()), "mean_low": low,
            "mean_high": high, "change": float((by_prompt[number] - by_prompt[0]).mean()), "change_low": change[0],
            "change_high": change[1], "sd": float(scores[number].std()), "low": float(scores[number].min()),
            "high": float(scores[number].max()),
            "quantiles": {f"{q:g}": float(np.quantile(scores[number], q)) for q in QUANTILES},
            "density": [float(share) for share in counts / scores.shape[1] / np.diff(edges)],
            "below": float((scores[number] < edges[0]).mean()), "above": float((scores[number] > edges[-1]).mean()),
            "samples": shown_samples(name, own, scores[number], count)})
    peak = find_peak(checkpoints, by_prompt, kls)
    return {"judge": name, "bins": [float(edge) for edge in edges], "rule": RULE.format(count=count),
            "checkpoints": checkpoints, "peak": peak, "notes": shift_remarks(name, checkpoints, by_prompt, peak)}


def find_peak(checkpoints: list[dict[str, Any]], by_prompt: np.ndarray, kls: Sequence[float]) -> dict[str, Any] | None:
    """The checkpoint at which a mean was highest, if it has fallen since then beyond chance; else None.

    `fall_low` and `fall_high` are the 99 % interval of the fall until the last one: the highest of several means is a
    little too high by chance. `too_far` says whether the policy went on from its start meanwhile: a KL penalty that
    pulls it back takes reward away, too, and that is no over-optimisation.
    """
    best = int(np.argmax(by_prompt.mean(1)))
    if not 0 < best < len(checkpoints) - 1:
        return None
    low, high = paired_interval(by_prompt[-1], by_prompt[best], 0.99)
    if high >= 0:
        return None
    return {"name": checkpoints[best]["name"], "step": checkpoints[best]["step"], "fall_low": -high, "fall_high": -low,
            "kl": kls[best], "kl_end": kls[-1], "too_far": kls[-1] > kls[best]}


def common_bins(scores: np.ndarray) -> np.ndarray:
    """[BINS + 1]: equally spaced edges between the outer quantiles of all scores; of equal scores, a unit around them.

    The quantiles keep a single far score, such as that of an empty response, from squeezing all others into one bin.
    """
    low, high = np.quantile(scores, OUTER)
    if high <= low:
        low, high = float(scores.min()), float(scores.max())
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, BINS + 1)
    return edges if (np.diff(edges) > 0).all() else np.linspace(low - 0.5, high + 0.5, BINS + 1)


def shown_count(responses: int) -> int:
    """Samples that are shown of each end of so many responses, so that none is shown twice."""
    return max(1, min(SHOWN, responses // 3))


def shown_samples(name: str, rows: list[dict[str, Any]], scores: np.ndarray, count: int) -> list[dict[str, Any]]:
    """The samples of the low end, the middle and the high end, by `RULE`. Their rows get `end` by the reward's name."""
    order = np.argsort(scores, kind="stable")
    middle = max((len(order) - count) // 2, 0)
    ends = {"low": order[:count], "middle": order[middle:middle + count], "high": order[-count:]}
    shown, taken = [], set()
    for end, places in ends.items():
        for place in places:
            if int(place) in taken:  # of fewer than three responses
                continue
            taken.add(int(place))
            rows[place].setdefault("end", {})[name] = end
            rank = int(np.flatnonzero(order == place)[0]) + 1
            shown.append({"end": end, "rank": rank, "of": len(order), "score": float(scores[place]),
                          "equal": int((scores == scores[place]).sum()) - 1,
                          "prompt": rows[place]["prompt"], "response": rows[place]["response"]})
    return shown


def shift_remarks(name: str, checkpoints: list[dict[str, Any]], by_prompt: np.ndarray,
                  peak: dict[str, Any] | None) -> list[str]:
    """What a shift says, as sentences: whether the reward rose or fell, and whether it fell again after a peak."""
    first, last = checkpoints[0], checkpoints[-1]
    if len(checkpoints) == 1:
        return []
    if np.ptp(by_prompt) == 0:
        return [f"{name} gives every checkpoint the same mean score to each prompt, so it says nothing about this run"]
    between = f"from {first['mean']:.4g} to {last['mean']:.4g} ({last['name']})"
    if last["change_low"] > 0 or last["change_high"] < 0:
        what = "rises" if last["change"] > 0 else "falls"
        remarks = [f"the mean of {name} {what} {between}"]
    else:
        remarks = [f"the mean of {name} goes {between}, which is no change beyond chance"]
    if peak:
        fall = f"{peak['fall_low']:.3g} to {peak['fall_high']:.3g}"
        why = "the run may have gone too far"
        if not peak["too_far"]:
            kls = f"{peak['kl']:.1f} to {peak['kl_end']:.1f} nats"
            why = f"the KL fell as well, from {kls}, so its penalty pulled it back"
        remarks.append(f"the mean of {name} is highest at {peak['name']} and falls after that, by {fall} until "
                       f"{last['name']}: {why}")
    return remarks
