"""Typed endpoints for scripts and other programs: `gradio_client.Client(url).predict(..., api_name="/status")`."""

import functools
from collections.abc import Callable, Iterator

import gradio as gr
from gradio.events import api as gradio_api

from playground.run_commands import ask
from playground.server import text
from playground.server.arguments import checked
from playground.server.worker_guard import GuardedWorker
from playground.voting import VotingService, voter_of
from playground.workspace import Workspace
from rlhf_engine.errors import UserError, one_line
from rlhf_engine.files import without_nan
from rlhf_engine.runs.control import ORDERS, value_orders

IDLE = {"run": None, "stage": None, "state": "idle", "step": 0, "total_steps": 0, "error": "", "advice": "",
        "metrics": {}}
"""The status where there is no run."""


class Api:
    """Names in, JSON out. A run is named by its folder's name in the workspace; nothing outside of that can be named.

    Gradio shows the docstrings and the types of the methods on the page of the API.
    """

    def __init__(self, workspace: Workspace, worker: GuardedWorker, voting: VotingService):
        self.workspace, self.worker, self.voting = workspace, worker, voting
        for endpoint in (self.status, self.start, self.control, self.checkpoints, self.next_query, self.vote):
            gradio_api(plain_errors(endpoint), api_name=endpoint.__name__, concurrency_limit=8)
        gradio_api(plain_errors_of_stream(self.chat), api_name="chat", concurrency_id="chat", concurrency_limit=4)

    def status(self, run: str = "") -> dict:
        """State, progress and latest metrics of a run.

        An empty name is the live run, or else the newest; without any, `run` is null.
        """
        name = self.workspace.chosen(run)
        if not name:
            return IDLE
        folder, config = self.workspace.run(name), self.workspace.config(name)
        status, metrics = folder.status(), folder.metrics()
        answer = {entry: status.get(entry) for entry in IDLE}
        answer.update(run=folder.path.name, stage=config["stage"], metrics=without_nan(metrics[-1]) if metrics else {})
        return answer

    def start(self, stage: str, config: dict) -> dict:
        """Start a run of a stage (sft, reward, ppo, teach) with settings by name; the others keep their defaults.

        Returns its name.
        """
        self.workspace.access.starters_only()
        run = self.worker.start(stage, self.workspace.settings(stage, config))
        return {"run": self.workspace.name_of(run)}

    def control(self, run: str, command: str, value: float | None = None) -> dict:
        """pause, resume (a stopped or failed run goes on from its last checkpoint), step, stop (and save), or discard.

        With a `value`: resume, to that many steps in all, of which a run that is done needs more than it has;
        kl_target, learning_rate, temperature, max_new_tokens, pessimism, steps, epochs or votes (a new setting from the
        next step on; the last three are those of the whole run); or rewind (the step of a checkpoint).
        """
        commands = (*ORDERS, *value_orders())
        if command not in commands:
            raise UserError(text.COMMAND_UNKNOWN.format(command=command, known=", ".join(commands)))
        folder = self.workspace.run(self.workspace.chosen(run))
        ask(self.worker, folder, command, value)
        return {"run": folder.path.name, "command": command}

    def chat(self, adapters: list, messages: list, model: str = "bundled", max_new_tokens: int = 128,
             temperature: float = 1.0, best_of: int = 1, reward: str = "") -> Iterator[dict]:
        """Answers of several adapters to one conversation, as they grow.

        An adapter is none, bundled, a name of the gallery, RUN or RUN@step-000050. With `best_of`, each gives so many
        answers, and the last item has those that `reward`, a reward run, scores highest.
        """
        names = [self.workspace.chat_adapter(name) for name in adapters]
        several = {"best_of": best_of, "reward": str(self.workspace.run(reward).path)} if reward else {}
        if best_of != 1 and not several:
            raise UserError(text.NO_CHAT_REWARD)
        answers = self.worker.chat(names, messages, model=self.workspace.model(model), max_new_tokens=max_new_tokens,
                                   temperature=temperature, **several)
        for texts in answers:
            yield {"responses": texts}

    def checkpoints(self, run: str) -> dict:
        """The complete checkpoints of a run, the oldest first, by the names under which a chat can ask them.

        An empty name is the live run, or else the newest; without any, `run` is null.
        """
        name = self.workspace.chosen(run)
        return {"run": name or None, "checkpoints": self.workspace.checkpoints(name) if name else []}

    def next_query(self, run: str = "", request: gr.Request = None) -> dict:  # pyright: ignore[reportArgumentType] Gradio's way
        """A question of a run (an empty name is the run that asks): a prompt, and responses of which one is to be
        chosen.

        Nobody gets a question that they have answered or skipped. If there is none, `query_id` is empty and `message`
        says why.
        """
        name = self.voting.chosen(run)
        answer = {"query_id": "", "run": name, "prompt": "", "responses": [], "step": 0, "votes": 0, "votes_wanted": 0,
                  "message": ""}
        query = None
        if name:
            folder = self.workspace.run(name)
            query = self.voting.next(folder, voter_of(request and request.session_hash))
            answer.update(run=folder.path.name, votes=self.voting.votes(folder),
                          votes_wanted=self.workspace.effective_settings(name).get("votes", 0))
        if query is None:
            answer["message"] = self.voting.why_silent(name)
        else:
            answer.update(query_id=query.id, prompt=query.prompt, responses=list(query.responses), step=query.step)
        return answer

    def vote(self, run: str, query_id: str, choice: str, event_id: str,
             request: gr.Request = None) -> dict:  # pyright: ignore[reportArgumentType] Gradio's way
        """Answer a question: "1" to "9" (the best response), "tie", "both_bad", "skip" (stores nothing), or "undo"
        (your newest vote here).

        Or say something about one response, which leaves the question open: "up:2", "down:2", "score:2:5" (of 1 to 7),
        "edit:2:TEXT". `event_id` is yours and new for each vote: sent again it changes nothing, and `stored` is false.
        Where the run is done, so that it learns from the vote no more, a `message` says so.
        """
        choice, event_id = str(choice), str(event_id or "").strip()
        if not event_id:
            raise UserError(text.NO_EVENT_ID)
        folder, voter = self.workspace.run(self.voting.chosen(run)), voter_of(request and request.session_hash)
        if choice == "undo":
            stored = self.voting.undo(folder, event_id, voter) is not None
        else:
            stored = self.voting.vote(folder, str(query_id), choice, event_id, voter)
        answer = {"stored": stored, "votes": self.voting.votes(folder)}
        late = self.voting.learns_no_more(folder) if stored and choice != "undo" else ""
        return {**answer, "message": late} if late else answer


def plain_errors(endpoint: Callable) -> Callable:
    """The same endpoint, whose arguments are checked, and whose UserError reaches the caller as one line, without a
    traceback in the log."""
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        try:
            return endpoint(**checked(endpoint, args, kwargs))
        except UserError as error:
            raise gr.Error(one_line(error), print_exception=False) from None
    return call


def plain_errors_of_stream(endpoint: Callable) -> Callable:
    """The same for an endpoint that yields its answers."""
    @functools.wraps(endpoint)
    def call(*args, **kwargs):
        try:
            yield from endpoint(**checked(endpoint, args, kwargs))
        except UserError as error:
            raise gr.Error(one_line(error), print_exception=False) from None
    return call
