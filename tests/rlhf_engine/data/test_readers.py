"""Reading prompts, demonstrations and preferences: every format, every source, and one clear line for every mistake."""

import csv
import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from rlhf_engine.data.readers import (
    Demonstration,
    Preference,
    Ranking,
    preview,
    read_demonstrations,
    read_preferences,
    read_prompts,
    read_rows,
)
from rlhf_engine.errors import UserError
from tests import hub

ROOT = Path(__file__).resolve().parents[3]
USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
DIALOGUE = [USER, ANSWER, {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}]
SHAREGPT = [{"from": "system", "value": "s"}, {"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
SYSTEM = {"role": "system", "content": "s"}
HH = "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant:"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write rows (objects or raw text lines) into a file of the working directory; returns its name."""
    monkeypatch.chdir(tmp_path)

    def write(rows, name: str = "data.jsonl") -> str:
        text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
        with (gzip.open if name.endswith(".gz") else open)(name, "wt", encoding="utf-8") as file:
            file.write(text)
        return name

    return write


def complaint(read, source, **options) -> str:
    with pytest.raises(UserError) as error:
        read(source, **options)
    assert "\n" not in str(error.value) and "Traceback" not in str(error.value)
    assert error.value.__cause__ is None and (error.value.__suppress_context__ or error.value.__context__ is None)
    return str(error.value)


# Formats

@pytest.mark.parametrize(("row", "prompt"), [
    ({"prompt": "q"}, "q"),
    ({"prompt": "2020-01-01"}, "2020-01-01"),  # Arrow makes a date of it
    ({"prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
    ({"prompt": DIALOGUE[:3], "completion": "x"}, DIALOGUE[:3]),
    ({"messages": DIALOGUE}, DIALOGUE[:3]),
    ({"messages": DIALOGUE[:3], "label": False}, DIALOGUE[:3]),
    ({"conversations": SHAREGPT}, [SYSTEM, USER]),
    ({"conversations": DIALOGUE}, DIALOGUE[:3]),
    ({"conversations": [{"from": "system", "value": ""}, *SHAREGPT[1:]]}, [USER]),
    ({"instruction": "q", "input": "", "output": "a"}, [USER]),
    ({"instruction": "q", "input": "x", "output": "a"}, [{"role": "user", "content": "q\n\nx"}]),
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q"),
    ({"chosen": HH + " b", "rejected": HH + " c"}, DIALOGUE[:3]),
    ({"chosen": HH}, DIALOGUE[:1]),
    ({"chosen": DIALOGUE, "rejected": DIALOGUE[:2]}, DIALOGUE[:3]),
])
def test_prompts(write, row, prompt):
    if row.get("chosen") == HH:
        row = {"chosen": HH[:-len("\n\nHuman: r\n\nAssistant:")]}
    rows = read_prompts(write([row]))
    assert rows == [prompt] and rows.notes == []


@pytest.mark.parametrize(("row", "prompt", "completion"), [
    ({"prompt": "q", "completion": "a"}, "q", "a"),
    ({"prompt": "q", "completion": "2020-01-01T00:00:00"}, "q", "2020-01-01T00:00:00"),
    ({"prompt": "q", "completion": ANSWER}, "q", "a"),
    ({"prompt": [USER], "completion": [ANSWER]}, [USER], "a"),
    ({"prompt": "q", "completion": "a", "label": True}, "q", "a"),
    ({"messages": DIALOGUE}, DIALOGUE[:3], "b"),
    ({"messages": DIALOGUE[:3]}, DIALOGUE[:1], "a"),
    ({"messages": [USER, {"role": "assistant", "content": "a", "tool_calls": None}]}, [USER], "a"),
    ({"conversations": SHAREGPT}, [SYSTEM, USER], "a"),
    ({"conversations": DIALOGUE[:2]}, [USER], "a"),
    ({"instruction": "q", "output": "a"}, [USER], "a"),
    ({"text": "a story"}, "", "a story"),
    ({"text": "a story", "label": "some other thing"}, "", "a story"),
])
def test_demonstrations(write, row, prompt, completion):
    assert read_demonstrations(write([row])) == [Demonstration(prompt, completion)]


@pytest.mark.parametrize(("row", "prompt", "chosen", "rejected"), [
    ({"prompt": "q", "chosen": "a", "rejected": "b"}, "q", "a", "b"),
    ({"prompt": [USER], "chosen": "a", "rejected": "b"}, [USER], "a", "b"),
    ({"prompt": "q", "chosen": ANSWER, "rejected": {"role": "assistant", "content": "b"}}, "q", "a", "b"),
    ({"prompt": [USER], "chosen": [ANSWER], "rejected": [DIALOGUE[3]]}, [USER], "a", "b"),
    # UltraFeedback on the Hub repeats the prompt in both lists
    ({"prompt": "q", "chosen": [USER, ANSWER], "rejected": [USER, DIALOGUE[3]], "messages": [USER]}, "q", "a", "b"),
    ({"prompt": "q", "chosen": [SYSTEM, USER, ANSWER], "rejected": [SYSTEM, USER, DIALOGUE[3]]}, [SYSTEM, USER],
     "a", "b"),
    ({"conversations": SHAREGPT[:2], "chosen": SHAREGPT[2], "rejected": {"from": "gpt", "value": "b"}}, [SYSTEM, USER],
     "a", "b"),
    ({"messages": [USER], "chosen": "a", "rejected": "b"}, [USER], "a", "b"),
    ({"chosen": [USER, ANSWER], "rejected": [USER, DIALOGUE[3]]}, [USER], "a", "b"),
    ({"chosen": HH + " x\n\ny", "rejected": HH + " z"}, DIALOGUE[:3], "x\n\ny", "z"),
    # two dialogues that part early: the answers are the turns at which they do
    ({"chosen": HH + " x", "rejected": HH.replace(" a", " other") + " x"}, [USER], "a", "other"),
    ({"chosen": HH + " x", "rejected": "\n\nHuman: q\n\nAssistant: c"}, [USER], "a", "c"),
])
def test_preferences(write, row, prompt, chosen, rejected):
    assert read_preferences(write([row])) == [Preference(prompt, chosen, rejected)]


@pytest.mark.parametrize(("row", "ranking"), [
    ({"prompt": "q", "responses": ["a", "b", "c"], "ranking": [2, 1, 2]}, Ranking("q", ("a", "b", "c"), (2.0, 1.0, 2.0))),
    ({"prompt": [SYSTEM, USER], "responses": ["a", "b"], "ranking": [1, 1]}, Ranking([SYSTEM, USER], ("a", "b"), (1.0, 1.0))),
    ({"prompt": "q", "responses": ["a", "b", "c"], "scores": [3, 7, 3]}, Ranking("q", ("a", "b", "c"), (2.0, 1.0, 2.0), (3.0, 7.0, 3.0))),
])
def test_rankings(write, row, ranking):
    assert read_preferences(write([row])) == [ranking]
    assert read_prompts(write([row])) == [ranking.prompt]


def test_a_margin_is_read_where_there_is_one(write):
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    assert read_preferences(write([row | {"margin": 1.5}, row | {"margin": None}, row])) == [
        Preference("q", "a", "b", 1.5), Preference("q", "a", "b"), Preference("q", "a", "b")]


def test_rows_of_unlike_messages_do_not_leak_into_each_other(write):
    """Arrow gives all messages the union of their fields."""
    rows = [{"messages": DIALOGUE[:2]}, {"messages": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}]
    expected = [Demonstration([USER], "a"), Demonstration([USER | {"content": "x"}], "y")]
    assert read_demonstrations(write(rows)) == expected
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), "a.parquet")
    assert read_demonstrations("a.parquet") == expected


def test_texts_stay_what_they_are(write):
    """What a reader that fits one type to a column changes, or refuses."""
    for texts in (["2020-01-01", "2021-01-01"], ["007", "1.50"], ["true", "null"], ["q"] * 3 + ["NA"]):
        assert read_prompts(write([{"prompt": text} for text in texts])) == texts
        assert read_prompts(write(["prompt", *texts], "a.csv")) == texts
    rows = [{"prompt": "q", "meta": 1}, {"prompt": "r", "meta": [2]}, {"prompt": "s", "meta": {"a": 3}, "late": True}]
    for name in ("data.jsonl", "list.json"):
        assert read_prompts(write(rows if name == "data.jsonl" else [json.dumps(rows)], name)) == ["q", "r", "s"]


# Files

ROWS = [{"prompt": "q"}, {"prompt": "say \"hi\",\nplease"}, {"prompt": "NA"}, {"prompt": "007"}, {"prompt": "grün 🦊"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "A.JSONL", "a.jsonl.gz", "list.json", "list.json.gz", "a.csv",
                                  "a.csv.gz", "a.parquet", "we[i]rd*.jsonl"])
def test_every_kind_of_file(write, name):
    if "parquet" in name:
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), name)
    elif "csv" in name:
        with (gzip.open if name.endswith(".gz") else open)(name, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([["prompt", "score"], *([row["prompt"], i] for i, row in enumerate(ROWS))])
    else:
        write([json.dumps(ROWS, indent=2)] if "list" in name else ROWS, name)
    assert read_prompts(name) == [row["prompt"] for row in ROWS]
    assert read_prompts(str(Path(name).resolve())) == read_prompts(Path(name))
    assert read_prompts(name, limit=2) == ["q", ROWS[1]["prompt"]] and len(read_prompts(name, limit=0)) == 5
    assert len(read_prompts(name, split="train", subset="")) == 5


def test_cells_of_a_csv_file_are_texts(write):
    assert read_demonstrations(write(["prompt,completion", "1,2.50", "3,null"], "a.csv")) == [
        Demonstration("1", "2.50"), Demonstration("3", "null")]
    thumbs = ["prompt,completion,label", "q,a,True", "r,b,False"]
    assert read_demonstrations(write(thumbs, "a.csv")) == [Demonstration("q", "a")]


def test_blank_lines_and_byte_order_mark_are_no_rows(write):
    assert read_prompts(write(["\ufeff" + json.dumps(ROWS[0]), "", "   ", json.dumps(ROWS[3]) + "\r"])) == ["q", "007"]
    assert read_prompts(write(['{"prompt": "two\u2028lines"}'])) == ["two\u2028lines"]


def test_a_changed_file_is_read_anew(write):
    for text in ("one", "two"):
        name = write([{"prompt": text}])
        os.utime(name, (1, 1))  # same size, same time
        assert read_prompts(name) == [text]


def test_bundled(write, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_engine.data.tables.ASSETS", tmp_path)
    write([{"prompt": "q"}], "prompts.jsonl")
    write([{"prompt": "held out"}], "prompts-heldout.jsonl")
    write([{"prompt": "q", "completion": "a"}], "demonstrations.jsonl")
    write([{"prompt": "q", "chosen": "a", "rejected": "b"}], "preferences.jsonl")
    assert read_prompts("bundled") == ["q"] and read_prompts("bundled-heldout") == ["held out"]
    assert read_demonstrations("bundled") == [Demonstration("q", "a")]
    assert read_preferences("bundled") == [Preference("q", "a", "b")]
    assert complaint(read_preferences, "bundled-heldout").startswith("bundled-heldout: there are no such preferences (")


# Mistakes

GOOD = {"prompt": "q", "chosen": "a", "rejected": "b"}
RANKED = {"prompt": "q", "responses": ["a", "b"], "ranking": [1, 2]}


@pytest.mark.parametrize(("lines", "where", "mend"), [
    ([GOOD, '{"prompt": "q", "chosen"', GOOD], "row 2: broken JSON (Expecting ':' delimiter in line 2)",
     "one complete {...} per line"),
    ([GOOD, "", "nonsense"], "row 2: broken JSON (Expecting value in line 3)", "one complete {...} per line"),
    ([GOOD, 3], "row 2: is a number, not an object with columns", "one complete {...} per line"),
    (["[" * 100_000], "row 1: broken JSON (maximum recursion depth", "write a list"),
    ([GOOD, '{"prompt": ' + "1" * 5000 + "}"], "row 2: broken JSON (Exceeds the limit", "write a list"),
    ([GOOD, GOOD | {"prompt": 7}], "row 2: 'prompt' is a number", "write a text"),
    ([GOOD | {"prompt": True}], "row 1: 'prompt' is true or false", "write a text"),
    ([GOOD, GOOD | {"chosen": ""}], "row 2: 'chosen' is empty", "fill it in"),
    ([GOOD, GOOD | {"rejected": " \n"}], "row 2: 'rejected' is empty", "fill it in"),
    ([GOOD, {"prompt": "q", "chosen": "a"}], "row 2: 'rejected' is missing", "fill it in"),
    ([GOOD | {"chosen": None}, GOOD], "row 1: 'chosen' is missing", "fill it in"),
    ([GOOD, GOOD | {"prompt": "\ud83d"}], "row 2: 'prompt' holds half a character", "write the text again"),
    ([GOOD, GOOD | {"prompt": ["q"]}], "row 2: 'prompt' is a list of other things", "write a list of messages"),
    ([GOOD | {"prompt": []}], "row 1: 'prompt' does not end with a turn of the user", "end it with one"),
    ([GOOD | {"prompt": [USER, ANSWER]}], "row 1: 'prompt' does not end with a turn of the user", "end it with one"),
    ([GOOD | {"prompt": [ANSWER, USER]}], "row 1: the turns in 'prompt' are out of order", "the user first"),
    ([GOOD | {"prompt": [USER, USER]}], "row 1: the turns in 'prompt' are out of order", "the user first"),
    ([GOOD | {"prompt": [USER, ANSWER, SYSTEM, USER]}], "row 1: the turns in 'prompt' are out of order", "at most one"),
    ([GOOD | {"prompt": [{"role": "tool", "content": "x"}]}], "row 1: 'prompt' has a turn with the role 'tool'",
     "the roles are"),
    ([GOOD | {"prompt": [{"role": "user", "content": ["x"]}]}], "row 1: a user turn in 'prompt' is a list", "write a text"),
    ([GOOD | {"prompt": [{"role": "user", "content": ""}]}], "row 1: a user turn in 'prompt' is empty", "fill it in"),
    ([GOOD | {"chosen": [USER]}], "row 1: 'chosen' does not end with a turn of the assistant", "end it with one"),
    ([GOOD | {"chosen": 0.5}], "row 1: 'chosen' is a number", "write a text"),
    ([{"chosen": "a", "rejected": "b"}], "row 1: 'chosen' is no dialogue", "or add a column prompt"),
    ([{"conversations": "x", "chosen": "a", "rejected": "b"}], "row 1: 'conversations' is a text", "write a list of"),
    ([{"prompt": "q", "chosen": "a"}], ": holds no preferences, its columns are prompt, chosen", "name them prompt + ch"),
    ([{"Prompt": "q", "chosen_text": "a", "rejected": "b"}], "its columns are Prompt, chosen_text, rejected", "name"),
    ([GOOD, GOOD | {"margin": "much"}], "row 2: 'margin' is a text", "write a number"),
    ([RANKED, RANKED | {"ranking": [1]}], "row 2: 2 responses and 1 numbers in 'ranking'", "one number for each"),
    ([RANKED | {"responses": ["a"], "ranking": [1]}], "row 1: 1 responses and 1 numbers", "two or more"),
    ([RANKED, RANKED | {"ranking": [1, None]}], "row 2: 'ranking' holds something other than numbers", "one number for each"),
    ([RANKED, RANKED | {"ranking": 1}], "row 2: 'ranking' is a number", "write a list"),
    ([RANKED, RANKED | {"responses": ["a", ""]}], "row 2: a response is empty", "fill it in"),
    ([RANKED, RANKED | {"responses": ["a", 2]}], "row 2: a response is a number", "write a text"),
    ([], ": holds no rows", "fill it"),
    ([{}], ": holds no preferences, its columns are (none)", "name them"),
    ([GOOD | {"rejected": "a"}] * 2, ": leaves nothing to use: 2 rows skipped: chosen equals rejected", "choose other"),
])
def test_a_mistake_is_named_with_file_row_and_mend(write, lines, where, mend):
    files = [write(lines, "mine.jsonl")]
    if not any(isinstance(line, str) for line in lines):
        files.append(write([json.dumps(lines)], "mine.json.gz"))
    for file in files:
        said = complaint(read_preferences, file)
        assert said.startswith(file) and where in said and mend in said[said.index(where) + len(where):]


@pytest.mark.parametrize(("text", "where"), [
    ('[{"prompt": "q"},\n{"prompt": "q"\n]', "row 2: broken JSON (Expecting ',' delimiter in line 3)"),
    ('[{"prompt": "q"},\n {"prompt": "q"}\n {"prompt": "q"}]', "row 2: broken JSON (Expecting ',' delimiter in line 3)"),
    ('[{"prompt": "q"},\n]', "row 2: broken JSON"),
    ('[{"prompt": "q"}, "q"]', "row 2: is a text, not an object with columns"),
    ('{"rows": [\n{"prompt": "q"}}', "row 1: broken JSON (Expecting ',' delimiter in line 2)"),
])
def test_a_broken_list_is_named_with_its_row(write, text, where):
    assert complaint(read_prompts, write([text])).startswith(f"data.jsonl, {where}")


@pytest.mark.parametrize(("lines", "said"), [
    (["prompt,completion", "q,a", "q,a,b"], "a.csv, row 2: has 3 cells, but the header 2; put texts that hold commas"),
    (["prompt,completion", "q,a,b", "q,a"], "a.csv, row 1: has 3 cells, but the header 2; put texts that hold commas"),
    (["prompt,completion", "q,a,b", "q,a,b"], "a.csv, row 1: has 3 cells, but the header 2; put texts that hold commas"),
    (["prompt,completion", '"two\nlines",a', "q"], "a.csv, row 2: has 1 cells, but the header 2; put texts"),
    (["prompt,completion", '"q,a', "q,a"], "a.csv, row 1: broken CSV (unexpected end of data); put texts that hold"),
    (["prompt,completion", "q,"], "a.csv, row 1: 'completion' is empty; fill it in"),
    (["prompt:completion", "q:a"], "a.csv: holds no demonstrations, its columns are prompt:completion; name them"),
    (["prompt,completion"], "a.csv: holds no rows"),
    (["prompt"], "a.csv: holds no demonstrations, its columns are prompt; name them"),
    ([], "a.csv: holds no rows"),
    (["prompt,completion,label", "q,a,maybe"], "a.csv, row 1: 'label' is 'maybe'; a thumb is true or false"),
])
def test_mistakes_in_csv(write, lines, said):
    assert complaint(read_demonstrations, write(lines, "a.csv")).startswith(said)


def test_files_that_are_no_data(write, tmp_path):
    Path("notes.txt").write_text("q")
    Path("broken.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "q"}\n' * 100)[:-20])
    Path("plain.jsonl.gz").write_text('{"prompt": "q"}\n')
    Path("a.parquet").write_text("q")
    Path("a.parquet.gz").write_text("q")
    pyarrow.parquet.write_table(pa.table({"enquiry": ["q"]}), "b.parquet")
    pyarrow.parquet.write_table(pa.table({"prompt": pa.array([], pa.string())}), "c.parquet")
    Path("latin.jsonl").write_bytes(b'{"prompt": "q"}\n{"prompt": "gr\xfcn"}\n')
    Path("utf16.csv").write_text("prompt\nq\n", encoding="utf-16-le")
    Path("owner").mkdir()
    for source, said in {
        "notes.txt": "notes.txt: cannot read a file of this kind; give a .json, .jsonl or .csv",
        "a.parquet.gz": "a.parquet.gz: cannot read a file of this kind; give a",
        "missing.jsonl": "missing.jsonl: there is no such file; give a",
        "sub/dir/missing.csv": "sub/dir/missing.csv: there is no such file",
        "owner/missing.json": "owner/missing.json: there is no such file",
        "nonsense": "nonsense: there is no such file; give",
        "json": "json: there is no such file",  # not the builder of that name in `datasets`
        "/no/such/thing": "/no/such/thing: there is no such file",
        "": "the name of the data is empty; give a .json",
        "~nobody/there": "~nobody/there: there is no such file",
        "so/" + "long" * 1000 + "/x": "x: there is no such file",
        "owner": "owner: is a folder; name one file in it",
        "broken.jsonl.gz": "broken.jsonl.gz: cannot be read (Compressed file ended before",
        "plain.jsonl.gz": "plain.jsonl.gz: cannot be read (Not a gzipped file",
        "a.parquet": "a.parquet: is no Parquet file (Parquet",
        "b.parquet": "b.parquet: holds no prompts, its columns are enquiry; name them prompt",
        "c.parquet": "c.parquet: holds no rows",
        "latin.jsonl": "latin.jsonl, line 2: is not UTF-8 text; save the file as UTF-8",
        "utf16.csv": "utf16.csv: is UTF-16 text without the mark that says so; save the file as UTF-8",
    }.items():
        assert said in complaint(read_prompts, source), source
    write([GOOD])
    for options in ({"split": "test"}, {"subset": "en"}):
        said = complaint(read_prompts, "data.jsonl", **options)
        assert said == "data.jsonl: a file has no subsets or splits; leave --subset and --split out"


def test_nothing_but_the_error_is_printed(write, capfd, caplog):
    complaint(read_prompts, write(["{"]))
    complaint(read_prompts, write(["prompt", "q,a", "b"], "a.csv"))
    assert capfd.readouterr() == ("", "") and caplog.text == ""


# Rows that are skipped, with a remark

def test_thumbs_give_the_liked_ones(write):
    rows = [{"prompt": "q", "completion": text, "label": text != "bad"} for text in ("a", "bad", "b", "bad")]
    read = read_demonstrations(write(rows))
    assert read == [Demonstration("q", "a"), Demonstration("q", "b")]
    assert read.notes == ["2 rows skipped: the label is false (first: row 2)"]
    liked = read_demonstrations(write([{"messages": [USER, ANSWER], "label": i % 2} for i in range(4)]))
    assert len(liked) == 2 and liked.notes == ["2 rows skipped: the label is false (first: row 1)"]


def test_pairs_without_a_difference_and_without_a_common_prompt_are_skipped(write):
    def pair(a, b):
        return {"chosen": f"\n\nHuman: {a}\n\nAssistant: x", "rejected": f"\n\nHuman: {b}\n\nAssistant: y"}
    longer = HH + " b\n\nHuman: s\n\nAssistant: c"
    same = pair("s", "s") | {"rejected": pair("s", "s")["chosen"]}
    read = read_preferences(write([pair("q", "q"), pair("q", "r"), same, {"chosen": longer, "rejected": HH + " b"}]))
    assert read == [Preference([USER], "x", "y")]
    assert read.notes == ["2 rows skipped: chosen and rejected do not part at an answer to the same prompt (first: row 2)",
                          "1 row skipped: chosen equals rejected (first: row 3)"]
    explicit = read_preferences(write([GOOD, GOOD | {"rejected": "a"}]))
    assert len(explicit) == 1 and explicit.notes == ["1 row skipped: chosen equals rejected (first: row 2)"]


def test_a_few_flawed_rows_of_many_are_skipped_and_more_are_an_error(write):
    rows = [GOOD] * 200
    rows[6] = GOOD | {"chosen": ""}
    rows[9] = GOOD | {"prompt": [USER, USER]}
    read = read_preferences(write(rows))
    assert len(read) == 198 and read.notes == ["1 row skipped: 'chosen' is empty (first: row 7)",
                                               "1 row skipped: the turns in 'prompt' are out of order (first: row 10)"]
    assert len(read_preferences(write(rows), limit=10)) == 10
    rows[11:14] = [GOOD | {"rejected": " "}] * 3
    said = complaint(read_preferences, write(rows))
    assert said == "data.jsonl, row 7: 'chosen' is empty; fill it in, or take the row out"
    rows = [GOOD] * 200 + [GOOD | {"chosen": 3}]  # never tolerated
    assert complaint(read_preferences, write(rows)).startswith("data.jsonl, row 201: 'chosen' is a number")


# Real data

def test_hh(shared):
    source = shared / "hh-rlhf" / "harmless-base-test.jsonl.gz"
    with gzip.open(source, "rt", encoding="utf-8") as file:
        raw = [json.loads(line) for line in file]
    rows = read_preferences(source)
    assert len(raw) == 2312 and len(rows) == 2304
    assert [note.split(" (")[0] for note in rows.notes] == ["4 rows skipped: a turn in 'chosen' is empty",
                                                            "4 rows skipped: the turns in 'chosen' are out of order"]

    def hh(prompt, answer):
        names = {"user": "Human", "assistant": "Assistant"}
        return re.sub(r"\s+", "", "".join(f"{names[m['role']]}:{m['content']}" for m in prompt) + "Assistant:" + answer)
    pairs = {tuple(re.sub(r"\s+", "", row[side]) for side in ("chosen", "rejected")) for row in raw}
    whole = sum((hh(row.prompt, row.chosen), hh(row.prompt, row.rejected)) in pairs for row in rows)
    assert whole >= 2299  # five part before their last answers
    assert all(row.prompt[-1]["role"] == "user" and row.chosen and row.rejected for row in rows)
    assert len(read_prompts(source, limit=7)) == 7


def test_other_real_sets(shared):
    pairs = read_preferences(shared / "ultrafeedback" / "train_1000.jsonl.gz")
    assert len(pairs) == 994 and sum(int(note.split()[0]) for note in pairs.notes) == 6
    assert pairs[0].prompt == "how to cook t-bone in the oven"
    assert pairs[0].prompt == read_prompts(shared / "ultrafeedback" / "train_1000.jsonl.gz", limit=1)[0]
    demo = read_preferences(shared / "sample-preferences" / "dpo_en_demo.json")
    assert len(demo) == 300 and demo.notes == []
    assert demo[0].prompt[0]["content"].startswith("Hi! I'd like to create") and demo[0].chosen.startswith("That sounds")
    assert sum([m["role"] for m in row.prompt] == ["system", "user"] for row in demo) == 80
    thumbs = read_demonstrations(shared / "sample-preferences" / "kto_en_demo.json")
    assert len(thumbs) == 150 and thumbs.notes[0].startswith("150 rows skipped: the label is false")
    stories = read_demonstrations(shared / "tinystories" / "validation.jsonl.gz")
    assert len(stories) == 981 and {story.prompt for story in stories} == {""}


# Preview

class Words:
    chat_template = None


def test_preview():
    assert preview(Words, "q") == "q" and preview(Words, [USER]) == "\n\nHuman: q\n\nAssistant:"
    assert preview(Words, Demonstration("q", " a")) == "q a"
    assert preview(Words, Preference([USER], "a", "b")) == "\n\nHuman: q\n\nAssistant:\n[chosen]  a\n[rejected]  b"
    assert preview(Words, Ranking("q", (" a", " b", " c"), (3, 1, 2))) == "q\n[1]  b\n[2]  c\n[3]  a"


# The Hub, as a server of our own plays it

LINES = b'{"prompt": "q", "chosen": "a", "rejected": "b"}\n'
CARD = b"---\nconfigs:\n- config_name: en\n  data_files: en.jsonl\n- config_name: de\n  data_files: de.jsonl\n---\n"
REPOS = {
    "me/pairs": {"README.md": b"# pairs\n", "train.jsonl": LINES, "test.jsonl": LINES * 2},
    "me/lonely": {"validation.jsonl": LINES},
    "me/splits": {"test.jsonl": LINES, "validation.jsonl": LINES},
    "me/subsets": {"README.md": CARD, "en.jsonl": LINES, "de.jsonl": LINES * 3},
    "me/code": {"code.py": b"raise SystemExit('it ran')", "train.jsonl": LINES},
    "me/columns": {"train.jsonl": b'{"enquiry": "q"}\n'},
    "me/flawed": {"train.jsonl": LINES + b'{"prompt": "q", "chosen": null, "rejected": "b"}\n'},
    "me/nothing": {"README.md": b"# nothing\n"},
    "me/locked": 403, "me/login": 401,
}


READER = """
import json, sys, time
from rlhf_engine import UserError, read_preferences
waits = []
time.sleep = waits.append
for source, options in json.loads(sys.argv[1]):
    waits.clear()
    try:
        rows = read_preferences(source, **options)
        answer = [len(rows), rows.notes]
    except UserError as error:
        answer = str(error)
    print(json.dumps([answer, sum(waits)]))
"""


@pytest.fixture(scope="module")
def ask_hub(tmp_path_factory):
    """ask(question, ..., up=True) -> for each question the answer and the seconds that the libraries wanted to wait for it.

    Each call reads in a process of its own, because huggingface_hub takes its endpoint at import. With `up=False` the Hub does not answer.
    """
    home = tmp_path_factory.mktemp("hf")
    server = hub.serve({f"datasets/{name}": files for name, files in REPOS.items()})

    def ask(*questions, up=True):
        if not up:
            hub.stop(server)
        settings = hub.settings(server, home) | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", READER, json.dumps(questions)], cwd=home, check=True,
                              env=os.environ | settings, capture_output=True, text=True)
        assert "Repo card" not in done.stderr and "cached version" not in done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    yield ask
    server.server_close()


def test_hub(ask_hub):
    expected = [
        (("me/pairs", {}), [1, []]),
        (("me/pairs", {"split": "test"}), [2, []]),
        (("me/pairs", {"split": "dev"}), "me/pairs: has no split 'dev'; choose one with --split: train, test"),
        (("me/lonely", {}), [1, []]),
        (("me/splits", {}), "me/splits: has no split 'train'; choose one with --split: "),
        (("me/subsets", {"subset": "de"}), [3, []]),
        (("me/subsets", {}), "me/subsets: has several subsets; choose one with --subset: en, de"),
        (("me/subsets", {"subset": "fr"}), "me/subsets: has no subset 'fr'; choose one with --subset: en, de"),
        (("me/code", {}), "me/code: needs code of its own, which is never run; take one that"),
        (("me/columns", {}), "me/columns, split train: holds no preferences, its columns are enquiry; name them"),
        (("me/flawed", {}), "me/flawed, split train, row 2: 'chosen' is missing; fill it in, or take the row out"),
        (("me/nothing", {}), "me/nothing: cannot be loaded (The directory at "),
        (("me/missing", {}), "me/missing: there is no such data set on the Hub and no such file here; check the spelling"),
        (("me/locked", {}), "me/locked: is gated; accept its terms on its Hub page and log in with `hf auth login`"),
        (("me/login", {}), "me/login: is gated; accept its terms on its Hub page and log in with `hf auth login`"),
    ]
    answers = ask_hub(*(question for question, _ in expected))
    for (question, expected_answer), (answer, waited) in zip(expected, answers, strict=True):
        assert answer == expected_answer if isinstance(expected_answer, list) else answer.startswith(expected_answer), question
        assert "\n" not in str(answer) and waited < 1, question  # nothing is tried again after a pause
    # Nobody answers: one line at once, or the copy that was cached before.
    copy, missing = ask_hub(("me/pairs", {"split": "test"}), ("me/locked", {}), up=False)
    assert copy[0] == [2, ["the Hub cannot be reached, these rows are from the copy cached last"]]
    assert missing[0] == "me/locked: the Hub cannot be reached and no copy is here; check the network, or give a file"
    assert copy[1] < 1 and missing[1] < 1


def test_the_page_starts_without_torch():
    code = "import sys, rlhf_engine.data.readers; print([m for m in ('torch', 'transformers', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What a source is taken for

def test_a_source_is_taken_for_what_uses_most_of_its_columns(write):
    pair = {"prompt": "q", "chosen": "a", "rejected": "b", "extra": 1}
    rows = read_rows(write([pair, pair | {"rejected": "a"}, pair]))
    assert (rows.kind, rows.form, rows.columns, rows.total) == ("preferences", "prompt + chosen + rejected", tuple(pair), 3)
    assert rows.numbers == [1, 3] and rows[0] == Preference("q", "a", "b") and "1 row skipped" in rows.notes[0]
    assert read_rows(write([pair]), "prompts") == ["q"] and read_rows(write([{"messages": DIALOGUE}])).kind == "demonstrations"
    assert read_rows(write([{"instruction": "q"}])).form == "instruction" and read_rows("bundled").kind == "prompts"
    limited = read_rows(write([pair] * 5), limit=2)
    assert (len(limited), limited.total, limited.numbers) == (2, 5, [1, 2])


def test_columns_that_make_no_data_are_named_beside_those_that_would(write):
    said = complaint(read_rows, write([{"enquiry": "q", "reply": "a"}]))
    assert "its columns are enquiry, reply" in said and "prompts: prompt" in said and "preferences: prompt + chosen + rejected" in said
    assert "holds no rows" in complaint(read_rows, write([]))
