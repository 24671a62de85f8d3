"""Whatever the votes are, the report is strict JSON, with intervals that contain their estimates, and nothing is absurd."""

import json
import random
import warnings

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.leaderboard.report import make_report
from rlhf_engine.evaluation.leaderboard.votes import Choice
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import event, score


def random_event(rng: random.Random, number: int, names: list[str], one_sided: float, ties: float):
    prompt, voter = f"p{rng.randrange(rng.choice([1, 5, 100]))}", f"v{rng.randrange(3)}"
    kind = rng.choice(("duel", "duel", "ranking", "tie", "score"))
    if kind == "score":
        return score(number, rng.choice([1, 7, rng.randint(1, 7)]), rng.choice(names), voter, prompt=prompt)
    if kind == "duel":
        pair = rng.sample(names, 2)
        better = "left" if (rng.random() < one_sided) == (pair[0] < pair[1]) else "right"
        return event(number, "tie" if rng.random() < ties else better, pair, prompt=prompt, voter=voter)
    shown = [rng.choice(names) for _ in range(rng.randint(2, 5))]
    ranks = (1, *(rng.randint(1, len(shown)) for _ in shown[1:]))
    return event(number, ranks if kind == "ranking" else "both_bad", shown, prompt=prompt, voter=voter)


@pytest.mark.parametrize("seed", range(4))
def test_any_votes(seed):
    for number in range(25):
        rng = random.Random(100 * seed + number)
        names = [f"c{i}" for i in range(rng.randint(2, 6))]
        habits = rng.choice((0, 0.5, 1)), rng.choice((0, 0.3, 1))
        events = [random_event(rng, k, names, *habits) for k in range(rng.choice([1, 2, 3, 5, 20, 60]))]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                report = make_report(events, Choice(), cluster=rng.choice(("prompt", "voter")), anchor=rng.choice(("", "c0")))
        except UserError:
            continue
        json.dumps(report, allow_nan=False)
        for group in report["leaderboard"]:
            for row in group["rows"]:
                assert row["low"] <= row["strength"] <= row["high"] and abs(row["strength"] - 1000) < 3000
                assert row["high"] - row["low"] > 20 or "anchor" in row["flags"]
        for row in report["likert"]["rows"] if report["likert"] else []:
            assert row["effect"] is None or (row["effect_low"] < row["effect"] < row["effect_high"] and abs(row["effect"]) < 12)
