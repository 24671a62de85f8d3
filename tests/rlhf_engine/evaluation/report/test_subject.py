"""What a report knows about a run before it measures."""

import json

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.report.subject import guesses_of, read_subject
from tests.rlhf_engine.evaluation.report.hand import reward_row


def test_guesses_leave_out_ties_and_what_was_taken_back():
    journal = [reward_row(1, [1.0, 0.0, None, 0.5], [0.25, 0.5, 0.5, 0.25]), reward_row(4, [1.0]), {"event": "rewound", "step": 3},
               reward_row(4, [0.0], [1 / 3])]
    assert guesses_of(journal, choices=4) == ([True, False, False], [0.25, 0.5, 1 / 3])


def test_a_resumed_run_repeats_its_steps_and_older_runs_do_not_know_the_chance():
    journal = [reward_row(2, [1.0]), reward_row(6, [0.0]), {"event": "resumed", "step": 4}, reward_row(6, [0.0])]
    assert guesses_of(journal, choices=4) == ([True, False], [0.25, 0.25])
    assert guesses_of([], 2) == ([], []) and guesses_of([{"event": "reward", "step": 1}, {"event": "note"}], 2) == ([], [])


def test_a_gallery_adapter_started_from_the_sft_adapter_and_may_say_how_it_was_made(tmp_path):
    subject = read_subject("bundled", "bundled")
    assert (subject.name, subject.makes, subject.start, subject.config) == ("bundled", "policy", None, {})
    from rlhf_engine.evaluation.report.subject import GALLERY
    subject = read_subject(str(GALLERY / "animals"), "bundled")
    assert subject.name == "animals" and subject.start == GALLERY / "sft"


def test_about_json_that_is_none_is_left_alone(tmp_path):
    from rlhf_engine.evaluation.report.subject import about_adapter
    assert about_adapter(tmp_path) == {}
    for text in ("[]", "{", json.dumps({"config": 3, "report": []})):
        (tmp_path / "about.json").write_text(text)
        assert about_adapter(tmp_path) == {}
    (tmp_path / "about.json").write_text(json.dumps({"config": {"stage": "ppo"}, "more": 1}))
    assert about_adapter(tmp_path) == {"config": {"stage": "ppo"}}


def test_what_is_no_adapter_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such adapter"):
        read_subject(str(tmp_path / "none"), "bundled")


def test_rows_after_the_checkpoint_are_not_told(tmp_path):
    from rlhf_engine.evaluation.report.subject import rows_until
    rows = [{"step": 1}, {"step": 3}, {"step": 4}, {"event": "data"}]
    assert rows_until(rows, tmp_path / "step-000003") == [{"step": 1}, {"step": 3}, {"event": "data"}] and rows_until(rows, None) == rows
