"""Events of the feedback store as HTML, and what they come to."""

import secrets
from datetime import UTC, datetime

import gradio as gr

from playground import text as app_text
from playground.components import text as shared_text
from playground.components.dataset_view import clipped
from playground.components.formatting import conversation
from playground.components.html import escape, notice
from playground.pages.data import text
from playground.pages.data.feedback_index import FeedbackSummary, Voter
from playground.scripts import read_script
from rlhf_engine.feedback.events import Event

LISTED = 10
"""Voters in the table."""


class Votes(gr.HTML):
    """Events, each with a button that takes it back: `retract` comes with the id of the event and a fresh one for the retract."""

    def __init__(self, **options):
        super().__init__(value={"html": ""}, html_template="${value.html}", js_on_load=read_script("take_back"), apply_default_css=False, **options)

    def api_info(self):
        return {"type": "object"}


def votes(events: list[Event], gone: frozenset[str], names: dict[str, str], *, empty: str = text.NO_FEEDBACK) -> dict:
    """The value of `Votes`. `names` are the names of the runs by their ids."""
    if not events:
        return {"html": f'<p class="empty">{escape(empty)}</p>'}
    turn = secrets.token_hex(16)
    rows = "".join(_event(event, event.id in gone, names, f"{turn}-{place}") for place, event in enumerate(events))
    return {"html": f'<ol class="data-rows votes">{rows}</ol>'}


def _event(event: Event, gone: bool, names: dict[str, str], retract_id: str) -> str:
    facts = [f'<span class="badge">{text.KIND_NAMES[event.kind]}</span>',
             f'<span class="facts">{escape(" · ".join(_facts(event, names)))}</span>']
    if event.guessed is not None:
        right, words = ("done", text.GUESSED_IT) if event.guessed else ("paused", text.GUESSED_NOT)
        facts.append(f'<span class="badge {right}">{words}</span>')
    number = text.EVENT_NUMBER.format(number=event.seq)
    if gone:
        facts.append(f'<span class="badge failed">{text.TAKEN_BACK}</span>')
    else:
        facts.append(f'<button type="button" data-event="{escape(event.id)}" data-retract="{retract_id}" data-sure="{text.TAKE_BACK_SURE}" '
                     f'aria-describedby="event-{event.seq}">{text.TAKE_BACK}</button>')
    return (f'<li class="{"gone" if gone else ""}"><div class="vote-head"><span class="number" id="event-{event.seq}">{number}</span>'
            f'{"".join(facts)}</div><p class="prompt">{clipped(conversation(event.prompt))}</p>'
            f'<p class="verdict">{escape(verdict(event))}</p><div class="said-all">{_answers(event)}</div></li>')


def _facts(event: Event, names: dict[str, str]) -> list[str]:
    found = [run_name(event.run, names)]
    if event.step:
        found.append(text.AT_STEP.format(step=event.step))
    found.append(text.BY_VOTER.format(voter=short(event.voter)))
    if event.seconds:
        found.append(text.TOOK.format(seconds=event.seconds))
    return [*found, moment(event.time)]


def _answers(event: Event) -> str:
    """The responses in the order in which they were seen, the best one marked."""
    ranks, found = event.ranks, []
    for place, i in enumerate(event.shown or range(len(event.responses)), 1):
        title = [text.ANSWER.format(place=place)] if len(event.responses) > 1 else []
        best = len(set(ranks)) > 1 and ranks[i] == 1
        if best:
            title.append(text.CHOSEN)
        elif len(set(ranks)) > 2:
            title.append(shared_text.RANK.format(rank=ranks[i]))
        if event.scores:
            title.append(text.REWARD_SCORE.format(score=event.scores[i]))
        found.append(_said(" · ".join(title), event.responses[i], "chosen" if best else ""))
    if event.kind == "edit":
        found.append(_said(text.WRITTEN_INSTEAD, event.value, "chosen"))
    return "".join(found)


def _said(title: str, said: str, kind: str) -> str:
    return f'<div class="said {kind}"><b>{escape(title)}</b><p>{clipped(said) or f"<em>{shared_text.EMPTY_RESPONSE}</em>"}</p></div>'


def verdict(event: Event) -> str:
    """What was said, in words; responses are counted in the order in which they were seen."""
    value, seen = event.value, list(event.shown or range(len(event.responses)))
    many = len(seen) > 2
    if event.kind == "thumb":
        return text.THUMBED[value]
    if event.kind == "score":
        return text.SCORED.format(score=value)
    if event.kind == "edit":
        return text.EDITED
    if value in ("tie", "both_bad"):
        return (app_text.SAID_TIE if value == "tie" else app_text.SAID_BOTH_BAD)[many].capitalize()
    ranks = [event.ranks[i] for i in seen]
    if len(set(ranks)) > 2:
        return text.ORDERED.format(order=", ".join(str(place) for _, place in sorted(zip(ranks, range(1, len(ranks) + 1)))))
    if len(set(ranks)) == 1:
        return app_text.SAID_TIE[many].capitalize()
    best = [str(place) for place, rank in enumerate(ranks, 1) if rank == 1]
    return text.SAID_WINS[many].format(place=" and ".join(best))


# -- what they come to -----------------------------------------------------------------------------------------------

def sums(found: FeedbackSummary) -> str:
    """Counts, the time taken, and who agrees with whom."""
    if not found.all.votes and not found.gone:
        return ""
    kinds = [text.COUNT_OF.format(count=found.kinds[kind], kind=name) for kind, name in text.KINDS_NAMED.items() if found.kinds[kind]]
    if found.gone:
        kinds.append(text.COUNT_OF.format(count=found.gone, kind=text.TAKEN_BACK))
    lines = [text.COUNT_OF.format(count=found.all.votes, kind=shared_text.VOTES), text.COUNT_OF.format(count=len(found.voters), kind=text.VOTERS), *kinds]
    if found.all.seconds:
        lines.append(text.MEDIAN_SECONDS.format(seconds=found.all.seconds))
    chips = "".join(f"<li>{escape(line)}</li>" for line in lines)
    shown = found.voters[:LISTED]
    body = "".join(f'<tr><th scope="row">{escape(short(voter.name))}</th><td class="n" data-title="{text.VOTES_TITLE}">{voter.votes:,}</td>'
                   f'<td class="n" data-title="{text.SECONDS_TITLE}">{"–" if voter.seconds is None else f"{voter.seconds:.1f}"}</td>'
                   f'<td class="n" data-title="{text.REWARD_TITLE}">{_share(voter)}</td></tr>' for voter in shown)
    heads = "".join(f'<th scope="col">{head}</th>' for head in (text.VOTER_TITLE, text.VOTES_TITLE, text.SECONDS_TITLE, text.REWARD_TITLE))
    more = f'<p class="empty">{text.MORE_VOTERS.format(count=len(found.voters) - LISTED)}</p>' if len(found.voters) > LISTED else ""
    return (f'<section class="data-look"><ul class="chips">{chips}</ul><p>{escape(agreed(found.agreement))}</p>'
            f'<p>{escape(_with_reward(found.all))}</p>'
            f'<table class="mapping"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>{more}</section>')


def agreed(found: dict) -> str:
    """How far voters agree with each other."""
    if not found["pairs"]:
        return text.AGREE_NONE
    kappa = text.AGREE_TIES if found["kappa"] is None else text.AGREE_KAPPA.format(kappa=found["kappa"])
    return f'{text.AGREE.format(pairs=found["pairs"], share=found["agree"])} {kappa}'


def _with_reward(all: Voter) -> str:
    if not all.guesses:
        return text.REWARD_SILENT
    return text.REWARD_AGREED.format(guessed=all.guessed, guesses=all.guesses, share=all.guessed / all.guesses)


def _share(voter: Voter) -> str:
    return text.SHARE_OF.format(share=voter.guessed / voter.guesses, count=voter.guesses) if voter.guesses else "–"


def run_name(run: str, names: dict[str, str]) -> str:
    return names.get(run) or (text.RUN_GONE.format(run=run) if run else text.OF_NO_RUN)


def short(voter: str) -> str:
    """A voter's anonymous id as far as it takes to tell them apart."""
    return (voter[:8] if len(voter) == 16 else voter) or text.NOBODY


def moment(seconds: float) -> str:
    return datetime.fromtimestamp(min(seconds, 4e9), UTC).strftime("%Y-%m-%d %H:%M UTC")


def kept(status: dict) -> str:
    """What became of the votes that are kept on the Hub (`keeper.Keeper`)."""
    if status["trouble"]:
        return notice(status["trouble"])
    when = datetime.fromtimestamp(status["saved"], UTC).strftime("%Y-%m-%d %H:%M UTC")
    said = text.SYNC_KEPT if status["saved"] else text.SYNC_WAITING
    return f'<p class="kept" role="status">{escape(said.format(repo=status["repo"], events=status["events"], when=when))}</p>'
