"""The recipe of the bundled model, on a handful of stories."""

import json
import random
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from assets.recipe.stories import NameSwap
from rlhf_engine.files import ASSETS

STORY = "Once there was a girl named {a}. {a} met a boy named {b}. {b} and {a} played in the park all day."


def test_names_are_swapped_consistently_and_keep_their_pronoun():
    girls, boys = ["Lily", "Mia", "Sue"], ["Tim", "Ben", "Max"]
    stories = [STORY.format(a=a, b=b) for a in girls for b in boys for _ in range(3)]
    swap, rng, seen = NameSwap(stories), random.Random(0), set()
    assert swap.pronoun == {**dict.fromkeys(girls, "she"), **dict.fromkeys(boys, "he")}
    for _ in range(50):
        text = swap(stories[0], rng)
        [found] = [(a, b) for a in girls for b in boys if text == STORY.format(a=a, b=b)]
        seen.add(found)
    assert len(seen) > 3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="the recipe needs a torch with Muon (2.9)")
def test_pretraining_writes_a_model_that_transformers_loads(tmp_path):
    rng = random.Random(0)
    rows = [STORY.format(a=rng.choice(["Lily", "Mia"]), b=rng.choice(["Tim", "Ben"])) for _ in range(150)]
    data = tmp_path / "stories.jsonl"
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    command = [sys.executable, str(ASSETS / "recipe" / "pretrain.py"), "--data", str(data), "--validation", str(data), "--output",
               str(tmp_path / "model"), "--vocabulary", "320", "--hidden", "32", "--layers", "2", "--heads", "2", "--intermediate", "64",
               "--context", "64", "--tokens", "30000", "--batch-tokens", "512", "--evaluate-every", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads((tmp_path / "model" / "measured.json").read_text())
    assert measured["bits_per_character"] < 3  # of 8 for a model that knows nothing
    model, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    assert model.config.eos_token_id == tokenizer.eos_token_id != tokenizer.pad_token_id
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|story|><|user|>Hi<|end|><|assistant|>"
