"""Sampling: the distribution is the model's own, padding and batch mates do not matter, rows end where they should."""

import pytest
import torch

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.decoders import CachedDecoder
from rlhf_engine.model.generation import Sampling, draw, nucleus, pad_left, probabilities, sample, stream

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]


@pytest.fixture
def backbone(tiny_model):
    return Backbone.load(str(tiny_model))


def test_greedy_answers_do_not_depend_on_batch_mates(backbone):
    together = sample(backbone, PROMPTS, Sampling(10, temperature=0))
    alone = [sample(backbone, [prompt], Sampling(10, temperature=0))[0] for prompt in PROMPTS]
    split = sample(backbone, PROMPTS, Sampling(10, temperature=0), batch=2)
    assert together == alone == split


def test_greedy_equals_the_argmax_of_a_full_forward_pass_without_cache(backbone):
    answer = sample(backbone, PROMPTS[:1], Sampling(10, temperature=0))[0]
    ids = list(PROMPTS[0])
    for token in answer:
        with torch.no_grad():
            assert backbone.base(input_ids=torch.tensor([ids])).logits[0, -1].argmax().item() == token
        ids.append(token)


def test_a_seed_gives_the_same_text_and_another_seed_another(backbone):
    draw = lambda seed: sample(backbone, PROMPTS, Sampling(12), torch.Generator().manual_seed(seed))  # noqa: E731
    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_the_global_generator_is_not_touched(backbone):
    before = torch.get_rng_state()
    sample(backbone, PROMPTS, Sampling(4), torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_sampled_tokens_follow_the_softmax(tiny_llama):
    """First tokens of many rows against the exact probabilities: total variation within sampling error."""
    backbone = Backbone.load(str(tiny_llama))
    rows = sample(backbone, [PROMPTS[0]] * 4000, Sampling(1), torch.Generator().manual_seed(0))
    counts = torch.bincount(torch.tensor([r[0] for r in rows]), minlength=backbone.vocabulary).float() / 4000
    with torch.no_grad():
        exact = backbone.base(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].softmax(-1)
    noise = (exact * (1 - exact) / 4000).sqrt().sum() / 2  # expected absolute deviation, an upper bound of its mean
    assert (counts - exact).abs().sum() / 2 < 1.2 * noise


def test_rows_end_with_their_first_stop_token_and_leave_the_others_going(backbone):
    greedy = sample(backbone, PROMPTS, Sampling(10, temperature=0))
    backbone.stop_ids = [greedy[0][3]]
    stopped = sample(backbone, PROMPTS, Sampling(10, temperature=0))
    for long, short in zip(greedy, stopped):
        end = long.index(backbone.stop_ids[0]) + 1 if backbone.stop_ids[0] in long else len(long)
        assert short == long[:end]
    assert stopped[0][-1] == backbone.stop_ids[0] and len(stopped[0]) <= 4


def test_several_stop_tokens(backbone):
    greedy = sample(backbone, PROMPTS, Sampling(10, temperature=0))
    backbone.stop_ids = [greedy[0][5], greedy[1][2]]
    stopped = sample(backbone, PROMPTS, Sampling(10, temperature=0))
    assert all(row[-1] in backbone.stop_ids or len(row) == 10 for row in stopped)
    assert all(token not in backbone.stop_ids for row in stopped for token in row[:-1])


def test_temperature_top_k_and_top_p_by_hand():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))
    torch.testing.assert_close(probabilities(logits, Sampling()), logits.exp())
    torch.testing.assert_close(probabilities(logits, Sampling(top_k=2)), torch.tensor([[0.625, 0.375, 0, 0]]))
    torch.testing.assert_close(probabilities(logits, Sampling(top_p=0.7)), torch.tensor([[0.625, 0.375, 0, 0]]))
    torch.testing.assert_close(probabilities(logits, Sampling(top_p=0.4)), torch.tensor([[1.0, 0, 0, 0]]))
    squared = torch.tensor([[0.25, 0.09, 0.0225, 0.0025]])
    torch.testing.assert_close(probabilities(logits, Sampling(temperature=0.5)), squared / squared.sum())


@pytest.mark.parametrize("most", [4, 512])
@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.9, 0.99])
def test_the_nucleus_is_that_of_the_sorted_vocabulary(most, top_p, monkeypatch):
    monkeypatch.setattr("rlhf_engine.model.generation.NUCLEUS", most)
    rows = torch.randn(5, 900, generator=torch.Generator().manual_seed(0)).mul(3).softmax(-1)
    for row, found in zip(rows, nucleus(rows, top_p)):
        kept, total = [], 0.0
        for i in row.argsort(descending=True).tolist():
            if total >= top_p:
                break
            kept.append(i)
            total += row[i].item()
        assert found.nonzero()[:, 0].tolist() == sorted(kept)


def test_padding_is_on_the_left():
    ids, mask = pad_left([[1, 2, 3], [4]], 9, "cpu")
    assert ids.tolist() == [[1, 2, 3], [9, 9, 4]] and mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_a_stream_is_the_sampled_text_in_pieces(backbone):
    ids = sample(backbone, PROMPTS[:1], Sampling(20), torch.Generator().manual_seed(3))[0]
    pieces = list(stream(backbone, PROMPTS[0], Sampling(20), torch.Generator().manual_seed(3)))
    assert "".join(pieces) == backbone.tokenizer.decode(ids, skip_special_tokens=True)


def test_a_stream_never_shows_half_a_character(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    for seed in range(5):
        for piece in list(stream(backbone, PROMPTS[0], Sampling(20), torch.Generator().manual_seed(seed)))[:-1]:
            assert not piece.endswith("\ufffd")


def test_breathe_is_called_and_may_sample_itself(tiny_llama):
    """A worker answers chats from inside; the outer answers stay the same."""
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy")
    calls = []

    def on_microbatch():
        with backbone.use(None):
            calls.append(sample(backbone, [PROMPTS[1]], Sampling(2), torch.Generator().manual_seed(9)))

    with backbone.use("policy"):
        quiet = sample(backbone, PROMPTS, Sampling(6), torch.Generator().manual_seed(0))
        talking = sample(backbone, PROMPTS, Sampling(6), torch.Generator().manual_seed(0), on_microbatch=on_microbatch)
    assert quiet == talking and len(calls) >= 1


def test_a_prompt_too_long_for_the_model_is_refused(backbone):
    with pytest.raises(ValueError, match="128 positions"):
        sample(backbone, [[5] * 120], Sampling(20))


def test_draw_follows_the_probabilities_and_never_takes_what_has_none():
    probabilities = torch.tensor([[0.0, 0.2, 0.0, 0.5, 0.3, 0.0]])
    drawn = draw(probabilities.expand(20_000, -1), torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=6) / 20_000
    assert (counts - probabilities[0]).abs().max() < 0.015 and counts[[0, 2, 5]].sum() == 0


@pytest.mark.parametrize("chance", [0.0, 1 - 2**-24])
def test_draw_at_the_ends_of_the_interval(monkeypatch, chance):
    uneven = torch.rand(64, 50_000, generator=torch.Generator().manual_seed(0)).square() + 1e-9
    rows = torch.cat([uneven / uneven.sum(-1, keepdim=True), torch.tensor([[0.0, 1.0] + [0.0] * 49_998])])
    monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.full(shape, chance))
    drawn = draw(rows)
    assert ((drawn >= 0) & (drawn < 50_000)).all() and (rows[torch.arange(65), drawn] > 0).all() and drawn[-1] == 1


def test_equal_prompts_are_read_once(backbone, monkeypatch):
    widths = []
    monkeypatch.setattr("rlhf_engine.model.generation.cpu_decoder", lambda base, rows, length: Spy(base, widths))
    many = sample(backbone, [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]], Sampling(6), torch.Generator().manual_seed(0))
    assert widths[0] == (2, 5) and all(width == (4, 1) for width in widths[1:4])
    assert many[0] != many[2]  # each draws its own
    greedy = sample(backbone, [PROMPTS[0], PROMPTS[1], PROMPTS[0]], Sampling(6, temperature=0))
    assert greedy == [sample(backbone, [p], Sampling(6, temperature=0))[0] for p in (PROMPTS[0], PROMPTS[1], PROMPTS[0])]


class Spy(CachedDecoder):
    def __init__(self, base, widths):
        super().__init__(base)
        self.widths = widths

    def __call__(self, ids, positions, hidden=None):
        self.widths.append(tuple(ids.shape))
        return super().__call__(ids, positions, hidden)
