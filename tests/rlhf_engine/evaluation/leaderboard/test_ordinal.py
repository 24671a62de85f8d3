"""The ordinal model against statsmodels and a likelihood written down by hand."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from statsmodels.miscmodels.ordinal_model import OrderedModel

from rlhf_engine.evaluation.leaderboard.ordinal import SHRINKAGE, fit_ordinal, level_chances

CUTS = np.array([-2.0, -1.0, 0.0, 0.5, 1.2, 2.2])
EFFECTS = np.array([-0.6, 0.0, 0.6])


def scores(seed: int, count: int, shifts: tuple[float, ...] = (0.0,)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    checkpoints, raters = rng.integers(0, 3, count), rng.integers(0, len(shifts), count)
    values = EFFECTS[checkpoints] + np.array(shifts)[raters] + rng.logistic(size=count)
    return checkpoints, raters, (values[:, None] > CUTS).sum(1)


def test_one_rater_is_the_model_of_statsmodels():
    checkpoints, raters, levels = scores(0, 400)
    fitted = fit_ordinal(checkpoints, raters, levels, np.arange(400))
    design = np.eye(3)[checkpoints][:, 1:]
    theirs = OrderedModel(levels, design, distr="logit").fit(method="bfgs", disp=False, gtol=1e-8)
    assert fitted.effects[1:] - fitted.effects[0] == pytest.approx(theirs.params[:2], abs=1e-4)
    contrast = np.array([-1.0, 1, 0])
    assert math.sqrt(contrast @ fitted.model @ contrast) == pytest.approx(theirs.bse[0], rel=1e-3)
    cuts = fitted.rater_thresholds[0] - fitted.effects[0]
    assert cuts == pytest.approx(np.r_[theirs.params[2], theirs.params[2] + np.exp(theirs.params[3:]).cumsum()], abs=1e-3)
    assert fitted.clusters == 400 and not fitted.prior.any()


def test_the_sandwich_is_that_of_two_binary_halves():
    """Two levels, one rater: a logit, whose robust covariance statsmodels knows."""
    import statsmodels.api as sm
    checkpoints, raters, levels = scores(1, 300)
    levels, prompts = (levels > 2).astype(int), np.arange(300) // 3
    fitted = fit_ordinal(checkpoints, raters, levels, prompts)
    theirs = sm.Logit(levels, np.eye(3)[checkpoints]).fit(disp=0, cov_type="cluster", cov_kwds={"groups": prompts, "use_correction": False})
    contrast = np.array([-1.0, 0, 1])
    assert contrast @ fitted.effects == pytest.approx(contrast @ theirs.params, abs=1e-6)
    assert contrast @ fitted.robust @ contrast == pytest.approx(contrast @ theirs.cov_params() @ contrast * 100 / 99, rel=1e-5)


def test_thresholds_per_rater_are_the_maximum_of_the_penalised_likelihood():
    checkpoints, raters, levels = scores(2, 150, (-0.8, 0.9))
    levels = np.digitize(levels, [2, 4])  # three levels
    pseudo = SHRINKAGE * level_chances(fit_ordinal(checkpoints, raters, levels, np.arange(150)).thresholds, 0.0)

    def loss(params: np.ndarray) -> float:
        effects, cuts = params[:3], np.stack([params[3:5], params[3:5] + np.exp(params[5:7])], axis=1)
        total = effects.sum()**2 / 2  # the gauge
        for c, r, level in zip(checkpoints, raters, levels):
            total -= math.log(level_chances(cuts[r], effects[c])[level])
        for r in range(2):
            total -= pseudo @ np.log(level_chances(cuts[r], 0.0))
        return total

    best = minimize(loss, np.array([0, 0, 0, -1, 0, 0.5, 0.5]), method="BFGS")
    fitted = fit_ordinal(checkpoints, raters, levels, np.arange(150))
    assert fitted.effects == pytest.approx(best.x[:3] - best.x[:3].mean(), abs=1e-3)


def test_raters_who_differ_do_not_make_a_checkpoint_better():
    """A mild rater scores mostly one checkpoint; the mean score misleads, the effect does not."""
    rng = np.random.default_rng(3)
    raters = rng.integers(0, 2, 800)
    checkpoints = np.where(rng.random(800) < 0.8, raters, 1 - raters)
    values = np.array([-1.5, 1.5])[raters] + rng.logistic(size=800)
    levels = (values[:, None] > CUTS).sum(1)
    assert levels[checkpoints == 1].mean() - levels[checkpoints == 0].mean() > 1
    fitted = fit_ordinal(checkpoints, raters, levels, np.arange(800))
    assert abs(fitted.effects[1] - fitted.effects[0]) < 0.5
    assert fitted.rater_thresholds[0].mean() - fitted.rater_thresholds[1].mean() == pytest.approx(3, abs=0.5)


def test_few_votes_of_a_rater_leave_the_common_thresholds():
    checkpoints, raters, levels = scores(4, 300)
    raters[-1] = 1
    fitted = fit_ordinal(checkpoints, raters, levels, np.arange(300))
    assert np.abs(fitted.rater_thresholds[0] - fitted.thresholds).max() < 0.1
    assert np.abs(fitted.rater_thresholds[1] - fitted.thresholds).max() < 1.2
    alone = fit_ordinal(checkpoints, np.arange(300), levels, np.arange(300))  # everybody scored once
    assert np.isfinite(alone.effects).all() and alone.effects[2] > alone.effects[0]


@pytest.mark.parametrize(("own", "others"), [(6, (0, 6)), (0, (0, 6)), (1, (0, 2))])
def test_a_checkpoint_with_one_score_has_a_finite_effect_and_a_wide_interval(own, others):
    rng = np.random.default_rng(5)
    levels = np.r_[np.full(30, own), rng.integers(others[0], others[1] + 1, 60)]
    levels = np.unique(levels, return_inverse=True)[1].reshape(-1)
    checkpoints = np.repeat([0, 1, 2], 30)
    fitted = fit_ordinal(checkpoints, np.zeros(90, int), levels, np.arange(90))
    assert np.isfinite(fitted.effects).all() and fitted.prior[0] == (own in (0, 6))
    assert fitted.half_width(np.array([1.0, -1, 0])) > 0.5


def test_duplicates_on_other_prompts_narrow_and_on_the_same_do_not():
    checkpoints, raters, levels = scores(6, 300, (-0.5, 0.5))
    contrast = np.array([-1.0, 0, 1])

    def half(prompts: np.ndarray) -> float:
        twice = [np.tile(each, 2) for each in (checkpoints, raters, levels)]
        return fit_ordinal(*twice, prompts).half_width(contrast)
    once = fit_ordinal(checkpoints, raters, levels, np.arange(300)).half_width(contrast)
    assert half(np.arange(600)) == pytest.approx(once / math.sqrt(2), rel=0.05)
    assert half(np.tile(np.arange(300), 2)) == pytest.approx(once, rel=0.05)


def test_who_scores_higher():
    fitted = fit_ordinal(*scores(7, 300), np.arange(300))
    assert fitted.chance(0.0) == pytest.approx(0.5)
    one, other = level_chances(fitted.thresholds, 0.5), level_chances(fitted.thresholds, -0.5)
    brute = sum(one[i] * other[j] * (1.0 if i > j else 0.5 if i == j else 0) for i in range(7) for j in range(7))
    assert fitted.chance(1.0) == pytest.approx(brute) and fitted.chance(-1.0) == pytest.approx(1 - brute)
    assert fitted.chance(60.0) == pytest.approx(1, abs=1e-9)
