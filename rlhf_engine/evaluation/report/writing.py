"""A report from beginning to end: measure, judge in words, and write the folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.errors import UserError, noop
from rlhf_engine.evaluation.report.evidence import Judge, measure_policy, measure_reward
from rlhf_engine.evaluation.report.flags import find_flags, reward_findings
from rlhf_engine.evaluation.report.subject import Subject
from rlhf_engine.files import json_lines, write_json, write_text
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling

FILES = ("report.html", "report.json", "samples.jsonl", "card.png")
"""What a report consists of."""


def measure(backbone: Backbone, role: str | None, against: str | None, subject: Subject, prompts: list[Prompt],
            judges: Sequence[Judge], *, per_prompt: int, sampling: Sampling, seed: int,
            on_microbatch: Callable[[], None] = noop) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The evidence about a subject: of a policy beside its start, or of a reward model about itself.

    A reward model is the first of `judges`, and `against` is the policy whose responses it scores.
    """
    options: dict[str, Any] = {"per_prompt": per_prompt, "sampling": sampling, "seed": seed,
                               "on_microbatch": on_microbatch}
    if subject.makes == "reward":
        return measure_reward(backbone, against, prompts, judges[0], **options)
    return measure_policy(backbone, role, against, prompts, judges, **options)


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
    new = not output.exists()
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_text(output / "samples.jsonl", json_lines(rows))
        (output / "card.png").write_bytes(card)
        write_text(output / "report.html", page)
        write_json(output / "report.json", report)
    except OSError as error:
        for name in FILES:
            (output / name).unlink(missing_ok=True)
        if new and output.is_dir():
            output.rmdir()
        raise UserError(f"{output} cannot be written ({error.strerror or error}): make room or get the right to write "
                        "there, or name another folder with --output") from None
