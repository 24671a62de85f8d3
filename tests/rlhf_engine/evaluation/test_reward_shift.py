"""Where a mean was highest on the way of a run, and what that means. The rest is tested through the command."""

import numpy as np

from rlhf_engine.evaluation.reward_shift import find_peak, shift_remarks

STOPS = [{"name": name, "step": step, "mean": mean, "change": mean, "change_low": mean - 0.1, "change_high": mean + 0.1}
         for name, step, mean in (("start", 0, 0.0), ("step 10", 10, 1.0), ("step 20", 20, 0.4))]
NOISE = np.random.default_rng(0).normal(0, 0.3, (3, 80))


def test_a_fall_while_the_kl_goes_on_is_too_far_and_one_with_the_kl_is_the_penalty():
    by_prompt = np.array([[0.0], [1.0], [0.4]]) + NOISE
    peak = find_peak(STOPS, by_prompt, [0.0, 8.0, 20.0])
    assert peak["step"] == 10 and peak["too_far"] and 0 < peak["fall_low"] < 0.6 < peak["fall_high"]
    assert "gone too far" in shift_remarks("happy", STOPS, by_prompt, peak)[1]
    back = find_peak(STOPS, by_prompt, [0.0, 14.0, 5.6])
    assert not back["too_far"] and "from 14.0 to 5.6 nats, so its penalty pulled it back" in shift_remarks("happy", STOPS, by_prompt, back)[1]


def test_no_peak_without_a_fall_beyond_chance():
    assert find_peak(STOPS, np.array([[0.0], [0.5], [0.45]]) + NOISE, [0.0, 8.0, 20.0]) is None
    assert find_peak(STOPS, np.array([[0.0], [0.5], [1.5]]) + NOISE, [0.0, 8.0, 20.0]) is None
    assert find_peak(STOPS[:1], NOISE[:1], [0.0]) is None
