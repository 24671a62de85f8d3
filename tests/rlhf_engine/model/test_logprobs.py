"""Log-probabilities against the model's own logits, values and gradients, and their indifference to padding."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_engine.model import logprobs as module
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import pad_right, read_tokens, response_positions

PROMPTS, RESPONSES = [[5, 6, 7], [8, 9], [10, 11, 12, 13]], [[20, 21], [22, 23, 24, 25], [26]]


def measured(backbone, temperature=1.0, order=(0, 1, 2), pad=None):
    rows = [PROMPTS[i] + RESPONSES[i] for i in order]
    ids = pad_right(rows, backbone.pad_id if pad is None else pad, backbone.device)
    where = response_positions([len(PROMPTS[i]) for i in order], [len(RESPONSES[i]) for i in order], ids.device)
    tokens = read_tokens(backbone, ids, *where, temperature, entropy=True)
    return tokens.logprobs, tokens.entropy


def expected(backbone, temperature=1.0):
    """Row by row, without any padding, from the full softmax in double precision."""
    values, entropies = [], []
    for prompt, response in zip(PROMPTS, RESPONSES):
        logits = backbone.base(input_ids=torch.tensor([prompt + response])).logits[0].double() / temperature
        logp = logits.log_softmax(-1)
        for i, token in enumerate(response):
            row = logp[len(prompt) - 1 + i]
            values.append(row[token])
            entropies.append(-(row.exp() * row).sum())
    return torch.stack(values), torch.stack(entropies)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_values_and_entropy_against_the_full_softmax(tiny_model, temperature):
    backbone = Backbone.load(str(tiny_model))
    ours, entropy = measured(backbone, temperature)
    theirs, their_entropy = expected(backbone, temperature)
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=1e-5)
    torch.testing.assert_close(entropy.double(), their_entropy, rtol=0, atol=1e-5)


def test_pad_token_and_pad_equal_to_end_make_no_difference(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    values = [measured(backbone, pad=pad)[0] for pad in (0, backbone.stop_ids[0], 33)]
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_change_neither_values_nor_gradients(tiny_llama, monkeypatch, chunk):
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", rank=2)
    backbone.train("policy")
    found = []
    for size in (chunk, 1 << 30):
        monkeypatch.setattr(module, "chunk_size", lambda device, vocabulary, size=size: size)
        with backbone.use("policy"):
            values, _ = measured(backbone)
            (values * torch.arange(1.0, 1 + len(values))).sum().backward()
        found.append((values.detach(), {n: p.grad.clone() for n, p in backbone.named_parameters("policy").items()}))
        for p in backbone.parameters("policy"):
            p.grad = None
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        assert (gradient - found[1][1][name]).norm() <= 1e-3 * found[1][1][name].norm()
    assert any(g.abs().max() > 0 for g in found[0][1].values())


def test_the_entropy_has_the_gradient_of_the_full_softmax(tiny_llama, monkeypatch):
    monkeypatch.setattr(module, "chunk_size", lambda device, vocabulary: 3)
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy", rank=2)
    backbone.train("policy")
    found = []
    for entropies in (lambda: measured(backbone)[1], lambda: expected(backbone)[1]):
        with backbone.use("policy"):
            entropies().sum().backward()
        found.append({n: p.grad.clone() for n, p in backbone.named_parameters("policy").items()})
        for p in backbone.parameters("policy"):
            p.grad = None
    for name, gradient in found[0].items():
        assert (gradient - found[1][name]).norm() <= 1e-3 * found[1][name].norm() + 1e-9, name
    assert any(g.abs().max() > 0 for g in found[0].values())


def test_the_hidden_states_are_those_the_head_reads(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    ids = pad_right([p + r for p, r in zip(PROMPTS, RESPONSES)], backbone.pad_id, backbone.device)
    rows, columns = response_positions(list(map(len, PROMPTS)), list(map(len, RESPONSES)), ids.device)
    with torch.no_grad():
        tokens = read_tokens(backbone, ids, rows, columns)
        assert torch.equal(tokens.hidden, backbone.hidden(ids)[rows, columns])
        assert tokens.entropy is None


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_gradient_is_that_of_plain_autograd_on_the_logits(tiny_model, temperature):
    backbone = Backbone.load(str(tiny_model))
    backbone.new_role("policy", rank=2)
    backbone.train("policy")
    with backbone.use("policy"):
        measured(backbone, temperature)[0].sum().backward()
        ours = {n: p.grad.clone() for n, p in backbone.named_parameters("policy").items()}
        for p in backbone.parameters("policy"):
            p.grad = None
        expected(backbone, temperature)[0].sum().backward()
    for name, p in backbone.named_parameters("policy").items():
        torch.testing.assert_close(ours[name], p.grad, rtol=1e-4, atol=1e-5)


def test_an_output_layer_with_an_adapter_learns(tiny_llama, tmp_path):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), LoraConfig(r=2, target_modules=["lm_head", "q_proj"]))
    model.save_pretrained(tmp_path, save_embedding_layers=False)
    backbone = Backbone.load(str(tiny_llama))
    backbone.load_role("policy", tmp_path)
    backbone.train("policy")
    with backbone.use("policy"):
        ours, theirs = measured(backbone), expected(backbone)
        torch.testing.assert_close(ours[0].double(), theirs[0], rtol=0, atol=1e-5)
        ours[0].sum().backward()
    gradients = {name: p.grad for name, p in backbone.named_parameters("policy").items()}
    assert gradients["lm_head.lora_B.weight"].abs().max() > 0


def test_positions_are_those_before_each_response_token():
    rows, columns = response_positions([3, 1], [2, 3], "cpu")
    assert rows.tolist() == [0, 0, 1, 1, 1] and columns.tolist() == [2, 3, 0, 1, 2]
