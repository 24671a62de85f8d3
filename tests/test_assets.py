"""What is bundled holds what its documentation says."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from assets.recipe.rules import animals, brief, cheerful, excited, mentions, talkative
from rlhf_engine.data.readers import read_demonstrations, read_preferences, read_prompts
from rlhf_engine.files import ASSETS
from rlhf_engine.runs.resolve import BUNDLED_MODEL, fingerprint

ADAPTERS = sorted((ASSETS / "adapters").iterdir())


def rows(name: str) -> list[dict]:
    return [json.loads(line) for line in (ASSETS / name).read_text(encoding="utf-8").splitlines()]


def test_counts_and_no_prompt_on_both_sides():
    prompts, held_out = read_prompts("bundled"), read_prompts("bundled-heldout")
    assert len(prompts) >= 400 and len(held_out) >= 128
    assert len(set(prompts)) == len(prompts) and not set(prompts) & set(held_out)
    assert len(read_demonstrations("bundled")) >= 400 and len(read_preferences("bundled")) >= 300
    trained_on = {d.prompt for d in read_demonstrations("bundled")} | {p.prompt for p in read_preferences("bundled")}
    assert not trained_on & set(held_out)


def test_every_demonstration_mentions_what_was_asked_for():
    things = {row["prompt"]: row["thing"] for row in rows("prompts.jsonl")}
    assert all(mentions(things[d.prompt], d.completion) for d in read_demonstrations("bundled"))


def test_every_preference_follows_the_documented_rule():
    for pair in read_preferences("bundled"):
        assert cheerful(pair.prompt, pair.chosen) - cheerful(pair.prompt, pair.rejected) >= 0.4 - 1e-9


def test_the_model_is_small_safe_and_described():
    weights = list(BUNDLED_MODEL.glob("*.safetensors"))
    assert len(weights) == 1 and weights[0].stat().st_size <= 24e6
    assert not [f for f in BUNDLED_MODEL.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_MODEL)
    assert 2000 <= len(tokenizer) <= 4096
    assert tokenizer.eos_token_id != tokenizer.pad_token_id and tokenizer.chat_template
    card = (BUNDLED_MODEL / "README.md").read_text(encoding="utf-8")
    assert all(word in card for word in ("CDLA-Sharing-1.0", "bits per character", "pretrain.py"))


@pytest.mark.parametrize("folder", ADAPTERS, ids=lambda folder: folder.name)
def test_adapters_belong_to_the_bundled_model(folder: Path):
    assert json.loads((folder / "base.json").read_text())["fingerprint"] == fingerprint(BUNDLED_MODEL)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "bundled"


def test_there_is_a_gallery():
    assert {"sft", "animals", "brief", "cheerful", "excited", "talkative"} <= {folder.name for folder in ADAPTERS}


def test_rules_by_hand():
    assert cheerful("", "The happy dog loved to play all day with his sad cat.") == pytest.approx(10 * (3 - 1) / 12)
    assert cheerful("", "happy") == -2.0
    assert talkative("", 'He said, "Come here now." Then the dog went back to the park again.') == pytest.approx(3 / 14)
    assert talkative("", "The dog went to the park and came back to the house.") == 0
    assert excited("", "What a day it was! They ran to the park. They were so glad!") == pytest.approx(2 / 3)
    assert excited("", "What a day!") == 0, "too short to count"
    assert animals("", "A cat and two cats met a dog. The dog saw a tree.") == 2
    assert animals("", "A cat, a dog, a frog, a bee, and an owl.") == 4, "four at most"
    assert brief("", "One two three. " * 8 + "One.") == 0 and brief("", "One two three. " * 10) == pytest.approx(-5 / 25)
    assert brief("", "One sentence is no story.") == -2
    assert mentions("dog", "Two dogs.") and not mentions("cat", "A catalogue.")
