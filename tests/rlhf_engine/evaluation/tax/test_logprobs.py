"""Log-probabilities of texts against plain transformers, and windows that charge each token once."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.errors import NotFinite
from rlhf_engine.evaluation.tax.logprobs import cut_windows, encode_text, score_rows, score_windows
from rlhf_engine.model.backbone import Backbone
from tests.conftest import sentences

TEXTS = [Demonstration("", text) for text in [*sentences(6, seed=4), "a", "the dog <|end|> and <|bos|> the cat", " once", *sentences(2, seed=4)]]


@torch.no_grad()
def plain_logprob(model, given: list[int], charged: list[int]) -> tuple[float, bool]:
    """The same number by one row, the whole softmax and a loop."""
    row = given + charged
    logits = model(torch.tensor([row])).logits[0].double()
    total, greedy = 0.0, True
    for place in range(len(given), len(row)):
        total += logits[place - 1].log_softmax(-1)[row[place]].item()
        greedy &= logits[place - 1].argmax().item() == row[place]
    return total, greedy


def test_a_text_is_charged_from_its_first_token_to_its_last(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    tokenizer = backbone.tokenizer
    for text in TEXTS:
        given, charged = encode_text(backbone, text)
        assert given == [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
        assert tokenizer.decode(charged, skip_special_tokens=False) == text.completion
        assert not set(charged) & {*backbone.stop_ids, *given}, "what looks like a control token is a text"


def test_of_a_demonstration_the_answer_is_charged(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    given, charged = encode_text(backbone, Demonstration("once", "a dog"))
    assert backbone.tokenizer.decode(given) == "<|user|>once<|end|><|assistant|>" and backbone.tokenizer.decode(charged) == "a dog"


def test_sums_are_those_of_transformers(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    rows = [encode_text(backbone, text) for text in TEXTS]
    expected = [plain_logprob(model, *row) for row in rows]
    assert score_rows(backbone, None, rows, 128, "base") == pytest.approx([total for total, _ in expected], abs=1e-3)
    best = [model(torch.tensor([given])).logits[0, -1].argmax().item() for given, _ in rows[:2]]
    rows += [(given, [token]) for (given, _), token in zip(rows, best)]
    scores = score_windows(backbone, rows)
    assert [score.greedy for score in scores] == [plain_logprob(model, *row)[1] for row in rows]
    assert scores[-1].greedy and not all(score.greedy for score in scores)


@pytest.mark.parametrize("size", [2, 3, 8, 9, 32])
@pytest.mark.parametrize("given", [1, 5, 40])
def test_each_token_is_charged_once_within_its_window(given, size):
    for length in (0, 1, size - 1, size, size + 1, 3 * size + 2):
        row = list(range(given + length))
        windows = cut_windows(row[:given], row[given:], size)
        assert [token for _, charged in windows for token in charged] == row[given:]
        for before, charged in windows:
            assert before[0] == row[0] and before and (len(before) + len(charged) <= max(size, given + 1) or len(windows) == 1)
            assert before[1:] == row[charged[0] - len(before) + 1:charged[0]] if charged else True, "what stands before it, without a gap"
        for before, _ in windows[1:]:
            assert len(before) >= size - size // 2


def test_a_long_text_is_the_sum_of_its_windows(tiny_gpt2):
    backbone = Backbone.load(str(tiny_gpt2))
    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2, dtype=torch.float32).eval()
    given, charged = encode_text(backbone, Demonstration("", " ".join(sentences(30))))
    assert len(charged) > 2 * backbone.longest
    [ours] = score_rows(backbone, None, [(given, charged)], backbone.longest, "base")
    assert ours == pytest.approx(sum(plain_logprob(model, *window)[0] for window in cut_windows(given, charged, backbone.longest)), abs=1e-2)
    # The last token of a window is only predicted, so a row may have one token more than there are positions.
    full = (given, charged[:backbone.longest])
    assert score_windows(backbone, [full])[0].logprob < 0


def test_equal_rows_are_read_once_and_empty_ones_cost_nothing(tiny_llama, monkeypatch):
    backbone = Backbone.load(str(tiny_llama))
    row = encode_text(backbone, TEXTS[0])
    seen = []
    hidden = backbone.hidden
    monkeypatch.setattr(backbone, "hidden", lambda ids, **options: seen.append(ids.numel()) or hidden(ids, **options))
    one, other, nothing = score_rows(backbone, None, [row, row, (row[0], [])], 128, "base")
    assert one == other and nothing == 0.0 and sum(seen) == len(row[0] + row[1]) - 1


def test_a_broken_checkpoint_is_named(tiny_llama):
    backbone = Backbone.load(str(tiny_llama))
    backbone.new_role("policy")
    with torch.no_grad():
        for parameter in backbone.parameters("policy"):
            parameter.fill_(float("nan"))
    with pytest.raises(NotFinite, match="the log-probability of a text under mine is nan; take an earlier checkpoint"):
        score_rows(backbone, "policy", [encode_text(backbone, TEXTS[0])], 128, "mine")
