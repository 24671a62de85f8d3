"""The Teach page: one question at a time, what the votes do to the reward, and what the policy says now."""

import secrets
import time
from contextlib import suppress

import gradio as gr

from playground.components import charts
from playground.components import text as shared_text
from playground.components.extend_run import ExtendRunPanel
from playground.components.formatting import last_message, shortened
from playground.components.html import notice as notice_html
from playground.components.inputs import CONTROL_EVENT, Choice, run_choices
from playground.components.notices import inform, mark_seen, refresh_loading, warn
from playground.components.plots import LivePlot
from playground.components.stage_views import model_presets
from playground.pages.teach import text, views
from playground.pages.teach.vote_card import Card
from playground.run_files import (
    JOURNAL,
    METRICS,
    QUERIES,
    SAMPLES,
    find_kl_limit,
    read_journal,
    read_metrics,
    read_samples,
    version_of,
)
from playground.voting import PERSON, VotingService, choice_of, voter_of
from playground.workspace import RunSummary, Workspace
from rlhf_engine import measures
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.choices import is_annotation
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.queries import Query, find_query
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import TEACH

HEIGHT = 205
"""Of a plot, in pixels. A plot that was hidden needs it again when it is shown."""
FILES = (METRICS, SAMPLES, QUERIES, JOURNAL)
"""The files of a run that the page reads."""


class TeachPage:
    """The Teach tab: a `Page` (`components/page.py`)."""

    def __init__(self, workspace: Workspace, worker, voting: VotingService, voter: gr.BrowserState, notice: gr.HTML):
        self.workspace, self.worker, self.voting, self.voter, self.notice = workspace, worker, voting, voter, notice
        self._build_start()
        with gr.Column(visible=False) as self.scene:
            self._build_question()
            self._build_answers()
        self.card.vote(self._vote, {self.card, self.voter}, [self.notice, self.card, self.status], queue=False,
                       show_progress="hidden", trigger_mode="multiple", api_visibility="private")
        self.begin.click(lambda model, learner: self._begin(PERSON, model, learner), [self.model, self.learner],
                         [self.notice, self.picker], show_progress_on=self.begin, **CONTROL_EVENT)
        self.watch.click(self._begin, [self.taste, self.model, self.learner], [self.notice, self.picker],
                         show_progress_on=self.watch, **CONTROL_EVENT)
        self.model.input(self._about_model, self.model, self.about, queue=False, show_progress="hidden",
                         api_visibility="private")

    def _build_start(self) -> None:
        """What this is about, and the buttons that start a run."""
        with gr.Accordion(text.PATH, open=True) as self.path:
            gr.HTML(views.path(), elem_id="path", apply_default_css=False)
        with gr.Column(elem_id="begin", elem_classes="starts") as self.starting:
            models = [(text.BUNDLED_MODEL, ""), *((preset.name, preset.name) for preset in model_presets(TEACH))]
            with gr.Row():
                self.model = gr.Dropdown(models, value="", label=text.BEGIN_MODEL, info=text.BEGIN_MODEL_INFO,
                                         elem_id="begin-model", min_width=240)
                learners = [(title, learner) for learner, title in text.LEARNERS.items()]
                self.learner = gr.Dropdown(learners, value="ppo", label=text.BEGIN_LEARNER,
                                           info=text.BEGIN_LEARNER_INFO, elem_id="begin-learner", min_width=240)
            self.about = gr.Markdown(text.BEGIN_ABOUT, container=False, elem_id="begin-about")
            with gr.Row(elem_classes="controls"):
                self.begin = gr.Button(text.BEGIN, variant="primary", elem_id="begin-person", elem_classes="once")
                self.watch = gr.Button(text.WATCH, elem_id="begin-watch", elem_classes="once")
                tastes = [(taste, labeler) for labeler, taste in text.TASTES.items()]
                self.taste = gr.Dropdown(tastes, value=tastes[0][1], label=text.WATCHED, elem_id="begin-taste",
                                         container=False, min_width=160)
            self.loading = gr.HTML("", elem_id="teach-loading", visible=False, apply_default_css=False)

    def _build_question(self) -> None:
        """The question on the left, and what the votes do on the right."""
        with gr.Row():
            with gr.Column(scale=8, min_width=320) as left:
                self.status = gr.HTML("", elem_id="vote-status", apply_default_css=False, visible=False)
                self.card = Card(self._card("", ""), elem_id="vote-card")
            with gr.Column(scale=4, min_width=320):
                self.picker = Choice([(shared_text.FOLLOW, "")], value="", label=shared_text.RUN_LABEL,
                                     elem_id="vote-run", visible=False)
                self.effect = gr.HTML(views.effect([]), elem_id="vote-effect", apply_default_css=False)
                with gr.Column(elem_classes="plot-grid single"):
                    self.plots = [LivePlot(charts.empty_figure(), height=HEIGHT, elem_id=f"vote-plot-{index + 1}",
                                           visible=index < 2)
                                  for index in range(3)]
        with left:  # its button changes the picker, which is built after the card
            self.extend = ExtendRunPanel(self.workspace, self.worker, self.notice, "vote-", self.picker, self._run_name)

    def _build_answers(self) -> None:
        """What the policy writes, and the numbers of the newest step."""
        with gr.Accordion(text.FIXED, open=True):
            self.fixed = gr.HTML(views.fixed([]), elem_id="fixed", apply_default_css=False)
        with gr.Accordion(text.EXTREMES, open=True):
            self.extremes = gr.HTML(views.extremes([]), elem_id="extremes", apply_default_css=False)
        with gr.Accordion(text.FORMULAS, open=True):
            self.formulas = gr.HTML(views.formulas({}, []), elem_id="formulas", apply_default_css=False)

    # -- starting and voting -----------------------------------------------------------------------------------------

    def _run_name(self, picked: str) -> str:
        """The run that is shown for a value of the picker; "" where there is none."""
        if picked:
            return picked
        return next((entry.name for entry in self.voting.taught(self.workspace.entries())), "")

    def _about_model(self, model: str) -> str:
        """What is said about a run on a model."""
        about = {preset.name: preset.about for preset in model_presets(TEACH)}
        return f"{text.BEGIN_ABOUT_MODEL} {about[model]}" if model in about else text.BEGIN_ABOUT

    def _begin(self, labeler: str, model: str = "", learner: str = "ppo") -> dict:
        """Start a run of a learner, which a person or a built-in labeler teaches: with the recipe for a model, or,
        where that is empty, with the default settings."""
        try:
            recipes = {"": {}} | {preset.name: preset.settings for preset in model_presets(TEACH)}
            if model not in recipes:
                raise UserError(text.NO_RECIPE.format(model=model))
            if labeler != PERSON and labeler not in text.TASTES:
                raise UserError(text.NO_TASTE.format(labeler=labeler))
            if learner not in text.LEARNERS:
                raise UserError(text.NO_LEARNER.format(learner=learner))
            self.workspace.access.starters_only()
            settings = {**recipes[model], "labeler": labeler}
            if learner != "ppo":
                settings["learner"] = learner
            run = self.worker.start(TEACH, self.workspace.settings(TEACH, settings))
        except UserError as error:
            return {self.notice: warn(error)}
        name = self.workspace.name_of(run)
        others = run_choices([entry for entry in self.voting.taught(self.workspace.entries()) if entry.name != name])
        started = gr.update(choices=[(text.FOLLOW_TAUGHT, ""), (name, name), *others], value=name)
        return {self.notice: inform(shared_text.STARTED.format(name=name)), self.picker: started}

    def _vote(self, values: dict, event: gr.EventData) -> dict:
        """Store an answer, and show the next question at once."""
        card, voter, choice = values[self.card], voter_of(values[self.voter]), event.choice
        try:
            run = self.workspace.run(card["run"])
            if choice == "undo":
                following = self._undo(run, card, voter)
            else:
                self.voting.vote(run, card["query"], choice, card["event"], voter, event.seconds)
                # After an annotation of one response, the question stays.
                same_query = find_query(run, card["query"]) if is_annotation(choice) else None
                following = self._card(run.path.name, voter, query=same_query)
            late = self.voting.learns_no_more(run) if choice not in ("undo", "skip") else ""
            message = notice_html(late) if late else ""
            return {self.notice: message, self.card: following, self.status: self._status(run)}
        except UserError as error:
            return {self.notice: warn(error), self.card: self._refused(card, voter, choice, error)}

    def _refused(self, card: dict, voter: str, choice: str, error: UserError) -> dict:
        """A card with a new time: the browser lets the voter answer again.

        Why an undo was refused stands on the card, too: the notice at the top of the page may be out of sight.
        """
        again = card | {"time": time.time()}
        if choice == "undo":
            with suppress(UserError):  # the store cannot be read: then the card stays as it is
                run = self.workspace.run(card["run"])
                query = find_query(run, card["query"]) if card["query"] else None
                fresh = self._card(card["run"], voter, query=query, done=sentence_of(str(error)))
                again |= {"html": fresh["html"], "done": fresh["done"], "query": fresh["query"]}
        return again

    def _undo(self, run: Run, card: dict, voter: str) -> dict:
        """Take back the voter's newest vote on a run, and show its question again."""
        vote = self.voting.undo(run, f"{card['event']} undo", voter)
        if vote is None:
            return self._card(run.path.name, voter)
        over = bool(self.voting.learns_no_more(run))  # then no question is shown again
        query = None if over else self.voting.asked(run, vote)
        done = self._undone(run, vote, query, voter)
        return self._card(run.path.name, voter, query=query, done=done)

    def _undone(self, run: Run, vote: Event, query: Query | None, voter: str) -> str:
        """What an undo has done, in words. vote: as `VotingService.undo` returned it. query: the one shown again."""
        prompt = shortened(last_message(vote.prompt))
        asked = self.voting.asked(run, vote)
        annotations = self.voting.annotations(run, asked, voter) if asked else {}
        now = annotations.get(vote.position, {}).get(vote.kind)
        if now:
            return text.UNDONE_CHANGE.format(choice=choice_of(now), number=vote.position, prompt=prompt)
        message = text.UNDONE if query else text.UNDONE_GONE
        return message.format(choice=choice_of(vote), prompt=prompt)

    def _card(self, name: str, voter: str, *, query: Query | None = None, done: str = "") -> dict:
        """The value of the vote card, with a fresh event id: `query`, or else the next question of a run.

        Where there is no question, it says why. `done` is a line about what the voter has just done.
        """
        asks = bool(name) and self.workspace.config(name).get("labeler") == PERSON
        if query is None and asks:
            query = self.voting.next(self.workspace.run(name), voter)
        if query:
            annotations = self.voting.annotations(self.workspace.run(name), query, voter)
            html = views.question(query.prompt, query.responses, done, annotations)
        elif asks or not name:
            html = views.no_question(self.voting.why_silent(name), done, undo=bool(name))
        else:
            votes = [row for row in read_samples(self.workspace.run(name)) if "vote" in row]
            html = views.watched(name, self.workspace.config(name), votes[-1] if votes else None,
                                 self.workspace.run(name).status()["state"])
        return {"run": name, "query": query.id if query else "", "event": secrets.token_hex(16), "html": html,
                "done": done}

    def _status(self, run: Run) -> dict:
        """The update of the line about the votes of a run."""
        config = self.workspace.effective_settings(run.path.name)
        votes = self.voting.votes(run) if config["labeler"] == PERSON else votes_learned(run)
        status = run.status()
        waits = views.waits_for(status, votes, config)
        line = views.vote_status(run.path.name, status, votes, config["votes"], waits)
        return gr.update(value=line, visible=True)

    # -- what has changed --------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        """The components whose values `refresh` reads."""
        return {self.picker, self.card, self.voter}

    @property
    def outputs(self) -> list:
        """The components that `refresh` may update."""
        return [self.path, self.starting, self.loading, self.scene, self.picker, self.card, self.voter, self.status,
                self.effect, *self.plots, self.fixed, self.extremes, self.formulas, *self.extend.outputs]

    def refresh(self, values: dict, entries: list[RunSummary], seen: dict) -> dict:
        """The updates for what has changed since `seen`, which is brought up to date.

        A question that somebody may be reading stays, unless another run is shown now.
        """
        taught = self.voting.taught(entries)
        changes, picked = self._refresh_picker(values[self.picker], taught, seen)
        busy = any(entry.alive for entry in entries)
        if mark_seen(seen, "live", busy):
            changes[self.starting] = gr.update(visible=not busy)
        changes.update(refresh_loading(self.workspace, self.loading, seen))
        if not values[self.voter] and "voter" not in seen:
            changes[self.voter] = seen["voter"] = secrets.token_hex(16)
        entry = next((entry for entry in taught if entry.name == picked or not picked), None)
        changes.update(self.extend.refresh(entry, seen))
        if mark_seen(seen, "taught", entry is not None):
            changes[self.path] = gr.update(open=entry is None)
            changes[self.scene] = gr.update(visible=entry is not None)
        voter = voter_of(values[self.voter] or seen["voter"])
        changes.update(self._refresh_run(values[self.card], entry, voter, seen))
        return changes

    def _refresh_picker(self, picked: str, taught: list[RunSummary], seen: dict) -> tuple[dict, str]:
        """The update of the picker, and the name of the run that it stands for: "" where the picked run is gone."""
        if not mark_seen(seen, "vote runs", [(entry.name, entry.state) for entry in taught]):
            return {}, picked
        choices = [(text.FOLLOW_TAUGHT, ""), *run_choices(taught)]
        update = {"choices": choices, "visible": len(taught) > 1}
        if picked and picked not in {entry.name for entry in taught}:
            picked = update["value"] = ""
        return {self.picker: gr.update(**update)}, picked

    def _refresh_run(self, card: dict, entry: RunSummary | None, voter: str, seen: dict) -> dict:
        """The updates of what belongs to the run that is shown.

        Trouble with the store or the run becomes a notice, shown once.
        """
        changes = {}
        try:
            version = self._version(entry)
            if mark_seen(seen, "vote run", version):
                changes.update(self._show(entry) if entry else self._show_nothing())
            if mark_seen(seen, "vote card", [version, card["event"]]):
                changes.update(self._fill(card, entry.name if entry else "", voter))
            mark_seen(seen, "vote trouble", "")
        except UserError as error:  # the store cannot be read, or the run has just been removed
            seen.pop("vote run", None)
            if mark_seen(seen, "vote trouble", str(error)):
                changes[self.status] = gr.update(value=notice_html(str(error)), visible=True)
        return changes

    def _fill(self, card: dict, name: str, voter: str) -> dict:
        """A new value for a card that shows no question, or one of another run."""
        same_run = card["run"] == name
        if same_run and card["query"] and not self.voting.learns_no_more(self.workspace.run(name)):
            return {}
        fresh = self._card(name, voter, done=card.get("done", "") if same_run and not card["query"] else "")
        if (fresh["run"], fresh["html"]) == (card["run"], card["html"]):
            return {}
        return {self.card: fresh}

    def _version(self, entry: RunSummary | None) -> list | None:
        """A value that changes whenever anything changes that the page shows of a run."""
        if entry is None:
            return None
        folder = self.workspace.runs / entry.name
        return [entry.name, entry.state, entry.time, self.workspace.store.head(),
                *(version_of(folder / file) for file in FILES)]

    def _show_nothing(self) -> dict:
        """The updates where no run is taught."""
        changes: dict = {self.status: gr.update(value="", visible=False), self.effect: views.effect([]),
                         self.fixed: views.fixed([]), self.extremes: views.extremes([]),
                         self.formulas: views.formulas({}, [])}
        for index, plot in enumerate(self.plots):
            changes[plot] = gr.update(value=charts.empty_figure(), visible=index < 2, height=HEIGHT)
        return changes

    def _show(self, entry: RunSummary) -> dict:
        """The updates for the run that is shown."""
        run, config = self.workspace.run(entry.name), self.workspace.config(entry.name)
        metrics, journal, samples = read_metrics(run), read_journal(run), read_samples(run)
        votes: list[Event] = self.voting.live_votes(run) if config["labeler"] == PERSON else []
        changes = {self.status: self._status(run),
                   self.effect: views.effect(journal, config["choices"], views.wins_sentence(metrics, votes)),
                   self.fixed: views.fixed(samples), self.extremes: views.extremes(samples),
                   self.formulas: views.formulas(config, metrics)}
        drawn = charts.teach_figures(entry.name, config, metrics, journal, find_kl_limit(run, config))
        for plot, figure in zip(self.plots, drawn):
            changes[plot] = gr.update(value=figure, visible=True, height=HEIGHT) if figure else gr.update(visible=False)
        return changes


def votes_learned(run: Run) -> int:
    """How many votes the reward of a run has learned; before its first step, the journal knows."""
    learned = [row.get(measures.VOTES_LEARNED, 0) for row in read_metrics(run)]
    learned += [row["votes"] for row in read_journal(run) if row.get("event") == "reward"][-1:]
    return int(max(learned, default=0))


def sentence_of(message: str) -> str:
    """A message as a sentence on the page."""
    return f"{message[:1].upper()}{message[1:]}."
