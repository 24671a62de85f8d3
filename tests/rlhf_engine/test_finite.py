"""Numbers that are not finite: refused by name when they are loaded, and the end of a run before they are written."""

import json
import math
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from rlhf_engine.config import SFTConfig
from rlhf_engine.data.readers import Demonstration
from rlhf_engine.errors import NotFinite, UserError
from rlhf_engine.feedback.scoring_functions import score_text
from rlhf_engine.loop import drive
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.checks.finite import is_finite
from rlhf_engine.model.generation import Sampling, choose, sample
from rlhf_engine.runs.folder import Run
from rlhf_engine.trainers.sft import SFT
from tests.conftest import sentences
from tests.rlhf_engine.helpers.teach import make_simulated
from tests.rlhf_engine.helpers.trainers import make_ppo, make_reward

DEMOS = [Demonstration(text[:20], text[20:]) for text in sentences(12)]
NAN, INF = math.nan, math.inf


def strict(text: str):
    """A JSON text that holds no NaN and no Infinity."""
    def refuse(literal):
        raise AssertionError(f"{literal} is no JSON")
    return json.loads(text, parse_constant=refuse)


def all_json_is_strict(folder: Path) -> None:
    for file in folder.rglob("*.json*"):
        if not file.is_symlink():
            for line in file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]:
                strict(line)


def make_sft(model, **settings) -> SFT:
    settings = {"steps": 4, "batch_size": 4, "lora_rank": 2, "max_tokens": 64, "checkpoint_every": 1, "held_out": 0.2} | settings
    return SFT(Backbone.load(str(model)), DEMOS, SFTConfig(model=str(model), **settings))


@pytest.fixture
def adapter(tiny_llama, tmp_path) -> Path:
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", rank=2)
    backbone.new_head("policy")
    backbone.save_role("policy", tmp_path / "adapter")
    return tmp_path / "adapter"


def spoil(file: Path, value: float, name: str = "") -> str:
    """Put a value into a tensor of a safetensors file; returns the tensor's name."""
    weights = load_file(file)
    name = name or min(weights)
    weights[name].view(-1)[-1] = value
    save_file(weights, file, metadata={"format": "pt"})
    return name


# -- loading ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_tensor_that_is_not_finite(dtype, value):
    tensor = torch.ones(3, 5).to(dtype)
    assert is_finite(tensor) and is_finite(tensor[:0]) and is_finite(torch.ones(2, dtype=torch.int64))
    tensor = torch.ones(3, 5)
    tensor[1, 2] = value
    tensor = tensor.to(dtype)
    assert is_finite(tensor) == bool(tensor.float().isfinite().all())  # 8 bits know no infinity


@pytest.mark.parametrize(("file", "value"), [("adapter_model.safetensors", NAN), ("adapter_model.safetensors", -INF), ("head.safetensors", NAN)])
def test_an_adapter_is_refused_by_the_name_of_its_tensor(tiny_llama, adapter, file, value):
    name = spoil(adapter / file, value).removeprefix("base_model.model.")
    backbone = Backbone.load(str(tiny_llama))
    with pytest.raises(UserError) as caught:
        backbone.load_role("policy", adapter)
    line = str(caught.value)
    assert name in line and str(adapter) in line and ("NaN" if value != value else "an infinity") in line and "\n" not in line
    assert backbone.roles == [] and backbone.heads == {}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"])
def test_a_base_is_refused_by_the_name_of_its_tensor(tiny_llama, tmp_path, dtype, name):
    """Also the embedding of a token that nobody uses, and 4-bit weights, in which a NaN is hard to see."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    spoil(folder / "model.safetensors", NAN, name)
    with pytest.raises(UserError, match="is not finite") as caught:
        Backbone.load(str(folder), dtype=dtype)
    assert name in str(caught.value)


def test_a_base_whose_states_overflow_is_refused_by_its_format(tiny_llama, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_llama, folder)
    weights = load_file(folder / "model.safetensors")
    for name in weights:
        if "down_proj" in name or "up_proj" in name:
            weights[name] *= 1e25  # all of them are finite, and their products are not
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="hidden states are NaN or infinite in torch.float32"):
        Backbone.load(str(folder))


def test_commands_refuse_a_spoiled_adapter_before_anything_is_written(cli, tiny_llama, adapter, inputs, tmp_path):
    name = spoil(adapter / "adapter_model.safetensors", NAN).removeprefix("base_model.model.")
    output, model = tmp_path / "out", ["--model", tiny_llama, "--adapter", adapter]
    score = f"{inputs / 'score.py'}:length"
    for command in (["sft", "--data", inputs / "demos.jsonl", "--output", output], ["reward", "--data", inputs / "pairs.jsonl", "--output", output],
                    ["ppo", "--data", inputs / "prompts.jsonl", "--reward", score, "--output", output],
                    ["teach", "--data", inputs / "prompts.jsonl", "--labeler", score, "--output", output],
                    ["evaluate", "--data", inputs / "prompts.jsonl", "--against", "none", "--judge", score, "--output", output],
                    ["chat", "--prompt", "a"], ["export", "--output", output], ["export", "--merge", "--output", output]):
        code, _, err = cli(*command, *model)
        assert code == 2 and name in err and err.count("\n") == 1, (command, err)
        assert not output.exists()


# -- sampling ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("row", [[1.0, NAN, 2.0], [NAN] * 3, [1.0, INF, 2.0], [-INF] * 3])
@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.01])
def test_no_token_is_chosen_from_logits_that_are_no_numbers(row, temperature):
    tokens = choose(torch.tensor([row, [0.0, 9e9, 0.0]]), Sampling(temperature=temperature))
    assert tokens.tolist() == [3, 1]


def test_a_masked_token_is_fine():
    assert choose(torch.tensor([[-INF, 1.0, -INF]]), Sampling()).item() == 1


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_sampling_says_what_is_wrong(tiny_model, temperature):
    backbone = Backbone.load(str(tiny_model))
    backbone.new_role("policy", rank=2)
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.fill_(1e30)
    with backbone.use("policy"), pytest.raises(NotFinite, match="no token can be chosen"):
        sample(backbone, [[5, 6, 7]], Sampling(4, temperature))


# -- runs that diverge ------------------------------------------------------------------------------------------------

def fails(trainer, folder: Path, *, says: str, checkpoints: int) -> Run:
    """Drive a trainer to its end, which must be a failure; returns its run."""
    run = Run.create(folder / "run", trainer.config)
    with pytest.raises(NotFinite, match=says):
        drive(trainer, run, progress=False)
    status = run.status()
    assert status["state"] == "failed" and status["advice_kind"] == "not_finite"
    assert "lower --learning-rate" in status["advice"] and "would only repeat" in status["advice"]
    assert len(run.checkpoints()) == checkpoints
    for file in run.path.rglob("*.safetensors"):
        assert all(map(is_finite, load_file(file).values()))
    all_json_is_strict(run.path)
    return run


def test_an_sft_run_that_diverges_keeps_its_last_good_checkpoint(tiny_llama, tmp_path):
    trainer = make_sft(tiny_llama, schedule="constant", warmup=0.0)

    def diverge():
        if trainer.step == 3:
            trainer.config.learning_rate = 1e38
    trainer.on_microbatch = diverge
    run = fails(trainer, tmp_path, says="weight|loss|norm", checkpoints=3)
    assert f"--adapter {run.last_checkpoint()}" in run.status()["advice"]
    Backbone.load(str(tiny_llama)).load_role("policy", run.last_checkpoint() / "policy")


def test_on_the_command_line_a_run_that_diverges_is_one_line_and_no_export(cli, tiny_llama, inputs, tmp_path):
    """A rate of 1e38 makes weights infinite, or the products of them."""
    run = tmp_path / "run"
    code, _, err = cli("sft", "--model", tiny_llama, "--data", inputs / "demos.jsonl", "--output", run, "--steps", 3, "--batch-size", 4,
                       "--warmup", 0, "--learning-rate", 1e38)
    assert code == 2 and "Traceback" not in err and "NotFinite" in err.splitlines()[-1]
    assert cli("export", "--model", tiny_llama, "--adapter", run, "--output", tmp_path / "out")[0] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("make", [make_sft, make_reward, make_ppo, make_simulated], ids=["sft", "reward", "ppo", "teach"])
def test_every_stage_stops_at_the_first_weight(make, tiny_llama, tmp_path):
    trainer = make(tiny_llama, checkpoint_every=1, learning_rate=1e-3)
    backbone, role = trainer.backbone, "reward" if make is make_reward else "policy"

    def spoil_weight():
        if trainer.step == 2:
            with torch.no_grad():
                backbone.parameters(role)[0].view(-1)[0] = NAN
    trainer.on_microbatch = spoil_weight
    if make is make_simulated:
        trainer.learner.on_microbatch = spoil_weight
    fails(trainer, tmp_path, says="nan|NaN|no token", checkpoints=1)


def test_no_checkpoint_is_written_of_a_weight_that_is_not_finite(tiny_llama, tmp_path):
    trainer = make_sft(tiny_llama)
    next(trainer)
    with torch.no_grad():
        trainer.backbone.parameters("policy")[-1].fill_(INF)
    with pytest.raises(NotFinite, match="of the policy has become an infinity"):
        trainer.save(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_a_gradient_that_is_infinite(tiny_llama):
    trainer = make_sft(tiny_llama)
    before = [parameter.clone() for parameter in trainer.backbone.parameters("policy")]
    trainer.backbone.parameters("policy")[0].register_hook(lambda grad: grad * INF)
    with pytest.raises(NotFinite, match="gradients"):
        next(trainer)
    assert all(map(torch.equal, before, trainer.backbone.parameters("policy")))


# -- scores -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("reward", "says"), [
    (lambda rollout: torch.full((len(rollout),), NAN), "gives nan for the response"), (lambda rollout: torch.ones(3), r"shape \[3\]"),
    (lambda rollout: [0.5] * len(rollout), "gives a list of 8"), (lambda rollout: None, "gives a NoneType"),
    (lambda rollout: torch.ones(len(rollout), 1, 1), "shape"), (lambda rollout: torch.ones(len(rollout)) * INF, "gives inf")])
def test_a_reward_that_gives_no_scores(tiny_llama, reward, says):
    with pytest.raises(UserError, match=says) as caught:
        next(make_ppo(tiny_llama, reward))
    assert "\n" not in str(caught.value)


class Scorer:
    """An object that is called as a function is, and has no name."""

    def __init__(self, value):
        self.value = value

    def __call__(self, prompt, response):
        return self.value


def leave(prompt, response):
    raise SystemExit(3)


@pytest.mark.parametrize(("function", "says"), [
    (Scorer(None), "Scorer .*None"), (Scorer("0.5"), "Scorer .*a text and not a number"), (Scorer(1e39), "between -1e30 and 1e30"),
    (partial(Scorer.__call__, Scorer(NAN)), "partial gives nan"), (Scorer([1.0]), "TypeError"), (Scorer(1j), "TypeError"), (leave, "leave fails with SystemExit"),
    (Scorer(torch.ones(2)), "Scorer fails")])
def test_a_scoring_function_that_gives_no_number(function, says):
    with pytest.raises(UserError, match=says) as caught:
        score_text(function, "the prompt", "the response")
    assert "'the prompt'" in str(caught.value) and "'the response'" in str(caught.value)


@pytest.mark.parametrize("value", [True, 2, torch.tensor(0.5), torch.tensor([0.5])])
def test_numbers_of_other_kinds_are_scores(value):
    assert score_text(Scorer(value), "p", "r") == float(value)


async def late(prompt, response):
    return 1.0


def of_trl(completions, **kwargs):
    return [1.0 for _ in completions]


def of_trl_with_prompts(prompts, completions, **kwargs):
    return [1.0 for _ in completions]


@pytest.mark.parametrize(("function", "says"), [
    (late, "it is async"), (of_trl, r"it takes \(completions, \*\*kwargs\), but is called with \(prompt, response\)"), (of_trl_with_prompts, "it gives a list, but it is called once for each"),
    (lambda p, r: {"score": 1}, "it gives an object"), (lambda p, r: (1.0, "why"), "it gives a tuple"), (lambda p, r: (x for x in [1.0]), "it gives a generator"), (Scorer, r"it takes \(value\)")])
def test_a_function_for_another_tool_is_told_what_is_wanted(function, says):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a coroutine that nobody waited for
        with pytest.raises(UserError, match=says):
            score_text(function, "p", "r")


def test_an_array_of_one_number_is_a_score():
    assert score_text(lambda p, r: numpy.array([0.5]), "p", "r") == score_text(max_length, "p", "r") == 0.5


def max_length(prompt, response, factor=0.5):
    return len(response) * factor


def test_sft_that_ends_worse_than_guessing_says_so(tiny_llama, tmp_path, monkeypatch):
    """Its weights are finite, so nothing stops it: somebody has to be told."""
    trainer = make_sft(tiny_llama)
    guessing = math.log(trainer.backbone.vocabulary)
    assert trainer.warning(guessing) == "" and trainer.warning(guessing + 2.1)
    trainer.first_loss = 1.5
    assert trainer.warning(2.0) == "" and "it began at 1.5" in trainer.warning(guessing), "weights so large that every token is as likely"
    monkeypatch.setattr(trainer, "evaluate", lambda: 50.0)
    run = Run.create(tmp_path / "run", trainer.config)
    assert drive(trainer, run, progress=False) == "done"
    [row] = [row for row in run.journal() if row["event"] == "warning"]
    assert row["kind"] == "worse_than_guessing" and "50 nats per token" in row["text"] and "--learning-rate" in row["text"]
    assert run.report()["warning"] == row["text"]


def test_a_reward_to_which_all_anchors_are_alike_is_shifted_and_warns(tiny_llama, tmp_path):
    trainer = make_reward(tiny_llama)
    run = Run.create(tmp_path / "run", trainer.config)

    def forget():
        if trainer.step:
            with torch.no_grad():
                trainer.backbone.heads["reward"].weight.zero_()
    trainer.on_microbatch = forget
    trainer.config.learning_rate = 1e-30
    assert drive(trainer, run, progress=False) == "done"
    warning = next(row for row in run.journal() if row["event"] == "warning")
    assert warning["kind"] == "anchors_alike" and "score the same" in warning["text"]
    last = [row for row in run.journal() if row["event"] == "normalised"][-1]
    assert last["gain"] == 1 and run.last_step() == trainer.total_steps


# -- files ------------------------------------------------------------------------------------------------------------

def test_files_hold_no_nan_and_old_ones_stay_readable(tmp_path, tiny_llama):
    trainer = make_sft(tiny_llama)
    run = Run.create(tmp_path / "run", trainer.config)
    row = {"step": 1, "value/explained_variance": NAN, "a": [1.5, INF, {"b": -INF}], "text": "NaN é"}
    run.log(row)
    run.note("reference", gain=INF)
    run.write_report(row)
    run.set_status(error=NAN)
    all_json_is_strict(run.path)
    assert run.metrics() == [{"step": 1, "value/explained_variance": None, "a": [1.5, None, {"b": None}], "text": "NaN é"}]
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "loss/train": NaN}\n')
    assert math.isnan(run.metrics()[1]["loss/train"])


@pytest.mark.parametrize("value", [NAN, INF])
def test_a_judge_that_gives_no_number(tiny_llama, value):
    from rlhf_engine.evaluation.compare import compare, text_judge
    with pytest.raises(NotFinite, match="the judge gives"):
        compare(Backbone.load(str(tiny_llama)), None, None, ["once"], text_judge(lambda prompt, text: value), sampling=Sampling(4))


def test_the_perplexity_of_a_text_that_cannot_be_is_finite(tiny_llama, monkeypatch):
    from rlhf_engine.evaluation import compare
    monkeypatch.setattr(compare, "mean_logprob", lambda *args: -5000.0)
    report, _ = compare.compare(Backbone.load(str(tiny_llama)), None, None, ["once"], None, sampling=Sampling(4))
    assert math.isfinite(report["perplexity"]) and report["perplexity_ratio"] == 1
