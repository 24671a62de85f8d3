"""Scoring functions from files: how they are loaded, what they get, and all the ways in which they can fail."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch

from rlhf_engine.errors import UserError
from rlhf_engine.feedback.scoring_functions import is_function, load_function, prompt_text, score_text
from rlhf_engine.rollout.reward_functions import FunctionReward
from rlhf_engine.rollout.rollout import Rollout


@pytest.mark.parametrize(("spec", "expected"), [
    ("score.py:length", True), ("/a b/score.py:f", True), ("C:\\x\\score.py:f", True), ("score.py", False), ("score.py:", False),
    ("score.py:1f", False), ("score.txt:f", False), ("runs/reward", False), ("bundled", False), ("", False)])
def test_what_reads_as_a_function(spec, expected):
    assert is_function(spec) is expected


def write(tmp_path, text: str) -> str:
    (tmp_path / "score.py").write_text(text)
    return f"{tmp_path / 'score.py'}:f"


def test_a_function_is_loaded_and_called(tmp_path):
    function = load_function(write(tmp_path, "import math\ndef f(prompt, response): return math.sqrt(len(prompt)) + len(response)"))
    assert score_text(function, "abcd", "xyz") == 5.0
    assert score_text(lambda p, r: True, "", "") == 1.0
    assert score_text(lambda p, r: torch.tensor(2.5), "", "") == 2.5


def test_the_file_may_hold_dataclasses_and_hide_no_module(tmp_path):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    n: int\ndef f(p, r): return A(3).n"
    for name in ("score.py", "json.py"):
        (tmp_path / name).write_text(text)
        assert load_function(f"{tmp_path / name}:f")("", "") == 3
    assert sys.modules["json"] is json


@pytest.mark.parametrize(("text", "says"), [
    ("def g(p, r): return 0", "defines no function f"), ("f = 3", "defines no function f"), ("def f(:", "SyntaxError"),
    ("import no_such_module_at_all", "ModuleNotFoundError"), ("raise RuntimeError('two\\nlines')", "RuntimeError: two"),
    ("import sys; sys.exit(0)", "SystemExit")])
def test_a_file_that_gives_no_function_is_named(tmp_path, text, says):
    spec = write(tmp_path, text)
    with pytest.raises(UserError, match=says) as caught:
        load_function(spec)
    assert str(caught.value).startswith(str(tmp_path / "score.py")) and "\n" not in str(caught.value)



def test_a_file_is_run_as_it_is_now_and_nothing_is_written_beside_it(tmp_path, monkeypatch):
    """Python's bytecode would hide a change that leaves a file's size and second as they were."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    for answer in (1, 2):
        spec = write(tmp_path, f"def f(prompt, response): return {answer}")
        file = Path(spec.rpartition(":")[0])
        os.utime(file, (10**9, 10**9))
        assert load_function(spec)("", "") == answer
        assert list(tmp_path.iterdir()) == [file]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file; give FILE.py:FUNCTION"):
        load_function(f"{tmp_path / 'none.py'}:f")


@pytest.mark.parametrize(("function", "says"), [
    (lambda p, r: 1 / 0, "ZeroDivisionError"), (lambda p: 0, "TypeError"), (lambda p, r: None, "TypeError"), (lambda p, r: "good", "ValueError"),
    (lambda p, r: float("nan"), "gives nan"), (lambda p, r: -float("inf"), "gives -inf")])
def test_a_failing_function_is_told_with_prompt_and_response(function, says):
    with pytest.raises(UserError, match=says) as caught:
        score_text(function, "a prompt\nin two lines" + "x" * 500, "a response")
    message = str(caught.value)
    assert "a prompt" in message and "'a response'" in message and "\n" not in message and len(message) < 400


def test_a_conversation_is_shown_by_its_last_user_turn():
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "first"}, {"role": "assistant", "content": "a"},
             {"role": "user", "content": "last"}]
    assert prompt_text(turns) == "last"
    assert prompt_text("plain") == "plain"


def test_function_reward_gives_one_score_a_row():
    rollout = Rollout(["a", [{"role": "user", "content": "bcd"}]], [[1], [2]], [[3], [4]], ["xx", ""], torch.ones(2).bool(), torch.ones(2, 1))
    scores = FunctionReward(lambda p, r: len(p) + 10 * len(r))(rollout)
    assert scores.tolist() == [21.0, 3.0] and scores.dtype == torch.float32
