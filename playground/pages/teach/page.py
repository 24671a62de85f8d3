"""The Teach page: one question at a time, what the answers do to the reward, and what the policy says now."""

import secrets
import time

import gradio as gr

from playground import text as app_text
from playground.components import charts as figures
from playground.components import html as views
from playground.components import text as shared_text
from playground.components.extend_run import ExtendRunPanel
from playground.components.inputs import Choice
from playground.components.notices import inform, mark_seen, size_of, warn
from playground.components.plots import LivePlot
from playground.pages.teach import text
from playground.pages.teach import views as vote_views
from playground.pages.teach.vote_card import Card
from playground.voting import PERSON, VotingService, choice_of, voter_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.queries import find_query
from rlhf_engine.runs.folder import Run

HEIGHT = 205
"""Of a plot, in pixels. A plot that is hidden at first has to be told when it is shown."""


class TeachPage:
    def __init__(self, workspace: Workspace, worker, ballot: VotingService, voter: gr.BrowserState, notice: gr.HTML):
        self.workspace, self.worker, self.ballot, self.voter, self.notice = workspace, worker, ballot, voter, notice
        with gr.Accordion(text.PATH, open=True) as self.path:
            gr.HTML(vote_views.path(), elem_id="path", apply_default_css=False)
        with gr.Column(elem_id="begin", elem_classes="starts") as self.starting:
            gr.Markdown(text.BEGIN_ABOUT, container=False)
            with gr.Row(elem_classes="controls"):
                self.begin = gr.Button(text.BEGIN, variant="primary", elem_id="begin-person", elem_classes="once")
                self.watch = gr.Button(text.WATCH, elem_id="begin-watch", elem_classes="once")
                self.taste = gr.Dropdown([(name, value) for value, name in text.TASTES.items()], value=next(iter(text.TASTES)),
                                         label=text.WATCHED, elem_id="begin-taste", container=False, min_width=160)
        with gr.Column(visible=False) as self.scene:
            with gr.Row():
                with gr.Column(scale=8, min_width=320) as asks:
                    self.status = gr.HTML("", elem_id="vote-status", apply_default_css=False, visible=False)
                    self.card = Card(self._card("", ""), elem_id="vote-card")
                with gr.Column(scale=4, min_width=320):
                    self.picker = Choice([(shared_text.FOLLOW, "")], value="", label=shared_text.RUN_LABEL, elem_id="vote-run", visible=False)
                    self.effect = gr.HTML(vote_views.effect([]), elem_id="vote-effect", apply_default_css=False)
                    with gr.Column(elem_classes="plot-grid single"):
                        self.plots = [LivePlot(figures.empty_figure(), height=HEIGHT, elem_id=f"vote-plot-{i + 1}", visible=i < 2)
                                      for i in range(3)]
            with gr.Accordion(text.FIXED, open=True):
                self.fixed = gr.HTML(vote_views.fixed([]), elem_id="fixed", apply_default_css=False)
            with gr.Accordion(text.EXTREMES, open=True):
                self.extremes = gr.HTML(vote_views.extremes([]), elem_id="extremes", apply_default_css=False)
            with gr.Accordion(text.FORMULAS, open=True):
                self.formulas = gr.HTML(vote_views.formulas({}, []), elem_id="formulas", apply_default_css=False)
        with asks:
            self.longer = ExtendRunPanel(workspace, worker, notice, "vote-", self.picker, self._shown)
        self.card.vote(self._vote, {self.card, self.voter}, [self.notice, self.card, self.status], queue=False, show_progress="hidden",
                       trigger_mode="multiple", api_visibility="private")
        control = {"concurrency_id": "control", "concurrency_limit": 4, "api_visibility": "private", "show_progress": "minimal"}
        self.begin.click(lambda: self._begin(PERSON), None, [self.notice, self.picker], show_progress_on=self.begin, **control)
        self.watch.click(self._begin, self.taste, [self.notice, self.picker], show_progress_on=self.watch, **control)

    def _shown(self, picked: str) -> str:
        return picked or next((entry.name for entry in self.ballot.taught(self.workspace.entries())), "")

    def _begin(self, labeler: str) -> dict:
        """Start a run with the defaults, taught by a person or by a built-in labeler."""
        try:
            if labeler != PERSON and labeler not in text.TASTES:
                raise UserError(text.NO_TASTE.format(labeler=labeler))
            run = self.worker.start("teach", self.workspace.settings("teach", {"labeler": labeler}))
        except UserError as error:
            return {self.notice: warn(error)}
        return {self.notice: inform(shared_text.STARTED.format(name=self.workspace.name_of(run))), self.picker: ""}

    def _vote(self, values: dict, event: gr.EventData) -> dict:
        """Take an answer, and show the next question at once."""
        card, voter, choice = values[self.card], voter_of(values[self.voter]), event.choice
        try:
            run = self.workspace.run(card["run"])
            if choice == "undo":
                following = self._undo(run, card, voter)
            else:
                self.ballot.vote(run, card["query"], choice, card["event"], voter, event.seconds)
                same = find_query(run, card["query"]) if ":" in choice else None  # a remark leaves the question where it is
                following = self._card(run.path.name, voter, query=same)
            return {self.notice: "", self.card: following, self.status: self._status(run)}
        except UserError as error:  # the card is answered, so that its buttons work again
            return {self.notice: warn(error), self.card: card | {"time": time.time()}}

    def _undo(self, run: Run, card: dict, voter: str) -> dict:
        """What was asked comes back, to be answered again."""
        vote = self.ballot.undo(run, f"{card['event']} undo", voter)
        if vote is None:
            return self._card(run.path.name, voter)
        query = self.ballot.asked(run, vote)
        said = (text.UNDONE if query else text.UNDONE_GONE).format(choice=choice_of(vote), prompt=shortened(views.said(vote.prompt)))
        return self._card(run.path.name, voter, query=query, said=said)

    def _card(self, name: str, voter: str, *, query=None, said: str = "") -> dict:
        """The next question of a run, or why there is none, under a fresh event id."""
        asks = name and self.workspace.config(name).get("labeler") == PERSON
        query = query or (self.ballot.next(self.workspace.run(name), voter) if asks else None)
        if query:
            html = vote_views.question(query.prompt, query.responses, said, self.ballot.remarks(self.workspace.run(name), query, voter))
        elif asks or not name:
            html = vote_views.no_question(self.ballot.why_silent(name), said, undo=bool(name))
        else:
            votes = [row for row in self.workspace.run(name).samples() if "vote" in row]
            html = vote_views.watched(name, self.workspace.config(name), votes[-1] if votes else None)
        return {"run": name, "query": query.id if query else "", "event": secrets.token_hex(16), "html": html}

    def _status(self, run: Run) -> dict:
        config = self.workspace.effective_settings(run.path.name)
        votes = self.ballot.votes(run)
        if config["labeler"] != PERSON:
            votes = int(max((row.get("reward/votes", 0) for row in run.metrics()), default=0))
        return gr.update(value=vote_views.vote_status(run.path.name, run.status(), votes, config["votes"]), visible=True)

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.picker, self.card, self.voter}

    @property
    def outputs(self) -> list:
        return [self.path, self.starting, self.scene, self.picker, self.card, self.voter, self.status, self.effect, *self.plots, self.fixed,
                self.extremes, self.formulas, *self.longer.outputs]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """Updates as on the Train page. A question that somebody may be reading stays, unless it is another run's turn to ask."""
        changes, picked, taught = {}, values[self.picker], self.ballot.taught(entries)
        if mark_seen(seen, "live", busy := any(entry.alive for entry in entries)):
            changes[self.starting] = gr.update(visible=not busy)
        if not values[self.voter] and "voter" not in seen:
            changes[self.voter] = seen["voter"] = secrets.token_hex(16)
        if mark_seen(seen, "vote runs", [(e.name, e.state) for e in taught]):
            names = [(shared_text.RUN_CHOICE.format(name=e.name, stage=shared_text.STAGES[e.stage], state=app_text.STATES[e.state]), e.name) for e in taught]
            gone = picked and picked not in {e.name for e in taught}
            changes[self.picker] = gr.update(choices=[(text.FOLLOW_TAUGHT, ""), *names], visible=len(names) > 1,
                                             **({"value": ""} if gone else {}))
            picked = "" if gone else picked
        entry = next((e for e in taught if e.name == picked or not picked), None)
        changes |= self.longer.refresh(entry, seen)
        if mark_seen(seen, "taught", entry is not None):  # before the first run, what this is about; then the run
            changes |= {self.path: gr.update(open=entry is None), self.scene: gr.update(visible=entry is not None)}
        try:
            mark = self._mark(entry)
            if mark_seen(seen, "vote run", mark):
                changes |= self._show(entry)
            if mark_seen(seen, "vote card", [mark, values[self.card]["event"]]):
                changes |= self._fill(values[self.card], entry.name if entry else "", voter_of(values[self.voter] or seen["voter"]))
            mark_seen(seen, "vote trouble", "")
        except UserError as error:  # the store is out of order, or the run has just gone
            seen.pop("vote run", None)
            if mark_seen(seen, "vote trouble", str(error)):
                changes[self.status] = gr.update(value=views.notice(str(error)), visible=True)
        return changes

    def _fill(self, card: dict, name: str, voter: str) -> dict:
        """A question for an empty card, or for one of another run."""
        if card["run"] == name and card["query"]:
            return {}
        fresh = self._card(name, voter)
        return {} if (fresh["run"], fresh["html"]) == (card["run"], card["html"]) else {self.card: fresh}

    def _mark(self, entry: RunSummary | None) -> list | None:
        if entry is None:
            return None
        folder, files = self.workspace.runs / entry.name, ("metrics.jsonl", "samples.jsonl", "queries.jsonl", "journal.jsonl")
        return [entry.name, entry.state, entry.time, self.ballot.store.head(), *(size_of(folder / file) for file in files)]

    def _show(self, entry: RunSummary | None) -> dict:
        if entry is None:
            return {self.status: gr.update(value="", visible=False), self.effect: vote_views.effect([]), self.fixed: vote_views.fixed([]),
                    self.extremes: vote_views.extremes([]), self.formulas: vote_views.formulas({}, []),
                    **{plot: gr.update(value=figures.empty_figure(), visible=place < 2, height=HEIGHT) for place, plot in enumerate(self.plots)}}
        run, config = self.workspace.run(entry.name), self.workspace.config(entry.name)
        metrics, journal, samples = run.metrics(), run.journal(), run.samples()
        votes = self.ballot.store.events(run=run.id) if config["labeler"] == PERSON else []
        drawn = figures.teach_figures(entry.name, self.workspace.effective_settings(entry.name), metrics, journal)
        return {self.status: self._status(run),
                self.effect: vote_views.effect(journal, config["choices"], vote_views.wins(metrics, votes)),
                self.fixed: vote_views.fixed(samples), self.extremes: vote_views.extremes(samples),
                self.formulas: vote_views.formulas(config, metrics),
                **{plot: gr.update(value=figure, visible=True, height=HEIGHT) if figure else gr.update(visible=False)
                   for plot, figure in zip(self.plots, drawn)}}


def shortened(string: str, length: int = 60) -> str:
    return string if len(string) <= length else f"{string[:length - 1].rstrip()}…"
