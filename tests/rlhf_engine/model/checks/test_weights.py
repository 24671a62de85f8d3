"""Bases whose files do not hold what their config.json asks for: refused by name, in every format, and never otherwise."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    LlamaForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
)

from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.checks.weights import may_be_left
from rlhf_engine.runs.model_files import Stored, read_header
from tests.conftest import make_tokenizer, save
from tests.rlhf_engine.helpers.bases import GONE, edit_json, in_shards, refusal, spoilt, write_weights

UP = "model.layers.0.mlp.up_proj.weight"
IDS = torch.arange(5, 13)[None]


def without(*parts):
    return lambda weights: {name: tensor for name, tensor in weights.items() if not any(part in name for part in parts)}


def renamed(function):
    return lambda weights: {function(name): tensor for name, tensor in weights.items()}


def changed(name, function):
    return lambda weights: weights | {name: function(weights[name])}


def added(**more):
    return lambda weights: weights | {name.replace("__", "."): tensor for name, tensor in more.items()}


def states(folder, dtype="fp32"):
    backbone = Backbone.load(str(folder), dtype=dtype)
    with torch.no_grad():
        return backbone.head(backbone.hidden(IDS))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize(("change", "config", "says"), [
    (without("lm_head"), {}, "missing: lm_head.weight.*tie_word_embeddings"),
    (without("layers.1."), {}, "missing: model.layers.1.input_layernorm.weight.*and 6 more"),
    (without(UP), {}, f"missing: {UP}"), (without("model.norm"), {}, "missing: model.norm.weight"),
    (without("embed_tokens"), {}, "missing: model.embed_tokens.weight"),
    (renamed(lambda name: name.replace("model.", "transformer.", 1)), {}, "no place for: transformer.embed_tokens.weight"),
    (renamed(lambda name: f"module.{name}"), {}, "`module.`.*DistributedDataParallel"),
    (renamed(lambda name: f"_orig_mod.{name}"), {}, "`_orig_mod.`.*torch.compile"),
    (renamed(lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module.")), {}, "`_fsdp_wrapped_module.`.*FSDP"),
    (renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer.")), {}, "names of PEFT.*merge_and_unload"),
    (renamed(lambda name: f"base_model.model.{name}"), {}, "names of PEFT"),
    (added(model__layers__0__self_attn__q_proj__lora_A__weight=torch.zeros(4, 32)), {}, "no place for.*lora_A"),
    (added(score__weight=torch.zeros(1, 32)), {}, "no place for: score.weight. This is a classifier"),
    (added(v_head__summary__weight=torch.zeros(1, 32)), {}, "v_head.summary.weight.*reward model"),
    (changed("lm_head.weight", lambda tensor: torch.zeros(0)), {}, "lm_head.weight is .0. in the files.*ZeRO-3.*zero_to_fp32"),
    (changed(UP, lambda tensor: tensor.T), {}, rf"{UP} is \[32, 64\] in the files and \[64, 32\] by config.json"),
    (None, {"vocab_size": 500}, r"\[400, 32\] in the files and \[500, 32\].*vocab_size"),
    (None, {"vocab_size": 300}, r"\[400, 32\] in the files and \[300, 32\].*vocab_size"),
    (None, {"num_key_value_heads": 4}, r"k_proj.weight is \[16, 32\] in the files and \[32, 32\].*and 3 more"),
    (None, {"num_hidden_layers": 3}, "missing: model.layers.2..*asks for 3 layers, and the files hold 2"),
    (None, {"num_hidden_layers": 10**9}, "asks for 1000000000 layers .num_hidden_layers., but its files hold 21 tensors"),
    (None, {"vocab_size": 10**9}, "asks for 64,000,018,592 numbers, and its files hold 44,192"),
    (None, {"num_hidden_layers": 1}, "config.json asks for 1 layers, and the files hold 2"),
    (changed(UP, lambda tensor: (tensor * 100).to(torch.int8)), {}, f"{UP} holds whole numbers"),
    (added(model__layers__0__mlp__up_proj__weight_scale=torch.ones(1)), {}, "no place for.*weight_scale")])
def test_weights_that_differ_from_the_config_are_named(tiny_llama, tmp_path, dtype, change, config, says):
    line = refusal(spoilt(tiny_llama, tmp_path / "base", change, **config), dtype)
    assert re.search(says, line), line


def test_a_classifier_on_a_tied_base_is_no_language_model(tiny_qwen3, tiny_llama, tmp_path):
    """With a tied output layer nothing is missing: only the classifier's head is left over."""
    assert "score.weight" in refusal(spoilt(tiny_qwen3, tmp_path / "tied", added(score__weight=torch.zeros(1, 32))))
    LlamaForSequenceClassification(AutoConfig.from_pretrained(tiny_llama)).save_pretrained(tmp_path / "classifier")
    make_tokenizer(chat=True).save_pretrained(tmp_path / "classifier")
    assert "missing: lm_head.weight; no place for: score.weight" in refusal(tmp_path / "classifier")


def test_experts_that_cannot_be_put_together_are_named(tmp_path):
    config = MixtralConfig(vocab_size=400, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
                           num_key_value_heads=2, num_local_experts=3)
    whole = save(MixtralForCausalLM(config), make_tokenizer(chat=True), tmp_path / "whole")
    Backbone.load(str(whole), dtype="fp32")
    name = "model.layers.1.block_sparse_moe.experts.2.w1.weight"
    for change in (without(name), changed(name, lambda tensor: tensor[:7])):
        line = refusal(spoilt(whole, tmp_path / "base", change))
        assert "model.layers.1.mlp.experts.gate_up_proj cannot be put together" in line


@pytest.mark.parametrize("change", [
    renamed(lambda name: f"model.{name}"), lambda weights: {name: tensor.double() for name, tensor in weights.items()},
    added(**{f"model__layers__{i}__self_attn__rotary_emb__inv_freq": torch.rand(4) for i in (0, 1)}),
    added(model__layers__0__self_attn__bias=torch.ones(1, 1, 8, 8), model__layers__0__self_attn__masked_bias=torch.tensor(-1e4))])
def test_what_transformers_understands_or_computes_itself_changes_nothing(tiny_llama, tmp_path, change):
    assert torch.equal(states(spoilt(tiny_llama, tmp_path / "base", change)), states(tiny_llama))


def test_bare_weights_of_a_tied_base_and_an_output_layer_of_its_own(tiny_qwen3, tmp_path):
    bare = spoilt(tiny_qwen3, tmp_path / "bare", renamed(lambda name: name.removeprefix("model.")))
    assert torch.equal(states(bare), states(tiny_qwen3))
    head = torch.randn(400, 32)
    own = spoilt(tiny_qwen3, tmp_path / "own", added(lm_head__weight=head))  # config.json says tied, the file says not
    assert torch.equal(Backbone.load(str(own), dtype="fp32").base.lm_head.weight, head)


def test_old_files_of_gpt2_have_no_prefix_no_output_layer_and_their_masks(tiny_gpt2, tmp_path):
    mask = torch.ones(1, 1, 128, 128).tril()
    old = spoilt(tiny_gpt2, tmp_path / "gpt2", lambda weights: {name.removeprefix("transformer."): t for name, t in weights.items()}
                 | {f"h.{i}.attn.bias": mask.clone() for i in (0, 1)} | {f"h.{i}.attn.masked_bias": torch.tensor(-1e4) for i in (0, 1)})
    assert torch.equal(states(old), states(tiny_gpt2))


@pytest.mark.parametrize(("name", "shape", "config", "left"), [
    ("vision_tower.encoder.layers.0.fc.weight", (8, 8), {"vision_config": {}}, True),
    ("vision_tower.encoder.layers.0.fc.weight", (8, 8), {}, False), ("multi_modal_projector.w", (8,), {"vision_config": {}}, True),
    ("model.layers.3.mlp.weight", (8, 8), {"vision_config": {}}, False), ("mtp.layers.0.fc.weight", (8, 8), {}, True),
    ("model.layers.2.eh_proj.weight", (8, 8), {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, True),
    ("model.layers.3.eh_proj.weight", (8, 8), {"num_hidden_layers": 2, "num_nextn_predict_layers": 1}, False),
    ("h.0.attn.bias", (1, 1, 9, 9), {}, True), ("h.0.attn.bias", (96,), {}, False), ("embeddings.position_ids", (1, 9), {}, True),
    ("score.weight", (1, 8), {"vision_config": {}}, False)])
def test_what_may_be_left_aside(name, shape, config, left):
    assert may_be_left(name, Stored("F32", shape), config) is left


# -- files -----------------------------------------------------------------------------------------------------------

def test_weights_in_shards(tiny_llama, tmp_path):
    folder = in_shards(spoilt(tiny_llama, tmp_path / "base"))
    assert torch.equal(states(folder), states(tiny_llama))
    index, second = folder / "model.safetensors.index.json", folder / "model-00002-of-00002.safetensors"
    table = json.loads(index.read_text())["weight_map"]
    for broken, says in (("{", "index.json is broken"), ("[]", "holds a list in place of an object"), ("{}", "names no weight files"),
                         (json.dumps({"weight_map": dict.fromkeys(table, "../x.safetensors")}), "outside of its folder"),
                         (json.dumps({"weight_map": table}), 'add "metadata": {}'),
                         (json.dumps({"metadata": {}, "weight_map": {n: file for n, file in table.items() if "1-of" in file}}), "missing: ")):
        index.write_text(broken)
        assert says in refusal(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    weights = load_file(second)
    lost = min(weights)
    write_weights(second, {name: tensor for name, tensor in weights.items() if name != lost})
    assert f"missing: {lost}" in refusal(folder)
    second.unlink()
    assert "1 of its 2 weight files missing, first model-00002-of-00002" in refusal(folder)
    index.unlink()
    assert "holds neither model.safetensors nor" in refusal(folder)


def test_files_that_are_no_weights(tiny_llama, tmp_path):
    folder = spoilt(tiny_llama, tmp_path / "base")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for content, says in ((whole[:-100], "cut short or broken"), (whole[:60], "cut short or broken"), (b"", "is empty"),
                          (whole + b"x", "cut short"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
                          (b"PK\x03\x04" + b"x" * 90, "pickled"), (b"<!DOCTYPE html><html>" + b" " * 90, "web page"),
                          (b"\x02\0\0\0\0\0\0\0{}", "hold no weights"), (b"\x02\0\0\0\0\0\0\0[]", "broken")):
        file.write_bytes(content)
        assert says in refusal(folder)
    file.write_bytes(whole)
    file.rename(tmp_path / "weights")
    file.symlink_to(tmp_path / "nowhere")
    assert "model.safetensors is a link to a file that is gone" in refusal(folder)
    file.unlink()
    (tmp_path / "weights").rename(file)
    (folder / "adapter_config.json").write_text("{}")
    assert "holds a model and an adapter" in refusal(folder)
    (folder / "adapter_config.json").unlink()
    file.rename(folder / "shard-00000-model-00001-of-00001.safetensors")
    assert "distributed training checkpoint" in refusal(folder)


@pytest.mark.parametrize("entry", [
    {"dtype": ["F32"]}, {"dtype": None}, {"shape": "8"}, {"shape": [None]}, {"data_offsets": ["0", "8"]}, {"data_offsets": [0]}, {"data_offsets": {"a": 1}}, {"shape": [10**400]}])
def test_a_header_of_other_types_is_broken(tmp_path, entry):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(UserError, match="cut short or broken"):
        read_header(tmp_path / "model.safetensors", "mine")


# -- quantised folders -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", [
    {"quant_method": "gptq", "bits": 4}, {"quant_method": "awq", "bits": 4}, {"quant_method": "fp8"}, {"quant_method": "mxfp4"},
    {"quant_method": "compressed-tensors"}, {"quant_method": "bitsandbytes", "load_in_8bit": True}, {"quant_method": "new"}, {"bits": 4}, "awq", []])
@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_models_quantised_elsewhere_are_refused_by_their_method(tiny_llama, tmp_path, method, key):
    line = refusal(spoilt(tiny_llama, tmp_path / "base", None, **{key: method}))
    assert "quantised" in line and (method["quant_method"] in line if "quant_method" in method else True)


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_four_bits_of_bitsandbytes_run_as_they_are(tiny_llama, tmp_path, kind):
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=kind)
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16, quantization_config=settings)
    folder = save(model, make_tokenizer(chat=True), tmp_path / "base")
    backbone = Backbone.load(str(folder))
    model.train()  # in evaluation mode, bitsandbytes packs the weights of a model on a CPU anew
    with torch.no_grad():
        theirs, ours = model(input_ids=IDS).logits.float(), backbone.head(backbone.hidden(IDS))
    assert backbone.dtype == "nf4" and (ours - theirs).norm() < 0.05 * theirs.norm()
    assert "in 4 bits already, so --dtype fp32 cannot be had; give --dtype nf4" in refusal(folder, "fp32")
    edit_json(folder / "config.json", intermediate_size=48)
    assert "in the files and" in refusal(folder, "nf4")


def test_a_base_that_is_refused_leaves_nothing_behind(cli, inputs, tiny_llama, tmp_path):
    folder = spoilt(tiny_llama, tmp_path / "base", without("lm_head"))
    for command in (["sft", "--data", inputs / "demos.jsonl", "--output", tmp_path / "run"],
                    ["chat", "--prompt", "x"], ["evaluate", "--against", "none", "--judge", f"{inputs / 'score.py'}:length",
                                               "--data", inputs / "prompts.jsonl", "--output", tmp_path / "report"]):
        code, out, err = cli(*command, "--model", folder)
        assert code == 2 and out == "" and err.startswith(f"error: {folder}: its weights do not fit") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_config_that_is_not_of_the_files(tiny_llama, tmp_path):
    for values, says in (({"model_type": GONE}, "names no model_type"), ({"model_type": ["llama"]}, "names no model_type"),
                         ({"model_type": "flubber"}, "is of the type 'flubber', which transformers"),
                         ({"model_type": "flubber", "auto_map": {"AutoConfig": "x.C"}}, "needs code of its own"),
                         ({"model_type": "vit"}, "not a causal language model"), ({"is_encoder_decoder": True}, "an encoder and a decoder"),
                         ({"architectures": ["BertForMaskedLM"]}, "is an encoder .BertForMaskedLM., not a causal language model"),
                         ({"hidden_size": None}, "config.json does not work .*hidden_size"), ({"vocab_size": "400"}, "vocab_size"),
                         ({"rms_norm_eps": None}, "rms_norm_eps"), ({"num_attention_heads": 0}, "config.json does not work"),
                         ({"num_key_value_heads": -2}, "cannot be loaded|does not work"), ({"dtype": "x"}, "does not work|cannot be loaded"),
                         ({"tie_word_embeddings": None}, "tie_word_embeddings"), ({"hidden_act": "flub"}, "does not know 'flub'"), ({"is_causal": False}, "does not write from left to right")):
        line = refusal(spoilt(tiny_llama, tmp_path / "base", None, **values))
        assert re.search(says, line), line
    for text, says in (("[]", "holds a list"), ("{", "is broken"), ('"llama"', "holds a text")):
        (tmp_path / "base" / "config.json").write_text(text)
        assert says in refusal(tmp_path / "base")


def test_nulls_that_mean_nothing_special_and_code_of_others_change_nothing(tiny_llama, tmp_path):
    folder = spoilt(tiny_llama, tmp_path / "base", None, architectures=None, pad_token_id=None, rope_scaling=None, head_dim=None,
                    quantization_config=None, attn_implementation="kernels-community/flash-attn2", experts_implementation="someone/code",
                    auto_map={"AutoModelForCausalLM": "evil.Model"})
    assert torch.equal(states(folder), states(tiny_llama))
