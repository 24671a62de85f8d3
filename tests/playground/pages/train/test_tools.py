"""What stands around the form and the run on the Train page: memory budget, presets, the settings as code, live controls."""

import json
import os
import shlex
import subprocess
import sys

import gradio as gr
import pytest
import torch
import yaml
from playwright.sync_api import expect

from playground import machine as machines
from playground.components import text as shared_text
from playground.components.formatting import byte_size
from playground.components.stage_views import Preset, stage_view, stages_by_group
from playground.machine import Machine, machine
from playground.model_files import SUGGESTED_MODELS
from playground.pages.train import machine_memory as budget
from playground.pages.train import text as train_text
from playground.pages.train.code_snippets import as_cell, as_yaml
from playground.pages.train.form import Form
from playground.pages.train.live_settings import controls_of, live_values
from playground.pages.train.machine_memory import measured
from playground.pages.train.presets import FILL, SIZES, Presets
from playground.pages.train.start_panel import group_titles
from rlhf_engine import config as configs
from rlhf_engine.arguments import command_line, make_parser
from rlhf_engine.cli import read_config
from rlhf_engine.commands import COMMANDS
from rlhf_engine.config import PPOConfig, RewardConfig, SFTConfig, TeachConfig
from rlhf_engine.data.tables import OWN_PROMPTS
from rlhf_engine.files import ASSETS
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape
from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import OWN_PROMPT_TOKENS, STAGES, make_config
from rlhf_engine.teach.trainer import Teach
from rlhf_engine.trainers.group import GroupLearner
from rlhf_engine.trainers.nlpo import NLPO
from rlhf_engine.trainers.ppo import PPO
from rlhf_engine.trainers.preferences.dpo import DPO
from rlhf_engine.trainers.reward import RewardTrainer
from rlhf_engine.trainers.rft.trainer import RFT
from rlhf_engine.trainers.sft import SFT
from rlhf_engine.yaml_files import read_yaml
from tests.conftest import sentences
from tests.playground.browser import browsing, expect_no_sideways_scroll, needs_browser, serving
from tests.playground.conftest import EVIL, write_run
from tests.playground.helpers import live_of

GIB = 1 << 30
HERE = Machine("cpu", "this computer", 8 * GIB, 16 * GIB)


# -- memory ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_the_budget_names_every_part_in_the_bar_and_in_words(workspace, stage):
    html = budget.budget(workspace, stage, {"reward": "taste"} if stage == "ppo" else {})
    found = estimate(make_config(stage, {"reward": "taste"} if stage == "ppo" else {}), read_shape(read_model(BUNDLED_MODEL)),
                     tokens=budget.longest_row(STAGES[stage].config()))
    assert byte_size(found.total) in html and 'role="img"' in html and ' class="budget fits"' in html
    for name, count in found.parts.items():
        shown = f"{shared_text.PARTS[name]} {byte_size(count)}" in html and budget.COLOURS[name] in html
        assert shown == bool(count), name
    assert shared_text.ROWS_KNOWN.format(tokens=min(STAGES[stage].config().max_tokens, budget.longest_row(STAGES[stage].config()))) in html


def test_the_longest_row_of_the_bundled_data_is_known_and_no_other():
    rows = {stage: budget.longest_row(config()) for stage, config in [(s.name, s.config) for s in STAGES.values()]}
    assert rows == {"sft": 110, "reward": 114, "dpo": 114, **dict.fromkeys(("ppo", "nlpo", "grpo", "rft", "teach"), 18 + 96)}
    assert budget.longest_row(STAGES["reward"].config(max_new_tokens=200)) == budget.longest_row(PPOConfig(max_new_tokens=200)) == 218
    own = {"model": "smollm2", "max_new_tokens": 40}
    assert budget.longest_row(PPOConfig(**own)) == budget.longest_row(TeachConfig(**own)) == 92
    assert budget.longest_row(PPOConfig(**own, data="uploads/mine.jsonl")) == budget.longest_row(RewardConfig(**own)) == 0
    assert OWN_PROMPT_TOKENS.keys() == OWN_PROMPTS.keys()
    assert budget.longest_row(SFTConfig(data="uploads/mine.jsonl")) == budget.longest_row(SFTConfig(model="a/b")) == 0


def test_the_budget_follows_the_settings(workspace, monkeypatch):
    monkeypatch.setattr(budget, "machine", lambda home, device="auto": HERE)
    few, many = (budget.budget(workspace, "sft", {"batch_size": rows, "data": "uploads/mine.jsonl"}) for rows in (2, 64))
    assert few != many and "as far as the settings let them grow" in many
    assert "too much" in (html := budget.budget(workspace, "sft", {"model": "Qwen/Qwen3-1.7B", "batch_size": 64}))
    assert 'class="budget over"' in html and "gradient checkpointing" in html and "<b style" in html
    assert "--batch-size is 0, but must be at least 1" in budget.budget(workspace, "sft", {"batch_size": 0})


def test_what_is_not_known_is_said(workspace):
    assert "not known before it is downloaded" in budget.budget(workspace, "sft", {"model": "some/thing-of-2031"})
    evil = budget.budget(workspace, "sft", {"model": EVIL})
    assert "<img" not in evil and "<script" not in evil and "neither known nor a path" in evil
    odd = workspace.home / "models" / "odd"
    odd.mkdir(parents=True)
    (odd / "config.json").write_text('{"model_type": "<b>mamba</b>"}')
    assert "&lt;b&gt;mamba" in budget.budget(workspace, "sft", {"model": "models/odd"})


def test_the_way_out_is_the_fewest_savings_that_fit():
    config, shape = SFTConfig(model="a/b", dtype="bf16"), read_shape(SUGGESTED_MODELS["Qwen/Qwen3-4B"])
    room = Machine("cuda", "GPU", 14 * GIB, 16 * GIB)
    said = budget.way_out(config, shape, room, 0)
    assert "gradient checkpointing" in said and "4-bit" not in said
    assert "4-bit weights" in budget.way_out(config, shape, Machine("cuda", "GPU", 7 * GIB, 8 * GIB), 0)
    assert budget.way_out(config, shape, Machine("cuda", "GPU", 2 * GIB, 2 * GIB), 0) == shared_text.NO_WAY_OUT


def test_the_measured_peak_stands_beside_the_estimate(workspace):
    settings = {"stage": "sft", **configs.to_dict(SFTConfig())}
    assert measured(workspace, settings, {}) == ""
    assert "Memory: 812 MB at the peak, measured; the estimate was" in measured(workspace, settings, {"peak_memory_mb": 812})
    assert measured(workspace, settings | {"model": "gone/away"}, {"peak_memory_mb": 2048}) == '<p class="empty">Memory: 2.0 GB at the peak, measured.</p>'


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A machine whose nvidia-smi tells of one GPU, and of the process 77 on it, which is the worker."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text('#!/bin/sh\ncase "$1" in *gpu=*) echo "NVIDIA X1, 5000, 8192";; *) echo "77, 1000"; echo "78, 500";; esac\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(machines, "torch_has_cuda", lambda: True)
    machines.gpu_memory.cache_clear()
    yield script
    machines.gpu_memory.cache_clear()


def test_what_the_worker_holds_on_a_gpu_counts_as_free(tmp_path, gpu, monkeypatch):
    (tmp_path / "worker.json").write_text('{"pid": 77}')
    assert machine(tmp_path) == Machine("cuda", "NVIDIA X1", 6000 << 20, 8192 << 20)
    assert machine(tmp_path, "cpu").device == "cpu"
    (tmp_path / "worker.json").write_text("[")
    assert machine(tmp_path).free == 5000 << 20
    monkeypatch.setattr(machines, "torch_has_cuda", lambda: False)
    machines.gpu_memory.cache_clear()
    assert machine(tmp_path).device == "cpu"


def test_an_nvidia_smi_that_fails_means_no_gpu(tmp_path, gpu):
    gpu.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    assert machine(tmp_path).device == "cpu"


def test_whether_torch_has_cuda_is_read_from_its_files():
    assert machines.torch_has_cuda() == (torch.version.cuda is not None)


def test_none_of_it_imports_torch():
    code = ("import sys; from playground.pages.train.machine_memory import budget; from playground.workspace import Workspace; "
            "budget(Workspace('nowhere'), 'sft', {'model': 'a/b'}); budget(Workspace('nowhere'), 'sft', {}); "
            "sys.exit(sum(m in sys.modules for m in ('torch', 'transformers', 'peft', 'datasets')))")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- presets -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("stage", STAGES)
def test_presets_are_valid_few_and_do_not_step_on_each_other(stage):
    assert len(stage_view(stage).presets) <= 4 and len({p.name for p in stage_view(stage).presets}) == len(stage_view(stage).presets)
    purposes, sizes = {n for p in stage_view(stage).presets for n in p.settings}, {n for z in SIZES for n in z.preset(stage).settings}
    assert not purposes & sizes
    for preset in stage_view(stage).presets:
        for z in SIZES:
            make_config(stage, preset.settings | z.preset(stage).settings)
        assert preset.about.endswith(".") and any(v != getattr(STAGES[stage].config, n) for n, v in preset.settings.items())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("z", SIZES, ids=lambda z: z.name)
def test_what_is_said_to_fit_fits_by_the_estimate(stage, z):
    """From an adapter, which takes one role more, and with each purpose."""
    for preset in (Preset("", ""), *stage_view(stage).presets):
        settings = z.preset(stage).settings | preset.settings
        config = make_config(stage, settings | ({"adapter": "some-run"} if stage != "sft" else {}))
        shape = read_shape(SUGGESTED_MODELS[config.model] if z.memory else read_model(BUNDLED_MODEL))
        need = estimate(config, shape, device="cuda" if z.memory else "cpu").total
        assert need <= (FILL * z.memory if z.memory else 4 * GIB), (preset.name, byte_size(need))


def test_the_suggested_models_are_as_large_as_their_names_say():
    for name, config in SUGGESTED_MODELS.items():
        assert read_shape(config).parameters / 1e9 == pytest.approx(float(name.split("-")[-1].removesuffix("B")), rel=0.03)


def test_a_preset_fills_the_form_and_another_one_takes_it_back(workspace):
    with gr.Blocks() as demo:
        bar, form = Presets("ppo"), Form("ppo", workspace)
        bar.fill(form)
    event = next(f for f in demo.fns.values() if f.inputs == [bar.menus[0].dropdown])
    names = {id(field): name for name, field in form.fields.items()}

    def choose(name):
        *updates, said = event.fn(name)
        return {names[id(c)]: u["value"] for c, u in zip(event.outputs, updates)}, said

    values, said = choose("As in InstructGPT")
    assert (values["kl_coef"], values["kl_target"], values["ppo_epochs"], values["minibatches"]) == (0.02, 0.0, 1, 8)
    assert "one pass over each rollout" in said.lower() and "KL coefficient" in said
    values, said = choose("A quick look")
    assert values["steps"] == 5 and values["kl_coef"] == PPOConfig().kl_coef and values["minibatches"] == PPOConfig().minibatches
    values, said = choose("")
    assert all(value == getattr(PPOConfig, name) for name, value in values.items()) and train_text.DEFAULTS_SAY in said


@pytest.mark.parametrize("stage", STAGES)
def test_the_recipe_for_smollm2_fills_the_form_as_its_file_says(workspace, stage):
    with gr.Blocks():
        menu = Presets(stage).menus[2]
    [preset] = menu.presets.values()
    assert preset.settings == read_yaml(str(ASSETS / "presets" / "smollm2" / f"{stage}.yaml"))
    assert menu.values(preset.name) == preset.settings and preset.about in menu.describe(preset.name)
    assert menu.values("") == {name: getattr(STAGES[stage].config, name) for name in preset.settings}


def test_the_budget_of_smollm2_counts_small_passes(workspace, monkeypatch):
    monkeypatch.setattr(budget, "machine", lambda home, device="auto": HERE)
    html = budget.budget(workspace, "reward", {"model": "smollm2", "max_tokens": 256})
    assert "A pass reads 2 such rows (512 tokens)" in html and 'class="budget fits"' in html
    assert "A pass reads" not in budget.budget(workspace, "reward", {})


# -- as code -----------------------------------------------------------------------------------------------------------

SETTINGS = {"sft": {"epochs": 2.0, "data": "/w/uploads/mine.jsonl"},
            "reward": {"seed": 3, "ensemble": 4}, "dpo": {"loss": "kto", "desirable_weight": 1.5}, "ppo": {"reward": "/w/runs/taste", "normalise_reward": False, "kl_target": 4.5},
            "nlpo": {"reward": "/w/runs/taste", "top_p": 0.8}, "grpo": {"reward": "/w/runs/taste", "estimator": "rloo", "clip_high": 0.28},
            "rft": {"reward": "/w/runs/taste", "rounds": 2, "keep": "top"}, "teach": {"labeler": "keyword=it's", "votes": 12, "guard": False}}


@pytest.mark.parametrize("stage", STAGES)
def test_command_yaml_and_cell_say_the_same(stage, tmp_path):
    """Each is read back by what reads it: the command line, its --config, and Python."""
    settings = SETTINGS[stage] | {"output": "/w/runs/new"}
    expected = configs.to_dict(make_config(stage, settings))
    (tmp_path / "settings.yaml").write_text(as_yaml(stage, settings))
    assert configs.to_dict(make_config(stage, read_config(tmp_path / "settings.yaml", stage))) == expected
    assert (tmp_path / "settings.yaml").read_text().startswith(f"# python -m rlhf_engine {stage} --config ")
    words = command_line(stage, settings).replace("\\\n", " ")
    given = vars(make_parser(COMMANDS).parse_args(shlex.split(words)[3:]))
    given = {n: configs.coerce(n, given[n], kind) for n, kind in configs.field_types(STAGES[stage].config).items() if n in given}
    assert configs.to_dict(make_config(stage, given)) == expected
    found = {}
    exec(as_cell(stage, settings).split("trainer =")[0].replace("from playground.notebook import live", ""), found)  # noqa: S102
    assert configs.to_dict(found["config"].validate()) == expected | {"output": ""}


def test_paths_are_seen_from_where_the_page_was_started(tmp_path):
    settings = {"data": str(tmp_path / "uploads" / "mine.jsonl"), "output": str(tmp_path / "runs" / "new")}
    assert yaml.safe_load(as_yaml("sft", settings, here=tmp_path)) == {"stage": "sft", "data": "uploads/mine.jsonl", "output": "runs/new"}
    assert "data='uploads/mine.jsonl'" in as_cell("sft", settings, here=tmp_path)


def test_a_cell_trains_and_keeps_what_it_has_trained(tiny_llama, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows, found = tmp_path / "rows.jsonl", {}
    rows.write_text("".join(json.dumps({"prompt": text[:20], "completion": text[20:]}) + "\n" for text in sentences(12)))
    exec(as_cell("sft", {"model": str(tiny_llama), "data": str(rows), "steps": 2, "batch_size": 4, "max_tokens": 64}), found)  # noqa: S102
    assert found["trainer"].step == 2 and found["step"]["loss/train"] > 0 and found["trainer"].config.batch_size == 4
    assert (tmp_path / "sft-notebook" / "policy" / "adapter_model.safetensors").is_file()


def test_a_cell_of_a_person_asks_whoever_sits_there_and_one_of_a_halted_run_goes_on():
    cell = as_cell("teach", {"labeler": "person", "votes": 9, "output": "runs/x"}, resume=True)
    assert "labeler=You()" in cell and "person" not in cell and "checkpoint=Run('runs/x').last_checkpoint()" in cell and "output=" not in cell
    compile(cell, "cell", "exec")


def test_text_of_a_visitor_stays_a_string_in_a_cell():
    nasty = "x'); import os; os.system('true') #\n\"\"\""
    found = {}
    exec(as_cell("sft", {"data": nasty}).split("trainer =")[0].replace("from playground.notebook import live", ""), found)  # noqa: S102
    assert found["config"].data == nasty
    assert yaml.safe_load(as_yaml("sft", {"data": nasty}))["data"] == nasty


# -- live controls -----------------------------------------------------------------------------------------------------

def test_the_controls_are_those_of_the_trainers():
    assert {stage: controls_of(stage) for stage in STAGES} == {
        "sft": ["steps", "epochs", "learning_rate"], "reward": ["steps", "epochs", "learning_rate"],
        "dpo": ["steps", "epochs", "learning_rate"],
        "ppo": ["steps", "kl_target", "learning_rate", "temperature", "max_new_tokens"],
        "nlpo": ["steps", "kl_target", "learning_rate", "temperature", "max_new_tokens"],
        "grpo": ["steps", "kl_target", "learning_rate", "temperature", "max_new_tokens"], "rft": ["learning_rate", "rounds"],
        "teach": ["steps", "votes", "kl_target", "learning_rate", "temperature", "max_new_tokens", "pessimism"]}
    for stage, trainer in (("sft", SFT), ("reward", RewardTrainer), ("dpo", DPO), ("ppo", PPO), ("nlpo", NLPO),
                           ("grpo", GroupLearner), ("rft", RFT), ("teach", Teach)):
        started = trainer.__new__(trainer)
        started.config = STAGES[stage].config()
        if stage == "teach":
            started.learner = PPO.__new__(PPO)
            started.learner.config = started.config
        assert set(controls_of(stage)) == set(started.tunable)


def test_what_is_in_force_follows_changes_and_rewinds():
    config = {"stage": "ppo", **configs.to_dict(PPOConfig(kl_target=6.0))}

    def changed(step, new):
        return {"event": "changed", "step": step, "name": "kl_target", "old": 0.0, "new": new}

    back = {"event": "rewound", "step": 10, "was": 14}
    assert live_values(config, [])["kl_target"] == 6.0
    assert live_values(config, [changed(3, 4.0), changed(12, 2.0)])["kl_target"] == 2.0
    assert live_values(config, [changed(3, 4.0), changed(12, 2.0), back])["kl_target"] == 4.0
    assert live_values(config, [changed(10, 2.0), back])["kl_target"] == 6.0  # made after the checkpoint of step 10
    assert live_values(config, [changed(12, 2.0), back, changed(10, 3.0)])["kl_target"] == 3.0
    assert live_values({"stage": "sft", **configs.to_dict(SFTConfig(epochs=3))}, []) == {"learning_rate": 0.0, "epochs": 3, "steps": 0}
    assert set(live_values({"stage": "sft", **configs.to_dict(SFTConfig(steps=3))}, [])) == {"learning_rate", "steps"}


@pytest.fixture
def lesson(workspace):
    """A run that is going on, with two checkpoints, of which somebody has lowered the KL target."""
    run = write_run(workspace.home, "lesson", TeachConfig(labeler="person"), state="running")
    with run.checkpoint(2) as folder:
        (folder / "policy").mkdir()
    run.note("fitted", learning_rate=5e-4, width=256)
    run.note("changed", step=1, name="kl_target", old=8.0, new=6.0)
    return run


def test_the_values_in_force_are_shown_once_and_again_when_they_change(workspace, worker, lesson):
    _, look, parts = live_of(workspace, worker)
    values = {component: component.value for component in look.inputs} | {parts["front"]: "train"}
    first = look.fn(values)
    assert first[parts["live-controls"]]["visible"] and first[parts["live-kl-target"]]["value"] == 6.0
    assert first[parts["live-pessimism"]]["visible"] and "0.0005" in first[parts["live-learning-rate"]]["info"]
    assert "Steps 22, Votes 40, KL target (nats) 6, Learning rate 0.0005" in first[parts["live-in-force"]]
    assert first[parts["live-votes"]]["visible"] and not first[parts["live-epochs"]]["visible"]
    assert [value for _, value in first[parts["rewind-to"]]["choices"]] == [3, 2]
    state = next(c for c in look.outputs if type(c).__name__ == "State")
    lesson.log({"step": 4, "objective/kl": 1.0, "time/update": 1.0})
    again = look.fn(values | {state: first[state]})
    assert parts["run-card"] in again and not {parts["live-kl-target"], parts["rewind-to"]} & set(again)  # somebody may be typing
    lesson.note("changed", step=4, name="temperature", old=1.0, new=0.7)
    third = look.fn(values | {state: again[state]})
    assert third[parts["live-temperature"]]["value"] == 0.7
    lesson.set_status(state="done")
    assert not look.fn(values | {state: third[state]})[parts["live-controls"]]["visible"]


def test_only_what_differs_is_sent_and_a_refusal_is_one_line(workspace, worker, lesson, monkeypatch):
    demo, _, parts = live_of(workspace, worker)
    said = []
    monkeypatch.setattr("gradio.Info", lambda message, **_: said.append(message))
    monkeypatch.setattr("gradio.Warning", lambda message, **_: said.append(message))
    change = next(f.fn for f in demo.fns.values() if getattr(f.fn, "__name__", "") == "_change")
    fields = {name: parts[f"live-{name.replace('_', '-')}"] for name in controls_of("teach")}
    now = {fields[n]: v for n, v in live_values(lesson.config(), lesson.journal()).items()} | {parts["run"]: ""}
    assert change(now) == "" and not worker.log and said[-1] == train_text.LIVE_NOTHING
    assert change(now | {fields["kl_target"]: 4, fields["temperature"]: 0.5}) == ""
    assert [entry[2:] for entry in worker.log] == [("kl_target", 4), ("temperature", 0.5)] and "4 (was 6)" in said[-1]
    assert "“KL target (nats per sequence)” is -1" in change(now | {fields["kl_target"]: -1}) and len(worker.log) == 2
    assert change(now | {fields["steps"]: 200}) == "" and worker.log[-1][2:] == ("steps", 200) and "Steps 200 (was 22)" in said[-1]


# -- in a browser ------------------------------------------------------------------------------------------------------

@needs_browser
def test_a_visitor_uses_them(workspace, worker, lesson):
    lesson.note("warning", step=3, text=EVIL)
    with serving(workspace.home, worker) as url, browsing(url) as open_page:
        page = open_page()
        page.get_by_role("tab", name="Train").click()
        expect(page.locator("#memory .said")).to_contain_text("it fits")
        before = page.locator("#memory .stack").get_attribute("aria-label")
        page.locator("#sft-size input").click()
        page.get_by_role("option", name="8 GB GPU").click()
        expect(page.locator("#sft-preset-said")).to_contain_text("Qwen3 1.7B in 4 bits")
        page.get_by_role("button", name="All settings").locator("visible=true").click()
        expect(page.locator("#sft-model input")).to_have_value("Qwen/Qwen3-1.7B")
        expect(page.locator("#memory .stack")).not_to_have_attribute("aria-label", before)
        page.get_by_role("button", name="Show me this as").click()
        page.get_by_role("tab", name="YAML").first.click()
        expect(page.locator("#yaml")).to_contain_text("dtype: nf4")
        page.get_by_role("tab", name="Notebook cell").first.click()
        expect(page.locator("#cell")).to_contain_text("make_trainer(config)")

        page.get_by_role("button", name="Change it while it runs").click()
        field = page.locator("#live-kl-target input")
        expect(field).to_have_value("6")
        field.fill("4")
        field.press("Enter")
        expect(page.get_by_text("KL target (nats) 4 (was 6)")).to_be_visible()
        assert worker.log[-1][2:] == ("kl_target", 4)
        field.fill("-1")
        page.click("#live-apply")
        expect(page.locator("#notice [role=alert]")).to_have_text("“KL target (nats per sequence)” is -1, but must be at least 0.0")
        page.click("#rewind")
        expect(page.get_by_text("Take lesson back to step 3?")).to_be_visible()
        page.click("#rewind-no")
        expect(page.locator("#rewind-yes")).to_be_hidden()
        page.click("#rewind")
        page.click("#rewind-yes")
        expect(page.locator("#rewind-yes")).to_be_hidden()
        assert worker.log[-1][2:] == ("rewind", 3)
        assert page.evaluate("window.hacked") is None
        page.set_viewport_size({"width": 390, "height": 900})
        expect_no_sideways_scroll(page)


# -- groups of stages --------------------------------------------------------------------------------------------------

def test_stages_are_offered_in_groups_by_what_they_learn_from():
    groups = stages_by_group()
    assert list(groups)[:3] == ["Demonstrations", "Preferences", "Online"] and groups["Demonstrations"] == ["sft"]
    assert groups["Preferences"][:2] == ["reward", "dpo"] and {"ppo", "teach"} <= set(groups["Online"])
    assert sorted(name for names in groups.values() for name in names) == sorted(STAGES)
    style = group_titles(groups)
    assert 'label:nth-of-type(2) { --group: "Preferences"' in style and f'nth-of-type({2 + len(groups["Preferences"])}) {{ --group: "Online"' in style
