"""Events of the feedback store as HTML, and their summary."""

import secrets
from datetime import UTC, datetime

import gradio as gr
from markupsafe import Markup

from playground import text as app_text
from playground.components import text as shared_text
from playground.components.dataset_view import clip_text
from playground.components.formatting import conversation
from playground.components.html import empty, notice, render
from playground.pages.data import text
from playground.pages.data.feedback_index import FeedbackSummary, VoterSummary
from playground.scripts import read_script
from rlhf_engine.feedback.events import Event

MOST_VOTERS = 10
"""At most this many voters are in the table."""
LATEST_TIME = 4e9
"""Seconds since 1970; a later time, which a forged event may have, is shown as this one."""


class Votes(gr.HTML):
    """A list of events, each with a button that takes it back.

    The event `retract` carries the id of the event and a new id for the retract.
    """

    def __init__(self, **options):
        super().__init__(value={"html": ""}, html_template="${value.html}", js_on_load=read_script("take_back"),
                         apply_default_css=False, **options)

    def api_info(self):
        """The type of its value in the API."""
        return {"type": "object"}


# -- events ----------------------------------------------------------------------------------------------------------

def votes(events: list[Event], gone: frozenset[str], names: dict[str, str], *,
          otherwise: str = text.NO_FEEDBACK) -> dict:
    """The value of `Votes`.

    gone: ids of the events that were taken back. names: the names of runs by their ids. otherwise: the sentence if
    there are no events.
    """
    if not events:
        return {"html": empty(otherwise)}
    token = secrets.token_hex(16)
    rows = [event_row(event, event.id in gone, names, f"{token}-{index}") for index, event in enumerate(events)]
    return {"html": render("data/votes.html", rows=rows, text=text)}


def event_row(event: Event, gone: bool, names: dict[str, str], retract_id: str) -> dict:
    """What the template shows of an event. `retract_id` is the id of the retract that its button sends."""
    prediction = None
    if event.guessed is not None:
        prediction = ("done", text.GUESSED_IT) if event.guessed else ("paused", text.GUESSED_NOT)
    return {"id": event.id, "seq": event.seq, "number": text.EVENT_NUMBER.format(number=event.seq),
            "kind": text.KIND_NAMES.get(event.kind, event.kind),
            "gone": gone, "facts": " · ".join(event_facts(event, names)), "prediction": prediction,
            "retract_id": retract_id,
            "prompt": clip_text(conversation(event.prompt)), "verdict": verdict(event), "answers": answers(event)}


def event_facts(event: Event, names: dict[str, str]) -> list[str]:
    """The run, the step, the voter, the time taken, and the date."""
    facts = [run_name(event.run, names)]
    if event.step:
        facts.append(text.AT_STEP.format(step=event.step))
    facts.append(text.BY_VOTER.format(voter=short(event.voter)))
    if event.seconds:
        facts.append(text.TOOK.format(seconds=event.seconds))
    return [*facts, moment(event.time)]


def display_order(event: Event) -> list[int]:
    """Indices of the responses in the order in which the voter saw them."""
    return list(event.shown or range(len(event.responses)))


def answers(event: Event) -> list[dict]:
    """The responses in the order in which the voter saw them, with the best one marked; then the answer that was
    written instead."""
    ranks = event.ranks
    views = []
    for number, index in enumerate(display_order(event), 1):
        best = len(set(ranks)) > 1 and ranks[index] == 1
        title = [text.ANSWER.format(place=number)] if len(event.responses) > 1 else []
        if best:
            title.append(text.CHOSEN)
        elif len(set(ranks)) > 2:
            title.append(shared_text.RANK.format(rank=ranks[index]))
        if event.scores:
            title.append(text.REWARD_SCORE.format(score=event.scores[index]))
        views.append(answer_view(" · ".join(title), event.responses[index], best))
    own_text = event.rules.demonstration(event)
    if own_text is not None:
        views.append(answer_view(text.WRITTEN_INSTEAD, own_text, True))
    return views


def answer_view(title: str, content: str, chosen: bool) -> dict:
    """One answer for the template."""
    return {"title": title, "content": clip_text(content), "empty": shared_text.EMPTY_RESPONSE, "chosen": chosen}


def verdict(event: Event) -> str:
    """The judgement in words; responses are counted in the order in which the voter saw them."""
    value, order = event.value, display_order(event)
    many = len(order) > 2
    if not event.ranks:
        return text.VERDICTS.get(event.kind, text.OTHER_VERDICT).format(kind=event.kind.capitalize(), value=value)
    if value in ("tie", "both_bad"):
        return (app_text.SAID_TIE if value == "tie" else app_text.SAID_BOTH_BAD)[many].capitalize()
    ranks = [event.ranks[index] for index in order]
    if len(set(ranks)) > 2:
        numbers = [str(number) for _, number in sorted(zip(ranks, range(1, len(ranks) + 1)))]
        return text.ORDERED.format(order=", ".join(numbers))
    if len(set(ranks)) == 1:
        return app_text.SAID_TIE[many].capitalize()
    best = [str(number) for number, rank in enumerate(ranks, 1) if rank == 1]
    return text.SAID_WINS[many].format(place=" and ".join(best))


# -- summary ---------------------------------------------------------------------------------------------------------

def summary(sums: FeedbackSummary) -> Markup | str:
    """Counts, the time taken, who agrees with whom, and a table of voters; an empty string if there are no events."""
    if not sums.all.votes and not sums.gone:
        return ""
    more = len(sums.voters) - MOST_VOTERS
    return render("data/summary.html", text=text, counts=counts(sums), agreement=agreement(sums.agreement),
                  reward=with_reward(sums.all),
                  voters=[voter_row(voter) for voter in sums.voters[:MOST_VOTERS]],
                  more=text.MORE_VOTERS.format(count=more) if more > 0 else "")


def counts(sums: FeedbackSummary) -> list[str]:
    """The number of votes, of voters, of each kind of event, and the median time of a vote."""
    numbers = [(sums.all.votes, shared_text.VOTES), (len(sums.voters), text.VOTERS)]
    numbers += [(sums.kinds[kind], name) for kind, name in text.KINDS_NAMED.items() if sums.kinds[kind]]
    if sums.gone:
        numbers.append((sums.gone, text.TAKEN_BACK))
    lines = [text.COUNT_OF.format(count=count, kind=kind) for count, kind in numbers]
    if sums.all.seconds:
        lines.append(text.MEDIAN_SECONDS.format(seconds=sums.all.seconds))
    return lines


def agreement(numbers: dict) -> str:
    """How far voters agree with each other, in words."""
    if not numbers["pairs"]:
        return text.AGREE_NONE
    kappa = text.AGREE_TIES if numbers["kappa"] is None else text.AGREE_KAPPA.format(kappa=numbers["kappa"])
    return f'{text.AGREE.format(pairs=numbers["pairs"], share=numbers["agree"])} {kappa}'


def with_reward(voter: VoterSummary) -> str:
    """How many votes the reward model had predicted, in words."""
    if not voter.guesses:
        return text.REWARD_SILENT
    return text.REWARD_AGREED.format(guessed=voter.guessed, guesses=voter.guesses, share=voter.guessed / voter.guesses)


def voter_row(voter: VoterSummary) -> dict:
    """One line of the table of voters."""
    seconds = shared_text.NOT_THERE if voter.seconds is None else f"{voter.seconds:.1f}"
    share = shared_text.NOT_THERE
    if voter.guesses:
        share = text.SHARE_OF.format(share=voter.guessed / voter.guesses, count=voter.guesses)
    return {"name": short(voter.name), "votes": f"{voter.votes:,}", "seconds": seconds, "share": share}


def run_name(run: str, names: dict[str, str]) -> str:
    """The name of a run by its id; a run that has been removed, and an event of no run, are named as such."""
    return names.get(run) or (text.RUN_GONE.format(run=run) if run else text.OF_NO_RUN)


def short(voter: str) -> str:
    """The beginning of a voter's anonymous id, enough to tell voters apart."""
    return (voter[:8] if len(voter) == 16 else voter) or text.NOBODY


def moment(seconds: float) -> str:
    """A date and time from seconds since 1970."""
    return datetime.fromtimestamp(min(seconds, LATEST_TIME), UTC).strftime("%Y-%m-%d %H:%M UTC")


def backup_status(status: dict) -> Markup:
    """The state of the copy of the votes on the Hub, from what `playground.server.feedback_backup` writes."""
    if status["trouble"]:
        return notice(status["trouble"])
    sentence = text.SYNC_KEPT if status["saved"] else text.SYNC_WAITING
    line = sentence.format(repo=status["repo"], events=status["events"], when=moment(status["saved"]))
    return render("data/backup_status.html", line=line)
