"""Minimal pairs from files, folders and a Hub, under the names that public sets give them."""

import gzip
import json
import os
import subprocess
import sys

import pandas
import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.evaluation.tax.minimal_pairs import MinimalPair, read_minimal_pairs
from tests import hub
from tests.test_house import ROOT

BLIMP = {"sentence_good": "She runs.", "sentence_bad": "She run.", "field": "morphology", "UID": "agreement", "pair_id": 0}


def lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("row, paradigm", [
    ({"good": "She runs.", "bad": "She run."}, "all"), ({"good": "She runs.", "bad": "She run.", "paradigm": "agreement"}, "agreement"),
    (BLIMP, "agreement"), ({"sen": "She runs.", "wrong_sen": "She run.", "phenomenon": "SV"}, "SV"),
    ({"good_sentence": "She runs.", "bad_sentence": "She run.", "type": "a"}, "a"), ({"good": "She runs.", "bad": "She run.", "paradigm": None}, "all")])
def test_columns_of_public_sets(tmp_path, row, paradigm):
    (tmp_path / "a.jsonl").write_text(lines([row]))
    assert read_minimal_pairs(str(tmp_path / "a.jsonl")) == [MinimalPair("She runs.", "She run.", paradigm)]


def test_a_folder_is_a_paradigm_a_file(tmp_path):
    row = {"good": "a b", "bad": "b a"}
    (tmp_path / "first.jsonl").write_text(lines([row, row]))
    with gzip.open(tmp_path / "second.jsonl.gz", "wt") as file:
        file.write(lines([row]))
    (tmp_path / "third").mkdir()
    pandas.DataFrame([row]).to_parquet(tmp_path / "third" / "train-00000-of-00001.parquet")
    (tmp_path / "fourth.csv").write_text("good,bad,UID\na b,b a,named\n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jsonl").write_text("broken")
    (tmp_path / "README.md").write_text("no pairs")
    (tmp_path / "infos.json").write_text('{"features": 3}')
    pairs = read_minimal_pairs(str(tmp_path))
    assert [pair.paradigm for pair in pairs] == ["first", "first", "named", "second", "third"]
    assert pairs.notes == ["files that hold no pairs and are not used: infos.json"]
    assert [pair.paradigm for pair in read_minimal_pairs(str(tmp_path), limit=1)] == ["first", "named", "second", "third"]
    assert read_minimal_pairs(str(tmp_path), subsets=["second", "third"]).paradigms == ["second", "third"]
    with pytest.raises(UserError, match="has no pairs named 'fifth'; choose from first, named, second, third"):
        read_minimal_pairs(str(tmp_path), subsets=["fifth"])


@pytest.mark.parametrize("rows, says", [
    ([{"text": "a"}], "holds no minimal pairs, its columns are text; name the columns good and bad"),
    ([{"good": "a", "bad": 3}], "row 1: 'bad' is a number; write a text"),
    ([{"good": "a", "bad": ""}], "row 1: 'bad' is empty; fill it in, or take the row out"),
    ([{"good": "a", "bad": "a"}], "row 1: 'good' and 'bad' are the same text; write two that differ"),
    ([], "holds no rows")])
def test_flawed_files_are_refused_in_one_line(tmp_path, rows, says):
    (tmp_path / "a.jsonl").write_text(lines(rows))
    with pytest.raises(UserError) as caught:
        read_minimal_pairs(str(tmp_path / "a.jsonl"))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_rare_flaw_is_skipped_and_told(tmp_path):
    good = {"good": "a b", "bad": "b a"}
    (tmp_path / "a.jsonl").write_text(lines([good] * 60 + [{"good": "a", "bad": "a"}]))
    pairs = read_minimal_pairs(str(tmp_path / "a.jsonl"))
    assert len(pairs) == 60 and "1 rows are skipped, the first is row 61" in pairs.notes[0]


def test_no_file_and_no_pairs_in_a_folder(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        read_minimal_pairs(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="the name of the data is empty"):
        read_minimal_pairs("")
    with pytest.raises(UserError, match="a folder has no splits; leave --split out"):
        read_minimal_pairs(str(tmp_path), split="test")
    with pytest.raises(UserError, match="holds no file of pairs"):
        read_minimal_pairs(str(tmp_path))
    (tmp_path / "a.jsonl").write_text(lines([{"text": "a"}]))
    with pytest.raises(UserError, match="no file in it holds pairs"):
        read_minimal_pairs(str(tmp_path))


def test_the_bundled_pairs():
    pairs = read_minimal_pairs("bundled")
    assert len(pairs.paradigms) >= 8 and len(pairs) >= 100 and len({pair.good for pair in pairs}) == len(pairs)
    assert all(len(read_minimal_pairs("bundled", subsets=[name])) == 12 for name in pairs.paradigms)


READER = """
import json, sys
from rlhf_engine import UserError
from rlhf_engine.evaluation.tax.minimal_pairs import read_minimal_pairs
for source, options in json.loads(sys.argv[1]):
    try:
        pairs = read_minimal_pairs(source, **options)
        answer = [[pair.paradigm for pair in pairs], pairs.notes]
    except UserError as error:
        answer = str(error)
    print(json.dumps(answer))
"""


def test_all_subsets_of_a_set_on_the_hub_are_read(tmp_path):
    card = ("---\nconfigs:\n" + "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("island", "number"))
            + "---\n").encode()
    row = {"sentence_good": "a b", "sentence_bad": "b a"}
    files = {"README.md": card, "island.jsonl": lines([{**row, "UID": "island"}] * 2).encode(), "number.jsonl": lines([row]).encode()}
    server = hub.serve({"datasets/nyu/blimp": files, "datasets/me/one": {"train.jsonl": lines([row]).encode()}})
    environment = os.environ | hub.settings(server, tmp_path) | {"PYTHONPATH": str(ROOT)}

    def ask(*questions):
        done = subprocess.run([sys.executable, "-c", READER, json.dumps(questions)], cwd=tmp_path, check=True, env=environment,
                              capture_output=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    everything, one, wrong, single = ask(("nyu/blimp", {}), ("nyu/blimp", {"subsets": ["number"]}), ("nyu/blimp", {"subsets": ["verb"]}),
                                         ("me/one", {}))
    assert everything == [["island", "island", "number"], []] and one == [["number"], []] and single == [["all"], []]
    assert wrong == "nyu/blimp: has no pairs named 'verb'; choose from island, number"
    hub.stop(server)
    cached, missing = ask(("nyu/blimp", {}), ("nyu/other", {}))
    assert cached == [["island", "island", "number"], ["the Hub cannot be reached, so of nyu/blimp there are only the subsets that are cached",
                                                       "the Hub cannot be reached, these rows are from the copy cached last"]]
    assert missing == "nyu/other: the Hub cannot be reached and no copy is here; check the network, or give a file"
