"""Rows that share a prompt, read together: the states and gradients of rows of their own, on every architecture or not at all."""

import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPTNeoConfig,
    MambaConfig,
    MistralConfig,
    Qwen2Config,
)

from rlhf_engine.data.readers import Ranking
from rlhf_engine.model import prefix_packing as shared
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import pad_right, read_tokens, response_positions
from rlhf_engine.model.prefix_packing import (
    bundles,
    group_by_prefix,
    last_states,
    packed_length,
    packed_passes,
    read_responses,
    supports_packing,
)
from rlhf_engine.rollout.reward_functions import score_members
from rlhf_engine.teach.word_features import WordFeatures
from tests.conftest import make_tokenizer, save
from tests.rlhf_engine.helpers.trainers import make_reward as make

SMALL = dict(vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             max_position_embeddings=128, initializer_range=0.2)
GEMMA = SMALL | {"head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "qwen2": Qwen2Config(**SMALL),
    "mistral, window 100": MistralConfig(sliding_window=100, **SMALL),
    "gemma3, window 64": Gemma3TextConfig(sliding_window=64, **GEMMA),
    "gemma3, window 16": Gemma3TextConfig(sliding_window=16, **GEMMA),
    "gpt-neo, window 16": GPTNeoConfig(vocab_size=400, hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]],
                                       window_size=16, max_position_embeddings=128, initializer_range=0.2),
    "mamba": MambaConfig(vocab_size=400, hidden_size=32, state_size=8, num_hidden_layers=2, initializer_range=0.2),
    "bloom": BloomConfig(vocab_size=400, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.2),
}


def load(name: str, folder) -> Backbone:
    torch.manual_seed(0)
    return Backbone.load(str(save(AutoModelForCausalLM.from_config(MODELS[name]), make_tokenizer(chat=False), folder)))


def tokens(count: int, rng=random.Random(0)) -> list[int]:
    return [rng.randrange(5, 300) for _ in range(count)]


def rows_of(*shapes: tuple[int, ...]) -> list[list[int]]:
    """For each (prompt, response, response, ...) in tokens, the rows of one prompt; all of them shuffled."""
    rows = [prompt + tokens(count) for length, *counts in shapes for prompt in [tokens(length)] for count in counts]
    return random.Random(1).sample(rows, len(rows))


RAGGED = rows_of((40, 5, 9, 7), (30, 12, 3), (20, 11), (41, 8, 8, 2, 10))


def apart(backbone: Backbone, rows: list[list[int]]) -> torch.Tensor:
    """The last states of rows that are read one by one."""
    return torch.stack([backbone.hidden(torch.tensor([row]))[0, -1] for row in rows])


def with_role(backbone: Backbone) -> Backbone:
    backbone.new_role("reward", rank=4)
    backbone.train("reward")
    for parameter in backbone.parameters("reward"):
        parameter.data.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    return backbone


def both(backbone: Backbone, rows: list[list[int]]) -> list[list[torch.Tensor]]:
    """States and gradients, read together and apart."""
    found, weights = [], torch.randn(len(rows), backbone.hidden_size, generator=torch.Generator().manual_seed(2))
    for read in (last_states, apart):
        with backbone.use("reward"):
            states = read(backbone, rows)
            (states * weights).sum().backward()
        found.append([states.detach()] + [p.grad.clone() for p in backbone.parameters("reward")])
        for parameter in backbone.parameters("reward"):
            parameter.grad = None
    return found


def test_states_and_gradients_are_those_of_rows_of_their_own(tiny_model):
    backbone = with_role(Backbone.load(str(tiny_model)))
    assert sorted(map(len, bundles(backbone, RAGGED))) == [1, 2, 3, 4]
    for ours, theirs in zip(*both(backbone, RAGGED)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5 * theirs.abs().max().item())


def test_gradient_checkpointing_changes_nothing(tiny_llama):
    backbone = with_role(Backbone.load(str(tiny_llama)))
    plain, _ = both(backbone, RAGGED)
    with backbone.checkpointing():
        saved, _ = both(backbone, RAGGED)
    for ours, theirs in zip(saved, plain):
        torch.testing.assert_close(ours, theirs)


def test_in_bf16_they_differ_by_its_rounding(tiny_llama):
    backbone = with_role(Backbone.load(str(tiny_llama), dtype="bf16"))
    assert max(map(len, bundles(backbone, RAGGED))) == 4
    for ours, theirs in zip(*both(backbone, RAGGED)):
        assert (ours - theirs).float().norm() < 0.02 * theirs.float().norm()


@pytest.mark.parametrize("name, short, long", [("qwen2", True, True), ("mistral, window 100", True, False), ("gemma3, window 64", True, False),
                                               ("gemma3, window 16", False, False), ("gpt-neo, window 16", False, False),
                                               ("mamba", False, False), ("bloom", False, False)])
def test_what_a_model_cannot_do_is_found_out(tmp_path, name, short, long):
    backbone = load(name, tmp_path)
    assert supports_packing(backbone, 60) is short and supports_packing(backbone, 120) is long
    for rows, shares in ((rows_of((40, 5, 9, 7), (30, 12, 3)), short), (rows_of((100, 5, 9, 7), (90, 12, 3)), long)):
        assert (max(map(len, bundles(backbone, rows))) > 1) is shares
        with torch.no_grad():
            torch.testing.assert_close(last_states(backbone, rows), apart(backbone, rows), rtol=1e-5, atol=1e-4)


def test_the_whole_row_is_where_the_pass_says_it_is(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    seen = []
    for part in packed_passes(backbone, RAGGED):
        with torch.no_grad():
            hidden = backbone.hidden(part.ids, **part.options)
        for i, owner, columns in zip(part.indices, part.owners, part.columns):
            assert part.ids[owner, columns].tolist() == RAGGED[i]
            torch.testing.assert_close(hidden[owner, columns], backbone.hidden(torch.tensor([RAGGED[i]]))[0], rtol=1e-5, atol=1e-5)
            seen.append(i)
    assert sorted(seen) == list(range(len(RAGGED)))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_tokens_of_responses_are_read_as_in_rows_of_their_own(tiny_model, temperature):
    """Log-probabilities, entropies and gradients; two of the responses begin alike and share more than the prompt."""
    backbone = with_role(Backbone.load(str(tiny_model)))
    first, second = tokens(40), tokens(25)
    start = tokens(6)
    rows = [(first, start + tokens(5)), (second, tokens(9)), (first, start + tokens(3)), (first, tokens(12)), (tokens(3), tokens(4)), (second, tokens(2))]
    assert max(map(len, bundles(backbone, [prompt + response for prompt, response in rows]))) == 3
    weights = torch.randn(sum(len(response) for _, response in rows), generator=torch.Generator().manual_seed(2))
    found = []
    for packed in (True, False):
        with backbone.use("reward"):
            if packed:
                reading = read_responses(backbone, rows, temperature, entropy=True)
            else:
                ids = pad_right([prompt + response for prompt, response in rows], backbone.pad_id, "cpu")
                positions = response_positions([len(prompt) for prompt, _ in rows], [len(response) for _, response in rows], "cpu")
                reading = read_tokens(backbone, ids, *positions, temperature, entropy=True)
            ((reading.logprobs + 0.3 * reading.entropy) * weights).sum().backward()
        found.append([reading.logprobs.detach(), reading.entropy.detach(), reading.hidden.detach(), *(p.grad.clone() for p in backbone.parameters("reward"))])
        for parameter in backbone.parameters("reward"):
            parameter.grad = None
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * theirs.abs().max().item())


def test_rows_are_packed_where_arithmetic_says_that_it_pays():
    prompt = tokens(256)
    nine = [prompt + tokens(64) for _ in range(9)]
    assert group_by_prefix(nine, 256) == [sorted(range(9), key=lambda i: nine[i])]
    short = [row[-96:] for row in nine]  # 32 tokens in common
    assert list(map(len, group_by_prefix(short, 256))) == [4, 4, 1]  # attention over all nine would take more than it saves
    assert list(map(len, group_by_prefix(short, 4096))) == [9]  # the wider the model, the less attention counts
    assert list(map(len, group_by_prefix([row[-66:] for row in nine], 256))) == [1] * 9  # two tokens are not worth a mask
    assert len(group_by_prefix([tokens(50) for _ in range(5)], 256)) == 5


def test_rows_that_are_equal_or_begin_another_keep_a_token_of_their_own(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    row = tokens(50)
    rows = [row, row, row[:45], row + tokens(4), [7], [7]]
    assert packed_length(rows, [2, 0, 1, 3]) == 44 + 1 + 6 + 6 + 10
    assert max(map(len, bundles(backbone, rows))) == 4
    with torch.no_grad():
        torch.testing.assert_close(last_states(backbone, rows), apart(backbone, rows), rtol=1e-5, atol=1e-5)


def test_no_packed_row_is_longer_than_its_mask_may_be(monkeypatch):
    prompt = tokens(30)
    rows = [prompt + tokens(10) for _ in range(8)]
    monkeypatch.setattr(shared, "MAX_PACKED_LENGTH", 60)
    assert list(map(len, group_by_prefix(rows, 1 << 20))) == [3, 3, 2]


def test_scores_are_the_same_and_prompts_are_read_once(tiny_llama, monkeypatch):
    backbone = make(tiny_llama, ensemble=2).backbone
    read = []
    hidden = Backbone.hidden
    monkeypatch.setattr(Backbone, "hidden", lambda self, ids, **options: read.append(ids.numel()) or hidden(self, ids, **options))
    rows = rows_of(*[(60, 6, 6, 6)] * 4)
    assert supports_packing(backbone, 66)
    read.clear()
    together = score_members(backbone, rows, batch=6)
    count, read = sum(read), []
    monkeypatch.setattr(shared, "supports_packing", lambda *args: False)
    monkeypatch.setattr(Backbone, "hidden", hidden)
    torch.testing.assert_close(together, score_members(backbone, rows, batch=6), rtol=1e-5, atol=1e-5)
    assert count == 4 * (60 + 3 * 6)


def test_a_step_on_rankings_is_that_of_separate_rows(tiny_llama, monkeypatch):
    words = ("happy", "good", "sad", "bad", "big")
    data = [Ranking("a little dog ran to the park " * 4 + start, tuple(f" {start} {w}" for w in words), (1, 2, 3, 4, 5)) for start in
            ("one day", "there was", "once upon", "the end")]
    found = []
    for can in (True, False):
        monkeypatch.setattr(shared, "supports_packing", lambda *args, can=can: can)
        trainer = make(tiny_llama, data, held_out=0.0, warmup=0.0, batch_size=4, steps=2, max_tokens=128)
        assert (max(map(len, bundles(trainer.backbone, trainer.groups[0].rows))) == 5) is can
        found.append(list(trainer))
    for ours, theirs in zip(*found):
        for name in ("loss/train", "grad_norm", "margin", "accuracy/train"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-3), name


def test_soft_words_are_read_the_same(tiny_llama, monkeypatch):
    backbone = Backbone.load(str(tiny_llama))
    whole = rows_of((60, 8, 8, 5, 7), (50, 9, 6))
    rows = [(row[:50], row[50:]) for row in whole]
    found = []
    for can in (True, False):
        monkeypatch.setattr(shared, "supports_packing", lambda *args, can=can: can)
        assert (max(map(len, bundles(backbone, whole))) == 4) is can
        words = WordFeatures(backbone, batch=4)
        fitted = words.fit(rows * 2)
        found.append([fitted, words.read(rows), *words.token_contributions(rows, torch.ones(1, fitted.shape[1]))])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
