"""Files as people really have them: the wrong file, a spreadsheet's errors, names of other tools, marks of other templates."""

import json

import pytest

from rlhf_engine.data.readers import (
    Demonstration,
    Preference,
    Ranking,
    read_demonstrations,
    read_preferences,
    read_prompts,
)
from tests.rlhf_engine.helpers.messages import refused

QUESTION = {"role": "user", "content": "q"}
PAIR = Preference([QUESTION], "a", "b")


@pytest.fixture
def save(tmp_path, monkeypatch):
    """Write rows, a text or bytes into a file of the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def save(content, name: str = "a.jsonl") -> str:
        if isinstance(content, dict):
            content = [content]
        if isinstance(content, list):
            content = "".join(json.dumps(row) + "\n" for row in content)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    return save


@pytest.mark.parametrize(("name", "content", "said"), [
    ("a.jsonl", '{"prompt": "q", "completion": "a", "completion": "b"}\n', "row 1: has 'completion' twice; keep one"),
    ("a.json", '[{"prompt": "q", "completion": "a"}, {"prompt": "q", "prompt": "z"}]', "row 2: has 'prompt' twice"),
    ("a.json", '{\n"prompt": "q",\n"prompt": "z"\n}', "row 1: has 'prompt' twice"),
    ("a.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ("a.json", "\n<!DOCTYPE html><html>", "is a web page"),
    ("a.csv", '[{"prompt": "q"}]', "holds JSON and not CSV; let its name end in .jsonl"),
    ("a.csv", "prompt,completion\r\nhi,there\r\n".encode("utf-16-le"), "is UTF-16 text without the mark"),
    ("a.csv", "prompt,completion\r\ncaf\xe9,a\r\n".encode("cp1252"), "line 2: is not UTF-8 text; save the file as UTF-8 (Excel"),
    ("a.csv", "prompt,completion\nq,a\nprompt, completion\nr,b\n", "row 2: is the header once more; take that line out"),
    ("a.json", json.dumps({"features": [{"name": "prompt"}], "rows": [{"row": {"prompt": "q"}, "truncated_cells": ["prompt"]}]}), "row 1: the Hub's viewer has cut ['prompt']; give the Hub id"),
    ("a.csv", "prompt,completion\nq,#NAME?\n", "row 1: 'completion' is #NAME?, a spreadsheet's error"),
])
def test_another_file_than_was_meant_is_called_what_it_is(save, name, content, said):
    assert said in refused(read_demonstrations, save(content, name))


@pytest.mark.parametrize("source", ["https://example.org/a.jsonl", "file:///a.jsonl", " "])
def test_an_address_is_no_file(source):
    assert "is an address" in (line := refused(read_prompts, source)) or "is empty" in line


@pytest.mark.parametrize(("read", "columns", "said"), [
    (read_preferences, ["Prompt", "Chosen", "Rejected"], "rename Prompt to prompt, Chosen to chosen, Rejected to rejected;"),
    (read_demonstrations, ["Instruction", "Input", "Output"], "rename Instruction to instruction, Output to output, Input to input;"),
    (read_demonstrations, ["prompt", "output"], "rename output to completion;"), (read_demonstrations, ["inputs", "targets"], "rename inputs to prompt, targets to completion;"),
    (read_prompts, ["promt"], "rename promt to prompt;"), (read_preferences, ["instruction", "generations", "ratings"], "generations to responses, ratings to scores;"),
    (read_preferences, ["input", "preferred_output", "non_preferred_output"], "preferred_output to chosen"),
])
def test_names_of_other_tools_are_told_apart_from_ours(save, read, columns, said):
    assert said in refused(read, save(dict.fromkeys(columns, "x")))


def test_names_that_are_like_nothing_get_no_advice(save):
    assert "rename" not in refused(read_preferences, save({"a": "x", "b": "y"}))


@pytest.mark.parametrize(("user", "assistant", "line"), [("### Human", "### Assistant", "\n"), ("User", "Assistant", "\n\n"), ("###Human", "###Assistant", "\n\n"), ("Human", "Assistant", "\n")])
def test_dialogues_with_other_names_of_the_speakers(save, user, assistant, line):
    head = f"{user}: q{line}{assistant}:"
    file = save({"chosen": f"{head} a", "rejected": f"{head} b"})
    assert read_preferences(file) == [PAIR] and read_prompts(file) == [[QUESTION]]
    assert read_prompts(save({"prompt": head})) == [[QUESTION]]
    assert read_demonstrations(save({"prompt": head, "completion": " a"})) == [Demonstration([QUESTION], "a")]


@pytest.mark.parametrize("text", ["<|im_start|>user\nq<|im_end|>", "[INST] q [/INST] a", "### Human: q### Assistant: a", "### Instruction:\nq\n\n### Response:\na"])
def test_marks_of_turns_in_a_text_are_remarked_on(save, text):
    for column, read in (("text", read_demonstrations), ("prompt", read_prompts)):
        [note] = read(save({column: text})).notes
        assert f"'{column}' holds the marks of turns" in note and "column messages" in note


def test_a_passage_stands_below_its_question(save):
    row = {"question": "Who?", "context": "Bob ran.", "answer": "Bob"}
    assert (rows := read_demonstrations(save(row))) == [Demonstration("Who?\n\nBob ran.", "Bob")] and not rows.unused
    assert read_prompts(save(row)) == ["Who?\n\nBob ran."]
    assert read_preferences(save({**row, "chosen": "a", "rejected": "b"})) == [Preference("Who?\n\nBob ran.", "a", "b")]
    rows = read_demonstrations(save({**row, "context": {"title": ["t"]}}))
    assert rows == [Demonstration("Who?", "Bob")] and "'context' is no text and is not used" in rows.notes[0]


@pytest.mark.parametrize("row", [{"prompt": "q", "chosen": "a", "rejected": "b"}, {"question": "q", "chosen": "a", "rejected": "b"}])
def test_earlier_turns_of_preferences(save, row):
    [pair] = read_preferences(save({**row, "history": [["x", "y"]]}))
    assert [turn["content"] for turn in pair.prompt] == ["x", "y", "q"]


@pytest.mark.parametrize("nothing", ["#N/A", "N/A", "n/a"])
def test_a_spreadsheet_s_word_for_nothing_is_no_input(save, nothing):
    rows = read_demonstrations(save(f"instruction,input,output\nq,{nothing},a\n", "a.csv"))
    assert rows == [Demonstration([QUESTION], "a")] and "stands for nothing" in rows.notes[0]


def test_an_input_without_an_instruction_is_the_prompt(save):
    assert read_demonstrations(save({"instruction": "", "input": "q", "output": "a"})) == [Demonstration([QUESTION], "a")]
    assert "'instruction' is empty" in refused(read_demonstrations, save({"instruction": "", "input": "", "output": "a"}))


@pytest.mark.parametrize(("row", "said"), [
    ({"instruction": "q", "output": ["better", "worse"]}, "'output' is a list of texts; write one text; of two answers, the better one belongs in a column chosen"),
    ({"conversations": [{"speaker": "human", "text": "q"}]}, "'conversations' has a turn of speaker, text; write each turn as"),
    ({"messages": [{"role": "user", "parts": [{"text": "q"}]}]}, "has a turn of role, parts"),
])
def test_what_a_turn_or_an_answer_is_made_of_is_said(save, row, said):
    assert said in refused(read_demonstrations, save(row))


@pytest.mark.parametrize(("ranks", "said"), [("2>1>3", "such as [2, 1, 3]: the rank of each response, 1 is best"), ([-1, -2, -3], "'ranking' holds -3; a rank is 1 for the best")])
def test_rankings_that_are_no_ranks(save, ranks, said):
    assert said in refused(read_preferences, save({"prompt": "q", "responses": ["a", "b", "c"], "ranking": ranks}))


def test_scores_in_a_column_of_ranks_are_remarked_on(save):
    rows = read_preferences(save({"prompt": "q", "responses": ["a", "b"], "ranking": [9, 4]}))
    assert rows == [Ranking("q", ("a", "b"), (9.0, 4.0))] and "belong in a column scores" in rows.notes[0]
    assert not read_preferences(save({"prompt": "q", "responses": ["a", "b"], "ranking": [0, 1]})).notes


def test_what_the_viewer_of_the_hub_gives(save):
    file = save(json.dumps({"features": [{"name": "prompt"}], "rows": [{"row_idx": 0, "row": {"prompt": "q"}, "truncated_cells": []}]}), "a.json")
    assert read_prompts(file) == ["q"]


def test_marks_that_nobody_sees_before_a_header(save):
    assert read_demonstrations(save(b"\xef\xbb\xbf\xef\xbb\xbfprompt,\xe2\x80\x8bcompletion\nq,a\n", "a.csv")) == [Demonstration("q", "a")]
    assert "rename ' prompt' to prompt" in refused(read_prompts, save({" prompt": "q"}))


@pytest.mark.parametrize(("read", "row"), [
    (read_demonstrations, {"prompt": "What is 2+2?", "completion": "What is 2+2? 4"}), (read_preferences, {"prompt": "What is 2+2?", "chosen": " What is 2+2? 4", "rejected": "What is 2+2? 5"})])
def test_answers_that_repeat_the_prompt_are_remarked_on(save, read, row):
    assert "so that it stands there twice" in read(save(row)).notes[0]
    assert not read(save({**row, "prompt": "Add two and two."})).notes


def test_texts_that_are_left_out_are_named(save):
    pair = {"chosen": [QUESTION, {"role": "assistant", "content": "a"}], "rejected": [QUESTION, {"role": "assistant", "content": "b"}]}
    rows = read_preferences(save({**pair, "prompt": "another"}))
    assert rows == [PAIR] and "other turns than the prompt, which is left out" in rows.notes[0]
    assert "'system' and 'system_prompt' differ" in read_prompts(save({"prompt": "q", "system": "s", "system_prompt": "t"})).notes[0]
