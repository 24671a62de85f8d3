"""Variety by hand: repetition, duplicates, openings, and what of it is worth a sentence."""

import pytest

from rlhf_engine.model.text_metrics import compare_variety, measure_variety, repeated_share, variety_remarks


def test_repetition_inside_of_a_response():
    assert repeated_share([1, 2, 3, 4]) == 0.0 and repeated_share([1, 2, 3]) == repeated_share([]) == 0.0
    assert repeated_share([7] * 8) == pytest.approx(4 / 5)  # five 4-grams, one of them new
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_variety_by_hand():
    report = measure_variety([[1, 2, 1, 2], [7] * 8, [1, 2, 1, 2], []], ["Once upon a time", "b b b", "once  upon a\ntime ", ""])
    assert report["distinct_1"] == pytest.approx(3 / 16) and report["distinct_2"] == pytest.approx(3 / 13)
    assert report["distinct_3"] == pytest.approx(3 / 10)
    assert report["repeated"] == pytest.approx((0 + 4 / 5 + 0) / 3)  # the empty one has no 4-gram
    assert report["duplicates"] == 0.25  # white space and case aside
    assert (report["opening"], report["opening_share"]) == ("once upon a", 0.5)
    assert measure_variety([], [])["duplicates"] == measure_variety([[]], [""])["opening_share"] == 0.0


def test_both_sides_are_read_over_equally_many_tokens():
    """distinct-n falls with the amount of text, which is no loss of variety."""
    short, long = [[1, 2, 3]], [[4, 5, 6], [4, 5, 6], [4, 5, 6]]
    variety = compare_variety((short, ["a"]), (long, ["b", "b", "b"]))
    assert variety["ours"]["distinct_1"] == variety["against"]["distinct_1"] == 1.0
    assert variety["against"]["duplicates"] == pytest.approx(2 / 3)


def test_losses_are_said_and_gains_are_not():
    varied = ([list(range(i, i + 12)) for i in range(0, 120, 12)], [f"story {i} begins" for i in range(10)])
    stuck = ([[1, 2] * 6 for _ in range(10)], ["the same story"] * 10)
    lost = " | ".join(variety_remarks(compare_variety(stuck, varied)))
    for piece in ("distinct-2 is 0.02 against 1.00", "of the 4-grams repeat", "90% of the responses are the same", "'the same story'"):
        assert piece in lost
    assert variety_remarks(compare_variety(varied, stuck)) == variety_remarks(compare_variety(varied, varied)) == []
    assert variety_remarks(compare_variety(stuck, stuck)) == []
