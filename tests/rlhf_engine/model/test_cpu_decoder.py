"""The CPU decoder computes what the model computes, or is not used."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlhf_engine.model import fast_layers as layers
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import CpuDecoder, cpu_decoder
from rlhf_engine.model.decoders import CachedDecoder
from rlhf_engine.model.generation import Sampling, sample

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17]]


def with_role(path, dtype: str = "fp32") -> Backbone:
    backbone = Backbone.load(str(path), dtype=dtype)
    backbone.new_role("policy", rank=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in backbone.parameters("policy"):
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return backbone


def run(decoder, steps: int = 5) -> list[torch.Tensor]:
    """Logits of a padded prompt and of some tokens after it; one row leaves on the way."""
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[0] * (width - len(p)) + p for p in PROMPTS])
    hidden = torch.tensor([[True] * (width - len(p)) + [False] * len(p) for p in PROMPTS])
    positions = ((~hidden).cumsum(-1) - 1).clamp(min=0)
    found = [decoder(ids, positions, hidden)]
    positions = positions[:, -1:]
    for step in range(steps):
        if step == 2:
            decoder.keep(torch.tensor([0, 2]))
            positions = positions[[0, 2]]
        positions = positions + 1
        found.append(decoder(torch.full((len(positions), 1), 20 + step), positions))
    return found


def check_logits(backbone: Backbone, role: str | None) -> None:
    """The model has a CPU decoder, and its logits are those of transformers."""
    with backbone.use(role):
        decoder = cpu_decoder(backbone.base, 3, 16)
        assert isinstance(decoder, CpuDecoder)
        for ours, theirs in zip(run(decoder), run(CachedDecoder(backbone.base))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", [None, "policy"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_qwen3"])
@torch.no_grad()
def test_logits_are_those_of_the_model(model, role, request):
    check_logits(with_role(request.getfixturevalue(model)), role)


@torch.no_grad()
def test_biases_and_heads_without_groups():
    torch.manual_seed(3)
    base = Qwen2ForCausalLM(Qwen2Config(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                                        num_key_value_heads=4, initializer_range=0.2))
    for layer in base.model.layers:
        layer.self_attn.q_proj.bias.normal_()
        layer.self_attn.v_proj.bias.normal_()
    for ours, theirs in zip(run(cpu_decoder(base, 3, 16)), run(CachedDecoder(base))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
@torch.no_grad()
def test_it_stays_within_the_rounding_of_smaller_formats(tiny_llama, dtype):
    backbone = with_role(tiny_llama, dtype)
    with backbone.use("policy"):
        decoder = cpu_decoder(backbone.base, 3, 16)
        assert decoder is not None
        for ours, theirs in zip(run(decoder), run(CachedDecoder(backbone.base))):
            assert (ours - theirs.float()).norm() < 0.03 * theirs.float().norm()


def test_roles_draw_as_they_were_when_decoding_began(tiny_llama):
    backbone = with_role(tiny_llama)
    answers = {}
    for role in (None, "policy"):
        with backbone.use(role):
            answers[role] = sample(backbone, PROMPTS, Sampling(8, temperature=0))
    assert answers[None] != answers["policy"]
    before = {n: p.clone() for n, p in backbone.base.named_parameters()}
    with backbone.use("policy"):
        sample(backbone, PROMPTS, Sampling(4))
    assert all(torch.equal(p, before[n]) for n, p in backbone.base.named_parameters())  # nothing was merged into the base


def test_other_architectures_and_larger_models_go_through_transformers(tiny_gpt2, tiny_llama, monkeypatch):
    assert cpu_decoder(Backbone.load(str(tiny_gpt2)).base, 1, 8) is None
    monkeypatch.setattr(layers, "SMALL", 10)
    assert cpu_decoder(Backbone.load(str(tiny_llama)).base, 1, 8) is None


def test_a_model_whose_numbers_it_misses_goes_through_transformers(tiny_llama):
    base = Backbone.load(str(tiny_llama)).base
    base.model.layers[1].self_attn.scaling *= 8  # the CPU decoder does not see this: it reads the scaling of the first layer alone
    assert cpu_decoder(base, 1, 8) is None
