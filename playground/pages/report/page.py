"""The Report page: make a report about a run, read it, take it along, and start the runs that must be seen through."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from playground.components import html as views
from playground.components.html import render
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, warn
from playground.pages.report import text
from playground.pages.report.leaderboard import LeaderboardPanel
from playground.pages.report.reports import CARD, PAGE, read_page, report_folders, report_versions
from playground.run_commands import WorkerHandle
from playground.workspace import RunSummary, Workspace, fresh, gallery
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.labelers import RANDOM
from rlhf_engine.feedback.scoring_functions import BUILT_IN

CONTROLS = {
    "random": ("teach", {"labeler": RANDOM}),
    "shuffled": ("reward", {"shuffle_labels": True}),
    "length": ("ppo", {"reward": "long", "steps": 30}),
}
"""Each negative control: its stage and its settings."""


class ReportPage:
    """Builds its components inside the current `gr.Blocks`."""

    def __init__(self, workspace: Workspace, worker: WorkerHandle, notice: gr.HTML):
        self.workspace, self.worker, self.notice = workspace, worker, notice
        gr.Markdown(text.ABOUT, container=False)
        with gr.Row(elem_classes="fields"):
            self.subject = Choice(self._subjects(), value=None, label=text.SUBJECT, info=text.SUBJECT_INFO,
                                  elem_id="report-subject", min_width=220, elem_classes="owners")
            self.judges = gr.Dropdown(self._judges(), value=[], multiselect=True, label=text.JUDGES,
                                      info=text.JUDGES_INFO, elem_id="report-judges", min_width=220,
                                      elem_classes="owners")
        with gr.Row(elem_classes="controls"):
            self.make = gr.Button(text.MAKE, variant="primary", size="sm", elem_id="report-make",
                                  elem_classes="owners")
        self.status = gr.HTML("", elem_id="report-status", apply_default_css=False)
        with gr.Accordion(text.CONTROLS, open=False, elem_id="report-controls", elem_classes="owners"):
            gr.Markdown(text.CONTROLS_ABOUT, container=False)
            with gr.Row(elem_classes="run-choice"):
                kinds = [(title, kind) for kind, title in text.CONTROL_KINDS.items()]
                self.control = gr.Dropdown(kinds, value="random", label=text.CONTROL, elem_id="report-control",
                                           min_width=220, scale=3)
                self.start = gr.Button(text.CONTROL_START, size="sm", elem_id="report-control-start", scale=1)
        self.board = LeaderboardPanel(workspace)
        with gr.Row(elem_classes="run-choice"):
            self.shown = Choice([], value=None, label=text.SHOWN, elem_id="report-shown", min_width=220, scale=3)
            self.download = gr.DownloadButton(text.DOWNLOAD, size="sm", visible=False, elem_id="report-download")
            self.card = gr.DownloadButton(text.CARD, size="sm", visible=False, elem_id="report-card")
        self.frame = gr.HTML(views.empty(text.NO_REPORT), elem_id="report-frame", apply_default_css=False)
        self._bind()

    def _bind(self) -> None:
        self.make.click(self._make, {self.subject, self.judges},
                        [self.notice, self.status, self.make, self.shown, self.frame, self.download, self.card],
                        concurrency_id="report", show_progress="hidden", trigger_mode="once", api_visibility="private")
        self.start.click(self._start, self.control, self.notice, concurrency_id="control",
                         show_progress_on=self.start, show_progress="minimal", trigger_mode="once",
                         api_visibility="private")
        self.shown.input(self._show, self.shown, [self.frame, self.download, self.card], queue=False,
                         show_progress="hidden", trigger_mode="always_last", api_visibility="private")

    # -- what its buttons do -------------------------------------------------------------------------------------------

    def _make(self, values: dict) -> Iterator[dict]:
        """Updates while the worker makes a report; then it is shown."""
        name = str(values[self.subject] or "")
        if not name:
            yield {self.notice: views.notice(text.NOTHING_CHOSEN)}
            return
        yield {self.notice: "", self.make: gr.update(interactive=False),
               self.status: views.empty(text.WAITING.format(name=name), status=True)}
        last = "waiting"
        try:
            for status in self.worker.report(name, judges=list(values[self.judges] or [])):
                if status["state"] != last and status["state"] == "measuring":
                    yield {self.status: views.empty(text.MEASURING.format(name=name), status=True)}
                last = status["state"]
            folders = report_folders(self.workspace)
            made = name.replace("@", "-at-")
            yield {self.status: "", self.make: gr.update(interactive=True),
                   self.shown: gr.update(choices=list(folders), value=made), **self._shown(made)}
        except UserError as error:
            yield {self.notice: warn(error), self.status: "", self.make: gr.update(interactive=True)}

    def _start(self, kind: str) -> str:
        """Start a negative control; returns the line for the top of the page."""
        stage, settings = CONTROLS[kind]
        try:
            run = self.worker.start(stage, self.workspace.settings(stage, settings))
        except UserError as error:
            return warn(error)
        return inform(text.CONTROL_STARTED.format(name=run.replace("\\", "/").rpartition("/")[2]))

    def _show(self, name: str) -> list:
        """The frame and the two buttons for a report."""
        changes = self._shown(str(name or ""))
        return [changes[self.frame], changes[self.download], changes[self.card]]

    def _shown(self, name: str) -> dict:
        """Updates that show a report."""
        folder = report_folders(self.workspace).get(name)
        page = read_page(folder) if folder else ""
        if not folder or not page:
            return {self.frame: views.empty(text.NO_REPORT), self.download: gr.update(visible=False),
                    self.card: gr.update(visible=False)}
        return {self.frame: render("report/report.html", title=text.FRAME.format(name=name), page=page),
                self.download: self._offer(folder / PAGE), self.card: self._offer(folder / CARD)}

    def _offer(self, file: Path) -> dict:
        """The update of a download button: a copy of the file, under a path that nobody can guess."""
        try:
            copy = fresh(Path(self.download.GRADIO_CACHE), "report") / f"{file.parent.name}-{file.name}"
            shutil.copyfile(file, copy)
        except (UserError, OSError):  # there is no such file, or no room for the copy
            return gr.update(value=None, visible=False)
        return gr.update(value=str(copy), visible=True)

    # -- what changed --------------------------------------------------------------------------------------------------

    def _subjects(self) -> list[tuple[str, str]]:
        """(readable name, name) of what a report may be about: runs with a checkpoint, then the gallery."""
        runs = [(entry.name, entry.name) for entry in self.workspace.entries()
                if entry.checkpoints and not entry.alive]
        return [*runs, *gallery()]

    def _judges(self) -> list[tuple[str, str]]:
        """(readable name, judge) of what may judge: reward runs, then built-in scores."""
        return [*self.workspace.reward_choices(), *((name, name) for name in BUILT_IN)]

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.shown}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.subject, self.judges, self.shown, self.frame, self.download, self.card]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """The choices and the report, where they are not those that a browser has seen."""
        changes: dict = {}
        subjects, judges = self._subjects(), self._judges()
        if mark_seen(seen, "report subjects", [subjects, judges]):
            changes[self.subject] = gr.update(choices=subjects)
            changes[self.judges] = gr.update(choices=judges)
        versions = report_versions(self.workspace)
        shown = values[self.shown] if values[self.shown] in versions else next(iter(versions), None)
        if mark_seen(seen, "reports", list(versions.items())):
            changes[self.shown] = gr.update(choices=list(versions), value=shown)
            changes.update(self._shown(shown or ""))
        return changes
