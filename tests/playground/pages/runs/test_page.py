"""The Runs page: curves over each other, tables, answers through time, what is sent when, and the page in a browser."""

import json
import math
import time

import gradio as gr
import pytest
from playwright.sync_api import expect

from playground.app import build
from playground.components.stage_views import stage_view
from playground.pages.runs import comparison_charts as curves
from playground.pages.runs import text as runs_text
from playground.pages.runs import views as runs_views
from playground.pages.runs.comparison_charts import Curves, Drawing
from playground.pages.runs.curve_marks import plotly_text
from playground.pages.runs.diagnostics import Advice
from playground.pages.runs.page import shown_runs, warnings_of
from playground.pages.runs.views import RunWarnings
from playground.workspace import RunSummary, Workspace
from rlhf_engine.config import PPOConfig, SFTConfig, TeachConfig, to_dict
from rlhf_engine.errors import UserError
from rlhf_engine.stages import STAGES
from tests.playground.browser import browsing, go, needs_browser, serving, wait_until
from tests.playground.conftest import EVIL, FakeWorker, write_run


def curve(name: str, ys: list, *, key: str = "objective/kl", stage: str = "ppo", journal: list[dict] = (), **config) -> Curves:
    return Curves(name, {"stage": stage} | to_dict(STAGES[stage].config(**config)), [{"step": i, key: y} for i, y in enumerate(ys, 1)], list(journal))


def named(figure: dict, uid: str) -> dict:
    return next(trace for trace in figure["data"] if trace["uid"] == uid)


# -- curves ----------------------------------------------------------------------------------------------------------

def test_one_run_keeps_its_roles_colour_and_several_have_their_own_and_a_dash():
    one, two = curve("one", [1.0, 2.0]), curve("two", [3.0, 4.0])
    alone = curves.figure("objective/kl", [one], Drawing())
    assert named(alone, "one")["line"]["color"] == "#D55E00" and not alone["layout"]["showlegend"]
    both = curves.figure("objective/kl", [one, two], Drawing())
    styles = [(named(both, name)["line"]["color"], named(both, name)["line"]["dash"]) for name in ("one", "two")]
    assert len({c for c, _ in styles}) == len({d for _, d in styles}) == 2 and both["layout"]["showlegend"]
    assert not {c for c, _ in styles} & {"#D55E00", "#0072B2", "#E69F00", "#009E73", "#CC79A7"}
    loss = [curves.figure("loss/train", [curve("x", [1.0], key="loss/train", stage=stage)], Drawing()) for stage in ("sft", "reward")]
    assert [named(figure, "x")["line"]["color"] for figure in loss] == ["#0072B2", "#E69F00"]


def test_smoothing_keeps_what_was_measured_faintly_behind():
    figure = curves.figure("objective/kl", [curve("a", [4.0, 0.0, 4.0, math.nan, 4.0])], Drawing(smoothing=0.5))
    assert named(figure, "a raw")["y"] == [4.0, 0.0, 4.0, None, 4.0] and named(figure, "a raw")["opacity"] < 0.5
    assert named(figure, "a raw")["legendgroup"] == named(figure, "a")["legendgroup"], "they are hidden together"
    smooth = named(figure, "a")["y"]
    assert smooth[0] == 4.0 and smooth[1] == pytest.approx(4 / 3) and smooth[3] is None and smooth[4] > smooth[1]
    assert curves.moving_average([2.5] * 20, 0.9) == pytest.approx([2.5] * 20), "no pull to zero"
    json.dumps(figure, allow_nan=False)


def test_a_window_holds_the_last_steps_of_each_run_and_smooths_as_the_whole_does():
    long, short = curve("long", [float(i) for i in range(100)]), curve("short", [1.0, 2.0, 3.0])
    figure = curves.figure("objective/kl", [long, short], Drawing(window=2))
    assert named(figure, "long")["x"] == [99, 100] and named(figure, "short")["x"] == [2, 3]


def test_a_log_axis_shows_what_is_above_zero_and_is_linear_where_that_is_little():
    figure = curves.figure("objective/kl", [curve("a", [0.0, 1.0, 100.0])], Drawing(log=True))
    assert figure["layout"]["yaxis"]["type"] == "log" and named(figure, "a")["y"] == [None, 1.0, 100.0]
    below = curves.figure("loss/policy", [curve("a", [-1.0, -2.0, 0.5], key="loss/policy")], Drawing(log=True))
    assert below["layout"]["yaxis"]["type"] == "linear" and named(below, "a")["y"] == [-1.0, -2.0, 0.5]
    assert "linear" in below["layout"]["title"]["text"]


@pytest.mark.parametrize("count, look", [(1, Drawing()), (6, Drawing(smoothing=0.5)), (3, Drawing(window=4000))])
def test_at_most_a_thousand_points_and_the_last_step_among_them(count, look):
    runs = [curve(f"run {i}", [float(j) for j in range(5001)]) for i in range(count)]
    figure = curves.figure("objective/kl", runs, look)
    assert sum(len(trace["x"]) for trace in figure["data"]) <= 1000 + 2, "the target's line has two"
    assert all(named(figure, run.name)["x"][-1] == 5001 for run in runs)


def test_zoom_is_of_the_same_runs_in_the_same_look_and_hidden_lines_of_the_measure():
    runs = [curve("a", [1.0, 2.0]), curve("b", [1.0, 2.0])]
    before, grown, other, log = (curves.figure("objective/kl", *given)["layout"] for given in (
        (runs, Drawing()), ([curve("a", [1.0, 2.0, 3.0]), runs[1]], Drawing(smoothing=0.5)), (runs[:1], Drawing()), (runs, Drawing(log=True))))
    for axis in ("xaxis", "yaxis"):
        assert before[axis]["uirevision"] == grown[axis]["uirevision"] != other[axis]["uirevision"]
    assert before["yaxis"]["uirevision"] != log["yaxis"]["uirevision"] and before["xaxis"]["uirevision"] == log["xaxis"]["uirevision"]
    assert before["uirevision"] == grown["uirevision"] == log["uirevision"]


def test_marks_stand_on_the_line_at_their_step_and_are_text():
    journal = [{"event": "reward", "step": 1, "new": 8, "votes": 8, "guesses": 8, "guessed": 4.0},
               {"event": "reward", "step": 1, "new": 2, "votes": 10, "guesses": 2, "guessed": 1.0},
               {"event": "changed", "step": 2, "name": "kl_target", "old": 6.0, "new": 3.0}, {"event": "warning", "step": 3, "text": EVIL},
               {"event": "data", "text": "no mark"}, {"event": "warning"}]
    figure = curves.figure("objective/kl", [curve("a", [1.0, 5.0, 7.0], journal=journal)], Drawing())
    marks = named(figure, "a marks")
    assert (marks["x"], marks["y"]) == ([1, 2, 3], [1.0, 5.0, 7.0])
    assert marks["marker"]["symbol"] == ["triangle-up", "diamond", "circle"]
    assert "10 now" in marks["text"][0].replace("<br>", " ") and "(and 1 more)" in marks["text"][0].replace("<br>", " ")
    assert "<" not in marks["text"][2].replace("<br>", "") and "&lt;img" in marks["text"][2] and "%{" not in plotly_text("%{y}")
    assert "a marks" not in [t["uid"] for t in curves.figure("objective/kl", [curve("a", [1.0] * 9, journal=journal)], Drawing(window=3))["data"]]


def test_the_target_is_drawn_where_it_is_the_same_for_all():
    def levels(*runs):
        return [t["y"][0] for t in curves.figure("objective/kl", list(runs), Drawing())["data"] if t["uid"].startswith("level")]
    assert levels(curve("a", [1.0]), curve("b", [1.0])) == [6.0]
    assert levels(curve("a", [1.0]), curve("b", [1.0], kl_target=3.0)) == levels(curve("a", [1.0], kl_target=0.0)) == []


def test_every_stage_among_the_runs_has_measures_in_sight_and_all_can_be_chosen():
    ppo, sft = curve("p", [1.0]), curve("s", [1.0], key="loss/train", stage="sft")
    ppo.metrics[0].update({key: 1.0 for key in stage_view("ppo").key_measures} | {"text/novel": 1.0})
    assert {"objective/scores", "loss/train"} <= set(curves.leading_measures([ppo, sft], 2))
    assert {"loss/train", "text/novel", "loss/value"} <= set(curves.all_measures([ppo, sft])) and "step" not in curves.all_measures([ppo])
    assert curves.all_measures([]) == curves.leading_measures([], 8) == []
    assert "<" not in curves.figure("<b>novel", [ppo], Drawing())["layout"]["title"]["text"]
    empty = curves.figure("reward/guessed", [ppo, sft], Drawing(log=True))
    assert empty["data"] == [] and runs_text.NO_MEASURE in empty["layout"]["annotations"][0]["text"]


# -- tables and texts ------------------------------------------------------------------------------------------------

def config(stage: str, **changes) -> dict:
    return {"stage": stage} | to_dict(STAGES[stage].config(**changes))


def test_only_settings_that_differ_are_shown_with_their_help():
    html = runs_views.differences([("a", config("ppo", kl_target=3.0, output="x")), ("b", config("ppo", gamma=0.5, output="y"))], str)
    assert "KL target" in html and "Gamma" in html and html.count('scope="row"') == 2
    assert 'title="Discount per token; 1 in all RLHF papers."' in html
    assert "All settings are the same" in runs_views.differences([("a", config("sft")), ("b", config("sft"))], str)
    across = runs_views.differences([("a", config("sft")), ("b", config("ppo"))], str)
    assert "Epochs" in across and "<td>–</td>" in across
    alone = runs_views.differences([("a", config("sft", epochs=2.0))], str)
    assert "Default" in alone and alone.count('scope="row"') == 1


def test_paths_show_no_folders_of_the_machine(tmp_path):
    name_of = Workspace(tmp_path).name_of
    assert runs_views.short_path(str(tmp_path / "runs" / "taste"), name_of) == "taste"
    assert runs_views.short_path("/home/somebody/secret/score.py:f", name_of) == "score.py:f"
    assert runs_views.short_path("bundled", name_of) == "bundled"


def test_results_stand_side_by_side():
    html = runs_views.reports([("a", {"stage": "teach", "win_rate": 0.75, "votes": 40, "notes": ["x"], "novel_number": 2.0}, {}),
                               ("b", None, curves.last_values(curve("b", [1.0, math.nan, 4.5, math.inf])) | curves.last_values(curve("b", [1.0, 4.25])))])
    assert "Wins against the start" in html and "0.75" in html and "Novel number" in html and "notes" not in html.lower()
    assert "KL to the reference (last step)" in html and "4.25" in html and html.count("<td>–</td>") == 4
    assert "when it is over" in runs_views.reports([("a", None, {})])


def test_a_warning_of_the_trainer_is_no_praise():
    html = runs_views.warnings([RunWarnings("sound", [], 0), RunWarnings("warned", [], 3), RunWarnings("bad", [Advice("kl", "high", "lower it")], 0)])
    assert "of sound asks" in html and "of warned has warned 3 times" in html and "high" in html and "lower it" in html


def test_answers_are_those_of_the_step_beside_the_start():
    rows = [{"step": step, "prompt": "p", "response": f"said at {step}", "fixed": True} for step in (0, 5, 10)]
    rows.append({"step": 7, "prompt": "p", "response": "drawn at 7", "score": 1.0})
    assert runs_views.answered_steps(rows) == [0, 5, 10]
    assert [runs_views.nearest([0, 5, 10], wanted) for wanted in (-3, 2, 3, 7.5, 99)] == [0, 0, 5, 5, 10]
    html = runs_views.through_time(rows, 5)
    assert "said at 0" in html and "said at 5" in html and "said at 10" not in html and "drawn" not in html and "2 of 3" in html
    assert runs_views.through_time(rows, 0).count("<th ") == 2
    drawn = rows[-1:]
    assert runs_views.answered_steps(drawn) == [7] and "drawn at 7" in runs_views.through_time(drawn, 7)


@pytest.mark.parametrize("html", [
    runs_views.legend([RunSummary(EVIL, "ppo", EVIL, EVIL, 1, 2, 0.0, ()), RunSummary("b", "sft", "m", "done", 1, 2, 0.0, ())]),
    runs_views.warnings([RunWarnings(EVIL, [Advice("kl", EVIL, EVIL)], 0), RunWarnings(EVIL, [], 3)]),
    runs_views.through_time([{"step": 1, "prompt": EVIL, "response": EVIL, "fixed": True}], 1),
    runs_views.through_time([{"step": 1, "prompt": EVIL, "response": EVIL}], 1), runs_views.events([(EVIL, [{"event": EVIL, "text": EVIL}])]),
    runs_views.differences([(EVIL, config("ppo", data=EVIL)), ("b", config("ppo"))], str),
    runs_views.reports([(EVIL, {EVIL: 1.0, "win_rate": EVIL}, {EVIL: 1.0})])])
def test_what_others_wrote_is_shown_as_text(html):
    assert "<img" not in html and "<script" not in html and "<b>" not in html and "${" not in html and "{{" not in html
    assert "&lt;" in html


# -- the page without a browser --------------------------------------------------------------------------------------

class Page:
    """What a browser does with the page: holds the values, sends them along, takes the updates in."""

    def __init__(self, home):
        self.look = next(f for f in build(home, worker=FakeWorker()).blocks.fns.values() if getattr(f.fn, "__name__", "") == "look")
        self.parts = {c.elem_id or type(c).__name__: c for c in (*self.look.inputs, *self.look.outputs)}
        self.values = {part: part.value for part in self.look.inputs}
        self.updates: dict = {}

    def tick(self, front: str = "runs", **changes) -> set[str]:
        self.values |= {self.parts[name.replace("_", "-")]: value for name, value in ({"front": front} | changes).items()}
        updates = self.look.fn(dict(self.values))
        self.updates = {} if updates == gr.skip() else updates
        for part, update in self.updates.items():
            given = isinstance(update, dict) and update.get("__type__") == "update"
            if part in self.values and (not given or "value" in update):
                self.values[part] = update["value"] if given else update
        return {part.elem_id for part in self.updates if (part.elem_id or "").startswith("runs-")}

    def __getitem__(self, name: str):
        return self.updates[self.parts[name]]


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    write_run(home, "old", SFTConfig(), steps=4)
    for name in ("one", "two"):
        run = write_run(home, name, PPOConfig(kl_target=3.0 if name == "two" else 6.0), steps=12, state="running" if name == "two" else "done")
        run.add_samples([{"step": step, "prompt": "p", "response": f"{name} at {step}", "score": 0.5} for step in (1, 6, 12)])
    return home


@pytest.fixture
def page(home) -> Page:
    return Page(home)


def test_nothing_is_sent_while_another_tab_is_in_front_and_nothing_twice(page, home):
    assert page.tick(front="train") == set()
    assert {"runs-chosen", "runs-legend", "runs-plot-1", "runs-differences", "runs-answers", "runs-step"} <= page.tick()
    assert "two" in page["runs-legend"] and "one" in page["runs-legend"] and "old" not in page["runs-legend"]
    assert page["runs-plot-1"]["visible"] and "two at 12" in page["runs-answers"]
    assert page.tick() == set()
    run = Workspace(home).run("two")
    run.log({"step": 13, "objective/kl": 3.0, "objective/scores": 1.0})
    run.set_status(step=13)
    assert page.tick() == {"runs-legend", "runs-advice", "runs-reports", "runs-learners", *(f"runs-plot-{i}" for i in range(1, 7))}, "the rest is what it was"
    assert page.tick() == set()
    run.set_status(state="failed", error="it blew up", advice="Lower it.")
    assert "runs-advice" in page.tick() and "it blew up" in page["runs-advice"]


def test_runs_and_measures_are_those_that_are_picked(page):
    page.tick()
    page.tick(runs_chosen=["old", "one"], runs_measures=["loss/train"])
    assert page["runs-plot-1"]["value"]["layout"]["title"]["text"] == "Loss, training"
    assert [trace["name"] for trace in page["runs-plot-1"]["value"]["data"]] == ["old", "one"] and not page["runs-plot-2"]["visible"]
    assert "Epochs" in page["runs-differences"]
    assert page.tick(runs_smoothing=0.5) == {"runs-plot-1", "runs-learners"} and len(page["runs-plot-1"]["value"]["data"]) == 4
    page.tick(runs_chosen=["../old", "gone", "old"])
    assert page.values[page.parts["runs-chosen"]] == ["../old", "gone", "old"] and "old" in page["runs-legend"] and "gone" not in page["runs-legend"]


def test_a_run_that_is_removed_leaves_the_choice(page, home):
    page.tick()
    page.tick(runs_chosen=["one", "two"])
    Workspace(home).run("one").discard()
    page.tick()
    assert page.values[page.parts["runs-chosen"]] == ["two"] and "one" not in page["runs-legend"]


def test_the_slider_takes_the_nearest_step_and_follows_the_end(page, home):
    page.tick()
    assert page["runs-step"]["maximum"] == 12 and page.values[page.parts["runs-step"]] == 12
    run = Workspace(home).run("two")
    run.add_samples([{"step": 15, "prompt": "p", "response": "two at 15"}])
    page.tick()
    assert "two at 15" in page["runs-answers"] and page.values[page.parts["runs-step"]] == 15
    assert page.tick(runs_step=4) == {"runs-answers"} and "two at 6" in page["runs-answers"]
    run.add_samples([{"step": 16, "prompt": "p", "response": "two at 16"}])
    page.tick()
    assert page["runs-step"]["maximum"] == 16 and page.values[page.parts["runs-step"]] == 6, "somebody is reading"
    page.tick(runs_reader="one")
    assert "one at 12" in page["runs-answers"] and page["runs-step"]["maximum"] == 12


def test_what_is_forged_or_half_typed_breaks_no_look(page):
    page.tick()
    assert "runs-legend" in page.tick(runs_chosen=["one"], runs_measures=["../x", 3], runs_smoothing=7, runs_window=None, runs_reader="/etc", runs_step=None)
    page.tick(runs_chosen="one", runs_measures=None, runs_smoothing="much", runs_window="x", runs_step="x")
    assert page.tick() == set()


def test_an_empty_workspace_says_what_to_do(tmp_path):
    page = Page(tmp_path / "empty")
    page.tick()
    assert "on the Train tab" in page["runs-legend"] and page.tick() == set()


def test_a_folder_with_a_name_that_the_page_cannot_use_breaks_nothing(home):
    write_run(home, "my best run", SFTConfig(), state="running")
    write_run(home, "<b>x", SFTConfig(), state="running")
    assert [entry.name for entry in Workspace(home).entries()] == ["two", "one", "old"]


def test_the_newest_of_one_stage_are_shown_while_none_is_picked(home):
    write_run(home, "waiting", TeachConfig(), steps=0, state="waiting", checkpoint=False)
    entries = Workspace(home).entries()
    assert [entry.name for entry in shown_runs(entries, [])] == ["two", "one"] and shown_runs([], []) == []
    assert [entry.name for entry in shown_runs(entries, ["old", "two"])] == ["old", "two"]


def test_warnings_of_a_run(home):
    def html() -> str:
        return runs_views.warnings([warnings_of(Workspace(home), "one")])
    run = Workspace(home).run("one")
    for step in range(13, 30):
        run.log({"step": step, "objective/kl": 10.0})
    assert "10.0 nats" in html()
    run.set_status(state="failed", error="it blew up", advice="Lower it.")
    assert html().index("it blew up") < html().index("10.0 nats")
    with pytest.raises(UserError):
        warnings_of(Workspace(home), "../one")


def test_six_long_runs_are_drawn_within_a_tick():
    runs = [curve(f"run {i}", [float(j % 7) for j in range(5000)]) for i in range(6)]
    start = time.process_time()
    sent = sum(len(json.dumps(curves.figure("objective/kl", runs, Drawing(smoothing=0.8)))) for _ in range(8))
    assert time.process_time() - start < 2 and sent < 500_000


# -- the page in a browser -------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def shown_home(tmp_path_factory):
    """Two runs to compare, and one whose every text is an attack."""
    home = tmp_path_factory.mktemp("home")
    for name in ("one", "two"):
        write_run(home, name, PPOConfig(), steps=12, state="running" if name == "two" else "done")
    evil = write_run(home, "evil", TeachConfig(labeler="person", instruction=EVIL), steps=12, state="running")
    evil.add_samples([{"step": step, "prompt": EVIL, "response": EVIL, "fixed": True} for step in (0, 5, 10)])
    evil.note("warning", step=3, text=EVIL)
    evil.write_report({"stage": "teach", EVIL: 1.0})
    return home


@pytest.fixture(scope="module")
def open_page(shown_home):
    """open_page(width=1280, dark=False) -> the Runs tab; no script may fail on it."""
    with serving(shown_home, FakeWorker()) as url, browsing(url) as open_tab:
        def open_page(width: int = 1280, dark: bool = False):
            page = open_tab(width, dark=dark)
            go(page, "Runs")
            page.wait_for_function("document.querySelector('#runs-plot-1 .live-plot')?.data?.length")
            return page

        yield open_page


def pick(page, name: str) -> None:
    box = page.locator("#runs-chosen input")
    box.fill(name)
    page.get_by_role("option", name=f"{name} · ").click()
    box.blur()


@needs_browser
def test_zoom_and_hidden_lines_survive_ticks_and_nothing_runs_that_others_wrote(open_page, shown_home):
    page = open_page()
    for place in ("#runs-answers", "#runs-events", "#runs-differences", "#runs-reports"):
        expect(page.locator(place)).to_contain_text("<img src=x")
        assert page.locator(f"{place} :is(img, b, script)").count() == 0
    pick(page, "one")
    pick(page, "two")
    expect(page.locator("#runs-legend")).to_contain_text("two")
    page.wait_for_function("document.querySelector('#runs-plot-1 .live-plot').data.length >= 2")
    plot = "document.querySelector('#runs-plot-1 .live-plot')"
    page.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range': [2, 4]}})")
    page.locator("#runs-plot-1 .legendtoggle").first.click()
    page.wait_for_function(f"{plot}.data[0].visible === 'legendonly'")
    run = Workspace(shown_home).run("two")
    for step in range(13, 16):
        run.log({"step": step, "objective/kl": 3.0, "objective/scores": 1.0})
        run.set_status(step=step)
        page.wait_for_function(f"{plot}.data.some(line => line.x.at(-1) === {step})")
    assert page.evaluate(f"{plot}.layout.xaxis.range") == [2, 4] and page.evaluate(f"{plot}.data[0].visible") == "legendonly"
    page.locator("#runs-plot-1").hover()
    assert page.evaluate("window.hacked") is None
    asked = []
    page.evaluate("performance.clearResourceTimings()")
    page.on("request", lambda request: asked.append(request.url))
    wait_until(page, lambda: len(asked) >= 3 and all("/mark?" in url for url in asked[-3:]))  # it only asks for news
    starts = page.evaluate("performance.getEntriesByType('resource').filter(entry => entry.name.includes('/mark?')).map(entry => entry.startTime)")
    assert all(later - earlier > 600 for earlier, later in zip(starts, starts[1:])), "milliseconds"
    page.close()


@needs_browser
def test_on_a_phone_in_the_dark_the_keyboard_moves_through_time(open_page):
    page = open_page(width=390, dark=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    pick(page, "evil")
    slider = page.locator("#runs-step input[type=range]")
    expect(page.locator("#runs-answers")).to_contain_text("step 10")
    slider.focus()
    slider.press("Home")
    expect(page.locator("#runs-answers")).to_contain_text("step 0 (1 of 3 times)")
    nameless = page.evaluate("""[...document.querySelectorAll('button, input, textarea')].filter(e => e.checkVisibility() &&
        !(e.innerText || '').trim() && !e.ariaLabel && !e.title && !e.labels?.length && !e.closest('label') && e.type != 'file').length""")
    assert nameless == 0
    page.close()
