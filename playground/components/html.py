"""HTML of the page: templates, which escape every value that is put into them, and the parts that several pages show.

A template lies in the folder `templates` of the page that uses it: `playground/pages/teach/templates/question.html` is
called "teach/question.html", and `playground/components/templates/header.html` is called "components/header.html".
"""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, PrefixLoader, StrictUndefined
from jinja2.ext import Extension
from markupsafe import Markup

from playground import text as app_text
from playground.components import text
from playground.components.formatting import byte_size, duration, last_message, sentence, two_decimals
from playground.workspace import RunSummary, Workspace
from rlhf_engine import measures
from rlhf_engine.measures import STEP
from rlhf_engine.stages import find_stage
from rlhf_engine.worker.conversion_note import read_note

PLAYGROUND = Path(__file__).parents[1]


def escape(value) -> Markup:
    """`value` as inert text.

    It holds no tags, and no braces and dollars, which Gradio's HTML component reads as templates of its own.
    """
    return Markup(html.escape(str(value)).replace("{", "&#123;").replace("}", "&#125;").replace("$", "&#36;"))


def escape_value(value) -> Markup:
    """What Jinja2 writes for a value in a template: `Markup` as it is, anything else escaped."""
    return value if isinstance(value, Markup) else escape(value)


class JoinLines(Extension):
    """Lets a template be indented without spaces on the page.

    A line break beside a tag, and the indentation after it, is left out; any other line break is one space. A space
    between two tags is written on one line, or as `{{ " " }}`.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:
        """The text of a template as Jinja2 parses it."""
        source = re.sub(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])", "", source.strip())
        return re.sub(r"\s*\n\s*", " ", source)


def template_folders() -> dict[str, Path]:
    """Name of a page, or of another folder of this package -> the folder of its templates."""
    folders = [*PLAYGROUND.glob("*/templates"), *PLAYGROUND.glob("pages/*/templates")]
    return {folder.parent.name: folder for folder in folders}


def template_environment() -> Environment:
    """The settings that all templates share.

    Only harmless filters are there: no `safe`, and none that joins text to markup.
    """
    loader = PrefixLoader({name: FileSystemLoader(folder) for name, folder in template_folders().items()})
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, finalize=escape_value,
                              extensions=[JoinLines])
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
    """The top of the page.

    `line` says which run is live; `kind`, `sentence` and `link` say who is looking (`server.visitor.Greeting`).
    """
    return render("components/header.html", text=text, line=line, kind=kind, sentence=sentence, link=link)


def empty(line: str, *, status: bool = False) -> Markup:
    """A pale line where there is nothing to show yet. A screen reader reads a `status` aloud when it changes."""
    return render("components/status.html" if status else "components/empty.html", line=line)


def live_line(entry: RunSummary | None) -> str:
    """What the header says about the live run, as plain text; None where there is none."""
    if entry is None:
        return text.NO_RUN_LIVE
    if not entry.total:
        return f"{entry.name}: {text.PREPARING}"
    return text.LIVE.format(name=entry.name, state=app_text.STATES[entry.state], step=entry.step, total=entry.total)


def loading_bar(line: str, done: int, total: int) -> Markup:
    """A line about a model that is being loaded, and a bar: `done` bytes of `total`, which is 0 if it is not known."""
    share = 100 * done / total if total else 0
    return render("components/loading_bar.html", line=line, unknown=not total, now=f"{share:.0f}", share=f"{share:.1f}")


def conversion_line(model: str, done: int, total: int) -> str:
    """What is said while a GGUF file is converted, of which `done` bytes of `total` are written."""
    return text.CONVERTING.format(model=model, done=byte_size(done), total=byte_size(total))


def conversion(workspace: Workspace) -> tuple[str, Markup]:
    """The GGUF file that the worker converts now, as a line of text and with a bar; both empty if there is none."""
    now = read_note(workspace.home)
    if now is None:
        return "", Markup()
    done, total = now.done, now.total
    line = conversion_line(workspace.name_of(now.model), done, total)
    return line, loading_bar(line, done, total)


def card(name: str, config: dict, status: dict, metrics: list[dict]) -> Markup:
    """A run in a few words: its state, its progress, the time left, and for a failed run what to do about it."""
    state, step, total = status["state"], status["step"], status["total_steps"]
    facts = [find_stage(config["stage"]).label, *progress_facts(status)]
    if state == "waiting" and status.get("advice"):
        facts.append(status["advice"])
    seconds = seconds_left(metrics, total) if state == "running" else None
    if seconds is not None:
        facts.append(text.ETA.format(time=duration(seconds)))
    return progress_card(name, state, facts, label=name, value=int(step), maximum=int(total),
                         error=status.get("error", ""), advice=status.get("advice", ""))


def progress_facts(status: dict) -> list[str]:
    """The step that a run has reached; before its first step, what it is doing."""
    if status["total_steps"]:
        return [text.PROGRESS.format(step=status["step"], total=status["total_steps"])]
    return [text.PREPARING] if status["state"] == "waiting" else []


def progress_card(title: str, state: str, facts: list[str], *, label: str, value: int, maximum: int,
                  bar_class: str = "", error: str = "", advice: str = "") -> Markup:
    """A title, a badge with the `state` of a run, facts, and a bar.

    The bar has the name `label` and is filled to `value` of `maximum`.
    """
    percent = 100 * value / maximum if maximum else 0
    return render("components/progress_card.html", title=title, state=state,
                  state_name=app_text.STATES.get(state, state), facts=" · ".join(facts), label=label, value=value,
                  maximum=maximum, percent=f"{percent:.1f}", bar_class=f" {bar_class}" if bar_class else "",
                  error=error, advice=advice)


def seconds_left(metrics: list[dict], total: int) -> float | None:
    """Seconds until step `total`: the steps to go, times the mean seconds of the last twenty.

    None before the first step.
    """
    recent = [seconds_of(row) for row in metrics[-20:]]
    if not recent:
        return None
    return (total - metrics[-1][STEP]) * sum(recent) / len(recent)


def seconds_of(row: dict) -> float:
    """The seconds that a step took: the sum of its durations."""
    return sum(value for key, value in row.items() if key.startswith(measures.TIME))


def events(journal: list[dict], latest: int = 30) -> Markup:
    """The latest lines of a journal, the newest first."""
    if not journal:
        return empty(text.NO_EVENTS)
    newest_first = journal[-latest:][::-1]
    lines = [{"kind": row.get("event", ""), "sentence": sentence(row)} for row in newest_first]
    return render("components/events.html", events=lines)


def samples(rows: list[dict], latest: int = 8) -> Markup:
    """A table of the latest samples, the newest first; the answers to the fixed prompts are not among them."""
    drawn = [row for row in rows if not row.get("fixed")]
    if not drawn:
        return empty(text.NO_SAMPLES)
    newest_first = drawn[-latest:][::-1]
    return render("components/samples.html", text=text, samples=[sample_cells(row) for row in newest_first])


def sample_cells(row: dict) -> dict:
    """The texts of one row of the table of samples."""
    return {"step": row["step"], "prompt": last_message(row["prompt"]), "response": row["response"],
            "ended": row.get("ended", True), "score": two_decimals(row.get("score")), "kl": two_decimals(row.get("kl"))}
