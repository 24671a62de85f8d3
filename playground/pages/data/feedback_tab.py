"""The feedback half of the Data page: every vote, their summary, taking votes back, and files in and out."""

from pathlib import Path
from typing import Any

import gradio as gr

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.html import render
from playground.components.inputs import QUICK_EVENT, Choice
from playground.components.notices import inform, warn
from playground.components.pager import Pager, slice_of, within
from playground.pages.data import feedback_files, feedback_view, text
from playground.pages.data.feedback_index import GONE, NO_RUN, FeedbackFilter, FeedbackIndex, FeedbackSummary
from playground.server.feedback_backup import STATUS
from playground.voting import voter_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json

MOST_VOTERS = 50
"""The filter offers at most this many voters, the most active ones; any other can be typed in."""
FILE_EVENT: dict[str, Any] = {"concurrency_id": "exchange", "concurrency_limit": 1, "api_visibility": "private"}
"""Options of an event that writes or reads a file, which may take a while: one at a time."""


class Feedback:
    """Built inside a `gr.Tab`. The store is read when a browser opens the tab for the first time, and then whenever it
    has changed."""

    def __init__(self, workspace: Workspace, voter: gr.BrowserState, notice: gr.HTML, tab: gr.Tab):
        self.workspace, self.voter, self.notice, self.index = workspace, voter, notice, FeedbackIndex(workspace)
        gr.Markdown(text.FEEDBACK_ABOUT, container=False)
        self.backup = gr.HTML("", elem_id="feedback-kept", apply_default_css=False, visible=False)
        self.sums = gr.HTML("", elem_id="feedback-sums", container=True, padding=True, apply_default_css=False,
                            visible=False)
        self._build_filters()
        self._build_files()
        self.votes = feedback_view.Votes(elem_id="feedback-votes")
        self.pager = Pager("feedback")
        # The ids tell these states from those of the other pages.
        self.opened, self.shown = gr.State(False), gr.State({})
        self.opened.elem_id, self.shown.elem_id = "feedback-opened", "feedback-shown"
        self._wire(tab)

    def _build_filters(self) -> None:
        with gr.Row(elem_classes="fields fit"):
            self.run = Choice([(text.ALL_RUNS, "")], value="", label=text.RUN_FILTER, min_width=170,
                              elem_id="feedback-run")
            kinds = [(name.capitalize(), kind) for kind, name in text.KINDS_NAMED.items()]
            kinds = [(text.ALL_KINDS, ""), *kinds, (text.TAKEN_BACK.capitalize(), GONE)]
            self.kind = Choice(kinds, value="", label=text.KIND_FILTER, min_width=170, elem_id="feedback-kind")
            self.by = Choice([(text.ALL_VOTERS, "")], value="", label=text.VOTER_FILTER, allow_custom_value=True,
                             min_width=170,
                             elem_id="feedback-voter")
            self.text = gr.Textbox(label=text.TEXT_FILTER, placeholder=text.TEXT_PLACEHOLDER, min_width=170,
                                   elem_id="feedback-text")

    def _build_files(self) -> None:
        with gr.Accordion(text.IN_AND_OUT, open=False, elem_id="feedback-exchange"):
            with gr.Row(equal_height=True):
                kinds = [(title, kind) for kind, title in text.EXPORTS.items()]
                self.what = Choice(kinds, value="pairs", label=text.EXPORT_WHAT, info=text.EXPORT_INFO, scale=4,
                                   min_width=240,
                                   elem_id="export-what")
                endings = [(title, ending) for ending, title in text.EXPORT_FILES.items()]
                self.ending = gr.Radio(endings, value="jsonl", label=text.EXPORT_AS, min_width=160, elem_id="export-as")
            with gr.Row(elem_classes="controls"):
                self.make = gr.Button(text.EXPORT_MAKE, size="sm", elem_id="export-make")
                self.download = gr.DownloadButton(shared_text.DOWNLOAD, size="sm", variant="primary", visible=False,
                                                  elem_id="export-download")
                self.upload = gr.UploadButton(text.IMPORT, size="sm", elem_id="feedback-import", elem_classes="owners")
            self.outcome = gr.HTML("", elem_id="exchange-outcome", apply_default_css=False)

    def _wire(self, tab: gr.Tab) -> None:
        filters = [self.run.input, self.kind.input, self.by.input, self.text.change]
        tab.select(lambda values: {self.opened: True, **self._update(values)}, self.inputs, self.outputs, **QUICK_EVENT)
        gr.on(filters, self._look, self.inputs, self.outputs, **QUICK_EVENT)
        self.pager.wire(self._look, self.inputs, self.outputs, **QUICK_EVENT)
        self.votes.retract(self._retract, self.inputs, [self.notice, *self.outputs], queue=False,
                           show_progress="hidden",
                           trigger_mode="multiple", api_visibility="private")
        self.make.click(self._export, self.inputs | {self.what, self.ending}, [self.download, self.outcome],
                        show_progress_on=self.outcome, **FILE_EVENT)
        gr.on([*filters, self.what.input, self.ending.input], lambda: (gr.update(visible=False), ""), None,
              [self.download, self.outcome], **QUICK_EVENT)
        self.upload.upload(self._import, self.inputs | {self.upload}, [self.outcome, *self.outputs],
                           show_progress_on=self.outcome, **FILE_EVENT)

    @property
    def inputs(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.run, self.kind, self.by, self.text, self.opened, self.shown, self.voter}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update. `shown` is among them: it holds the marks of what the browser
        shows."""
        return [self.opened, self.shown, self.run, self.by, self.backup, self.sums, self.votes, *self.pager.parts]

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _look(self, values: dict, page: int = 1) -> dict:
        return self._update(values, page) or gr.skip()

    def refresh(self, values: dict, entries: list[RunSummary]) -> dict:
        """Updates for a browser that has opened the tab, if there are new events."""
        return self._update(values, values[self.shown].get("page", 1)) if values[self.opened] else {}

    def _update(self, values: dict, page: int = 1) -> dict:
        """Updates for everything that differs from what the browser shows."""
        criteria, shown = self._criteria(values), values[self.shown]
        try:
            snapshot = self.index.snapshot()
        except UserError as error:
            return self._trouble(error, shown)
        events = self.index.select(snapshot, criteria)
        mark, sums = self.index.summary(snapshot, criteria)
        all_mark, all_sums = self.index.summary(snapshot, FeedbackFilter(voter=self._only_voter(values)))
        page = within(page, len(events))
        backup = read_json(self.workspace.home / STATUS) if self.workspace.access.owner() else None
        marks = {"votes": (snapshot.mark, criteria, page), "sums": (mark, criteria), "choices": all_mark, "page": page,
                 "kept": backup}
        if shown == marks:
            return {}
        changes: dict = {self.shown: marks}
        names = self._names()
        if marks["votes"] != shown.get("votes"):
            otherwise = text.NO_VOTE_MATCHES if snapshot.events else text.NO_FEEDBACK
            rows = events[slice_of(page, len(events))]
            changes[self.votes] = feedback_view.votes(rows, snapshot.gone, names, otherwise=otherwise)
            changes.update(self.pager.show(page, len(events)))
        if marks["sums"] != shown.get("sums"):
            html = feedback_view.summary(sums)
            changes[self.sums] = gr.update(value=html, visible=bool(html))
        if backup != shown.get("kept"):
            html = feedback_view.backup_status(backup) if backup else ""
            changes[self.backup] = gr.update(value=html, visible=bool(html))
        if marks["choices"] != shown.get("choices"):
            changes.update(self._choices(all_sums, names))
        return changes

    def _trouble(self, error: UserError, shown: dict) -> dict:
        """Updates where the store cannot be read: the reason in place of the summary, and no votes."""
        marks = {"trouble": str(error)}
        if shown == marks:
            return {}
        return {self.shown: marks, self.sums: gr.update(value=views.notice(str(error)), visible=True),
                self.votes: {"html": ""},
                **self.pager.show(1, 0)}

    def _choices(self, sums: FeedbackSummary, names: dict[str, str]) -> dict:
        """The runs and the voters that the filters offer."""
        runs = [(feedback_view.run_name(run, names), run or NO_RUN) for run, _ in sums.runs.most_common()]
        voters = [(feedback_view.short(voter.name), voter.name) for voter in sums.voters[:MOST_VOTERS] if voter.name]
        return {self.run: gr.update(choices=[(text.ALL_RUNS, ""), *runs]),
                self.by: gr.update(choices=[(text.ALL_VOTERS, ""), *voters])}

    def _criteria(self, values: dict) -> FeedbackFilter:
        """The filter that the fields name."""
        run, kind, voter, search = (str(values[part] or "").strip()
                                    for part in (self.run, self.kind, self.by, self.text))
        return FeedbackFilter(run, kind, self._only_voter(values) or voter, search)

    def _only_voter(self, values: dict) -> str:
        """The one voter whose feedback may be seen: a visitor sees only their own, because votes hold what people wrote
        in a chat.

        "" for an owner, who sees everybody's.
        """
        return "" if self.workspace.access.owner() else voter_of(values[self.voter])

    def _names(self) -> dict[str, str]:
        """Names of the runs by the ids that the store has of them."""
        names = {}
        for entry in self.workspace.entries():
            try:
                names[self.workspace.run(entry.name).id] = entry.name
            except (UserError, OSError):
                continue  # the run has just been removed
        return names

    # -- what is done ------------------------------------------------------------------------------------------------

    def _retract(self, values: dict, event: gr.EventData) -> dict:
        try:
            vote = self.index.retract(str(event.event), str(event.retract), voter_of(values[self.voter]))
            notice = inform(text.RETRACTED.format(number=vote.seq))
        except UserError as error:
            notice = warn(error)
        return {self.notice: notice, **self._update(values, values[self.shown].get("page", 1))}

    def _export(self, values: dict) -> dict:
        folder = Path(self.download.GRADIO_CACHE)
        try:
            events = self.index.to_export(self._criteria(values))
            path, outcome = feedback_files.export_file(events, str(values[self.what]), str(values[self.ending]), folder)
        except UserError as error:
            return {self.download: gr.update(visible=False), self.outcome: views.notice(str(error))}
        label = shared_text.DOWNLOAD.format(name=path.name)
        return {self.download: gr.update(value=str(path), label=label, visible=True),
                self.outcome: outcome_view(outcome)}

    def _import(self, values: dict) -> dict:
        try:
            self.workspace.access.owners_only()
            outcome = feedback_files.import_file(Path(values[self.upload]), self.index.path)
        except UserError as error:
            return {self.outcome: views.notice(str(error))}
        # The page of the list stays the one that the browser shows.
        return {self.outcome: outcome_view(outcome), **self._update(values, values[self.shown].get("page", 1))}


def outcome_view(line: str) -> str:
    """What came of an import or export, as HTML."""
    return render("data/outcome.html", line=line)
