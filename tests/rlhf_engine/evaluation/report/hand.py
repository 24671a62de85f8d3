"""Subjects and evidence made by hand, for the tests of the report."""

from typing import Any

from rlhf_engine.evaluation.report.subject import Subject


def judge(name: str = "happy", *, rate=(0.8, 0.75, 0.85), equal=(0.8, 0.75, 0.85), **changed) -> dict[str, Any]:
    """The row of a judge: it may be believed, and does not go by length."""
    return {"judge": name, "name": name, "is_model": False, "is_trainer": False, "is_labeler": False, "is_gold": True, "alike": False,
            "win_rate": rate[0], "win_rate_low": rate[1], "win_rate_high": rate[2], "ties": 0.1, "score": 1.0, "score_against": 0.5,
            "length_controlled": {"win_rate": equal[0], "win_rate_low": equal[1], "win_rate_high": equal[2]},
            "length_share": {"share": 0.02, "of": "words", "correlation": 0.1},
            "histograms": {"edges": [0.0, 1.0, 2.0], "policy": [0.25, 0.75], "start": [0.75, 0.25]}} | changed


def evidence(*judges: dict[str, Any], longer: float = 0.0, **changed) -> dict[str, Any]:
    """The evidence about a policy whose responses are so many tokens longer than the start's."""
    return {"prompts": 100, "samples": 400, "per_prompt": 4, "kl": 4.2, "kl_per_token": 0.07, "perplexity_ratio": 1.02, "distinct_ratio": 0.98,
            "empty": 0.0, "length": 60.0 + longer, "notes": [], "judges": list(judges), "tax": {},
            "lengths": {"policy": 60.0 + longer, "start": 60.0, "difference": longer, "difference_low": longer - 1, "difference_high": longer + 1}} | changed


def reward_row(step: int, predictions: list, chances: list | None = None) -> dict[str, Any]:
    """A row of the journal of a live run, at which votes came in."""
    return {"event": "reward", "step": step, "predictions": predictions} | ({"chances": chances} if chances else {})


def live_run(guessed: int, votes: int, chance: float = 0.25) -> Subject:
    """A live run whose reward had guessed so many of so many votes."""
    predictions = [1.0] * guessed + [0.0] * (votes - guessed)
    return Subject("taught", None, None, config={"stage": "teach", "model": "bundled", "labeler": "person", "choices": 4},
                   journal=[reward_row(1, predictions, [chance] * votes)])


def reward_run(accuracy: float, pairs: int) -> Subject:
    """A reward run with so large an accuracy on held-out pairs."""
    return Subject("taste", None, None, makes="reward", config={"stage": "reward", "model": "bundled"},
                   report={"accuracy_held_out": accuracy, "held_out_pairs": pairs})


POLICY = Subject("policy", None, None, config={"stage": "ppo", "model": "bundled", "reward": "happy"})
