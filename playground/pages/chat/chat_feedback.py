"""What people say about the answers of a chat, as events in the store."""

from playground.pages.chat.conversation import Turn
from rlhf_engine.data.tokenization import Prompt
from rlhf_engine.feedback.events import MAX_NAME, Event
from rlhf_engine.feedback.queries import parse_choice
from rlhf_engine.feedback.store import Store

THUMBS = {"up": "Like", "down": "Dislike"}
"""Thumbs as the store and as the Chatbot call them."""


def say(store: Store, turn: Turn, kind: str, value: str, prompt: Prompt, voter: str) -> None:
    """Make `value` the one live opinion of a `kind` (thumb, edit) on an answer; "" takes back what was said.

    Saying it again changes nothing: the ids follow from the answer's and from how often a mind was changed. Raises
    UserError.
    """
    events = store.events(run=turn.speaker.run, after=turn.head, retracted=True)
    gone = {event.value for event in events if event.kind == "retract"}
    own = [event for event in events if event.kind == kind and event.id.startswith(f"{turn.id}-")]
    live = next((event for event in own if event.id not in gone), None)
    if value == (live.value if live else ""):
        return
    news = []
    if live:
        news.append(Event(f"{live.id}-undo", "retract", value=live.id, run=live.run, voter=voter))
    if value:
        news.append(Event(f"{turn.id}-{kind}-{len(own) + 1}", kind, prompt, (turn.said,), value, run=turn.speaker.run,
                          voter=voter,
                          checkpoint=turn.speaker.checkpoint, sampling=turn.sampling, step=turn.speaker.step))
    store.add_all(news)


def thumbs(store: Store, turns: list[Turn]) -> list[str]:
    """The live thumb on each of some answers, or "". Raises UserError."""
    if not turns:
        return []
    found = {event.id.rpartition("-thumb-")[0]: event.value for event in store.events(after=min(turn.head
                                                                                                for turn in turns))
             if event.kind == "thumb"}
    return [found.get(turn.id, "") for turn in turns]


def verdict(event_id: str, answers: list[Turn], order: tuple[int, ...], choice: str, prompt: Prompt,
            voter: str) -> Event:
    """A vote on `answers`, which are in the order of the screen: "1" to "4" (the place of the best), "tie" or
    "both_bad".

    The event has them in the order of the pickers, and `order` as what was shown. It is of a run where all that belong
    to any belong to that one.
    """
    places = sorted(range(len(order)), key=lambda place: order[place])
    ranked = [answers[place] for place in places]
    kind, value = parse_choice(str(order[int(choice) - 1] + 1) if choice.isdecimal() else choice, len(answers))
    names, runs = [turn.speaker.checkpoint for turn in ranked], {turn.speaker.run for turn in ranked
                                                                 if turn.speaker.run}
    return Event(event_id, kind, prompt, tuple(turn.said for turn in ranked), value,
                 run=runs.pop() if len(runs) == 1 else "",
                 shown=order, checkpoint=" | ".join(names)[:MAX_NAME], voter=voter,
                 sampling=ranked[0].sampling | {"checkpoints": names, "blind": True})
