"""Tokenizers that do not fit their model, or do not work: one line at load; what does no harm is no reason to refuse."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlhf_engine.data.tokenization import encode_example, encode_prompt
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample
from tests.conftest import make_tokenizer, save
from tests.rlhf_engine.helpers.bases import GONE, edit_json, refusal, spoilt

CHATML = ("{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def with_tokens(base, folder, tokens=(), *, special=False, **names):
    """A copy of a base whose tokenizer has more tokens than the model has embeddings."""
    copy = spoilt(base, folder)
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    for name, value in names.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(copy)
    return copy


def templated(base, folder, template):
    copy = spoilt(base, folder)
    (copy / "chat_template.jinja").unlink()
    edit_json(copy / "tokenizer_config.json", chat_template=template)
    return copy


def answer(backbone):
    """A step of what all learners do: two prompts of different lengths, which have to be padded."""
    rows = [encode_prompt(backbone.tokenizer, text).ids for text in ("Once", "Once upon a time <b> [PAD]")]
    with backbone.use(None):
        return sample(backbone, rows, Sampling(4, temperature=0), torch.Generator().manual_seed(0))


def test_a_setting_of_another_type_that_breaks_every_text(tiny_llama, tmp_path):
    folder = spoilt(tiny_llama, tmp_path / "base")
    edit_json(folder / "tokenizer_config.json", model_max_length="true")
    assert "its tokenizer reads no text (TypeError" in refusal(folder)


def test_tokens_beyond_the_embedding_that_a_text_would_get(tiny_llama, tmp_path):
    for number, (tokens, names, says) in enumerate((
            (["<b>"], {}, "the token '<b>' (number 400), but its embedding has 400 rows"), (["dog cat", "<b>"], {}, "and 1 more"),
            ([], {"eos_token": "<|stop|>"}, "'<|stop|>' (number 400)"), ([], {"bos_token": "<s>"}, "'<s>' (number 400)"))):
        line = refusal(with_tokens(tiny_llama, tmp_path / str(number), tokens, **names))
        assert says in line and "resize_token_embeddings" in line
    chatml = with_tokens(tiny_llama, tmp_path / "chatml", ["<|im_start|>", "<|im_end|>"], special=True, chat_template=CHATML)
    assert "'<|im_start|>' (number 400) and 1 more" in refusal(chatml)


def test_an_unknown_token_beyond_the_embedding_matters_where_a_text_gets_it(tiny_llama, tmp_path):
    harmless = with_tokens(tiny_llama, tmp_path / "bytes", unk_token="<unk>")  # every byte has a token
    assert answer(Backbone.load(str(harmless))) == answer(Backbone.load(str(tiny_llama)))
    folder = spoilt(tiny_llama, tmp_path / "words")
    words = {f"word{number}": number for number in range(390)} | {"a": 390, "Hello": 391, "<unk>": 400}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")), unk_token="<unk>",
                                        eos_token="word2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").unlink()
    assert "'<unk>' (number 400)" in refusal(folder)


def test_special_tokens_that_only_transformers_class_adds_do_no_harm(tmp_path):
    """Qwen2's class of tokenizers has an unknown token and an end token of its own, GPT-2's also a first token."""
    for kind in ("qwen2", "gpt2"):
        tokenizer = make_tokenizer(chat=False)
        tokenizer.bos_token = tokenizer.pad_token = None
        config = AutoConfig.for_model(kind, vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128)
        folder = save(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / kind)
        backbone = Backbone.load(str(folder), dtype="fp32")
        assert backbone.stop_ids == [2] and encode_prompt(backbone.tokenizer, "").ids[0] < 400 and answer(backbone)


def test_the_tokenizer_of_another_model(tiny_llama, tmp_path):
    smaller = spoilt(tiny_llama, tmp_path / "base", lambda weights: weights | {
        name: weights[name][:200] for name in ("lm_head.weight", "model.embed_tokens.weight")}, vocab_size=200)
    assert "and 199 more, but its embedding has 200 rows" in refusal(smaller)


def test_a_pad_token_and_control_tokens_beyond_the_embedding_do_no_harm(tiny_llama, tmp_path):
    plain = answer(Backbone.load(str(tiny_llama)))
    for number, (tokens, names) in enumerate((([], {"pad_token": "[PAD]"}), (["<image>"], {}))):
        backbone = Backbone.load(str(with_tokens(tiny_llama, tmp_path / str(number), tokens, special=True, **names)))
        assert 0 <= backbone.pad_id < 400
        assert answer(backbone) == plain


@pytest.mark.parametrize("name", ["unk_token", "eos_token", "bos_token", "pad_token"])
@pytest.mark.parametrize("value", ["", None])
def test_special_tokens_without_a_text_stand_for_none(tiny_llama, tmp_path, name, value):
    plain = Backbone.load(str(tiny_llama))
    backbone = Backbone.load(str(edit_json(spoilt(tiny_llama, tmp_path / "base") / "tokenizer_config.json", **{name: value}).parent))
    assert getattr(backbone.tokenizer, name) is None
    found, expected = (encode_example(b.tokenizer, "Once upon", " a time.", plain.stop_ids).ids for b in (backbone, plain))
    assert found == expected and backbone.stop_ids == plain.stop_ids and 0 <= backbone.pad_id < 400


@pytest.mark.parametrize(("template", "says"), [
    ("{% for m in messages %}{{ m.content }", "its chat template does not work (unexpected '}')"),
    ("{{ raise_exception('never') }}", "does not work (never)"), ("{{ messages[0].content + 5 }}", "can only concatenate str"),
    ("{{ foo.bar }}", "'foo' is undefined"), ("{% import 'os' as os %}", "no loader"), ("{{ messages[0].content | nope }}", "nope"),
    ([{"name": "rag", "template": "x"}, {"name": "tool_use", "template": "y"}], "several chat templates (rag, tool_use)"),
    ({"rag": "x"}, "none is called default"), (5, "is a number in place of a text"), (["x"], "its tokenizer cannot be loaded")])
def test_chat_templates_that_never_work(tiny_llama, tmp_path, template, says):
    assert says in refusal(templated(tiny_llama, tmp_path / "base", template))


def test_chat_templates_that_work(tiny_llama, tmp_path):
    text = "{% for m in messages %}{{ m.content }}{% endfor %}"
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": text}]
    picky = "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}" + text
    for number, template in enumerate((text, several, picky, None, "")):
        backbone = Backbone.load(str(templated(tiny_llama, tmp_path / str(number), template)))
        messages = [{"role": "system", "content": "a dog"}, {"role": "user", "content": " a cat"}]
        assert encode_prompt(backbone.tokenizer, messages).ids


def test_files_that_are_missing_or_broken(tiny_llama, tiny_gpt2, tmp_path):
    for base, name in ((tiny_llama, "llama"), (tiny_gpt2, "gpt2")):
        folder = spoilt(base, tmp_path / name)
        for file in folder.glob("*token*"):
            file.unlink()
        assert "holds no tokenizer (tokenizer.json)" in refusal(folder)
        edit_json(folder / "tokenizer_config.json", tokenizer_class="LlamaTokenizer")
        assert "holds no tokenizer (tokenizer.json)" in refusal(folder)
        (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
        assert "has no tokenizer.json" in refusal(folder) or "cannot be loaded" in refusal(folder)
    folder = spoilt(tiny_llama, tmp_path / "base")
    text = (folder / "tokenizer.json").read_text()
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        before = (folder / name).read_text() if (folder / name).exists() else None
        for content, says in ((text[:500], f"its {name} is broken"), ("[]", f"its {name} holds a list in place of an object")):
            (folder / name).write_text(content)
            assert says in refusal(folder)
        (folder / name).unlink() if before is None else (folder / name).write_text(before)
    for content in ({}, json.loads(text) | {"model": {"type": "Nonsense"}}, json.loads(text) | {"model": None}):
        (folder / "tokenizer.json").write_text(json.dumps(content))
        assert "its tokenizer cannot be loaded" in refusal(folder)
    (folder / "tokenizer.json").write_text(text)
    for value, says in (({"tokenizer_class": 5}, "its tokenizer cannot be loaded"),
                        ({"tokenizer_class": "Flub", "auto_map": {"AutoTokenizer": ["x.T", None]}}, "needs code of its own")):
        assert says in refusal(edit_json(spoilt(tiny_llama, tmp_path / "other") / "tokenizer_config.json", **value).parent)
    assert Backbone.load(str(edit_json(folder / "tokenizer_config.json", tokenizer_class="Flubber", auto_map=GONE).parent)).tokenizer


@pytest.mark.parametrize(("value", "stops"), [
    ([2, 3], [2, 3]), (None, [2]), ([], [2]), ([2, None], [2]), ([99999, -1, 7], [2, 7]), ("2", None), ([2.5], None), ([[3]], None)])
def test_end_tokens_of_the_generation_config(tiny_llama, tmp_path, value, stops):
    folder = spoilt(tiny_llama, tmp_path / "base", None, eos_token_id=None)
    edit_json(folder / "generation_config.json", eos_token_id=value)
    if stops is None:
        with pytest.raises(ValueError, match="eos_token_id is .* but must be a number or a list of numbers"):
            Backbone.load(str(folder))
    else:
        assert Backbone.load(str(folder)).stop_ids == stops
