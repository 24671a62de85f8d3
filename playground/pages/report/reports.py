"""The reports that a page may show: those of the workspace, and those that ship with the gallery."""

from pathlib import Path

from playground.pages.report import text
from playground.run_files import Version, version_of
from playground.workspace import Workspace
from rlhf_engine.files import ASSETS

PAGE, CARD = "report.html", "card.png"
GALLERY = ASSETS / "reports"
"""The reports about the adapters that ship with the project."""
LARGEST = 2_000_000
"""Bytes of a report that is shown. Ours have a quarter of that at most."""


def report_folders(workspace: Workspace) -> dict[str, Path]:
    """Readable name -> folder of each report: those of the workspace first, the newest first."""
    own = sorted(workspace.home.joinpath("reports").glob(f"*/{PAGE}"), key=lambda file: -file.stat().st_mtime)
    folders = {file.parent.name: file.parent for file in own}
    for file in sorted(GALLERY.glob(f"*/{PAGE}")):
        folders[text.FROM_GALLERY.format(name=file.parent.name.capitalize())] = file.parent
    return folders


def report_versions(workspace: Workspace) -> dict[str, Version]:
    """The version of each report, by its readable name."""
    return {name: version_of(folder / PAGE) for name, folder in report_folders(workspace).items()}


def read_page(folder: Path) -> str:
    """The page of a report; "" if it is gone or too large."""
    try:
        file = folder / PAGE
        return file.read_text(encoding="utf-8") if file.stat().st_size <= LARGEST else ""
    except (OSError, ValueError):
        return ""
