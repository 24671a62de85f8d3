"""The scales of groups of features, against the evidence computed from its definition in the space of the weights."""

import math

import pytest
import torch

from rlhf_engine.teach.features.evidence import (
    OTHERS,
    WORDS,
    ScalePrior,
    compare_minds,
    find_scales,
    newest,
    search_scales,
    weigh_groups,
)
from rlhf_engine.teach.likelihood import ResponseModel, log_likelihood
from rlhf_engine.teach.reward_fit import PRIOR, FeatureGroup, VoteGroup, fit_sparse, span

GROUPS = [slice(0, 3), slice(3, 5), slice(5, 9)]
PRIORS = [ScalePrior(1.0, 1.5), ScalePrior(-1.0, 1.5), ScalePrior(-1.0, 1.5)]


def votes_of(truth: torch.Tensor, count: int, seed: int = 0) -> list[VoteGroup]:
    """Best-of-four choices and ties of two, by a person for whom a response is worth `features @ truth`."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(4, count, len(truth), generator=generator)
    order = (features @ truth).argsort(0, descending=True)
    chosen = features.gather(0, order[..., None].expand_as(features))
    ties = torch.randn(1, 2, len(truth), generator=generator).expand(2, 2, len(truth))
    return [VoteGroup("ranking", (1, 2, 2, 2), chosen, torch.ones(count, 1)),
            VoteGroup("comparison", "tie", ties + 0.1 * torch.randn(ties.shape, generator=generator), torch.ones(2, 1))]


def log_posterior(votes: list[VoteGroup], logs: torch.Tensor, curvature: torch.Tensor | None = None) -> tuple[float, torch.Tensor]:
    """log p(votes | scales) by Laplace's approximation over the weights, plus the log-prior of the scales.

    With the curvature of the votes' log-likelihood at its peak; or with a given one, as the updates of the scales take it.
    """
    variance = torch.cat([logs[k].exp().expand(part.stop - part.start) for k, part in enumerate(GROUPS)]).double()
    model = ResponseModel().double().requires_grad_(False)

    def loss(weights: torch.Tensor) -> torch.Tensor:
        total = weights.sum() * 0
        for each in votes:
            total = total - log_likelihood(each.kind, each.value, each.features.double() @ weights, model).sum()
        return total

    def cost(weights: torch.Tensor) -> torch.Tensor:
        return loss(weights) + 0.5 * (weights**2 / variance).sum()
    weights = torch.zeros(9, dtype=torch.double)
    for _ in range(12):
        slope = torch.autograd.functional.jacobian(cost, weights)
        weights = weights - torch.linalg.solve(torch.autograd.functional.hessian(cost, weights), slope)
    if curvature is None:
        curvature = torch.autograd.functional.hessian(loss, weights)
    root = variance.sqrt()
    evidence = -cost(weights) - 0.5 * torch.logdet(torch.eye(9) + root[:, None] * curvature * root)
    prior = sum(-0.5 * ((log - prior.mean) / prior.spread) ** 2 for log, prior in zip(logs.tolist(), PRIORS))
    return evidence.item() + prior, curvature


def test_the_scales_are_the_most_probable_ones():
    """Computed anew over the weights instead of the responses."""
    votes = votes_of(torch.tensor([0.0, 0.0, 0.0, 2.0, -2.0, 0.3, 0.0, 0.0, 0.0]), 30)
    logs = 2 * find_scales(votes, GROUPS, PRIORS).log()
    best, curvature = log_posterior(votes, logs)
    for k in range(3):
        for step in (-0.3, 0.3):
            moved = logs.clone()
            moved[k] += step
            assert log_posterior(votes, moved, curvature)[0] < best


def test_groups_that_explain_the_votes_gain_and_the_others_fade():
    few = find_scales(votes_of(torch.tensor([0.0] * 3 + [3.0, 0.0] + [0.0] * 4), 40), GROUPS, PRIORS)
    usual = torch.tensor([prior.mean for prior in PRIORS]).mul(0.5).exp()
    assert few[1] > 2 * usual[1] and few[0] < usual[0] and few[2] < usual[2]


def test_a_shape_is_found_beside_hundreds_of_words():
    """Forty choices by one of two curves, beside 400 words of which none matters."""
    generator = torch.Generator().manual_seed(3)

    def texts(*count: int) -> torch.Tensor:
        return torch.cat([torch.randn(*count, 400, generator=generator) / 20, torch.randn(*count, 4, generator=generator) / 2], -1)
    truth = torch.zeros(404)
    truth[401] = 3.0
    features = texts(4, 40)
    order = (features @ truth).argsort(0, descending=True)
    votes = [VoteGroup("ranking", (1, 2, 2, 2), features.gather(0, order[..., None].expand_as(features)), torch.ones(40, 2))]
    groups = {"words": slice(0, 400), "length": slice(400, 402), "speech": slice(402, 404), "none": slice(404, 404)}
    parts = weigh_groups(votes, groups, ["words"])
    assert [part.columns for part in parts] == [groups["words"], groups["length"], groups["speech"]]
    assert [part.sparse for part in parts] == [True, False, False]
    assert parts[1].scale > 3 * math.exp(OTHERS.mean / 2) * PRIOR**0.5 and parts[0].scale < math.exp(WORDS.mean / 2) * PRIOR**0.5
    fresh = texts(500)

    def agreement(weights: torch.Tensor) -> float:
        return torch.corrcoef(torch.stack([fresh @ weights.mean(0), fresh @ truth]))[0, 1].item()
    assert agreement(fit_sparse(votes, 2, parts)[0]) > 0.95


def test_of_very_many_votes_the_newest_of_each_kind_decide():
    votes = votes_of(torch.randn(9), 300)
    kept = newest(votes)
    assert sum(each.features.shape[0] * each.features.shape[1] for each in kept) <= 400 and len(kept) == 2
    assert torch.equal(kept[0].features[:, -1], votes[0].features[:, -1])
    assert find_scales(votes, GROUPS, PRIORS).isfinite().all()


@pytest.mark.parametrize("kind, value, count", [("thumb", "up", 1), ("score", 6, 1), ("edit", "text", 2), ("comparison", "both_bad", 2)])
def test_every_kind_of_feedback_has_a_say(kind, value, count):
    features = torch.zeros(count, 12, 9)
    features[-1, :, 3] = 2.0
    scales = find_scales([VoteGroup(kind, value, features, torch.ones(12, 1))], GROUPS, PRIORS)
    assert scales.isfinite().all()


def test_the_evidence_is_that_of_the_weights():
    """With the curvature at the peak, computed over the weights."""
    votes = votes_of(torch.tensor([0.0, 0.0, 0.0, 2.0, -2.0, 0.3, 0.0, 0.0, 0.0]), 30)
    logs, found = search_scales(votes, GROUPS, PRIORS)
    assert found == pytest.approx(log_posterior(votes, logs)[0], abs=1e-3)


def middle_votes(low: float, high: float, count: int, sign: float = 1.0) -> list[VoteGroup]:
    """Choices of one of four lengths between `low` and `high`, the nearest to 0.5 or the farthest from it; and eight words that do not
    matter."""
    generator = torch.Generator().manual_seed(int(10 * low))
    lengths = low + (high - low) * torch.rand(4, count, 1, generator=generator)
    words = torch.randn(4, count, 8, generator=generator) / 8**0.5
    features = torch.cat([words, 2 * lengths - 1, 4 * (lengths - 0.5) ** 2], -1)
    order = (sign * (lengths - 0.5).abs()).argsort(0)
    return [VoteGroup("ranking", (1, 2, 2, 2), features.gather(0, order.expand_as(features)), torch.ones(count, 1))]


def test_somebody_who_likes_a_middle_has_one_mind_and_who_turns_has_two():
    """Longer is better at first, then shorter: not because of a change of mind, but because 0.5 is best."""
    groups = {"words": slice(0, 8), "length": slice(8, 10)}
    assert compare_minds(middle_votes(0.0, 0.5, 20), middle_votes(0.5, 1.0, 8), groups) not in ("opposite", "other")
    assert compare_minds(middle_votes(0.0, 1.0, 20), middle_votes(0.2, 1.0, 8, sign=-1.0), groups) == "opposite"


def yes_or_no_votes(count: int, wanted: float, seed: int, of: int = 0) -> list[VoteGroup]:
    """Votes of somebody who looks at one thing alone, which three of ten texts have (column `of`): with `wanted` 1 they like it, with -1
    they do not. Four texts that all have it, or all lack it, are a tie."""
    generator = torch.Generator().manual_seed(seed)
    rows: dict[tuple, list[torch.Tensor]] = {}
    for _ in range(count):
        has = (torch.rand(4, 2, generator=generator) < 0.3).float()
        words = torch.randn(4, 8, generator=generator) / 8**0.5
        score = wanted * has[:, of]
        order = score.argsort(descending=True, stable=True)
        ranks = tuple(1 if score[i] == score.max() else 2 for i in order)
        rows.setdefault(ranks, []).append(torch.cat([words, 2 * has - 0.6], 1)[order])
    return [VoteGroup("ranking", ranks, torch.stack(texts, 1), torch.ones(len(texts), 1)) for ranks, texts in rows.items()]


def test_the_opposite_is_told_from_something_else_though_many_votes_are_ties():
    """Eight votes do. Where the earlier votes say nothing, the opposite is no better than the same."""
    groups = {"words": slice(0, 8), "speech": slice(8, 9), "lists": slice(9, 10)}
    before = yes_or_no_votes(20, 1.0, seed=0)
    assert compare_minds(before, yes_or_no_votes(8, 1.0, seed=1), groups) == "same"
    assert compare_minds(before, yes_or_no_votes(8, -1.0, seed=1), groups) == "opposite"
    assert compare_minds(before, yes_or_no_votes(20, 1.0, seed=1, of=1), groups) == "other"
    ties = [VoteGroup("ranking", (1, 1, 1, 1), torch.cat([each.features for each in before], 1), torch.ones(20, 1))]
    assert compare_minds(ties, yes_or_no_votes(8, -1.0, seed=1), groups) != "opposite"


@pytest.mark.parametrize("count", [3, 30])
def test_parts_of_one_scale_are_the_plain_fit(count):
    """The shorter way to the most probable weights ends where the first version's does."""
    votes = votes_of(torch.randn(60, generator=torch.Generator().manual_seed(5)) / 4, count)
    plain, model, loss = fit_sparse(votes, 1)
    short, other, found = fit_sparse(votes, 1, [FeatureGroup(slice(0, 60))])
    torch.testing.assert_close(short, plain, atol=0.02, rtol=0.02)
    assert found == pytest.approx(loss, abs=0.02) and other.log_tie.item() == pytest.approx(model.log_tie.item(), abs=0.01)


def test_the_span_of_rows():
    rows = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    rows[4] = rows[0] - rows[1]
    basis = span(rows)
    assert basis.shape == (40, 4)
    torch.testing.assert_close(basis.T @ basis, torch.eye(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(rows @ basis @ basis.T, rows, atol=1e-4, rtol=0)
