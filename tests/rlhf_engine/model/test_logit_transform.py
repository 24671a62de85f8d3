"""Logits that are more than an output layer: scaled, softly capped, projected; chunks of them against the model's own, for many architectures."""

from pathlib import Path

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_engine.errors import UserError
from rlhf_engine.model import logprobs as module
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logit_transform import LogitTransform, read_logit_transform
from rlhf_engine.model.logprobs import read_tokens
from tests.conftest import make_tokenizer, save

COMMON = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
              max_position_embeddings=128, initializer_range=0.5, pad_token_id=0)
GPT = dict(n_embd=32, n_layer=2, n_head=4, n_positions=128, initializer_range=0.5)
LATENT = dict(num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=8, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8)
MODELS = {  # model type -> (settings, the shaping they mean)
    "gemma2": (dict(final_logit_softcapping=3.0), LogitTransform(1, 3)),
    "gemma3_text": (dict(final_logit_softcapping=2.0), LogitTransform(1, 2)),
    "nanochat": (dict(final_logit_softcapping=2.0), LogitTransform(1, 2)),
    "recurrent_gemma": (dict(logits_soft_cap=2.0, lru_width=32), LogitTransform(1, 2)),
    "cohere": (dict(logit_scale=0.3), LogitTransform(0.3)),
    "granite": (dict(logits_scaling=4.0), LogitTransform(1 / 4)),
    "hyperclovax": (dict(logits_scaling=0.3), LogitTransform(0.3)),
    "minicpm3": (dict(dim_model_base=8, **LATENT), LogitTransform(1 / 4)),  # divides the hidden states, by 32 / 8
    "opt": (dict(ffn_dim=64, word_embed_proj_dim=16), LogitTransform()),  # projected to another width
    "phi": ({}, LogitTransform()),  # the output layer has a bias
    "gptj": (GPT | dict(rotary_dim=8), LogitTransform()),
    "gpt_neox": ({}, LogitTransform()),
    "bloom": (dict(n_layer=2, n_head=4), LogitTransform()),
    "qwen2": ({}, LogitTransform()),
}
ROWS, COLUMNS = torch.tensor([0] * 4 + [1] * 5 + [2] * 3), torch.tensor([3, 4, 5, 6, 2, 3, 4, 5, 6, 8, 9, 10])
IDS = torch.randint(5, 300, (3, 12), generator=torch.Generator().manual_seed(0))


def make(folder: Path, kind: str, dtype: str = "fp32", **settings) -> Backbone:
    torch.manual_seed(0)
    tokenizer = make_tokenizer(chat=True)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **COMMON | {"vocab_size": len(tokenizer)} | settings))
    for name, parameter in base.named_parameters():
        if name.endswith("lm_head.bias"):
            torch.nn.init.normal_(parameter)
    return Backbone.load(str(save(base, tokenizer, folder)), dtype=dtype, device="cpu")


def ours(backbone: Backbone, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = read_tokens(backbone, IDS, ROWS, COLUMNS, temperature, entropy=True)
    return tokens.logprobs, tokens.entropy


def theirs(backbone: Backbone, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """From the full log-softmax of the model's own logits, in double precision."""
    logp = (backbone.base(input_ids=IDS, use_cache=False).logits[ROWS, COLUMNS].double() / temperature).log_softmax(-1)
    return logp.gather(-1, IDS[ROWS, COLUMNS + 1, None])[:, 0], -(logp.exp() * logp).sum(-1)


def gradients(backbone: Backbone, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    parameters = backbone.named_parameters("policy")
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    return {name: gradient for name, gradient in zip(parameters, found) if gradient is not None}


class Rows(TorchDispatchMode):
    """The most rows of a whole vocabulary that any operation made at a time, forward or backward."""

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.most = vocabulary, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == self.vocabulary:
                self.most = max(self.most, tensor.numel() // self.vocabulary)
        return out


def same(found: LogitTransform, expected: LogitTransform) -> bool:
    return (found.cap is None) == (expected.cap is None) and all(
        mine == pytest.approx(theirs, rel=1e-6) for mine, theirs in zip((found.scale, found.cap), (expected.scale, expected.cap)) if theirs)


@pytest.mark.parametrize("kind", MODELS)
def test_values_and_gradients_are_those_of_the_models_own_logits(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(module, "chunk_size", lambda device, vocabulary: 5)
    monkeypatch.setattr(module, "CPU_SLICE", 1000)  # two rows
    settings, shaping = MODELS[kind]
    backbone = make(tmp_path, kind, **settings)
    assert same(backbone.logit_transform, shaping)
    backbone.new_role("policy", rank=2)
    backbone.train("policy")
    weights = torch.arange(1.0, 13)
    for temperature in (1.0, 0.7):
        for which in (0, 1):
            found = []
            for read in (ours, theirs):
                with backbone.use("policy"):
                    values = read(backbone, temperature)[which]
                    found.append((values, gradients(backbone, (values * weights).sum())))
            (mine, my_gradients), (model, their_gradients) = found
            torch.testing.assert_close(mine.double(), model, rtol=0, atol=2e-5)
            assert which or mine.std() > 0.1
            assert my_gradients.keys() == their_gradients.keys() and max(g.abs().max() for g in their_gradients.values()) > 1e-2
            for name, gradient in their_gradients.items():
                assert (my_gradients[name] - gradient).norm() <= 1e-3 * gradient.norm() + 1e-5, name


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
def test_in_bf16_chunks_and_logits_differ_by_rounding_only(tmp_path, kind):
    settings, shaping = MODELS[kind]
    backbone = make(tmp_path, kind, "bf16", **settings)
    assert same(backbone.logit_transform, shaping)
    with torch.no_grad():
        torch.testing.assert_close(ours(backbone, 1.0)[0].double(), theirs(backbone, 1.0)[0], rtol=0, atol=0.05)


def test_a_cap_far_above_the_logits_is_found(tmp_path):
    """A freshly made model's logits are near zero, where a cap of 30 changes them by less than rounding does."""
    backbone = make(tmp_path, "gemma2", initializer_range=0.02, final_logit_softcapping=30.0)
    logits = backbone.base(input_ids=IDS).logits
    torch.testing.assert_close(backbone.base.get_output_embeddings()(backbone.hidden(IDS)), logits, rtol=1e-3, atol=1e-4)
    assert same(backbone.logit_transform, LogitTransform(1, 30))


def test_other_logits_are_refused(tmp_path):
    with pytest.raises(UserError, match="more than one output layer.*choose another model"):
        make(tmp_path / "bert", "bert", is_decoder=True)  # its output layer reads another transformation of the hidden states
    backbone = make(tmp_path / "llama", "llama")
    forward = backbone.base.forward

    def masked(**options):
        out = forward(**options)
        out.logits[..., 7] = torch.finfo(out.logits.dtype).min
        return out

    def bent(**options):
        out = forward(**options)
        out.logits = out.logits + 0.01 * out.logits.abs()
        return out

    for wrong in (masked, bent):
        backbone.base.forward = wrong
        with pytest.raises(UserError, match="mine: its logits are more"):
            read_logit_transform(backbone.base, backbone.hidden, "mine")
    backbone.base.forward = forward
    assert read_logit_transform(backbone.base, backbone.hidden, "mine") == LogitTransform()
    with pytest.raises(UserError, match="mine: its logits are more"):
        read_logit_transform(backbone.base, lambda ids: backbone.hidden(ids).flip(-1), "mine")


def adapted(backbone: Backbone, folder: Path) -> None:
    """A policy whose output layer has an adapter, too."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(backbone.path), LoraConfig(
        r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False))
    model.save_pretrained(folder, save_embedding_layers=False)
    backbone.load_role("policy", folder)


def in_four_bits(backbone: Backbone, folder: Path) -> None:
    backbone.new_role("policy", rank=2)
    head = backbone.base.lm_head
    backbone.base.lm_head = Linear4bit(32, len(head.weight), bias=False, quant_type="nf4", compute_dtype=torch.float32)
    backbone.base.lm_head.load_state_dict(head.state_dict())
    backbone.base.lm_head.to("cpu").requires_grad_(False)


@pytest.mark.parametrize("role", [lambda backbone, folder: backbone.new_role("policy", rank=2), adapted, in_four_bits],
                         ids=["frozen", "adapted", "four_bits"])
@pytest.mark.parametrize("kind", ["gemma2", "cohere"])
def test_no_more_rows_of_logits_than_a_chunk_exist_at_a_time(tmp_path, monkeypatch, role, kind):
    """Forward or backward, whatever the output layer is; and an adapter of its own is trained on shaped logits."""
    monkeypatch.setattr(module, "chunk_size", lambda device, vocabulary: 5)
    backbone = make(tmp_path / "base", kind, tie_word_embeddings=False, **MODELS[kind][0])
    role(backbone, tmp_path / "adapter")
    backbone.train("policy")
    ids = torch.randint(5, 300, (4, 24), generator=torch.Generator().manual_seed(0))
    rows, columns = torch.arange(4).repeat_interleave(23), torch.arange(23).repeat(4)
    found = []
    for plain in (False, True):
        with backbone.use("policy"), Rows(backbone.base.lm_head.out_features) as count:
            if plain:
                logp = backbone.base(input_ids=ids, use_cache=False).logits[rows, columns].log_softmax(-1)
                logprobs, entropy = logp.gather(-1, ids[rows, columns + 1, None])[:, 0], -(logp.exp() * logp).sum(-1)
            else:
                tokens = read_tokens(backbone, ids, rows, columns, entropy=True)
                logprobs, entropy = tokens.logprobs, tokens.entropy
            found.append((logprobs, entropy, gradients(backbone, (logprobs + 0.5 * entropy).sum()), count.most))
    mine, model = found
    assert mine[3] <= 32 < len(rows) <= model[3]  # 32: the width, of a transposed weight
    torch.testing.assert_close(mine[:2], model[:2], rtol=0, atol=1e-4)
    for name, gradient in model[2].items():
        assert (mine[2][name] - gradient).norm() <= 2e-3 * gradient.norm() + 1e-5, name
