"""The simulation of coverage: that it finds a right interval right, and a wrong one wrong."""

import numpy as np
import pytest

from benchmarks.helpers.coverage_lengths import controls, correlations_of_length
from benchmarks.helpers.coverage_models import kappas, ordinals, strengths
from benchmarks.surveys import coverage
from rlhf_engine.evaluation.intervals import rate_interval


def cells(interval) -> list[coverage.Cell]:
    grid = (100,), (0.2, 0.5), (0.0, 0.5), (1, 4)
    return list(coverage.rate_cells("rate", interval, np.random.default_rng(0), 400, grid))


def test_rates_are_covered_within_the_bar():
    assert all(93 - 2 <= cell.coverage <= 97 + 2 for cell in cells(rate_interval))  # 2: of 400 simulations


def test_an_interval_that_is_too_narrow_is_seen():
    def half(values: np.ndarray) -> tuple[float, float]:
        low, high = rate_interval(values)
        middle = (low + high) / 2
        return (low + middle) / 2, (high + middle) / 2
    assert all(cell.coverage < 80 for cell in cells(half))


def test_wilson_is_exact():
    by_key = {(cell.prompts, cell.rate): cell.coverage for cell in coverage.wilsons(np.random.default_rng(0), 0)}
    assert all(93 <= value <= 97 for (prompts, rate), value in by_key.items() if prompts >= 100 and rate is not None and 0.2 <= rate <= 0.8)
    assert by_key[20, 0.5] == pytest.approx(95.86, abs=0.01)  # 1 minus twice P(at most 5 of 20)


def test_the_tables():
    rows = cells(rate_interval)
    lines = coverage.summary_rows(rows).splitlines()
    assert len(lines) == 1 and lines[0].startswith("| rate | 100 | ") and "8 of 8" in lines[0]
    assert coverage.rate_table(rows).splitlines()[0] == "| interval | prompts | 0.2 | 0.5 |"
    assert coverage.rate_table([]) == ""


@pytest.mark.parametrize("survey", [kappas, ordinals, strengths])
def test_what_is_fitted_can_be_simulated(survey, monkeypatch):
    monkeypatch.setattr("benchmarks.helpers.coverage_models.marginal_strengths", lambda theta, alike: np.zeros(4))
    name, prompts, rate, setting, covered = next(survey(np.random.default_rng(0), 0))
    assert prompts == 20 and rate is None and setting and 50 <= covered <= 100


@pytest.mark.parametrize("survey", [controls, correlations_of_length])
def test_what_has_to_do_with_length_can_be_simulated(survey, monkeypatch):
    monkeypatch.setattr("benchmarks.helpers.coverage_lengths.MANY", 2000)
    name, prompts, rate, setting, covered = next(survey(np.random.default_rng(0), 0))
    assert prompts == 20 and "a prompt" in setting and 50 <= covered <= 100
