"""How two policies compare: wins by a judge, diversity, perplexity under the bare base, and KL. Fresh samples, shared prompts."""

import math
import random
from collections.abc import Callable

import torch

from rlhf_engine.data.tokenization import Prompt, encode_prompts
from rlhf_engine.errors import noop
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.batching import micro_batches
from rlhf_engine.model.generation import Sampling, prompt_room, sample, text_of
from rlhf_engine.model.logprobs import pad_right, response_positions, token_logprobs
from rlhf_engine.model.text_metrics import distinct, distinct_ratio

ScoreFunction = Callable[[list[Prompt], list[list[int]], list[list[int]], list[str]], list[float]]
"""Scores of responses, from prompts, prompt ids, response ids and response texts; equal scores are a tie."""


def text_judge(score: Callable[[Prompt, str], float]) -> ScoreFunction:
    """A judge that reads prompt and text alone."""
    return lambda prompts, ids, responses, texts: [score(prompt, text) for prompt, text in zip(prompts, texts)]


def compare(backbone: Backbone, role: str | None, against: str | None, prompts: list[Prompt], judge: ScoreFunction | None, *, per_prompt: int = 2,
            sampling: Sampling = Sampling(), batch: int = 32, max_tokens: int = 512, seed: int = 0,
            on_microbatch: Callable[[], None] = noop) -> tuple[dict, list[dict]]:
    """(report, samples): `role` against `against` (role names; None is the bare base) on fresh samples.

    `win_rate` counts ties as half, with a 95 % bootstrap interval over prompts; `kl` is in nats per sequence, of `role`'s
    own samples, both policies at the temperature of `sampling`; `perplexity_ratio` is under the bare base given the prompt,
    token-weighted; `distinct_ratio` compares distinct-2 over equally many tokens; `empty` is the share of responses without a
    visible character; `notes` says what was cut. Without a judge there are no scores and no wins. Raises UserError if `sampling`
    leaves no room for a prompt.
    """
    encoded, notes = encode_prompts(backbone, prompts, prompt_room(backbone, sampling.max_new_tokens, max_tokens))
    asked = [row.ids for row in encoded for _ in range(per_prompt)]
    owners = [prompt for prompt in prompts for _ in range(per_prompt)]
    answers, texts, scores, perplexities = [], [], [], []
    for place, name in enumerate((role, against)):
        with backbone.use(name):
            drawn = sample(backbone, asked, sampling, torch.Generator().manual_seed(2 * seed + place), batch=batch, on_microbatch=on_microbatch)
        answers.append(drawn)
        texts.append([text_of(backbone, ids) for ids in drawn])
        scores.append(judge(owners, asked, drawn, texts[-1]) if judge else [0.0] * len(asked))
        perplexities.append(math.exp(-mean_logprob(backbone, None, asked, drawn, batch, on_microbatch)))
    tokens = sum(map(len, answers[0]))
    temperature = sampling.temperature or 1.0  # greedy answers have no KL; that of the model as it is stands in
    per_token = (mean_logprob(backbone, role, asked, answers[0], batch, on_microbatch, temperature)
                 - mean_logprob(backbone, against, asked, answers[0], batch, on_microbatch, temperature))
    report = {
        "prompts": len(prompts), "samples": len(asked), "notes": notes,
        **(outcome(*scores, per_prompt, seed) if judge else {}),
        "kl": per_token * tokens / len(asked), "kl_per_token": per_token,
        "perplexity": perplexities[0], "perplexity_ratio": perplexities[0] / perplexities[1],
        "distinct_2": distinct(answers[0]), "distinct_ratio": distinct_ratio(*answers),
        "empty": sum(not text.strip() for text in texts[0]) / len(asked), "length": tokens / len(asked),
    }
    samples = [{"prompt": p, "response": a, "against": b, "score": x, "score_against": y}
               for p, a, b, x, y in zip(owners, *texts, *scores)]
    return report, samples


def outcome(ours: list[float], theirs: list[float], per_prompt: int, seed: int) -> dict:
    """What the scores of two policies say, as part of a report."""
    rates = win_rates(ours, theirs, per_prompt)
    low, high = bootstrap(rates, seed)
    return {"win_rate": sum(rates) / len(rates), "win_rate_low": low, "win_rate_high": high,
            "ties": sum(a == b for a, b in zip(ours, theirs)) / len(ours), "score": sum(ours) / len(ours),
            "score_against": sum(theirs) / len(ours)}


@torch.no_grad()
def mean_logprob(backbone: Backbone, role: str | None, prompts: list[list[int]], responses: list[list[int]], batch: int,
                 on_microbatch: Callable[[], None] = noop, temperature: float = 1.0) -> float:
    """Mean log-probability of the responses' tokens under `role`, in nats per token, weighted by tokens."""
    total = 0.0
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]) + len(responses[i]))
    with backbone.use(role):
        for part in micro_batches(order, batch):
            ids = pad_right([prompts[i] + responses[i] for i in part], backbone.pad_id, backbone.device)
            where = response_positions([len(prompts[i]) for i in part], [len(responses[i]) for i in part], ids.device)
            total += token_logprobs(backbone, ids, *where, temperature).double().sum().item()
            on_microbatch()
    return total / sum(map(len, responses))


def win_rates(ours: list[float], theirs: list[float], per_prompt: int) -> list[float]:
    """Share of wins per prompt, ties half; rows of one prompt stand together."""
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(ours, theirs)]
    return [sum(wins[i:i + per_prompt]) / per_prompt for i in range(0, len(wins), per_prompt)]


def bootstrap(values: list[float], seed: int, draws: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling `values` (one per prompt)."""
    rng = random.Random(f"{seed} bootstrap")
    means = sorted(sum(rng.choices(values, k=len(values))) / len(values) for _ in range(draws))
    return means[int(0.025 * draws)], means[int(0.975 * draws) - 1]


