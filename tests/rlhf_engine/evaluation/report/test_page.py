"""The files of a report: self-contained, small, safe against the texts in them, and the same numbers everywhere."""

import re
import struct
import xml.etree.ElementTree as ET

import pytest

from rlhf_engine import measures
from rlhf_engine.evaluation.report.html import LONGEST_TEXT, chosen_samples, report_page
from rlhf_engine.evaluation.report.subject import Subject
from rlhf_engine.evaluation.report.writing import FILES, complete, write_report
from rlhf_engine.files import read_json
from tests.rlhf_engine.evaluation.report.hand import evidence, judge, reward_run

NASTY = '<script>alert("x")</script> $5 & {{ 7 * 7 }} \u202e'
METRICS = [{measures.STEP: step, measures.SCORES: step / 10, measures.KL: step / 5} for step in range(1, 2001)]
RUN = Subject("my run", None, None, config={"stage": "ppo", "model": "bundled", "reward": "/home/somebody/secret/taste", "steps": 77,
                                             "output": "/home/somebody/runs/my run"}, metrics=METRICS)
SETTINGS = {"model": "bundled", "adapter": "my run", "against": "none", "against_name": "its start", "data": "bundled-heldout", "judge": "happy", "seed": 0,
            "command": "python -m rlhf_engine report"}
ROWS = [{"prompt": f"Tell me {i // 4}", "response": f"{NASTY} {i}", "against": "It was.", "scores": {"happy": 1.0}, "scores_against": {"happy": 0.0}}
        for i in range(40)]


def page(subject: Subject = RUN, rows: list = ROWS, about: dict | None = None) -> str:
    from rlhf_engine.evaluation.report.flags import find_flags
    about = about or evidence(judge(), judge("taste", is_gold=False, is_model=True, is_trainer=True))
    return report_page(subject, complete(subject, about, SETTINGS), rows, find_flags(subject, about), SETTINGS["command"])


def test_it_loads_nothing_and_is_small():
    html = page()
    assert len(html.encode()) < 500_000
    assert "default-src 'none'" in html
    addresses = re.findall(r'(?:src|href)\s*=\s*"([^"]*)"', html)
    assert all(address.startswith("#") for address in addresses), addresses
    assert not re.search(r"url\((?!#)", html) and "<script" not in html.lower() and "@import" not in html


def test_texts_stand_in_it_as_text():
    html = page()
    assert "&lt;script&gt;alert(" in html and "{{ 7 * 7 }}" in html


def test_where_files_lie_on_this_machine_stays_private():
    html = page()
    assert "/home/somebody" not in html and "taste" in html and "77" in html


def test_figures_are_svg_with_a_title_and_the_colour_of_the_page():
    figures = re.findall(r"<svg.*?</svg>", page(), flags=re.S)
    assert len(figures) == 4
    for svg in figures:
        root = ET.fromstring(re.sub(r'\sxlink:href="[^"]*"', "", svg).replace("xmlns:xlink", "xmlns:x"))
        assert root.get("aria-label") and root.get("viewBox") and root.get("width") is None
        assert "currentColor" in svg and "#010203" not in svg


def test_samples_are_of_different_prompts_and_always_the_same():
    chosen = chosen_samples(ROWS, 0)
    assert len({row["prompt"] for row in chosen}) == len(chosen) == 6
    assert chosen == chosen_samples(ROWS, 0) != chosen_samples(ROWS, 1)
    long = chosen_samples([{"prompt": [{"role": "user", "content": "Hi"}], "response": "x" * 9999}], 0)
    assert len(long[0]["response"]) < LONGEST_TEXT + 9 and long[0]["prompt"] == "user: Hi"


def test_it_says_what_it_does_not_know():
    bare = page(Subject("found", None, None), about=evidence())
    assert "no_judge" in bare and "There is no run folder" in bare
    reward = reward_run(0.7, 100)
    row = judge("taste", is_gold=False)
    for name in ("win_rate", "win_rate_low", "win_rate_high"):
        row.pop(name)
    about = {name: value for name, value in evidence(row).items() if name in ("prompts", "samples", "per_prompt", "judges", "notes")}
    html = page(reward, [{"prompt": "p", "response": "r", "scores": {"taste": 0.5}}], about)
    assert "What it scores" in html and "70%" in html and "nats of KL" not in html


def test_a_judge_that_only_compares_has_no_scores():
    row = judge("judge=model", length_share={"share": None, "of": None, "correlation": None}, histograms=None)
    row.pop("score"), row.pop("score_against")
    rows = [{"prompt": "p", "response": "r", "against": "a"}]
    assert "judge=model" in page(about=evidence(row), rows=rows)


def test_the_folder_holds_all_files_or_none(tmp_path):
    about = evidence(judge())
    report = complete(RUN, about, SETTINGS)
    write_report(tmp_path / "report", RUN, report, ROWS)
    assert sorted(file.name for file in (tmp_path / "report").iterdir()) == sorted(FILES)
    assert read_json(tmp_path / "report" / "report.json")["flags"] == report["flags"] == []
    width, height = struct.unpack(">II", (tmp_path / "report" / "card.png").read_bytes()[16:24])
    assert (width, height) == (1200, 630)
    (tmp_path / "file").write_text("")
    from rlhf_engine.errors import UserError
    with pytest.raises(UserError, match="cannot be written"):
        write_report(tmp_path / "file" / "report", RUN, report, ROWS)
