"""The whole set of features: tokens add up to the score, batches do not matter, and older runs keep their own set."""

import pytest
import torch

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.model.logprobs import pad_right, read_logits
from rlhf_engine.teach import online_reward as module
from rlhf_engine.teach.features.feature_set import (
    NEWEST,
    NUMBERS,
    SHAPE_NUMBERS,
    SHAPE_PLACES,
    SHAPES,
    SHRUNK,
    WORDS_ONLY,
    FeatureSet,
)
from rlhf_engine.teach.features.place_words import FEWEST, PlaceWords
from rlhf_engine.teach.features.word_endings import endings_of
from rlhf_engine.teach.online_reward import soft_cap
from rlhf_engine.teach.reward_fit import fit_sparse
from rlhf_engine.trainers.state import load_state, save_state
from tests.rlhf_engine.helpers.teach import make_simulated
from tests.rlhf_engine.helpers.trainers import without_time

PROMPTS = ["tell of a dog", "tell of a cat", "tell of the rain", "tell of bread"]
TEXTS = ['The dog ran. "Stop!" said the dog.', "A cat sat, and sat. Did it rain? It did!", "Rain.", "", "bread bread bread",
         "1. bread\n2. rain", "no end here", '"Who is there?" the cat said. It was the rain. The cat was happy.']


def rows_of(backbone: Backbone, ended: bool = True) -> list:
    encode = backbone.tokenizer.encode
    stop = sorted(backbone.stop_ids)[:1] * ended
    return [(encode(PROMPTS[i % 4]), encode(text, add_special_tokens=False) + stop) for i, text in enumerate(TEXTS * 2)]


@pytest.fixture
def fitted(tiny_model) -> tuple[FeatureSet, list, torch.Tensor]:
    backbone = Backbone.load(str(tiny_model))
    features, rows = FeatureSet(backbone, batch=3), rows_of(backbone)
    return features, rows, features.fit(rows)


def test_groups_are_centred_and_of_one_size_and_cover_all_columns(fitted):
    features, rows, values = fitted
    torch.testing.assert_close(features.read(rows), values, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(values.mean(0), torch.zeros(features.size), atol=1e-4, rtol=0)
    groups = features.groups
    assert list(groups) == ["words", *FEWEST, "endings", *NUMBERS] and values.shape[1] == features.size
    assert [part.start for part in groups.values()][1:] == [part.stop for part in groups.values()][:-1]
    for name in ("words", *FEWEST):
        assert values[:, groups[name]].square().sum(1).mean() == pytest.approx(1, abs=1e-3)


def test_the_scores_after_tokens_end_at_the_score_of_the_response(fitted):
    features, rows, _ = fitted
    weights = torch.randn(3, features.size, generator=torch.Generator().manual_seed(0))
    wanted = features.read(rows) @ weights.T
    for (_, response), scores, whole in zip(rows, features.scores_after_tokens(rows, weights), wanted):
        assert scores.shape == (len(response) + 1, 3)
        torch.testing.assert_close(scores[-1], whole, atol=1e-4, rtol=1e-4)


def test_each_score_is_that_of_the_beginning_but_for_the_mean_of_the_words(fitted):
    """Without weight on the words, what a response has come to after a word is what the beginning alone scores."""
    features, rows, _ = fitted
    weights = torch.randn(2, features.size, generator=torch.Generator().manual_seed(1))
    weights[:, features.groups["words"]] = 0
    prompt, response = rows[0]
    after, = features.scores_after_tokens([(prompt, response)], weights)
    for stop in range(1, len(response) + 1):
        if features.words.splitter.ends(response)[stop - 1]:
            beginning = features.read([(prompt, response[:stop])]) @ weights.T
            torch.testing.assert_close(after[stop], beginning[0], atol=1e-4, rtol=1e-4)
        else:
            assert torch.equal(after[stop], after[stop - 1])


def test_the_likelihood_is_the_bases_mean_log_probability(fitted):
    """Mixed with a few tokens of the anchors' mean; computed here from the logits."""
    features, rows, _ = fitted
    backbone = features.backbone
    means = []
    total = count = 0.0
    for prompt, response in rows:
        with torch.no_grad(), backbone.use(None):
            hidden = backbone.hidden(pad_right([prompt + response], backbone.pad_id, backbone.device))[0]
            logits = backbone.head(hidden[len(prompt) - 1:-1])
            found, _ = read_logits(logits, torch.tensor(response), 1.0, False)
        means.append((found.sum().item(), len(response)))
        total, count = total + found.sum().item(), count + len(response)
    assert features.likelihood == pytest.approx(total / count, abs=1e-4)
    readings = dict(features._readings(rows))
    for i, (summed, length) in enumerate(means):
        reading = readings[i]
        wanted = (summed + SHRUNK * total / count) / (length + SHRUNK)
        assert reading.numbers[-1, NUMBERS.index("likelihood")].item() == pytest.approx(wanted, abs=1e-4)


def test_a_state_comes_back(fitted, tmp_path):
    features, rows, _ = fitted
    save_state(tmp_path, {"words": features.words.state_dict(), "features": features.state_dict()})
    state = load_state(tmp_path)
    again = FeatureSet(features.backbone, batch=3)
    again.words.load_state_dict(state["words"])
    again.load_state_dict(state["features"])
    assert torch.equal(again.read(rows), features.read(rows)) and again.groups == features.groups


@pytest.mark.parametrize("version", [WORDS_ONLY, SHAPES, NEWEST])
def test_what_ppo_gets_adds_up_to_the_score(tiny_llama, version):
    trainer = make_simulated(tiny_llama, score_cap_quantile=0.9)
    trainer.reward.features = trainer.reward._make_features(version)
    next(trainer)
    reward, rollout = trainer.reward, trainer.learner.sample_reference()
    scores = reward.score(list(zip(rollout.prompt_ids, rollout.response_ids)))
    wanted = soft_cap(reward.lower_bound(scores), reward.score_cap())
    torch.testing.assert_close(reward(rollout).sum(1), wanted, atol=1e-5, rtol=1e-5)


def test_an_older_run_goes_on_with_words_alone_bit_for_bit(tiny_llama, tmp_path):
    """A checkpoint without a version is one of words. Its reward is fitted, and pays tokens, as it was then."""
    trainer = make_simulated(tiny_llama)
    trainer.reward.features = trainer.reward._make_features(WORDS_ONLY)
    next(trainer)
    state = trainer.state_dict()
    del state["reward"]["features"]  # as before there was one
    save_state(tmp_path, state)
    trainer.save(tmp_path)
    save_state(tmp_path, state)
    resumed = make_simulated(tiny_llama)
    assert resumed.reward.features.version == NEWEST
    resumed.load(tmp_path)
    reward = resumed.reward
    assert reward.features.version == WORDS_ONLY and list(reward.features.groups) == ["words"]
    assert [without_time(next(resumed)) for _ in range(2)] == [without_time(next(trainer)) for _ in range(2)]
    # The arithmetic of the first version, written out.
    rollout, words = resumed.learner.sample_reference(), reward.features.words
    rows = list(zip(rollout.prompt_ids, rollout.response_ids))
    assert torch.equal(reward.weights, fit_sparse(reward._groups(reward._counted()), len(reward.weights))[0])
    assert torch.equal(reward.features.read(rows), words.read(rows))
    paid, cap = reward(rollout), reward.score_cap()
    for row, adds in zip(paid, words.token_contributions(rows, reward.weights)):
        raw = torch.cat([torch.zeros(1, adds.shape[1]), adds]).cumsum(0)
        scores = soft_cap(reward.lower_bound(reward.gains * raw + reward.offsets), cap)
        wanted = scores.diff()
        wanted[-1] += scores[0]
        assert torch.equal(row[:len(adds)], wanted)


def test_a_run_of_the_second_version_goes_on_with_its_features(tiny_llama, tmp_path):
    trainer = make_simulated(tiny_llama)
    trainer.reward.features = trainer.reward._make_features(SHAPES)
    next(trainer)
    trainer.save(tmp_path)
    resumed = make_simulated(tiny_llama)
    resumed.load(tmp_path)
    assert list(resumed.reward.features.groups) == ["words", *SHAPE_PLACES, *SHAPE_NUMBERS] and resumed.reward.features.version == SHAPES
    assert SHAPE_NUMBERS[-2:] == ("nearness", "likelihood") and NUMBERS[:len(SHAPE_NUMBERS)] == SHAPE_NUMBERS
    assert [without_time(next(resumed)) for _ in range(2)] == [without_time(next(trainer)) for _ in range(2)]
    assert resumed.reward.top_features() == trainer.reward.top_features()


def test_words_that_end_alike_are_one_feature(tiny_model):
    backbone = Backbone.load(str(tiny_model))
    prompt = backbone.tokenizer.encode("tell")
    said = ["walked talked jumped rained", "walking talking jumping raining", "walked and talked", "a dog", "ended"]
    rows = [(prompt, backbone.tokenizer.encode(text, add_special_tokens=False)) for text in said * 2]
    features = FeatureSet(backbone, batch=4)
    values = features.fit(rows)[:, features.groups["endings"]]
    endings = features.endings.endings
    assert {"ed", "ing"} <= set(endings) and "og" not in endings, "four different words at least"
    raw = (values * features.endings.size + features.endings.centre)[:5]
    assert raw[:, endings.index("ed")].tolist() == pytest.approx([4 / 20, 0, 2 / 20, 0, 1 / 20], abs=1e-6)
    weights = torch.zeros(features.size)
    weights[features.groups["endings"].start + endings.index("ed")] = 1.0
    assert features.likes(weights)["endings"][0].startswith("words that end in -ed")
    assert endings_of("walked") == ["ed", "ked"] and endings_of("bed") == endings_of("1234567") == endings_of("") == []


def test_sentences_have_starts(tiny_model):
    """The first word or sign of each sentence counts, the others do not."""
    place = PlaceWords("starts")
    assert place._inside(torch.tensor([0, 0, 1, 1, 1, 3])).tolist() == [1, 0, 1, 0, 0, 1]
    assert place._inside(torch.zeros(0, dtype=torch.long)).tolist() == []


def test_the_reward_says_in_words_what_it_likes(tiny_llama):
    """Somebody who likes short answers, on texts of the same letters."""
    trainer = make_simulated(tiny_llama, function=lambda prompt, response: -len(response.split()), reference_samples=32, votes=16, votes_first=16)
    assert trainer.reward.top_features() == ([], [])
    next(trainer)
    row = next(event for event in reversed(trainer.events) if event["event"] == "reward")
    assert (row["likes_features"], row["dislikes_features"]) == trainer.reward.top_features()
    shares = trainer.reward.feature_shares()
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(value >= module.NAMED for value in shares.values()) >= 1 and row["likes_features"]


def test_a_version_is_kept_in_the_checkpoint(tiny_llama, tmp_path):
    trainer = make_simulated(tiny_llama)
    next(trainer)
    trainer.save(tmp_path)
    assert load_state(tmp_path)["reward"]["features"]["version"] == NEWEST


def test_the_end_of_a_response_is_no_word_to_a_reader(fitted):
    features, rows, _ = fitted
    tokenizer = features.backbone.tokenizer
    stop = rows[0][1][-1:]
    assert tuple(stop) in features.words.chosen  # it may well matter to somebody
    liked, disliked = features.rank_words(torch.arange(len(features.words.chosen)) - 1.5)
    assert liked and disliked and tokenizer.decode(stop).strip() not in liked + disliked
