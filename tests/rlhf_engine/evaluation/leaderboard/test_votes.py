"""Which events are votes on checkpoints, and what cannot be read."""

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.leaderboard.votes import Choice, Vote, choose_events, load_events, votes_of
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.exchange import export
from rlhf_engine.feedback.store import Store
from tests.rlhf_engine.evaluation.leaderboard.hand_votes import event, score


def test_what_each_answer_means():
    [win, loss, tie, bad, best, ranking], notes = votes_of([
        event(0, "left"), event(1, "right"), event(2, "tie"), event(3, "both_bad"), event(4, (2, 1, 2, 2), "abcd"),
        event(5, (1, 1, 2), "abc")])
    assert [vote.answers() for vote in (win, loss, tie, bad)] == [[(0, 1, 1.0)], [(0, 1, 0.0)], [(0, 1, 0.5)], [(0, 1, 0.5)]]
    assert best.answers() == [(0, 1, 0.0), (1, 2, 1.0), (1, 3, 1.0)]  # the rest was not compared
    assert ranking.answers() == [(0, 2, 1.0), (1, 2, 1.0)]
    assert notes == []


def test_a_tie_of_four_is_one_and_a_checkpoint_does_not_meet_itself():
    [four, twice], _ = votes_of([event(0, "both_bad", "abcd"), event(1, (1, 2, 2), "aab")])
    assert len(four.answers()) == 6 and {result for _, _, result in four.answers()} == {0.5}
    assert twice.answers() == [(0, 2, 1.0)]


def test_what_says_nothing_about_checkpoints_is_counted():
    events = [event(0, checkpoints=("a", "a")), event(1, checkpoints=(), responses=("x", "y")), score(2, 5), event(3)]
    votes, notes = votes_of(events)
    assert len(votes) == 1 and len(notes) == 2
    assert notes[0].startswith("1 vote left out: the event does not name") and "of one checkpoint" in notes[1]


def test_votes_of_the_first_version_name_their_checkpoints_in_the_sampling():
    old = Event("old", "comparison", "p", ("x", "y"), "left", sampling={"checkpoints": ["a", "b"], "blind": True})
    [vote], _ = votes_of([old])
    assert vote.checkpoints == ("a", "b") and choose_events([old], Choice(blind=True)) == [old]


def test_votes_stand_in_the_order_of_their_time():
    events = [event(i, time=float(t)) for i, t in enumerate((3, 1, 2))]
    assert [vote.prompt for vote in votes_of(events)[0]] == ['"prompt 1"', '"prompt 2"', '"prompt 0"']


def test_equal_conversations_are_one_prompt():
    turns = [{"role": "user", "content": "hi"}]
    other = [{"content": "hi", "role": "user"}]
    [one, two], _ = votes_of([event(0, prompt=turns), event(1, prompt=other)])
    assert one.prompt == two.prompt


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_files_and_stores_give_the_same_without_what_was_taken_back(tmp_path, suffix):
    events = [event(i, time=1.0 + i) for i in range(4)]
    events.append(Event("undo", "retract", value="e1", time=9.0))
    export(events, tmp_path / f"votes{suffix}")
    Store(tmp_path / "feedback.sqlite").add_all(events)
    sources = (f"votes{suffix}", "feedback.sqlite", "")
    ids = [[each.id for each in load_events(tmp_path / source)] for source in sources]
    assert ids == [["e0", "e2", "e3"]] * 3


def test_an_event_that_stands_twice_counts_once(tmp_path):
    path = tmp_path / "votes.jsonl"
    export([event(0, time=1.0), event(1), event(0, time=2.0)], path)  # a backup beside an export
    assert len(load_events(path)) == 2
    export([event(0), event(0, "right")], path)
    with pytest.raises(UserError, match="row 2.*'e0' stands twice"):
        load_events(path)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("missing.jsonl", None, "there is no"), ("missing.sqlite", None, "holds no votes"), ("empty.sqlite", "", "holds no votes"),
    ("text.sqlite", "no database, but longer than a header of one hundred bytes would be, so that it is read " * 3, "no store"),
    ("votes.csv", "id,kind\n1,comparison\n", "jsonl or .parquet"), ("bad.jsonl", "{\n", "bad.jsonl"),
    ("bad.jsonl", '{"id": "a", "kind": "comparison"}\n', "row 1"), ("folder", "/", "no workspace")])
def test_what_is_no_list_of_votes_is_refused_in_one_line_and_nothing_is_made(tmp_path, name, content, message):
    path = tmp_path / name
    if content == "/":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        load_events(path)
    assert "\n" not in str(caught.value) and sorted(tmp_path.rglob("*")) == before


def test_choices_of_events():
    events = [event(0, run="r1", voter="ann"), event(1, run="r2", voter="bob", blind=False), event(2, voter="ann")]
    assert choose_events(events, Choice()) == events
    assert choose_events(events, Choice(blind=True)) == [events[0], events[2]]
    assert choose_events(events, Choice(run="r2")) == [events[1]]
    assert choose_events(events, Choice(run="r1", voter="ann")) == [events[0]]
    for choice, message in ((Choice(run="r11"), "did you mean 'r1'"), (Choice(voter="zoe"), "there are 'ann', 'bob'")):
        with pytest.raises(UserError, match=message):
            choose_events(events, choice)
    with pytest.raises(UserError, match="none has a run at all: leave --run out"):
        choose_events([event(0)], Choice(run="r1"))


def test_a_vote_is_a_tie_only_if_all_are_equal():
    assert Vote(("a", "b", "c"), (1, 1, 1), "p", "v").is_tie and not Vote(("a", "b", "c"), (1, 1, 2), "p", "v").is_tie
