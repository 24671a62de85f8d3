"""report.json and the other files of a report."""

from pathlib import Path
from typing import Any

from rlhf_engine.evaluation.report.flags import find_flags, reward_findings
from rlhf_engine.evaluation.report.subject import Subject
from rlhf_engine.files import json_lines, json_text, write_together

FILES = ("report.html", "report.json", "samples.jsonl", "card.png")
"""What a report consists of."""


def complete(subject: Subject, evidence: dict[str, Any], settings: dict[str, Any],
             reward: Subject | None = None) -> dict[str, Any]:
    """report.json: the settings, the evidence, what was found about unseen labels, and the flags.

    `settings` has `model`, `adapter`, `against_name` and `seed` at least. `reward`: the reward run that the subject was
    trained on, if there is one.
    """
    findings = reward_findings(subject, reward)
    flags = find_flags(subject, evidence, reward)
    return {**settings, "name": subject.name, "stage": subject.stage, "step": subject.step, "makes": subject.makes,
            **evidence, "findings": [vars(finding) for finding in findings],
            "flags": [flag.name for flag in flags], "verdicts": [flag.to_dict() for flag in flags]}


def write_report(output: Path, subject: Subject, report: dict[str, Any], rows: list[dict[str, Any]],
                 reward: Subject | None = None) -> None:
    """Write the four files of a report, all or none. Raises UserError where they cannot be written."""
    from rlhf_engine.evaluation.report.card import report_card
    from rlhf_engine.evaluation.report.html import report_page
    flags = find_flags(subject, report, reward)
    page = report_page(subject, report, rows, flags, report["command"])
    card = report_card(subject, report, rows, flags)
    write_together(output, {"samples.jsonl": json_lines(rows), "card.png": card, "report.html": page,
                            "report.json": json_text(report, indent=1) + "\n"})
