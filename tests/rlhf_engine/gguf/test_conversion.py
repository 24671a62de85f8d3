"""Files that llama.cpp's converter wrote give the logits and the token ids of the models that they were made of."""

import json

import numpy as np
import pytest
import torch

from rlhf_engine.gguf.architectures import PLANS
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.resolve import fingerprint, resolve_model
from tests.rlhf_engine.gguf.recipes import RECIPES, TOKENS, make_model
from tests.rlhf_engine.gguf.rewrite import FILES, numbers, rewrite

TOKEN_IDS = json.loads((FILES / "tokens.json").read_text(encoding="utf-8"))
QUANTISED = "qwen2"


def load(path, dtype="fp32") -> Backbone:
    return Backbone.load(str(path), dtype=dtype, device="cpu")


def some_ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(5, 300, (2, 24), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", [name for name in RECIPES if name != QUANTISED])
@torch.no_grad()
def test_logits_and_token_ids_are_those_of_the_safetensors(name):
    backbone, ids = load(FILES / f"{name}.gguf"), some_ids()
    source = make_model(name)(ids).logits
    torch.testing.assert_close(backbone.base(ids).logits, source[..., :backbone.vocabulary], rtol=1e-4, atol=5e-5)
    assert {text: backbone.tokenizer(text)["input_ids"] for text in TOKEN_IDS[name]} == TOKEN_IDS[name]


def test_each_architecture_that_is_read_has_a_file():
    from gguf import GGUFReader
    assert {GGUFReader(file).fields["general.architecture"].contents() for file in FILES.glob("*.gguf")} == set(PLANS)


@torch.no_grad()
def test_blocks_are_unpacked_as_gguf_unpacks_them():
    """Q8_0, as the converter wrote it: the model with gguf's numbers in its weights says the same."""
    model, backbone, ids = make_model(QUANTISED), load(FILES / f"{QUANTISED}.gguf"), some_ids()
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
             "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    model.model.embed_tokens.weight.copy_(torch.from_numpy(numbers(QUANTISED, "token_embd.weight")))
    for number, layer in enumerate(model.model.layers):
        for ours, theirs in names.items():
            layer.get_submodule(ours).weight.copy_(torch.from_numpy(numbers(QUANTISED, f"blk.{number}.{theirs}.weight")))
    torch.testing.assert_close(backbone.base(ids).logits, model(ids).logits, rtol=1e-4, atol=5e-5)
    assert {text: backbone.tokenizer(text)["input_ids"] for text in TOKEN_IDS[QUANTISED]} == TOKEN_IDS[QUANTISED]


def test_a_chat_model_keeps_its_template_its_ends_and_its_special_tokens():
    backbone = load(FILES / "llama.gguf")
    text = backbone.tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert backbone.stop_ids == [2] and backbone.tokenizer.decode([1, 2], skip_special_tokens=True) == ""
    assert backbone.tokenizer.tokenize("a<think>b") == ["a", "<think>", "b"] and len(backbone.tokenizer) < TOKENS


def test_further_tokens_that_end_a_turn_end_a_response(tmp_path):
    path = rewrite("llama", tmp_path / "x.gguf", keys={"tokenizer.ggml.eot_token_id": 5, "tokenizer.ggml.eom_token_id": 2})
    assert load(path).stop_ids == [2, 5]
    keys = {"tokenizer.ggml.eos_token_ids": [2, 7], "general.parameter_count": 9}  # as Ollama writes them
    assert load(rewrite("llama", tmp_path / "y.gguf", keys=keys)).stop_ids == [2, 7]


@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
def test_a_file_is_loaded_in_other_formats_too(dtype):
    backbone = load(FILES / "llama-3.2.gguf", dtype)
    assert torch.isfinite(backbone.base(some_ids()).logits.float()).all() and backbone.dtype == dtype


def test_the_fingerprint_is_that_of_the_content(tmp_path, monkeypatch):
    """Another name, another place and another cache change nothing."""
    first = fingerprint(resolve_model(str(FILES / "qwen3.gguf")))
    monkeypatch.setenv("PLAYGROUND_GGUF_CACHE", str(tmp_path / "cache"))
    moved = tmp_path / "sha256-0123"
    moved.write_bytes((FILES / "qwen3.gguf").read_bytes())
    assert fingerprint(resolve_model(str(moved))) == first != fingerprint(resolve_model(str(FILES / "llama.gguf")))


@torch.no_grad()
def test_a_split_model_is_the_same_model(tmp_path):
    from gguf import GGUFReader
    reader = GGUFReader(FILES / "qwen3.gguf")
    names = [tensor.name for tensor in reader.tensors]
    for number, kept in enumerate((names[:7], names[7:])):
        keys = {"split.no": number, "split.count": 2, "split.tensors.count": len(names)}
        if number:
            keys |= {key: None for key in reader.fields if not key.startswith(("GGUF", "general.architecture"))}
        rewrite("qwen3", tmp_path / f"m-0000{number + 1}-of-00002.gguf", keys=keys, tensors=dict.fromkeys(set(names) - set(kept)))
    ids = some_ids()
    whole = load(FILES / "qwen3.gguf").base(ids).logits
    for place in ("m-00001-of-00002.gguf", "m-00002-of-00002.gguf", ""):
        torch.testing.assert_close(load(tmp_path / place).base(ids).logits, whole)


@torch.no_grad()
def test_an_output_layer_of_its_own_is_not_tied(tmp_path):
    output = numbers("qwen3", "token_embd.weight") * 0.5
    backbone = load(rewrite("qwen3", tmp_path / "x.gguf", tensors={"output.weight": output}))
    ids = some_ids()
    torch.testing.assert_close(backbone.base(ids).logits, load(FILES / "qwen3.gguf").base(ids).logits * 0.5, rtol=1e-4, atol=5e-5)


@torch.no_grad()
def test_biases_of_llama_are_read_in_llamas_order(tmp_path):
    """Queries and keys are stored in another order of rows, and so are their biases."""
    rows = np.random.RandomState(0).standard_normal((2, 4, 16)).astype(np.float32)
    order = np.arange(16).reshape(4, 2, 2).swapaxes(1, 2).reshape(16)  # four heads of 4: halves become neighbours
    keys = np.arange(8).reshape(2, 2, 2).swapaxes(1, 2).reshape(8)
    tensors = {}
    for layer in range(2):
        tensors |= {f"blk.{layer}.attn_q.bias": rows[layer, 0][order], f"blk.{layer}.attn_k.bias": rows[layer, 1, :8][keys],
                    f"blk.{layer}.attn_v.bias": rows[layer, 2, :8], f"blk.{layer}.attn_output.bias": rows[layer, 3]}
    backbone = load(rewrite("llama", tmp_path / "x.gguf", tensors=tensors))
    for layer, block in enumerate(backbone.base.model.layers):
        attention = block.self_attn
        for part, wanted in ((attention.q_proj, rows[layer, 0]), (attention.k_proj, rows[layer, 1, :8]), (attention.o_proj, rows[layer, 3])):
            torch.testing.assert_close(part.bias, torch.from_numpy(wanted))
