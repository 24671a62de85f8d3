"""The faster layers give what PEFT's and PyTorch's own give, values and gradients."""

import types

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf_engine.model import fast_layers as layers
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.lora.layers import speed_up


def shapes(groups: int, length: int = 9, dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(0)
    sizes = ((3, 4, length, 8), (3, groups, length, 8), (3, groups, length, 8))
    return [torch.randn(size, generator=generator).to(dtype).requires_grad_() for size in sizes]


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_short_rows_attend_as_the_formula_says(groups):
    query, key, value = shapes(groups)
    ours, _ = layers.attend(types.SimpleNamespace(num_key_value_groups=4 // groups), query, key, value, None, scaling=0.3)
    q, k, v = (x.detach().double().requires_grad_() for x in (query, key, value))
    scores = torch.einsum("bhtd,bhsd->bhts", q, k.repeat_interleave(4 // groups, 1)) * 0.3
    scores = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    theirs = torch.einsum("bhts,bhsd->bthd", scores.softmax(-1), v.repeat_interleave(4 // groups, 1))
    torch.testing.assert_close(ours.double(), theirs, rtol=0.02, atol=0.02)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for mine, other in ((query, q), (key, k), (value, v)):
        assert (mine.grad.double() - other.grad).norm() < 0.02 * other.grad.norm()


def test_a_mask_to_add_goes_through_plain_products(monkeypatch):
    query, key, value = shapes(2)
    generator = torch.Generator().manual_seed(2)
    seen = (torch.rand(3, 1, 9, 9, generator=generator) < 0.5) | torch.eye(9, dtype=torch.bool)
    mask = torch.zeros(seen.shape, dtype=query.dtype).masked_fill(~seen, torch.finfo(query.dtype).min)
    theirs = F.scaled_dot_product_attention(query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), attn_mask=seen, scale=0.3)
    monkeypatch.setattr(layers, "sdpa_attention_forward", None)
    ours, _ = layers.attend(types.SimpleNamespace(num_key_value_groups=2), query, key, value, mask, scaling=0.3)
    torch.testing.assert_close(ours, theirs.transpose(1, 2), rtol=0.02, atol=0.02)


def test_the_output_layer_reads_states_in_one_piece(tiny_model):
    """The last states of several rows have gaps between them, for which PyTorch copies the weight once per row."""
    backbone = Backbone.load(str(tiny_model))
    pieces = []
    backbone.base.get_output_embeddings().register_forward_pre_hook(lambda module, inputs: pieces.append(inputs[0].is_contiguous()))
    ids = torch.randint(5, 60, (3, 7))
    with torch.no_grad():
        last, whole = backbone.base(ids, logits_to_keep=1).logits, backbone.base(ids).logits
    assert pieces == [True, True]
    torch.testing.assert_close(last[:, 0], whole[:, -1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", ["fp32", "mask", "long", "one query"])
def test_all_else_is_left_to_pytorch(monkeypatch, case):
    query, key, value = shapes(4, dtype=torch.float32 if case == "fp32" else torch.bfloat16)
    if case == "long":
        monkeypatch.setattr(layers, "SHORT", 8)
    if case == "one query":
        query = query[:, :, -1:]
    mask = torch.ones(3, 1, 9, 9, dtype=torch.bool) if case == "mask" else None
    monkeypatch.setattr(torch, "baddbmm", None)  # what the plain products would call
    module = types.SimpleNamespace(num_key_value_groups=1, is_causal=True)
    ours, _ = layers.attend(module, query, key, value, mask, scaling=0.3)
    theirs = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None and case != "one query", scale=0.3)
    torch.testing.assert_close(ours, theirs.transpose(1, 2))


def test_a_model_in_bf16_gives_the_logits_of_its_stock_attention(tiny_llama):
    backbone = Backbone.load(str(tiny_llama), dtype="bf16")
    ids = torch.randint(3, backbone.vocabulary, (2, 30), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = backbone.base(input_ids=ids).logits.float()
        assert backbone.base.config._attn_implementation == layers.ATTENTION
        backbone.base.set_attn_implementation("sdpa")
        theirs = backbone.base(input_ids=ids).logits.float()
    assert 0 < (ours - theirs).norm() < 0.02 * theirs.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_frozen_norm_is_transformers_own(dtype):
    generator = torch.Generator().manual_seed(0)
    stock = LlamaRMSNorm(8, eps=0.1).to(dtype)
    stock.weight = nn.Parameter(torch.randn(8, generator=generator).to(dtype), requires_grad=False)
    x, weights = (torch.randn(2, 3, 8, generator=generator).to(dtype) for _ in range(2))
    found = []
    for norm in (stock, lambda x: layers.FrozenNorm.apply(x, stock.weight, 0.1)):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        (out * weights).sum().backward()
        found.append((out.detach(), leaf.grad))
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_a_frozen_norm_has_the_gradient_of_the_formula():
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.arange(15.0).view(3, 5)
    (layers.FrozenNorm.apply(x, torch.full((5,), 0.7), 0.1) * weights).sum().backward()
    ours, x.grad = x.grad, None
    (0.7 * x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * weights).sum().backward()
    torch.testing.assert_close(ours, x.grad, rtol=1e-5, atol=1e-5)


def test_the_norms_of_a_model_are_replaced_and_give_its_logits(tiny_qwen3):
    ids = torch.randint(3, 60, (2, 12), generator=torch.Generator().manual_seed(0))
    backbone = Backbone.load(str(tiny_qwen3))
    replaced = [m for m in backbone.base.modules() if "RMSNorm" in type(m).__name__]
    assert replaced and all("forward" in vars(m) for m in replaced)
    with torch.no_grad():
        ours = backbone.base(input_ids=ids).logits
        for module in replaced:
            del module.forward
        torch.testing.assert_close(ours, backbone.base(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


class One(nn.Module):
    """A module with one linear layer."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 4)


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"lora_dropout": 0.5}, {"use_dora": True}, {"lora_bias": True}])
def test_lora_is_pefts_own(options):
    torch.manual_seed(0)
    model = get_peft_model(One(), LoraConfig(r=3, lora_alpha=5, target_modules=["inner"], **options)).eval()
    layer = model.base_model.model.inner
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_()
    x = torch.randn(2, 5, 6, requires_grad=True)
    found = []
    for fast in (False, True):
        if fast:
            speed_up(layer)
        out = layer(x)
        out.square().sum().backward()
        found.append([out.detach(), x.grad.clone(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
        x.grad = None
        model.zero_grad()
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


def test_without_the_role_a_layer_is_the_base(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        before = backbone.hidden(ids)
        backbone.new_role("policy", rank=2)
        for p in backbone.parameters("policy"):
            p.normal_()
        with backbone.use(None):
            assert torch.equal(backbone.hidden(ids), before)
        with backbone.use("policy"):
            assert not torch.allclose(backbone.hidden(ids), before)
