"""What the votes before the first step teach stands in the run folder at once, and a run that ends among them goes on from there."""

from rlhf_engine.loop import RunControl, drive
from rlhf_engine.runs.folder import Run
from rlhf_engine.teach.trainer import Teach
from tests.rlhf_engine.helpers.teach import make_live, make_simulated, vote


def learned(run: Run) -> list[dict]:
    return [row for row in run.journal() if row["event"] == "reward"]


def drive_until(trainer: Teach, run: Run, reached) -> None:
    """Drive a run that waits for votes until `reached()`; then it is stopped."""
    control, inner = RunControl(), trainer.blocked_reason

    def blocked_reason():
        if reached():
            control.stop()
        return inner()

    trainer.blocked_reason = blocked_reason
    assert drive(trainer, run, control=control, progress=False) == "stopped"


def test_each_first_vote_is_in_the_journal_before_the_next_and_a_stopped_run_goes_on_with_them(tiny_llama, tmp_path):
    trainer, run = make_live(tiny_llama, tmp_path)
    store = trainer.labeler.store

    def voted_twice() -> bool:
        if len(learned(run)) < 2 and run.queries() and not trainer.labeler.pending_votes():
            vote(run, store, 1)
        return len(learned(run)) == 2

    drive_until(trainer, run, voted_twice)
    rows = learned(run)
    assert [(row["step"], row["votes"]) for row in rows] == [(1, 1), (1, 2)] and rows[0]["time"] < rows[1]["time"]
    assert run.metrics() == [] and len([row for row in run.samples() if row.get("fixed")]) == 3

    again, _ = make_live(tiny_llama, tmp_path, store=store, fresh=False)
    run.truncate_to_checkpoint()
    assert run.samples() == [], "the start's answers are written again"
    drive_until(again, run, lambda: "2 more votes" in run.status()["advice"])
    assert learned(run) == rows and len(again.reward.events) == 2 and again.step == 0

    third, _ = make_live(tiny_llama, tmp_path, store=store, fresh=False)
    run.truncate_to_checkpoint()
    drive_until(third, run, lambda: third.step == 1 or (not third.labeler.pending_votes() and not vote(run, store, 1)))
    assert [row["votes"] for row in learned(run)] == [1, 2, 3, 4] and third.step
    assert "reference" in {row["event"] for row in run.journal()}, "what the first step itself has to say is not lost"


def test_a_vote_that_is_taken_back_before_the_first_step_counts_no_more_at_once(tiny_llama, tmp_path):
    trainer, run = make_live(tiny_llama, tmp_path)
    trainer.blocked_reason()
    vote(run, trainer.labeler.store, 3)
    assert "1 more" in trainer.blocked_reason()
    for event in trainer.labeler.store.events(run=run.id):
        trainer.labeler.store.add(type(event)(f"not {event.id}", "retract", value=event.id, run=run.id))
    assert "4 more votes" in trainer.blocked_reason()


def test_a_simulated_voter_is_followed_vote_by_vote(tiny_llama, tmp_path):
    trainer = make_simulated(tiny_llama, steps=1, votes=14, votes_first=12)
    seen = []
    trainer.on_news = lambda: (seen.append([row.get("votes") for row in trainer.events]), trainer.events.clear())
    next(trainer)
    assert [row for row in seen if row][:2] == [[8], [10]], "the first eight, then two at a time until twelve are in"


def test_the_console_counts_the_first_votes_before_the_first_step(tiny_llama, tmp_path, capsys):
    trainer = make_simulated(tiny_llama, steps=1, votes=10, votes_first=10)
    run = Run.create(tmp_path / "run", trainer.config)
    assert drive(trainer, run) == "done"
    before_the_step, _, after = capsys.readouterr().err.partition("1/1")
    assert "measuring for the report" in after
    counted = [row["votes"] for row in learned(run)]
    assert len(counted) > 1 and all(f"votes {votes}" in before_the_step for votes in counted)
