"""Run folders as HTML. Everything that comes from a model, a file or a user passes through `text`."""

import html
import math

from playground import strings as s
from playground.workspace import Entry


def text(value) -> str:
    """`value` as inert text: no markup, and none of the braces and dollars that a template would read."""
    return html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def notice(message: str) -> str:
    """What went wrong, where nobody can miss it."""
    return f'<div class="notice" role="alert">{text(message)}</div>'


def header(line: str) -> str:
    return (f'<header class="top"><h1>{s.TITLE}</h1><p>{s.TAGLINE}</p>'
            f'<p class="live" role="status">{text(line)}</p></header>')


def live_line(entry: Entry | None) -> str:
    if entry is None:
        return s.NO_RUN_LIVE
    if not entry.total:
        return f"{entry.name}: {s.PREPARING}"
    return s.LIVE.format(name=entry.name, state=s.STATES[entry.state], step=entry.step, total=entry.total)


def card(name: str, config: dict, status: dict, metrics: list[dict]) -> str:
    """State, progress, time left, and for a failed run what to do about it."""
    state, step, total = status["state"], status["step"], status["total_steps"]
    share = 100 * step / total if total else 0
    facts = [s.PROGRESS.format(step=step, total=total)] if total else [s.PREPARING] if state == "waiting" else []
    facts += [status["advice"]] if state == "waiting" and status.get("advice") else []
    left = seconds_left(metrics, total) if state == "running" else None
    if left is not None:
        facts.append(s.ETA.format(time=duration(left)))
    parts = [f'<div class="run-title"><strong>{text(name)}</strong>'
             f'<span class="badge {text(state)}">{text(s.STATES.get(state, state))}</span>'
             f'<span class="facts">{text(" · ".join([s.STAGES[config["stage"]], *facts]))}</span></div>',
             f'<div class="bar" role="progressbar" aria-label="{text(name)}" aria-valuemin="0" aria-valuemax="{int(total)}" '
             f'aria-valuenow="{int(step)}"><i style="width:{share:.1f}%"></i></div>']
    if status.get("error"):
        parts += [f'<p class="error" role="alert">{text(status["error"])}</p>', f'<p class="advice">{text(status.get("advice", ""))}</p>']
    return f'<section class="run-card">{"".join(parts)}</section>'


def seconds_left(metrics: list[dict], total: int) -> float | None:
    """Steps to go times the mean time of the last twenty."""
    recent = [sum(v for k, v in row.items() if k.startswith("time/")) for row in metrics[-20:]]
    if not recent:
        return None
    return (total - metrics[-1]["step"]) * sum(recent) / len(recent)


def duration(seconds: float) -> str:
    seconds = math.ceil(seconds)
    if seconds < 90:
        return f"{seconds} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def events(journal: list[dict], latest: int = 30) -> str:
    """The journal, newest first."""
    if not journal:
        return f'<p class="empty">{s.NO_EVENTS}</p>'
    rows = [f'<li class="{text(row.get("event", ""))}">{text(sentence(row))}</li>' for row in reversed(journal[-latest:])]
    return f'<ul class="events">{"".join(rows)}</ul>'


def sentence(row: dict) -> str:
    """A journal line in words; an event without words of its own shows its name and its text."""
    try:
        return s.EVENT[row["event"]].format(**row)
    except (KeyError, ValueError, IndexError):
        return ": ".join(str(part) for part in (row.get("event", ""), row.get("text", "")) if part != "")


def samples(rows: list[dict], latest: int = 8) -> str:
    """The newest samples as a table, without the answers to the fixed prompts."""
    rows = [row for row in rows if not row.get("fixed")]
    if not rows:
        return f'<p class="empty">{s.NO_SAMPLES}</p>'
    heads = "".join(f'<th scope="col">{title}</th>' for title in s.SAMPLE_HEADS.values())
    body = "".join(
        f'<tr><td class="n step">{text(row["step"])}</td><td class="prompt">{text(said(row["prompt"]))}</td>'
        f'<td class="response">{text(row["response"])}{"" if row.get("ended", True) else f"<em> {s.NOT_ENDED}</em>"}</td>'
        f'<td class="n score">{number(row.get("score"))}</td><td class="n kl">{number(row.get("kl"))}</td></tr>'
        for row in reversed(rows[-latest:]))
    return (f'<div class="samples" tabindex="0" role="region" aria-label="{s.SAMPLES}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


_HAND = ("M7 11v9H4a1 1 0 0 1-1-1v-7a1 1 0 0 1 1-1zm2 0 4-8c1.5 0 2.5 1 2.5 2.5L15 9h4.6c1.3 0 2.2 1.2 1.9 2.4l-1.7 7"
         "c-.2.9-1 1.6-2 1.6H11l-2-1z")
THUMB = {way: (f'<svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true"><path d="{_HAND}" fill="none" stroke="currentColor" '
               f'stroke-width="1.8" stroke-linejoin="round"{turn}/></svg>')
         for way, turn in (("up", ""), ("down", ' transform="rotate(180 12 12)"'))}


# -- votes -----------------------------------------------------------------------------------------------------------

def question(prompt, responses: tuple[str, ...], said: str = "", remarks: dict | None = None) -> str:
    """A prompt and its responses, a button under each; `said` is a line about what was done last, `remarks` what this voter has said
    about single responses (`Ballot.remarks`)."""
    many = len(responses) > 2
    answers = "".join(f'<article class="answer" aria-label="{s.SAID_BEST.format(place=place)}">'
                      f'<p>{text(response) or f"<em>{s.EMPTY_RESPONSE}</em>"}</p>'
                      f'{remark_row(place, response, (remarks or {}).get(place, {}))}'
                      f'{vote_button(f"vote-{place}", str(place), str(place), f"<kbd>{place}</kbd> {s.BEST[many]}")}</article>'
                      for place, response in enumerate(responses, 1))
    verdicts = "".join((vote_button("vote-tie", "tie", "t", with_key(s.TIE[many], "t")),
                        vote_button("vote-both-bad", "both_bad", "b", with_key(s.BOTH_BAD[many], "b")),
                        vote_button("skip", "skip", "s", with_key(s.SKIP, "s")), undo_button()))
    return (f'<section class="question" aria-label="{s.WHICH[many]}">{what_was_done(said)}<p class="which">{s.WHICH[many]}</p>'
            f'<p class="prompt">{text(conversation(prompt))}</p><div class="answers">{answers}</div>'
            f'<div class="verdicts">{verdicts}</div></section>')


def remark_row(place: int, response: str, made: dict) -> str:
    """Thumbs, a score, and an edit of one response; those that are made are marked."""
    said = {kind: event.value for kind, event in made.items()}
    thumbs = "".join(f'<button type="button" id="thumb-{way}-{place}" data-choice="{way}:{place}" class="thumb" '
                     f'aria-pressed="{str(said.get("thumb") == way).lower()}" aria-label="{s.THUMBS[way].format(place=place)}" '
                     f'title="{s.THUMBS[way].format(place=place)}">{THUMB[way]}</button>' for way in THUMB)
    options = "".join(f'<option value="{n}"{" selected" if said.get("score") == n else ""}>{s.SCORES.get(n, n)}</option>' for n in range(1, 8))
    label = s.SCORE_ANSWER.format(place=place)
    score = (f'<select id="score-{place}" data-score="{place}" aria-label="{label}" title="{label}" class="{"made" if "score" in said else ""}">'
             f'<option value="">{s.SCORE_NONE}</option>{options}</select>')
    edit = (f'<button type="button" id="edit-{place}" data-edit="{place}" aria-expanded="false" aria-pressed="{str("edit" in said).lower()}" '
            f'title="{s.EDIT_ABOUT}">{s.EDIT}</button>')
    form = (f'<form class="edit" id="edit-form-{place}" data-place="{place}" hidden>'
            f'<textarea rows="6" maxlength="20000" aria-label="{s.EDIT_LABEL.format(place=place)}">{text(said.get("edit", response))}</textarea>'
            f'<div><button type="submit">{s.EDIT_SAVE}</button><button type="button" data-edit="{place}">{s.EDIT_CANCEL}</button></div></form>')
    return f'<div class="remarks">{thumbs}{score}{edit}</div>{form}'


def no_question(reason: str, said: str = "", *, undo: bool = True) -> str:
    """In place of a question, why there is none."""
    button = f'<div class="verdicts">{undo_button()}</div>' if undo else ""
    return f'<section class="question">{what_was_done(said)}<p class="silent" role="status">{text(reason)}</p>{button}</section>'


def undo_button() -> str:
    return vote_button("undo", "undo", "u", with_key(s.UNDO, "u"))


def vote_button(elem_id: str, choice: str, key: str, label: str) -> str:
    return (f'<button type="button" id="{elem_id}" data-choice="{choice}" data-key="{key}" aria-keyshortcuts="{key.upper()}">'
            f'{label}</button>')


def with_key(label: str, key: str) -> str:
    return f'{label} <kbd aria-hidden="true">{key.upper()}</kbd>'


def what_was_done(said: str) -> str:
    return f'<p class="done" role="status">{text(said)}</p>' if said else ""


def conversation(prompt) -> str:
    """A prompt as one text: as it is, or who says what where there are several turns."""
    if isinstance(prompt, str) or len(prompt) < 2:
        return said(prompt)
    return "\n\n".join(f"{s.ROLES.get(turn['role'], turn['role'])}: {turn['content']}" for turn in prompt)


def vote_status(name: str, status: dict, votes: int, wanted: int) -> str:
    """How many votes there are, and what the trainer is doing."""
    state, total = status["state"], status["total_steps"]
    doing = [s.PROGRESS.format(step=status["step"], total=total)] if total else [s.PREPARING] if state == "waiting" else []
    if state == "waiting" and status.get("advice"):
        doing.append(status["advice"])
    elif state in ("stopped", "failed"):
        doing.append(s.VOTES_KEPT)
    return (f'<section class="run-card"><div class="run-title"><strong>{s.VOTES_SO_FAR.format(votes=votes, wanted=wanted)}</strong>'
            f'<span class="badge {text(state)}">{text(s.STATES.get(state, state))}</span>'
            f'<span class="facts">{text(" · ".join([name, *doing]))}</span></div>'
            f'<div class="bar votes" role="progressbar" aria-label="{s.VOTES}" aria-valuemin="0" aria-valuemax="{int(wanted)}" '
            f'aria-valuenow="{min(int(votes), int(wanted))}"><i style="width:{100 * min(votes / wanted, 1):.1f}%"></i></div></section>')


def effect(journal: list[dict]) -> str:
    """What the last votes did to the reward, as it was measured when it learned them."""
    row = next((row for row in reversed(journal) if row.get("event") == "reward"), None)
    if row is None:
        return f'<p class="effect empty">{s.NO_EFFECT}</p>'
    guessed = (s.EFFECT_GUESSED if row["guesses"] else s.EFFECT_NO_GUESS).format(**row)
    words = {name: ", ".join(f"“{word}”" for word in row.get(name, ())[:3]) for name in ("likes", "dislikes")}
    said = s.EFFECT_WORDS.format(**words) if all(words.values()) else ""
    return f'<p class="effect">{text(guessed)} {text(s.EFFECT_MOVED.format(**row))} {text(said)}</p>'


def fixed(rows: list[dict]) -> str:
    """The answers to the fixed prompts: of the policy that a run started from, and of the newest."""
    rows = [row for row in rows if row.get("fixed")]
    if not rows:
        return f'<p class="empty">{s.NO_FIXED}</p>'
    start, now = min(row["step"] for row in rows), max(row["step"] for row in rows)
    answers = {(conversation(row["prompt"]), row["step"]): row["response"] for row in rows}
    titles = (s.FIXED_START, s.FIXED_NOW.format(step=int(now)) if now > start else s.FIXED_NOT_YET)

    def cells(prompt: str) -> str:
        """The titles are repeated in each cell, for narrow screens, where cells stand below each other."""
        texts = (text(answers.get((prompt, start), "")), text(answers.get((prompt, now), "")) if now > start else f"<em>{s.NOT_MOVED}</em>")
        return "".join(f'<td data-title="{title}">{said}</td>' for title, said in zip(titles, texts))

    heads = "".join(f'<th scope="col">{title}</th>' for title in (s.FIXED_PROMPT, *titles))
    body = "".join(f'<tr><td class="prompt">{text(prompt)}</td>{cells(prompt)}</tr>' for prompt in dict.fromkeys(p for p, _ in answers))
    return (f'<div class="samples fixed" tabindex="0" role="region" aria-label="{s.FIXED}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


def said(prompt) -> str:
    """A prompt as text: as it is, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"]) if prompt else ""


def number(value) -> str:
    return "" if value is None else f"{value:.2f}"
