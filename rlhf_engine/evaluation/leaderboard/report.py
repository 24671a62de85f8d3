"""The report of the command `leaderboard`: votes, scores and agreement between voters, out of feedback events."""

from collections.abc import Sequence
from typing import Any

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.leaderboard.agreement import judge_agreement, stored_scores, voter_agreement
from rlhf_engine.evaluation.leaderboard.likert import likert, ratings_of
from rlhf_engine.evaluation.leaderboard.table import empty_leaderboard, leaderboard
from rlhf_engine.evaluation.leaderboard.votes import Choice, choose_events, votes_of
from rlhf_engine.feedback.events import Event


def make_report(events: Sequence[Event], choice: Choice = Choice(), *, cluster: str = "prompt", anchor: str = "",
                seed: int = 0) -> dict[str, Any]:
    """Everything that events say about checkpoints, as a dictionary for report.json.

    It is that of `table.leaderboard`, with `likert` (None without scores), `agreement` (between voters) and
    `reward_agreement` (of the reward models that asked, with the voters; None where no event has their scores).

    Raises UserError where no event that counts compares or scores checkpoints, and as `choose_events` and
    `table.leaderboard` do.
    """
    chosen = choose_events(events, choice)
    votes, vote_notes = votes_of(chosen)
    ratings, rating_notes = ratings_of(chosen)
    if not votes and not ratings:
        raise UserError(nothing_to_rank(events, chosen, choice, [*vote_notes, *rating_notes]))
    report = leaderboard(votes, cluster=cluster, anchor=anchor, seed=seed) if votes else empty_leaderboard(cluster)
    scores = likert(ratings)
    notes = [*report["notes"], *vote_notes, *rating_notes, *(scores["notes"] if scores else [])]
    scored = any(event.scores for event in chosen)
    return report | {"likert": scores, "agreement": voter_agreement(chosen),
                     "reward_agreement": judge_agreement(chosen, stored_scores) if scored else None,
                     "notes": list(dict.fromkeys(notes))}


def nothing_to_rank(events: Sequence[Event], chosen: Sequence[Event], choice: Choice, notes: Sequence[str]) -> str:
    """Why there is no leaderboard, and what to do, in one line."""
    if not events:
        return "there are no votes: vote on blind rounds of the Chat page first"
    if choice.blind and not chosen:
        return "no vote was blind: leave --blind out, or vote on blind rounds of the Chat page"
    reasons = f" ({'; '.join(notes)})" if notes else ""
    return (f"none of the {len(chosen):,} events that count compares checkpoints, or scores one{reasons}: vote on "
            "blind rounds of the Chat page")
