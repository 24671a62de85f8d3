"""Strengths against choix, scipy and statsmodels, and what must hold whatever the votes are."""

import math
import random

import choix
import numpy as np
import pytest
import statsmodels.api as sm
from scipy.optimize import minimize

from rlhf_engine.evaluation.leaderboard.bradley_terry import Fit, fit
from rlhf_engine.evaluation.leaderboard.votes import Vote
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import duel, duels

LEVELS = np.array([-0.9, -0.2, 0.0, 0.4, 0.7])


def fit_votes(votes: list[Vote], groups=None) -> tuple[Fit, list[str]]:
    names = sorted({name for vote in votes for name in vote.checkpoints})
    numbers: dict[str, int] = {}
    clusters = [numbers.setdefault(vote.prompt, len(numbers)) for vote in votes]
    return fit(votes, names, clusters, groups or [0] * len(names)), names


def difference(fitted: Fit, i: int = 0, j: int = 1) -> tuple[float, float]:
    contrast = np.zeros(len(fitted.strengths))
    contrast[i], contrast[j] = 1, -1
    return float(contrast @ fitted.strengths), fitted.half_width(contrast)


def random_votes(seed: int, count: int = 300, ties: float = 0.0) -> list[Vote]:
    rng, votes = np.random.default_rng(seed), []
    for k in range(count):
        i, j = rng.choice(5, 2, replace=False)
        won = rng.random() < 1 / (1 + math.exp(LEVELS[j] - LEVELS[i]))
        votes.append(duel(str(i), str(j), "tie" if rng.random() < ties else "win" if won else "loss", k))
    return votes


def random_rankings(seed: int, shown: int, count: int = 200) -> list[Vote]:
    rng, votes = np.random.default_rng(seed), []
    for k in range(count):
        members = rng.choice(5, shown, replace=False)
        order = np.argsort(-(LEVELS[members] + rng.gumbel(size=shown)))
        ranks = np.empty(shown, dtype=int)
        ranks[order] = range(1, shown + 1)
        votes.append(Vote(tuple(map(str, members)), tuple(ranks.tolist()), str(k), "v"))
    return votes


@pytest.mark.parametrize(("wins", "losses", "ties"), [(30, 10, 0), (30, 10, 50), (1, 1, 0), (7, 90, 3)])
def test_two_checkpoints_differ_by_the_logit_of_the_win_share(wins, losses, ties):
    """Whatever the ties: that is Davidson's, and the standard error without ties is the logit's."""
    fitted, _ = fit_votes(duels("a", "b", wins, losses, ties))
    got, half = difference(fitted)
    assert got == pytest.approx(math.log(wins / losses))
    if not ties and wins > 1:
        logit = sm.Logit(np.r_[np.ones(wins), np.zeros(losses)], np.ones(wins + losses)).fit(disp=0)
        assert half == pytest.approx(1.96 * logit.bse[0], rel=0.05)
    if ties:  # of two equal checkpoints, nu / (2 + nu) tie; here by the share of ties, as hand values
        p = (wins / (wins + losses + ties), losses / (wins + losses + ties))
        assert math.exp(fitted.ties[2]) == pytest.approx(ties / (wins + losses + ties) / math.sqrt(p[0] * p[1]))


def test_pairs_are_choix():
    votes = random_votes(0)
    fitted, names = fit_votes(votes)
    ordered = [tuple(int(vote.checkpoints[k]) for k in np.argsort(vote.ranks)) for vote in votes]
    assert fitted.strengths == pytest.approx(choix.ilsr_pairwise(5, ordered), abs=1e-6)


@pytest.mark.parametrize("shown", [3, 5])
def test_rankings_are_choix(shown):
    votes = random_rankings(1, shown)
    fitted, _ = fit_votes(votes)
    ordered = [tuple(int(vote.checkpoints[k]) for k in np.argsort(vote.ranks)) for vote in votes]
    assert fitted.strengths == pytest.approx(choix.ilsr_rankings(5, ordered), abs=1e-6)


def test_the_best_of_four_is_choix():
    """1, 2, 2, 2 says nothing about the three."""
    votes = [Vote(vote.checkpoints, tuple(1 if rank == 1 else 2 for rank in vote.ranks), vote.prompt, "v")
             for vote in random_rankings(2, 4)]
    fitted, _ = fit_votes(votes)
    best = [(int(vote.checkpoints[vote.ranks.index(1)]), [int(name) for name in vote.checkpoints]) for vote in votes]
    theirs = choix.ilsr_top1(5, [(one, tuple(k for k in each if k != one)) for one, each in best])
    assert fitted.strengths == pytest.approx(theirs, abs=1e-6)


def test_ties_and_mixed_kinds_are_the_maximum_of_the_likelihood():
    """The likelihood, written down vote by vote, and a method that needs no derivatives."""
    votes = random_votes(3, 120, ties=0.3)
    for i, vote in enumerate(random_rankings(4, 3, 60)):
        votes.append(Vote(vote.checkpoints, (1, 1, 1) if i % 4 == 0 else vote.ranks, f"r{i}", "v"))
    votes.append(Vote(("0", "1", "2", "3"), (1, 1, 2, 3), "x", "v"))

    def loss(params: np.ndarray) -> float:
        worth, nu, total = np.exp(np.r_[params[:4], -params[:4].sum()]), dict(zip((2, 3), np.exp(params[4:]))), 0.0
        for vote in votes:
            s, size = worth[[int(name) for name in vote.checkpoints]], len(vote.ranks)
            all_tie = nu[size] * s.prod()**(1 / size) if size in nu else 0.0
            if vote.is_tie:
                total += math.log(all_tie / (s.sum() + all_tie))
                continue
            for i, rank in enumerate(vote.ranks):
                rivals = [s[j] for j, other in enumerate(vote.ranks) if other > rank]
                if rivals:
                    total += math.log(s[i] / (s[i] + sum(rivals) + (all_tie if len(rivals) == size - 1 else 0.0)))
        return -total

    best = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    fitted, _ = fit_votes(votes)
    assert fitted.strengths[:4] == pytest.approx(best.x[:4], abs=1e-4)
    assert [fitted.ties[2], fitted.ties[3]] == pytest.approx(best.x[4:], abs=1e-4)


def test_the_sandwich_is_statsmodels():
    """A logit on differences of dummies, with covariance by cluster."""
    votes = [Vote(vote.checkpoints, vote.ranks, str(int(vote.prompt) % 40), "v") for vote in random_votes(5)]
    fitted, _ = fit_votes(votes)
    design = np.zeros((len(votes), 5))
    for row, vote in zip(design, votes):
        row[int(vote.checkpoints[0])] += 1
        row[int(vote.checkpoints[1])] -= 1
    won, owners = np.array([float(vote.ranks == (1, 2)) for vote in votes]), [int(vote.prompt) for vote in votes]
    theirs = sm.Logit(won, design[:, 1:]).fit(disp=0, cov_type="cluster", cov_kwds={"groups": owners, "use_correction": False})
    contrast = np.array([-1.0, 1, 0, 0, 0])
    assert contrast @ fitted.strengths == pytest.approx(theirs.params[0], abs=1e-6)
    assert contrast @ fitted.robust @ contrast == pytest.approx(theirs.bse[0]**2 * 40 / 39, rel=1e-5)
    plain = sm.Logit(won, design[:, 1:]).fit(disp=0)
    assert contrast @ fitted.model @ contrast == pytest.approx(plain.bse[0]**2, rel=1e-5)


def test_order_and_names_do_not_matter():
    votes = random_votes(6, ties=0.2) + random_rankings(7, 3, 50)
    fitted, _ = fit_votes(votes)
    shuffled = random.Random(0).sample(votes, len(votes))
    again, _ = fit_votes(shuffled)
    assert again.strengths == pytest.approx(fitted.strengths, abs=1e-9)
    assert difference(again)[1] == pytest.approx(difference(fitted)[1])
    renamed = [Vote(tuple(f"{9 - int(name)}" for name in vote.checkpoints), vote.ranks, vote.prompt, "v") for vote in votes]
    assert fit_votes(renamed)[0].strengths == pytest.approx(fitted.strengths[::-1], abs=1e-9)
    turned = [Vote(vote.checkpoints[::-1], vote.ranks[::-1], vote.prompt, "v") for vote in votes]
    assert fit_votes(turned)[0].strengths == pytest.approx(fitted.strengths, abs=1e-9)


def test_more_votes_narrow_an_interval_unless_they_are_on_the_same_prompts():
    votes = random_votes(8, ties=0.2)
    half = difference(fit_votes(votes)[0])[1]
    other = [Vote(vote.checkpoints, vote.ranks, f"again {vote.prompt}", "v") for vote in votes]
    assert difference(fit_votes(votes + other)[0])[1] == pytest.approx(half / math.sqrt(2), rel=0.02)
    assert difference(fit_votes(votes + votes)[0])[1] == pytest.approx(half, rel=0.02)


@pytest.mark.parametrize("count", [1, 5, 100, 10_000])
def test_who_won_all_has_a_finite_strength_and_a_wide_interval(count):
    fitted, _ = fit_votes(duels("a", "b", count, 0))
    got, half = difference(fitted)
    assert fitted.prior.all()
    # The lost votes that are expected, and the half vote of the prior against one of strength 0, hold the balance.
    assert count / (1 + math.exp(got)) == pytest.approx(1 / (1 + math.exp(-got / 2)) - 0.5, rel=1e-6)
    assert half > 1.9


def test_ties_alone_are_equal_strengths_and_no_certainty():
    fitted, _ = fit_votes(duels("a", "b", 0, 0, 100))
    got, half = difference(fitted)
    assert got == pytest.approx(0, abs=1e-6) and half > 1 and fitted.prior.all()
    assert math.isfinite(fitted.ties[2])


def test_wins_and_ties_without_a_loss_set_no_limit_either():
    fitted, _ = fit_votes(duels("a", "b", 10, 0, 5))
    got, half = difference(fitted)
    assert fitted.prior.all() and 1 < got < 6 and half > 1


def test_a_block_that_lost_to_none_of_another_needs_the_prior():
    votes = duels("a", "b", 5, 5) + duels("c", "d", 5, 5, start=10) + duels("a", "c", 3, 0, start=20)
    fitted, _ = fit_votes(votes)
    assert fitted.prior.all() and np.isfinite(fitted.strengths).all()
    assert fitted.strengths[:2].min() > fitted.strengths[2:].max()
    closed, _ = fit_votes([*votes, duel("d", "b", "win", 99)])
    assert not closed.prior.any()


def test_a_single_tie_that_connects_two_groups_is_no_certainty():
    """The fit meets the tie exactly, so the sandwich alone would have no width."""
    votes = duels("a", "b", 20, 20, 10) + duels("c", "d", 20, 20, 10, start=100) + [duel("a", "c", "tie", 999)]
    fitted, _ = fit_votes(votes)
    assert difference(fitted, 0, 2)[1] > 1


def test_one_prompt_alone_has_the_interval_of_independent_votes_and_few_degrees_of_freedom():
    fitted, _ = fit_votes([duel("a", "b", "win" if i % 3 else "loss", "same") for i in range(60)])
    assert difference(fitted)[1] > 2


def test_the_same_checkpoint_twice_in_a_vote():
    votes = duels("a", "b", 6, 3) + [Vote(("a", "a", "b"), (2, 1, 2), "x", "v"), Vote(("a", "a", "b"), (2, 2, 1), "y", "v")]
    fitted, _ = fit_votes(votes)
    worth = np.exp(fitted.strengths)
    # The score of a: its wins are those expected.
    p = worth[0] / worth.sum()
    p_two = 2 * worth[0] / (2 * worth[0] + worth[1])
    assert 9 * p + 2 * p_two == pytest.approx(6 + 1, abs=1e-6)
