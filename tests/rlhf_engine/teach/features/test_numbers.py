"""What is counted in a response: on texts whose numbers are known, after each word, and as curves."""

import math

import pytest
import torch

from rlhf_engine.model.backbone import Backbone
from rlhf_engine.rollout.tents import tents
from rlhf_engine.teach.features import pattern, prompt_relation, shape
from rlhf_engine.teach.features.curves import make_knots, smooth_basis
from rlhf_engine.teach.features.numbers import Curves
from rlhf_engine.teach.features.phrases import PHRASES, phrase_at
from rlhf_engine.teach.features.prompt_relation import PromptWords, Relation, alike
from rlhf_engine.teach.features.text_words import TextWords, trace
from rlhf_engine.teach.word_features import Splitter


@pytest.fixture(scope="module")
def texts(tiny_model) -> TextWords:
    backbone = Backbone.load(str(tiny_model))
    return TextWords(backbone.tokenizer, backbone.stop_ids, Splitter(backbone.tokenizer))


def tokens(texts: TextWords, text: str, ended: bool = True) -> list[int]:
    return texts.tokenizer.encode(text, add_special_tokens=False) + sorted(texts.stop_ids)[:1] * ended


def numbers_of(texts: TextWords, text: str, ended: bool = True) -> dict[str, float]:
    return dict(zip(shape.NAMES, trace(shape.Shape(), texts.places(tokens(texts, text, ended)))[-1]))


def sentences_of(texts: TextWords, text: str) -> list[str]:
    found: dict[int, list[str]] = {}
    for place in texts.places(tokens(texts, text)):
        if place.kind.spells:
            found.setdefault(place.sentence, []).append(place.kind.text)
    return [" ".join(words) for words in found.values()]


def test_sentences_end_with_a_sign_or_a_line(texts):
    assert sentences_of(texts, 'She ran. "Stop!" he said. Why? It rained\nThen it was over') == [
        "she ran", "stop", "he said", "why", "it rained", "then it was over"]
    assert sentences_of(texts, "1. apples\n2. pears") == ["1 apples", "2 pears"]
    assert sentences_of(texts, "Wait... what") == ["wait", "what"]
    assert sentences_of(texts, "") == []


def test_the_numbers_of_a_text(texts):
    found = numbers_of(texts, '"Hello!" said Tom, the dog. The dog ran. Did the dog ran, too?')
    assert math.exp(found["length"]) == pytest.approx(14 - 1)
    assert (found["sentences"], found["questions"], found["exclamations"]) == (4, 1, 1)
    assert found["starts_with_speech"] == 1 and found["ends_with_question"] == 1 and found["early_speech"] == found["ended"] == 1
    assert numbers_of(texts, 'He said, "Go."')["early_speech"] == pytest.approx(math.exp(-2 / shape.SOON))
    assert found["commas"] == pytest.approx(2 / 13) and found["names"] == pytest.approx(1 / 13)
    assert found["growth"] == pytest.approx((8 - 5) / 2 / (13 / 4)) and found["different_names"] == 1
    assert found["speech"] == pytest.approx(1 / 13) and found["late_speech"] < 0
    assert math.exp(found["first_sentence"]) == pytest.approx(1) and math.exp(found["last_sentence"]) == pytest.approx(5)
    assert found["variation"] == pytest.approx((3 + 1 + 2) / 3 / (13 / 4))  # 1, 4, 3 and 5 words
    assert numbers_of(texts, "A dog. A dog. A dog.", ended=False)["ended"] == 0


def test_what_comes_again_is_counted(texts):
    found = numbers_of(texts, "The dog ran home. The dog ran away. A cat sat there.")
    assert found["repeated_words"] == pytest.approx(3 / 12) and found["repeated_pairs"] == pytest.approx(2 / 12)
    assert found["repeated_starts"] == pytest.approx(1 / 3) and found["echo"] == found["circle"] == 0
    found = numbers_of(texts, "Once a dog ran. It sat. So a dog sat once.")
    assert found["echo"] == pytest.approx(3 / 5) and found["circle"] == 1


def test_lists_lines_and_numbers_are_counted(texts):
    found = numbers_of(texts, "Buy these:\n- apples\n- pears\n3. plums")
    assert (found["items"], found["lines"], found["numbers"]) == (3, 3, 1)


def test_an_empty_response_has_numbers(texts):
    assert all(math.isfinite(value) for value in shape.Shape().numbers().values())
    assert all(math.isfinite(value) for value in Relation({}, []).values())
    assert numbers_of(texts, "")["ended"] == 1


def test_every_number_has_phrases():
    assert set(shape.NAMES) | set(Relation.NAMES) <= set(PHRASES)


# -- the prompt --------------------------------------------------------------------------------------------------------

def relation_of(texts: TextWords, own: dict[str, float], prompt: str, response: str) -> dict[str, float]:
    relation = Relation(own, prompt.lower().split())
    return dict(zip(Relation.NAMES, trace(relation, texts.places(tokens(texts, response)))[-1]))


def test_mentions_are_found_in_their_places(texts):
    found = relation_of(texts, {"dog": 0.75, "red": 0.25}, "tell of a red dog", "There was a dog. It ran. The dogs sat.")
    assert found["mentioned"] == pytest.approx(0.75) and found["mentions"] == pytest.approx(math.log(3))
    assert found["early_mention"] == pytest.approx(0.75 * (1 - 3 / prompt_relation.LATE))
    assert found["mention_in_first"] == found["mention_in_last"] == pytest.approx(0.75)
    found = relation_of(texts, {"dog": 1.0}, "tell of a red dog", "There was a cat. A red dog sat. All slept.")
    assert (found["mention_in_first"], found["mention_in_last"], found["mentioned"]) == (0, 0, 1)
    assert found["copied"] == pytest.approx(2 / 10) and found["copied_run"] == pytest.approx(math.log(3))


def test_forms_of_a_word_are_alike():
    assert alike("dog", "dogs") and alike("jumped", "jump") and alike("dog", "dog")
    assert not alike("do", "dog") and not alike("cat", "dog") and not alike("car", "carriage")


def test_rare_words_of_a_prompt_count_and_its_frame_does_not():
    words = PromptWords()
    for thing in "abcdefgh":
        words.add({"tell", "me", "of", thing}, {"the", "of"})
    assert words.weight("tell") == pytest.approx(0) and words.weight("of") == pytest.approx(0)
    assert words.weight("a") > 0.6 and words.weight("zebra") == pytest.approx(1)
    again = PromptWords()
    again.load_state_dict(words.state_dict())
    assert again.weight("a") == words.weight("a")


def test_nearness_is_the_best_so_far():
    own = torch.eye(3)[:2]
    words = torch.stack([torch.eye(3)[2], torch.eye(3)[0], torch.eye(3)[2], torch.eye(3)[1]])
    far = math.exp(-1 / 0.3)
    found = prompt_relation.closest(words, own, torch.tensor([3.0, 1.0]), 0.3)
    torch.testing.assert_close(found, torch.tensor([far, (3 + far) / 4, (3 + far) / 4, 1.0]))


# -- curves ------------------------------------------------------------------------------------------------------------

def test_tents_draw_straight_lines_between_knots_and_stay_level_beyond():
    knots, heights = torch.tensor([0.0, 1.0, 4.0]), torch.tensor([5.0, -1.0, 2.0])
    at = torch.tensor([-3.0, 0.0, 0.5, 1.0, 2.0, 4.0, 9.0])
    torch.testing.assert_close(tents(at, knots) @ heights, torch.tensor([5.0, 5.0, 2.0, -1.0, 0.0, 2.0, 2.0]))
    torch.testing.assert_close(tents(at, knots).sum(1), torch.ones(7))


def test_knots_are_quantiles_or_all_numbers_there_are():
    assert make_knots(torch.tensor([2.0, 0.0, 1.0, 1.0])).tolist() == [0, 1, 2]
    assert len(make_knots(torch.ones(5))) == 1
    knots = make_knots(torch.linspace(0, 100, 1001))
    torch.testing.assert_close(knots, torch.linspace(2, 98, 9), atol=0.1, rtol=0)
    rare = torch.zeros(1000)
    rare[:12] = torch.arange(12.0) / 7
    assert len(make_knots(rare)) >= 2


def test_curves_are_centred_of_one_size_and_reach_every_shape():
    numbers = torch.stack([torch.randn(300), torch.ones(300), torch.randint(0, 3, (300,)).float()], dim=1)
    curves = Curves()
    features = curves.fit(numbers)
    assert [columns.stop - columns.start for columns in curves.slices] == [8, 0, 2]
    torch.testing.assert_close(features.mean(0), torch.zeros(10), atol=1e-5, rtol=0)
    for columns in (curves.slices[0], curves.slices[2]):
        assert features[:, columns].square().sum(1).mean() == pytest.approx(1, abs=1e-4)
    assert torch.linalg.matrix_rank(smooth_basis(9)) == 8
    weights = torch.randn(10)
    knots, curve = curves.curve(0, weights)
    drawn = tents(numbers[:, 0], knots) @ curve
    wanted = features[:, curves.slices[0]] @ weights[curves.slices[0]]
    torch.testing.assert_close(drawn - drawn.mean(), wanted - wanted.mean(), atol=1e-4, rtol=0)
    again = Curves()
    again.load_state_dict(curves.state_dict())
    assert torch.equal(again.read(numbers), features)


def test_a_curve_is_spoken_of_by_its_peak():
    knots = torch.tensor([20.0, 50.0, 80.0]).log()
    phrase = PHRASES["length"]
    assert phrase_at(phrase, knots, torch.tensor([0.0, 1.0, 0.0])) == "about 50 words"
    assert phrase_at(phrase, knots, torch.tensor([0.0, 0.5, 1.0])) == "long answers"
    assert phrase_at(phrase, knots, torch.tensor([1.0, 0.5, 0.0])) == "short answers"
    assert phrase_at(PHRASES["circle"], torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])) == PHRASES["circle"].much


def patterns_of(texts: TextWords, text: str) -> dict[str, float]:
    return dict(zip(pattern.NAMES, trace(pattern.Pattern(), texts.places(tokens(texts, text)))[-1]))


def test_the_patterns_of_a_text(texts):
    found = patterns_of(texts, 'Big bears bite. "Why?" said Tom. Old Tom had a cat, a dog, and a hat. Dad had a mat!')
    assert found["early_question"] == pytest.approx(math.exp(-4 / shape.SOON)) and found["early_exclamation"] == pytest.approx(math.exp(-20 / shape.SOON))
    assert (found["late_questions"], found["late_exclamations"], found["speeches"], found["series"]) == (-1, 1, 1, 2)
    # Sentences of 3, 1, 2, 10 and 4 words.
    assert [math.exp(found[name]) for name in ("second_sentence", "shortest_sentence", "longest_sentence")] == pytest.approx([1, 1, 10])
    assert found["most_named"] == 2 and found["rhymes"] == pytest.approx(1 / 5), "hat and mat"
    assert found["short_words"] == pytest.approx(17 / 20) and found["alliteration"] == pytest.approx(3 / 20), "big bears bite, and a"
    assert patterns_of(texts, "The dog ran. It sat.")["rhymes"] == 0 and patterns_of(texts, "")["shortest_sentence"] == 0


def test_speech_in_the_middle_is_told_from_speech_around_it(texts):
    middle = patterns_of(texts, 'Tom ran to the dog. "Stop it now you dog!" The dog ran to Tom.')
    around = patterns_of(texts, '"Stop it now Tom!" The dog ran to the old cat. "Go to the dog now!"')
    assert middle["middle_speech"] > 0.1 and around["middle_speech"] < -0.1 and (middle["speeches"], around["speeches"]) == (1, 2)


def test_all_numbers_can_be_said():
    assert set(pattern.NAMES) | set(shape.NAMES) | set(Relation.NAMES) <= set(PHRASES)
