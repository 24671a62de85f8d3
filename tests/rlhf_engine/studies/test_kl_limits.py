"""Which runs are alike, and the KL at which their like peaked."""

import json

import pytest

from rlhf_engine.studies.kl_limits import find_kl_limit


def study(learner: str = "ppo", model: str = "bundled", **peaks) -> dict:
    curves = [{"kind": "rl", "labels": int(labels[1:]), "peak_kl": kl} for labels, kl in peaks.items()]
    return {"study": "overoptimisation", "learner": learner, "model": model, "curves": [*curves, {"kind": "best_of", "labels": 60, "peak_kl": 1.0}]}


PPO = {"stage": "ppo", "model": "bundled", "reward": "runs/reward-1"}
TEACH = {"stage": "teach", "model": "bundled", "learner": "ppo"}
REPORTS = {"overopt-1": study(n50=17.0, n1000=45.0), "overopt-2": study("grpo", n50=9.0), "evaluation-1": {"kl": 4.0, "win_rate": 0.8}}


@pytest.mark.parametrize("config, labels, kl", [
    (PPO, 40, 17.0), (PPO, 200, 17.0), (PPO, 250, 45.0), (PPO, 1000, 45.0),  # the nearest in ratio
    (PPO, 12, None), (PPO, 4001, None), (PPO, None, None), (PPO, 0, None),  # too far apart, or not known
    (TEACH, 40, 17.0), (TEACH | {"learner": "tamer"}, 40, 17.0), (TEACH | {"learner": "rloo"}, 40, 9.0),
    (TEACH | {"learner": "dpo"}, 40, None), (PPO | {"stage": "nlpo"}, 40, 17.0), (PPO | {"stage": "grpo"}, 60, 9.0),
    (PPO | {"model": "smollm2"}, 40, None), (PPO | {"reward": "score.py:gold"}, 40, None), (PPO | {"reward": "sentiment"}, 40, None),
    ({"stage": "sft", "model": "bundled"}, 40, None), ({"stage": "dpo", "model": "bundled"}, 40, None),
])
def test_a_run_is_compared_with_the_nearest_study_of_its_like(config, labels, kl):
    limit = find_kl_limit(config, labels, REPORTS)
    assert (limit.kl if limit else None) == kl


def test_the_sentence_names_the_study_and_warns_beyond_the_peak():
    limit = find_kl_limit(PPO, 40, REPORTS)
    assert "overopt-1" in limit.sentence() and "17 nats" in limit.sentence(10.0) and "50 labels" in limit.sentence()
    assert "This run is at 25" in limit.sentence(25.0) and "This run" not in limit.sentence(10.0)


@pytest.mark.parametrize("curves", [None, 3, [None], [{"kind": "rl"}], [{"kind": "rl", "labels": 50, "peak_kl": None}],
                                    [{"kind": "rl", "labels": "many", "peak_kl": 3}], [{"kind": "rl", "labels": 0, "peak_kl": 3}],
                                    [{"kind": "rl", "labels": 50, "peak_kl": float("nan")}]])
def test_a_report_of_another_kind_or_a_damaged_one_says_nothing(curves):
    assert find_kl_limit(PPO, 50, {"study": {**study(), "curves": curves}, "other": {"curves": curves}}) is None


def test_a_report_that_a_study_has_written_is_understood(tmp_path):
    from rlhf_engine.studies.settings import StudySettings
    from rlhf_engine.studies.study_report import make_report, write_report
    from tests.rlhf_engine.studies.test_courses import piece
    write_report(tmp_path, make_report(StudySettings(), {(50, 0, "rl"): piece()}, 1, "done", "base"))
    limit = find_kl_limit(PPO, 50, {"overopt": json.loads((tmp_path / "report.json").read_text())})
    assert limit and 10 < limit.kl < 40 and limit.labels == 50
