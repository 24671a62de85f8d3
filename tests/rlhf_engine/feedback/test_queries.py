"""Which candidates a query shows: scores by hand with a known answer, and counts over many seeds."""

import itertools
import random
from collections import Counter

import pytest
import torch

from rlhf_engine.feedback.events import Event
from rlhf_engine.feedback.queries import Query, select_responses, strategy_after

STRATEGIES = ("random", "best", "disagreement", "spread")
TEXTS = [f"text {i}" for i in range(8)]


def rows(*values, members=1) -> torch.Tensor:
    """[C, members] with these means, the same for all members."""
    return torch.tensor(values)[:, None].expand(-1, members).contiguous()


def random_scores(count=8, members=3, seed=0) -> torch.Tensor:
    return torch.randn(count, members, generator=torch.Generator().manual_seed(seed))


def over_seeds(scores, texts, count, strategy, seeds=200) -> Counter:
    """How often each choice is shown, as a tuple in its order."""
    return Counter(tuple(select_responses(scores, texts, count, strategy, random.Random(seed))) for seed in range(seeds))


def sets(counts: Counter) -> set[frozenset]:
    return {frozenset(shown) for shown in counts}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_as_many_as_asked_for_and_none_twice(strategy, members, count):
    for seed in range(20):
        found = select_responses(random_scores(members=members, seed=seed), TEXTS, count, strategy, random.Random(seed))
        assert len(found) == len(set(found)) == count and all(type(i) is int and 0 <= i < 8 for i in found)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_is_shown_at_each_place_as_often(strategy):
    """Otherwise the position would show which one the reward prefers."""
    counts = over_seeds(rows(0.0, 1.0, 2.0), TEXTS[:3], 3, strategy, seeds=600)
    assert set(counts) == set(itertools.permutations(range(3))) and max(counts.values()) < 2 * min(counts.values())
    assert len(over_seeds(rows(0.0, 1.0), TEXTS[:2], 2, strategy)) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_generator_gives_the_same_choice(strategy):
    scores = random_scores()
    for seed in range(5):
        assert select_responses(scores, TEXTS, 4, strategy, random.Random(seed)) == select_responses(scores, TEXTS, 4, strategy, random.Random(seed))


# -- strategies ----------------------------------------------------------------------------------------------------------


def test_best_are_those_with_the_highest_means():
    scores = torch.tensor([[0.0, 8.0], [3.0, 3.0], [9.0, -9.0], [5.0, 2.0], [1.0, 1.0]])  # means 4, 3, 0, 3.5, 1
    for count, expected in ((1, {0}), (2, {0, 3}), (3, {0, 3, 1}), (4, {0, 1, 3, 4})):
        assert sets(over_seeds(scores, TEXTS[:5], count, "best", seeds=20)) == {frozenset(expected)}


def test_disagreement_is_about_which_is_better():
    """Members that differ by a constant agree about the order. Members that swap two candidates do not."""
    scores = torch.tensor([[4.0, 8.0], [1.0, 5.0], [2.0, 4.0], [0.0, 6.0], [3.0, 7.0]])  # the second member adds 4, but for 2 (2) and 3 (6)
    assert sets(over_seeds(scores, TEXTS[:5], 2, "disagreement", seeds=20)) == {frozenset({2, 3})}


def test_members_that_differ_by_a_constant_do_not_disagree():
    scores = torch.tensor([[0.0, 4.0], [1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    assert len(sets(over_seeds(scores, TEXTS[:4], 2, "disagreement"))) == 6


def test_disagreement_counts_where_the_means_are_all_the_same():
    scores = torch.tensor([[0.0, 0.0], [2.0, -2.0], [0.0, 0.0], [-2.0, 2.0]])
    assert sets(over_seeds(scores, TEXTS[:4], 2, "disagreement", seeds=20)) == {frozenset({1, 3})}


def test_one_member_cannot_disagree_with_itself():
    counts = over_seeds(rows(0.0, 1.0, 2.0, 3.0), TEXTS[:4], 2, "disagreement")
    assert len(sets(counts)) == 6 and len(counts) == 12


def test_spread_is_the_best_and_then_the_farthest_from_all_that_are_chosen():
    scores = rows(3.0, 10.0, 0.0, 9.5, 6.0, members=3)
    for count, expected in ((1, {1}), (2, {1, 2}), (3, {1, 2, 4}), (4, {0, 1, 2, 4}), (5, {0, 1, 2, 3, 4})):  # 6 is 4 from 10, 3 is 3 from 0
        assert sets(over_seeds(scores, TEXTS[:5], count, "spread", seeds=20)) == {frozenset(expected)}


def test_spread_goes_by_the_mean_of_the_members():
    scores = torch.tensor([[8.0, -8.0], [1.0, 1.0], [-1.0, -0.5], [5.0, -4.0]])  # means 0, 1, -0.75, 0.5
    assert sets(over_seeds(scores, TEXTS[:4], 2, "spread", seeds=20)) == {frozenset({1, 2})}


def test_random_does_not_look_at_the_scores():
    counts = over_seeds(rows(0.0, 1.0, 2.0, 50.0), TEXTS[:4], 2, "random", seeds=1200)
    assert len(counts) == 12 and max(counts.values()) < 2 * min(counts.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("members", [1, 3])
def test_while_all_score_the_same_the_choice_is_random(strategy, noise, members):
    """As before the first vote. Differences by rounding are not counted."""
    scores = torch.zeros(5, members) + noise * torch.arange(5.0)[:, None]
    counts = over_seeds(scores, TEXTS[:5], 2, strategy, seeds=1000)
    assert len(counts) == 20 and max(counts.values()) < 3 * min(counts.values())


# -- equal texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("flat", [False, True])
def test_equal_texts_are_shown_once_where_there_are_enough_others(strategy, flat):
    texts = list("abacbada")
    scores = torch.tensor([ord(text) * 1.0 for text in texts])[:, None] * torch.tensor([1.0, -0.5])
    for count in (1, 2, 3, 4):
        for shown in over_seeds(torch.zeros(8, 2) if flat else scores, texts, count, strategy, seeds=50):
            assert len({texts[i] for i in shown}) == len(shown) == count


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("flat", [False, True])
def test_repeats_fill_up_where_there_are_not(strategy, flat):
    texts = list("abaabaaa")
    scores = torch.zeros(8, 2) if flat else torch.tensor([ord(text) * 1.0 for text in texts])[:, None] * torch.tensor([1.0, -0.5])
    for count in (2, 3, 5, 8):
        for shown in over_seeds(scores, texts, count, strategy, seeds=50):
            assert len(shown) == len(set(shown)) == count and {texts[i] for i in shown} == {"a", "b"}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("flat", [False, True])
def test_repeats_are_shown_anywhere_too(strategy, flat):
    """If repeats were always last, the position would show which text is no repeat."""
    texts, scores = list("aba"), rows(0.0, 0.0, 0.0) if flat else rows(0.0, 1.0, 0.0)
    places = Counter(shown.index(1) for shown, n in over_seeds(scores, texts, 3, strategy, seeds=300).items() for _ in range(n))
    assert set(places) == {0, 1, 2} and max(places.values()) < 2 * min(places.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_all_texts_are_equal_there_are_still_as_many(strategy):
    assert sorted(select_responses(torch.zeros(4, 2), ["same"] * 4, 4, strategy, random.Random(0))) == [0, 1, 2, 3]
    assert len(set(select_responses(random_scores(4), ["same"] * 4, 2, strategy, random.Random(0)))) == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("texts", [["a"], ["a", "b", "c"], ["a", "b", "a"]])
@pytest.mark.parametrize("flat", [False, True])
def test_of_too_few_candidates_all_are_shown(strategy, texts, flat):
    scores = torch.zeros(len(texts), 2) if flat else random_scores(len(texts), 2)
    assert sorted(select_responses(scores, texts, 4, strategy, random.Random(0))) == list(range(len(texts)))


def test_choosing_changes_nothing_that_it_was_given():
    scores, texts = random_scores(), list("abacbada")
    before = scores.clone()
    for strategy in STRATEGIES:
        select_responses(scores, texts, 4, strategy, random.Random(0))
    assert torch.equal(scores, before) and texts == list("abacbada")


def test_a_query_says_what_was_asked_and_cannot_be_changed():
    query = Query("7-0", "Once", ("a", "b"), (0.1, 0.2), 3, {"temperature": 1.0})
    assert (query.run, query.checkpoint) == ("", "")
    with pytest.raises(AttributeError):
        query.step = 4


def test_after_a_tie_a_query_shows_what_is_liked_less_as_well():
    """Only where queries show the best, and only after a tie of the newest vote that ranks responses."""
    choice, tie = Event("a", "ranking", "p", tuple("abcd"), (2, 1, 2, 2)), Event("b", "ranking", "p", tuple("abcd"), (1, 1, 1, 1))
    bad, thumb = Event("c", "comparison", "p", ("a", "b"), "both_bad"), Event("d", "thumb", "p", ("a",), "up")
    assert strategy_after([], "best") == strategy_after([tie, choice], "best") == strategy_after([thumb], "best") == "best"
    assert strategy_after([choice, tie], "best") == strategy_after([tie, thumb], "best") == strategy_after([bad], "best") == "spread"
    for strategy in ("spread", "disagreement", "random"):
        assert strategy_after([choice, tie], strategy) == strategy
