"""The picture of all learners: what its points are, which runs stand in it together, and what is said of the others."""

import json
import math

import pytest

from playground.pages.runs import text
from playground.pages.runs.comparison_charts import RUN_COLOURS, Curves, Drawing, moving_average
from playground.pages.runs.learner_courses import Measurement, Names, best_of_courses, courses_of
from playground.pages.runs.learner_picture import find_picture, learner_figure, picture_note
from playground.run_files import evaluation_reports
from rlhf_engine.config import DPOConfig, GroupConfig, NLPOConfig, PPOConfig, RFTConfig, SFTConfig, TeachConfig, to_dict
from rlhf_engine.measures import GOLD_SCORE, GOLD_WINS, KL, SCORES
from rlhf_engine.runs.folder import Run
from tests.playground.conftest import EVIL, write_run
from tests.playground.pages.runs.test_page import Page

TASTE = "/home/runs/taste"
REPORT = {"kl": 4.0, "win_rate": 0.8, "win_rate_low": 0.7, "win_rate_high": 0.9}


def run(name: str, config, **columns) -> Curves:
    """A run whose rows have measures; a value of None is a step that has not measured it."""
    keys = {"kl": KL, "score": SCORES, "wins": GOLD_WINS, "gold": GOLD_SCORE}
    rows = [{"step": step} for step in range(1, 1 + max((len(values) for values in columns.values()), default=0))]
    for column, values in columns.items():
        for row, value in zip(rows, values):
            if value is not None:
                row[keys[column]] = value
    return Curves(name, {"stage": config.stage} | to_dict(config), rows, [])


def picture_of(*runs: Curves, found=(), reports=None, names=Names(), drawing=Drawing()):
    return find_picture(runs, reports or {}, found, names, drawing)


def points(picture, name: str) -> list[tuple[float, float]]:
    return [(point.kl, point.height) for course in picture.courses[name] for point in course.points]


# -- the points of a run ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("config", [PPOConfig(reward=TASTE), NLPOConfig(reward=TASTE), GroupConfig(reward=TASTE), RFTConfig(reward=TASTE)])
def test_an_online_learner_is_a_line_of_kl_and_reward(config):
    """Of rejection sampling, which measures now and then, of the steps that have both."""
    picture = picture_of(run("a", config, kl=[0.0, None, 2.0], score=[0.1, 0.2, 0.3]))
    assert points(picture, "a") == [(0.0, 0.1), (2.0, 0.3)]
    assert picture.yardstick == ("reward", TASTE, "bundled", "bundled")


def test_wins_come_first_where_they_are_known_and_end_with_the_report():
    taught = run("a", TeachConfig(labeler="dialogue"), kl=[0.0, 2.0], wins=[0.5, 0.6], score=[0.0, 1.0], gold=[3.0, 4.0])
    picture = picture_of(taught, reports={"a": REPORT})
    assert points(picture, "a") == [(0.0, 0.5), (2.0, 0.6), (4.0, 0.8)]
    figure = learner_figure(picture, ["a"])
    assert figure["data"][0]["error_y"]["array"] == pytest.approx([0, 0, 0.1]) and figure["data"][0]["error_y"]["arrayminus"] == pytest.approx([0, 0, 0.1])
    assert figure["data"][1]["y"] == [0.5, 0.5], "chance"
    assert figure["layout"]["yaxis"]["tickformat"] == ".0%" and "nats" in figure["layout"]["xaxis"]["title"]["text"]
    assert "nats per sequence" in picture_note(picture, str)
    json.dumps(figure, allow_nan=False)


def test_a_person_has_no_wins_and_a_live_reward_is_nobody_elses():
    one, two = (run(name, TeachConfig(labeler="person"), kl=[0.0, 1.0], score=[0.0, 1.0]) for name in "ab")
    picture = picture_of(one, two)
    assert list(picture.courses) == ["a"] and picture.left_out == {"b": text.LEFT_OUT_REWARD}
    assert "the reward that a learns" in picture_note(picture, str)


def test_what_is_no_number_is_no_point():
    picture = picture_of(run("a", PPOConfig(reward=TASTE), kl=[0.0, math.nan, 2.0, 3.0], score=[0.1, 0.2, math.inf, 0.3]))
    assert points(picture, "a") == [(0.0, 0.1), (3.0, 0.3)]


def test_smoothing_and_the_last_steps_are_those_of_the_page():
    steps = run("a", PPOConfig(reward=TASTE), kl=[0.0, 1.0, 2.0, 3.0], score=[0.0, 4.0, 0.0, 4.0])
    assert points(picture_of(steps, drawing=Drawing(window=2)), "a") == [(2.0, 0.0), (3.0, 4.0)]
    smoothed = points(picture_of(steps, drawing=Drawing(smoothing=0.5)), "a")
    assert smoothed[0] == (0.0, 0.0) and smoothed[1] == pytest.approx((2 / 3, 8 / 3)) and len(smoothed) == 4
    assert moving_average([2.5] * 20, 0.9) == pytest.approx([2.5] * 20) and moving_average([1.0, 5.0], 0.0) == [1.0, 5.0]


# -- which runs stand in it together ------------------------------------------------------------------------------------

def test_runs_of_another_model_start_or_reward_are_left_out_and_it_is_said_why():
    def ppo(name, **settings):
        return run(name, PPOConfig(**{"reward": TASTE} | settings), kl=[0.0, 1.0], score=[0.0, 1.0])
    runs = [ppo("alike"), run("group", GroupConfig(reward=TASTE, adapter="bundled"), kl=[0.0, 2.0], score=[0.0, 2.0]), ppo("model", model="smollm2", adapter="bundled"),
            ppo("start", adapter="none"), ppo("other", reward="/home/runs/other"), run("dpo", DPOConfig(), kl=[0.0, 3.0])]
    picture = picture_of(*runs)
    assert list(picture.courses) == ["alike", "group"], "`auto` of a bundled run is the bundled adapter"
    assert picture.left_out == {"model": text.LEFT_OUT_MODEL, "start": text.LEFT_OUT_START, "other": text.LEFT_OUT_REWARD,
                                "dpo": text.LEFT_OUT_UNJUDGED}
    note = picture_note(picture, str)
    assert "\n" not in note and "model (another base model); start (it began with another adapter)" in note
    colours = [trace["line"]["color"] for trace in learner_figure(picture, [one.name for one in runs])["data"]]
    assert colours == list(RUN_COLOURS[:2]), "the colours that they have in all plots"


def test_the_yardstick_is_what_most_runs_have_and_of_two_the_wins():
    taught = run("t", TeachConfig(labeler="long"), kl=[1.0], wins=[0.6], gold=[2.0], score=[0.0])
    ppo = run("p", PPOConfig(reward=TASTE), kl=[1.0], score=[1.0])
    picture = picture_of(ppo, taught)
    assert picture.yardstick.kind == "wins" and picture.left_out == {"p": text.LEFT_OUT_NO_WINS}
    picture = picture_of(ppo, taught, run("q", PPOConfig(reward=TASTE), kl=[1.0], score=[1.0]))
    assert picture.yardstick.kind == "reward" and picture.left_out == {"t": text.LEFT_OUT_REWARD}
    assert picture_of(run("s", SFTConfig()), run("d", DPOConfig(), kl=[1.0])).yardstick is None


def test_learners_on_the_same_votes_are_judged_by_the_same_labeler():
    """`replay=RUN` is judged by who voted in RUN, also through a second replay."""
    labelers = {"first": "dialogue", "again": "replay=/home/runs/first"}
    names = Names(lambda value: value.removeprefix("/home/runs/"), lambda name: labelers.get(name, ""))
    runs = [run(name, TeachConfig(labeler=labeler, learner=learner), kl=[1.0], wins=[0.6]) for name, labeler, learner in (
        ("first", "dialogue", "ppo"), ("again", "replay=/home/runs/first", "dpo"), ("third", "replay=/home/runs/again", "grpo"),
        ("lost", "replay=/home/runs/gone", "ppo"))]
    picture = picture_of(*runs, names=names)
    assert list(picture.courses) == ["first", "again", "third"] and picture.left_out == {"lost": text.LEFT_OUT_JUDGE}
    assert picture.yardstick.judge == "dialogue"


# -- what was measured beside the runs ------------------------------------------------------------------------------------

def test_an_evaluation_brings_a_run_into_the_picture_that_measures_no_wins_itself():
    report = {"model": "bundled", "adapter": "/home/runs/dpo", "against": "bundled", "judge": "dialogue", **REPORT}
    early = report | {"adapter": "/home/runs/dpo/checkpoints/step-000005", "kl": 1.0, "win_rate": 0.6}
    names = Names(lambda value: value.removeprefix("/home/runs/"))
    found = [Measurement("won", report), Measurement("early", early), Measurement("broken", {"adapter": 3, "kl": 1.0, "win_rate": 0.5}),
             Measurement("of another start", report | {"against": "none"})]
    taught = run("t", TeachConfig(labeler="dialogue"), kl=[1.0], wins=[0.6])
    picture = picture_of(taught, run("dpo", DPOConfig(), kl=[0.0, 4.0]), found=found, names=names)
    assert list(picture.courses) == ["t", "dpo"] and points(picture, "dpo") == [(1.0, 0.6), (4.0, 0.8)]
    assert learner_figure(picture, ["t", "dpo"])["data"][1]["text"] == ["early", "won"]


CURVE = [{"n": n, "kl": kl, "win_rate": wins, "win_rate_low": 0.4, "win_rate_high": 0.9, "gold": gold, "proxy": gold / 2}
         for n, kl, wins, gold in ((1, 0.0, 0.5, 1.0), (4, 0.6, 0.7, 2.0), (16, 1.8, None, 3.0))]


def test_best_of_n_from_the_same_start_stands_beside_the_learners():
    report = {"model": "bundled", "adapter": "bundled", "reward": TASTE, "judge": "", "curve": CURVE}
    ppo = run("p", PPOConfig(reward=TASTE), kl=[0.0, 1.0], score=[0.0, 1.0])
    picture = picture_of(ppo, found=[Measurement("best", report), Measurement("other", report | {"adapter": "none"})])
    [course] = picture.best_of
    assert [(point.label, point.kl, point.height) for point in course.points] == [("best of 1", 0.0, 1.0), ("best of 4", 0.6, 2.0), ("best of 16", 1.8, 3.0)]
    trace = learner_figure(picture, ["p"])["data"][-1]
    assert trace["name"] == "best" and trace["line"]["color"] == "#8A8A8A"
    judged = {course.yardstick[:2]: [point.height for point in course.points]
              for course in best_of_courses(Measurement("best", report | {"judge": "dialogue"}), Names())}
    assert judged == {("wins", "dialogue"): [0.5, 0.7], ("reward", "dialogue"): [1.0, 2.0, 3.0], ("reward", TASTE): [0.5, 1.0, 1.5]}
    assert best_of_courses(Measurement("none", {"reward": TASTE, "curve": [3, {"n": 1}]}), Names()) == []


def test_reports_beside_the_runs_are_found_and_broken_ones_are_not(tmp_path):
    write_run(tmp_path, "run", SFTConfig()).write_report(REPORT)
    for name, content in (("won", json.dumps(REPORT)), ("torn", '{"kl": '), ("list", "[1]")):
        (tmp_path / "runs" / name).mkdir()
        (tmp_path / "runs" / name / "report.json").write_text(content)
    (tmp_path / "runs" / "empty").mkdir()
    assert evaluation_reports(tmp_path / "runs") == {"won": REPORT} and evaluation_reports(tmp_path / "nowhere") == {}


def test_one_run_keeps_the_colour_of_the_role_and_names_are_text():
    for columns, colour in (({"wins": [0.5]}, "#CC79A7"), ({"gold": [0.5]}, "#E69F00")):
        taught = run(EVIL, TeachConfig(labeler="long"), kl=[1.0], **columns)
        figure = learner_figure(picture_of(taught), [EVIL])
        assert figure["data"][0]["line"]["color"] == colour and not figure["layout"]["showlegend"]
        assert "<" not in figure["data"][0]["name"] and "<img" not in figure["data"][0]["hovertemplate"]
    assert "KL of 1" in figure["alt"] and courses_of(run("x", SFTConfig()), {}, Names()) == []


# -- on the page ------------------------------------------------------------------------------------------------------------

def test_the_page_shows_it_for_the_runs_that_are_chosen(tmp_path):
    home = tmp_path / "home"
    write_run(home, "old", SFTConfig(), steps=4)
    for name in ("one", "two"):
        write_run(home, name, PPOConfig(reward=str(home / "runs" / "taste")), steps=5)
    page = Page(home)
    page.tick(runs_chosen=["one", "two", "old"])
    assert page["runs-learners"]["visible"] and [line["name"] for line in page["runs-learners"]["value"]["data"]] == ["one", "two"]
    assert "by taste" in page["runs-learners-note"]["value"] and "old (it began with another adapter)" in page["runs-learners-note"]["value"]
    assert page.tick() == set()
    (home / "runs" / "won").mkdir()
    (home / "runs" / "won" / "report.json").write_text(json.dumps({
        "model": "bundled", "adapter": "bundled", "reward": str(home / "runs" / "taste"), "judge": "", "curve": CURVE}))
    assert page.tick() == {"runs-learners"} and page["runs-learners"]["value"]["data"][-1]["name"] == "won"
    bare = Run.create(home / "runs" / "bare", SFTConfig())
    bare.log({"step": 1, "loss/train": 1.0})
    page.tick(runs_chosen=["bare"])
    assert not page["runs-learners"]["visible"] and not page["runs-learners-note"]["visible"]
