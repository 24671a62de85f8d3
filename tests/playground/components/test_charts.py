import json
import math

import pytest

from playground.components import charts as figures
from playground.components.stage_views import PANELS
from rlhf_engine.config import to_dict
from rlhf_engine.stages import STAGES
from rlhf_engine.studies.kl_limits import KLLimit


def config(stage: str, **changes) -> dict:
    return {"stage": stage} | to_dict(STAGES[stage].config(**changes))


def test_every_stage_fills_the_panels_before_and_after_its_first_step():
    for stage in STAGES:
        for metrics in ([], [{"step": 1, "loss/train": 2.0}]):
            assert len(figures.run_figures("run", config(stage), metrics)) == PANELS


def test_a_trace_holds_what_was_measured_and_nothing_else():
    metrics = [{"step": 1, "loss/train": 3.0}, {"step": 2, "loss/train": 2.0, "loss/held_out": 2.5}]
    loss = figures.run_figures("run", config("sft"), metrics)[0]
    train, held_out = loss["data"]
    assert (train["x"], train["y"]) == ([1, 2], [3.0, 2.0])
    assert (held_out["x"], held_out["y"]) == ([2], [2.5])
    assert "held-out 2.5" in loss["alt"]


def test_roles_keep_their_colours():
    score, kl, entropy, losses = figures.run_figures("run", config("ppo"), [{"step": 1, "objective/scores": 0.1, "objective/kl": 1.0}])
    assert score["data"][0]["line"]["color"] == "#E69F00"
    assert kl["data"][0]["line"]["color"] == "#D55E00"
    assert [t["line"]["color"] for t in losses["data"]] == ["#0072B2", "#009E73"]
    assert entropy["data"][1]["line"]["color"] == "#8A8A8A"


def test_text_that_is_mixed_in_is_drawn_on_an_axis_of_its_own_and_only_where_there_is_some():
    metrics = [{"step": 1, "loss/policy": 0.01, "loss/value": 0.1, "loss/ptx": 1.5}]
    plain, mixed = (figures.run_figures("run", config("ppo", ptx_coef=coef), metrics)[3] for coef in (0.0, 1.0))
    assert len(plain["data"]) == 2 and "yaxis2" not in plain["layout"]
    assert mixed["data"][2]["y"] == [1.5] and mixed["data"][2]["yaxis"] == "y2"
    assert mixed["layout"]["yaxis2"]["title"]["text"] == "nats per token"


@pytest.mark.parametrize("given, drawn", [({}, 6.0), ({"max_new_tokens": 10}, 2.0), ({"kl_target": 3.0}, 3.0)])
def test_the_target_is_the_one_that_the_controller_aims_at(given, drawn):
    kl = figures.run_figures("run", config("ppo", **given), [{"step": 1, "objective/kl": 1.0}])[1]
    assert kl["data"][-1]["line"]["dash"] == "dash" and kl["data"][-1]["y"] == [drawn, drawn]


def test_no_target_no_line():
    assert len(figures.run_figures("run", config("ppo", kl_target=0.0), [{"step": 1, "objective/kl": 1.0}])[1]["data"]) == 1


@pytest.mark.parametrize("count", [1, 999, 1000, 1001, 2500, 12345])
def test_long_runs_are_thinned_and_keep_their_last_step(count):
    rows = figures.thin([{"step": i} for i in range(1, count + 1)])
    assert len(rows) <= 1000 and rows[-1]["step"] == count


def test_figures_are_strict_json():
    metrics = [{"step": 1, "objective/kl": math.nan}, {"step": 2, "objective/kl": math.inf}, {"step": 3, "objective/kl": 1.0}]
    kl = figures.run_figures("run", config("ppo"), metrics)[1]
    json.dumps(kl, allow_nan=False)
    assert kl["data"][0]["y"] == [None, None, 1.0]


def test_zoom_belongs_to_a_run_and_a_panel():
    one, other = (figures.run_figures(name, config("sft"), [])[0]["layout"]["uirevision"] for name in ("one", "other"))
    assert one != other


def test_the_target_has_at_each_step_the_height_that_it_had_then():
    changes = [{"event": "changed", "step": 3, "name": "kl_target", "old": 6.0, "new": 0.0},
               {"event": "changed", "step": 5, "name": "kl_target", "old": 0.0, "new": 4.0},
               {"event": "changed", "step": 7, "name": "max_new_tokens", "old": 96, "new": 10},
               {"event": "changed", "step": 9, "name": "kl_target", "old": 4.0, "new": 1.0},
               {"event": "rewound", "step": 9, "was": 10}]
    metrics = [{"step": step, "objective/kl": 1.0} for step in range(1, 11)]
    target = figures.run_figures("run", config("ppo"), metrics, changes)[1]["data"][1]
    assert (target["x"], target["y"]) == ([1, 4, 4, 6, 8, 10], [6.0, 6.0, None, 4.0, 2.0, 2.0]), "drawn up to where it ends"
    late = figures.run_figures("run", config("ppo"), metrics[:2], changes)[1]["data"][1]
    assert late["y"] == [6.0, 6.0], "a change that no step has seen yet"


def test_before_the_first_step_the_votes_are_drawn():
    learned = [{"event": "reward", "step": 1, "votes": number, "guesses": number % 2, "guessed": 1.0 * (number == 3), "drift": 0.5, "spread": 0.1} for number in (1, 2, 3)]
    guessed, moved, wins = figures.teach_figures("run", config("teach"), [], learned)
    assert guessed["data"][0]["x"] == [1, 2, 3] and guessed["data"][0]["y"] == [0.0, 0.0, 0.5] and wins is None
    assert guessed["data"][1]["y"] == [0.25, 0.25], "by chance one of four"
    assert [line["y"] for line in moved["data"]] == [[0.5] * 3, [0.1] * 3] and "3 votes" in guessed["alt"]
    shown = figures.teach_figures("run", config("teach"), [{"step": 1, "objective/kl": 1.0, "objective/scores": 0.1}], learned)[0]
    assert shown["data"][0]["x"] == [1]


def test_a_legend_of_two_axes_has_room_for_its_names():
    for stage in STAGES:
        for panel in figures.run_figures("run", config(stage), []):
            width = panel["layout"]["legend"].get("entrywidth")
            assert width is None or width >= 5 * max(len(line["name"]) for line in panel["data"])


def test_a_level_lasts_up_to_the_step_at_which_there_is_none():
    line = figures.level_trace("target", [(0, 6.0), (5, 4.0), (7, None), (9, 2.0)], [1, 10])
    assert line["x"] == [1, 5, 7, 7, 9, 10]
    assert line["y"] == [6.0, 4.0, 4.0, None, 2.0, 2.0]


LIMIT = KLLimit(kl=17.0, labels=50, study="overopt-1")


def test_the_plot_of_the_kl_has_a_line_where_its_like_peaked_and_a_word_for_a_run_that_has_passed_it():
    """Far below the peak there is no line, which would press the curve flat."""
    drawn = {}
    for kl in (1.0, 8.0, 20.0):
        figure = figures.run_figures("run", config("ppo"), [{"step": 1, "objective/kl": 0.1}, {"step": 2, "objective/kl": kl}], limit=LIMIT)[1]
        drawn[kl] = {trace["name"]: trace for trace in figure["data"]}
        assert ("overopt-1" in figure["alt"]) == (kl > 1.0)
    assert not [name for name in drawn[1.0] if "peak" in name]
    near, past = drawn[8.0]["peak of its like"], drawn[20.0]["past the peak of its like"]
    assert near["y"] == past["y"] == [17.0, 17.0] and near["line"]["dash"] == "dot" and near["line"]["color"] == "#CC79A7"
    live = figures.teach_figures("run", config("teach"), [{"step": 1, "objective/kl": 20.0, "objective/scores": 0.1}], [], LIMIT)
    assert "past the peak of its like" in [trace["name"] for trace in live[1]["data"]]
    assert "past the peak of its like" not in [trace["name"] for trace in live[0]["data"]]
