"""People in the loop: queries, votes at any moment and from many people, live settings, and a killed run that repeats its steps."""

import contextlib
import json
import os
import signal
import threading

import pytest
import torch

from rlhf_engine import loop as driving
from rlhf_engine.build import make_trainer
from rlhf_engine.errors import UserError
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.labelers import HumanLabeler
from rlhf_engine.feedback.queries import Query, find_query, next_query
from rlhf_engine.feedback.store import Store
from rlhf_engine.loop import RunControl, drive
from rlhf_engine.rollout.collapse_guard import PAUSE, SLOWEST, Guard
from rlhf_engine.rollout.rollout import Rollout
from rlhf_engine.runs.folder import Run
from rlhf_engine.stages import make_config
from rlhf_engine.teach.trainer import Teach
from rlhf_engine.worker.client import Worker
from tests.rlhf_engine.helpers.teach import LIVE, vote
from tests.rlhf_engine.helpers.teach import make_live as make
from tests.rlhf_engine.helpers.trainers import PROMPTS, without_time

# -- queries ------------------------------------------------------------------------------------------------------------

def query(count: int) -> Query:
    return Query("q", "Say something", tuple("abcdefghi"[:count]), (0.0,) * count, 3, {"temperature": 1.0}, run="r-1", checkpoint="r at step 3")


@pytest.mark.parametrize(("count", "choice", "kind", "value"), [
    (2, "1", "comparison", "left"), (2, "2", "comparison", "right"), (2, "tie", "comparison", "tie"), (2, "both_bad", "comparison", "both_bad"),
    (4, "3", "ranking", (2, 2, 1, 2)), (4, "tie", "comparison", "tie"), (4, "both_bad", "comparison", "both_bad"), (9, "9", "ranking", (2,) * 8 + (1,))])
def test_a_choice_is_an_event(count, choice, kind, value):
    event = query(count).event(choice, "e1", voter="ann", seconds=2.5).validate()
    assert (event.kind, event.value, event.run, event.step, event.voter, event.seconds) == (kind, value, "r-1", 3, "ann", 2.5)
    assert event.sampling == {"temperature": 1.0} and event.query == event.answers == "q" and event.shown == tuple(range(count)) and event.checkpoint == "r at step 3"


@pytest.mark.parametrize("choice", ["0", "5", "left", "", "10", "one", "-1"])
def test_a_choice_that_is_none_is_refused(choice):
    with pytest.raises(UserError, match="must be 1 to 4, tie or both_bad"):
        query(4).event(choice, "e1")


def test_each_voter_gets_what_they_have_not_seen_and_others_seldom_have(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path)
    assert trainer.blocked_reason()
    store, ids = trainer.labeler.store, [row["id"] for row in run.queries()]
    assert len(ids) == len(set(ids)) == HumanLabeler.OPEN
    first = next_query(run, store.events(run=run.id), "ann")
    assert first.id == ids[-1]  # the newest, while nobody has voted
    store.add(first.event("1", "e1", voter="ann"))
    assert next_query(run, store.events(run=run.id), "ann").id == ids[-2] and next_query(run, store.events(run=run.id), "bob").id == ids[-2]
    assert next_query(run, store.events(run=run.id), "bob", frozenset(ids[:3])).id == ids[-1]  # all others skipped
    assert next_query(run, store.events(run=run.id), "ann", frozenset(ids)) is None
    store.add(Event("undo", "retract", value="e1", run=run.id))
    assert next_query(run, store.events(run=run.id), "ann").id == ids[-1]  # taken back, so it is open again
    assert find_query(run, first.id) == first
    with pytest.raises(UserError, match="has asked no query 'x'"):
        find_query(run, "x")


def test_a_later_run_of_the_same_name_does_not_inherit_votes(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path)
    trainer.blocked_reason()
    vote(run, trainer.labeler.store, 3)
    assert trainer.labeler.pending_votes() == 3
    again = Run.create(run.path, trainer.config, overwrite=True)
    assert again.queries() == [] and HumanLabeler(again, trainer.labeler.store).pending_votes() == 0


# -- waiting ------------------------------------------------------------------------------------------------------------

def test_ppo_waits_for_the_first_votes_and_after_a_while_for_more(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path)
    assert "4 more votes" in trainer.blocked_reason() and trainer.step == 0
    vote(run, trainer.labeler.store, 3)
    assert "1 more" in trainer.blocked_reason()
    vote(run, trainer.labeler.store, 1)
    assert trainer.blocked_reason() == ""
    assert next(trainer)["reward/votes"] == 4
    for _ in range(2):  # patience
        assert trainer.blocked_reason() == ""
        next(trainer)
    assert "without one (4 of 20" in trainer.blocked_reason()
    vote(run, trainer.labeler.store, 1)
    assert trainer.blocked_reason() == "" and next(trainer)["reward/votes"] == 5


def test_with_all_the_votes_nobody_is_waited_for(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path, votes=4)
    trainer.blocked_reason()
    vote(run, trainer.labeler.store, 4)
    for _ in range(8):
        assert trainer.blocked_reason() == ""
        next(trainer)
    report = trainer.report()
    assert report["votes"] == 4 and "win_rate" not in report


def test_drive_says_that_it_waits_and_can_be_stopped_meanwhile(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path)
    control, said = RunControl(), []

    def on_microbatch():
        said.append(run.status())
        control.stop()

    trainer.on_microbatch = on_microbatch
    assert drive(trainer, run, control=control, progress=False) == "stopped"
    waited = [status for status in said if status["state"] == "waiting"]
    assert waited and "4 more votes" in waited[-1]["advice"] and run.status()["advice"] == "" and trainer.step == 0


# -- the same, bit for bit ----------------------------------------------------------------------------------------------

def test_queries_drawn_between_micro_batches_change_nothing(tiny_llama, tmp_path, monkeypatch):
    # Queries get a random word into their ids, and with it their votes, by which the members weigh them: here it is always the same.
    monkeypatch.setattr("rlhf_engine.feedback.labelers.secrets.token_hex", lambda size: "0" * 2 * size)
    rows = []
    for name, more in (("quiet", 0), ("busy", 3)):
        trainer, run = make(tiny_llama, tmp_path / name, micro_batch=2, votes=4)
        trainer.blocked_reason()
        vote(run, trainer.labeler.store, 4)
        trainer.labeler.OPEN = more
        if more:
            trainer.on_microbatch = trainer.labeler.open.clear  # as if somebody answered at once, at every micro-batch
        before = len(run.queries())
        rows.append([without_time(next(trainer)) for _ in range(3)])
        assert (len(run.queries()) - before > 20) == (name == "busy")
    assert rows[0] == rows[1]


def drive_with_votes(trainer: Teach, run: Run, control: RunControl | None = None, until: int = 99) -> None:
    """Two votes before each step, up to the step `until`, where the process "dies"."""
    class Dead(BaseException):
        pass

    inner = trainer.blocked_reason

    def blocked_reason():
        if trainer.step >= until:
            raise Dead
        if trainer.step >= trainer.replay.last_step:
            inner()
            vote(run, trainer.labeler.store, 4 if trainer.step == 0 else 2)
        return inner()

    trainer.blocked_reason = blocked_reason
    with contextlib.suppress(Dead):
        drive(trainer, run, control=control, progress=False)


class Changing(RunControl):
    """Orders given at some steps."""

    def __init__(self, trainer: Teach, orders: dict[int, list]):
        super().__init__()
        self.trainer, self.orders = trainer, orders

    def take_changes(self):
        return self.orders.pop(self.trainer.step, [])


def test_a_killed_run_learns_the_same_votes_at_the_same_steps_again(tiny_model, tmp_path):
    trainer, run = make(tiny_model, tmp_path)
    orders = {3: [("kl_target", 1.5), ("learning_rate", 2e-3)]}
    drive_with_votes(trainer, run, Changing(trainer, orders), until=5)  # the last checkpoint is that of step 4
    before, consumed = run.metrics(), [row["consumed"] for row in run.journal() if row["event"] == "reward"]
    assert len(before) == 5 and len(consumed) == 5

    store = trainer.labeler.store
    vote(run, store, 2, "late")  # votes that came in while nothing ran
    again, _ = make(tiny_model, tmp_path, store=store, fresh=False)
    again.load(run.last_checkpoint())
    run.truncate_to_checkpoint()
    drive_with_votes(again, run)
    assert [json.dumps(row) for row in without_time_all(run.metrics()[:5])] == [json.dumps(row) for row in without_time_all(before)]
    rows = [row for row in run.journal() if row["event"] == "reward"]
    assert [row["consumed"] for row in rows[:5]] == consumed and [row["step"] for row in rows] == list(range(1, 9))
    assert again.config.kl_target == 1.5 and again.config.learning_rate == 2e-3
    used = [name for row in rows for name in row["consumed"]]
    assert sorted(used) == sorted(event.id for event in store.events(run=run.id)) and len(used) == len(set(used))

    # And from the very beginning, with nothing but the store and the journal: the whole run once more.
    (tmp_path / "other").mkdir()
    third = make(tiny_model, tmp_path / "other", store=store)[0]
    third.labeler.run = run
    third.replay_journal(run.journal())
    changes = {row["step"]: [] for row in run.journal() if row["event"] == "changed"}
    for row in run.journal():
        if row["event"] == "changed":
            changes[row["step"]].append((row["name"], row["new"]))
    found = []
    for _ in range(8):
        for name, value in changes.get(third.step, []):
            third.change(name, value)
        found.append(next(third))
    assert without_time_all(found) == without_time_all(run.metrics())


def without_time_all(rows: list[dict]) -> list[dict]:
    return [without_time(row) for row in rows]


# -- live controls ------------------------------------------------------------------------------------------------------

def test_live_controls_take_effect_and_stand_in_the_journal(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path, votes=4)
    control = Changing(trainer, {2: [("kl_target", 1.0), ("temperature", 0.5), ("pessimism", 2.0), ("max_new_tokens", 6), ("learning_rate", 1e-3)],
                                 4: [("temperature", -1.0), ("clip", 0.1), ("max_new_tokens", 10_000)]})
    drive_with_votes(trainer, run, control)
    changed = {row["name"]: (row["old"], row["new"]) for row in run.journal() if row["event"] == "changed"}
    assert changed == {"kl_target": (8.0, 1.0), "temperature": (1.0, 0.5), "pessimism": (0.5, 2.0), "max_new_tokens": (10, 6),
                       "learning_rate": (0.0, 1e-3)}
    warnings = [row["text"] for row in run.journal() if row["event"] == "warning" and row["step"] == 4]
    assert sum(word in text for text in warnings for word in ("--temperature", "clip cannot be changed", "--max-new-tokens")) == 3
    metrics = run.metrics()
    assert metrics[1]["objective/length"] > 6 and max(row["objective/length"] for row in metrics[2:]) <= 6
    assert trainer.learner.controller.target == 1.0 and metrics[-1]["lr"] <= 1e-3 and run.config()["kl_target"] == 8.0


def test_rewind_goes_back_and_forward_again(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path, votes=4)
    control = Changing(trainer, {5: [("temperature", 0.7), ("rewind", 2)]})
    seen = []
    trainer.on_microbatch = lambda: seen.append(trainer.step)
    drive_with_votes(trainer, run, control)
    assert [row["step"] for row in run.metrics()] == list(range(1, 9)) and run.status()["state"] == "done"
    rewound, = [row for row in run.journal() if row["event"] == "rewound"]
    assert (rewound["step"], rewound["was"]) == (2, 5)
    assert trainer.config.temperature == 1.0  # of a future that is no more
    assert [driving.Run(run.path).checkpoint_at(step).name for step in (2, 8)] == ["step-000002", "step-000008"]
    assert all(row["step"] <= 2 for row in run.unsaved(0) if row["event"] == "changed") and run.unsaved(8) == []


def test_rewinding_to_no_checkpoint_is_a_warning(tiny_llama, tmp_path):
    trainer, run = make(tiny_llama, tmp_path, votes=4)
    drive_with_votes(trainer, run, Changing(trainer, {3: [("rewind", 1)]}))
    assert any("has no checkpoint of step 1" in row.get("text", "") for row in run.journal()) and len(run.metrics()) == 8


# -- guard rails --------------------------------------------------------------------------------------------------------

def rollout(ids: list[list[int]], logprob: float = -1.0, entropy: float = 1.0, texts: list[str] | None = None) -> Rollout:
    mask = torch.ones(len(ids), len(ids[0]))
    found = Rollout(["p"] * len(ids), [[1]] * len(ids), ids, texts or ["text"] * len(ids), torch.ones(len(ids), dtype=torch.bool), mask)
    found.ref_logprobs, found.entropy = logprob * mask, entropy
    return found


VARIED = [[i, i + 1, i + 2, i + 3] for i in range(0, 32, 4)]


@pytest.mark.parametrize(("bad", "word", "kind"), [
    (rollout([[1, 2, 3, 4]] * 8), "repeat each other", "repetition"), (rollout(VARIED, texts=[" "] * 8), "empty", "empty"),
    (rollout(VARIED, entropy=0.1), "entropy", "entropy"), (rollout(VARIED, logprob=-3.0), "surprising", "perplexity")])
def test_a_collapse_is_said_once_and_slows_the_policy_down(bad, word, kind):
    guard, paces, said = Guard(reference=VARIED), [], []
    for step in range(40):
        guard.check(rollout(VARIED) if step < 5 else bad)
        said += guard.new_warnings()
        paces.append(guard.lr_factor)
    assert len(said) == 1 and word in said[0].text and said[0].kind == kind and paces[4] == 1.0
    assert min(paces) == SLOWEST == paces[-1] and len(set(paces)) == 4  # 1, 1/2, 1/4, 1/8
    assert paces.count(0.5) == paces.count(0.25) == PAUSE + 1
    for _ in range(30):  # all is well again
        guard.check(rollout(VARIED))
        assert guard.new_warnings() == []
    assert guard.lr_factor == 1.0
    guard.check(bad)
    guard.check(bad)
    guard.check(bad)
    assert len(guard.new_warnings()) == 1  # and again


def test_measures_of_the_text_by_hand():
    guard = Guard(reference=VARIED)
    assert guard.check(rollout(VARIED, logprob=-2.0)) == {"text/distinct_ratio": 1.0, "text/empty": 0.0, "text/entropy_ratio": 1.0,
                                                         "text/perplexity_ratio": 1.0}
    assert guard.surprise == 2.0
    found = guard.check(rollout(VARIED[:4] * 2, logprob=-2.5, entropy=0.5, texts=["a"] * 6 + ["", "\n"]))
    assert found == pytest.approx({"text/distinct_ratio": 0.5, "text/empty": 0.25, "text/entropy_ratio": 0.5, "text/perplexity_ratio": 1.6487213})


# -- many at once, and a worker that dies -------------------------------------------------------------------------------

def test_fifty_people_vote_while_the_worker_is_killed_and_resumed(tiny_llama, tmp_path, monkeypatch):
    """Of 1,000 votes none is lost and none counts twice. The run equals one that learned the same votes at the same steps."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS))
    worker = Worker(tmp_path)
    settings = LIVE | {"steps": 30, "votes": 1000, "patience": 1, "model": str(tiny_llama), "data": str(tmp_path / "prompts.jsonl"),
                       "output": "run", "keep_checkpoints": 2}
    try:
        run = Run(worker.start("teach", settings))
        store, errors, votes, over = Store(tmp_path / "feedback.sqlite"), [], [], threading.Event()

        def client(name: str) -> None:
            try:
                own = 0
                while own < 20 and not over.is_set():
                    if (query := next_query(run, store.events(run=run.id), name)) is None:
                        threading.Event().wait(0.05)
                        continue
                    event = query.event("1" if own % 3 else "tie", f"{name} {own}", voter=name)
                    assert store.add(event) and not store.add(event)  # a double click
                    votes.append(event.id)
                    own += 1
            except Exception as error:
                errors.append(error)

        clients = [threading.Thread(target=client, args=(f"client {i}",)) for i in range(50)]
        for one in clients:
            one.start()
        for moment in (5, 12):
            while len(run.metrics()) < moment:
                assert run.status()["state"] != "failed", run.status()
                assert not errors, errors[0]  # without that client's votes the run would wait for ever
                threading.Event().wait(0.02)
            kill(worker)
            assert run.status()["state"] == "failed"
            worker.start("teach", {"output": "run"}, resume=True)
        for one in clients:
            one.join()
        assert not errors, errors[0]
        while run.status()["state"] not in ("done", "failed"):
            threading.Event().wait(0.05)
        assert run.status()["state"] == "done", run.status()
    finally:
        over.set()
        worker.shutdown()
    stored = store.events(run=run.id)
    assert len(stored) == 1000 and sorted(event.id for event in stored) == sorted(votes)
    rows = [row for row in run.journal() if row["event"] == "reward"]
    used = [name for row in rows for name in row["consumed"]]
    assert len(used) == len(set(used)) and set(used) <= set(votes) and run.metrics()[-1]["reward/votes"] == len(used)

    config = run.config()
    trainer = make_trainer(make_config(config.pop("stage"), config), home=tmp_path)
    trainer.replay_journal(run.journal())
    torch_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert [without_time(next(trainer)) for _ in range(30)] == without_time_all(run.metrics())
    finally:
        torch.set_num_threads(torch_threads)


def kill(worker: Worker) -> None:
    place = worker._address()
    os.kill(place["pid"], signal.SIGKILL)
    while worker.alive():
        threading.Event().wait(0.02)


# -- opinions that answer no query --------------------------------------------------------------------------------------

def test_what_people_say_in_a_chat_about_a_runs_answers_is_learned_and_answers_no_query(tiny_llama, tmp_path):
    """Thumbs, edits and choices on answers of a chat: on several turns, on an empty answer, and taken back."""
    trainer, run = make(tiny_llama, tmp_path)
    assert trainer.blocked_reason()
    store, sampling = trainer.labeler.store, {"model": "bundled", "max_new_tokens": 8, "temperature": 1.0, "top_p": 1.0}
    talk = [{"role": "user", "content": "Tell me"}, {"role": "assistant", "content": "Once"}, {"role": "user", "content": "Go on"}]
    about = {"run": run.id, "voter": "ann", "sampling": sampling, "checkpoint": "run at step 0"}
    before = next_query(run, store.events(run=run.id), "ann").id
    store.add_all([Event("c1-thumb-1", "thumb", "Tell me", ("a cat sat",), "up", **about), Event("c2-thumb-1", "thumb", talk, ("",), "down", **about),
                   Event("c3-edit-1", "edit", talk, ("one dog",), "a better dog", **about),
                   Event("c4-vote", "ranking", "Tell me", ("a", "b", "c"), (2, 1, 2), shown=(2, 0, 1), **about),
                   Event("c5-vote", "comparison", "Tell me", ("a", "b", "c"), "both_bad", **about)])
    assert next_query(run, store.events(run=run.id), "ann").id == before and trainer.labeler.pending_votes() == 5
    assert not trainer.blocked_reason() and len(trainer.labeler.open) == HumanLabeler.OPEN
    metrics = next(trainer)
    assert metrics["reward/votes"] == 5 and all(map(torch.isfinite, map(torch.tensor, metrics.values())))
    store.add_all([Event("c1-thumb-1-undo", "retract", value="c1-thumb-1", run=run.id), Event("c1-thumb-2", "thumb", "Tell me", ("a cat sat",), "down", **about)])
    next(trainer)
    assert {event.id for event in trainer.reward.events} == {"c2-thumb-1", "c3-edit-1", "c4-vote", "c5-vote", "c1-thumb-2"}
