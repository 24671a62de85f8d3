"""Roles on one base: who is active, who gets gradients, what is saved, and what is refused."""

import json
from pathlib import Path

import bitsandbytes
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mamba2Config

from benchmarks.helpers.common import SHAPES, random_model
from benchmarks.helpers.common import make_tokenizer as words
from rlhf_engine.errors import UserError
from rlhf_engine.model import fast_layers as layers
from rlhf_engine.model.adapters import ScalarHead
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.generation import Sampling, sample
from rlhf_engine.model.logprobs import token_logprobs
from rlhf_engine.runs.resolve import fingerprint, resolve_adapter, resolve_model
from tests.conftest import make_tokenizer, save

IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])
ROWS, COLUMNS = torch.tensor([0, 0, 0]), torch.tensor([2, 3, 4])


def logprobs(backbone, role):
    with backbone.use(role):
        return token_logprobs(backbone, IDS, ROWS, COLUMNS)


def four_roles(path, dtype="fp32") -> Backbone:
    backbone = Backbone.load(str(path), dtype=dtype)
    backbone.new_role("policy", rank=4)
    backbone.copy_role("reference", "policy")
    backbone.copy_role("value", "policy")
    backbone.new_head("value")
    backbone.train("policy", "value")
    return backbone


def gradients(backbone, role):
    return {n: p.grad.clone() for n, p in backbone.named_parameters(role).items() if p.grad is not None}


def clear(backbone):
    for role in backbone.roles:
        for p in backbone.parameters(role):
            p.grad = None


def perturb(backbone, role, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in backbone.parameters(role):
            p.add_(0.05 * torch.randn(p.shape, generator=generator))


def test_a_new_role_is_the_base(tiny_model):
    backbone = four_roles(tiny_model)
    assert torch.equal(logprobs(backbone, "policy"), logprobs(backbone, None))
    perturb(backbone, "policy")
    assert not torch.allclose(logprobs(backbone, "policy"), logprobs(backbone, None))
    assert torch.equal(logprobs(backbone, "reference"), logprobs(backbone, None))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "nf4"])
def test_everything_trainable_is_fp32_and_the_base_is_frozen(tiny_model, dtype):
    backbone = four_roles(tiny_model, dtype)
    trainable = {n for n, p in backbone.base.named_parameters() if p.requires_grad}
    assert trainable and all(".policy." in n or ".value." in n for n in trainable)
    for role in backbone.roles:
        assert {p.dtype for p in backbone.parameters(role)} == {torch.float32}


def test_policy_gradient_is_unchanged_by_passes_of_other_roles_in_between(tiny_model):
    backbone = four_roles(tiny_model)
    with backbone.use("policy"):
        token_logprobs(backbone, IDS, ROWS, COLUMNS).sum().backward()
    alone = gradients(backbone, "policy")
    clear(backbone)
    with backbone.use("policy"):
        loss = token_logprobs(backbone, IDS, ROWS, COLUMNS).sum()
        with backbone.use("value"):
            backbone.heads["value"](backbone.hidden(IDS)).sum().backward()
        with torch.no_grad():
            logprobs(backbone, "reference")
        loss.backward()
    between = gradients(backbone, "policy")
    assert alone.keys() == between.keys() and len(alone) > 0
    assert any(g.abs().max() > 0 for g in alone.values())
    for name in alone:
        assert torch.equal(alone[name], between[name])
    assert all(p.grad is None for p in backbone.parameters("reference"))
    assert any(g.abs().max() > 0 for g in gradients(backbone, "value").values())


def test_reference_is_bit_equal_after_policy_steps(tiny_model):
    backbone = four_roles(tiny_model)
    perturb(backbone, "policy")
    perturb(backbone, "reference", seed=1)
    before = logprobs(backbone, "reference")
    optimizer = torch.optim.Adam(backbone.parameters("policy"), lr=1e-2)
    for _ in range(5):
        with backbone.use("policy"):
            token_logprobs(backbone, IDS, ROWS, COLUMNS).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(before, logprobs(backbone, "reference"))
    assert not torch.allclose(logprobs(backbone, "policy"), before)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("dtype", ["fp32", "nf4"])
def test_gradients_after_a_rollout_equal_those_before_it(tiny_model, dtype, small, monkeypatch):
    if not small:
        monkeypatch.setattr(layers, "SMALL", 0)  # a model that is not unpacked and not decoded from a copy
    backbone = four_roles(tiny_model, dtype)
    perturb(backbone, "policy")

    def gradient():
        clear(backbone)
        with backbone.use("policy"):
            values = token_logprobs(backbone, IDS, ROWS, COLUMNS)
            values.sum().backward()
        return values.detach(), gradients(backbone, "policy")

    value_before, before = gradient()
    with backbone.use("policy"):
        sample(backbone, [[5, 6, 7], [8, 9]], Sampling(8), torch.Generator().manual_seed(0))
    value_after, after = gradient()
    assert torch.equal(value_before, value_after)
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_unpacked_four_bit_layers_give_what_bitsandbytes_gives(tiny_model, monkeypatch):
    found = []
    for small in (True, False):
        if not small:
            monkeypatch.setattr(layers, "SMALL", 0)
        backbone = four_roles(tiny_model, "nf4")
        perturb(backbone, "policy")
        values = logprobs(backbone, "policy")
        values.sum().backward()
        found.append((values.detach(), gradients(backbone, "policy")))
    (ours, our_gradients), (theirs, their_gradients) = found
    assert torch.allclose(ours, theirs, atol=0.02)
    assert all((our_gradients[n] - g).norm() <= 0.02 * g.norm() for n, g in their_gradients.items())


def test_nf4_is_four_bit_and_close_to_fp32(tiny_llama):
    backbone = Backbone.load(str(tiny_llama), dtype="nf4")
    kinds = {type(m).__name__ for m in backbone.base.modules()}
    assert "Linear4bit" in kinds
    exact = Backbone.load(str(tiny_llama), dtype="fp32")
    a, b = logprobs(backbone, None), logprobs(exact, None)
    assert 0 < (a - b).abs().mean() < 1.0


@pytest.mark.parametrize("dtype", ["bf16", "nf4"])
def test_the_random_base_of_the_gpu_benchmark_is_built_as_a_loaded_one(tmp_path, dtype):
    """Else it would measure something else than what a user has."""
    cpu = torch.device("cpu")
    tokenizer = words(SHAPES["tiny"]["vocab_size"])
    random_model("CausalLM", "tiny", "bf16", cpu).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    made = Backbone(random_model("CausalLM", "tiny", dtype, cpu), tokenizer, name="tiny", path=tmp_path, dtype=dtype)
    loaded = Backbone.load(str(tmp_path), dtype=dtype, device="cpu")
    found = []
    for backbone in (made, loaded):
        assert backbone.base.lm_head.weight is backbone.base.model.embed_tokens.weight
        backbone.new_role("policy", rank=2)
        states = {n: m.weight.quant_state for n, m in backbone.base.named_modules() if type(m) is bitsandbytes.nn.Linear4bit}
        assert len(states) == (14 if dtype == "nf4" else 0)
        found.append(({n: type(m) for n, m in backbone.base.named_modules()},
                      {n: (type(p), p.dtype, p.shape, p.requires_grad) for n, p in backbone.base.named_parameters()},
                      {n: (s.quant_type, s.nested, s.blocksize, s.dtype, s.shape, s.state2.blocksize) for n, s in states.items()},
                      {n: (b.dtype, b.tolist()) for n, b in backbone.base.named_buffers()}, backbone.stop_ids, backbone.pad_id))
    assert found[0] == found[1]


def test_gradient_checkpointing_gives_the_same_gradient(tiny_model):
    backbone = four_roles(tiny_model)
    perturb(backbone, "policy")
    found = []
    for enabled in (False, True):
        clear(backbone)
        with backbone.checkpointing(enabled), backbone.use("policy"):
            token_logprobs(backbone, IDS, ROWS, COLUMNS).sum().backward()
        found.append(gradients(backbone, "policy"))
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])
    assert not any(m.training for m in backbone.base.modules())


def test_dropout_of_the_base_is_off(tiny_gpt2):
    backbone = four_roles(tiny_gpt2)
    assert torch.equal(logprobs(backbone, "policy"), logprobs(backbone, "policy"))
    assert not any(m.training for m in backbone.base.modules() if isinstance(m, torch.nn.Dropout))


def test_peft_loads_what_we_save_with_the_same_log_probabilities(tiny_model, tmp_path):
    backbone = four_roles(tiny_model)
    perturb(backbone, "policy")
    backbone.save_role("policy", tmp_path / "checkpoint" / "policy")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), tmp_path / "checkpoint" / "policy")
    peft.eval()
    with torch.no_grad():
        theirs = peft(input_ids=IDS).logits.log_softmax(-1)[0, 2:5].gather(-1, IDS[0, 3:6, None])[:, 0]
        ours = logprobs(backbone, "policy")
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_save_and_load_bring_back_adapter_and_head(tiny_llama, tmp_path):
    backbone = four_roles(tiny_llama)
    perturb(backbone, "value")
    backbone.heads["value"].gain.fill_(2.0)
    backbone.name = "the/name"  # what was asked for, not where this machine keeps it
    backbone.drop_role("reference")
    backbone.copy_role("reference", "policy")
    backbone.save_role("reference", tmp_path / "reference")
    assert json.loads((tmp_path / "reference" / "adapter_config.json").read_text())["base_model_name_or_path"] == "the/name"
    backbone.save_role("value", tmp_path / "value")
    other = Backbone.load(str(tiny_llama))
    other.load_role("reward", tmp_path / "value", head=True)
    for name, p in backbone.named_parameters("value").items():
        assert torch.equal(p, other.named_parameters("reward")[name])
    assert other.heads["reward"].gain == 2.0
    assert not any(p.requires_grad for p in other.parameters("reward"))


def test_dropping_roles_leaves_the_others_alone(tiny_llama):
    backbone = four_roles(tiny_llama)
    perturb(backbone, "policy")
    before = logprobs(backbone, "policy").detach()
    backbone.drop_role("reference")
    backbone.drop_role("value")
    assert backbone.roles == ["policy"] and "value" not in backbone.heads
    assert torch.equal(before, logprobs(backbone, "policy").detach())
    bare = logprobs(backbone, None).detach()
    backbone.drop_role("policy")
    assert backbone.roles == [] and torch.equal(bare, logprobs(backbone, None))
    backbone.new_role("another")
    assert backbone.roles == ["another"], "roles that are gone do not come back with the next one"


def test_dropping_another_role_keeps_the_one_in_use(tiny_llama):
    backbone = four_roles(tiny_llama)
    perturb(backbone, "policy")
    before = logprobs(backbone, "policy").detach()
    with backbone.use("policy"):
        backbone.drop_role("value")
        assert torch.equal(token_logprobs(backbone, IDS, ROWS, COLUMNS).detach(), before)


def test_an_adapter_of_another_base_is_refused_by_its_fingerprint(tiny_llama, tiny_qwen3, tmp_path):
    backbone = four_roles(tiny_llama)
    backbone.save_role("policy", tmp_path / "policy")
    other = Backbone.load(str(tiny_qwen3))
    with pytest.raises(UserError, match="another base"):
        other.load_role("policy", tmp_path / "policy")
    (tmp_path / "policy" / "base.json").unlink()  # a foreign PEFT folder: names and shapes decide
    with pytest.raises(UserError, match="does not fit"):
        Backbone.load(str(tiny_qwen3)).load_role("policy", tmp_path / "policy")


def tiny_mamba(folder: Path) -> Path:
    config = Mamba2Config(vocab_size=400, hidden_size=32, state_size=8, num_heads=4, head_dim=16, num_hidden_layers=2, n_groups=1)
    return save(AutoModelForCausalLM.from_config(config), make_tokenizer(chat=False), folder)


def test_an_architecture_that_lora_does_not_fit_is_refused_in_words(tmp_path, monkeypatch):
    backbone = Backbone.load(str(tiny_mamba(tmp_path / "mamba")))
    monkeypatch.setattr("rlhf_engine.model.backbone.layers_read_directly", lambda frozen: [])
    with pytest.raises(UserError, match="mamba: LoRA does not fit this architecture .*out_proj.*choose a transformer"):
        backbone.new_role("policy")
    assert backbone.roles == []


def test_layers_that_a_model_reads_past_an_adapter_have_none(tmp_path):
    backbone = Backbone.load(str(tiny_mamba(tmp_path / "mamba")))
    backbone.new_role("policy")
    names = {name.split(".lora_")[0] for name in backbone.named_parameters("policy")}
    assert names == {f"backbone.layers.{i}.mixer.in_proj" for i in range(2)}


def test_fingerprint_depends_on_weights_alone(tiny_llama, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        weights = load_file(tiny_llama / "model.safetensors")
        if name == "b":
            weights["model.norm.weight"] = weights["model.norm.weight"] + 1e-3
        save_file(weights, tmp_path / name / "model.safetensors", metadata={"format": "pt"})
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    assert Backbone.load(str(tiny_llama), dtype="bf16").fingerprint == fingerprint(tiny_llama)


def test_pickled_weights_are_never_loaded(tiny_llama, tmp_path):
    (tmp_path / "config.json").write_text((tiny_llama / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match="safetensors"):
        resolve_model(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"anything")
    with pytest.raises(UserError, match="pickled"):
        Backbone.load(str(tiny_llama)).load_role("policy", tmp_path)


@pytest.mark.parametrize("model", ["/no/such/folder", "./missing", "justaword", "a/b/c"])
def test_a_model_that_is_none_is_named_in_one_line(model):
    with pytest.raises(UserError, match="no such model") as caught:
        resolve_model(model)
    assert "\n" not in str(caught.value) and model in str(caught.value)


def test_adapter_words(tmp_path):
    assert resolve_adapter("none") is None
    with pytest.raises(UserError, match="belongs to --model bundled"):
        resolve_adapter("bundled", "other/model")
    with pytest.raises(UserError, match="no such adapter"):
        resolve_adapter(str(tmp_path))


def test_head_is_initialised_as_ziegler_says():
    weight = ScalarHead(4096, generator=torch.Generator().manual_seed(0)).weight
    assert weight.std().item() == pytest.approx(1 / 4097**0.5, rel=0.05)
    assert ScalarHead(8, zero=True)(torch.ones(2, 3, 8)).abs().max() == 0
