"""How much of a judge's scores is length."""

import random

import numpy as np
import pytest

from rlhf_engine.evaluation.report.length_share import share_explained_by_length, spearman

RANDOM = random.Random(3)
TEXTS = [" ".join("word" for _ in range(RANDOM.randrange(5, 90))) + "." for _ in range(400)]
PROMPTS = [i // 4 for i in range(400)]


def test_length_itself_is_explained_whole():
    share = share_explained_by_length([len(text.split()) for text in TEXTS], TEXTS, PROMPTS)
    assert share["share"] > 0.95 and share["correlation"] == pytest.approx(1)


def test_a_liking_for_one_length_is_length_although_it_rises_and_falls():
    near_fifty = [-abs(len(text.split()) - 50) for text in TEXTS]
    share = share_explained_by_length(near_fifty, TEXTS, PROMPTS)
    assert share["share"] > 0.9 and abs(share["correlation"]) < 0.6


def test_scores_without_length_are_not():
    assert share_explained_by_length([RANDOM.random() for _ in TEXTS], TEXTS, PROMPTS)["share"] < 0.05


def test_half_of_it_is_half():
    words = np.array([len(text.split()) for text in TEXTS])
    noise = np.random.default_rng(0).normal(0, words.std(), len(words))
    assert share_explained_by_length((words + noise).tolist(), TEXTS, PROMPTS)["share"] == pytest.approx(0.5, abs=0.08)


def test_sentences_count_as_a_length():
    counts = [RANDOM.randrange(1, 7) for _ in TEXTS]
    texts = [text.replace(".", "") + "." * count for text, count in zip(TEXTS, counts)]
    share = share_explained_by_length(counts, texts, PROMPTS)
    assert share["of"] == "sentences" and share["share"] > 0.95


@pytest.mark.parametrize("scores", [[1.0] * 400, [1.0, 2.0]], ids=["all alike", "too few"])
def test_where_nothing_can_be_said(scores):
    assert share_explained_by_length(scores, TEXTS[:len(scores)], PROMPTS[:len(scores)])["share"] is None


def test_spearman_with_ties():
    scipy = pytest.importorskip("scipy.stats")
    x, y = np.array([1, 2, 2, 3, 5, 5, 5, 9.0]), np.array([2, 1, 4, 4, 3, 8, 7, 7.0])
    assert spearman(x, y) == pytest.approx(scipy.spearmanr(x, y).statistic)
