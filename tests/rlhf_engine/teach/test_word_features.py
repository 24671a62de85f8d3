"""Soft words: the kernel with the landmarks, computed here anew; padding and batches do not matter."""

import itertools
import random

import pytest
import torch

from rlhf_engine.errors import UserError
from rlhf_engine.model.backbone import Backbone
from rlhf_engine.teach.word_features import WIDTH, Splitter, WordFeatures
from rlhf_engine.trainers.state import load_state, save_state

TOKENS = list(range(20, 32))


def anchors(count: int = 20) -> list:
    rng = random.Random(0)
    return [([5, 6], rng.choices(TOKENS, k=rng.randint(3, 9))) for _ in range(count)]


def fitted(path, batch: int = 4) -> WordFeatures:
    words = WordFeatures(Backbone.load(str(path)), batch=batch)
    words.fit(anchors())
    return words


def raw(words: WordFeatures, rows: list) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [N, L] of each depth, before they are centred and scaled."""
    return (words.read(rows) * words.size + words.centre).chunk(2, dim=1)


def test_tokens_that_spell_a_word_are_one_and_signs_are_their_own(tiny_model):
    """Letters and digits continue a word unless there is a space before them; after a sign a new word begins."""
    tokenizer = Backbone.load(str(tiny_model)).tokenizer
    splitter = Splitter(tokenizer)

    def split(text):
        return [tokenizer.decode(word) for word in splitter.words(tokenizer.encode(text, add_special_tokens=False))]

    assert split(" the zebra's 12 dogs, \"Hi\"!") == [" the", " zebra", "'", "s", " 12", " dogs", ",", " ", '"', "Hi", '"', "!"]
    assert split("") == []


def test_scripts_without_spaces_and_unknown_ids_are_words_token_by_token(tiny_llama):
    splitter = Splitter(tokenizer := Backbone.load(str(tiny_llama)).tokenizer)
    ids = tokenizer.encode("\u4f60\u597d", add_special_tokens=False)
    assert splitter.words(ids) == [(i,) for i in ids]
    assert splitter.words([10**6, 10**6 + 1]) == [(10**6,), (10**6 + 1,)]


def test_a_vocabulary_that_does_not_mark_beginnings_has_words_of_one_token(tmp_path):
    from benchmarks.helpers.common import make_model
    tokenizer = Backbone.load(str(make_model(tmp_path, hidden_size=32, num_hidden_layers=1, intermediate_size=32))).tokenizer
    assert Splitter(tokenizer).words(tokenizer.encode("t5 t6 t7")) == [(5,), (6,), (7,)]


def test_sentencepiece_words(shared):
    splitter = Splitter(tokenizer := Backbone.load(str(shared / "stories260k")).tokenizer)
    ids = tokenizer.encode("Once there was a kitten. She didn't", add_special_tokens=False)
    assert [tokenizer.decode(word) for word in splitter.words(ids)] == ["Once", "there", "was", "a", "kitten", ".", "She", "didn", "'", "t"]


def test_a_feature_is_the_mean_over_words_of_the_kernel_with_a_landmark(tiny_model):
    """Computed here from the model's states: the landmark of a word is its mean state in the anchors."""
    words = fitted(tiny_model)

    def states(prompt, response):
        with torch.no_grad():
            found = words.backbone.base(input_ids=torch.tensor([prompt + response]), output_hidden_states=True).hidden_states
        embedding, middle = (found[depth][0, len(prompt):] for depth in (0, len(found) // 2))
        stops = list(itertools.accumulate(map(len, words.splitter.words(response))))
        spans = list(zip([0, *stops], stops))
        return [torch.stack([embedding[start:stop].mean(0) for start, stop in spans]), torch.stack([middle[stop - 1] for _, stop in spans])]

    every = [torch.cat(found) for found in zip(*(states(*row) for row in anchors()))]
    said = [word for _, response in anchors() for word in words.splitter.words(response)]
    assert len({len(word) for word in said}) > 1
    row = ([7, 8], [21, 30, 25, 25, 99])
    for found, h, own in zip(raw(words, [row]), every, states(*row)):
        mean, std = h.mean(0), h.std(0, correction=0)
        for k, word in enumerate(words.chosen):
            landmark = (h[torch.tensor([w == word for w in said])].mean(0) - mean) / std
            alike = torch.cosine_similarity((own - mean) / std, landmark[None], dim=1)
            assert found[0, k].item() == pytest.approx(torch.exp((alike - 1) / WIDTH).mean().item(), rel=2e-2, abs=1e-4)


def test_the_commonest_words_are_landmarks(tiny_llama, monkeypatch):
    monkeypatch.setattr("rlhf_engine.teach.word_features.LANDMARKS", 2)
    words = WordFeatures(Backbone.load(str(tiny_llama)), batch=4)
    words.fit([([5], [20, 10, 21, 22, 10, 21, 22]), ([5], [10, 22])])
    assert words.chosen == [(10,), (21, 22)]


def test_words_that_come_once_are_landmarks_where_no_others_are(tiny_llama):
    words = WordFeatures(Backbone.load(str(tiny_llama)), batch=4)
    features = words.fit([([5], [20, 21]), ([5], [22])])
    assert len(words.chosen) >= 1 and features.isfinite().all() and features.abs().max() > 0.1


def test_answers_without_a_word_are_refused(tiny_llama):
    with pytest.raises(UserError, match="2 answers of the starting policy hold no word"):
        WordFeatures(Backbone.load(str(tiny_llama)), batch=4).fit([([5], []), ([6], [])])


def test_features_are_centred_and_of_size_one(tiny_model):
    words = fitted(tiny_model)
    found = words.read(anchors())
    torch.testing.assert_close(found.mean(0), torch.zeros(found.shape[1]), atol=1e-4, rtol=0)
    assert found.square().sum(1).mean().item() == pytest.approx(1, rel=1e-3)


def test_what_the_positions_add_sums_up_to_the_whole(tiny_model):
    words = fitted(tiny_model)
    weights = torch.randn(3, 2 * len(words.chosen), generator=torch.Generator().manual_seed(0))
    rows = [([5, 6, 7, 8], [20, 21, 22]), ([9], [23]), ([5], [31, 20, 20, 20, 24])]
    added = words.token_contributions(rows, weights)
    assert [each.shape for each in added] == [(3, 3), (1, 3), (5, 3)]
    torch.testing.assert_close(torch.stack([each.sum(0) for each in added]), words.read(rows) @ weights.T, rtol=1e-3, atol=1e-3)


def test_what_a_position_adds_says_nothing_of_the_average(tiny_llama):
    """With equal weights on all features, what the positions of the anchors add sums up to nothing."""
    words = fitted(tiny_llama)
    added = words.token_contributions(anchors(), torch.ones(1, 2 * len(words.chosen)))
    assert torch.stack([each.sum() for each in added]).mean().abs() < 1e-3
    assert torch.cat(added).std() > 1e-3 > torch.cat(added).mean().abs()


def test_neither_padding_nor_the_batch_nor_the_policy_changes_a_feature(tiny_model):
    words = fitted(tiny_model)
    rows = [([5, 6, 7, 8], [20, 21, 22]), ([9], [23, 24, 25, 26, 27, 20, 20]), ([5], [31])]
    together = words.read(rows)
    words.backbone.new_role("policy", rank=4, alpha=8)
    with torch.no_grad():
        for p in words.backbone.parameters("policy"):
            p.add_(1.0)
    with words.backbone.use("policy"):
        alone = torch.cat([words.read([row]) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-4)


def test_the_prompt_counts_only_at_the_middle(tiny_llama):
    words = fitted(tiny_llama)
    (embedding, middle), (other_embedding, other_middle) = (raw(words, [([prompt] * 3, [20, 21, 22])]) for prompt in (5, 90))
    torch.testing.assert_close(embedding, other_embedding)
    assert not torch.allclose(middle, other_middle)


def test_words_the_anchors_do_not_have_and_empty_responses_have_features(tiny_model):
    words = fitted(tiny_model)
    found = words.read([([5], [199, 198]), ([5], []), ([5], [20])])
    assert found.isfinite().all() and not torch.equal(found[0], found[2])
    assert words.read([([5], [])]).isfinite().all()


def test_a_saved_state_reads_the_same(tiny_llama, tmp_path):
    words = fitted(tiny_llama)
    save_state(tmp_path, {"words": words.state_dict()})
    other = WordFeatures(words.backbone, batch=4)
    other.load_state_dict(load_state(tmp_path)["words"])
    assert torch.equal(other.read(anchors()), words.read(anchors()))
