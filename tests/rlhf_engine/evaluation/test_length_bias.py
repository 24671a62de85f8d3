"""Whether a scorer follows length: against scipy, within prompts, and in words."""

import warnings

import numpy as np
import pytest

from rlhf_engine.evaluation.length_bias import NAMES, control_remarks, length_correlation, length_remarks
from rlhf_engine.evaluation.length_control import control_length


def simulate(rng, prompts=60, per_prompt=4, slope=1.0, shared=2.0):
    """(scores, lengths, prompts): within a prompt scores follow length by `slope`, and both differ between prompts."""
    groups = np.repeat(np.arange(prompts), per_prompt)
    between = rng.normal(0, shared, prompts)[groups]
    lengths = np.round(200 + 40 * (rng.normal(0, 1, len(groups)) + between))
    scores = slope * (lengths - 40 * between) / 40 + rng.normal(0, 1, len(groups)) + between
    return scores, lengths, groups


def test_against_scipy_and_groupwise_centring():
    stats = pytest.importorskip("scipy.stats")
    scores, lengths, groups = simulate(np.random.default_rng(0))
    scores = np.round(scores)  # some ties
    report = length_correlation(scores, lengths, groups)
    assert report["spearman"] == pytest.approx(stats.spearmanr(scores, lengths)[0])
    assert report["pearson"] == pytest.approx(stats.pearsonr(scores, lengths)[0])
    members = [np.flatnonzero(groups == group) for group in range(60)]
    members = [rows for rows in members if np.ptp(scores[rows]) and np.ptp(lengths[rows])]
    for name, change in (("within_pearson", lambda v: v), ("within_spearman", stats.rankdata)):
        pooled = [np.concatenate([change(v[rows]) - np.mean(change(v[rows])) for rows in members]) for v in (scores, lengths)]
        assert report[name] == pytest.approx(stats.pearsonr(*pooled)[0])
    assert report["informative"] == len(members) and report["groups"] == 60 and report["responses"] == 240
    for name in NAMES:
        assert -1 <= report[f"{name}_low"] < report[name] < report[f"{name}_high"] <= 1


def test_prompts_that_ask_for_more_are_no_bias():
    report = length_correlation(*simulate(np.random.default_rng(1), slope=0.0))
    assert report["spearman"] > 0.5 and report["within_spearman_low"] < 0 < report["within_spearman_high"]
    assert length_remarks(report, "x") == []


def test_prompts_that_say_nothing_are_left_out():
    scores, lengths, groups = simulate(np.random.default_rng(2))
    report = length_correlation(scores, lengths, groups)
    constant = [np.concatenate([column, extra]) for column, extra in zip(
        (scores, lengths, groups), (np.r_[np.ones(40), np.arange(40.0)], np.r_[np.arange(40.0), np.ones(40)], np.repeat(np.arange(100, 120), 4)))]
    more = length_correlation(*constant)
    assert more["within_spearman"] == pytest.approx(report["within_spearman"])
    assert more["within_pearson"] == pytest.approx(report["within_pearson"])
    assert (more["informative"], more["groups"]) == (report["informative"], report["groups"] + 20)


def test_two_policies_are_two_groups():
    """A better policy that writes more is no bias of the scorer."""
    rng, prompts = np.random.default_rng(3), np.repeat(np.arange(80), 4)
    ours = np.tile([0, 0, 1, 1], 80)
    lengths, scores = rng.normal(100, 10, 320) + 100 * ours, rng.normal(0, 1, 320) + 3 * ours
    assert length_correlation(scores, lengths, prompts)["within_spearman"] > 0.5
    apart = length_correlation(scores, lengths, prompts, 2 * prompts + ours)
    assert apart["within_spearman_low"] < 0 < apart["within_spearman_high"]


@pytest.mark.parametrize("scores, lengths, prompts", [
    ([], [], []), ([1.0], [2.0], [0]), ([1.0, 1.0], [2.0, 3.0], [0, 0]), ([1.0, 2.0], [3.0, 3.0], [0, 0]),
    ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0, 1, 2]), ([1e300, 2e300, 3.0] * 3, [1.0, 2.0, 5.0] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2])])
def test_what_has_no_correlation_gives_none_and_no_warning(scores, lengths, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = length_correlation(scores, lengths, prompts)
    assert all(value is None or np.isfinite(value) for value in report.values())
    if not report["informative"]:
        assert report["within_spearman"] is None and "cannot be told" in length_remarks(report, "f")[0]


def test_length_itself_is_said_to_be_it():
    _, lengths, groups = simulate(np.random.default_rng(4))
    report = length_correlation(lengths, lengths, groups)
    assert report["within_spearman"] == pytest.approx(1) and 0.8 < report["within_spearman_low"] < 1
    assert report["within_spearman_high"] == 1 and "f strongly prefers longer responses" in length_remarks(report, "f")[0]
    turned = length_correlation(-lengths, lengths, groups)
    assert turned["within_spearman_high"] == pytest.approx(-report["within_spearman_low"])
    assert "strongly prefers shorter responses" in length_remarks(turned, "f")[0]
    weak = length_correlation(*simulate(np.random.default_rng(5), prompts=300, slope=0.2, shared=0.0))
    assert "slightly prefers longer" in length_remarks(weak, "f")[0]


def test_the_interval_holds():
    rng = np.random.default_rng(6)
    truth = length_correlation(*simulate(rng, 3000, 4, 0.5))
    covered = dict.fromkeys(NAMES, 0)
    for _ in range(50):
        report = length_correlation(*simulate(rng, 50, 4, 0.5))
        for name in NAMES:
            covered[name] += report[f"{name}_low"] <= truth[name] <= report[f"{name}_high"]
    assert min(covered.values()) >= 42


def test_wins_that_may_come_from_length_are_said():
    rng = np.random.default_rng(7)
    d, groups = np.round(rng.normal(25, 30, 200)), np.arange(200)
    wins = (rng.random(200) < 1 / (1 + np.exp(-d / 15))).astype(float)
    plain = {"win_rate": wins.mean(), "win_rate_low": wins.mean() - 0.06, "win_rate_high": wins.mean() + 0.06}
    assert "the wins may come from length alone" in control_remarks(plain, control_length(wins, d, groups))[-1]
    losses = {name: 1 - value for name, value in plain.items()} | {"win_rate_low": 1 - plain["win_rate_high"], "win_rate_high": 1 - plain["win_rate_low"]}
    assert "the losses may come from length alone" in control_remarks(losses, control_length(1 - wins, d, groups))[-1]
    fair = (rng.random(200) < 0.75).astype(float)
    plain = {"win_rate": fair.mean(), "win_rate_low": fair.mean() - 0.06, "win_rate_high": fair.mean() + 0.06}
    assert not any("length alone" in line for line in control_remarks(plain, control_length(fair, d, groups)))
