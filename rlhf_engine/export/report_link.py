"""The report that goes with an export: it is about the very weights that are exported, and its card links to it."""

import shutil
from pathlib import Path
from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json_or_none
from rlhf_engine.runs.inputs import folder_hash

PAGE, CARD = "report.html", "card.png"


def read_report(report: Path, adapter: Path) -> dict[str, Any]:
    """report.json of a folder that `report` has written. Raises UserError for any other, and for another adapter's."""
    values = read_json_or_none(report / "report.json")
    if not isinstance(values, dict) or not isinstance(values.get("verdicts"), list) or not (report / PAGE).is_file():
        raise UserError(f"--report {report}: holds no report; make one with the command report")
    if values.get("weights") != folder_hash(adapter):
        raise UserError(f"--report {report}: is about other weights than those that are exported; make the report of "
                        "this adapter")
    return values


def copy_report(report: Path, folder: Path) -> None:
    """Put the report's page and its card beside the weights."""
    for name in (PAGE, CARD):
        if (report / name).is_file():
            shutil.copyfile(report / name, folder / name)


def sentences(values: dict[str, Any]) -> list[str]:
    """What the report says in words: a sentence for each flag."""
    flags = [flag for flag in values["verdicts"] if isinstance(flag, dict)]
    return [f"{flag.get('name', '')}: {flag.get('text', '')}" for flag in flags]
