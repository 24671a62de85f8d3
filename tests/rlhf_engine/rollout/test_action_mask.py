"""The mask of NLPO: its sets and log-probabilities against plain loops, its gradients against autograd, and two decoders side by side."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rlhf_engine.errors import NotFinite
from rlhf_engine.model import decoders, generation
from rlhf_engine.model import logprobs as reading
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.cpu_decoder import CpuDecoder
from rlhf_engine.model.generation import Sampling, pad_left, sample
from rlhf_engine.rollout.action_mask import (
    ROLE,
    ActionMask,
    MaskedDecoder,
    MaskReadings,
    TokenSets,
    default_tokens_kept,
    special_tokens,
)
from rlhf_engine.rollout.rollout import Batch, make_rollout, measure

ROWS = [([5, 6, 7], [20, 21, 3]), ([8, 9], [22, 23, 24, 25]), ([10, 11, 12, 13], [26])]


def plain_set(logits: list[float], top_p: float, temperature: float, least: int, always=()) -> set[int]:
    """The set by its definition: tokens in order of probability until their sum reaches top_p."""
    top = max(logits)
    weights = [math.exp((z - top) / temperature) for z in logits]
    total, found = 0.0, set(always)
    for count, token in enumerate(sorted(range(len(logits)), key=lambda i: -logits[i])):
        if total >= top_p and count >= least:
            break
        found.add(token)
        total += weights[token] / sum(weights)
    return found


def make(path, spread=0.1, dtype="fp32") -> Backbone:
    """A model whose policy and mask policy are two different adapters."""
    backbone = Backbone.load(str(path), dtype=dtype)
    backbone.new_role("policy", rank=4)
    backbone.copy_role(ROLE, "policy")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in [*backbone.parameters("policy"), *backbone.parameters(ROLE)]:
            p.add_(spread * torch.randn(p.shape, generator=generator))
    backbone.train("policy")
    return backbone


def rollout_of(backbone):
    return make_rollout(backbone, ["a", "b", "c"], [p for p, _ in ROWS], [r for _, r in ROWS])


def plain_logits(backbone, role, prompt, response) -> torch.Tensor:
    """[tokens, V] in double precision, of one row without padding."""
    with backbone.use(role):
        logits = backbone.base(input_ids=torch.tensor([prompt + response])).logits[0].double()
    return logits[len(prompt) - 1:-1]


def plain_readings(backbone, mask: ActionMask):
    """Masked log-probabilities, entropies, kept probabilities and additions, row by row and place by place."""
    values, entropies, kept, added = [], [], [], []
    for prompt, response in ROWS:
        policy, older = plain_logits(backbone, "policy", prompt, response), plain_logits(backbone, ROLE, prompt, response)
        for z, y, token in zip(policy, older.tolist(), response):
            tokens = plain_set(y, mask.top_p, mask.temperature, mask.least, mask.always)
            added.append(token not in tokens)
            order = sorted(tokens | {token})
            p = (z / mask.temperature).softmax(-1)
            inside = p[order] / p[order].sum()
            values.append(inside[order.index(token)].log())
            entropies.append(-(inside * inside.log()).sum())
            kept.append(p[order].sum())
    return torch.stack(values), torch.stack(entropies), torch.stack(kept), added


def masked(backbone, mask: ActionMask):
    """What `MaskReadings` says of all rows as one micro-batch: (its grids as rows of tokens, a reading with gradients)."""
    rollout = rollout_of(backbone)
    measure(backbone, rollout, "")
    batch = Batch(backbone, rollout, [0, 1, 2])
    readings = MaskReadings(mask, rollout)
    with torch.no_grad(), backbone.use("policy"):
        hidden = batch.read(mask.temperature).hidden
    readings.measure(batch, hidden)
    return rollout, batch, readings


# -- the set -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("least, always", [(1, ()), (7, (0, 3)), (50, (49,))])
def test_the_set_against_a_plain_loop(top_p, least, always):
    logits = 2 * torch.randn(40, 50, generator=torch.Generator().manual_seed(0))
    mask = ActionMask(top_p, 0.7, least, always)
    for row, allowed in zip(logits.tolist(), mask.allowed(logits)):
        found = set(allowed.nonzero()[:, 0].tolist())
        assert found == plain_set(row, top_p, 0.7, least, always)
        assert len(found) >= least and set(always) <= found


def test_the_set_of_a_large_vocabulary_goes_beyond_the_most_likely_few_hundred():
    logits = torch.randn(3, 3000, generator=torch.Generator().manual_seed(0))
    mask = ActionMask(0.9, 1.0)
    assert mask.allowed(logits).sum(-1).min() > generation.NUCLEUS
    for row, allowed in zip(logits.double().tolist(), mask.allowed(logits)):
        assert abs(len(plain_set(row, 0.9, 1.0, 1)) - allowed.sum().item()) <= 1  # fp32 sums a thousand terms


def test_the_first_token_above_p_is_kept_and_a_sure_policy_has_a_set_of_one():
    probabilities = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    assert ActionMask(0.6, 1.0).allowed(probabilities.log()).tolist() == [[True, True, False, False]]
    assert ActionMask(0.4, 1.0).allowed(probabilities.log()).tolist() == [[True, False, False, False]]
    assert ActionMask(0.4, 1.0, 1, (3,)).allowed(probabilities.log()).tolist() == [[True, False, False, True]]
    # At another temperature the distribution is another: here (.25, .09, .0225, .0025) / .365
    assert ActionMask(0.6, 0.5).allowed(probabilities.log()).tolist() == [[True, False, False, False]]


def test_how_many_tokens_are_kept_by_default():
    assert [default_tokens_kept(size) for size in (10, 400, 4000, 50257, 151936)] == [1, 1, 8, 100, 100]


def test_tokens_that_end_a_response_are_special(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    found = special_tokens(backbone)
    assert {*backbone.stop_ids, backbone.pad_id} <= set(found) and len(found) < 10 and max(found) < backbone.vocabulary


# -- log-probabilities -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("top_p, least, temperature", [(0.9, 1, 1.0), (0.5, 5, 0.7), (0.01, 1, 1.0)])
def test_log_probabilities_are_those_of_a_choice_among_the_set(tiny_model, top_p, least, temperature):
    backbone = make(tiny_model)
    mask = ActionMask(top_p, temperature, least, tuple(special_tokens(backbone)))
    rollout, batch, readings = masked(backbone, mask)
    values, entropies, kept, added = plain_readings(backbone, mask)
    cells = rollout.mask.bool()
    torch.testing.assert_close(readings.logprobs[cells].double(), values.detach(), rtol=0, atol=1e-4)
    torch.testing.assert_close(readings.kept[cells].double(), kept.detach(), rtol=1e-4, atol=1e-6)
    assert readings.added[cells].bool().tolist() == added and any(added)
    assert (readings.logprobs[~cells] == 0).all() and (readings.logprobs <= 0).all()

    with backbone.use("policy"):
        again = readings.read(batch, entropy=True)
        torch.testing.assert_close(again.logprobs, readings.logprobs[cells], rtol=0, atol=1e-6)
        torch.testing.assert_close(again.entropy.double(), entropies, rtol=0, atol=1e-4)
        torch.testing.assert_close((again.logprobs + again.log_kept).detach(), batch.read(temperature).logprobs.detach(), rtol=0, atol=1e-5)


def weights_with_own_output(path, folder):
    """A PEFT adapter that also covers the output layer."""
    model = AutoModelForCausalLM.from_pretrained(path)
    config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def plain_gradient(backbone, mask, weights):
    values, entropies, _, _ = plain_readings(backbone, mask)
    (weights[0] * values + weights[1] * entropies).sum().backward()
    return [p.grad.clone() for p in backbone.parameters("policy")]


@pytest.mark.parametrize("top_p", [0.9, 0.01])
def test_gradients_are_those_of_autograd(tiny_model, top_p):
    """With sets of one token, too, where log-probability and entropy are 0 and nothing may become NaN."""
    backbone = make(tiny_model)
    mask = ActionMask(top_p, 0.8)
    weights = torch.randn(2, 8, generator=torch.Generator().manual_seed(3)).double()
    expected = plain_gradient(backbone, mask, weights)
    for p in backbone.parameters("policy"):
        p.grad = None
    _, batch, readings = masked(backbone, mask)
    with backbone.use("policy"):
        found = readings.read(batch, entropy=True)
        (weights[0] * found.logprobs + weights[1] * found.entropy).sum().backward()
    for ours, theirs in zip([p.grad for p in backbone.parameters("policy")], expected):
        assert ours.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert all(p.grad is None for p in backbone.parameters(ROLE))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_sets_of_one_token_give_no_nan(tiny_llama, dtype):
    backbone = make(tiny_llama, dtype=dtype)
    hidden = torch.randn(6, backbone.hidden_size, dtype=backbone.base.dtype, requires_grad=True)
    targets = torch.arange(6)
    alone = torch.zeros(6, backbone.vocabulary, dtype=torch.bool).scatter_(1, targets[:, None], True)
    found = reading.read_states(backbone, hidden, targets, entropy=True, allowed=lambda part: alone[part])
    assert found.logprobs.tolist() == [0] * 6 and found.entropy.abs().max() == 0
    (found.logprobs + found.entropy).sum().backward()
    assert hidden.grad.float().abs().max() < (1e-6 if dtype == "fp32" else 0.1)  # W_t less its own rounding
    assert (found.log_kept < 0).all() and found.log_kept.isfinite().all()


def test_an_output_layer_with_an_adapter_of_its_own(tiny_llama, tmp_path):
    """Then mask policy and policy have different output layers."""
    backbone = Backbone.load(str(tiny_llama))
    backbone.load_role("policy", weights_with_own_output(tiny_llama, tmp_path / "one"))
    torch.manual_seed(7)
    backbone.load_role(ROLE, weights_with_own_output(tiny_llama, tmp_path / "two"))
    backbone.train("policy")
    mask = ActionMask(0.9, 1.0)
    weights = torch.ones(2, 8).double()
    expected = plain_gradient(backbone, mask, weights)
    values = plain_readings(backbone, mask)[0]
    for p in backbone.parameters("policy"):
        p.grad = None
    rollout, batch, readings = masked(backbone, mask)
    torch.testing.assert_close(readings.logprobs[rollout.mask.bool()].double(), values.detach(), rtol=0, atol=1e-4)
    with backbone.use("policy"):
        found = readings.read(batch, entropy=True)
        (found.logprobs + found.entropy).sum().backward()
    for ours, theirs in zip([p.grad for p in backbone.parameters("policy")], expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_chunks_and_slices_change_nothing(tiny_llama, monkeypatch):
    backbone, found = make(tiny_llama), []
    mask = ActionMask(0.9, 1.0, 2)
    for size in (1, 3, 1 << 30):
        monkeypatch.setattr(reading, "chunk_size", lambda device, vocabulary, size=size: size)
        monkeypatch.setattr(reading, "slice_size", lambda device, size=size: size * backbone.vocabulary)
        rollout, _, readings = masked(backbone, mask)
        found.append((readings.logprobs, readings.added))
    for logprobs, added in found[1:]:
        torch.testing.assert_close(logprobs, found[0][0], rtol=0, atol=1e-5)
        assert torch.equal(added, found[0][1])


# -- sampling ----------------------------------------------------------------------------------------------------------

def test_two_decoders_have_the_masked_logits_of_a_plain_pass(tiny_model):
    backbone = make(tiny_model)
    mask = ActionMask(0.8, 0.9, 3, (2,))
    prompts, further = [[5, 6, 7, 8], [9, 10]], [[20, 21], [22, 23]]
    ids, known = pad_left(prompts, backbone.pad_id, backbone.device)
    positions = (known.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), backbone.use("policy"):
        decoder = MaskedDecoder(backbone, mask, 2, 8)
        found = [decoder(ids, positions, known == 0)]
        decoder.keep(torch.tensor([1, 0]))
        positions = positions[[1, 0], -1:]
        for step in range(2):
            positions = positions + 1
            found.append(decoder(torch.tensor([[further[1][step]], [further[0][step]]]), positions))
    found[1:] = [logits[[1, 0]] for logits in found[1:]]
    for row, prompt in enumerate(prompts):
        rest = [*further[row], 0]
        policy, older = plain_logits(backbone, "policy", prompt, rest), plain_logits(backbone, ROLE, prompt, rest)
        for step in range(3):
            expected = plain_set(older[step].tolist(), 0.8, 0.9, 3, (2,))
            inside = found[step][row].isfinite().nonzero()[:, 0].tolist()
            assert set(inside) == expected
            torch.testing.assert_close(found[step][row][inside].double(), policy[step][inside].detach(), rtol=1e-2, atol=1e-2)


def test_both_roles_have_a_fast_decoder_where_one_has_it(tiny_llama, monkeypatch):
    monkeypatch.setattr("rlhf_engine.model.cpu_decoder.is_small", lambda base: True)
    backbone = make(tiny_llama)
    with backbone.use("policy"):
        decoder = MaskedDecoder(backbone, ActionMask(0.9, 1.0), 2, 16)
    assert type(decoder.policy) is type(decoder.mask_policy)
    assert isinstance(decoder.policy, CpuDecoder | decoders.CachedDecoder)


def test_what_is_sampled_is_in_the_set_and_takes_the_same_random_numbers(tiny_model):
    backbone = make(tiny_model)
    mask = ActionMask(0.7, 1.0, 2, tuple(special_tokens(backbone)))
    prompts = [[5, 6, 7], [8, 9], [5, 6, 7], [10, 11, 12, 13]]

    def draw(top_p):
        generator = torch.Generator().manual_seed(5)
        with backbone.use("policy"):
            rows = sample(backbone, prompts, Sampling(8), generator,
                          make=lambda b, rows, longest: MaskedDecoder(b, ActionMask(top_p, 1.0, 2, mask.always), rows, longest))
        return rows, generator

    rows, generator = draw(0.7)
    for prompt, response in zip(prompts, rows):
        older = plain_logits(backbone, ROLE, prompt, response)
        for logits, token in zip(older.tolist(), response):
            assert token in plain_set(logits, 0.7, 1.0, 2, mask.always)
    everything = draw(1.0)[0]
    with backbone.use("policy"):
        assert everything == sample(backbone, prompts, Sampling(8), torch.Generator().manual_seed(5))
    again, same = draw(0.7)
    assert again == rows and torch.equal(generator.get_state(), same.get_state())


def test_a_mask_policy_without_numbers_is_told(tiny_llama):
    backbone = make(tiny_llama)
    with torch.no_grad():
        for p in backbone.parameters(ROLE):
            p.fill_(torch.nan)
    with backbone.use("policy"), pytest.raises(NotFinite):
        sample(backbone, [[5, 6]], Sampling(4), make=lambda b, rows, longest: MaskedDecoder(b, ActionMask(0.9, 1.0, 1, (2,)), rows, longest))


def test_a_sampled_token_is_a_member_and_is_counted(tiny_llama):
    backbone = make(tiny_llama)
    states = torch.randn(5, backbone.hidden_size)
    likely = backbone.head(states).argmax(-1)
    sampled = torch.where(torch.arange(5) < 2, (likely + 1) % backbone.vocabulary, likely)
    sets = TokenSets(backbone, ActionMask(0.01, 1.0), states, sampled)
    allowed = torch.cat([sets(slice(0, 3)), sets(slice(3, 5))])
    assert sets.added.tolist() == [True, True, False, False, False]
    assert allowed.sum(-1).tolist() == [2, 2, 1, 1, 1] and allowed.gather(1, sampled[:, None]).all()
