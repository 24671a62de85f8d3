"""The feedback half of the Data page: who said what, who agrees with whom; taking back, import and export."""

from pathlib import Path

import gradio as gr

from playground.components import html as views
from playground.components import text as shared_text
from playground.components.data_preview import LOCAL
from playground.components.inputs import Choice
from playground.components.notices import inform, warn
from playground.components.pager import Pager, slice_of, within
from playground.pages.data import feedback_files as exchange
from playground.pages.data import feedback_view, text
from playground.pages.data.feedback_index import GONE, NO_RUN, FeedbackFilter, FeedbackIndex
from playground.server.feedback_backup import STATUS
from playground.voting import voter_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.files import read_json

OFFERED = 50
"""Voters in the filter, the most active ones; any other can be typed in."""


class Feedback:
    """Built inside a `gr.Tab`. The store is read when a browser opens that for the first time, and then whenever its head has moved."""

    def __init__(self, workspace: Workspace, voter: gr.BrowserState, notice: gr.HTML, tab: gr.Tab):
        self.workspace, self.voter, self.notice, self.ledger = workspace, voter, notice, FeedbackIndex(workspace)
        gr.Markdown(text.FEEDBACK_ABOUT, container=False)
        self.kept = gr.HTML("", elem_id="feedback-kept", apply_default_css=False, visible=False)
        self.sums = gr.HTML("", elem_id="feedback-sums", container=True, padding=True, apply_default_css=False,
                            visible=False)
        with gr.Row(elem_classes="fields fit"):
            self.run = Choice([(text.ALL_RUNS, "")], value="", label=text.RUN_FILTER, min_width=170, elem_id="feedback-run")
            kinds = [(text.ALL_KINDS, ""), *((name.capitalize(), kind) for kind, name in text.KINDS_NAMED.items())]
            self.kind = Choice([*kinds, (text.TAKEN_BACK.capitalize(), GONE)], value="", label=text.KIND_FILTER, min_width=170,
                               elem_id="feedback-kind")
            self.by = Choice([(text.ALL_VOTERS, "")], value="", label=text.VOTER_FILTER, allow_custom_value=True, min_width=170,
                             elem_id="feedback-voter")
            self.text = gr.Textbox(label=text.TEXT_FILTER, placeholder=text.TEXT_PLACEHOLDER, min_width=170, elem_id="feedback-text")
        with gr.Accordion(text.IN_AND_OUT, open=False, elem_id="feedback-exchange"):
            with gr.Row(equal_height=True):
                whats = [(title, what) for what, title in text.EXPORTS.items()]
                self.what = Choice(whats, value="pairs", label=text.EXPORT_WHAT, info=text.EXPORT_INFO, scale=4, min_width=240,
                                   elem_id="export-what")
                endings = [(title, ending) for ending, title in text.EXPORT_FILES.items()]
                self.ending = gr.Radio(endings, value="jsonl", label=text.EXPORT_AS, min_width=160, elem_id="export-as")
            with gr.Row(elem_classes="controls"):
                self.make = gr.Button(text.EXPORT_MAKE, size="sm", elem_id="export-make")
                self.download = gr.DownloadButton(shared_text.DOWNLOAD, size="sm", variant="primary", visible=False, elem_id="export-download")
                self.upload = gr.UploadButton(text.IMPORT, size="sm", elem_id="feedback-import", elem_classes="owners")
            self.outcome = gr.HTML("", elem_id="exchange-outcome", apply_default_css=False)
        self.votes = feedback_view.Votes(elem_id="feedback-votes")
        self.pager = Pager("feedback")
        self.opened, self.shown = gr.State(False), gr.State({})
        self.opened.elem_id, self.shown.elem_id = "feedback-opened", "feedback-shown"  # to tell them from the page's own
        self._wire(tab)

    def _wire(self, tab: gr.Tab) -> None:
        filters = [self.run.input, self.kind.input, self.by.input, self.text.change]
        tab.select(lambda values: {self.opened: True, **self._update(values)}, self.inputs, self.outputs, **LOCAL)
        gr.on(filters, self._look, self.inputs, self.outputs, **LOCAL)
        self.pager.wire(self._look, self.inputs, self.outputs, **LOCAL)
        self.votes.retract(self._retract, self.inputs, [self.notice, *self.outputs], queue=False, show_progress="hidden",
                           trigger_mode="multiple", api_visibility="private")
        slow = {"concurrency_id": "exchange", "concurrency_limit": 1, "show_progress_on": self.outcome, "api_visibility": "private"}
        self.make.click(self._export, self.inputs | {self.what, self.ending}, [self.download, self.outcome], **slow)
        gr.on([*filters, self.what.input, self.ending.input], lambda: (gr.update(visible=False), ""), None,
              [self.download, self.outcome], **LOCAL)
        self.upload.upload(self._import, self.inputs | {self.upload}, [self.outcome, *self.outputs], **slow)

    @property
    def inputs(self) -> set:
        return {self.run, self.kind, self.by, self.text, self.opened, self.shown, self.voter}

    @property
    def outputs(self) -> list:
        """The mark of what is shown stands beside it, so that it is what the browser has."""
        return [self.opened, self.shown, self.run, self.by, self.kept, self.sums, self.votes, *self.pager.parts]

    # -- what is shown -----------------------------------------------------------------------------------------------

    def _look(self, values: dict, page: int = 1) -> dict:
        return self._update(values, page) or gr.skip()

    def refresh(self, values: dict, entries: list[RunSummary]) -> dict:
        """Updates for a browser that has opened the tab, where votes have come since."""
        return self._update(values, values[self.shown].get("page", 1)) if values[self.opened] else {}

    def _update(self, values: dict, page: int = 1) -> dict:
        """Updates for all that is not what the browser has."""
        wanted, shown = self._wanted(values), values[self.shown]
        try:
            book = self.ledger.book()
        except UserError as error:
            marks = {"trouble": str(error)}
            return {} if shown == marks else {self.shown: marks, self.sums: gr.update(value=views.notice(str(error)), visible=True),
                                              self.votes: {"html": ""}, **self.pager.show(1, 0)}
        events = self.ledger.chosen(book, wanted)
        (mark, sums), (all_mark, all_sums) = self.ledger.sums(book, wanted), self.ledger.sums(book, FeedbackFilter(voter=self._only(values)))
        page, changes = within(page, len(events)), {}
        kept = read_json(self.workspace.home / STATUS) if self.workspace.access.owner() else None
        marks = {"votes": (book.mark, wanted, page), "sums": (mark, wanted), "choices": all_mark, "page": page, "kept": kept}
        if shown == marks:
            return {}
        names = self._names()
        if marks["votes"] != shown.get("votes"):
            empty = text.NO_VOTE_MATCHES if book.events else text.NO_FEEDBACK
            changes |= {self.votes: feedback_view.votes(events[slice_of(page, len(events))], book.gone, names, empty=empty),
                        **self.pager.show(page, len(events))}
        if marks["sums"] != shown.get("sums"):
            html = feedback_view.sums(sums)
            changes[self.sums] = gr.update(value=html, visible=bool(html))
        if kept != shown.get("kept"):
            html = feedback_view.kept(kept) if kept else ""
            changes[self.kept] = gr.update(value=html, visible=bool(html))
        if marks["choices"] != shown.get("choices"):
            runs = [(feedback_view.run_name(run, names), run or NO_RUN) for run, _ in all_sums.runs.most_common()]
            voters = [(feedback_view.short(voter.name), voter.name) for voter in all_sums.voters[:OFFERED] if voter.name]
            changes |= {self.run: gr.update(choices=[(text.ALL_RUNS, ""), *runs]), self.by: gr.update(choices=[(text.ALL_VOTERS, ""), *voters])}
        return changes | {self.shown: marks}

    def _wanted(self, values: dict) -> FeedbackFilter:
        run, kind, by, search_text = (str(values[part] or "").strip() for part in (self.run, self.kind, self.by, self.text))
        return FeedbackFilter(run, kind, self._only(values) or by, search_text)

    def _only(self, values: dict) -> str:
        """Whose feedback may be seen: "" is everybody's. What people say in a chat is nobody else's."""
        return "" if self.workspace.access.owner() else voter_of(values[self.voter])

    def _names(self) -> dict[str, str]:
        """Names of the runs by the ids under which the store has them."""
        found = {}
        for entry in self.workspace.entries():
            try:
                found[self.workspace.run(entry.name).id] = entry.name
            except (UserError, OSError):
                continue  # it has just gone
        return found

    # -- what is done ------------------------------------------------------------------------------------------------

    def _retract(self, values: dict, event: gr.EventData) -> dict:
        try:
            vote = self.ledger.retract(str(event.event), str(event.retract), voter_of(values[self.voter]))
            notice = inform(text.RETRACTED.format(number=vote.seq))
        except UserError as error:
            notice = warn(error)
        return {self.notice: notice, **self._update(values, values[self.shown].get("page", 1))}

    def _export(self, values: dict) -> dict:
        folder = Path(self.download.GRADIO_CACHE)
        try:
            events = self.ledger.to_export(self._wanted(values))
            path, done = exchange.export(events, str(values[self.what]), str(values[self.ending]), folder)
        except UserError as error:
            return {self.download: gr.update(visible=False), self.outcome: views.notice(str(error))}
        label = shared_text.DOWNLOAD.format(name=path.name)
        return {self.download: gr.update(value=str(path), label=label, visible=True), self.outcome: done_html(done)}

    def _import(self, values: dict) -> dict:
        try:
            self.workspace.access.owners_only()
            done = exchange.import_file(Path(values[self.upload]), self.ledger.path)
        except UserError as error:
            return {self.outcome: views.notice(str(error))}
        # On the page that it is on, as a tick that comes first would leave it.
        return {self.outcome: done_html(done), **self._update(values, values[self.shown].get("page", 1))}


def done_html(line: str) -> str:
    return f'<p role="status">{views.escape(line)}</p>'
