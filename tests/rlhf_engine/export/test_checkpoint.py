"""What is exported: others load it with nothing of ours and it says the same; nothing is overwritten, half-written or merged where it must
not be; the card is inert."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from rlhf_engine.config import RewardConfig, SFTConfig, TeachConfig
from rlhf_engine.errors import UserError
from rlhf_engine.export import merge
from rlhf_engine.export.checkpoint import export
from rlhf_engine.files import write_json
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample
from rlhf_engine.runs.folder import Run
from rlhf_engine.runs.inputs import folder_hash
from rlhf_engine.runs.resolve import BUNDLED_MODEL, resolve_reward
from tests import hub
from tests.conftest import make_tokenizer, save

IDS = torch.tensor([[5, 6, 7, 8, 9, 30, 31, 32]])
EVIL = "<img src=x onerror=alert(1)>\n---\nlicense: evil\n# | `[x](javascript:1)` **b** \"'{{"


def silent(line: str) -> None:
    pass


def adapted(model: Path, folder: Path, *, head: bool = False, seed: int = 0) -> Backbone:
    """An adapter that changes much, saved into `folder`; the backbone that has it as its role `policy`."""
    backbone = Backbone.load(str(model), dtype="fp32")
    backbone.new_role("policy", rank=4, alpha=12)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters("policy").items():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    if head:
        backbone.new_head("policy", members=2)
    backbone.save_role("policy", folder)
    return backbone


def run_of(path: Path, model: Path, config, *, step: int = 3, role: str = "policy", report: dict | None = None) -> Run:
    run = Run.create(path, config)
    with run.checkpoint(step) as folder:
        adapted(model, folder / role, head=role == "reward")
    run.set_status(state="done", step=step, total_steps=step)
    run.write_report({"stage": config.stage, "steps": step} | (report or {}))
    return run


def logits_of(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad(), backbone.use("policy"):
        return backbone.base(input_ids=IDS).logits


def plain_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def refused(*args, **options) -> str:
    with pytest.raises(UserError) as caught:
        export(*args, say=silent, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="session")
def tied_llama(tmp_path_factory) -> Path:
    torch.manual_seed(3)
    tokenizer = make_tokenizer(chat=True)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                         max_position_embeddings=128, initializer_range=0.2, tie_word_embeddings=True)
    return save(LlamaForCausalLM(config), tokenizer, tmp_path_factory.mktemp("models") / "tied")


# -- the same model ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["tiny_llama", "tied_llama", "tiny_gpt2", "tiny_qwen3"])
def test_a_merged_model_says_what_the_adapter_says(request, tmp_path, name):
    model = request.getfixturevalue(name)
    backbone = adapted(model, tmp_path / "adapter")
    said = []
    export(str(model), str(tmp_path / "adapter"), tmp_path / "out", merge=True, say=said.append)
    merged, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()) and merged.dtype == torch.float32
    bare = plain_logits(AutoModelForCausalLM.from_pretrained(model))
    torch.testing.assert_close(plain_logits(merged), logits_of(backbone), rtol=1e-4, atol=1e-4)
    assert (plain_logits(merged) - bare).abs().max() > 0.5
    assert (merged.lm_head.weight is merged.get_input_embeddings().weight) == (name != "tiny_llama")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names >= {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {Path(name).suffix for name in names} <= {".json", ".safetensors", ".md", ".jinja"}
    assert any("python convert_hf_to_gguf.py" in line and str(tmp_path / "out") in line for line in said)
    assert all((file.stat().st_mode & 0o777) == ((tmp_path / "out" / "README.md").stat().st_mode & 0o777) for file in (tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_peft_alone_loads_an_adapter(request, tmp_path, name):
    model = request.getfixturevalue(name)
    backbone = adapted(model, tmp_path / "adapter")
    export(str(model), str(tmp_path / "adapter"), tmp_path / "out", say=silent)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model) and config["auto_mapping"] is None
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(config["base_model_name_or_path"]), tmp_path / "out")
    torch.testing.assert_close(plain_logits(peft), logits_of(backbone), rtol=0, atol=1e-5)
    ours, theirs = AutoTokenizer.from_pretrained(model), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.chat_template == ours.chat_template and theirs("once upon a time").input_ids == ours("once upon a time").input_ids
    again = Backbone.load(str(model), dtype="fp32")  # the fingerprint went along
    again.load_role("policy", tmp_path / "out")
    torch.testing.assert_close(logits_of(again), logits_of(backbone))


@pytest.mark.parametrize(("own", "dtype", "written"), [
    ("bfloat16", "auto", "bfloat16"), ("float16", "auto", "float16"), ("float32", "bf16", "bfloat16"), ("bfloat16", "fp32", "float32"),
    ("float16", "bf16", "bfloat16")])
def test_weights_are_merged_in_fp32_and_rounded_once(tiny_llama, tmp_path, own, dtype, written):
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=getattr(torch, own))
    base.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "base")
    adapted(tmp_path / "base", tmp_path / "adapter")
    export(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "out", merge=True, dtype=dtype, say=silent)
    lora, before, after = (load_file(file) for file in (tmp_path / "adapter" / "adapter_model.safetensors", tmp_path / "base" / "model.safetensors",
                                                        tmp_path / "out" / "model.safetensors"))
    name = "model.layers.1.mlp.down_proj"
    down, up = (lora[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = (before[f"{name}.weight"].float() + 3 * (up @ down)).to(getattr(torch, written))
    torch.testing.assert_close(after[f"{name}.weight"], expected, rtol=0, atol=1e-6 if written == "float32" else 0)
    assert {str(w.dtype) for w in after.values()} == {f"torch.{written}"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == written


def test_plain_transformers_ends_an_answer_where_the_engine_does(tmp_path):
    """The bundled model with a generation config that names another end, as some on the Hub have."""
    shutil.copytree(BUNDLED_MODEL, tmp_path / "base")
    write_json(tmp_path / "base" / "generation_config.json", {"eos_token_id": 77, "temperature": 0.5, "do_sample": False})
    backbone = Backbone.load(str(tmp_path / "base"), dtype="fp32")
    adapter = BUNDLED_MODEL.parent / "adapters" / "sft"
    shutil.copytree(adapter, tmp_path / "sft")
    (tmp_path / "sft" / "base.json").unlink()
    backbone.load_role("policy", tmp_path / "sft")
    export(str(tmp_path / "base"), str(tmp_path / "sft"), tmp_path / "out", merge=True, dtype="fp32", say=silent)
    merged, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged.generation_config.eos_token_id == backbone.stop_ids and tokenizer.eos_token_id in backbone.stop_ids
    assert GenerationConfig.from_pretrained(tmp_path / "out").pad_token_id == backbone.pad_id
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "Tell me a story about a dog."}], add_generation_prompt=True, return_dict=False)
    theirs = merged.generate(torch.tensor([ids]), max_new_tokens=300, do_sample=False)[0, len(ids):].tolist()
    with backbone.use("policy"):
        ours, = sample(backbone, [ids], Sampling(300, 0.0), torch.Generator())
    assert theirs == ours and theirs[-1] == tokenizer.eos_token_id and len(theirs) < 300


# -- what there is to export ------------------------------------------------------------------------------------------------

def test_a_run_its_checkpoint_and_a_folder_are_one(tiny_llama, tmp_path):
    run = run_of(tmp_path / "run", tiny_llama, SFTConfig(model=str(tiny_llama)), report={"held_out_loss": 1.25})
    last = run.path / "checkpoints" / "last"
    for number, spec in enumerate((run.path, last, last / "policy", run.path / "checkpoints" / "step-000003")):
        export(str(tiny_llama), str(spec), tmp_path / str(number), say=silent)
        text = (tmp_path / str(number) / "README.md").read_text()
        assert "supervised fine-tuning, 3 steps" in text and "1.25" in text, spec


def test_the_numbers_of_a_run_are_those_of_its_last_step(tiny_llama, tmp_path):
    run = run_of(tmp_path / "run", tiny_llama, SFTConfig(model=str(tiny_llama)), report={"held_out_loss": 1.25})
    run.write_report({"stage": "sft", "steps": 9, "held_out_loss": 0.5})
    export(str(tiny_llama), str(run.path), tmp_path / "out", say=silent)
    assert "What was measured" not in (tmp_path / "out" / "README.md").read_text()


def test_a_reward_model_goes_with_its_head_and_is_never_merged(tiny_llama, tmp_path):
    run = run_of(tmp_path / "run", tiny_llama, RewardConfig(model=str(tiny_llama)), role="reward")
    said = []
    export(str(tiny_llama), str(run.path), tmp_path / "out", say=said.append)
    assert "copied as it stands" in said[0]
    kept = run.path / "checkpoints" / "last" / "reward"
    for name in ("adapter_model.safetensors", "head.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (kept / name).read_bytes()
    backbone = Backbone.load(str(tiny_llama))
    backbone.load_role("reward", resolve_reward(str(tmp_path / "out"), "--reward"), head=True)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "pipeline_tag" not in text and "--reward" in text
    for source in (run.path, tmp_path / "out"):
        assert "leave out --merge" in refused(str(tiny_llama), str(source), tmp_path / "no", merge=True)


def test_a_policys_value_head_stays_behind(tiny_llama, tmp_path):
    run = run_of(tmp_path / "run", tiny_llama, TeachConfig(model=str(tiny_llama), labeler="short"))
    shutil.rmtree(run.path / "checkpoints" / "last" / "policy")
    adapted(tiny_llama, run.path / "checkpoints" / "last" / "policy", head=True)
    export(str(tiny_llama), str(run.path), tmp_path / "out", say=silent)
    assert not (tmp_path / "out" / "head.safetensors").exists()


def test_a_run_on_four_bits_is_merged_into_the_whole_base_and_says_so(tiny_llama, tmp_path):
    run = run_of(tmp_path / "run", tiny_llama, SFTConfig(model=str(tiny_llama), dtype="nf4"))
    said = []
    export(str(tiny_llama), str(run.path), tmp_path / "out", merge=True, say=said.append)
    assert "4 bits" in said[0] and "4 bits (NF4)" in (tmp_path / "out" / "README.md").read_text()
    assert {w.dtype for w in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.float32}


# -- what is refused --------------------------------------------------------------------------------------------------------

def test_nothing_is_overwritten(tiny_llama, tmp_path):
    adapted(tiny_llama, tmp_path / "adapter")
    for name in ("file", "full", "link"):
        {"file": lambda p: p.write_text("mine"), "full": lambda p: (p.mkdir(), (p / "x").write_text("mine")),
         "link": lambda p: p.symlink_to(tmp_path / "adapter")}[name](tmp_path / name)
        assert "nothing is overwritten" in refused(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / name)
    assert (tmp_path / "file").read_text() == (tmp_path / "full" / "x").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    export(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "empty", say=silent)
    assert (tmp_path / "empty" / "README.md").exists()


def test_what_cannot_be_exported_leaves_nothing(tiny_llama, tiny_qwen3, tmp_path, monkeypatch):
    model, adapter, out = str(tiny_llama), tmp_path / "adapter", tmp_path / "made" / "out"
    (tmp_path / "made").mkdir()
    adapted(tiny_llama, adapter)
    assert "nothing to export" in refused(model, "none", out)
    assert "no such adapter" in refused(model, str(tmp_path / "nowhere"), out)
    assert "another base" in refused(str(tiny_qwen3), str(adapter), out, merge=True)
    value = run_of(tmp_path / "run", tiny_llama, SFTConfig(model=model), role="value").path / "checkpoints" / "last"
    (value / "trainer.json").write_text("{}")
    assert "value function" in refused(model, str(value / "value"), out)
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, adapter / "adapter_model.safetensors")
    assert "not finite" in refused(model, str(adapter), out, merge=True)
    weights.pop(next(iter(weights)))
    save_file(weights, adapter / "adapter_model.safetensors")
    assert "does not fit" in refused(model, str(adapter), out, merge=True)
    (adapter / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    assert "plain LoRA" in refused(model, str(adapter), out)
    (adapter / "adapter_model.safetensors").unlink()
    assert "pickled" in refused(model, str(adapter), out)
    assert not list(out.parent.iterdir())


def test_nothing_is_merged_into_a_quantised_base(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "base")
    adapted(tmp_path / "base", tmp_path / "adapter")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    write_json(tmp_path / "base" / "config.json", config | {"quantization_config": {"quant_method": "gptq"}})
    assert "quantised base" in refused(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "out", merge=True)
    export(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "out", say=silent)
    write_json(tmp_path / "base" / "config.json", config)
    save_file({"w": torch.zeros(64, dtype=torch.int8)}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "adapter" / "base.json").unlink()
    assert "weights in I8" in refused(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "no", merge=True)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"\xff" * 40)
    assert "cannot be read" in refused(str(tmp_path / "base"), str(tmp_path / "adapter"), tmp_path / "no", merge=True)
    assert not (tmp_path / "no").exists()


def test_an_adapter_on_tied_embeddings_is_not_merged(tied_llama, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(tied_llama)
    get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    assert "share their weights" in refused(str(tied_llama), str(tmp_path / "adapter"), tmp_path / "out", merge=True)


@pytest.mark.parametrize(("what", "module", "name", "field"), [("disk", merge.shutil, "disk_usage", "free"),
                                                             ("memory", merge.psutil, "virtual_memory", "available")])
def test_room_is_looked_for_before_anything_is_loaded(tiny_llama, tmp_path, monkeypatch, what, module, name, field):
    adapted(tiny_llama, tmp_path / "adapter")
    monkeypatch.setattr(merge, "load_base", lambda *_: pytest.fail("loaded"))
    monkeypatch.setattr(module, name, lambda *_: namedtuple("Told", field)(1000))
    assert f"of {what}, and 0.0 GB are free" in refused(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "out", merge=True)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_in_the_middle_leaves_nothing(tiny_llama, tmp_path, monkeypatch, error):
    adapted(tiny_llama, tmp_path / "adapter")
    def full(*_):
        raise error
    monkeypatch.setattr(merge, "save_tokenizer", full)
    with pytest.raises((UserError, KeyboardInterrupt)) as caught:
        export(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "out", merge=True, say=silent)
    assert isinstance(error, KeyboardInterrupt) or "No space left on device" in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_what_a_killed_export_left_is_removed_by_the_next(tiny_llama, tmp_path):
    adapted(tiny_llama, tmp_path / "adapter")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".export-big-{pid}").mkdir()
    export(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "out", say=silent)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".export-big-{os.getpid()}", "adapter", "out"]


# -- the card ---------------------------------------------------------------------------------------------------------------

def front(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_a_card_tells_facts_and_keeps_what_users_wrote_inert(tiny_llama, tmp_path):
    shutil.copytree(tiny_llama, tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\nlicense: mit\nlicense_link: 5\n---\n# Base\nlicense: no\n")
    model = str(tmp_path / "base")
    config = TeachConfig(model=model, labeler=f"keyword={EVIL}", data=f"/home/someone/{EVIL}/secret.jsonl", instruction=EVIL)
    report = {"win_rate": 0.752, "win_rate_low": 0.7, "win_rate_high": 0.8, "kl": 4.02, "perplexity_ratio": 1.13, "distinct_ratio": 0.97,
              "votes": 30, "empty": EVIL}
    run = run_of(tmp_path / "run", tmp_path / "base", config, report=report)
    export(model, str(run.path), tmp_path / "out", say=silent)
    text = (tmp_path / "out" / "README.md").read_text()
    assert front(text) == {"library_name": "peft", "pipeline_tag": "text-generation", "tags": ["rlhf-playground", "rlhf", "teach", "lora"],
                           "license": "mit"}
    body = text.split("---\n", 2)[2]
    assert "75.2% (70.0% to 80.0%)" in body and "| 4.02 |" in body and "| votes | 30 |" in body and "PPO, with votes" in body
    assert "RLHF Playground" in body and "/home/someone" not in body and "secret.jsonl" in body
    for mark in ("<img", "javascript:", "**b**", "`[x", "\n# |", "license: evil"):
        assert mark not in text, mark


def test_a_card_of_a_hub_base_names_it_and_one_of_a_folder_does_not(tmp_path, monkeypatch):
    from rlhf_engine.export.model_card import Card, card
    (tmp_path / "README.md").write_text("---\nlicense: llama3.2\n---\n")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_: str(tmp_path / "README.md"))
    text = card(Card("meta/llama", tmp_path, True, merged=True, repo="me/mine"))
    assert front(text) == {"library_name": "transformers", "base_model": "meta/llama", "base_model_relation": "finetune",
                           "pipeline_tag": "text-generation", "tags": ["rlhf-playground", "rlhf"], "license": "llama3.2"}
    assert 'from_pretrained("me/mine")' in text and "convert_hf_to_gguf.py" in text
    (tmp_path / "README.md").write_text("---\nlicense: [\n---\n")
    assert "license" not in front(card(Card("meta/llama", tmp_path, True)))
    assert "base_model" not in front(card(Card(str(tmp_path), tmp_path, False)))


# -- the report that goes along -------------------------------------------------------------------------------------------

def test_a_report_of_these_weights_goes_along_and_the_card_says_its_flags(tiny_llama, tmp_path):
    adapted(tiny_llama, tmp_path / "adapter")
    verdict = {"name": "length_only", "text": "What [long](x) rewards is length."}
    for name, verdicts in (("report", [verdict]), ("clean", [])):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "report.json", {"verdicts": verdicts, "weights": folder_hash(tmp_path / "adapter")})
        (tmp_path / name / "report.html").write_text("<p>report")
        (tmp_path / name / "card.png").write_bytes(b"png")
    export(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "out", report=tmp_path / "report", say=silent)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "(report.html)" in card and "length&#95;only" in card.replace("length_only", "length&#95;only") and "[long](x)" not in card
    assert (tmp_path / "out" / "report.html").read_text() == "<p>report" and (tmp_path / "out" / "card.png").exists()
    export(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "merged", merge=True, report=tmp_path / "clean", say=silent)
    assert "No flag was raised." in (tmp_path / "merged" / "README.md").read_text()


def test_a_report_about_other_weights_or_none_is_refused(tiny_llama, tmp_path):
    adapted(tiny_llama, tmp_path / "adapter")
    for values in (None, {}, {"verdicts": []}, {"verdicts": [], "weights": "other"}):
        folder = tmp_path / "report"
        folder.mkdir(exist_ok=True)
        (folder / "report.html").write_text("<p>report")
        if values is not None:
            write_json(folder / "report.json", values)
        assert "--report" in refused(str(tiny_llama), str(tmp_path / "adapter"), tmp_path / "out", report=folder)
        assert not (tmp_path / "out").exists()


# -- the command and the Hub ---------------------------------------------------------------------------------------------------

def test_the_command(cli, tiny_llama, tmp_path):
    adapted(tiny_llama, tmp_path / "adapter")
    given = ["export", "--model", tiny_llama, "--adapter", tmp_path / "adapter", "--output", tmp_path / "out"]
    for wrong in (["--public"], ["--dtype", "bf16"], ["--dtype", "nf4"], ["--merge", "--push", "just-a-name"], ["--push", "me/mine"]):
        code, out, err = cli(*given, *wrong)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and not (tmp_path / "out").exists(), (wrong, err)
    code, out, err = cli(*given, "--merge")
    assert (code, err) == (0, "") and "a whole model" in out
    code, out, err = cli(*given, "--merge")
    assert code == 2 and "nothing is overwritten" in err and err.count("\n") == 1


@pytest.fixture
def pushing(cli, tiny_llama, tmp_path, monkeypatch):
    """push(*flags, token=...) -> (exit code, stdout, stderr) of an export that knows our Hub alone; and the server."""
    adapted(tiny_llama, tmp_path / "adapter")
    server = hub.serve({"models/me/full": {"README.md": b"mine"}, "models/me/open": {".gitattributes": b""}, "models/me/shut": {}})
    server.private, server.users = {"models/me/full", "models/me/shut"}, {"hf_me": "me"}
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.settings(server, tmp_path)["HF_ENDPOINT"])
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "nobody"))
    monkeypatch.setenv("no_proxy", "*")

    def push(*flags, token="hf_me", output="out"):
        monkeypatch.setenv("HF_TOKEN", token)
        return cli("export", "--model", tiny_llama, "--adapter", tmp_path / "adapter", "--output", tmp_path / output, *flags)
    yield push, server
    hub.stop(server)


def test_a_push_is_private_new_and_whole(pushing, tmp_path):
    push, server = pushing
    code, out, err = push("--merge", "--push", "me/mine")
    assert code == 0, err
    assert {name: (tmp_path / "out" / name).read_bytes() for name in os.listdir(tmp_path / "out")} == {
        name: text for name, text in server.repos["models/me/mine"].items() if name != ".gitattributes"}
    assert "models/me/mine" in server.private and "pushing to me/mine (private)" in out and "/me/mine" in out.splitlines()[-1]
    code, out, err = push("--merge", "--push", "me/seen", "--public", output="two")
    assert code == 0 and "models/me/seen" not in server.private
    code, out, err = push("--merge", "--push", "me/shut", output="three")
    assert code == 0, err
    assert "model.safetensors" in server.repos["models/me/shut"]


def test_a_push_that_cannot_be_is_told_before_the_work(pushing, tmp_path):
    push, server = pushing
    for flags, token, expected in ((["me/full"], "hf_me", "holds files already, and nothing is overwritten"), (["me/open"], "hf_me", "add --public"),
                                   (["me/shut", "--public"], "hf_me", "leave out --public"), (["you/mine"], "hf_me", "you are logged in as me"),
                                   (["me/mine"], "hf_wrong", "the Hub does not accept the token"), (["me/mine"], "", "nobody is logged in"),
                                   (["me/-x..y"], "hf_me", "is no name on the Hub")):
        code, out, err = push("--merge", "--push", *flags, token=token)
        assert code == 2 and expected in err and err.startswith("error: ") and err.count("\n") == 1, err
    assert not (tmp_path / "out").exists() and set(server.repos) == {"models/me/full", "models/me/open", "models/me/shut"}
    assert "add --merge" in push("--push", "me/mine")[2]  # an adapter of a base that nobody else has


def test_a_push_that_fails_leaves_the_export_and_says_how_to_go_on(pushing, tmp_path):
    push, server = pushing
    server.refuses = 403
    code, out, err = push("--merge", "--push", "me/mine")
    assert code == 2 and "has no right to write there" in err and f"hf upload me/mine {tmp_path / 'out'} . --private" in err and err.count("\n") == 1
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert "has no right" in push("--merge", "--push", "club/mine", output="two")[2]  # one of its groups, but not to write
    hub.stop(server)
    code, out, err = push("--merge", "--push", "me/other", output="three")
    assert code == 2 and "cannot be pushed to (" in err and "check the network" in err and not (tmp_path / "three").exists()


def test_a_card_of_a_local_base_names_no_folder_of_this_machine(tmp_path):
    from rlhf_engine.export.model_card import Card, card
    text = card(Card(str(tmp_path / "mine"), tmp_path / "mine", False))
    assert str(tmp_path) not in text and 'from_pretrained("BASE-FOLDER")' in text and "BASE-FOLDER is the folder of the base model mine" in text
    assert 'from_pretrained("meta/llama")' in card(Card("meta/llama", tmp_path, True))
