"""Run folders as HTML. Everything that comes from a model, a file or a user passes through `escape`."""

import html

from playground import text as app_text
from playground.components import text
from playground.components.formatting import duration, number, said, sentence
from playground.server.access import Access
from playground.server.worker_guard import SECONDS
from playground.workspace import RunSummary


def escape(value) -> str:
    """`value` as inert text: no markup, and none of the braces and dollars that a template would read."""
    return html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;")


def notice(message: str) -> str:
    """What went wrong, where nobody can miss it."""
    return f'<div class="notice" role="alert">{escape(message)}</div>'


def header(line: str, kind: str = "", said: str = "", link: str = "") -> str:
    """What is going on, and for whom this is (`who`)."""
    link = f' <a href="owner" target="_top">{escape(link)}</a>' if link else ""
    who = f'<p class="who">{escape(said)}{link}</p>' if said or link else ""
    return (f'<header class="top {kind}"><h1>{text.TITLE}</h1><p>{text.TAGLINE}</p>'
            f'<p class="live" role="status">{escape(line)}</p>{who}</header>')


def who(access: Access) -> tuple[str, str, str]:
    """(class, sentence, words of the link to the login) for who is looking; nothing to say where everybody is the owner."""
    if access.owner():
        return "", "", text.YOU_OWN if access.password else ""
    said = text.VISITOR_OPEN.format(minutes=SECONDS // 60) if access.open else text.VISITOR if access.has_owner else text.NO_OWNER
    return "visitor open" if access.open else "visitor", said, text.TO_OWNER if access.password else ""


def live_line(entry: RunSummary | None) -> str:
    if entry is None:
        return text.NO_RUN_LIVE
    if not entry.total:
        return f"{entry.name}: {text.PREPARING}"
    return text.LIVE.format(name=entry.name, state=app_text.STATES[entry.state], step=entry.step, total=entry.total)


def card(name: str, config: dict, status: dict, metrics: list[dict]) -> str:
    """State, progress, time left, and for a failed run what to do about it."""
    state, step, total = status["state"], status["step"], status["total_steps"]
    share = 100 * step / total if total else 0
    facts = [text.PROGRESS.format(step=step, total=total)] if total else [text.PREPARING] if state == "waiting" else []
    facts += [status["advice"]] if state == "waiting" and status.get("advice") else []
    left = seconds_left(metrics, total) if state == "running" else None
    if left is not None:
        facts.append(text.ETA.format(time=duration(left)))
    parts = [f'<div class="run-title"><strong>{escape(name)}</strong>'
             f'<span class="badge {escape(state)}">{escape(app_text.STATES.get(state, state))}</span>'
             f'<span class="facts">{escape(" · ".join([text.STAGES[config["stage"]], *facts]))}</span></div>',
             f'<div class="bar" role="progressbar" aria-label="{escape(name)}" aria-valuemin="0" aria-valuemax="{int(total)}" '
             f'aria-valuenow="{int(step)}"><i style="width:{share:.1f}%"></i></div>']
    if status.get("error"):
        parts += [f'<p class="error" role="alert">{escape(status["error"])}</p>', f'<p class="advice">{escape(status.get("advice", ""))}</p>']
    return f'<section class="run-card">{"".join(parts)}</section>'


def seconds_left(metrics: list[dict], total: int) -> float | None:
    """Steps to go times the mean time of the last twenty."""
    recent = [sum(v for k, v in row.items() if k.startswith("time/")) for row in metrics[-20:]]
    if not recent:
        return None
    return (total - metrics[-1]["step"]) * sum(recent) / len(recent)


def events(journal: list[dict], latest: int = 30) -> str:
    """The journal, newest first."""
    if not journal:
        return f'<p class="empty">{text.NO_EVENTS}</p>'
    rows = [f'<li class="{escape(row.get("event", ""))}">{escape(sentence(row))}</li>' for row in reversed(journal[-latest:])]
    return f'<ul class="events">{"".join(rows)}</ul>'


def samples(rows: list[dict], latest: int = 8) -> str:
    """The newest samples as a table, without the answers to the fixed prompts."""
    rows = [row for row in rows if not row.get("fixed")]
    if not rows:
        return f'<p class="empty">{text.NO_SAMPLES}</p>'
    heads = "".join(f'<th scope="col">{title}</th>' for title in text.SAMPLE_HEADS.values())
    body = "".join(
        f'<tr><td class="n step">{escape(row["step"])}</td><td class="prompt">{escape(said(row["prompt"]))}</td>'
        f'<td class="response">{escape(row["response"])}{"" if row.get("ended", True) else f"<em> {text.NOT_ENDED}</em>"}</td>'
        f'<td class="n score">{number(row.get("score"))}</td><td class="n kl">{number(row.get("kl"))}</td></tr>'
        for row in reversed(rows[-latest:]))
    return (f'<div class="samples" tabindex="0" role="region" aria-label="{text.SAMPLES}"><table><thead><tr>{heads}</tr></thead>'
            f'<tbody>{body}</tbody></table></div>')


