"""Curves, peaks and flags from courses whose truth is known, and the figure and the table of a report."""

import numpy as np
import pytest

from rlhf_engine.studies.courses import course_of, describe_curve, peak_place, study_findings, turn_of
from rlhf_engine.studies.power_laws import PowerLaw
from rlhf_engine.studies.settings import StudySettings
from rlhf_engine.studies.study_report import make_report, table

PROMPTS, KL = 64, np.linspace(0, 8, 13) ** 2


def piece(a: float = 1.2, b: float = 0.5, *, kind: str = "rl", seed: int = 0, noise: float = 0.6, proxy: float = 0.5, drop: float = 0.0, kl=KL) -> dict:
    """A piece whose gold follows a law and whose proxy grows by `proxy` a unit of distance, less `drop` at the last place."""
    rng = np.random.default_rng(seed)
    level = rng.normal(size=PROMPTS)
    gold = PowerLaw("best_of" if kind == "best_of" else "rl", a, b).gain(np.sqrt(kl))[:, None] + level + rng.normal(size=(len(kl), PROMPTS)) * noise
    rising = proxy * np.sqrt(kl)[:, None] + level + rng.normal(size=(len(kl), PROMPTS)) * noise
    rising[-1] -= drop
    points = [{"step": i, "kl": [float(value)] * PROMPTS, "gold": gold[i].tolist(), "proxy": rising[i].tolist()} for i, value in enumerate(kl)]
    return {"labels": 50, "seed": seed, "kind": kind, "points": points, "processor_seconds": 10.0, "accuracy": 0.7}


def test_gold_that_rises_peaks_and_falls_under_a_rising_proxy_is_over_optimised():
    curve = describe_curve("rl", 50, [piece()])
    assert curve["flags"] == ["over_optimised"] and peak_place(curve) == "inside"
    assert curve["fit"]["peak_kl_low"] < PowerLaw("rl", 1.2, 0.5).peak ** 2 < curve["fit"]["peak_kl_high"]
    assert "over prompts" in curve["sentence"] and curve["proxy_accuracy"] == 0.7


def test_gold_that_still_rises_is_not():
    curve = describe_curve("rl", 50, [piece(a=1.0, b=0.05)])
    assert curve["flags"] == ["no_fall"] and peak_place(curve) == "beyond"
    assert "no peak up to the largest KL that was measured, 64" in curve["sentence"]


def test_a_policy_that_falls_apart_is_not_called_over_optimised():
    assert describe_curve("rl", 50, [piece(proxy=0.3, drop=3.0)])["flags"] == ["proxy_fell"]


def test_gold_that_never_rises_says_that_nothing_was_learned():
    flat = describe_curve("rl", 50, [piece(a=0.0, b=0.0)])
    assert flat["flags"] == ["nothing_learned"] and "never rose" in flat["sentence"]
    falls = describe_curve("rl", 50, [piece(a=-0.3, b=0.1)])
    assert falls["flags"] == ["nothing_learned", "gold_fell"] and "below that of the start" in falls["sentence"]


def test_noise_alone_makes_neither_a_rise_nor_a_fall():
    """The highest of 13 places is above the others by chance; on the other half of the prompts it is not."""
    turns = [turn_of(course_of(piece(a=0.0, b=0.0, noise=1.0, seed=seed))) for seed in range(60)]
    for name in ("rise", "fall"):
        means = [getattr(turn, name).mean() for turn in turns]
        assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(60), name
    wrong = sum(describe_curve("rl", 50, [piece(a=0.0, b=0.0, noise=1.0, seed=seed)])["flags"] != ["nothing_learned"] for seed in range(30))
    assert wrong <= 4, "one in forty, by the interval"


def test_several_seeds_have_intervals_over_the_seeds():
    curve = describe_curve("rl", 50, [piece(a=a, seed=seed) for seed, a in enumerate((1.1, 1.2, 1.3))])
    assert curve["seeds"] == [0, 1, 2] and curve["fit"]["over"] == "seeds" and curve["fit"]["seeds_with_peak"] == 3
    assert len(curve["runs"]) == 3 and curve["flags"] == ["over_optimised"]


def test_too_few_places_have_no_fit_and_still_a_sentence():
    curve = describe_curve("best_of", 50, [piece(kind="best_of", kl=np.array([0.0, 0.2]))])
    assert curve["fit"] is None and peak_place(curve) == "unknown" and curve["sentence"].endswith(".")


def collapse(seed: int = 0) -> dict:
    """Gold rises in a straight line to a distance of 6, a KL of 36, and then falls off a cliff: no law of this kind does."""
    found, rng = piece(seed=seed), np.random.default_rng(seed)
    for point, kl in zip(found["points"], KL):
        gold = 0.2 * min(kl, 36) ** 0.5 - 2.0 * max(kl**0.5 - 6, 0)
        point["gold"] = (gold + rng.normal(size=PROMPTS) * 0.3).tolist()
    return found


def test_a_collapse_that_no_law_describes_has_the_peak_that_was_measured():
    one = describe_curve("rl", 50, [collapse()])
    assert peak_place(one) == "unknown" and one["peak"]["by"] == "measured" and one["flags"] == ["over_optimised"]
    assert one["peak"]["kl_low"] <= 36 <= one["peak"]["kl_high"] and "the law misses" in one["sentence"]
    three = describe_curve("rl", 50, [collapse(seed) for seed in range(3)])
    assert three["peak"]["over"] == "seeds" and three["peak"]["kl"] == pytest.approx(36, abs=6)


def curves(**peaks_by_labels) -> list[dict]:
    return [{**describe_curve(kind, labels, [piece(a=a, b=0.5, kind=kind)]), "labels": labels}
            for kind, values in peaks_by_labels.items() for labels, a in values.items()]


def test_the_findings_say_whether_the_peak_moves_out_and_the_ensemble_delays_it():
    flags, sentences = study_findings(curves(rl={50: 1.0, 1000: 1.2}, ensemble={50: 1.15, 1000: 1.25}))
    assert flags == ["over_optimised", "peak_moves_out", "ensemble_delays"] and "50 labels" in sentences[1]
    flags, sentences = study_findings(curves(rl={50: 1.2, 1000: 1.0}, ensemble={50: 1.0, 1000: 0.8}))
    assert flags == ["over_optimised"] and "does not simply move out" in sentences[1]


def test_gold_without_a_peak_counts_as_one_beyond_what_was_measured():
    open_end = {**describe_curve("rl", 1000, [piece(a=1.0, b=0.05)]), "labels": 1000}
    flags, sentences = study_findings([*curves(rl={50: 1.0}), open_end])
    assert flags == ["over_optimised", "peak_moves_out"] and "1,000 labels more than 64" in sentences[1]
    flags, sentences = study_findings([{**open_end, "labels": 50}, *curves(rl={1000: 1.0})])
    assert flags == ["over_optimised"] and "50 labels more than 64" in sentences[1]


@pytest.fixture
def report() -> dict:
    pieces = {(50, seed, kind): piece(kind=kind, seed=seed) for seed in range(3) for kind in ("rl", "best_of", "ensemble")}
    pieces[5000, 0, "rl"] = piece(a=1.0, b=0.02)
    return make_report(StudySettings(), pieces, 36, "stopped", "base")


def test_the_table_has_a_row_for_each_curve(report):
    rows = table(report)
    assert "over_optimised" in rows[1] and "5,000" in rows[2] and "none" in rows[2] and "no_fall" in rows[2]
    assert report["pieces"] == 10 and report["pieces_wanted"] == 36 and report["processor_seconds"] == 100


def test_the_figure_has_the_colours_of_the_house_and_no_background(report, tmp_path):
    pytest.importorskip("matplotlib")
    from rlhf_engine.studies.figures import draw_figure
    draw_figure(report, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text().lower()
    assert "#e69f00" in text and "#cc79a7" in text and "dasharray" in text and len(text) < 500_000
    draw_figure(report, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes()[:4] == b"\x89PNG"
