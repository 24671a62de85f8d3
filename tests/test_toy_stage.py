"""What a new stage costs: a config, an iterator and a row in the table. Everything else finds it by itself.

The stage of this test learns nothing of use: it makes prompts likelier. No file of the project knows of it.
"""

import json
import typing
from dataclasses import dataclass

import gradio as gr
import pytest
import torch

from playground.app import build
from playground.components.charts import run_figures
from playground.pages.runs.comparison_charts import Curves, all_measures, last_values, leading_measures
from playground.pages.runs.diagnostics import advise
from playground.pages.train.form import Form
from playground.pages.train.machine_memory import budget
from playground.workspace import Workspace
from rlhf_engine import stages
from rlhf_engine.arguments import command_line
from rlhf_engine.cli import main
from rlhf_engine.config import RunConfig, bounded
from rlhf_engine.data.readers import read_prompts
from rlhf_engine.data.tokenization import encode_prompts
from rlhf_engine.measures import measure
from rlhf_engine.model.logprobs import pad_right
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape
from rlhf_engine.stages import PROMPTS, Stage, make_config
from rlhf_engine.trainers.base import Trainer, adam
from tests.playground.conftest import FakeWorker


@dataclass
class EchoConfig(RunConfig):
    """Echo: make the prompts themselves likelier."""

    steps: int = bounded(3, 1, live=True)
    """Steps to take."""
    volume: float = bounded(0.5, 0.0, 1.0, live=True)
    """How loud the echo is."""
    stage: typing.ClassVar[str] = "echo"


class Echo(Trainer):
    """One step a prompt: the cross-entropy of all its tokens."""

    roles = ("policy",)

    def __init__(self, backbone, prompts, config, **options):
        super().__init__(backbone, config, **options)
        self.encoded, self.data_notes = encode_prompts(backbone, prompts, self.max_tokens)
        self.total_steps = config.steps
        if "policy" not in backbone.roles:
            backbone.new_role("policy", rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed)
        backbone.train("policy")
        self.optimizer = adam(backbone.parameters("policy"))

    def apply_config(self) -> None:
        self.total_steps = self.config.steps

    def train_step(self) -> dict:
        row = self.encoded[(self.step - 1) % len(self.encoded)].ids
        ids = pad_right([row], self.backbone.pad_id, self.backbone.device)
        rate = self.set_learning_rates(self.peak_lr)
        with self.backbone.use("policy"):
            logits = self.backbone.base(input_ids=ids).logits[:, :-1].float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
            (self.config.volume * loss).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"loss/train": loss.item(), "echo/loudness": self.config.volume, "lr": rate}


def build_echo(inputs):
    return lambda backbone: Echo(backbone, inputs.rows, inputs.config, on_microbatch=inputs.on_microbatch)


@pytest.fixture
def echo(monkeypatch) -> Stage:
    stage = Stage("echo", EchoConfig, "make prompts likelier", "tests.test_toy_stage.build_echo",
                  lambda config: PROMPTS, title="Echo")
    monkeypatch.setitem(stages.STAGES, stage.name, stage)  # so that it is gone after the test
    return stages.register(stage)


def test_the_command_line_knows_it(echo, capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "make prompts likelier" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["echo", "--help"])
    text = capsys.readouterr().out
    assert "--volume" in text and "How loud the echo is." in text and "--resume" in text


def test_it_runs_stops_and_goes_on(echo, tiny_llama, tmp_path, capsys):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("once upon a time", "a little dog")))
    output = tmp_path / "run"
    options = ["--model", str(tiny_llama), "--data", str(data), "--output", str(output)]
    assert main(["echo", *options, "--volume", "0.25"]) == 0
    run = Run(output)
    assert run.status()["state"] == "done" and [row["echo/loudness"] for row in run.metrics()] == [0.25] * 3
    assert main(["echo", *options, "--resume", "--steps", "5"]) == 0
    assert run.status()["step"] == 5 and len(run.metrics()) == 5
    assert main(["chat", "--model", str(tiny_llama), "--adapter", str(output), "--prompt", "once", "--max-new-tokens", "3"]) == 0
    assert main(["echo", *options, "--overwrite", "--volume", "2"]) == 2
    assert "--volume is 2.0, but must be at least 0.0 and at most 1.0" in capsys.readouterr().err


def test_its_memory_is_estimated(echo, tiny_llama):
    shape = read_shape(read_model(tiny_llama))
    found = estimate(make_config("echo", {"model": str(tiny_llama)}), shape)
    assert found.policy > 0 and found.value == 0 and found.update > 0


def test_its_settings_and_measures_have_their_words(echo):
    assert {"steps", "volume", "learning_rate"} <= set(stages.live_settings())
    assert measure("echo/loudness").title == "echo/loudness"  # a row in the table of measures is optional
    assert read_prompts("bundled", limit=1)


# -- the page: it has no row in the table of stage views -------------------------------------------------------------

@pytest.fixture
def home(echo, tmp_path):
    """A workspace with a run of the toy stage."""
    run = Run.create(tmp_path / "home" / "runs" / "echo-1", EchoConfig())
    for step in (1, 2, 3):
        run.log({"step": step, "loss/train": 2.0 / step, "loss/held_out": 2.5 / step, "echo/loudness": 0.5, "lr": 1e-3,
                 "time/update": 0.1})
    run.set_status(state="running", step=3, total_steps=3)
    return tmp_path / "home"


def test_the_form_has_its_settings_with_their_help(home):
    with gr.Blocks():
        form = Form("echo", Workspace(home))
    assert form.fields["volume"].label == "Volume" and form.fields["volume"].info == "How loud the echo is."
    assert list(form.fields).index("volume") < list(form.fields).index("warmup"), "what is advanced comes last"
    values = {field: field.value for field in form.components}
    assert form.read(values) == {} and form.read(values | {form.fields["volume"]: 0.25}) == {"volume": 0.25}
    assert "--volume 0.25" in command_line("echo", {"volume": 0.25})


def test_its_curves_come_from_what_it_measures(home):
    metrics = Run(home / "runs" / "echo-1").metrics()
    config = {"stage": "echo", **vars(EchoConfig())}
    drawn = run_figures("echo-1", config, metrics)
    assert [figure["layout"]["title"]["text"] for figure in drawn] == ["Loss", "Learning rate", "echo/loudness", ""]
    assert [trace["y"] for trace in drawn[0]["data"]] == [[2.0, 1.0, 2 / 3], [2.5, 1.25, 2.5 / 3]]
    run = Curves("echo-1", config, metrics, [])
    keys = ["loss/train", "loss/held_out", "lr", "echo/loudness"]
    assert leading_measures([run], 8) == keys and all_measures([run]) == [*keys, "time/update"]
    assert last_values(run)["echo/loudness"] == 0.5
    assert advise(config, metrics, [], []) == []


def test_its_memory_is_drawn(home):
    html = budget(Workspace(home), "echo", {"volume": 0.25})
    assert 'class="budget fits"' in html and "policy" in html
    assert "--volume is 2.0, but must be at least 0.0 and at most 1.0" in budget(Workspace(home), "echo", {"volume": 2})


def test_every_page_shows_it(home):
    demo = build(home, worker=FakeWorker()).blocks
    parts = {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}
    assert ("Echo", "echo") in parts["stage"].choices and "echo-volume" in parts and "echo-preset" in parts
    look = next(handler for handler in demo.fns.values() if getattr(handler.fn, "__name__", "") == "look")
    values = {component: component.value for component in look.inputs}
    shown = look.fn(values | {parts["front"]: "train"})
    assert "Echo" in shown[parts["run-card"]] and shown[parts["plot-3"]]["data"][0]["y"] == [0.5] * 3
    assert shown[parts["live-volume"]]["visible"] and shown[parts["live-volume"]]["value"] == 0.5
    assert not shown[parts["live-temperature"]]["visible"]
    shown = look.fn(values | {parts["front"]: "runs"})
    assert "Echo" in shown[parts["runs-legend"]] and shown[parts["runs-plot-4"]]["value"]["data"][0]["name"] == "echo-1"
    assert "Echo" in look.fn(values | {parts["front"]: "models"})[parts["models-card"]]
