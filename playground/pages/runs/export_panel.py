"""Take it along: a checkpoint as a folder that others load, made beside the page, and onto the Hub. For owners, on the Runs page."""

import shutil
from pathlib import Path

import gradio as gr

from playground import text as app_text
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.html import escape
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, warn
from playground.pages.runs import text
from playground.server import text as server_text
from playground.server.export_jobs import Exports, how_to_load
from playground.workspace import RunSummary, Workspace, fresh, gallery
from rlhf_engine.errors import UserError


class ExportPage:
    """The process is nobody's to wait for: `refresh` tells whoever looks how it stands."""

    def __init__(self, workspace: Workspace, notice: gr.HTML):
        self.workspace, self.notice, self.exports = workspace, notice, Exports(workspace)
        self._zips: dict[str, Path] = {}
        with gr.Accordion(text.TAKE_ALONG, open=False, elem_id="take-along", elem_classes="owners"):
            gr.Markdown(text.TAKE_ABOUT, container=False)
            with gr.Row(elem_classes="run-choice"):
                self.pick = Choice([], value=None, label=text.TAKE_PICK, elem_id="take-pick", min_width=220, scale=3)
                self.kind = gr.Radio([(title, kind) for kind, title in text.TAKE_KINDS.items()], value="adapter", label=text.TAKE_KIND,
                                     elem_id="take-kind", min_width=220, scale=2)
            with gr.Row(elem_classes="fields fit"):
                self.repo = gr.Textbox(label=text.TAKE_REPO, info=text.TAKE_REPO_INFO, placeholder="OWNER/NAME", max_lines=1, elem_id="take-repo")
                self.private = gr.Checkbox(True, label=text.TAKE_PRIVATE, info=text.TAKE_PRIVATE_INFO, elem_id="take-private")
            with gr.Row(elem_classes="controls"):
                self.make = gr.Button(text.TAKE_MAKE, variant="primary", size="sm", elem_id="take-make", elem_classes="once")
                self.download = gr.DownloadButton(shared_text.DOWNLOAD, size="sm", visible=False, elem_id="take-download")
            self.status = gr.HTML("", elem_id="take-status", apply_default_css=False)
        self.make.click(self._make, {self.pick, self.kind, self.repo, self.private}, [self.notice, self.status], concurrency_id="control",
                        show_progress_on=self.make, show_progress="minimal", trigger_mode="once", api_visibility="private")

    def _make(self, values: dict) -> dict:
        try:
            name = self.exports.start(values[self.pick], merge=values[self.kind] == "merged", push=str(values[self.repo] or "").strip(),
                                      public=values[self.private] is False)
        except UserError as error:
            return {self.notice: warn(error)}
        return {self.notice: inform(text.TAKE_BEGUN.format(name=name)), self.status: going(name, "")}

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.pick}

    @property
    def outputs(self) -> list:
        return [self.pick, self.download, self.status]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates as on the other pages; for a visitor there are none."""
        if not self.workspace.access.owner():
            return {}
        changes, choices = {}, offered(self.workspace, entries)
        if mark_seen(seen, "take offered", choices):
            gone = values[self.pick] not in [value for _, value in choices]
            changes[self.pick] = gr.update(choices=choices, **({"value": choices[0][1]} if gone else {}))
        export = self.exports.look()
        if mark_seen(seen, "take", export):
            changes |= self._show(export)
        return changes

    def _show(self, export: dict) -> dict:
        hidden = {self.download: gr.update(visible=False)}
        if not export:
            return hidden | {self.status: ""}
        name, state = export["name"], export["state"]
        if state == "running":
            return hidden | {self.status: going(name, export["said"])}
        trouble = views.notice(export["said"] or server_text.TAKE_ENDED) if state == "failed" else ""
        if not export["there"]:
            return hidden | {self.status: trouble or ""}
        folder = self.exports.folder / name
        codes = "".join(f"<pre><code>{escape(code)}</code></pre>" for code in how_to_load(folder))
        done = f'{trouble}<p role="status">{escape(text.TAKE_DONE.format(folder=folder))}</p>{codes}'
        file = None if export["merge"] else self._zip(folder)
        label = shared_text.DOWNLOAD.format(name=file.name) if file else ""
        return {self.status: f'<div class="taken">{done}</div>',
                self.download: gr.update(value=str(file), label=label, visible=True) if file else gr.update(visible=False)}

    def _zip(self, folder: Path) -> Path | None:
        """An adapter's folder as one file, made once, where only who is told its name can fetch it; None where there is no room for it."""
        if folder.name not in self._zips or not self._zips[folder.name].is_file():
            try:
                place = fresh(Path(self.download.GRADIO_CACHE), "export") / folder.name
                self._zips[folder.name] = Path(shutil.make_archive(str(place), "zip", folder.parent, folder.name))
            except (UserError, OSError):
                return None
        return self._zips[folder.name]


def going(name: str, said: str) -> str:
    line = escape(text.TAKE_GOING.format(name=name, said=said or text.TAKE_STARTS))
    return (f'<p class="empty" role="status">{line}</p><div class="bar unknown" role="progressbar" aria-label="{line}"><i></i></div>')


def offered(workspace: Workspace, entries: list[RunSummary]) -> list[tuple[str, str]]:
    """(readable name, choice) of every policy's checkpoint, newest runs first, and of what ships with the bundled model."""
    found = []
    for entry in entries:
        if entry.stage != "reward" and entry.checkpoints:
            found.append((app_text.RUN_NEWEST.format(name=entry.name), entry.name))
            found += [(app_text.RUN_STEP.format(name=entry.name, step=int(c.removeprefix("step-"))), f"{entry.name}@{c}")
                      for c in reversed(entry.checkpoints)]
    return [*found, (app_text.SFT_BUNDLED, "bundled"), *gallery()]
