"""The Vote page: one question at a time, what the last answers did, and what the policy says now."""

import secrets
import time

import gradio as gr

from playground import figures, views
from playground import strings as s
from playground.ballot import Ballot, choice_of, voter_of
from playground.form import Choice
from playground.plots import LivePlot
from playground.train import changed, complain, size_of
from playground.workspace import Entry, Workspace
from rlhf_engine.config import UserError
from rlhf_engine.queries import find_query
from rlhf_engine.runs import Run


class Card(gr.HTML):
    """A question with its buttons. Its value is what the browser shows: run, query, the id of the event that an answer becomes, and HTML.

    All of it changes in one motion and comes back with the answer, so that no answer is taken for one to another question.
    """

    def __init__(self, value: dict | None = None, **options):
        super().__init__(value=value or {"run": "", "query": "", "event": "", "html": ""}, html_template="${value.html}",
                         js_on_load=ANSWER, apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}


ANSWER = """
let shown = 0, sent = {turn: '', time: 0, focus: ''}, pressed = {key: '', time: 0};
const turn = () => props.value.event + (props.value.time || '');
const start = () => { shown = element.checkVisibility() ? performance.now() : 0; };
new IntersectionObserver(([seen]) => { if (seen.isIntersecting && !shown) start(); }).observe(element);

const answer = (choice, source) => {
  const now = performance.now();
  // A click while another is on its way is not meant for the next question.
  if (sent.turn === turn() && now - sent.time < 5000) return;
  sent = {turn: turn(), time: now, focus: source.id};
  source.classList.add('chosen');
  trigger('vote', {choice, seconds: shown ? (now - shown) / 1000 : 0});
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (!button || event.detail > 1) return;  // the second half of a double click
  if (button.dataset.choice) return answer(button.dataset.choice, button);
  if (!button.dataset.edit) return;
  const form = element.querySelector(`#edit-form-${button.dataset.edit}`), opener = element.querySelector(`#edit-${button.dataset.edit}`);
  form.hidden = !form.hidden;
  opener.setAttribute('aria-expanded', String(!form.hidden));
  (form.hidden ? opener : form.querySelector('textarea')).focus();
});
element.addEventListener('change', (event) => {
  const place = event.target.dataset.score;
  if (!place) return;
  const value = event.target.value || event.target.querySelector('[selected]')?.value;  // none: the score that is there is taken back
  if (value) answer(`score:${place}:${value}`, event.target);
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  const place = event.target.dataset.place;
  answer(`edit:${place}:${event.target.querySelector('textarea').value}`, element.querySelector(`#edit-${place}`));
});

const press = (event) => {
  if (!element.isConnected) return document.removeEventListener('keydown', press);
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || !element.checkVisibility()) return;
  if (event.target.closest?.('input, textarea, select, [contenteditable]')) return;
  const key = /^(Digit|Numpad)[1-9]$/.test(event.code) ? event.code.at(-1)
    : {ArrowLeft: '1', ArrowRight: '2'}[event.key] || event.key.toLowerCase();
  if (event.key.startsWith('Arrow') && element.querySelectorAll('.answer').length !== 2) return;  // left and right are of two
  const button = [...element.querySelectorAll('button[data-key]')].find((found) => found.dataset.key === key);
  if (!button) return;
  event.preventDefault();
  const twice = key === pressed.key && performance.now() - pressed.time < 200;
  pressed = {key, time: performance.now()};
  if (!twice) button.click();
};
document.addEventListener('keydown', press);

let current = props.value.event, query = props.value.query;
watch('value', () => {
  element.querySelectorAll('.chosen').forEach((button) => button.classList.remove('chosen'));
  if (props.value.event === current) return;
  current = props.value.event;
  if (props.value.query === query) return sent.focus && element.querySelector(`#${sent.focus}`)?.focus();  // a remark was noted
  query = props.value.query;
  start();
  if (shown && element.getBoundingClientRect().top < 0) element.scrollIntoView();
});
"""


class VotePage:
    def __init__(self, workspace: Workspace, ballot: Ballot, voter: gr.BrowserState, notice: gr.HTML):
        self.workspace, self.ballot, self.voter, self.notice = workspace, ballot, voter, notice
        gr.Markdown(s.VOTE_ABOUT, container=False)
        with gr.Row():
            with gr.Column(scale=8, min_width=320):
                self.status = gr.HTML("", elem_id="vote-status", apply_default_css=False, visible=False)
                self.card = Card(self._card("", ""), elem_id="vote-card")
            with gr.Column(scale=4, min_width=320):
                self.picker = Choice([(s.FOLLOW, "")], value="", label=s.RUN_LABEL, elem_id="vote-run", visible=False)
                self.effect = gr.HTML(views.effect([]), elem_id="vote-effect", apply_default_css=False)
                with gr.Row(elem_classes="plot-grid single"):
                    self.plots = [LivePlot(figures.empty(), height=215, elem_id=f"vote-plot-{i + 1}") for i in range(2)]
        with gr.Accordion(s.FIXED, open=True):
            self.fixed = gr.HTML(views.fixed([]), elem_id="fixed", apply_default_css=False)
        self.card.vote(self._vote, {self.card, self.voter}, [self.notice, self.card, self.status], queue=False, show_progress="hidden",
                       trigger_mode="multiple", api_visibility="private")

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
            return {self.notice: complain(error), self.card: card | {"time": time.time()}}

    def _undo(self, run: Run, card: dict, voter: str) -> dict:
        """What was asked comes back, to be answered again."""
        vote = self.ballot.undo(run, f"{card['event']} undo", voter)
        if vote is None:
            return self._card(run.path.name, voter)
        query = self.ballot.asked(run, vote)
        said = (s.UNDONE if query else s.UNDONE_GONE).format(choice=choice_of(vote), prompt=shortened(views.said(vote.prompt)))
        return self._card(run.path.name, voter, query=query, said=said)

    def _card(self, name: str, voter: str, *, query=None, said: str = "") -> dict:
        """The next question of a run, or why there is none, under a fresh event id."""
        query = query or (self.ballot.next(self.workspace.run(name), voter) if name else None)
        html = (views.question(query.prompt, query.responses, said, self.ballot.remarks(self.workspace.run(name), query, voter)) if query
                else views.no_question(self.ballot.why_silent(name), said, undo=bool(name)))
        return {"run": name, "query": query.id if query else "", "event": secrets.token_hex(16), "html": html}

    def _status(self, run: Run) -> dict:
        votes, wanted = self.ballot.votes(run), self.workspace.config(run.path.name)["votes"]
        return gr.update(value=views.vote_status(run.path.name, run.status(), votes, wanted), visible=True)

    # -- what changed ------------------------------------------------------------------------------------------------

    @property
    def watched(self) -> set:
        return {self.picker, self.card, self.voter}

    @property
    def outputs(self) -> list:
        return [self.picker, self.card, self.voter, self.status, self.effect, *self.plots, self.fixed]

    def refresh(self, values: dict, entries: list[Entry], seen: dict) -> dict:
        """Updates as on the Train page. A question that somebody may be reading stays, unless it is another run's turn to ask."""
        changes, picked, asking = {}, values[self.picker], self.ballot.asking(entries)
        if not values[self.voter] and "voter" not in seen:
            changes[self.voter] = seen["voter"] = secrets.token_hex(16)
        if changed(seen, "vote runs", [(e.name, e.state) for e in asking]):
            names = [(s.RUN_CHOICE.format(name=e.name, stage=s.STAGES[e.stage], state=s.STATES[e.state]), e.name) for e in asking]
            gone = picked and picked not in {e.name for e in asking}
            changes[self.picker] = gr.update(choices=[(s.FOLLOW, ""), *names], visible=len(names) > 1, **({"value": ""} if gone else {}))
            picked = "" if gone else picked
        entry = next((e for e in asking if e.name == picked or not picked), None)
        try:
            mark = self._mark(entry)
            if changed(seen, "vote run", mark):
                changes |= self._show(entry)
            if changed(seen, "vote card", [mark, values[self.card]["event"]]):
                changes |= self._fill(values[self.card], entry.name if entry else "", voter_of(values[self.voter] or seen["voter"]))
            changed(seen, "vote trouble", "")
        except UserError as error:  # the store is out of order, or the run has just gone
            seen.pop("vote run", None)
            if changed(seen, "vote trouble", str(error)):
                changes[self.status] = gr.update(value=views.notice(str(error)), visible=True)
        return changes

    def _fill(self, card: dict, name: str, voter: str) -> dict:
        """A question for an empty card, or for one of another run."""
        if card["run"] == name and card["query"]:
            return {}
        fresh = self._card(name, voter)
        return {} if (fresh["run"], fresh["html"]) == (card["run"], card["html"]) else {self.card: fresh}

    def _mark(self, entry: Entry | None) -> list | None:
        if entry is None:
            return None
        folder, files = self.workspace.runs / entry.name, ("metrics.jsonl", "samples.jsonl", "queries.jsonl", "journal.jsonl")
        return [entry.name, entry.state, entry.time, self.ballot.store.head(), *(size_of(folder / file) for file in files)]

    def _show(self, entry: Entry | None) -> dict:
        if entry is None:
            return {self.status: gr.update(value="", visible=False), self.effect: views.effect([]), self.fixed: views.fixed([]),
                    **{plot: figures.empty() for plot in self.plots}}
        run = self.workspace.run(entry.name)
        drawn = figures.figures(entry.name, self.workspace.config(entry.name), run.metrics())
        return {self.status: self._status(run), self.effect: views.effect(run.journal()), self.fixed: views.fixed(run.samples()),
                **dict(zip(self.plots, drawn))}


def shortened(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length - 1].rstrip()}…"
