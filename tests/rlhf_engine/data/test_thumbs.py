"""Thumbs as data: the spellings that are read, what pairs and rankings become, and what is refused in one line."""

import csv
import json
from pathlib import Path

import pytest

from rlhf_engine.data.examples import Preference, Ranking, Thumb
from rlhf_engine.data.preferences import thumbs_of
from rlhf_engine.data.readers import preview, read_demonstrations, read_preferences, read_rows, read_thumbs
from rlhf_engine.errors import UserError

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
GOOD_AND_BAD = [(True, False), (1, 0), (1, -1), (1.0, -1.0), (1.0, 0.0), ("True", "False"), ("1", "0"), ("good", "bad"), ("up", "down"), ("👍🏽", "👎"),
                ("chosen", "rejected"), ("desirable", "undesirable"), ("thumbs_up", "thumbs_down"), ("yes", "no"), ("upvote", "downvote")]


@pytest.fixture
def write(tmp_path):
    def write_rows(rows: list[dict], name: str = "thumbs.jsonl") -> str:
        file = tmp_path / name
        if name.endswith(".csv"):
            with open(file, "w", newline="", encoding="utf-8") as opened:
                writer = csv.DictWriter(opened, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)
    return write_rows


def refused(read, source: str) -> str:
    with pytest.raises(UserError) as caught:
        read(source)
    line = str(caught.value)
    assert "\n" not in line and Path(source).name in line
    return line


@pytest.mark.parametrize(("good", "bad"), GOOD_AND_BAD)
@pytest.mark.parametrize("column", ["label", "kto_tag", "thumb", "desirable", "preference", "feedback"])
def test_both_thumbs_are_read(write, column, good, bad):
    rows = [{"prompt": "q", "completion": "a", column: good}, {"prompt": "q", "completion": "b", column: bad}]
    for name in ("thumbs.jsonl", "thumbs.csv"):
        read = read_thumbs(write(rows, name))
        assert read == [Thumb("q", "a", True), Thumb("q", "b", False)] and read.kind == "thumbs" and read.numbers == [1, 2] and not read.unused


@pytest.mark.parametrize(("row", "prompt"), [
    ({"prompt": "q", "response": "a"}, "q"), ({"prompt": "q", "completion": [ANSWER]}, "q"), ({"prompt": [USER], "completion": [ANSWER]}, [USER]),
    ({"messages": [USER, ANSWER]}, [USER]), ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, [USER]),
    ({"instruction": "q", "output": "a"}, [USER]), ({"instruction": "q", "input": "", "response": "a"}, [USER]), ({"question": "q", "answer": "a"}, "q"),
    ({"query": "q", "response": "a"}, "q"), ({"conversation": [USER, ANSWER]}, [USER]), ({"problem": "q", "solution": "a"}, "q"),
    ({"prompt": "q", "completion": "a", "system": "be kind"}, [{"role": "system", "content": "be kind"}, USER])])
def test_answers_stand_where_those_of_demonstrations_do(write, row, prompt):
    read = read_thumbs(write([{**row, "label": True, "rating": 4.5}, {**row, "label": False, "rating": 1.0}]))
    assert read == [Thumb(prompt, "a", True), Thumb(prompt, "a", False)] and read.unused == ["rating"]


def test_rows_without_a_thumb_are_skipped_and_counted(write):
    rows = [{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": None}, {"prompt": "q", "completion": "c"}]
    read = read_thumbs(write(rows))
    assert len(read) == 1 and read.notes == ["2 rows skipped: the label is missing (first: row 2)"]


def test_the_row_that_is_wrong_is_named(write):
    good = {"prompt": "q", "completion": "a", "label": True}
    for bad, words in (({"label": "perhaps"}, "row 2: 'label' is 'perhaps'; a thumb is true or false"), ({"label": 0.5}, "row 2: 'label' is '0.5'"),
                       ({"completion": ""}, "row 2: 'completion' is empty; fill it in"), ({"completion": 7}, "row 2: 'completion' is a number"),
                       ({"prompt": None}, "row 2: 'prompt' is missing"), ({"label": 7}, "row 2: 'label' is '7'")):
        assert words in refused(read_thumbs, write([good, good | bad]))
    assert "holds both 0 and -1" in refused(read_thumbs, write([good | {"label": label} for label in (1, 0, -1)]))
    assert "'thumb' holds both 0 and -1" in refused(read_thumbs, write([{"prompt": "q", "completion": "a", "thumb": label} for label in (1, 0, -1)]))


def test_other_files_are_refused_with_what_to_do(write):
    assert "holds no thumbs" in (line := refused(read_thumbs, write([{"prompt": "q", "text_of_answer": "a"}]))) and "prompt + completion + label" in line
    assert "rename response to completion, thumbs_up to label" in refused(read_thumbs, write([{"prompt": "q", "response": "a", "thumbs_up": 1}]))
    assert "holds no rows" in refused(read_thumbs, write([]))
    line = refused(read_preferences, write([{"prompt": "q", "completion": "a", "label": True}]))
    assert "holds thumbs" in line and "the loss kto of the stage dpo" in line and "prompt + chosen + rejected" in line


def test_pairs_are_taken_and_that_is_said(write):
    read = read_thumbs(write([{"prompt": "q", "chosen": "a", "rejected": "b"}]))
    assert read == [Preference("q", "a", "b")] and any("chosen responses count as desirable" in remark for remark in read.remarks)
    assert read_thumbs("bundled")[0] == read_preferences("bundled")[0]


def test_what_pairs_and_rankings_become():
    assert thumbs_of(Preference("q", "a", "b")) == [Thumb("q", "a", True), Thumb("q", "b", False)]
    assert thumbs_of(Ranking("q", ("a", "b", "c"), (2.0, 1.0, 3.0))) == [Thumb("q", "b", True), Thumb("q", "c", False)], "the middle says neither"
    assert [t.desirable for t in thumbs_of(Ranking("q", tuple("abcd"), (1.0, 2.0, 2.0, 2.0)))] == [True, False, False, False]
    assert [t.desirable for t in thumbs_of(Ranking("q", tuple("abcd"), (1.0, 2.0, 3.0, 4.0)))] == [True, True, False, False]
    assert thumbs_of(Ranking("q", ("a", "b"), (1.0, 1.0))) == [] and thumbs_of(Thumb("q", "a", False)) == [Thumb("q", "a", False)]


def test_a_file_with_thumbs_is_still_one_of_demonstrations_where_nobody_asks(write):
    file = write([{"prompt": "q", "completion": "a", "label": True}, {"prompt": "q", "completion": "b", "label": False}])
    assert read_rows(file).kind == "demonstrations" and len(read_demonstrations(file)) == 1 and read_rows(file, "thumbs").kind == "thumbs"


def test_the_demo_of_llama_factory(shared):
    rows = read_thumbs(str(shared / "sample-preferences" / "kto_en_demo.json"))
    assert len(rows) == 300 and sum(row.desirable for row in rows) == 150
    assert len(read_thumbs(str(shared / "sample-preferences" / "dpo_en_demo.json"))) == 300


def test_a_thumb_is_previewed_as_the_model_reads_it(chat):
    assert "[undesirable] a" in preview(chat, Thumb("q", "a", False))
