"""Files as programs write them: delimiters, encodings, blanks and shapes of JSON; and values that a cell holds as text."""

import csv
import gzip
import io
import json
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet
import pytest

from rlhf_engine.data.fields import parse_cell
from rlhf_engine.data.readers import (
    Demonstration,
    Preference,
    Ranking,
    read_demonstrations,
    read_preferences,
    read_prompts,
)
from tests.rlhf_engine.helpers.messages import refused

ROWS = [{"prompt": "q, really; yes\tor no", "completion": "a\n\"b\""}, {"prompt": "1;2", "completion": "x"}]
READ = [Demonstration(row["prompt"], row["completion"]) for row in ROWS]
USER, ANSWER, OTHER = {"role": "user", "content": "it's \"q\""}, {"role": "assistant", "content": "a\n} {"}, {"role": "assistant", "content": "b"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def save(text: str | bytes, name: str = "a.csv") -> str:
    data = text.encode() if isinstance(text, str) else text
    Path(name).write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    return name


def as_csv(rows, **options) -> str:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


# CSV

@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_delimiters_and_encodings(delimiter, encoding):
    for line in ("\n", "\r\n"):
        text = as_csv(ROWS, delimiter=delimiter, lineterminator=line)
        assert read_demonstrations(save(text.encode(encoding))) == READ
    if encoding == "utf-8":
        assert read_demonstrations(save(as_csv(ROWS, delimiter=delimiter, quoting=csv.QUOTE_ALL), "A.CSV")) == READ
        assert read_demonstrations(save(f"sep={delimiter}\r\n" + text)) == READ
        assert read_demonstrations(save(text, "a.tsv")) == READ


@pytest.mark.parametrize("name", ["DATA.CSV", "Data.Csv.Gz", "a.JSONL.GZ", "A.JSON", "a.NDJSON", "a.PARQUET"])
def test_names_in_upper_case(name):
    text = as_csv(ROWS) if "csv" in name.lower() else "".join(json.dumps(row) + "\n" for row in ROWS)
    if "PARQUET" in name:
        pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), name)
    else:
        save(text, name)
    assert read_demonstrations(name) == READ


@pytest.mark.parametrize("text", [
    "prompt , completion\nq,a\n", " prompt,completion \nq,a\n", "prompt, completion\nq, a\n", 'prompt, completion\n"q", "a"\n', '"prompt" ,completion\nq,a\n'.replace('" ,', '",'),
    "prompt,completion,\nq,a,\n", "prompt,completion,,\nq,a,,\n", "prompt,completion\nq,a,\n", "prompt,completion\nq,a\n,\n,\n", "prompt,completion\n\nq,a\n\n",
    '\ufeffprompt,completion\nq,a\n', '\ufeff"prompt","completion"\nq,a\n', "completion,prompt\na,q", "prompt,completion\rq,a\r",
    "\n\r\nprompt,completion\nq,a\n"])
def test_blanks_and_empty_cells(text):
    assert read_demonstrations(save(text)) == [Demonstration("q", "a")]


def test_files_whose_ending_hides_what_they_are():
    save(gzip.compress(as_csv(ROWS).encode()), "zipped.csv")
    assert read_demonstrations("zipped.csv") == READ
    assert refused(read_demonstrations, save(b"PK\x03\x04" + b"x" * 40, "excel.csv")) == "excel.csv: is a zip or Excel file; unpack it, or save the table as CSV"


def test_a_column_without_a_name_is_named_as_unused():
    rows = read_demonstrations(save(",prompt,completion\n0,q,a\n"))  # the index that pandas writes
    assert rows == [Demonstration("q", "a")] and rows.remarks == ["columns that are not used: (column 1, without a name)"]


@pytest.mark.parametrize(("text", "said"), [
    ("prompt,prompt,completion\nq,r,a\n", "a.csv: two columns are named 'prompt'; rename one"),
    ("prompt, prompt,completion\nq,r,a\n", "a.csv: two columns are named 'prompt'; rename one"),
    ("prompt;completion\nq;a;b\n", "a.csv, row 1: has 3 cells, but the header 2; put texts that hold semicolons"),
    ("prompt\tcompletion\nq\n", "a.csv, row 1: has 1 cells, but the header 2; put texts that hold tabs"),
    ("prompt,completion\nq\0,a\n", "a.csv, line 2: holds a NUL byte, which no text does; save the file as UTF-8"),
    ("prompt,completion,label\nq,a,\n", "a.csv: leaves nothing to use: 1 row skipped: the label is missing (first: row 1)"),
    ("prompt,chosen,rejected,margin\nq,a,b,\"1,000\"\n", "a.csv, row 1: 'margin' is a text ('1,000'); write a number, with a decimal point"),
])
def test_what_a_csv_file_cannot_mean_is_refused(text, said):
    read = read_preferences if "chosen" in text else read_demonstrations
    assert refused(read, save(text)).startswith(said)


# Values as text

def numpy_text(values) -> str:
    """What pandas writes for a column of arrays, as Parquet gives them."""
    import numpy
    array = numpy.empty(len(values), dtype=object)
    array[:] = values
    return str(array)


@pytest.mark.parametrize("spell", [json.dumps, lambda value: json.dumps(value, indent=1), repr, str, numpy_text], ids=["json", "indented", "repr", "str", "numpy"])
def test_lists_that_a_cell_spells(spell):
    pair = {"prompt": spell([USER]), "chosen": spell([USER, ANSWER]), "rejected": spell([USER, OTHER])}
    assert read_preferences(save(as_csv([pair]))) == [Preference([USER], ANSWER["content"], "b")]
    assert read_preferences(save(as_csv([{name: pair[name] for name in ("chosen", "rejected")}]))) == [Preference([USER], ANSWER["content"], "b")]
    assert read_demonstrations(save(as_csv([{"messages": spell([USER, ANSWER])}]))) == [Demonstration([USER], ANSWER["content"])]
    assert read_prompts(save(as_csv([{"prompt": spell([USER])}]))) == [[USER]]
    for ranking in ([2, 1], [2.0, 1.0]):
        ranked = [{"prompt": "q", "responses": spell(["it's a", "b c"]), "ranking": spell(ranking)}]
        assert read_preferences(save(as_csv(ranked))) == [Ranking("q", ("it's a", "b c"), (2.0, 1.0))]
    rows = [{"instruction": "q", "output": "a", "history": spell([["x", "y"]])}]
    if spell is not numpy_text:
        assert read_demonstrations(save(as_csv(rows)))[0].prompt[0] == {"role": "user", "content": "x"}


@pytest.mark.parametrize("cell", ["2,1", "2 1", "2; 1", " 2, 1 ", '["2", "1"]', "[2. 1.]"])
def test_rankings_as_text(cell):
    row = {"prompt": "q", "responses": '["a", "b"]', "ranking": cell}
    assert read_preferences(save(as_csv([row]))) == [Ranking("q", ("a", "b"), (2.0, 1.0))]


def test_what_pandas_writes():
    """A table of messages, from Parquet to CSV and to each of the shapes of JSON."""
    rows = [{"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, {"prompt": [USER], "chosen": [OTHER], "rejected": [ANSWER]}]
    expected = [Preference([USER], ANSWER["content"], "b"), Preference([USER], "b", ANSWER["content"])]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), "a.parquet")
    frame = pandas.read_parquet("a.parquet")
    frame.to_csv("pandas.csv", index=False)
    assert read_preferences("pandas.csv") == expected
    for orient in ("columns", "records", "index", "split", "table"):
        frame.to_json("pandas.json", orient=orient)
        assert read_preferences("pandas.json") == expected, orient
    frame.to_json("pandas.jsonl", orient="records", lines=True)
    assert read_preferences("pandas.jsonl") == expected
    pandas.DataFrame({"prompt": ["q", "r"], "completion": ["a", "b"], "label": [True, None]}).to_csv("thumbs.csv")
    thumbs = read_demonstrations("thumbs.csv")
    assert thumbs == [Demonstration("q", "a")] and thumbs.remarks == [
        "1 row skipped: the label is missing (first: row 2)", "columns that are not used: (column 1, without a name)"]


@pytest.mark.parametrize(("row", "said"), [
    ({"messages": "[{'role': 'user', 'content': 'q'"}, "'messages' begins like a list of messages, but cannot be read as one; write"),
    ({"messages": "[object Object]"}, "'messages' is a text; write a list of messages"),
    ({"prompt": "[{'role': 'user', 'content': 'q'}, ...", "completion": "a"}, "'prompt' begins like a list of messages, but cannot be read as one; write it as JSON"),
    ({"prompt": "[{\"role\": \"user\", \"content\": \"q\"", "completion": "a"}, "'prompt' begins like a list of messages"),
    ({"prompt": "array([{'content': 'q', 'role': 'user'}], dtype=object)", "completion": "a"}, "'prompt' begins like a list of messages"),
    ({"prompt": "q", "completion": "[{'from': 'gpt', 'value': 'q"}, "'completion' begins like a list of messages"),
    ({"instruction": "q", "output": "a", "history": "[['x', 'y'"}, "'history' is a text; write a list of pairs"),
])
def test_half_a_list_is_refused(row, said):
    assert said in refused(read_demonstrations, save(as_csv([row])))


@pytest.mark.parametrize(("row", "said"), [
    ({"prompt": "q", "responses": "a|b", "ranking": "1,2"}, "'responses' is a text; write a list, in a text cell as JSON"),
    ({"prompt": "q", "responses": '["a", "b"]', "ranking": "first"}, "'ranking' is a text; write a list, in a text cell as JSON"),
    ({"prompt": "q", "responses": '["a", "b"]', "ranking": "1"}, "2 responses and 1 numbers in 'ranking'"),
    ({"prompt": "q", "responses": '["a", "b"]', "ranking": "[1, null]"}, "'ranking' holds something other than numbers"),
    ({"prompt": "q", "responses": '["a", "b"]', "scores": "[1, NaN]"}, "'scores' holds something other than numbers"),
])
def test_half_a_ranking_is_refused(row, said):
    assert said in refused(read_preferences, save(as_csv([row])))


@pytest.mark.parametrize("text", ['{"name": "x"}', "[1, 2]", "['a', 'b']", '["role", "content"]', "[see below]", "{curly}", '{"role": "x"', "[{1: 2}]", "{'a': [", "[" * 5000, "{}"])
def test_texts_that_only_look_like_lists_stay_texts(text):
    """An answer may be JSON."""
    assert read_demonstrations(save(as_csv([{"prompt": text, "completion": text}]))) == [Demonstration(text, text)]


def test_what_a_cell_can_spell():
    assert parse_cell("['a' 'b']") == ["a", "b"] and parse_cell("[{'x': 1}\n {'x': None}]") == [{"x": 1}, {"x": None}]
    assert parse_cell("[[1 2] [3 4]]") == [[1, 2], [3, 4]] and parse_cell("[1 -1]") == [1, -1] and parse_cell('["a b" \'c"d\']') == ["a b", 'c"d']
    for text in ("[__import__('os')]", "[1 + 1]", "['a' ... 'b']x", "[open('x')]", "7", "", "a"):
        assert parse_cell(text) == text
    assert parse_cell(3) == 3 and parse_cell(None) is None


# JSON

JSON_TEXTS = {
    "pretty, one after another": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "pretty, with commas": ",\n".join(json.dumps(row, indent=2) for row in ROWS),
    "lines with commas": ",\n".join(json.dumps(row) for row in ROWS) + ",\n",
    "lines with blank lines": "\n\n".join(json.dumps(row) for row in ROWS) + "\n\n\n",
    "lines with carriage returns": "\r\n".join(json.dumps(row) for row in ROWS),
    "first a line, then pretty": json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1], indent=2),
    "without a line end": json.dumps(ROWS[0]) + json.dumps(ROWS[1]),
    "a list": json.dumps(ROWS), "a list under a name": json.dumps({"version": 1, "data": ROWS}), "under another name": json.dumps({"train": ROWS}, indent=1),
    "as the Hub's viewer": json.dumps({"features": [], "rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}),
    "columns": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "columns of objects": json.dumps({name: {str(i): row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}),
    "rows by name": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "split": json.dumps({"columns": list(ROWS[0]), "index": [0, 1], "data": [list(row.values()) for row in ROWS]}),
}


@pytest.mark.parametrize("text", JSON_TEXTS.values(), ids=JSON_TEXTS)
def test_shapes_of_json(text):
    for name in ("a.json", "a.jsonl", "a.json.gz"):
        assert read_demonstrations(save(text, name)) == READ
    assert read_demonstrations(save(text.encode("utf-16"), "a.json")) == READ


@pytest.mark.parametrize("row", [
    {"messages": [USER, ANSWER]}, {"prompt": [USER], "completion": [ANSWER]}, {"prompt": USER, "completion": ANSWER},
    {"messages": [USER, ANSWER], "ratings": [{"by": "x", "score": 1}], "meta": {"a": 1}}, {"prompt": [USER], "completion": "a\n} {", "lists": [[1], [2]]},
    {"messages": {"role": ["user", "assistant"], "content": [USER["content"], ANSWER["content"]]}}])
def test_one_row_that_is_the_whole_file(row):
    """It is a row, though all its values are lists or objects."""
    for indent in (None, 2):
        assert read_demonstrations(save(json.dumps(row, indent=indent), "a.json")) == [Demonstration([USER], ANSWER["content"])]


def test_one_pair_that_is_the_whole_file():
    row = {"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}
    assert read_preferences(save(json.dumps(row), "a.json")) == [Preference([USER], ANSWER["content"], "b")]


@pytest.mark.parametrize(("text", "said"), [
    ('{\n"prompt": "q"\n}\n{\n"prompt": \n}', "row 2: broken JSON (Expecting value in line 6)"),
    ('{"prompt": ["q", "r"], "completion": ["a"]}', "its columns have unlike numbers of rows (prompt 2, completion 1); write a list"),
    ('{"train": [{"prompt": "q"}], "test": [{"prompt": "r"}]}', "holds several lists of rows, train, test; write each into a file of its own"),
    ('{"prompt": "q", "completion": "a"}\n3', "row 2: is a number, not an object"),
    ('[["q", "a"]]', "row 1: is a list, not an object with columns"),
    ('{"prompt": "q", "completion": NaN}', "row 1: 'completion' is missing"),
    ('{"prompt": NaN, "completion": "a"}', "row 1: 'prompt' is missing"),
])
def test_what_a_json_file_cannot_mean_is_refused(text, said):
    assert said in refused(read_demonstrations, save(text, "a.json"))
