"""A few mutations of good inputs: no traceback, no half-written run, exit code 0 or 2. `python -m tests.fuzz` tries thousands."""

import pytest
import torch

from tests.fuzz.cases import API, Fuzzer
from tests.fuzz.inputs import make_inputs
from tests.fuzz.runner import Outcome, problems, snapshot
from tests.fuzz.targets import TARGETS

CASES, SEED = 60, 7


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    torch.set_num_threads(1)
    fuzzer = Fuzzer(make_inputs(tmp_path_factory.mktemp("fuzz") / "good"), SEED, patience=60.0)
    yield fuzzer
    fuzzer.close()


@pytest.mark.parametrize("first", range(0, CASES, 10))
def test_strange_inputs_break_no_promise(fuzzer, monkeypatch, first):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for number in range(first, first + 10):
        result = fuzzer.case(number)
        assert result.problems == [], f"python -m tests.fuzz --seed {SEED} --only {number}: {result.mutation} {result.command}"


def test_equal_seeds_spoil_alike_and_every_target_is_drawn(fuzzer):
    again = Fuzzer(fuzzer.inputs, SEED)
    one, other = fuzzer.case(1), again.case(1)
    assert (one.target, one.mutation, one.command) == (other.target, other.mutation, other.command)
    assert set(fuzzer.weights) == {*TARGETS, "api"} and fuzzer.weights["api"] == API


@pytest.mark.parametrize(("outcome", "write", "says"), [
    (Outcome(0, "", "", 0), None, None), (Outcome(2, "", "error: no such thing; name another\n", 0), None, None),
    (Outcome(2, "", "Traceback (most recent call last):\n  File\nKeyError: 1\n", 0), None, "traceback"), (Outcome(2, "", "", 0), None, "exit 2 with 0 lines"),
    (Outcome(3, "", "", 0), None, "exit code 3"), (Outcome(None, "", "", 0, crash="Traceback\nValueError: x"), None, "nobody caught"),
    (Outcome(0, "", "UserWarning: careful\n", 0), None, "words on stderr"), (Outcome(2, "", "error: a\nerror: b\n", 0), None, "2 lines"),
    (Outcome(2, "", "error: a\x1b[31m\n", 0), None, "control characters"), (Outcome(2, "", "error: refused\n", 0), ("out/x.json", "{}"), "exit 2, but out has changed"),
    (Outcome(0, "", "", 0), ("out/report.json", '{"a": NaN}'), "it holds NaN"), (Outcome(0, "", "", 0), ("out/.report.json.0123", "{"), "was left over"),
    (Outcome(0, "", "", 0), ("here.txt", "changed"), "was there before")])
def test_what_a_case_breaks_is_found(tmp_path, outcome, write, says):
    (tmp_path / "here.txt").write_text("as it was")
    before = snapshot(tmp_path)
    if write:
        (tmp_path / write[0]).parent.mkdir(exist_ok=True)
        (tmp_path / write[0]).write_text(write[1])
    found = problems(outcome, tmp_path, before)
    assert found == [] if says is None else any(says in each for each in found)
