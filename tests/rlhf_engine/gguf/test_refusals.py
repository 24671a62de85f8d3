"""What a file asks for and nothing here can do is refused by its name, in one line, before anything is written."""

import shutil

import numpy as np
import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.runs.resolve import resolve_model
from tests.rlhf_engine.gguf.rewrite import FILES, numbers, rewrite

SCALING = "llama.rope.scaling."


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        resolve_model(str(path))
    line = str(caught.value)
    assert "\n" not in line and line.startswith(str(path))
    return line.removeprefix(str(path))


@pytest.fixture(autouse=True)
def nothing_written(cache):
    before = set(cache.glob("[!.]*"))
    yield
    assert set(cache.glob("[!.]*")) == before


@pytest.mark.parametrize(("keys", "words"), [
    ({"llama.brand_new": 3}, "says llama.brand_new = 3, of which nothing here knows"),
    ({"strange.key": [1, 2], "llama.other": "x"}, "says strange.key = [1, 2] and 1 more"),
    ({"general.architecture": "brandnew"}, "of the architecture 'brandnew', and these are read: llama,"),
    ({"general.architecture": "bert"}, "is an encoder (bert), not a causal language model"),
    ({"general.architecture": "clip"}, "is the part of a model that sees or hears (clip)"),
    ({"general.type": "adapter"}, "is a LoRA adapter of llama.cpp, not a model"),
    ({"general.type": "mmproj"}, "is the part of a model that sees or hears (mmproj)"),
    ({"general.type": "vocab"}, "is a vocabulary without weights"),
    ({"llama.attention.causal": False}, "its llama.attention.causal is False, which cannot be used here"),
    ({"llama.pooling_type": 1}, "its llama.pooling_type is 1"),
    ({"llama.block_count": 3}, "lacks the tensor blk.2.attn_norm.weight and 8 more"),
    ({"llama.block_count": 1}, "holds the tensor blk.1.attn_norm.weight and 8 more, for which a llama model has no place"),
    ({"llama.block_count": None}, "its metadata lack llama.block_count"),
    ({"llama.block_count": "two"}, "its llama.block_count is a text ('two') in place of a whole number"),
    ({"llama.attention.head_count_kv": [2, 1]}, "llama.attention.head_count_kv differs from layer to layer ([2, 1])"),
    ({"llama.attention.head_count": 8}, "the tensor blk.0.attn_q.weight is [16, 16], and by its metadata [32, 16]"),
    ({"llama.attention.head_count_kv": 1}, "the tensor blk.0.attn_k.weight is [8, 16], and by its metadata [4, 16]"),
    ({"llama.embedding_length": 32}, "the tensor token_embd.weight is [348, 16], and by its metadata [348, 32]"),
    ({"llama.feed_forward_length": 48}, "the tensor blk.0.ffn_gate.weight is [24, 16], and by its metadata [48, 16]"),
    ({"llama.vocab_size": 99}, "its llama.vocab_size is 99"),
    ({"llama.rope.dimension_count": 2}, "its llama.rope.dimension_count is 2"),
    ({f"{SCALING}type": "dynamic", f"{SCALING}factor": 2.0}, "its llama.rope.scaling.type is 'dynamic'"),
    ({f"{SCALING}type": "longrope", f"{SCALING}factor": 2.0}, "its llama.rope.scaling.type is 'longrope'"),
    ({f"{SCALING}attn_factor": 1.2}, "its llama.rope.scaling.attn_factor is 1.2"),
    ({"llama.rope.scale_linear": 2.0}, "its llama.rope.scale_linear is 2.0"),
    ({"llama.expert_count": 4, "llama.expert_used_count": 2}, "lacks the tensor blk.0.ffn_gate_inp.weight"),
    ({"tokenizer.ggml.model": "t5"}, "has a tokenizer of the kind 't5', and gpt2 and llama are read"),
    ({"tokenizer.ggml.model": None}, "has a tokenizer of the kind 'none'"),
    ({"tokenizer.ggml.pre": "brand-new"}, "says 'brand-new' of how its tokenizer splits a text"),
    ({"tokenizer.ggml.pre": "default"}, "does not say how its tokenizer splits a text (tokenizer.ggml.pre)"),
    ({"tokenizer.ggml.pre": None}, "does not say how its tokenizer splits a text"),
    ({"tokenizer.ggml.merges": None}, "its tokenizer has no merges"),
    ({"tokenizer.ggml.merges": ["a b c"]}, "hold 'a b c', which is no pair"),
    ({"tokenizer.ggml.merges": ["xyz zyx"]}, "its vocabulary makes no tokenizer"),
    ({"tokenizer.ggml.tokens": None}, "holds no vocabulary"),
    ({"tokenizer.ggml.eos_token_id": 5000}, "its tokenizer.ggml.eos_token_id is 5000, and its vocabulary has no such token"),
    ({"tokenizer.ggml.add_sep_token": True}, "its tokenizer.ggml.add_sep_token is True"),
    ({"tokenizer.chat_template": None, "tokenizer.chat_template.tool_use": "x", "tokenizer.chat_templates": ["tool_use"]},
     "has chat templates (tokenizer.chat_template.tool_use), and none is the default"),
])
def test_metadata_that_cannot_be_used(tmp_path, keys, words):
    assert words in refusal(rewrite("llama", tmp_path / "x.gguf", keys=keys))


@pytest.mark.parametrize(("source", "tensors", "words"), [
    ("llama", {"blk.0.brand_new.weight": np.ones(4)}, "holds the tensor blk.0.brand_new.weight, for which a llama model has no place"),
    ("llama", {"blk.1.ffn_up.weight": None}, "lacks the tensor blk.1.ffn_up.weight"),
    ("llama", {"token_embd.weight": None}, "holds no token_embd.weight, so it is no language model"),
    ("llama", {"blk.0.attn_q.bias": np.ones(16)}, "only attn_q have a bias"),
    ("llama", {"token_embd.weight": np.ones((100, 16)), "output.weight": np.ones((100, 16))}, "its llama.vocab_size is 348"),
    ("qwen2-yarn", {"blk.0.attn_q.bias": None}, "lacks the tensor blk.0.attn_q.bias"),
    ("qwen2-yarn", {"token_embd.weight": np.ones((100, 16))}, "lists 348 tokens, and its embedding has 100 rows"),
    ("phi3-long", {"rope_factors_long.weight": None}, "holds only one of rope_factors_short.weight and rope_factors_long.weight"),
    ("llama-3.2", {"rope_freqs.weight": np.array([1, 5, 2, 9, 1, 1, 3, 2], np.float32)}, "do not come from Llama 3's rule"),
])
def test_tensors_that_cannot_be_used(tmp_path, source, tensors, words):
    path = rewrite(source, tmp_path / "x.gguf", tensors=tensors)
    assert words in refusal(path)


def test_tokens_with_one_score_and_tokens_that_stand_there_twice(tmp_path):
    import gguf
    fields = gguf.GGUFReader(FILES / "mistral.gguf").fields
    count = len(fields["tokenizer.ggml.tokens"].contents())
    path = rewrite("mistral", tmp_path / "x.gguf", keys={"tokenizer.ggml.scores": [-1000.0] * count})
    assert "all its tokens have the same score" in refusal(path)
    tokens = gguf.GGUFReader(FILES / "llama.gguf").fields["tokenizer.ggml.tokens"].contents()
    path = rewrite("llama", tmp_path / "y.gguf", keys={"tokenizer.ggml.tokens": [*tokens[:60], tokens[50], *tokens[61:]]})
    assert "twice (numbers 50 and 60)" in refusal(path)


# -- files that are no whole GGUF file ----------------------------------------------------------------------------------

@pytest.mark.parametrize(("change", "words"), [
    (lambda data: b"", "is no GGUF file (empty)"),
    (lambda data: b"<!DOCTYPE html>", "is no GGUF file (a web page, not weights)"),
    (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "is no GGUF file (a pointer of Git LFS"),
    (lambda data: data[:4], "is cut short or broken (4 bytes)"),
    (lambda data: data[:3000], "is cut short or broken (3,000 bytes)"),
    (lambda data: data[:-100], "is cut short or broken"),
    (lambda data: data[:4] + (1).to_bytes(4, "little") + data[8:], "is of GGUF version 1, and versions 2 and 3 are read"),
    (lambda data: data[:4] + (9).to_bytes(4, "little") + data[8:], "is of GGUF version 9"),
    (lambda data: data[:4] + (3).to_bytes(4, "big") + data[8:], "is big-endian"),
    (lambda data: data[:8] + (2**60).to_bytes(8, "little") + data[16:], "is cut short or broken"),
    (lambda data: data[:16] + (2**60).to_bytes(8, "little") + data[24:], "is cut short or broken"),
    (lambda data: data[:24] + (2**60).to_bytes(8, "little") + data[32:], "is cut short or broken"),
    (lambda data: data.replace(b"general.type", b"general.\xff\xfepe", 1), "is cut short or broken"),
])
def test_files_that_are_broken(tmp_path, change, words):
    path = tmp_path / "with a space & ünïcode.gguf"
    path.write_bytes(change((FILES / "llama.gguf").read_bytes()))
    assert words in refusal(path)


def test_every_cut_is_refused(tmp_path):
    """Wherever a download broke off, and whichever single byte of the header is another, there is one line or a whole model."""
    data = (FILES / "llama.gguf").read_bytes()
    path = tmp_path / "x.gguf"
    for length in range(4, len(data), 2311):
        path.write_bytes(data[:length])
        assert "cut short or broken" in refusal(path)


def test_types_that_cannot_be_unpacked(tmp_path):
    import gguf
    data = (FILES / "llama.gguf").read_bytes()
    at = data.index(b"blk.0.attn_q.weight") + len("blk.0.attn_q.weight") + 4 + 16
    path = tmp_path / "x.gguf"
    path.write_bytes(data[:at] + (99).to_bytes(4, "little") + data[at + 4:])
    assert "the tensor blk.0.attn_q.weight is of the type 99, which the package gguf does not know" in refusal(path)
    path.write_bytes(data[:at] + int(gguf.GGMLQuantizationType.I16).to_bytes(4, "little") + data[at + 4:])
    assert "is of the type I16, which the package gguf cannot unpack" in refusal(path)


def test_a_folder_with_several_files_and_a_part_without_the_others(tmp_path):
    data = (FILES / "llama.gguf").read_bytes()
    for name in ("a.gguf", "mmproj-b.gguf"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "b.gguf").write_bytes(data)
    assert refusal(tmp_path) == f": holds 2 GGUF files; give one of them, such as {tmp_path / 'a.gguf'}"
    part = tmp_path / "m-00001-of-00002.gguf"
    part.write_bytes(data)
    assert refusal(part) == ": its part m-00002-of-00002.gguf is missing; put all 2 parts into one folder"
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(data)
    assert "holds the tensor" in refusal(part) or "two parts hold the tensor" in refusal(part) or "is part" in refusal(part)
    lone = rewrite("llama", tmp_path / "lone.gguf", keys={"split.no": 0, "split.count": 2, "split.tensors.count": 9})
    assert "is one part of 2" in refusal(lone)


def test_numbers_that_are_not_finite_are_named(tmp_path):
    weights = numbers("llama", "blk.1.ffn_up.weight").copy()
    weights[3, 3] = np.nan
    path = rewrite("llama", tmp_path / "x.gguf", tensors={"blk.1.ffn_up.weight": weights})
    with pytest.raises(UserError, match="its weight model.layers.1.mlp.up_proj.weight is not finite"):
        Backbone.load(str(path), dtype="fp32", device="cpu")
    shutil.rmtree(resolve_model(str(path)))
