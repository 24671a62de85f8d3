import shlex

import gradio as gr
import pytest

from playground.components.stage_views import stage_view
from playground.pages.train.form import Form
from rlhf_engine import config as configs
from rlhf_engine.arguments import command_line, make_parser
from rlhf_engine.commands import COMMANDS
from rlhf_engine.stages import STAGES


@pytest.fixture(params=list(STAGES))
def form(request, workspace) -> Form:
    with gr.Blocks():
        return Form(request.param, workspace)


def test_every_setting_has_a_labelled_field_with_help(form):
    assert set(form.fields) == set(configs.field_types(form.config))
    assert list(form.fields)[:len(stage_view(form.stage).basic)] == list(stage_view(form.stage).basic)
    for field in form.components:
        assert field.label and field.info and field.elem_id


def test_an_untouched_form_is_the_default_but_that_people_are_asked(form):
    asked = {"labeler": "person"} if form.stage == "teach" else {}
    assert form.read({field: field.value for field in form.components}) == asked


def test_a_form_gives_what_was_changed(form):
    values = {field: field.value for field in form.components} | {form.fields["seed"]: 7}
    assert form.read(values) == {"seed": 7} | ({"labeler": "person"} if form.stage == "teach" else {})


def test_labelers_are_offered_and_any_word_may_be_the_keyword(workspace):
    with gr.Blocks():
        labeler = Form("teach", workspace).fields["labeler"]
    offered = [value for _, value in labeler.choices]
    assert labeler.value == offered[0] == "person" and {"sentiment", "short", "long", "dialogue"} < set(offered)
    assert labeler.preprocess("keyword=cat") == "keyword=cat"


def test_fields_fit_their_types(form):
    kinds = {bool: gr.Checkbox, int: gr.Number, float: gr.Number}
    for name, kind in configs.field_types(form.config).items():
        expected = gr.Dropdown if configs.choices(kind) else kinds.get(kind)
        assert expected is None or isinstance(form.fields[name], expected)


def test_the_newest_reward_is_chosen_where_none_is(workspace):
    with gr.Blocks():
        form = Form("ppo", workspace)
    reward = form.fields["reward"]
    assert form.choices({reward: None})[reward]["value"] == "taste"
    assert "value" not in form.choices({reward: "other"})[reward]


def test_the_command_line_says_what_differs_and_nothing_else(tmp_path):
    settings = {"seed": 3, "normalise_reward": False, "gradient_checkpointing": True, "steps": configs.PPOConfig().steps, "reward": str(tmp_path / "runs" / "a b"),
                "output": str(tmp_path / "runs" / "new")}
    line = command_line("ppo", settings, here=tmp_path)
    words = shlex.split(line.replace("\\\n", " "))
    assert words[:4] == ["python", "-m", "rlhf_engine", "ppo"]
    assert "--steps" not in words and "--no-normalise-reward" in words and words[words.index("--reward") + 1] == "runs/a b"
    given = vars(make_parser(COMMANDS).parse_args(words[3:]))
    assert given["normalise_reward"] is False and given["gradient_checkpointing"] is True and given["output"] == "runs/new" and given["seed"] == "3"


def test_a_resumed_run_needs_only_its_folder(tmp_path):
    line = command_line("sft", {"seed": 3, "output": str(tmp_path / "run")}, resume=True, here=tmp_path)
    assert shlex.split(line.replace("\\\n", " ")) == ["python", "-m", "rlhf_engine", "sft", "--output", "run", "--resume"]
