"""Held-out texts: tables, plain files, and the stories that are bundled."""

import gzip
import json

import pytest

from rlhf_engine.data.examples import Demonstration
from rlhf_engine.data.readers import read_demonstrations
from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax.texts import read_texts


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_tables_with_a_text(tmp_path):
    texts = read_texts(write(tmp_path / "a.jsonl", [{"source": "x", "text": "One."}, {"source": "y", "text": "Two."}]))
    assert texts == [Demonstration("", "One."), Demonstration("", "Two.")] and texts.remarks == ["columns that are not used: source"]
    assert len(read_texts(write(tmp_path / "a.jsonl", [{"text": "One."}] * 3), limit=2)) == 2
    story = read_texts(write(tmp_path / "b.jsonl", [{"story": "One."}]))
    assert story == [Demonstration("", "One.")] and story.notes == ["the column story is read as the text"]
    answers = read_texts(write(tmp_path / "c.jsonl", [{"prompt": "q", "completion": "a"}]))
    assert answers == [Demonstration("q", "a")]


def test_plain_files(tmp_path):
    (tmp_path / "a.txt").write_text("One story.\nIt goes on.\n<|endoftext|>\nAnother.\n\n<|endoftext|>\n")
    texts = read_texts(str(tmp_path / "a.txt"))
    assert texts == [Demonstration("", "One story.\nIt goes on."), Demonstration("", "Another.")] and not texts.notes
    with gzip.open(tmp_path / "b.txt.gz", "wt") as file:
        file.write("A whole book.\n\nIn two parts.")
    book = read_texts(str(tmp_path / "b.txt.gz"))
    assert len(book) == 1 and "no interval" in book.notes[0]


@pytest.mark.parametrize("name, content, says", [
    ("a.jsonl", '{"question": "q"}\n', "holds no texts, its columns are question; name the one that holds them text"),
    ("a.jsonl", '{"story": "q", "article": "b"}\n', "holds no texts"), ("a.txt", " \n", "holds no text; fill it"),
    ("a.jsonl", '{"text": 3}\n', "row 1: 'text' is a number"), ("a.jsonl", '{"story": ""}\n', "leaves nothing to use"),
    ("a.txt", b"\xff\xff", "is not UTF-8 text"), ("a.jsonl", "", "holds no rows")])
def test_what_holds_no_texts_is_refused_in_one_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError) as caught:
        read_texts(str(tmp_path / name))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files(tmp_path):
    (tmp_path / "a.txt").write_text("One.")
    with pytest.raises(UserError, match="a file has no subsets or splits; leave --subset and --split out"):
        read_texts(str(tmp_path / "a.txt"), split="test")
    for name in ("none.txt", "none.jsonl", "none"):
        with pytest.raises(UserError, match="there is no such file"):
            read_texts(str(tmp_path / name))


def test_the_bundled_stories_are_no_demonstrations():
    stories = read_texts("bundled")
    assert stories == read_texts("bundled-heldout") and len(stories) >= 100 and not stories.remarks
    texts = {story.completion for story in stories}
    assert len(texts) == len(stories) and all(text.isascii() and len(text.split()) >= 30 for text in texts)
    assert not texts & {row.completion for row in read_demonstrations("bundled")}
