"""Good rows of every format, spoiled at random: a reader returns rows or one line, and never a text that was not there."""

import json
import random

import pytest

from rlhf_engine.data.readers import Demonstration, Preference, Ranking, read_rows
from rlhf_engine.errors import UserError
from tests.rlhf_engine.data.test_public_sets import DEMONSTRATIONS, FLAT, PREFERENCES, PROMPTS, TREE

SPOILS = [None, float("nan"), float("inf"), -1, 0, 10**400, True, "", " ", "nan", "[]", "{", "[{'role': 'user'", "\x00", "\ud800", "👎", [], {}, [None], [[]],
          [{}], [1, "a"], {"role": "user"}, [{"role": "user", "content": None}], {"from": "gpt", "value": []}, [["a", "b"]], [{"text": "x", "replies": 3}],
          "Human:", "\n\nHuman: \n\nAssistant:", "1,5", {"content": ["a"], "role": ["user"]}, {"a": {"b": {"c": 1}}}]
EXAMPLES = [[case[1]] for case in (*PROMPTS, *DEMONSTRATIONS, *PREFERENCES)] + [FLAT, [TREE]]


def spoil(rng: random.Random, value):
    """A copy of a value with one part of it replaced, taken away, doubled or given another name."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(list(value))
        way = rng.random()
        if way < 0.15:
            return {key: each for key, each in value.items() if key != name}
        if way < 0.25:
            return {(f" {key}" if key == name else key): each for key, each in value.items()}
        return value | {name: spoil(rng, value[name])}
    if isinstance(value, list) and value and rng.random() < 0.8:
        i = rng.randrange(len(value))
        return [*value[:i], *([spoil(rng, value[i])] * rng.randrange(3)), *value[i + 1:]]
    if isinstance(value, str) and value and rng.random() < 0.3:
        i = rng.randrange(len(value))
        return value[:i] + rng.choice(["\n", "\r\n", "\"", ",", ";", "\\", "Human:", ""]) + value[i:]
    if isinstance(value, list | dict) and rng.random() < 0.5:
        return json.dumps(value)[:rng.choice([5, 9999])]
    return rng.choice(SPOILS)


def texts_of(row) -> list[str]:
    prompt = getattr(row, "prompt", row)
    texts = [prompt] if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    if isinstance(row, Demonstration):
        return [*texts, row.completion]
    if isinstance(row, Preference):
        return [*texts, row.chosen, row.rejected]
    return [*texts, *row.responses] if isinstance(row, Ranking) else texts


@pytest.mark.parametrize("seed", range(4))
def test_spoiled_rows(tmp_path, seed):
    rng = random.Random(seed)
    for number in range(150):
        rows = list(rng.choice(EXAMPLES)) * rng.choice([1, 3])
        for _ in range(rng.choice([1, 1, 2])):
            i = rng.randrange(len(rows))
            rows[i] = spoil(rng, rows[i])
        text = "".join(json.dumps(row) + "\n" for row in rows)
        if rng.random() < 0.2:
            i = rng.randrange(len(text))
            text = text[:i] + rng.choice(["", "\x00", "\ufeff", "}", "\n", ","]) + text[i + rng.randrange(3):]
        name = rng.choice(["a.jsonl", "a.json", "a.csv"])
        (tmp_path / name).write_text(text, encoding="utf-8")
        kind = rng.choice(["", "prompts", "demonstrations", "preferences"])
        try:
            read = read_rows(str(tmp_path / name), kind)
        except UserError as error:
            assert "\n" not in str(error) and str(error).startswith(str(tmp_path / name)), (seed, number)
            continue
        assert read.remarks is not None and len(read) == len(read.numbers)
        for row in read:
            assert all(isinstance(each, str) for each in texts_of(row)), (seed, number)
            assert not {"nan", "None", "[]", "{}"} & {line for each in texts_of(row) for line in each.split("\n\n")[1:]}, (seed, number)
