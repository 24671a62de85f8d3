"""The votes of a recorded run, given once more: `--labeler replay=RUN`. So learners are compared on the same feedback.

No question is asked. Each vote comes at the step at which the recorded run learned it, with the others that it learned
at a time. The votes are about what the recorded run wrote, not about what this one writes.
"""

from pathlib import Path

from rlhf_engine.config import TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import REPLAY, Labeler
from rlhf_engine.feedback.queries import Query
from rlhf_engine.feedback.scoring_functions import find_function, is_function, score_text
from rlhf_engine.runs.folder import Run
from rlhf_engine.trainers.state import load_state

NO_VOTES = "the run has no votes at a checkpoint; give a run of teach that has some"


class RecordedLabeler(Labeler):
    """Gives recorded votes at their steps.

    Args:
        updates: for each update of the recorded reward, the step at which it came and the events that it learned from.
        function: the scoring function of the recorded labeler, by which the outcome is measured; None without one.
    """

    def __init__(self, updates: list[tuple[int, list[Event]]], function=None):
        self.updates = updates
        self.given = 0
        """Updates that have been given."""
        self.step = 1
        if function:
            self.score = lambda prompt, response: score_text(function, prompt, response)

    @classmethod
    def from_run(cls, run: Run, function=None) -> "RecordedLabeler":
        """The votes of a run up to its newest checkpoint. Raises UserError if there are none."""
        updates = read_updates(run)
        if not updates:
            raise UserError(f"{run.path}: {NO_VOTES}")
        return cls(updates, function)

    def queries_wanted(self, config: TeachConfig, asked: int, step: int) -> int:
        self.step = max(step, 1)
        return 0

    def ask(self, query: Query) -> None:
        raise AssertionError("recorded votes answer no questions")

    def has_more(self) -> bool:
        return self.given < len(self.updates) and self.updates[self.given][0] <= self.step

    def new_events(self, only: list[str] | None = None) -> list[Event]:
        """The events of the next recorded update, if its step has come."""
        if not self.has_more():
            return []
        self.given += 1
        return self.updates[self.given - 1][1]

    def state_dict(self) -> dict:
        return {"given": self.given}

    def load_state_dict(self, state: dict) -> None:
        self.given = state["given"]


def is_replay(spec: str) -> bool:
    """Whether a labeler reads `replay=RUN`."""
    return spec.startswith(REPLAY)


def recorded_labeler(spec: str, *, run_files: bool) -> RecordedLabeler:
    """The labeler that `replay=RUN` names.

    `run_files` lets a scoring function from a file judge the outcome, if that was the recorded labeler. The file is
    then run, so only the command line may say so.

    Raises UserError for a run without votes.
    """
    run = Run(Path(spec.removeprefix(REPLAY)))
    if not run.exists():
        raise UserError(f"--labeler {spec}: there is no run; give the folder of a run of teach")
    config = run.config()
    updates = read_updates(run)
    if not updates:
        raise UserError(f"--labeler {spec}: {NO_VOTES}")
    labeler = config.get("labeler", "")
    if is_replay(labeler):  # a replay of a replay measures by what the first run was measured by
        return RecordedLabeler(updates, recorded_labeler(labeler, run_files=run_files).score)
    known = labeler and labeler != "person" and not labeler.startswith("judge=")
    if not known or (is_function(labeler) and not run_files):
        return RecordedLabeler(updates)
    return RecordedLabeler(updates, find_function(labeler))


def read_updates(run: Run) -> list[tuple[int, list[Event]]]:
    """(step, events) of each update of the reward of a run, from its journal and its newest checkpoint.

    A vote that was taken back is left out. One that was learned again, after the run was rewound or ended, counts where
    it was learned last.
    """
    checkpoint = run.last_checkpoint()
    if checkpoint is None:
        return []
    state = load_state(checkpoint)
    if not isinstance(state.get("reward"), dict) or "events" not in state["reward"]:
        return []
    events = {row["id"]: Event.from_dict(row) for row in state["reward"]["events"]}
    rows = [row for row in run.journal() if row.get("event") == "reward"]
    last = {event_id: number for number, row in enumerate(rows) for event_id in row["consumed"]}
    updates = []
    for number, row in enumerate(rows):
        learned = [events[event_id] for event_id in row["consumed"] if event_id in events and last[event_id] == number]
        if learned:
            updates.append((max(row["step"], 1), learned))
    return updates
