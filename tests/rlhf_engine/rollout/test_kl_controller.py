"""The KL controller against values worked out by hand: it steers, looks ahead, keeps to its floor, and survives JSON."""

import json
import math
import random

import pytest
import torch

from rlhf_engine.rollout.kl_controller import KLController


@pytest.mark.parametrize("kl, episodes, horizon, expected", [
    (9.0, 64, 10_000, 0.150192),  # error clipped to +0.2
    (6.0, 64, 10_000, 0.15),
    (6.6, 64, 10_000, 0.150096),  # inside the clip: error 0.1
    (5.4, 64, 10_000, 0.149904),
    (0.0, 64, 10_000, 0.149808),  # clipped to -0.2
    (-3.0, 64, 10_000, 0.149808),
    (1e9, 512, 10_000, 0.151536),
    (math.inf, 10_000, 10_000, 0.18),
    (0.0, 10_000, 10_000, 0.12),
    (9.0, 64, 64, 0.18),
    (9.0, 640, 64, 0.30),  # the factor 3 is held at 2
    (0.0, 640, 64, 0.075),  # the factor -1 is held at 0.5
    (0.0, 320, 64, 0.075),  # the factor 0 too
    (9.0, 64, None, 0.15),
    (0.0, 64, math.inf, 0.15),
])
def test_controller_against_hand_values(kl, episodes, horizon, expected):
    controller = KLController(0.15, 6.0, horizon)
    assert controller.update(kl, episodes) == pytest.approx(expected, abs=1e-12)
    assert controller.coef == pytest.approx(expected, abs=1e-12)


def test_controller_compounds_and_takes_tensors():
    controller = KLController(0.1, 8.0, 100)
    controller.update(torch.tensor(16.0), 100)
    assert controller.update(torch.tensor(0.0), 50) == pytest.approx(0.1 * 1.2 * 0.9)
    assert type(controller.coef) is float


def test_controller_stays_positive_whatever_comes():
    controller, rng = KLController(0.15, 6.0, 10), random.Random(0)
    for _ in range(50):
        before = controller.coef
        after = controller.update(rng.choice([0.0, 3.0, 7.0, 100.0]), 512)
        assert 0 < before / 2 <= after <= before * 2


def test_controller_steers_a_system_to_its_target():
    controller = KLController(0.01, 8.0, 320)  # a short run: 32 episodes a step
    for _ in range(400):
        kl = 1 / controller.coef  # as for best-of-n-like optimisation: a larger penalty, a smaller KL
        controller.update(kl, 32)
    assert kl == pytest.approx(8.0, rel=0.02)


def test_controller_looks_ahead_along_the_trend():
    """By hand: KL 2 then 4, target 8. The trend is 0.3 * 2; ten updates on that is 10, a quarter too much, of which a fifth counts."""
    controller, paper = KLController(0.1, 8.0, 100, lookahead=10), KLController(0.1, 8.0, 100)
    assert controller.update(2.0, 10) == paper.update(2.0, 10) == pytest.approx(0.1 * 0.98)
    assert paper.update(4.0, 10) == pytest.approx(0.1 * 0.98 * 0.98)  # still below its target: lower
    assert controller.update(4.0, 10) == pytest.approx(0.1 * 0.98 * 1.02)


def test_controller_keeps_to_its_floor_from_both_sides():
    controller = KLController(0.1, 8.0, 100, floor=0.099)
    assert [controller.update(0.0, 10) for _ in range(2)] == [0.099, 0.099]  # not 0.098
    assert controller.update(16.0, 10) == pytest.approx(0.099 * 1.02)
    low = KLController(0.05, 8.0, 100, floor=0.099)  # started below it: it is not lifted, and goes no lower
    assert low.update(0.0, 10) == 0.05 and low.update(16.0, 10) == pytest.approx(0.05 * 1.02)


def test_controller_state_survives_json():
    for horizon in (500, None):
        controller = KLController(0.15, 6.0, horizon)
        controller.update(9.0, 64)
        state = json.loads(json.dumps(controller.state_dict()))
        assert all(type(v) is float for v in state.values())
        other = KLController(1.0, 1.0, 1.0)
        other.load_state_dict(state)
        assert other.state_dict() == controller.state_dict()
        assert other.update(7.0, 64) == controller.update(7.0, 64)


@pytest.mark.parametrize("arguments", [
    (-0.1, 6, 100), (math.nan, 6, 100), (0.1, 0, 100), (0.1, -6, 100), (0.1, 6, 0), (0.1, 6, -100)])
def test_controller_refuses_nonsense(arguments):
    with pytest.raises(ValueError, match="need coef"):
        KLController(*arguments)


def test_controller_refuses_nan_and_keeps_its_coefficient():
    controller = KLController(0.15, 6.0, 100)
    with pytest.raises(ValueError, match="NaN"):
        controller.update(math.nan, 64)
    assert controller.coef == 0.15
