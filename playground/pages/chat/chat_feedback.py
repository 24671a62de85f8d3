"""Feedback on the answers of a chat, as events in the store."""

from playground.pages.chat.conversation import Turn
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.feedback.checks import MAX_NAME
from rlhf_engine.feedback.choices import Choice, best_response, parse_choice
from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.store import Store

THUMBS = {"up": "Like", "down": "Dislike"}
"""A thumb in the store -> the same thumb in Gradio's Chatbot."""


def set_feedback(store: Store, turn: Turn, kind: str, value: str, prompt: Prompt, voter: str) -> None:
    """Make `value` the only live feedback of a `kind` (thumb, edit) on an answer; "" takes it back. Raises UserError.

    The ids of the events follow from the answer's id and the number of earlier changes: the same value again adds
    nothing.
    """
    events = store.events(run=turn.speaker.run, after=turn.head, retracted=True)
    retracted = {event.value for event in events if event.kind == "retract"}
    own = [event for event in events if event.kind == kind and event.id.startswith(f"{turn.id}-")]
    live = next((event for event in own if event.id not in retracted), None)
    if value == (live.value if live else ""):
        return
    new = []
    if live:
        new.append(Event(f"{live.id}-undo", "retract", value=live.id, run=live.run, voter=voter))
    if value:
        new.append(Event(f"{turn.id}-{kind}-{len(own) + 1}", kind, prompt, (turn.said,), value, run=turn.speaker.run,
                         voter=voter, checkpoint=turn.speaker.checkpoint, sampling=turn.sampling,
                         stopped=turn.stopped, step=turn.speaker.step))
    store.add_all(new)


def thumbs(store: Store, turns: list[Turn]) -> list[str]:
    """The live thumb on each answer, "up", "down" or "". Raises UserError."""
    if not turns:
        return []
    thumb_of = {}
    for event in store.events(after=min(turn.head for turn in turns)):
        if event.kind == "thumb":
            turn_id = event.id.rpartition("-thumb-")[0]
            thumb_of[turn_id] = str(event.value)
    return [thumb_of.get(turn.id, "") for turn in turns]


def blind_vote(event_id: str, answers: list[Turn], order: tuple[int, ...], choice: str, prompt: Prompt,
               voter: str) -> Event:
    """The event of a vote on a blind round.

    `answers` and `choice` ("1" to "4", "tie" or "both_bad") are in the order of the screen, and `order` holds the
    picker of each position. The event has the answers in the order of the pickers. It belongs to a run if all answers
    that come from runs come from that one. Raises UserError for an unknown choice.
    """
    positions = sorted(range(len(order)), key=lambda position: order[position])
    ordered = [answers[position] for position in positions]
    picked = choice_of_picker(parse_choice(choice, len(answers)), order)
    names = [turn.speaker.checkpoint for turn in ordered]
    runs = {turn.speaker.run for turn in ordered if turn.speaker.run}
    return Event(event_id, picked.kind, prompt, tuple(turn.said for turn in ordered), picked.value,
                 run=runs.pop() if len(runs) == 1 else "", shown=order, checkpoint=" | ".join(names)[:MAX_NAME],
                 voter=voter, sampling=ordered[0].sampling, checkpoints=tuple(names), blind=True,
                 stopped=ordered[0].stopped)


def choice_of_picker(choice: Choice, order: tuple[int, ...]) -> Choice:
    """A choice in the order of the screen as one in the order of the pickers."""
    if not choice.best:
        return choice
    return best_response(order[choice.best - 1] + 1, len(order))
