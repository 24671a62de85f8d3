"""What a new stage costs: a config, an iterator and a row in the table. Everything else finds it by itself.

The stage of this test learns nothing of use: it makes prompts likelier. No file of the project knows of it.
"""

import json
import typing
from dataclasses import dataclass

import pytest
import torch

from rlhf_engine import stages
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
    monkeypatch.setattr(stages, "STAGES", dict(stages.STAGES))
    for module in ("rlhf_engine.cli", "rlhf_engine.export.model_card"):
        monkeypatch.setattr(f"{module}.STAGES", stages.STAGES)
    return stages.register(Stage("echo", EchoConfig, "make prompts likelier", "tests.test_toy_stage.build_echo",
                                 lambda config: PROMPTS, title="Echo"))


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
    assert "--volume is 2.0, but must be at most 1.0" in capsys.readouterr().err


def test_its_memory_is_estimated(echo, tiny_llama):
    shape = read_shape(read_model(tiny_llama))
    found = estimate(make_config("echo", {"model": str(tiny_llama)}), shape)
    assert found.policy > 0 and found.value == 0 and found.update > 0


def test_its_settings_and_measures_have_their_words(echo):
    assert {"steps", "volume", "learning_rate"} <= set(stages.live_settings())
    assert measure("echo/loudness").title == "echo/loudness"  # a row in the table of measures is optional
    assert read_prompts("bundled", limit=1)
