"""HTML of the page: Jinja2 templates, which escape every value that is put into them, and the parts that several pages show.

A template lies in the folder `templates` of the page that uses it: `playground/pages/teach/templates/question.html` is called
"teach/question.html", and `playground/components/templates/header.html` is called "components/header.html".
"""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from playground import text as app_text
from playground.components import text
from playground.components.formatting import duration, number, said, sentence
from playground.server.access import Access
from playground.server.worker_guard import SECONDS
from playground.workspace import RunSummary

PLAYGROUND = Path(__file__).parents[1]


def escape(value) -> Markup:
    """`value` as inert text: no tags, and no braces and dollars, which Gradio's HTML component reads as templates of its own."""
    return Markup(html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;"))


def escape_value(value) -> Markup:
    """What Jinja2 writes for a value in a template: `Markup` as it is, anything else escaped."""
    return value if isinstance(value, Markup) else escape(value)


class JoinLines(Extension):
    """Lets a template be indented without spaces on the page.

    A line break beside a tag, and the indentation after it, is left out; any other line break is one space. A space between two tags
    is written on one line, or as `{{ " " }}`.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        source = re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source.strip())
        return re.sub(r"\s*\n\s*", " ", source)


def template_folders() -> dict[str, Path]:
    """Name of a page, or of another folder of this package -> the folder of its templates."""
    folders = [*PLAYGROUND.glob("*/templates"), *PLAYGROUND.glob("pages/*/templates")]
    return {folder.parent.name: folder for folder in folders}


def template_environment() -> Environment:
    """The settings that all templates share. Only harmless filters are there: no `safe`, and none that joins text to markup."""
    loader = PrefixLoader({name: FileSystemLoader(folder) for name, folder in template_folders().items()})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=escape_value, extensions=[JoinLines])
    environment.filters = {"length": len}
    return environment


TEMPLATES = template_environment()


def render(template: str, **values) -> Markup:
    """The HTML of a template such as "teach/question.html". The result may be a value of another template.

    Raises jinja2.UndefinedError for a value that the template reads and that is missing.
    """
    return Markup(TEMPLATES.get_template(template).render(**values))


def notice(message: str) -> Markup:
    """An alert that says what went wrong."""
    return render("components/notice.html", message=message)


def header(line: str, kind: str = "", sentence: str = "", link: str = "") -> Markup:
    """The top of the page: `line` says which run is live; `kind`, `sentence` and `link` say who is looking (see `who`)."""
    return render("components/header.html", text=text, line=line, kind=kind, sentence=sentence, link=link)


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


