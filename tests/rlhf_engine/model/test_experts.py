"""Mixtures of experts: the router and the experts, which are parameters and no layers, have adapters as plain PEFT makes them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_engine.cli import main
from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import token_logprobs
from tests.conftest import make_tokenizer, save

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 128, "initializer_range": 0.3, "num_experts_per_tok": 2}
LATENT = {"num_key_value_heads": 4, "n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
          "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8, "n_group": 1, "topk_group": 1}
KINDS = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 4},
    "olmoe": {"num_experts": 4},
    "deepseek_v3": LATENT,
    "gpt_oss": {"num_local_experts": 4, "head_dim": 4},
    "granitemoe": {"num_local_experts": 4},
    "phimoe": {"num_local_experts": 4},
}
IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """model(kind): the folder of a tiny random mixture of experts."""
    place = tmp_path_factory.mktemp("experts")
    tokenizer = make_tokenizer(chat=True)

    def make(kind):
        if not (place / kind).exists():
            torch.manual_seed(0)
            config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2,
                                          **{**SIZES, **KINDS[kind]})
            save(AutoModelForCausalLM.from_config(config), tokenizer, place / kind)
        return place / kind
    return make


def logits(backbone, role):
    with torch.no_grad(), backbone.use(role):
        return backbone.head(backbone.hidden(IDS))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_is_the_one_that_plain_peft_makes(kind, dtype, model, tmp_path):
    backbone = Backbone.load(str(model(kind)), dtype=dtype)
    bare = logits(backbone, None)
    backbone.new_role("policy", rank=2, alpha=8)
    backbone.copy_role("reference", "policy")
    torch.testing.assert_close(logits(backbone, "policy"), bare, rtol=0, atol=0)
    backbone.train("policy")
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    backbone.save_role("policy", tmp_path / "policy")
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model(kind), dtype=backbone.base.dtype), str(tmp_path / "policy"))
    with torch.no_grad():
        expected = plain.eval()(IDS).logits.float()
    assert (expected - bare).abs().max() > 0.1
    if dtype == "bf16":  # a rounding may send a token to another expert
        assert (logits(backbone, "policy") - expected).abs().mean() < 0.05 * expected.abs().mean() + 0.05
    else:
        torch.testing.assert_close(logits(backbone, "policy"), expected, rtol=0, atol=5e-5)
        backbone.copy_role("value", "policy")
        assert torch.equal(logits(backbone, "value"), logits(backbone, "policy"))
    assert torch.equal(logits(backbone, "reference"), bare) and torch.equal(logits(backbone, None), bare)
    with backbone.use("policy"), backbone.checkpointing():
        token_logprobs(backbone, IDS, torch.zeros(7, dtype=torch.long), torch.arange(7)).sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters("policy"))


def test_experts_are_adapted_where_peft_adapts_them(model):
    backbone = Backbone.load(str(model("qwen3_moe")))
    backbone.new_role("policy", rank=2)
    names = backbone.named_parameters("policy")
    for part in ("mlp.gate.lora_A", "mlp.experts.lora_B", "mlp.experts.base_layer.lora_A", "self_attn.q_proj.lora_B"):
        assert f"model.layers.0.{part}.weight" in names
    assert len(names) == 2 * 2 * (4 + 3)


def test_a_router_that_peft_cannot_adapt_has_no_adapter(model, tmp_path):
    """PhiMoE's gives two tensors. PEFT puts an adapter on it, and fails in the first pass."""
    base = model("phimoe")
    backbone = Backbone.load(str(base))
    backbone.new_role("policy", rank=2)
    assert not any("router" in name for name in backbone.named_parameters("policy"))
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        target_modules=["router", "q_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    for other in (backbone, Backbone.load(str(base))):
        with pytest.raises(UserError, match="mlp.router gives more than one tensor"):
            other.load_role("other", tmp_path)
        assert "other" not in other.roles
        logits(other, None)


@pytest.mark.parametrize("kind, block, names", [("mixtral", "block_sparse_moe", ("w1", "w3", "w2")),
                                                ("qwen3_moe", "mlp", ("gate_proj", "up_proj", "down_proj"))])
def test_an_adapter_with_a_matrix_for_each_expert_is_read_as_peft_reads_it(kind, block, names, model, tmp_path):
    """That is how adapters look that were trained with transformers 4."""
    weights, inner = {}, 24 if kind == "mixtral" else 16
    for place in [f"{block}.experts.{expert}.{name}" for expert in range(4) for name in names] + ["self_attn.q_proj"]:
        into, out = (inner, 16) if place.endswith(names[2]) else (16, 16 if "q_proj" in place else inner)
        for layer in range(2):
            weights[f"base_model.model.model.layers.{layer}.{place}.lora_A.weight"] = torch.randn(2, into) / 3
            weights[f"base_model.model.model.layers.{layer}.{place}.lora_B.weight"] = torch.randn(out, 2) / 3
    save_file(weights, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8,
                                                              "target_modules": [*names, "q_proj"]}))
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(model(kind))
        expected = PeftModel.from_pretrained(plain, str(tmp_path)).eval()(IDS).logits
    backbone = Backbone.load(str(model(kind)))
    backbone.load_role("policy", tmp_path)
    backbone.copy_role("reference", "policy")
    torch.testing.assert_close(logits(backbone, "reference"), expected, rtol=0, atol=5e-5)
    assert (expected - logits(backbone, None)).abs().max() > 0.1
    backbone.save_role("reference", tmp_path / "saved")
    backbone.load_role("value", tmp_path / "saved")
    assert torch.equal(logits(backbone, "value"), logits(backbone, "policy"))
    del weights[min(name for name in weights if "experts.2" in name)]
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="does not fit"):
        backbone.load_role("other", tmp_path)


def test_adapters_on_other_experts_beside_each_other_are_refused_in_words(model, tmp_path):
    base = model("qwen3_moe")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(
        target_modules=[], target_parameters=["mlp.experts.down_proj"], task_type="CAUSAL_LM")).save_pretrained(tmp_path)
    backbone = Backbone.load(str(base))
    backbone.new_role("policy", rank=2)
    before = logits(backbone, "policy")
    with pytest.raises(UserError, match="all adapters must target the same set of parameters"):
        backbone.load_role("other", tmp_path)
    assert backbone.roles == ["policy"] and torch.equal(logits(backbone, "policy"), before)


@pytest.mark.parametrize("kind", ["qwen3_moe"])
def test_sft_reward_ppo_and_a_merged_export(kind, model, tmp_path):
    """From the command line; at the first step the policy is its reference."""
    words = ["dog", "cat", "bird", "girl"]
    rows = {"demos": [{"prompt": f"the {w}", "completion": "was happy ."} for w in words],
            "pairs": [{"prompt": f"the {w}", "chosen": "was happy .", "rejected": f"the sad {w} ."} for w in words],
            "prompts": [{"prompt": f"the {w}"} for w in words]}
    for name, lines in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def run(command, data, *flags):
        shared = ["--model", str(model(kind)), "--data", str(tmp_path / f"{data}.jsonl"), "--output", str(tmp_path / command)]
        assert main([command, *shared, "--batch-size", "4", *flags]) == 0
    adapter = ["--adapter", str(tmp_path / "sft")]
    run("sft", "demos", "--epochs", "2", "--lora-rank", "2", "--learning-rate", "0.01")
    run("reward", "pairs", "--epochs", "1", "--reference-samples", "4", "--max-new-tokens", "4", *adapter)
    run("ppo", "prompts", "--steps", "1", "--max-new-tokens", "4", "--reference-samples", "4", "--ppo-epochs", "1",
        "--minibatches", "1", "--reward", str(tmp_path / "reward"), *adapter)
    row = json.loads((tmp_path / "ppo" / "metrics.jsonl").read_text().splitlines()[0])
    assert row["objective/kl"] == pytest.approx(0, abs=1e-4) and row["val/ratio"] == pytest.approx(1, abs=1e-4)
    assert main(["export", "--model", str(model(kind)), *adapter, "--merge", "--output", str(tmp_path / "merged")]) == 0
    backbone = Backbone.load(str(model(kind)))
    backbone.load_role("policy", tmp_path / "sft" / "checkpoints" / "last" / "policy")
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()(IDS).logits
    torch.testing.assert_close(logits(backbone, "policy"), merged, rtol=0, atol=5e-5)
