"""The memory estimate beside real models: parameters as transformers counts them, activations as autograd keeps them, rows as they are."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from rlhf_engine.config import PPOConfig, RewardConfig, SFTConfig, TeachConfig
from rlhf_engine.data.readers import read_demonstrations, read_preferences, read_prompts
from rlhf_engine.data.tokenization import encode_example, encode_prompt
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoding.weights import packed_base
from rlhf_engine.model.fast_layers import SMALL
from rlhf_engine.model.logprobs import chunk_size, slice_size
from rlhf_engine.runs import memory_estimate as memory
from rlhf_engine.runs.memory_estimate import estimate, read_model, read_shape, saved_activations
from rlhf_engine.runs.resolve import BUNDLED_MODEL
from rlhf_engine.stages import STAGES, make_config

QWEN3 = dict(hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16, num_key_value_heads=8, head_dim=128,
             vocab_size=151936, tie_word_embeddings=True)
REAL = [
    LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                vocab_size=128256, tie_word_embeddings=True),
    LlamaConfig(),  # 7B: no groups, and an output layer of its own
    LlamaConfig(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3, vocab_size=49152,
                tie_word_embeddings=True, attention_bias=True),
    Qwen3Config(**QWEN3),
    Qwen2Config(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, vocab_size=151936,
                tie_word_embeddings=True),
    GPT2Config(), GPT2Config(n_embd=1280, n_layer=36, n_head=20), MistralConfig(), GemmaConfig(), Phi3Config(), Olmo2Config(), SmolLM3Config(),
    GPTNeoXConfig(hidden_size=512, intermediate_size=2048, num_hidden_layers=6, num_attention_heads=8, vocab_size=50304),
]


@pytest.mark.parametrize("config", REAL, ids=lambda c: f"{c.model_type}-{c.hidden_size}")
def test_parameters_are_those_of_transformers(config, tmp_path):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    config.save_pretrained(tmp_path)
    shape = read_shape(read_model(tmp_path))
    assert shape.parameters == pytest.approx(model.num_parameters(), rel=0.01)
    assert shape.weights("fp32") == pytest.approx(4 * model.num_parameters(), rel=0.01)
    linears = {name: m for name, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D") and m is not model.get_output_embeddings()}
    assert shape.blocks == sum(m.weight.numel() for m in linears.values())
    assert shape.adapter(8) == sum(8 * sum(m.weight.shape) for m in linears.values())


def test_the_bundled_model_and_the_rows_that_ship_with_it():
    shape = read_shape(read_model(BUNDLED_MODEL))
    with torch.device("meta"):
        assert shape.parameters == AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(BUNDLED_MODEL)).num_parameters()
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    rows = [encode_example(tokenizer, d.prompt, d.completion, [2]).ids for d in read_demonstrations("bundled")]
    asked = [encode_prompt(tokenizer, p).ids for p in read_prompts("bundled")]
    pairs = [encode_example(tokenizer, p.prompt, text, [2]).ids for p in read_preferences("bundled") for text in (p.chosen, p.rejected)]
    anchors = max(len(encode_prompt(tokenizer, p.prompt).ids) for p in read_preferences("bundled")) + RewardConfig().max_new_tokens
    prompt = max(map(len, asked))
    assert {"sft": max(map(len, rows)), "reward": max(anchors, *map(len, pairs)), "ppo": prompt, "teach": prompt} == {name: stage.memory.bundled_tokens for name, stage in STAGES.items()}


def test_what_it_takes_from_modules_that_import_torch_is_still_so():
    from rlhf_engine.model import fast_layers as layers
    from rlhf_engine.teach import word_features as soft_words
    assert (memory.SHORT, memory.SMALL, memory.LANDMARKS) == (layers.SHORT, SMALL, soft_words.LANDMARKS)
    assert memory.PACKED == layers.PACKED
    assert all(3 * 4 * slice_size(torch.device(kind)) == size for kind, size in memory.WORKSPACE.items())
    assert chunk_size(torch.device("cpu"), 4000) == max(64, (1 << 22) // 4000)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_copy_that_decodes_is_the_one_that_is_made(tiny_llama, monkeypatch, dtype):
    shape, backbone = read_shape(read_model(tiny_llama)), Backbone.load(str(tiny_llama), dtype=dtype, device="cpu")
    monkeypatch.setattr(memory, "SMALL", shape.parameters - 1)
    assert memory.decoder_weights(shape, dtype) == packed_base(backbone.base).bytes
    monkeypatch.setattr(memory, "SMALL", shape.parameters // 6)
    assert memory.decoder_weights(shape, dtype) == 0


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_activations_are_what_autograd_keeps(tiny_model, dtype):
    """In saved tensors of a forward pass over 4 rows of 100 tokens, weights left out."""
    backbone, rank, size = Backbone.load(str(tiny_model), dtype=dtype, device="cpu"), 8, 400
    shape = read_shape(read_model(tiny_model))
    backbone.new_role("policy", rank=rank)
    backbone.train("policy")
    known, held = {p.untyped_storage().data_ptr() for p in backbone.base.parameters()}, {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            held[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor
    with backbone.use("policy"), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone.hidden(torch.randint(5, 300, (4, 100)))
    found = sum(count for count, _ in held.values())
    e = 4 if dtype == "fp32" else 2
    copies = 2 * shape.adapter(rank) if dtype == "bf16" else 0
    told = size * (shape.layers * saved_activations(shape, e, 100, "cpu", rank) + 2 * shape.width * e) + copies
    assert told == pytest.approx(found, rel=0.08)


# -- what it says ------------------------------------------------------------------------------------------------------

def shape_of(**changes):
    return read_shape(QWEN3 | {"model_type": "qwen3", "max_position_embeddings": 40960} | changes)


def test_four_bits_leave_the_embeddings_as_they_are():
    shape = shape_of()
    assert shape.weights("nf4") == pytest.approx(2 * shape.embeddings + 0.516 * shape.blocks, rel=0.001)
    assert shape.weights("nf4") < shape.weights("bf16") == shape.weights("fp32") / 2


def test_roles_of_each_stage():
    shape, adapter = shape_of(), 4 * shape_of().adapter(8)
    sft = estimate(SFTConfig(model="a/b", device="cpu"), shape)
    assert sft.policy == 4 * adapter and not sft.reference and not sft.reward and not sft.value and not sft.rollout
    ppo = estimate(PPOConfig(model="a/b", adapter="runs/sft", reward="r"), shape)
    assert ppo.reference == adapter and ppo.value > 4 * adapter and adapter < ppo.reward < 1.01 * adapter and ppo.rollout
    assert not estimate(PPOConfig(model="a/b", reward="r"), shape).reference  # the bare base is the reference
    assert estimate(TeachConfig(model="a/b"), shape).value < 1 << 20  # a head
    reward = estimate(RewardConfig(model="bundled"), shape)
    assert reward.policy == adapter and reward.reward > 4 * adapter


@pytest.mark.parametrize("change, less", [
    ({"gradient_checkpointing": True}, "update"), ({"micro_batch": 1}, "update"), ({"lora_rank": 2}, "policy"), ({"dtype": "bf16"}, "base"),
    ({"max_new_tokens": 32}, "rollout"), ({"batch_size": 8}, "rollout"), ({"value": "head"}, "value")])
def test_what_a_setting_saves(change, less):
    shape, base = shape_of(), {"model": "a/b", "reward": "r", "max_tokens": 256}
    before, after = (estimate(make_config("ppo", base | more), shape, tokens=0 if less == "update" else 40 + more.get("max_new_tokens", 96)) for more in ({}, change))
    assert getattr(after, less) < 0.8 * getattr(before, less) and after.total < before.total


def test_text_mixed_in_counts_where_its_rows_are_longer_than_the_responses():
    shape = read_shape(read_model(BUNDLED_MODEL))
    plain, bundled, long, small = (estimate(PPOConfig(**given), shape, tokens=114).update for given in (
        {}, {"ptx_coef": 1.0}, {"ptx_coef": 1.0, "ptx_data": "wiki.jsonl"}, {"ptx_coef": 1.0, "ptx_data": "wiki.jsonl", "micro_batch": 2}))
    assert plain <= bundled < 1.1 * plain < long and small < long


def test_on_a_gpu_the_larger_of_rollout_and_update_counts_and_on_a_cpu_both():
    config = PPOConfig(model="a/b", reward="r", dtype="bf16")
    cpu, gpu = (estimate(config, shape_of(), device=device) for device in ("cpu", "cuda"))
    held = cpu.base + cpu.policy + cpu.reference + cpu.reward + cpu.value
    assert cpu.total == held + cpu.runtime + cpu.rollout + cpu.update
    assert gpu.total == held + gpu.runtime + max(gpu.rollout, gpu.update) and 0 in (gpu.parts["rollout"], gpu.parts["update"])


@pytest.mark.parametrize("config, words", [({"model_type": "mamba"}, "not known"), ({}, "not known"),
                                           ({"model_type": "llama", "hidden_size": 8}, "how large"),
                                           (QWEN3 | {"model_type": "qwen3", "vocab_size": "<b>"}, "how large"),
                                           (QWEN3 | {"model_type": "qwen3", "num_hidden_layers": -1}, "how large"),
                                           ({"model_type": "llama", "hidden_size": "wide", "num_hidden_layers": 2, "num_attention_heads": 2}, "how large")])
def test_what_cannot_be_known_is_said(config, words):
    with pytest.raises(UserError, match=words) as caught:
        read_shape(config, "mine")
    assert str(caught.value).startswith("mine") and "\n" not in str(caught.value)


def test_a_broken_config_file(tmp_path):
    for text in (None, "{", json.dumps([1])):
        if text is not None:
            (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match="config.json"):
            read_model(tmp_path, "mine")


def test_it_imports_no_torch():
    code = "import sys, rlhf_engine.runs.memory_estimate; sys.exit(sum(m in sys.modules for m in ('torch', 'transformers', 'peft')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
