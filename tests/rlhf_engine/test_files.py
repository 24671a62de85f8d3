"""Files: written whole or not at all, with the permissions that were asked for, and no leftovers."""

import json
import os
import stat

import pytest

from rlhf_engine.errors import UserError
from rlhf_engine.files import (
    ASSETS,
    PROJECT,
    atomic_file,
    atomic_folder,
    check_place,
    json_lines,
    read_json,
    read_json_or_none,
    write_json,
    write_text,
)


def test_the_project_is_where_its_packages_and_assets_are():
    assert (PROJECT / "rlhf_engine" / "files.py").is_file() and (ASSETS / "css" / "playground.css").is_file()


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with atomic_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "out"
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), atomic_folder(path) as folder:
            (folder / "half").write_text("x")
            raise error
        assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out").mkdir()  # what a killed process has left
    (tmp_path / ".out" / "half").write_text("x")
    path.mkdir()  # an empty folder may be there
    with atomic_folder(path) as folder:
        (folder / "whole").write_text("x")
    assert list(tmp_path.iterdir()) == [path] and [file.name for file in path.iterdir()] == ["whole"]
    with pytest.raises(OSError), atomic_folder(path) as folder:
        (folder / "other").write_text("x")
    assert [file.name for file in path.iterdir()] == ["whole"] and list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_secret_is_readable_by_its_owner_alone_from_the_first_byte(tmp_path):
    write_json(tmp_path / "key.json", {"key": 1}, mode=0o600)
    assert stat.S_IMODE((tmp_path / "key.json").stat().st_mode) == 0o600
    write_text(tmp_path / "open.txt", "x")
    plain = tmp_path / "plain.txt"
    plain.write_text("x")
    assert (tmp_path / "open.txt").stat().st_mode == plain.stat().st_mode


def test_a_broken_file_of_ours_is_an_error_and_one_of_others_is_none(tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match="property name"):
        read_json(broken)
    assert read_json_or_none(broken) is None
    missing = tmp_path / "missing.json"
    assert read_json(missing) is None and read_json(missing, {}) == {} and read_json_or_none(missing) is None
    with pytest.raises(OSError):
        read_json(tmp_path)
    assert read_json_or_none(tmp_path) is None


def test_a_folder_can_be_made_anywhere_but_below_a_file(tmp_path):
    check_place(tmp_path / "new" / "deeper")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is no folder in which you may write"):
        check_place(tmp_path / "file" / "new")


def test_json_that_is_written_can_be_read_by_everybody(tmp_path):
    """Half of a character came out of a damaged file, and could not be written again."""
    write_text(tmp_path / "rows.jsonl", json_lines([{"text": "caf\u00e9 \ud800", "loss": float("nan")}, {"text": "\u2603"}]))
    text = (tmp_path / "rows.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [{"text": "caf\u00e9 \ud800", "loss": None}, {"text": "\u2603"}]
    assert "\u2603" in text and "\\ud800" in text
