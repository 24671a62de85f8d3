"""The likelihood of each kind of feedback: values by hand, sums over all outcomes, and simulated people."""

import itertools
import math
import random
from collections import Counter

import pytest
import torch

from rlhf_engine.teach.likelihood import (
    POINTS,
    ResponseModel,
    compared_loglik,
    log_likelihood,
    ranked_loglik,
    scored_loglik,
    thumb_loglik,
    was_predicted,
)

FOUR = [0.7, -1.2, 0.1, 2.3]
RANKINGS = list(itertools.permutations((1, 2, 3, 4)))
BEST_OF_FOUR = [tuple(1 if i == winner else 2 for i in range(4)) for winner in range(4)]
ANSWERS = [
    *(("comparison", value, 2) for value in ("left", "right", "tie", "both_bad")), ("comparison", "tie", 4), ("comparison", "both_bad", 4),
    *(("ranking", value, len(value)) for value in ((1, 2), (3, 1, 2), (1, 2, 2, 2), (4, 2, 1, 3), (1, 1, 3, 3), (2, 1, 1, 4), (1, 1, 1, 1))),
    ("thumb", "up", 1), ("thumb", "down", 1), *(("score", points, 1) for points in range(1, POINTS + 1)), ("edit", "a better text", 2),
]
"""(kind, value, number of scores), of all kinds."""


def close(a, b, atol=1e-5, rtol=1e-5):
    torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), atol=atol, rtol=rtol, check_dtype=False)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def scale(log_tie=-0.7, threshold=0.0, lowest_cut=-2.5, gaps=(1.0,) * (POINTS - 2)) -> ResponseModel:
    found = ResponseModel()
    with torch.no_grad():
        found.log_tie.fill_(log_tie)
        found.threshold.fill_(threshold)
        found.lowest_cut.fill_(lowest_cut)
        found.log_gaps.copy_(torch.tensor(gaps).log())
    return found


SKEWED = scale(log_tie=0.4, threshold=-0.6, lowest_cut=-1.7, gaps=(0.3, 1.5, 0.7, 0.2, 2.0))
CUTS = [-1.7, -1.4, 0.1, 0.8, 1.0, 3.0]
"""The cuts of SKEWED, by hand."""


def logp(kind, value, scores, of=SKEWED) -> float:
    """Log-probability for one member, as a number."""
    (found,) = log_likelihood(kind, value, torch.tensor(scores)[:, None], of)
    return found.item()


def p(*args, **kwargs) -> float:
    return math.exp(logp(*args, **kwargs))


# -- probabilities sum to 1 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("of", [ResponseModel(), SKEWED], ids=["start", "skewed"])
@pytest.mark.parametrize(("kind", "values", "scores"), [
    ("comparison", ("left", "right", "tie"), FOUR[:2]), ("comparison", ("left", "right", "tie"), [8.0, -9.0]),
    ("ranking", RANKINGS, FOUR), ("ranking", BEST_OF_FOUR, FOUR), ("ranking", [(1, 2), (2, 1)], FOUR[:2]),
    ("ranking", [r for r in itertools.product((1, 2, 3), repeat=4) if Counter(r) == {1: 1, 2: 1, 3: 2}], FOUR),  # the best two, in order
    ("thumb", ("up", "down"), FOUR[:1]), ("score", range(1, POINTS + 1), FOUR[:1]), ("score", range(1, POINTS + 1), [-6.0]),
])
def test_the_answers_a_person_can_give_have_probability_one_in_all(of, kind, values, scores):
    assert sum(p(kind, value, scores, of) for value in values) == pytest.approx(1, abs=1e-5)


# -- comparisons ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "right"), [(0.0, 0.0), (1.0, 0.0), (-0.3, 2.2), (5.0, -4.0)])
def test_davidson_by_hand(left, right):
    nu = math.exp(0.4)
    odds = {"left": math.exp(left), "right": math.exp(right), "tie": nu * math.sqrt(math.exp(left) * math.exp(right))}
    for value, share in odds.items():
        assert p("comparison", value, [left, right]) == pytest.approx(share / sum(odds.values()), rel=1e-4)


def test_a_fifth_of_equal_pairs_ties_at_first():
    for score in (-3.0, 0.0, 7.0):
        assert p("comparison", "tie", [score, score], ResponseModel()) == pytest.approx(0.2, abs=0.005)
        assert p("comparison", "left", [score, score], ResponseModel()) == pytest.approx(0.4, abs=0.005)
    assert p("comparison", "tie", [0.0, 0.0], scale(log_tie=math.log(2))) == pytest.approx(0.5)  # nu / (2 + nu)


def test_the_odds_of_left_to_right_are_those_of_bradley_and_terry_whatever_the_ties():
    for log_tie in (-5.0, 0.0, 2.0):
        of = scale(log_tie=log_tie)
        assert logp("comparison", "left", [1.0, 0.0], of) - logp("comparison", "right", [1.0, 0.0], of) == pytest.approx(1.0, abs=1e-5)


def test_a_tie_is_likeliest_between_equals_and_pulls_the_scores_together():
    assert p("comparison", "tie", [0.0, 0.0]) > p("comparison", "tie", [0.5, 0.0]) > p("comparison", "tie", [3.0, 0.0])
    scores = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(log_likelihood("comparison", "tie", scores, SKEWED), scores)
    assert gradient[0] < 0 < gradient[1]
    close(gradient.sum(), 0.0)


def test_both_bad_is_a_tie_and_a_thumb_down_for_each():
    nu, threshold = math.exp(0.4), -0.6
    tie = nu * math.exp(-0.25) / (math.exp(0.7) + math.exp(-1.2) + nu * math.exp(-0.25))
    assert p("comparison", "both_bad", FOUR[:2]) == pytest.approx(tie * sigmoid(threshold - 0.7) * sigmoid(threshold + 1.2), rel=1e-4)


def test_both_bad_of_more_than_two():
    """All tied (the mean over the pairs, so that one vote is one tie), and each thumb down."""
    def tie(a, b):
        middle = math.exp(0.4 + (a + b) / 2)
        return middle / (math.exp(a) + math.exp(b) + middle)
    for scores in (FOUR, FOUR[:3]):
        pairs = [math.log(tie(a, b)) for a, b in itertools.combinations(scores, 2)]
        tied = sum(pairs) / len(pairs)
        assert logp("comparison", "tie", scores) == pytest.approx(tied, abs=1e-4)
        assert logp("comparison", "both_bad", scores) == pytest.approx(tied + sum(math.log(sigmoid(-0.6 - s)) for s in scores), abs=1e-4)


# -- rankings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", RANKINGS)
def test_plackett_luce_by_hand(ranks):
    """The winner is drawn with its share of e^score, then the next one from the rest."""
    left, expected = sorted(zip(ranks, FOUR)), 1.0
    while left:
        expected *= math.exp(left[0][1]) / sum(math.exp(score) for _, score in left)
        left = left[1:]
    assert p("ranking", ranks, FOUR) == pytest.approx(expected, rel=1e-4)


def test_a_ranking_of_two_is_bradley_and_terry_and_a_comparison_where_ties_have_no_weight():
    never = scale(log_tie=-40.0)
    for ranks, value, difference in (((1, 2), "left", 1.9), ((2, 1), "right", -1.9)):
        assert p("ranking", ranks, FOUR[:2]) == pytest.approx(sigmoid(difference), rel=1e-4)
        assert logp("ranking", ranks, FOUR[:2]) == pytest.approx(logp("comparison", value, FOUR[:2], never), abs=1e-5)


@pytest.mark.parametrize("winner", range(4))
def test_best_of_four_is_a_choice_by_softmax_and_says_nothing_about_the_rest(winner):
    """That is also the sum over the six strict rankings in which it is first."""
    ranks = BEST_OF_FOUR[winner]
    expected = math.exp(FOUR[winner]) / sum(map(math.exp, FOUR))
    assert p("ranking", ranks, FOUR) == pytest.approx(expected, rel=1e-4)
    assert sum(p("ranking", full, FOUR) for full in RANKINGS if full[winner] == 1) == pytest.approx(expected, rel=1e-4)
    assert p("ranking", [4 if rank == 2 else 1 for rank in ranks], FOUR) == pytest.approx(expected, rel=1e-4)  # only the order of ranks counts


def test_the_best_two_in_order_are_the_sum_over_what_was_left_open():
    assert p("ranking", (2, 3, 3, 1), FOUR) == pytest.approx(p("ranking", (2, 3, 4, 1), FOUR) + p("ranking", (2, 4, 3, 1), FOUR), rel=1e-4)


def test_a_shared_better_rank_is_a_tie_of_each_two():
    """(1, 1, 3): each of the two first is chosen before the third, and they tie."""
    a, b, c = FOUR[:3]
    nu = math.exp(0.4)
    tie = nu * math.exp((a + b) / 2) / (math.exp(a) + math.exp(b) + nu * math.exp((a + b) / 2))
    assert logp("ranking", (1, 1, 3), [a, b, c]) == pytest.approx(math.log(sigmoid(a - c)) + math.log(sigmoid(b - c)) + math.log(tie), abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_equal_ranks_are_a_tie_of_all(count):
    for rank in (1, 2):
        assert logp("ranking", (rank,) * count, FOUR[:count]) == pytest.approx(logp("comparison", "tie", FOUR[:count]), abs=1e-6)


def test_ranks_may_be_a_list_or_a_tensor():
    scores = torch.tensor(FOUR)[:, None]
    close(ranked_loglik(scores, [3, 1, 2, 4], SKEWED), ranked_loglik(scores, (3, 1, 2, 4), SKEWED), atol=0, rtol=0)
    close(ranked_loglik(scores, [3, 1, 2, 4], SKEWED), ranked_loglik(scores, torch.tensor([3, 1, 2, 4]), SKEWED), atol=0, rtol=0)


# -- thumbs, edits, scores -----------------------------------------------------------------------------------------------


def test_thumbs_by_hand():
    for score in (-2.0, -0.6, 0.0, 3.0):
        assert p("thumb", "up", [score]) == pytest.approx(sigmoid(score + 0.6), rel=1e-5)
        assert p("thumb", "down", [score]) == pytest.approx(sigmoid(-score - 0.6), rel=1e-5)
    assert p("thumb", "up", [-0.6]) == pytest.approx(0.5)


def test_an_edit_is_a_win_of_the_persons_text_over_what_was_shown():
    for shown, own in ((0.0, 0.0), (1.5, -0.5), (-2.0, 1.0)):
        assert p("edit", "the person's own", [shown, own]) == pytest.approx(sigmoid(own - shown), rel=1e-5)
        assert p("edit", "the person's own", [shown, own]) == pytest.approx(p("ranking", (2, 1), [shown, own]), rel=1e-5)


def ordinal(points: int, score: float) -> float:
    """P(points): the difference of two sigmoids. Where both are near 1, of their mirror images."""
    def at_most(point, sign):
        return sigmoid(sign * (math.inf if point == POINTS else -math.inf if point == 0 else CUTS[point - 1] - score))
    return at_most(points, 1) - at_most(points - 1, 1) if score > 0 else at_most(points - 1, -1) - at_most(points, -1)


@pytest.mark.parametrize("points", range(1, POINTS + 1))
def test_scores_are_differences_of_sigmoids(points):
    close(SKEWED.cuts(), CUTS)
    for score in (-50.0, -20.0, -3.0, -1.5, 0.0, 0.4, 2.0, 9.0, 50.0):
        assert logp("score", points, [score]) == pytest.approx(math.log(ordinal(points, score)), rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("points", range(1, POINTS + 1))
def test_the_gradient_of_a_score_by_hand(points):
    """It is sigmoid(u) + sigmoid(l) - 1, for the cuts u above and l below the score, and never more than 1."""
    for score in (-1e4, -50.0, -1.5, 0.4, 9.0, 50.0, 1e4):
        at = torch.tensor([score], requires_grad=True)
        (gradient,) = torch.autograd.grad(scored_loglik(at, points, SKEWED), at)
        upper = 1.0 if points == POINTS else sigmoid(max(CUTS[points - 1] - score, -700))
        lower = 0.0 if points == 1 else sigmoid(max(CUTS[points - 2] - score, -700))
        close(gradient, [upper + lower - 1])


def test_better_responses_get_higher_scores():
    def mean(score):
        return sum(points * p("score", points, [score]) for points in range(1, POINTS + 1))
    means = [mean(score / 2) for score in range(-16, 17)]
    assert means == sorted(means) and means[0] < 1.01 and means[-1] > 6.9


def test_cuts_ascend_whatever_the_parameters():
    close(ResponseModel().cuts(), [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    generator = torch.Generator().manual_seed(0)
    for size in (1.0, 3.0, 30.0):
        for _ in range(50):
            of = ResponseModel()
            with torch.no_grad():
                of.lowest_cut.copy_(size * torch.randn((), generator=generator))
                of.log_gaps.copy_(size * torch.randn(POINTS - 2, generator=generator))
            gaps = of.cuts().diff()
            assert len(gaps) == POINTS - 2 and (gaps >= 0).all()  # as equal as fp32 makes them at most
            assert size > 1 or (gaps > 0).all()


@pytest.mark.parametrize("score", [-1.0, -2.5, 1e9, -1e9])
@pytest.mark.parametrize("log_gap", [0.0, -25.0])
def test_a_score_that_is_next_to_never_given_stays_possible(log_gap, score):
    """With cuts that are equal in fp32, and scores far from all cuts, the log and its gradients are finite."""
    of, at = ResponseModel(), torch.tensor([score], requires_grad=True)
    with torch.no_grad():
        of.log_gaps[2] = log_gap
    found = scored_loglik(at, 4, of)
    found.sum().backward()
    assert found.isfinite().all() and at.grad.isfinite().all() and of.log_gaps.grad.isfinite().all() and of.lowest_cut.grad.isfinite()
    if abs(score) < 10:  # cuts at -0.5: the density there times the gap, which is learned back as fast as any
        assert found.item() == pytest.approx(log_gap + math.log(sigmoid(-0.5 - score) * sigmoid(score + 0.5)) if log_gap else
                                             math.log(sigmoid(0.5 - score) - sigmoid(-0.5 - score)), abs=1e-4)
        assert log_gap == 0 or of.log_gaps.grad[2].item() == pytest.approx(1, abs=1e-4)


# -- all kinds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value", "count"), ANSWERS)
@pytest.mark.parametrize("size", [1.0, 50.0, 1e4])
def test_logs_and_gradients_are_finite_at_extreme_scores(kind, value, count, size):
    signs = torch.tensor(list(itertools.product((-size, 0.0, size), repeat=count))).T.contiguous().requires_grad_()  # [K, 3^K]
    of = ResponseModel()
    found = log_likelihood(kind, value, signs, of)
    assert found.dtype == torch.float32 and found.shape == signs.shape[1:] and found.isfinite().all() and (found <= 1e-6).all()
    found.sum().backward()
    assert signs.grad.isfinite().all() and signs.grad.abs().max() <= 2 * count
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in of.parameters())


@pytest.mark.parametrize(("kind", "value", "count"), ANSWERS)
def test_members_are_independent(kind, value, count):
    scores = torch.randn(count, 5, generator=torch.Generator().manual_seed(count)).requires_grad_()
    found = log_likelihood(kind, value, scores, SKEWED)
    assert found.shape == (5,)
    for m in range(5):
        close(found[m], log_likelihood(kind, value, scores[:, m:m + 1], SKEWED)[0], atol=1e-6)
    (gradient,) = torch.autograd.grad(found[2], scores)
    assert gradient[:, 2].any() and not gradient[:, [0, 1, 3, 4]].any()


@pytest.mark.parametrize(("kind", "value", "count"), [a for a in ANSWERS if a[1] != "both_bad"])
def test_only_differences_count(kind, value, count):
    """Differences between scores count; for thumbs and scores, those to the threshold and to the cuts."""
    scores, here = FOUR[:count], scale(0.4, -0.6, -1.7)
    moved, there = [score + 3.25 for score in scores], scale(0.4, -0.6 + 3.25, -1.7 + 3.25)
    assert logp(kind, value, moved, there) == pytest.approx(logp(kind, value, scores, here), abs=1e-4)
    assert (logp(kind, value, moved, here) == pytest.approx(logp(kind, value, scores, here), abs=1e-4)) == (kind not in ("thumb", "score"))


def test_swapping_the_sides_swaps_the_answer():
    for value, mirrored in (("left", "right"), ("right", "left"), ("tie", "tie"), ("both_bad", "both_bad")):
        assert logp("comparison", value, [0.7, -1.2]) == pytest.approx(logp("comparison", mirrored, [-1.2, 0.7]), abs=1e-6)


@pytest.mark.parametrize("ranks", [(4, 2, 1, 3), (1, 2, 2, 2), (1, 1, 3, 3), (2, 1, 1, 4), (1, 1, 1, 1)])
def test_the_order_of_the_responses_does_not_matter(ranks):
    expected = logp("ranking", ranks, FOUR)
    for order in itertools.permutations(range(4)):
        assert logp("ranking", [ranks[i] for i in order], [FOUR[i] for i in order]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["retract", "", "Comparison", "vote"])
def test_an_unknown_kind_is_an_error(kind):
    with pytest.raises(ValueError, match=repr(kind)):
        log_likelihood(kind, "left", torch.zeros(2, 1), ResponseModel())


def test_the_parts_are_what_the_whole_is_made_of():
    scores = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    close(log_likelihood("comparison", "right", scores, SKEWED), compared_loglik(scores[0], scores[1], "right", SKEWED))
    close(log_likelihood("thumb", "down", scores[:1], SKEWED), thumb_loglik(scores[0], False, SKEWED))
    close(log_likelihood("score", 5, scores[:1], SKEWED), scored_loglik(scores[0], 5, SKEWED))


# -- learning ------------------------------------------------------------------------------------------------------------

TRUE = [-1.4, -0.3, 0.5, 1.2]
PAIRS = list(itertools.combinations(range(4), 2))


def gumbel(rng):
    return -math.log(rng.expovariate(1.0))


def logistic(rng):
    return gumbel(rng) - gumbel(rng)


def simulated(kind: str, rng: random.Random, n: int) -> Counter:
    """(kind, value, indices into TRUE) of n answers by a person who feels TRUE with noise. The only likelihood in it is Davidson's."""
    answers = Counter()
    for turn in range(n):
        felt, (i, j) = [score + gumbel(rng) for score in TRUE], PAIRS[turn % 6]
        order, item = sorted(range(4), key=lambda k: -felt[k]), turn % 4
        if kind == "comparison":
            a, b = math.exp(TRUE[i]), math.exp(TRUE[j])
            (value,) = rng.choices(("left", "right", "tie"), (a, b, math.exp(0.4) * math.sqrt(a * b)))
            answers[kind, value, (i, j)] += 1
        elif kind == "ranking":
            answers[kind, tuple(order.index(k) + 1 for k in range(4)), (0, 1, 2, 3)] += 1
        elif kind == "best of four":
            answers["ranking", tuple(1 if k == order[0] else 2 for k in range(4)), (0, 1, 2, 3)] += 1
        elif kind == "thumb":
            answers[kind, "up" if TRUE[item] + logistic(rng) > -0.6 else "down", (item,)] += 1
        elif kind == "score":
            feeling = TRUE[item] + logistic(rng)
            answers[kind, 1 + sum(cut < feeling for cut in CUTS), (item,)] += 1
        else:
            answers[kind, "text", (i, j) if felt[j] > felt[i] else (j, i)] += 1
    return answers


def fitted(answers: Counter) -> tuple[torch.Tensor, ResponseModel]:
    """Scores [4] and response model of maximal likelihood."""
    scores, of = torch.zeros(4, 1, dtype=torch.double, requires_grad=True), ResponseModel().double()
    optimizer = torch.optim.LBFGS([scores, *of.parameters()], max_iter=100, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        found = -sum(n * log_likelihood(kind, value, scores[list(where)], of)[0] for (kind, value, where), n in answers.items())
        found = found / answers.total()
        found.backward()
        return found
    optimizer.step(loss)
    return scores.detach()[:, 0], of


@pytest.mark.parametrize("kind", ["comparison", "ranking", "best of four", "thumb", "score", "edit"])
def test_what_a_person_feels_is_recovered_from_the_answers(kind):
    found, of = fitted(simulated(kind, random.Random(1), 6000))
    assert found.tolist() == sorted(found.tolist())
    close(found - found.mean(), torch.tensor(TRUE) - sum(TRUE) / 4, atol=0.15, rtol=0)
    if kind == "comparison":
        close(of.log_tie, 0.4, atol=0.15, rtol=0)
    if kind == "thumb":
        close(of.threshold - found.mean(), -0.6 - sum(TRUE) / 4, atol=0.15, rtol=0)
    if kind == "score":
        close(of.cuts() - found.mean(), torch.tensor(CUTS) - sum(TRUE) / 4, atol=0.25, rtol=0)


def test_kinds_that_are_mixed_teach_one_reward():
    answers = Counter()
    for i, kind in enumerate(["comparison", "ranking", "best of four", "thumb", "score", "edit"]):
        answers += simulated(kind, random.Random(i), 1000)
    found, of = fitted(answers)
    close(found - found.mean(), torch.tensor(TRUE) - sum(TRUE) / 4, atol=0.15, rtol=0)
    close(of.threshold - found.mean(), -0.6 - sum(TRUE) / 4, atol=0.25, rtol=0)


def test_both_bad_lowers_both_and_raises_the_threshold():
    scores, of = torch.tensor([[0.5], [0.2]], requires_grad=True), ResponseModel()
    log_likelihood("comparison", "both_bad", scores, of).sum().backward()
    assert (scores.grad < 0).all() and of.threshold.grad > 0 and scores.grad[0] < scores.grad[1]


# -- guesses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "value", "scores", "expected"), [
    ("comparison", "left", [1.0, 0.0], 1.0), ("comparison", "left", [0.0, 1.0], 0.0), ("comparison", "left", [2.0, 2.0], 0.5),
    ("comparison", "right", [1.0, 0.0], 0.0), ("comparison", "right", [0.0, 1.0], 1.0), ("comparison", "right", [2.0, 2.0], 0.5),
    ("comparison", "tie", [1.0, 1.0], None), ("comparison", "both_bad", [-9.0, -9.0], None), ("comparison", "tie", [0.0] * 4, None),
    ("ranking", (2, 1, 2, 2), [0.0, 3.0, 1.0, 2.0], 1.0), ("ranking", (2, 1, 2, 2), [0.0, 1.0, 3.0, -2.0], 0.0),
    ("ranking", (2, 1, 2, 2), [0.0, 3.0, 3.0, 3.0], 0.5), ("ranking", (1, 2, 2, 2), [0.0] * 4, 0.5),
    ("ranking", (3, 1, 2), [2.0, 3.0, 1.0], 1.0), ("ranking", (3, 1, 2), [4.0, 3.0, 1.0], 0.0),  # it is the winner that is guessed
    ("ranking", (1, 1, 3), [-5.0, 2.0, 1.0], 1.0), ("ranking", (1, 1, 3), [0.0, 0.5, 1.0], 0.0), ("ranking", (1, 1, 3), [0.0, 1.0, 1.0], 0.5),
    ("ranking", (2, 3, 3), [1.0, 0.0, 0.0], 1.0), ("ranking", (1, 1, 1), [1.0, 2.0, 3.0], None), ("ranking", (2, 2), [1.0, 2.0], None),
    ("edit", "own", [0.0, 1.0], 1.0), ("edit", "own", [1.0, 0.0], 0.0), ("edit", "own", [1.0, 1.0], 0.5),
    ("thumb", "up", [0.0], 0.0), ("thumb", "up", [0.5], 0.5), ("thumb", "up", [1.0], 1.0),
    ("thumb", "down", [0.0], 1.0), ("thumb", "down", [0.5], 0.5), ("thumb", "down", [1.0], 0.0),
    *(("score", points, [1.0], None) for points in range(1, POINTS + 1)), ("retract", "some-id", [], None),
])
def test_guesses(kind, value, scores, expected):
    """The threshold is at 0.5."""
    found = was_predicted(kind, value, torch.tensor(scores), scale(threshold=0.5))
    assert found == expected and type(found) is type(expected)


def test_a_guess_is_right_where_the_answer_is_likelier_than_its_opposite():
    generator, of = torch.Generator().manual_seed(0), SKEWED
    for scores in torch.randn(40, 2, generator=generator):
        pair = scores.tolist()
        assert was_predicted("comparison", "left", scores, of) == (logp("comparison", "left", pair) > logp("comparison", "right", pair))
        assert was_predicted("thumb", "up", scores[:1], of) == (p("thumb", "up", pair[:1]) > 0.5)
        assert was_predicted("edit", "own", scores, of) == (p("edit", "own", pair) > 0.5)
    for scores in torch.randn(10, 4, generator=generator):
        chances = [p("ranking", ranks, scores.tolist()) for ranks in BEST_OF_FOUR]
        assert [was_predicted("ranking", ranks, scores, of) for ranks in BEST_OF_FOUR] == [chance == max(chances) for chance in chances]
