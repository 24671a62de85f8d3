"""Models beyond the small ones are decoded from packed weights of the base, with the role in use beside them."""

import gc

import pytest
import torch

from rlhf_engine.model import fast_layers as layers
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import cpu_decoder
from rlhf_engine.model.decoders import CachedDecoder
from rlhf_engine.model.decoding import products, weights
from rlhf_engine.model.generation import Sampling, sample
from tests.rlhf_engine.model.test_cpu_decoder import PROMPTS, check_logits, run, with_role

pytestmark = pytest.mark.skipif(not products.can_pack(torch.float32), reason="this PyTorch packs no weights")


@pytest.fixture(autouse=True)
def nothing_is_small(monkeypatch):
    """Tiny models count as larger ones."""
    monkeypatch.setattr(layers, "SMALL", 10_000)


@pytest.mark.parametrize("role", [None, "policy"])
@pytest.mark.parametrize("model", ["tiny_llama", "tiny_qwen3"])
@torch.no_grad()
def test_logits_are_those_of_the_model(model, role, request):
    backbone = with_role(request.getfixturevalue(model))
    check_logits(backbone, role)
    assert backbone.base in weights.PACKED


@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
@torch.no_grad()
def test_it_stays_within_the_rounding_of_smaller_formats(tiny_llama, dtype):
    if not products.can_pack(torch.bfloat16):
        pytest.skip("this CPU packs no weights in bf16")
    backbone = with_role(tiny_llama, dtype)
    with backbone.use("policy"):
        decoder = cpu_decoder(backbone.base, 3, 16)
        assert decoder is not None and backbone.base in weights.PACKED
        for ours, theirs in zip(run(decoder), run(CachedDecoder(backbone.base))):
            assert (ours - theirs).float().norm() < 0.03 * theirs.float().norm()


def test_greedy_tokens_are_those_of_generate(tiny_llama):
    backbone = with_role(tiny_llama)
    backbone.stop_ids = [-1]
    with backbone.use("policy"):
        ours = sample(backbone, PROMPTS, Sampling(12, temperature=0))
        for prompt, answer in zip(PROMPTS, ours):
            whole = backbone.base.generate(input_ids=torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
                                           max_new_tokens=12, min_new_tokens=12, pad_token_id=0)
            assert answer == whole[0, len(prompt):].tolist()


def test_the_base_is_packed_once_for_all_roles(tiny_llama, monkeypatch):
    backbone = with_role(tiny_llama)
    sample(backbone, PROMPTS, Sampling(2))
    kept = weights.PACKED[backbone.base]
    monkeypatch.setattr(weights, "base_product", None)
    with backbone.use("policy"):
        sample(backbone, PROMPTS, Sampling(2))
    with torch.no_grad():
        backbone.parameters("policy")[1].add_(1)  # a role that was trained needs no new copy either
    with backbone.use("policy"):
        sample(backbone, PROMPTS, Sampling(2))
    assert weights.PACKED[backbone.base] is kept
    linears = [m for name, m in backbone.base.named_modules() if type(m) is torch.nn.Linear and "lora" not in name]
    assert kept.bytes == 4 * sum(m.weight.numel() for m in linears)


def test_a_role_that_changed_is_decoded_as_it_is_now(tiny_llama):
    backbone = with_role(tiny_llama)
    with backbone.use("policy"):
        before = sample(backbone, PROMPTS, Sampling(8, temperature=0))
        with torch.no_grad():
            for parameter in backbone.parameters("policy"):
                parameter.mul_(-2)
        after = sample(backbone, PROMPTS, Sampling(8, temperature=0))
        assert after != before
        assert after == [greedy_without_cache(backbone, prompt, 8) for prompt in PROMPTS]


@torch.no_grad()
def greedy_without_cache(backbone: Backbone, prompt: list[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(int(backbone.head(backbone.hidden(torch.tensor([ids])))[0, -1].argmax()))
        if ids[-1] in backbone.stop_ids:
            break
    return ids[len(prompt):]


def test_weights_of_the_base_that_changed_are_packed_anew(tiny_llama):
    backbone = with_role(tiny_llama)
    sample(backbone, PROMPTS, Sampling(2))
    with torch.no_grad():
        backbone.base.model.layers[0].mlp.down_proj.weight.mul_(-3)
    assert sample(backbone, PROMPTS, Sampling(8, temperature=0)) == [greedy_without_cache(backbone, prompt, 8) for prompt in PROMPTS]


def test_the_copy_goes_when_memory_is_short_and_comes_back_the_same(tiny_llama, monkeypatch):
    backbone = with_role(tiny_llama)
    draw = lambda: sample(backbone, PROMPTS, Sampling(8), torch.Generator().manual_seed(0))  # noqa: E731
    first = draw()
    assert backbone.base in weights.PACKED
    monkeypatch.setattr(weights, "free_memory", lambda: 0)
    assert draw() == first and backbone.base not in weights.PACKED
    assert draw() == first


def test_the_copy_goes_with_the_model(tiny_llama):
    backbone = with_role(tiny_llama)
    sample(backbone, PROMPTS, Sampling(2))
    count = len(weights.PACKED)
    del backbone
    gc.collect()
    assert len(weights.PACKED) == count - 1


def test_answers_do_not_depend_on_batch_mates(tiny_llama):
    backbone = with_role(tiny_llama)
    with backbone.use("policy"):
        together = sample(backbone, PROMPTS, Sampling(10, temperature=0))
        assert together == [sample(backbone, [prompt], Sampling(10, temperature=0))[0] for prompt in PROMPTS]


def test_a_model_in_another_format_goes_through_transformers(tiny_llama):
    base = Backbone.load(str(tiny_llama)).base.to(torch.float16)
    assert not layers.is_packable(base) and cpu_decoder(base, 1, 8) is None


def test_without_packed_weights_larger_models_go_through_transformers_and_small_ones_multiply_plainly(tiny_llama, monkeypatch):
    monkeypatch.setattr("rlhf_engine.model.cpu_decoder.can_pack", lambda dtype: False)
    monkeypatch.setattr(products, "can_pack", lambda dtype: False)
    backbone = with_role(tiny_llama)
    assert cpu_decoder(backbone.base, 1, 8) is None
    monkeypatch.setattr(layers, "SMALL", 10**8)
    backbone = with_role(tiny_llama)
    with backbone.use("policy"), torch.no_grad():
        for ours, theirs in zip(run(cpu_decoder(backbone.base, 3, 16)), run(CachedDecoder(backbone.base))):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


# -- parts -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_formula(packed, biased, monkeypatch):
    if not packed:
        monkeypatch.setattr(products, "can_pack", lambda dtype: False)
    weight, x, onto = torch.randn(48, 32), torch.randn(5, 32), torch.randn(5, 48)
    bias = torch.randn(48) if biased else None
    low, up = torch.randn(32, 3), torch.randn(3, 48)
    linear = products.Linear(products.make_product(weight, bias), low, up)
    before = onto.clone()
    expected = x.double() @ weight.double().T + (0 if bias is None else bias.double()) + x.double() @ low.double() @ up.double() + onto.double()
    torch.testing.assert_close(linear(x, onto).double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(onto, before) and linear.product.packed is packed


def test_the_matrices_of_a_role_are_those_of_its_layers_and_small_changes_are_not_rounded_away(tiny_llama):
    """A copy of base and role in bf16 would lose all of this: each change is below half a unit in the last place."""
    backbone = Backbone.load(str(tiny_llama), dtype="bf16")
    backbone.new_role("policy", rank=4)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters("policy").items():
            parameter.copy_(1e-3 * torch.randn(parameter.shape) if "lora_B" in name else 0.1 * torch.randn(parameter.shape))
    with backbone.use("policy"), torch.no_grad():
        mlp = backbone.base.model.layers[0].mlp
        joint = weights.Joint((mlp.gate_proj, mlp.up_proj))
        linear = weights.with_role(weights.base_product(joint, torch.bfloat16), joint, torch.bfloat16)
        changes = torch.cat([module.get_delta_weight("policy") for module in joint.modules])
    assert linear.low is not None and linear.up is not None
    found = (linear.low.float() @ linear.up.float()).T
    assert (found - changes).norm() < 0.01 * changes.norm()
