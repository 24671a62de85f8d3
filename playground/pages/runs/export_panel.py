"""The panel "Take it along" on the Runs page, for owners: a checkpoint as a folder that others can load, and onto the
Hub."""

import shutil
from pathlib import Path

import gradio as gr
from markupsafe import Markup

from playground import text as app_text
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.html import render
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, warn
from playground.pages.runs import text
from playground.server import text as server_text
from playground.server.export_jobs import Exports, how_to_load
from playground.workspace import RunSummary, Workspace, fresh, gallery
from rlhf_engine.errors import UserError
from rlhf_engine.runs.folder import step_of
from rlhf_engine.stages import STAGES


class ExportPage:
    """An export runs in a process of its own, and no event waits for it: `refresh` shows how far it is."""

    def __init__(self, workspace: Workspace, notice: gr.HTML, runs: Choice | None = None):
        self.workspace, self.notice, self.exports = workspace, notice, Exports(workspace)
        self.runs = runs
        """The picker of the runs on the page, of which the first is offered first."""
        self._zips: dict[str, Path] = {}
        with gr.Accordion(text.TAKE_ALONG, open=False, elem_id="take-along", elem_classes="owners"):
            gr.Markdown(text.TAKE_ABOUT, container=False)
            with gr.Row(elem_classes="run-choice"):
                self.pick = Choice([], value=None, label=text.TAKE_PICK, elem_id="take-pick", min_width=220, scale=3)
                kinds = [(title, kind) for kind, title in text.TAKE_KINDS.items()]
                self.kind = gr.Radio(kinds, value="adapter", label=text.TAKE_KIND, elem_id="take-kind", min_width=220,
                                     scale=2)
            with gr.Row(elem_classes="fields fit"):
                self.repo = gr.Textbox(label=text.TAKE_REPO, info=text.TAKE_REPO_INFO, placeholder="OWNER/NAME",
                                       max_lines=1,
                                       elem_id="take-repo")
                self.private = gr.Checkbox(True, label=text.TAKE_PRIVATE, info=text.TAKE_PRIVATE_INFO,
                                           elem_id="take-private")
            with gr.Row(elem_classes="controls"):
                self.make = gr.Button(text.TAKE_MAKE, variant="primary", size="sm", elem_id="take-make",
                                      elem_classes="once")
                self.download = gr.DownloadButton(shared_text.DOWNLOAD, size="sm", visible=False,
                                                  elem_id="take-download")
            self.status = gr.HTML("", elem_id="take-status", apply_default_css=False)
        self.make.click(self._make, {self.pick, self.kind, self.repo, self.private},
                        [self.notice, self.status, self.download],
                        concurrency_id="control",
                        show_progress_on=self.make, show_progress="minimal", trigger_mode="once",
                        api_visibility="private")

    def _make(self, values: dict) -> dict:
        try:
            name = self.exports.start(values[self.pick], merge=values[self.kind] == "merged",
                                      push=str(values[self.repo] or "").strip(), public=values[self.private] is False)
        except UserError as error:
            return {self.notice: warn(error)}
        return {self.notice: inform(text.TAKE_BEGUN.format(name=name)), self.status: progress(name, ""),
                self.download: gr.update(visible=False)}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.pick, *([self.runs] if self.runs else [])}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.pick, self.download, self.status]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates as on the other pages; none for a visitor."""
        if not self.workspace.access.owner():
            return {}
        changes, choices = {}, offered(self.workspace, entries)
        first = self._first(values, entries, choices)
        gone = values[self.pick] not in [value for _, value in choices]
        follows = values[self.pick] == seen.get("take first")  # nobody has chosen another one
        if mark_seen(seen, "take offered", choices):
            changes[self.pick] = gr.update(choices=choices)
        if mark_seen(seen, "take first", first) and (gone or follows) or gone:
            changes[self.pick] = gr.update(choices=choices, value=first)
        export = self.exports.look()
        if mark_seen(seen, "take", export):
            changes.update(self._show(export))
        return changes

    def _first(self, values: dict, entries: list[RunSummary], choices: list[tuple[str, str]]) -> str:
        """What is chosen until somebody chooses: the newest checkpoint of the first run that the page shows."""
        picked = values[self.runs] if self.runs else None
        offered_values = [value for _, value in choices]
        names = [name for name in picked or [entry.name for entry in entries] if name in offered_values]
        return names[0] if names else offered_values[0]

    def _show(self, export: dict) -> dict:
        """Updates for the last export: how far it is, and when it is done how to load it."""
        changes = {self.download: gr.update(visible=False), self.status: ""}
        if not export:
            return changes
        name, state = export["name"], export["state"]
        if state == "running":
            changes[self.status] = progress(name, export["said"])
            return changes
        trouble = views.notice(export["said"] or server_text.TAKE_ENDED) if state == "failed" else ""
        if not export["there"]:
            changes[self.status] = trouble
            return changes
        folder = self.exports.folder / name
        changes[self.status] = render("runs/export_done.html", trouble=trouble,
                                      line=text.TAKE_DONE.format(folder=folder),
                                      codes=how_to_load(folder))
        file = None if export["merge"] else self._zip(folder)
        if file:
            label = shared_text.DOWNLOAD.format(name=file.name)
            changes[self.download] = gr.update(value=str(file), label=label, visible=True)
        return changes

    def _zip(self, folder: Path) -> Path | None:
        """The folder of an adapter as one file, made once, under a path that nobody can guess. None if there is no room
        for it."""
        if folder.name not in self._zips or not self._zips[folder.name].is_file():
            try:
                target = fresh(Path(self.download.GRADIO_CACHE), "export") / folder.name
                self._zips[folder.name] = Path(shutil.make_archive(str(target), "zip", folder.parent, folder.name))
            except (UserError, OSError):
                return None
        return self._zips[folder.name]


def progress(name: str, line: str) -> Markup:
    """An export that is being made; `line` is the last line of its command."""
    return render("runs/export_progress.html", line=text.TAKE_GOING.format(name=name, said=line or text.TAKE_STARTS))


def offered(workspace: Workspace, entries: list[RunSummary]) -> list[tuple[str, str]]:
    """(readable name, choice) of every checkpoint of a policy, newest runs first, then of the adapters that ship with
    the project."""
    choices = []
    for entry in entries:
        if makes_policy(entry.stage) and entry.checkpoints:
            choices.append((app_text.RUN_NEWEST.format(name=entry.name), entry.name))
            for checkpoint in reversed(entry.checkpoints):
                title = app_text.RUN_STEP.format(name=entry.name, step=step_of(Path(checkpoint)))
                choices.append((title, f"{entry.name}@{checkpoint}"))
    return [*choices, (app_text.SFT_BUNDLED, "bundled"), *gallery()]


def makes_policy(stage: str) -> bool:
    """Whether the runs of a stage train a policy."""
    return stage not in STAGES or STAGES[stage].makes == "policy"
